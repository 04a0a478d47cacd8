"""What all codecs have in common, as objectives and systems see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Bottleneck = Callable[[str, Tensor], Tensor]
"""The name of a quantizer and the features that reach it -> what the decoder gets. What happens in between while the
network learns is the objective's choice."""


def entries(codes: Tensor, k: int, grids: tuple[int, ...]) -> Tensor:
    """Which vector of all codebooks each code is, any shape -> flat, when there is a codebook of k for each grid.

    Codes of several grids (sides, in their order) are b n; the second codebook's count from k, and so on.
    """
    if len(grids) == 1:
        return codes.flatten()
    starts = torch.cat([torch.full((side**2,), k * level) for level, side in enumerate(grids)])
    return (codes + starts.to(codes.device)).flatten()


class Autoencoder(Protocol):
    """Picture -> codes -> picture. Pixels are b 3 h w in [-1, 1]; h and w are multiples of `factor`."""

    @property
    def size(self) -> int:
        """Side of the pictures it is trained on, in pixels."""
        ...

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per code."""
        ...

    @property
    def codes(self) -> int | None:
        """k, how many codes there are; None where codes are numbers."""
        ...

    @property
    def code_shape(self) -> tuple[int, ...]:
        """The codes of one picture of `size`: h w, or n where there are several grids; c h w where they are numbers."""
        ...

    @property
    def grids(self) -> tuple[int, ...]:
        """Sides of the grids of codes at `size`, one codebook each; coarsest first."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels -> codes: int64 ids, or float latents."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> pixels."""
        ...


class Trainable(Autoencoder, Protocol):
    """A codec that is a network."""

    decoder: nn.Sequential
    """Ends in the convolution that makes pixels, where an adversary's weight is measured."""

    def quantizers(self) -> Mapping[str, nn.Module]:
        """What makes codes of features, by name, in the order in which they are met."""
        ...

    def through(self, pixels: Tensor, bottleneck: Bottleneck) -> Tensor:
        """Pixels -> the decoder's output, past the bottleneck."""
        ...

    def to_pixels(self, output: Tensor) -> Tensor:
        """The decoder's output -> pixels."""
        ...
