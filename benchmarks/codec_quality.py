"""Every codec, trained on the same pictures for the same minutes, side by side: a table, a picture, a curve.

    python benchmarks/codec_quality.py --data TRAIN --test TEST --minutes 8 --out runs/codecs

Each recipe is first run for a few steps, which tells how many fit into the minutes; those that a discriminator joins
are run with it and without. Milestones (the discriminator's start, the end of annealing) are moved in proportion.
Repeating the command goes on where it stopped. Writes results.json, reconstructions.png (the same 8 pictures through
each) and curve.png (the likeness on held-back pictures as the discriminator starts) into OUT.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from equal_minutes import PACE, Training, evaluated, kept, sheet
from PIL import Image, ImageDraw, ImageFont

import pinxit
from pinxit.data.images import fit, to_tensor
from pinxit.data.pairs import open_pairs
from pinxit.objectives.adversarial import AdversaryConfig
from pinxit.objectives.bottlenecks import GaussianConfig, GumbelConfig, NearestConfig
from pinxit.recipes.catalogue import find
from pinxit.recipes.recipe import Recipe
from pinxit.systems.codec import Codec

NAMES = ("palette", "vae", "kl", "vqvae", "vqvae2", "dalle1-dvae", "vqgan", "vqgan-gumbel")
SIZE = 64
NUMBERS = {"bits_per_pixel": 3, "psnr": 2, "ssim": 3, "perceptual": 4, "feature_distance": 4}
"""Columns of the table, and how many digits they have."""


def recipe_of(name: str) -> Recipe:
    """The recipe by its name."""
    recipe = find(name)
    assert isinstance(recipe, Recipe)
    return recipe


def milestones(name: str, steps: int) -> list[str]:
    """The recipe's moments, in proportion to the steps."""
    recipe = recipe_of(name)
    share = steps / recipe.training.steps
    found: dict[str, int] = {}
    if isinstance(recipe.objective.adversary, AdversaryConfig):
        found |= {f"adversary.{key}": getattr(recipe.objective.adversary, key) for key in ("start", "alone", "warmup")}
        found["perceptual_start"] = recipe.objective.perceptual_start
    bottleneck = recipe.objective.bottleneck
    if isinstance(bottleneck, GumbelConfig):
        found |= {f"bottleneck.{key}": getattr(bottleneck, key) for key in ("kl_warmup", "anneal", "continuous")}
    elif isinstance(bottleneck, GaussianConfig):
        found["bottleneck.kl_warmup"] = bottleneck.kl_warmup
    else:
        assert isinstance(bottleneck, NearestConfig)
    return [f"objective.{key}={max(1, round(value * share)) if value else 0}" for key, value in found.items()]


def seconds_a_step(name: str, given: argparse.Namespace, late: bool) -> float:
    """With all that comes `late` from the first step on, or without it."""
    settings, recipe = [], recipe_of(name)
    if recipe.objective.adversary:
        names = ("perceptual_start", "adversary.start", "adversary.alone", "adversary.warmup")
        settings = [f"objective.{key}={0 if late else PACE}" for key in names]
    out = given.out / "pace" / f"{name}-{'late' if late else 'early'}"
    return training(given).seconds_a_sample(name, out, settings) * recipe.training.batch_size


def training(given: argparse.Namespace) -> Training:
    """How all are trained."""
    return Training(given.data, given.processes)


def steps_in(name: str, given: argparse.Namespace) -> int:
    """How many steps of a recipe fit into the minutes."""
    recipe, early = recipe_of(name), seconds_a_step(name, given, late=False)
    if not recipe.objective.adversary:
        return int(given.minutes * 60 / early)
    share = recipe.objective.adversary.start / recipe.training.steps
    return int(given.minutes * 60 / (share * early + (1 - share) * seconds_a_step(name, given, late=True)))


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Trains a recipe and measures what came out on pictures that it has not seen."""
    out, settings, steps = given.out / name, [f"model.size={SIZE}"], None
    if name != "palette":
        steps = steps_in(name, given)
        often = f"training.validate_every={max(1, steps // 30)}"
        settings = [f"training.steps={steps}", often, *milestones(name, steps)]
    seconds = training(given).run(name, out, settings)
    return {
        "steps": steps,
        "minutes": seconds / 60,
        "parameters": sum(p.numel() for p in pinxit.load(out, "cpu").network.parameters()),
        **evaluated(out, given.test, out / "fidelity.json")["codec"],
        "images_per_second": speed(out),
    }


def speed(folder: Path) -> float:
    """Pictures a second to codes and back, 32 at once, without opening files."""
    codec = pinxit.load(folder, "cpu")
    assert isinstance(codec, Codec)
    pixels = torch.rand(32, 3, SIZE, SIZE).mul(2).sub(1).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        codec.autoencoder.decode(codec.autoencoder.encode(pixels))
        start, rounds = time.monotonic(), 0
        while time.monotonic() - start < 5:
            codec.autoencoder.decode(codec.autoencoder.encode(pixels))
            rounds += 1
    return rounds * len(pixels) / (time.monotonic() - start)


def fine_detail(codec: Codec, pictures: list[Image.Image]) -> float:
    """The energy of brightness between 2 and 4 pixels a wave, as a share of the pictures' own: less is blur."""

    def energy(images: list[Image.Image]) -> float:
        grey = torch.stack([to_tensor(image).mean(0) for image in images])
        waves = torch.fft.rfft2(grey).abs().square()
        rate = torch.hypot(torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE)[None])
        return float(waves[:, (rate >= 1 / 4) & (rate < 1 / 2)].mean())

    return energy(codec.reconstruct(pictures)) / energy(pictures)


def curve(log: Path, start: float, wide: int = 640, high: int = 260) -> Image.Image:
    """PSNR on held-back pictures over the steps; a line marks the discriminator's first word."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    points = [(row["step"], row["validation/psnr"]) for row in rows if "validation/psnr" in row]
    least, most = min(y for _, y in points), max(y for _, y in points)
    whole, left, below = Image.new("RGB", (wide, high), "white"), 50, 30
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(13)

    def at(step: float, psnr: float) -> tuple[float, float]:
        x = left + (wide - left - 10) * step / points[-1][0]
        return x, (high - below - 10) * (1 - (psnr - least) / (most - least)) + 5

    pen.line([at(start, least), at(start, most)], "red", 1)
    pen.text((at(start, least)[0] + 4, high - below - 20), "the discriminator takes part", "red", font)
    pen.line([at(*point) for point in points], "black", 2)
    for value in (least, most):
        pen.text((4, at(0, value)[1] - 6), f"{value:.1f} dB", "black", font)
    pen.text((left, high - 20), "0", "black", font)
    pen.text((wide - 90, high - 20), f"{points[-1][0]} steps", "black", font)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="pictures to train on")
    parser.add_argument("--test", required=True, help="others, to measure on")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    asked = {"data": given.data, "test": given.test, "minutes": given.minutes, "processes": given.processes}
    results = [kept(given.out / name, asked, partial(measure, name, given)) for name in given.only]
    pairs = open_pairs(given.test, size=SIZE)
    many = [fit(pairs[i * len(pairs) // 256].image, SIZE) for i in range(256)]
    rows = [("", many[::32])]
    for result in results:
        codec = pinxit.load(given.out / result["name"], "cpu")
        assert isinstance(codec, Codec)
        rows.append((result["name"], codec.reconstruct(many[::32])))
        result["fine_detail"] = fine_detail(codec, many)
    sheet(rows).save(given.out / "reconstructions.png")
    (given.out / "results.json").write_text(json.dumps(results, indent=2))
    if "vqgan" in given.only:
        adversary = json.loads((given.out / "vqgan" / "recipe.json").read_text())["recipe"]["objective"]["adversary"]
        curve(given.out / "vqgan" / "log.jsonl", adversary["start"] + adversary["alone"]).save(given.out / "curve.png")
    print(
        "| codec | bits per pixel | PSNR | SSIM | perceptual | features | fine detail | codes used | images/s | steps |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in results:
        used = "" if row["codes_used"] is None else f"{row['codes_used']:.0%} of {row['codes']:,}"
        cells = [
            row["name"],
            *(f"{row[key]:.{digits}f}" for key, digits in NUMBERS.items()),
            f"{row['fine_detail']:.0%}",
            used,
            f"{row['images_per_second']:.0f}",
            row["steps"] or "",
        ]
        print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
