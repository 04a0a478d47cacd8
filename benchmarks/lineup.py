"""The same prompts, upper halves of pictures or parts to paint anew, by several models, one below the other.

    python benchmarks/lineup.py lineup.png --models runs/taming runs/maskgit runs/igpt --prompts examples/prompts.txt
    python benchmarks/lineup.py halves.png --models runs/taming runs/maskgit runs/igpt --complete my-pictures/
    python benchmarks/lineup.py edits.png --models runs/inpaint runs/dalle2 --edit edits.jsonl

Every line of edits.jsonl names a picture, beside it, the box to paint anew in shares of its width and height, and what
with: {"image": "cat.png", "box": [0, 0, 1, 0.3], "prompt": "a top hat"}.

A model that reads no texts draws the class that is named, or whatever it likes, and completes what it is shown after
nothing.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from equal_minutes import sheet
from PIL import Image, ImageDraw

import pinxit
from pinxit.data.images import fit, opaque, open_image
from pinxit.data.pairs import open_pairs
from pinxit.data.sample import Sample
from pinxit.errors import PinxitError
from pinxit.systems.conditions import LabelCondition


def drawn(systems: dict[str, Any], prompts: list[str], given: argparse.Namespace) -> dict[str, list[Image.Image]]:
    """Each prompt by each model, with a seed of its own."""
    return {
        name: [
            picture.image
            for i, prompt in enumerate(prompts)
            for picture in system.generate(read(system, prompt), 1, seed=given.seed + i, **asked(system, given))
        ]
        for name, system in systems.items()
    }


def completed(
    systems: dict[str, Any], samples: list[Sample], given: argparse.Namespace
) -> dict[str, list[Image.Image]]:
    """The pictures, what is shown of them, and what each model makes of that."""
    whole = [fit(opaque(sample.image), 128) for sample in samples]
    halves = [image.copy() for image in whole]
    for image in halves:
        image.paste((128, 128, 128), (0, 64, 128, 128))
    rows = {"picture": whole, "shown": halves}
    for name, system in systems.items():
        rows[name] = []
        for i, sample in enumerate(samples):
            told = read(system, head(sample))
            rows[name] += [
                made.image
                for made in system.complete(sample.image, told, 1, seed=given.seed + i, **asked(system, given))
            ]
    return rows


def edited(
    systems: dict[str, Any], wishes: list[dict[str, Any]], beside: Path, given: argparse.Namespace
) -> dict[str, list[Image.Image]]:
    """The pictures, what is to be painted of them, and what each model paints."""
    whole = [fit(open_image(beside / wish["image"]), 256) for wish in wishes]
    masks = [Image.new("L", image.size, 0) for image in whole]
    for mask, wish in zip(masks, wishes, strict=True):
        left, top, right, bottom = (256 * share for share in wish["box"])
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), 255)
    grey = Image.new("RGB", (256, 256), (128, 128, 128))
    shown = [Image.composite(grey, image, mask) for image, mask in zip(whole, masks, strict=True)]
    rows = {"picture": whole, "shown": shown}
    for name, system in systems.items():
        rows[name] = [
            made.image
            for i, (image, mask, wish) in enumerate(zip(whole, masks, wishes, strict=True))
            for made in system.edit(image, mask, wish["prompt"], 1, seed=given.seed + i, **asked(system, given))
        ]
    return rows


def read(system: Any, text: str) -> str:
    """What a model is asked for: the text; the class that it names; nothing, where the model knows neither."""
    if system.reads_texts:
        return text
    classes = system.condition.labels if isinstance(system.condition, LabelCondition) else ()
    return max((name for name in classes if re.search(rf"\b{re.escape(name)}\b", text)), key=len, default="")


def asked(system: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Candidates, where the model has a CLIP to choose among them."""
    return {"rerank": given.rerank} if given.rerank and "rerank" in system.defaults and system.clip else {}


def head(sample: Sample) -> str:
    """The first thing that is said of a picture."""
    return next((text for texts in sample.captions.values() for text in texts), "")


def counted(text: str) -> int:
    """A whole number from 1 on."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def draw(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """The sheet that was asked for."""
    systems = {Path(model).name: pinxit.load(model) for model in given.models}
    if len(systems) < len(given.models):
        parser.error("two models have the same name; give links to them of different names")
    if given.prompts:
        lines = [line.strip() for line in given.prompts.read_text(encoding="utf-8").splitlines()]
        heads = [line for line in lines if line][: given.count]
        rows = drawn(systems, heads, given)
    elif given.edit:
        wishes = [json.loads(line) for line in given.edit.read_text(encoding="utf-8").splitlines()][: given.count]
        if odd := [wish for wish in wishes if not {"image", "box", "prompt"} <= wish.keys()]:
            parser.error(f"{given.edit} has a line without image, box or prompt: {json.dumps(odd[0])}")
        heads, rows = [wish["prompt"] for wish in wishes], edited(systems, wishes, given.edit.parent, given)
    else:
        pairs = open_pairs(given.complete, size=128)
        count = min(given.count, len(pairs))
        samples = [pairs[i * len(pairs) // count] for i in range(count)]
        heads, rows = [head(sample) for sample in samples], completed(systems, samples, given)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(list(rows.items()), heads, given.side).save(given.out)
    print(given.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--prompts", type=Path, help="a file of one prompt a line")
    parser.add_argument("--complete", metavar="SRC", help="pictures whose upper halves are shown")
    parser.add_argument("--edit", type=Path, metavar="JSONL", help="pictures, boxes and what to paint there")
    parser.add_argument("--count", type=counted, default=12, help="of prompts or pictures")
    parser.add_argument("--rerank", type=counted, help="candidates, where a model has a CLIP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=counted, default=80, help="pixels a picture is shown at")
    given = parser.parse_args()
    if sum(what is not None for what in (given.prompts, given.complete, given.edit)) != 1:
        parser.error("give --prompts, --complete or --edit")
    if given.out.suffix != ".png":
        parser.error(f"{given.out} does not end in .png")
    try:
        draw(parser, given)
    except (PinxitError, OSError, ValueError, KeyError) as fault:
        parser.error(str(fault))


if __name__ == "__main__":
    main()
