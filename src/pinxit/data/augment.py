"""Pictures varied in ways that leave their captions true."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from pinxit.data.images import RESAMPLE, Colour


def crop_square(image: Image.Image, size: int, least: float, rng: np.random.Generator) -> Image.Image:
    """A random square of at least the share `least` of the centre square's area, scaled to `size`; 1 takes it all.

    The paper's only augmentation. It stays in the centre square, which is what is seen when the network is used.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    kept = side * rng.uniform(least, 1.0) ** 0.5
    left, top = left + rng.uniform(0, side - kept), top + rng.uniform(0, side - kept)
    return image.resize((size, size), RESAMPLE, box=(left, top, left + kept, top + kept))


def moved(
    image: Image.Image, rng: np.random.Generator, *, scale: float, shift: float, background: Colour
) -> Image.Image:
    """The picture scaled by up to `scale` either way and shifted by up to `shift` of its sides, over a background.

    For drawings on a plain ground, which a crop would cut.
    """
    width, height = image.size
    factor = float(np.exp(rng.uniform(-1, 1) * np.log1p(scale)))
    x, y = (side * (1 - factor) / 2 + side * rng.uniform(-shift, shift) for side in image.size)
    # Where each pixel comes from: (column - x) / factor.
    inverse = (1 / factor, 0.0, -x / factor, 0.0, 1 / factor, -y / factor)
    return image.transform((width, height), Image.Transform.AFFINE, inverse, RESAMPLE, fillcolor=background)


def random_mask(size: int, dropout: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """1 h w: 1 where a picture is known, 0 in up to four random rectangles; in that share of them 0 everywhere."""
    known = np.ones((1, size, size), np.float32)
    if rng.random() < dropout:
        return known * 0
    for _ in range(rng.integers(1, 5)):
        high, wide = (max(1, round(size * share)) for share in rng.uniform(0.15, 0.7, 2))
        top, left = rng.integers(0, size - high + 1), rng.integers(0, size - wide + 1)
        known[:, top : top + high, left : left + wide] = 0
    return known
