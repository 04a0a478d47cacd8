"""A palette of colours, by which iGPT reads a picture as a sequence of ids (Chen et al. 2020, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pinxit.nn.quantizers import Codebook


@dataclass(frozen=True)
class PaletteConfig:
    """Its size, and that of the pictures."""

    size: int
    """Side of the pictures, in pixels: each is one code."""
    codes: int = 512
    """k, colours: 9 bits a pixel, as published."""


class Palette(nn.Module):
    """Every pixel is the nearest of k colours."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        self.config = config
        self.colours = Codebook(config.codes, 3)

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels."""
        return self.config.size

    @property
    def factor(self) -> int:
        """A code a pixel."""
        return 1

    @property
    def codes(self) -> int:
        """k, colours."""
        return self.config.codes

    @property
    def grids(self) -> tuple[int, ...]:
        """Sides of the grids of codes at `size`, one codebook each."""
        return (self.config.size,)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """h w of a picture of `size`."""
        return self.config.size, self.config.size

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> ids, int64 b h w."""
        return self.colours.nearest(pixels)

    def decode(self, codes: Tensor) -> Tensor:
        """Ids b h w -> pixels b 3 h w in [-1, 1]."""
        return self.colours.look_up(codes)
