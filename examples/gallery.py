"""A page of prompts, each under the best of several candidates: how the pictures in docs/ are made.

    python examples/gallery.py examples/prompts.txt docs/images/gallery.png --model dalle1-emoji --rerank 16

The prompts file has one prompt a line.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import pinxit


def page(captioned: list[tuple[Image.Image, str]], columns: int, side: int) -> Image.Image:
    """Pictures of `side` pixels with their captions below, in rows."""
    font = ImageFont.load_default(13)
    height, rows = side + 40, -(-len(captioned) // columns)
    sheet = Image.new("RGB", (columns * (side + 12) + 12, rows * height + 12), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(captioned):
        x, y = 12 + index % columns * (side + 12), 12 + index // columns * height
        sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (x, y))
        lines = textwrap.wrap(caption, side // 7)[:2]
        pen.multiline_text((x + side // 2, y + side + 3), "\n".join(lines), "black", font, anchor="ma", align="center")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="dalle1-emoji")
    parser.add_argument("--rerank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--side", type=int, default=96, help="pixels a picture is shown at")
    given = parser.parse_args()

    system = pinxit.load(given.model)
    prompts = [line.strip() for line in given.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    best = [system.generate(prompt, n=1, seed=given.seed, rerank=given.rerank)[0] for prompt in prompts]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    page([(picture.image, picture.prompt) for picture in best], given.columns, given.side).save(given.out)
    print(given.out)


if __name__ == "__main__":
    main()
