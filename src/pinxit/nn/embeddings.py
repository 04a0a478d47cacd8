"""Numbers as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def embed_times(times: Tensor, width: int) -> Tensor:
    """Times b, of a thousand -> cosines and sines b w (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=times.device))
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)
