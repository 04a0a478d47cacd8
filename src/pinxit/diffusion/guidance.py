"""What leads a denoiser elsewhere: denoiser -> denoiser, each the same denoiser where it is switched off."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.diffusion.levels import Denoised, Denoiser, Level

ALWAYS = (0.0, float("inf"))

Lead = Callable[[Tensor, Level], Tensor]
"""Noisy values b ... and their level -> the gradient of something to climb, b ..."""


def classifier_free(
    plain: Denoiser, both: Denoiser, scale: float, *, interval: tuple[float, float] = ALWAYS
) -> Denoiser:
    """Ho and Salimans 2021, equation 6, where `scale` 1 is no guidance.

    `both` knows twice the batch, first what is wanted and then what is not, and is asked once; `plain` knows what is
    wanted alone, and is asked where guidance is off: at scale 1, and where sigma/alpha is outside of `interval`
    (Kynkaanniemi et al. 2024).
    """
    if scale == 1:
        return plain

    def denoise(x: Tensor, level: Level) -> Denoised:
        if not _within(level, interval):
            return plain(x, level)
        told = both(torch.cat([x, x]), level)
        wanted, unwanted = told.x0.chunk(2)
        return Denoised(unwanted + scale * (wanted - unwanted), _first_half(told.variance))

    return denoise


def autoguidance(good: Denoiser, bad: Denoiser, scale: float, *, interval: tuple[float, float] = ALWAYS) -> Denoiser:
    """Away from what a smaller or less trained network tells (Karras et al. 2024, equation 3); `scale` 1 is none."""
    if scale == 1:
        return good

    def denoise(x: Tensor, level: Level) -> Denoised:
        told = good(x, level)
        if not _within(level, interval):
            return told
        unwanted = bad(x, level).x0
        return Denoised(unwanted + scale * (told.x0 - unwanted), told.variance)

    return denoise


def _within(level: Level, interval: tuple[float, float]) -> bool:
    least, most = interval
    return least * level.alpha <= level.sigma <= most * level.alpha or (not level.alpha and most == float("inf"))


def _first_half(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.chunk(2)[0]


def uphill(score: Callable[[Tensor, Level], Tensor], scale: float) -> Lead | None:
    """The scaled gradient of a score of noisy values, b ... -> b: a classifier's log probability (Dhariwal and Nichol
    2021), or the likeness to a text by a CLIP that has learnt from noisy pictures (Nichol et al. 2021, section 2.4).

    With `scale` 0, none.
    """
    if scale == 0:
        return None

    def lead(x: Tensor, level: Level) -> Tensor:
        if not level.alpha:  # nothing of the picture is there to judge
            return torch.zeros_like(x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(score(leaf, level).sum(), leaf)
        return scale * gradient

    return lead


def by_gradient(denoise: Denoiser, lead: Lead | None) -> Denoiser:
    """Up a gradient, which moves what is told of the noise (Dhariwal and Nichol 2021, algorithm 2).

    DDPM, by its algorithm 1, moves the mean of each step instead (`samplers.ancestral`).
    """
    if lead is None:
        return denoise

    def guided(x: Tensor, level: Level) -> Denoised:
        told = denoise(x, level)
        if not level.alpha:
            return told
        return Denoised(told.x0 + level.sigma**2 / level.alpha * lead(x, level), told.variance)

    return guided


def clipped(denoise: Denoiser, limit: float | None = 1.0) -> Denoiser:
    """Expected clean values no further from 0 than `limit`; None leaves them."""
    if limit is None:
        return denoise

    def within(x: Tensor, level: Level) -> Denoised:
        told = denoise(x, level)
        return Denoised(told.x0.clamp(-limit, limit), told.variance)

    return within


def dynamic_threshold(denoise: Denoiser, share: float | None) -> Denoiser:
    """Scaled so that this share of a picture's values lies within 1, where fewer do, and the others clipped.

    Saharia et al. 2022, section 2.3; None leaves them.
    """
    if share is None:
        return denoise

    def within(x: Tensor, level: Level) -> Denoised:
        told = denoise(x, level)
        size = told.x0.flatten(1).abs().float().quantile(share, dim=1).clamp_min(1.0)
        size = size.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return Denoised(told.x0.clamp(-size, size) / size, told.variance)

    return within


def consistent(denoise: Denoiser, small: Tensor | None) -> Denoiser:
    """Expects what becomes `small`, b c h' w', when it is made smaller: what it lacks of that is enlarged and added.

    Back-projection, which leaves finer detail as it is told (Choi et al. 2021, "ILVR"; Wang et al. 2022, "DDNM",
    equation 8). With None, whatever it expects.
    """
    if small is None:
        return denoise

    def held(x: Tensor, level: Level) -> Denoised:
        told = denoise(x, level)
        lack = small - F.interpolate(told.x0, small.shape[2:], mode="bicubic", antialias=True)
        return Denoised(told.x0 + F.interpolate(lack, x.shape[2:], mode="bicubic"), told.variance)

    return held


def keeping(denoise: Denoiser, known: Tensor, mask: Tensor | None) -> Denoiser:
    """Expects `known` clean values where `mask`, which spreads over them, is 0, and its own where it is 1.

    With None, its own everywhere.
    """
    if mask is None:
        return denoise

    def within(x: Tensor, level: Level) -> Denoised:
        told = denoise(x, level)
        return Denoised(known + mask * (told.x0 - known), told.variance)

    return within
