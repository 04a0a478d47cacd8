"""Small pictures made worse, so that what enlarges them learns to mend what those drawn before it have of faults."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pinxit.data.images import to_pil, to_tensor

Damage = Literal["none", "blur", "bsr"]

BLUR_CHANCE, BLUR = 0.5, 0.6
"""How often, and by which deviation in pixels, a small picture is blurred over 3x3 (Ho et al. 2022, "Cascaded Diffusion
Models", section 4.2; Ramesh et al. 2022, section 2.3)."""

JPEG = (80, 95)
"""Qualities."""


def degraded(pixels: Tensor, factor: int, damage: Damage, rng: np.random.Generator) -> Tensor:
    """A picture 3 h w in [-1, 1] -> one smaller by `factor`: plain means, some of them blurred, or as BSR has it."""
    if damage == "bsr":
        return bsr(pixels, factor, rng)
    small = F.avg_pool2d(pixels, factor)
    if damage == "blur" and rng.random() < BLUR_CHANCE:
        small = blurred(small, gaussian(3, BLUR, BLUR, 0.0))
    return small


def bsr(pixels: Tensor, factor: int, rng: np.random.Generator) -> Tensor:
    """The degradation of Zhang et al. 2021 as latent diffusion has it (Rombach et al. 2022, section 4.4: "light"):
    a blur, a change of size, noise and JPEG in random order, then JPEG again. Its two changes of size are one here.
    """
    size = [side // factor for side in pixels.shape[1:]]
    if factor > 2 and rng.random() < 0.25:
        pixels, factor = F.avg_pool2d(pixels, 2), factor // 2

    def blur() -> None:
        nonlocal pixels
        if rng.random() < 0.5:
            one, other = np.sqrt(rng.uniform(0, 1 + factor / 4, 2))  # variances
        else:
            one = other = rng.uniform(0, 0.5 + factor / 20)
        pixels = blurred(pixels, gaussian(int(rng.choice([5, 7])), one, other, rng.uniform(0, np.pi)))

    def resize() -> None:
        nonlocal pixels
        if rng.random() < 0.8:
            divisor = rng.uniform(1, 2 * factor)
            pixels = _resized(pixels, [max(1, int(side / divisor)) for side in pixels.shape[1:]], rng)
        else:
            wide = rng.uniform(0.1, 0.6 * factor)
            pixels = blurred(pixels, gaussian(25, wide, wide, 0.0))
        pixels = _resized(pixels, size, rng)

    def add_noise() -> None:
        nonlocal pixels
        grey = rng.random() < 0.4
        noise = rng.standard_normal((1 if grey else 3, *pixels.shape[1:]), np.float32)
        pixels = pixels + torch.from_numpy(noise) * float(rng.uniform(1, 2) * 2 / 255)

    def compress() -> None:
        nonlocal pixels
        if rng.random() < 0.9:
            pixels = _jpeg(pixels, rng)

    for index in rng.permutation(4):
        (blur, resize, add_noise, compress)[index]()
    return _jpeg(pixels, rng)


def gaussian(taps: int, one: float, other: float, angle: float) -> Tensor:
    """A kernel of deviations `one` and `other` in pixels, turned by `angle`; it sums to 1."""
    places = torch.arange(taps) - (taps - 1) / 2
    y, x = torch.meshgrid(places, places, indexing="ij")
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    weights = torch.exp(-0.5 * ((along / max(one, 1e-3)) ** 2 + (across / max(other, 1e-3)) ** 2)).float()
    return weights / weights.sum()


def blurred(pixels: Tensor, kernel: Tensor) -> Tensor:
    """Each channel of 3 h w by itself, edges repeated."""
    border = len(kernel) // 2
    padded = F.pad(pixels[:, None], [border] * 4, mode="replicate")
    return F.conv2d(padded, kernel[None, None])[:, 0]


def _resized(pixels: Tensor, size: list[int], rng: np.random.Generator) -> Tensor:
    mode = str(rng.choice(["area", "bilinear", "bicubic"]))
    smooth = {} if mode == "area" else {"antialias": True}
    return F.interpolate(pixels[None], size, mode=mode, **smooth)[0].clamp(-1, 1)


def _jpeg(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    file = io.BytesIO()
    to_pil(pixels).save(file, "JPEG", quality=int(rng.integers(JPEG[0], JPEG[1] + 1)))
    return to_tensor(Image.open(file).convert("RGB"))
