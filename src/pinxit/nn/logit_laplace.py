"""The logit-Laplace likelihood of pictures (Ramesh et al. 2021, appendix A.3)."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 0.1
"""The density lives on (0, 1), so pictures are squeezed into [EPSILON, 1 - EPSILON]."""


def to_unit(pixels: Tensor) -> Tensor:
    """[-1, 1] -> [EPSILON, 1 - EPSILON]."""
    return (pixels + 1) * (0.5 - EPSILON) + EPSILON


def from_unit(x: Tensor) -> Tensor:
    """[EPSILON, 1 - EPSILON] -> [-1, 1], clamped."""
    return ((x - EPSILON) / (0.5 - EPSILON) - 1).clamp(-1, 1)


def to_pixels(mean: Tensor) -> Tensor:
    """The distribution's median as a picture: mean of the logit, any shape -> pixels in [-1, 1]."""
    return from_unit(mean.float().sigmoid())


def negative_log_likelihood(pixels: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """In nats, elementwise, for pixels in [-1, 1] (equation 2).

    The logit of a value is Laplace distributed: f(x) = 1 / (2 b x (1 - x)) exp(-|logit(x) - mean| / b).
    """
    x = to_unit(pixels.float())
    distance = (torch.logit(x) - mean.float()).abs()
    log_scale = log_scale.float()
    return distance * (-log_scale).exp() + log_scale + torch.log(2 * x * (1 - x))
