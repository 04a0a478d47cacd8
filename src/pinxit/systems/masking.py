"""A picture and a mask, as a person gives them."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from pinxit.data.images import fit, opaque
from pinxit.errors import PinxitError
from pinxit.systems.picture import Picture


def masked(image: Image.Image, mask: Image.Image, size: int) -> tuple[Image.Image, Image.Image]:
    """The picture and its mask as squares of `size` pixels; the mask black and white alone, white to be painted."""
    if mask.size != image.size:
        raise PinxitError(f"The mask has {mask.size} pixels, the picture {image.size}. Give one of the same size.")
    white = fit(mask.convert("L").convert("RGB"), size).convert("L").point(lambda value: 255 * (value >= 128))
    if not white.getbbox():
        where = "all over" if image.width == image.height else "all over the centre square, which is what is seen"
        raise PinxitError(f"The mask is black {where}, so there is nothing to paint. Make white what is to change.")
    return fit(opaque(image), size), white


def composed(picture: Picture, before: Image.Image, white: Image.Image) -> Picture:
    """What was painted where the mask is white, and the picture of before elsewhere, to the pixel."""
    image = Image.composite(picture.image, before, white)
    return replace(picture, image=image, settings={**picture.settings, "edited": True})
