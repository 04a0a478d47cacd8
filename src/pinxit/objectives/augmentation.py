"""Differentiable augmentation of what a critic sees, so that it does not learn it by heart (Zhao et al. 2020).

Real and made pictures are changed alike, and gradients pass through to the generator, so that it does not learn to draw
the changes. Colours stay, which texts name: a critic that sees them changed does not learn which belongs to a text.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOVED = 1 / 8
"""The share of their side by which pictures are moved at most; what comes in repeats the border."""

HIDDEN = 1 / 2
"""The side of the square that is grey, as a share of theirs."""


def augmented(pixels: Tensor) -> Tensor:
    """b 3 h w in [-1, 1] -> each elsewhere, and partly hidden."""
    return _hidden(_moved(pixels))


def _moved(x: Tensor) -> Tensor:
    rows, columns = (_places(x, side) for side in x.shape[2:])
    which = torch.arange(len(x), device=x.device)[:, None, None]
    # Indexed so, channels come last.
    return x[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _places(x: Tensor, side: int) -> Tensor:
    """Where each row or column is taken from: b side."""
    most = int(side * MOVED)
    by = torch.randint(-most, most + 1, (len(x), 1), device=x.device)
    return (torch.arange(side, device=x.device) + by).clamp(0, side - 1)


def _hidden(x: Tensor) -> Tensor:
    """The square's middle is anywhere in the picture."""
    inside = []
    for side in x.shape[2:]:
        hidden = int(side * HIDDEN)
        middle = torch.randint(0, side, (len(x), 1), device=x.device)
        behind = torch.arange(side, device=x.device) + hidden // 2 - middle
        inside.append((behind >= 0) & (behind < hidden))
    rows, columns = inside
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])
