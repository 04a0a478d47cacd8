"""Tokens a second of every network that draws codes, at its recipe's size, and how near that is to the memory's speed.

    python benchmarks/priors.py [--compile] [--rounds 3] [--json FILE]

Random weights. A transformer that tells one code after the other has to read its matrices once a code, whatever the
number of pictures; the limit is how often the memory can be read so in a second, times the pictures drawn at once. One
that tells all at once reads them once a step. PixelCNN has no such limit: it reads part of its weights once a row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pinxit.models import pixelcnn
from pinxit.models.token_transformer import TokenTransformer
from pinxit.recipes.catalogue import find
from pinxit.recipes.recipe import Recipe
from pinxit.systems.system import Settings
from pinxit.systems.token_drawing import DEFAULTS, PRIORS, STEPS, TokenDrawer, prior_kind

RECIPES = ("dalle1-transformer", "taming-transformer", "maskgit-transformer")
PIPELINES = {"pixelcnn": "prior", "pixelcnn2": "prior", "igpt": "transformer"}


def configs() -> dict[str, Any]:
    """Each network's config, by the recipe that has it."""
    found: dict[str, Any] = {}
    for name in RECIPES:
        recipe = find(name)
        assert isinstance(recipe, Recipe)
        found[name] = recipe.model
    for name, stage in PIPELINES.items():
        found[name] = find(name).stages[stage].model  # type: ignore[attr-defined]
    return found


def memory_speed() -> float:
    """Bytes a second that summing 1 GiB reads."""
    numbers = torch.ones(2**28)
    numbers.sum()
    return 2**30 / min(timed(numbers.sum) for _ in range(3))


def timed(run: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(config: Any, rows: int, rounds: int, read: float, **quick: bool) -> dict[str, float]:
    """Tokens a second, and the share of the limit."""
    torch.manual_seed(0)
    network = PRIORS[prior_kind(config)].network(config)
    drawer = TokenDrawer.ready(network, torch.device("cpu"))
    drawer.quicken(**quick)
    conditions = network.no_condition(rows)
    settings = Settings(**{**DEFAULTS, "guidance": 1.0})

    def draw() -> None:
        drawer.draw(conditions, range(rows), settings)

    draw()
    seconds = statistics.median(timed(draw) for _ in range(rounds))
    tokens = rows * config.image_length
    made = {"tokens/s": tokens / seconds}
    if isinstance(network, TokenTransformer):
        matrices = [*network.transformer.parameters(), *network.image_head.parameters()]
        size = sum(value.numel() for value in matrices) * (2 if quick.get("bf16") else 4)
        reads = STEPS if config.order == "masked" else config.image_length
        made["share"] = reads * size / read / seconds
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="through torch.compile as well, where that goes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    read, rows = memory_speed(), []
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, memory read at {read / 1e9:.0f} GB/s")
    print("| network | parameters | pictures at once | precision | tokens/s | share of the limit |")
    print("|---|---|---|---|---|---|")
    for name, config in configs().items():
        with torch.device("meta"):
            parameters = sum(value.numel() for value in PRIORS[prior_kind(config)].network(config).parameters())
        ways: dict[str, dict[str, bool]] = {"float32": {}, "bf16": {"bf16": True}}
        if given.compile and not isinstance(config, pixelcnn.PixelCNNConfig):
            ways["float32, compiled"] = {"compile": True}
        for way, quick in ways.items():
            for count in (1, 8):
                made = measure(config, count, given.rounds, read, **quick)
                share = f"{made['share']:.0%}" if "share" in made else ""
                rows.append({"network": name, "rows": count, "way": way, **made})
                print(
                    f"| {name} | {parameters / 1e6:.1f} M | {count} | {way} | {made['tokens/s']:.0f} | {share} |",
                    flush=True,
                )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
