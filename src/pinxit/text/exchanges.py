"""Captions made false by one exchange of words (Yuksekgonul et al. 2023, "When and why vision-language models behave
like bags-of-words", section 4).
"""

from __future__ import annotations

import random
import re

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey", "gray")
OPPOSITES = ("left right", "above below", "over under", "top bottom", "larger smaller", "big small", "large tiny")
NUMBERS = ("two", "three", "four", "five", "six")

_OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair.split(), reversed(pair.split()))}
_COLOUR = re.compile(rf"\b(?:(an?) )?({'|'.join(COLOURS)})\b", re.IGNORECASE)
_SIDE = re.compile(rf"\b({'|'.join(_OPPOSITE)})\b", re.IGNORECASE)
_NUMBER = re.compile(rf"\b({'|'.join(NUMBERS)})\b", re.IGNORECASE)


def exchanged(caption: str, rng: random.Random) -> str | None:
    """The caption with two of its colours exchanged, or a side or a number replaced; None where it has none of these.

    It reads as any other: what is wrong with it shows beside the picture alone.
    """
    made = [_other_colours(caption, rng), _other_side(caption, rng), _other_number(caption, rng)]
    told = [text for text in made if text is not None]
    return rng.choice(told) if told else None


def _other_colours(caption: str, rng: random.Random) -> str | None:
    found = list(_COLOUR.finditer(caption))
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :] if a[2].lower() != b[2].lower()]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    between = caption[a.end() : b.start()]
    return f"{caption[: a.start()]}{_in_place(a, b[2])}{between}{_in_place(b, a[2])}{caption[b.end() :]}"


def _in_place(found: re.Match[str], colour: str) -> str:
    """Another colour, with the article that goes before it where there was one."""
    if not found[1]:
        return colour
    article = "an" if colour[0].lower() in "aeiou" else "a"
    return f"{article.capitalize() if found[1][0].isupper() else article} {colour}"


def _other_side(caption: str, rng: random.Random) -> str | None:
    found = list(_SIDE.finditer(caption))
    if not found:
        return None
    one = rng.choice(found)
    return caption[: one.start()] + _OPPOSITE[one[0].lower()] + caption[one.end() :]


def _other_number(caption: str, rng: random.Random) -> str | None:
    found = list(_NUMBER.finditer(caption))
    if not found:
        return None
    one = rng.choice(found)
    other = rng.choice([number for number in NUMBERS if number != one[0].lower()])
    return caption[: one.start()] + other + caption[one.end() :]
