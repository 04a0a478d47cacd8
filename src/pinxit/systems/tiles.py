"""Large pictures in bounded memory: a network that sees a picture tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

TILE = 512
"""Pixels a side, about, of what is seen at once: a picture of up to so many is seen whole."""

OVERLAP = 64
"""Pixels that neighbouring tiles have in common, along which one fades into the other."""


def by_tiles(network: Callable[[Tensor, slice, slice], Tensor], x: Tensor, factor: int) -> Tensor:
    """What a network tells of x b c h w, from what it tells of each tile of that, whose place it is told as well.

    Tiles begin at multiples of `factor`, which h and w are too, and are as long. Where they overlap, what is told is
    weighted by the distance from the tile's edge, so that there are no seams.
    """
    found: Tensor | None = None
    weights = x.new_zeros(x.shape[2:])
    for rows in spans(x.shape[2], factor):
        for columns in spans(x.shape[3], factor):
            told = network(x[..., rows, columns], rows, columns)
            weight = _ramp(told.shape[2]).to(x)[:, None] * _ramp(told.shape[3]).to(x)
            if found is None:
                found = told.new_zeros(*told.shape[:2], *x.shape[2:])
            found[..., rows, columns] += weight * told
            weights[rows, columns] += weight
    assert found is not None
    return found / weights


def spans(side: int, factor: int) -> list[slice]:
    """Where tiles lie along a side: all of one length, evenly, `OVERLAP` or more in common."""
    count = math.ceil(side / TILE)
    length = min(side, factor * math.ceil((side + (count - 1) * OVERLAP) / count / factor))
    starts = [(side - length) * index // max(1, count - 1) // factor * factor for index in range(count)]
    return [slice(start, start + length) for start in starts]


def _ramp(length: int) -> Tensor:
    """From little at both ends to 1 within the overlap."""
    place = torch.arange(1, length + 1)
    return torch.minimum(place, place.flip(0)).div(OVERLAP).clamp(max=1)
