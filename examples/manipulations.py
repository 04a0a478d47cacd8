"""What DALL·E 2 makes of pictures, a sheet for each: how those in docs/dalle2.md are made.

    python examples/manipulations.py pictures.jsonl outputs/manipulations --model dalle2-emoji

Every line of pictures.jsonl names a picture, beside it, and what it is to turn from and into:
{"image": "cat.png", "from": "a cat", "to": "a blue cat"}. Writes variations.png, blends.png (from each picture to the
next), restyled.png and components.png (by more and more principal components of what CLIP sees; then by all of that
and the noise which gives the picture back; then the picture itself).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

import pinxit
from pinxit.data.images import fit, grid, open_image

COLUMNS = 8


def sheets(system: Any, pictures: Sequence[Image.Image], texts: Sequence[tuple[str, str]], side: int) -> Any:
    """The name of each sheet and its rows of eight pictures."""
    how = {"size": (side, side)}
    yield "variations", [[one, *images(system.vary(one, COLUMNS - 1, seed=1, **how))] for one in pictures]
    yield "blends", [images(system.blend(two, COLUMNS, **how)) for two in pairwise(pictures)]
    yield (
        "restyled",
        [
            [one, *images(system.restyle(one, *both, frames=COLUMNS - 1, strength=0.5, **how))]
            for one, both in zip(pictures, texts, strict=True)
        ],
    )
    width = system.clip.shape[0]
    counts = [0, *(max(1, round(width * share)) for share in (0.03, 0.1, 0.2, 0.4, 1))]
    yield (
        "components",
        [
            [*images(system.by_components(one, counts, **how)), *system.reconstruct(one, steps=50, **how), one]
            for one in pictures
        ],
    )


def images(made: Sequence[Any]) -> list[Image.Image]:
    return [picture.image for picture in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="dalle2-emoji")
    parser.add_argument("--side", type=int, default=64, help="pixels a picture is drawn at")
    given = parser.parse_args()

    wishes = [json.loads(line) for line in given.pictures.read_text(encoding="utf-8").splitlines() if line.strip()]
    pictures = [fit(open_image(given.pictures.parent / wish["image"]), given.side) for wish in wishes]
    texts = [(wish["from"], wish["to"]) for wish in wishes]
    given.out.mkdir(parents=True, exist_ok=True)
    for name, rows in sheets(pinxit.load(given.model), pictures, texts, given.side):
        path = given.out / f"{name}.png"
        grid([cell.resize((96, 96), Image.Resampling.LANCZOS) for row in rows for cell in row], COLUMNS).save(path)
        print(path)


if __name__ == "__main__":
    main()
