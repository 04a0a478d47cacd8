"""Networks over the same codes of drawn scenes, trained for the same minutes: how they follow texts, what they draw.

    pinxit train dalle1-scenes --data scenes:250000 --out runs/scenes
    python benchmarks/prior_quality.py --parts runs/scenes --minutes 12 --out runs/priors

Codec, codes and CLIP are those of the first command. Repeating the second goes on where it stopped. Writes results.json
and samples.png into OUT.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from equal_minutes import Training, evaluated, kept, sheet

import pinxit
from pinxit.recipes.catalogue import find
from pinxit.recipes.dalle1_scenes import CAPTIONS, PROMPTS, TRANSFORMER
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Recipe
from pinxit.systems.token_system import TokenSystem

STAGES = {
    "dalle1-scenes": ("dvae", "transformer"),
    "taming": ("codec", "transformer"),
    "maskgit": ("codec", "transformer"),
    "pixelcnn": ("codec", "prior"),
}
"""By recipe: what it calls its codec, and the network over codes."""


def steps_and_settings(name: str, given: argparse.Namespace) -> tuple[int, list[str]]:
    """How many steps fit into the minutes, and what makes networks and data alike."""
    pipeline, (_, stage) = find(name), STAGES[name]
    assert isinstance(pipeline, Pipeline)
    recipe = pipeline.stages[stage]
    assert isinstance(recipe, Recipe)
    alike: dict[str, Any] = {
        f"{stage}.data.captions": CAPTIONS,
        f"{stage}.data.prompts": PROMPTS,
        f"{stage}.model.condition_length": TRANSFORMER.condition_length,
        f"{stage}.model.condition_vocabulary": TRANSFORMER.condition_vocabulary,
    }
    if stage == "transformer":
        alike[f"{stage}.model.depth"] = TRANSFORMER.depth
    if name != "maskgit":
        alike["model.defaults"] = {"guidance": 2.0, "temperature": 0.8}
    settings = [f"{path}={json.dumps(value)}" for path, value in alike.items()]
    a_step = recipe.training.batch_size * training(given).seconds_a_sample(
        name, given.out / "pace" / name, settings, parts(name, given), stage
    )
    steps = int(given.minutes * 60 / a_step)
    warmup = round(recipe.optimizer.warmup * steps / recipe.training.steps)
    settings += [f"{stage}.training.steps={steps}", f"{stage}.training.validate_every={max(1, steps // 10)}"]
    return steps, [*settings, f"{stage}.optimizer.warmup={warmup}"]


def training(given: argparse.Namespace) -> Training:
    """How all are trained."""
    return Training(given.data, given.processes)


def parts(name: str, given: argparse.Namespace) -> dict[str, Path]:
    """What all have in common."""
    return {STAGES[name][0]: given.parts / "dvae", "clip": given.parts / "clip", "tokens": given.parts / "tokens"}


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Trains a network and lets it draw what it is asked for."""
    out = given.out / name
    steps, settings = steps_and_settings(name, given)
    seconds = training(given).run(name, out, settings, parts(name, given))
    told = evaluated(out / "model", given.test, out / "report.json", "--rerank", str(given.rerank))
    system = pinxit.load(out / "model", "cpu")
    assert isinstance(system, TokenSystem)
    start = time.monotonic()
    system.generate("a red circle", n=16, seed=0)
    return {
        "steps": steps,
        "minutes": seconds / 60,
        "pictures_per_second": 16 / (time.monotonic() - start),
        "following": told["following"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, help="a run of dalle1-scenes")
    parser.add_argument("--data", default="scenes:250000", help="what that was trained on")
    parser.add_argument("--test", default="scenes:1000:held-in", help="what is asked for")
    parser.add_argument("--minutes", type=float, default=12.0, help="of training, each")
    parser.add_argument("--rerank", type=int, default=4, help="candidates for each prompt")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=tuple(STAGES), choices=tuple(STAGES))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    names = ("data", "test", "minutes", "rerank", "processes")
    asked = {name: getattr(given, name) for name in names}
    results = [kept(given.out / name, asked, partial(measure, name, given)) for name in given.only]
    (given.out / "results.json").write_text(json.dumps(results, indent=2))
    rows = []
    for name in given.only:
        system = pinxit.load(given.out / name / "model", "cpu")
        assert isinstance(system, TokenSystem)
        rows.append((name, [system.generate(prompt, n=1, seed=1)[0].image for prompt in PROMPTS]))
    sheet(rows, PROMPTS).save(given.out / "samples.png")
    print("| network | steps | followed at once | by the best of all candidates | codec | pictures/s |")
    print("|---|---|---|---|---|---|")
    for row in results:
        followed = row["following"]
        shares = [followed["best_of"][count]["overall"] for count in ("1", str(given.rerank))]
        shares.append(followed["reconstructed"]["overall"])
        told = " | ".join(f"{share:.1%}" for share in shares)
        print(f"| {row['name']} | {row['steps']} | {told} | {row['pictures_per_second']:.1f} |")


if __name__ == "__main__":
    main()
