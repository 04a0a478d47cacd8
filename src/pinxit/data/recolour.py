"""Pictures in another colour, with captions that say so: how a small set learns that "a blue cat" is a cat, in blue."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
from PIL import Image

from pinxit.data.sample import Captions, Sample

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 205, 40),
    "green": (50, 160, 70),
    "blue": (40, 110, 225),
    "purple": (135, 70, 190),
    "pink": (240, 120, 170),
    "brown": (130, 80, 45),
}

_NAMES = "|".join([*(name for name in COLOURS if name != "orange"), "black", "white", "grey", "gray"])
_NAMED = re.compile(rf"\b({_NAMES}|orange)\b", re.IGNORECASE)
# An orange is a fruit as well: it is a colour where it stands before a thing.
_COLOUR = re.compile(rf"\b(an?\s+)?({_NAMES}|orange(?=\s+\w)(?!\s+(?:and|at|in|of|on|or|with)\b))\b", re.IGNORECASE)
_ARTICLE = re.compile(r"^(an?|the)\s+", re.IGNORECASE)
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def recolourable(captions: Captions) -> bool:
    """Whether the captions stay true with a colour: there is a short one, it is not in parts, as "flag: Norway", and
    it names no more than one colour itself.
    """
    shorts = captions.get("short", ())
    return bool(shorts) and not any(":" in text or _many_coloured(text) for text in shorts)


def recolour(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample in one of `COLOURS`, drawn by `rng`, with only those captions that can be made true.

    One that is not `recolourable` comes back as it is.
    """
    if not recolourable(sample.captions):
        return sample
    shorts = sample.captions["short"]
    name = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    longs = (text for text in sample.captions.get("long", ()) if shorts[0] in text)
    alts = (text for text in sample.captions.get("alt", ()) if not _many_coloured(text))
    captions = {
        "short": tuple(in_colour(text, name) for text in shorts),
        "long": tuple(text.replace(shorts[0], in_colour(shorts[0], name)) for text in longs),
        "alt": tuple(f"{name}, {_COLOUR.sub(name, text)}" for text in alts),
    }
    said = {kind: texts for kind, texts in captions.items() if texts}
    return replace(sample, image=tint(sample.image, COLOURS[name]), captions=said)


def _many_coloured(text: str) -> bool:
    return len(_NAMED.findall(text)) > 1


def in_colour(text: str, name: str) -> str:
    """The caption with its colour replaced, or named in front of the thing: "a cat" -> "a blue cat"."""
    article = "an" if name[0] in "aeiou" else "a"
    if _COLOUR.search(text):
        return _COLOUR.sub(lambda found: f"{article} {name}" if found[1] else name, text)
    start = _ARTICLE.match(text)
    if start is None:
        return f"{name} {text}"
    return f"{'the' if start[1].lower() == 'the' else article} {name} {text[start.end() :]}"


def tint(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The picture in shades from black over `colour` to white; black and white stay, and with them outlines and eyes.

    Brightness is bent so that what is not white has, on average, the brightness of the colour.
    """
    light = (np.asarray(image, dtype=np.float32) / 255) @ _LUMINANCE
    target = np.array(colour, dtype=np.float32) / 255
    middle = float(target @ _LUMINANCE)
    seen = light[light < 0.97]
    average = min(max(float(seen.mean()) if seen.size else 0.5, 0.05), 0.95)
    light = light ** min(max(math.log(middle) / math.log(average), 0.4), 4.0)
    dark = light[..., None] / middle * target
    bright = target + (light[..., None] - middle) / (1 - middle) * (1 - target)
    return Image.fromarray((np.where(light[..., None] <= middle, dark, bright) * 255).round().astype(np.uint8))
