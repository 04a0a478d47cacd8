"""Values of all processes that train together; alone, a process has its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def processes() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def add_up(value: Tensor) -> None:
    """The sum over all, in place."""
    if processes() > 1:
        distributed.all_reduce(value)


def take_over(value: Tensor) -> None:
    """That of the first, in place."""
    if processes() > 1:
        distributed.broadcast(value, 0)


def gather(rows: Tensor) -> Tensor:
    """Rows `b ...` of each, equally many, in the order of ranks -> `world*b ...`, with gradients to their owners."""
    if processes() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums what every process has to say about the rows of one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ARG004
        parts = [torch.empty_like(rows) for _ in range(processes())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(processes())[distributed.get_rank()]
