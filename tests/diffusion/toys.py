"""Distributions whose denoisers are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pinxit.diffusion.levels import Denoised, Level


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one standard deviation about `means`, alike often, in every value by itself."""

    means: tuple[float, ...]
    std: float

    def denoise(self, x: Tensor, level: Level) -> Denoised:
        """E[x0 | x]."""
        means = torch.tensor(self.means, dtype=x.dtype)
        total = (level.alpha * self.std) ** 2 + level.sigma**2
        far = x[..., None] - level.alpha * means
        shares = (-far.square() / (2 * total)).softmax(-1)
        expected = means + level.alpha * self.std**2 / total * far
        return Denoised((shares * expected).sum(-1))

    def log_density(self, x: Tensor) -> Tensor:
        """log p, summed over all values of each of b."""
        means = torch.tensor(self.means, dtype=x.dtype)
        each = -0.5 * ((x[..., None] - means) / self.std) ** 2 - math.log(self.std * math.sqrt(2 * math.pi))
        return (each.logsumexp(-1) - math.log(len(self.means))).flatten(1).sum(1)


GAUSSIAN = Mixture((0.3,), 0.5)
TWO = Mixture((-0.6, 0.6), 0.1)
