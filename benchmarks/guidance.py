"""Following, likeness to real pictures and variety of what models draw on scenes as guidance rises: a table, a plot.

    python benchmarks/guidance.py runs/glide runs/dalle1-scenes --clip runs/dalle1-scenes/clip --out runs/guidance
    python benchmarks/guidance.py runs/adm runs/gan --option gradient_guidance --scales 0 1 2 4 8 \
        --clip runs/dalle1-scenes/clip --out runs/guidance-adm

Prompts are captions (of a model for classes: classes) that at least two scenes of the source have. A model draws
twice for each, and is held against the two scenes. Following is as `pinxit evaluate` has it. The distance of features
is Fréchet's, by CLIP, over all pictures. Variety is one minus the cosine of the features of the two pictures of a
prompt, as a share of that of its two scenes. Sharpness is what share of its range of
colours a picture crosses at its steepest edges, beside that of real ones. Exchanged are pictures that show two things
with each other's colours, or each at the other's place. A model without the option is one point; DALL·E 2 is drawn by
each of its priors and by none, and by its first without the text for the decoder. Repeating goes on where it stopped.
Writes results.json, plot.png and samples.png into OUT.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import torch
from equal_minutes import kept, sheet
from matplotlib import pyplot
from PIL import Image
from torch import Tensor

import pinxit
from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import fingerprint
from pinxit.data.images import fit, to_tensor
from pinxit.data.pairs import open_pairs
from pinxit.data.sample import Pairs
from pinxit.data.scene_world import CATEGORIES, OPPOSITE, Ask, Thing
from pinxit.errors import PinxitError
from pinxit.evaluation.best_of import APART, AT_ONCE, Painter
from pinxit.evaluation.distances import frechet
from pinxit.evaluation.following import following
from pinxit.systems.clip import CLIPSystem, load_clip
from pinxit.systems.dalle2 import NO_PRIOR, DALLE2System
from pinxit.systems.system import Settings

Prompt = tuple[str, Ask, tuple[int, int]]
"""What is asked for, and two scenes of the source that show it."""

WORDLESS = "decoder without text"
"""A way to draw by DALL·E 2, and its name."""

SIDE = 64
"""Pixels of real scenes."""

EDITION = 3
"""Of what is measured, which results are not kept beyond."""

mpl.use("agg")


def prompts_of(pairs: Pairs, count: int, *, classes: bool) -> list[Prompt]:
    """At most `count` of each category, spread over all that two scenes have in common."""
    waiting: dict[str, int] = {}
    found: dict[str, list[Prompt]] = defaultdict(list)
    for index in range(len(pairs)):
        meta = pairs.meta_at(index)
        if classes and meta["class"] == "several":
            continue
        text = meta["class"] if classes else pairs.captions_at(index)["short"][0]
        if (other := waiting.pop(text, None)) is None:
            waiting[text] = index
            continue
        colour, _, shape = meta["class"].partition(" ")
        ask = Ask("colors", (Thing(shape, colour),)) if classes else Ask.from_json(meta["ask"])
        found[ask.category].append((text, ask, (other, index)))
    return [
        some[i * len(some) // least]
        for some in found.values()
        for least in [min(count, len(some))]
        for i in range(least)
    ]


def exchanged(pictures: list[Image.Image], asks: list[Ask]) -> dict[str, float]:
    """The shares of pictures that show two things with each other's colours, or in the opposite relation.

    A picture with further things may show both that and what was asked.
    """
    mixed = [(picture, other) for picture, ask in zip(pictures, asks, strict=True) if (other := exchange(ask))]
    if not mixed:
        return {}
    judged = following(*zip(*mixed, strict=True))
    return {name: judged.share(name) for name in judged.judged}


def exchange(ask: Ask) -> Ask | None:
    """The opposite relation, or two things with each other's colours; None where neither is asked for."""
    if ask.relation:
        return replace(ask, relation=OPPOSITE[ask.relation])
    if ask.category != "color_attr":
        return None
    one, two = ask.things
    return replace(ask, things=(replace(one, colour=two.colour), replace(two, colour=one.colour)))


def variety(features: Tensor) -> float:
    """Mean distance of neighbouring rows, 2p d: 0 where both are alike."""
    return float(1 - (features[::2] * features[1::2]).sum(1).mean())


def sharpness(pictures: Sequence[Image.Image]) -> float:
    """How much of its range of colours a picture crosses at the steepest hundredth of its edges, on average."""
    shares = []
    for picture in pictures:
        pixels = to_tensor(fit(picture, SIDE))
        edges = torch.cat([pixels.diff(dim=axis).abs().amax(0).flatten() for axis in (1, 2)])
        span = (pixels.amax((1, 2)) - pixels.amin((1, 2))).max().clamp_min(1e-6)
        shares.append(float(edges.topk(len(edges) // 100).values.mean() / span))
    return sum(shares) / len(shares)


def measure(folder: Path, settings: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """What one model draws by one setting."""
    system, clip = opened(folder), load_clip(given.clip, "cpu")
    pairs = open_pairs(given.data, size=SIDE)
    prompts = prompts_of(pairs, given.n, classes=not system.reads_texts)
    texts = [text for text, *_ in prompts for _ in range(2)]
    asks = [ask for _, ask, _ in prompts for _ in range(2)]
    seeds = [APART * j + i for j in range(len(prompts)) for i in range(2)]
    wordless = WORDLESS in settings
    resolved = system.resolve(1, 0, cast("Settings", {key: settings[key] for key in settings if key != WORDLESS}))
    pictures: list[Image.Image] = []
    start = time.monotonic()
    for first in range(0, len(texts), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        pictures += painted(system, texts[part], seeds[part], resolved, wordless=wordless)
    seconds = time.monotonic() - start
    real = [pairs[index].image for *_, two in prompts for index in two]
    drawn, shown = features_of(clip, pictures), features_of(clip, real)
    judged = following(pictures, asks)
    return {
        "pictures": len(pictures),
        "pictures_per_second": len(pictures) / seconds,
        "following": judged.overall,
        "categories": {name: judged.share(name) for name in judged.judged},
        "exchanged": exchanged(pictures, asks),
        "distance": frechet(drawn, shown),
        "distance_of_real_halves": frechet(shown[::2], shown[1::2]),
        "variety": variety(drawn) / variety(shown),
        "sharpness": sharpness(pictures) / sharpness(real),
        "sharpness_of_real_halves": sharpness(real[::2]) / sharpness(real[1::2]),
        "resolved": {**resolved, **({WORDLESS: True} if wordless else {})},
    }


def painted(
    system: Painter, texts: list[str], seeds: Sequence[int], settings: Any, *, wordless: bool
) -> list[Image.Image]:
    """Pictures for texts, of which DALL·E 2's decoder may be told the embeddings alone."""
    if not wordless:
        return system.paint(texts, seeds, settings)
    assert isinstance(system, DALLE2System)
    return system.paint_embeddings(system.imagine(texts, seeds, settings), seeds, settings)


def features_of(clip: CLIPSystem, pictures: list[Image.Image]) -> Tensor:
    """Unit rows."""
    return torch.cat([clip.encode_image(pictures[i : i + 256]) for i in range(0, len(pictures), 256)])


def opened(folder: Path) -> Painter:
    """What draws, as fast as it can."""
    system = pinxit.load(folder, "cpu")
    assert isinstance(system, Painter)
    with contextlib.suppress(PinxitError):  # what draws in one pass is quick as it is
        system.quicken(bf16=True)
    return system


def ways_of(folder: Path, given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """What each line of the table is called -> its settings, one for each scale where the model knows the option."""
    system = opened(folder)
    fixed = {"steps": given.steps} if given.steps and "steps" in system.defaults else {}
    scales = [{given.option: scale} for scale in given.scales] if given.option in system.defaults else [{}]
    if not isinstance(system, DALLE2System):
        return {folder.name: [{**fixed, **scale} for scale in scales]}
    priors = {**{name: name for name in system.priors}, NO_PRIOR: "no"}
    ways = {
        f"{folder.name}, {called} prior": [{**fixed, "prior": prior, **scale} for scale in scales]
        for prior, called in priors.items()
    }
    return {**ways, f"{folder.name}, {WORDLESS}": [{**fixed, WORDLESS: True, **scale} for scale in scales]}


def _told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def plot(results: dict[str, list[dict[str, Any]]], option: str, path: Path) -> None:
    """Distance and variety over following; each point with its scale."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, measured, label in zip(
        axes,
        ("distance", "variety"),
        ("distance of features (lower is better)", "variety, of real scenes'"),
        strict=True,
    ):
        for name, rows in results.items():
            x, y = ([row[one] for row in rows] for one in ("following", measured))
            axis.plot(x, y, marker="o", label=name)
            for row, *point in zip(rows, x, y, strict=True):
                if option in row["resolved"]:
                    told = f"{row['resolved'][option]:g}"
                    axis.annotate(told, point, textcoords="offset points", xytext=(4, 4), fontsize=8)
        axis.set_xlabel("share of pictures that show what was asked")
        axis.set_ylabel(label)
        axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axis.grid(alpha=0.3)
    axes[1].yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, 0))
    axes[0].legend(title=option.replace("_", " "))
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def samples(
    results: dict[str, list[dict[str, Any]]], folders: dict[str, Path], given: argparse.Namespace
) -> Image.Image:
    """The same prompts and seeds by each model, at its least, middle and greatest scale."""
    rows: list[tuple[str, list[Image.Image]]] = []
    heads: list[str] = []
    for name, folder in folders.items():
        system = opened(folder)
        classes = not system.reads_texts
        each = given.columns if classes else 2  # classes are of one category
        prompts = prompts_of(open_pairs(given.data, size=SIDE), each, classes=classes)[: given.columns]
        heads = heads or [text for text, *_ in prompts]
        told = results[name]
        for row in dict.fromkeys((0, len(told) // 2, len(told) - 1)):
            resolved = told[row]["resolved"]
            settings = {key: value for key, value in resolved.items() if key != WORDLESS}
            texts, wordless = [text for text, *_ in prompts], WORDLESS in resolved
            drawn = painted(system, texts, range(len(prompts)), settings, wordless=wordless)
            scale = f" {resolved[given.option]:g}" if given.option in resolved else ""
            rows.append((f"{name}{scale}", drawn))
    return sheet(rows, heads, 96)


def by_category(results: dict[str, list[dict[str, Any]]], option: str) -> None:
    """The shares of each category, where each line of the table follows best, and of what is exchanged there."""
    best = {name: max(rows, key=lambda row: row["following"]) for name, rows in results.items()}
    columns = [
        (title, measured, name)
        for measured, title in (("categories", "{}"), ("exchanged", "{} exchanged"))
        for name in CATEGORIES
        if any(name in row.get(measured, {}) for row in best.values())
    ]
    print(f"| model | {option} | {' | '.join(title.format(name) for title, _, name in columns)} |")
    print("|---" * (2 + len(columns)) + "|")
    for name, row in best.items():
        found = [row.get(measured, {}).get(category) for _, measured, category in columns]
        shares = ["" if share is None else f"{share:.0%}" for share in found]
        print(f"| {name} | {row['resolved'].get(option, '')} | {' | '.join(shares)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="folders of models, or of runs that made one")
    parser.add_argument("--option", default="guidance", choices=("guidance", "gradient_guidance"))
    parser.add_argument("--scales", nargs="+", type=float, default=(1.0, 2.0, 3.0, 5.0, 8.0))
    parser.add_argument("--steps", type=int, help="of sampling; each model's own otherwise")
    parser.add_argument("--data", default="scenes:20000:held-in", help="where prompts and real pictures come from")
    parser.add_argument("--n", type=int, default=40, help="prompts of each category at most")
    parser.add_argument("--columns", type=int, default=10, help="of samples.png")
    parser.add_argument("--clip", type=Path, required=True, help="what sees features")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    if len({folder.name for folder in given.models}) < len(given.models):
        parser.error("two models have the same name; give links to them of different names")
    results: dict[str, list[dict[str, Any]]] = {}
    folders: dict[str, Path] = {}
    for folder in given.models:
        for name, ways in ways_of(folder, given).items():
            results[name], folders[name] = [], folder
            for settings in ways:
                model, clip = (fingerprint(catalogue.find(path).folder) for path in (folder, given.clip))
                asked = {"model": model, "clip": clip, "settings": settings, "data": given.data}
                asked |= {"n": given.n, "edition": EDITION}
                told = "-".join([folder.name, *(f"{option}-{_told(value)}" for option, value in settings.items())])
                (given.out / told).mkdir(parents=True, exist_ok=True)
                results[name].append(kept(given.out / told, asked, partial(measure, folder, settings, given)))
    (given.out / "results.json").write_text(json.dumps(results, indent=2))
    plot(results, given.option, given.out / "plot.png")
    samples(results, folders, given).save(given.out / "samples.png")
    print(f"| model | {given.option} | followed | distance of features | variety | sharpness | pictures/s |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in results.items():
        for row in rows:
            scale = row["resolved"].get(given.option, "")
            print(
                f"| {name} | {scale} | {row['following']:.1%} | {row['distance']:.3f} | {row['variety']:.0%} | "
                f"{row['sharpness']:.0%} | {row['pictures_per_second']:.1f} |"
            )
    print()
    by_category(results, given.option)
    first = next(iter(results.values()))[0]
    print(
        f"The two halves of the real scenes lie {first['distance_of_real_halves']:.3f} apart, and one is "
        f"{first['sharpness_of_real_halves']:.0%} as sharp as the other."
    )


if __name__ == "__main__":
    main()
