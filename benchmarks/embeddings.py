r"""What the embeddings find that DALL·E 2's priors draw for texts: pictures of the same name, among all of a source.

    python benchmarks/embeddings.py dalle2-emoji --data EMOJI --exclude "group=people & body" --exclude group=flags \
        --exclude style=openmoji
    python benchmarks/embeddings.py runs/dalle2-scenes --data scenes:5000:held-in --n 192

A text counts as found where the picture whose embedding lies nearest to the drawn one has it as its name; `within five`
counts the five nearest. `none` is the embedding of the text itself.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

import pinxit
from pinxit.data.pairs import open_pairs
from pinxit.data.sample import Pairs
from pinxit.evaluation.best_of import AT_ONCE
from pinxit.recipes.recipe import without
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.dalle2 import NO_PRIOR, DALLE2System
from pinxit.systems.system import Settings


def seen(clip: CLIPSystem, pairs: Pairs, kind: str) -> tuple[list[str], Tensor]:
    """The name of every picture that has one, and its embedding, n d."""
    index = clip.build_index(pairs)
    told = [pairs.captions_at(position).get(kind) for position in index.positions.tolist()]
    return [some[0] for some in told if some], index.rows[[bool(some) for some in told]]


def found(drawn: Tensor, texts: list[str], names: list[str], rows: Tensor) -> tuple[float, float, float]:
    """The shares of texts that the nearest picture has, and one of five; the mean cosine to the nearest that has it."""
    cosines = F.normalize(drawn, dim=1) @ rows.T
    nearest = [[names[place] for place in places] for places in cosines.topk(5, 1).indices.tolist()]
    own = [
        max(float(row[place]) for place, name in enumerate(names) if name == text)
        for row, text in zip(cosines, texts, strict=True)
    ]
    first, five = (
        sum(text in some[:count] for text, some in zip(texts, nearest, strict=True)) / len(texts) for count in (1, 5)
    )
    return first, five, sum(own) / len(own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a DALL·E 2")
    parser.add_argument("--data", required=True, help="where names and pictures come from")
    parser.add_argument("--exclude", action="append", default=[], metavar="FIELD=VALUE", help="pictures to leave out")
    parser.add_argument("--kind", default="short", help="of captions: the names")
    parser.add_argument("--n", type=int, default=192, help="texts")
    parser.add_argument("--guidance", nargs="+", type=float, default=(1.0, 2.0, 3.0), help="of the priors")
    given = parser.parse_args()

    system = pinxit.load(given.model)
    assert isinstance(system, DALLE2System)
    excluded: dict[str, list[str]] = defaultdict(list)
    for told in given.exclude:
        name, _, value = told.partition("=")
        excluded[name].append(value)
    pairs = open_pairs(given.data, size=system.clip.clip.config.vision.size)
    names, rows = seen(system.clip, without(pairs, {name: tuple(some) for name, some in excluded.items()}), given.kind)
    if not names:
        parser.error(f"no picture of {given.data} has a caption of the kind {given.kind!r}")
    texts = sorted(set(names))
    random.Random(0).shuffle(texts)
    texts = texts[: given.n]
    print(f"{len(texts)} of {len(set(names))} names among {len(names)} pictures")
    print("| prior | guidance | found | within five | cosine to the nearest of the name |")
    print("|---|---|---|---|---|")
    for prior in (*system.priors, NO_PRIOR):
        for guidance in given.guidance if prior != NO_PRIOR else (None,):
            asked = {"prior": prior, **({} if guidance is None else {"prior_guidance": guidance})}
            settings = system.resolve(1, 0, cast("Settings", asked))
            drawn = torch.cat(
                [
                    system.imagine(texts[i : i + AT_ONCE], range(i, min(i + AT_ONCE, len(texts))), settings)
                    for i in range(0, len(texts), AT_ONCE)
                ]
            )
            first, five, cosine = found(drawn, texts, names, rows)
            scale = "" if guidance is None else f"{guidance:g}"
            print(f"| {prior} | {scale} | {first:.0%} | {five:.0%} | {cosine:.2f} |", flush=True)


if __name__ == "__main__":
    main()
