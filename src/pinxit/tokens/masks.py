"""Who may look at whom in a stream of text and image tokens (Ramesh et al. 2021, appendix B.1, figure 11)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pattern = Literal["full", "row", "column", "convolution"]

KERNEL = 11
"""Side of the convolutional pattern in the paper."""


def paper_patterns(depth: int) -> tuple[Pattern, ...]:
    """The paper's order: row, column, row, row, again and again; convolutional in the last layer alone."""
    body: list[Pattern] = ["column" if layer % 4 == 1 else "row" for layer in range(depth - 1)]
    return (*body, "convolution")


def stream_mask(pattern: Pattern, text: int, rows: int, columns: int, kernel: int = KERNEL) -> Tensor:
    """Boolean `n n` with n = text + rows * columns, True where the query of a row may look at the key of a column.

    Text looks at the text before it. Image tokens look at all text, themselves, and of the image tokens before them at
    - full: all;
    - row: the last `columns`, so that the farthest is the one above;
    - column: those of the same column;
    - convolution: those in the causal half of a `kernel` x `kernel` window, wrapping around at the sides as rows do.
    """
    n = text + rows * columns
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    if pattern == "full":
        return causal
    place = torch.arange(rows * columns)
    back = place[:, None] - place[None, :]
    if pattern == "row":
        seen = back <= columns
    elif pattern == "column":
        seen = back % columns == 0
    else:
        reach = kernel // 2
        seen = torch.zeros_like(back, dtype=torch.bool)
        for up in range(reach + 1):
            seen |= (back - up * columns).abs() <= reach
    causal[text:, text:] &= seen
    return causal
