"""How noisy pictures are, and what a denoiser tells of them: all that samplers and guidance know."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Level(NamedTuple):
    """x = alpha x0 + sigma noise."""

    alpha: float
    sigma: float
    time: float
    """What a network is told of it."""


CLEAN = Level(1.0, 0.0, 0.0)
"""Where sampling ends. No network is asked about it."""


class Denoised(NamedTuple):
    """What a denoiser tells of noisy values."""

    x0: Tensor
    """The clean ones it expects."""
    variance: Tensor | None = None
    """How far, from -1 to 1, the log variance of a step lies from the posterior's to beta's, where it is learnt (Nichol
    and Dhariwal 2021, equation 15)."""


Denoiser = Callable[[Tensor, Level], Denoised]
"""Noisy values b ... at one level -> what is under the noise."""


def noise_in(x: Tensor, x0: Tensor, level: Level) -> Tensor:
    """The noise that makes x of x0."""
    return (x - level.alpha * x0) / level.sigma


def at_level(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """Clean values and noise -> noisy values."""
    return level.alpha * x0 + level.sigma * noise
