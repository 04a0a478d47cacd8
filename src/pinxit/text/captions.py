"""Captions as people wrote them: cleaning, and blending the kinds that a picture has."""

from __future__ import annotations

import hashlib
import html
import random
from collections.abc import Mapping, Sequence

import numpy as np


def clean(text: str) -> str:
    """The text with HTML entities resolved (twice: scraped text is often escaped twice) and white space collapsed."""
    return " ".join(html.unescape(html.unescape(text)).split())


def key(text: str) -> int:
    """A number in [0, 2^63) that two texts share only when they are equal, but for a chance of about 1 in 10^19."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()) >> 1


def choose(
    captions: Mapping[str, Sequence[str]],
    weights: Mapping[str, float],
    rng: random.Random | np.random.Generator,
) -> str | None:
    """One caption of a sample: a kind by its weight, then one of that kind's captions, each alike.

    Kinds that the sample lacks are left out, and the weights of the others count in proportion.
    None where the sample has none of the weighted kinds.
    """
    kinds = [(kind, weight) for kind, weight in weights.items() if weight > 0 and captions.get(kind)]
    if not kinds:
        return None
    mark = rng.random() * sum(weight for _, weight in kinds)
    chosen = kinds[-1][0]
    for kind, weight in kinds:
        mark -= weight
        if mark < 0:
            chosen = kind
            break
    texts = captions[chosen]
    return texts[int(rng.random() * len(texts))]
