"""What can be taken from a picture for another to be drawn from: its edges, a low resolution, its lower half.

The conditions of Esser et al. 2021 ("Taming Transformers for High-Resolution Image Synthesis", section 4.1) that need
no labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from PIL import Image, ImageChops, ImageFilter, ImageOps

LOW = 8
"""Pixels a side of a picture at a low resolution."""


def edges(image: Image.Image) -> Image.Image:
    """Dark lines on white where colours change."""
    # A white frame keeps the filter, which copies the outermost pixels, from drawing one.
    framed = ImageOps.expand(image, 1, "white")
    lines = max_of_bands(framed.filter(ImageFilter.FIND_EDGES))
    lines = ImageOps.crop(lines, 1).point(lambda value: 255 - min(255, 2 * value))
    return lines.convert("RGB")


def low(image: Image.Image) -> Image.Image:
    """The picture from `LOW` pixels a side, smoothed."""
    return image.resize((LOW, LOW), Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def lower(image: Image.Image) -> Image.Image:
    """The lower half below white: what drawing from the first row on cannot be given."""
    half = image.height // 2
    seen = Image.new("RGB", image.size, "white")
    seen.paste(image.crop((0, half, image.width, image.height)), (0, half))
    return seen


def max_of_bands(image: Image.Image) -> Image.Image:
    """The brightest of red, green and blue."""
    red, green, blue = image.split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


View = Literal["edges", "low", "lower"]

VIEWS: dict[View, Callable[[Image.Image], Image.Image]] = {"edges": edges, "low": low, "lower": lower}
"""A square picture, mode RGB -> the same size and mode."""

NAMES: dict[View, str] = {"edges": "edges", "low": "low resolution", "lower": "lower half"}
"""As a person says it."""
