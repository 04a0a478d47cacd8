"""Diagonal Gaussians over latents, told as mean and log variance (Kingma and Welling 2014, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_VARIANCE = (-30.0, 20.0)
"""What log variances are kept in, as latent diffusion has it."""


def split(moments: Tensor) -> tuple[Tensor, Tensor]:
    """b 2z ... -> mean and log variance, b z ... each, in float32."""
    mean, log_variance = moments.float().chunk(2, 1)
    return mean, log_variance.clamp(*LOG_VARIANCE)


def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A sample by torch's global generator, with gradients to both."""
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def standard_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, elementwise."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
