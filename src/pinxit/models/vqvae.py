"""VQ-VAE (van den Oord et al. 2017) and VQ-VAE-2 (Razavi et al. 2019): nearest vectors, in one grid of codes or two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.models.autoencoder import Bottleneck
from pinxit.nn.convolution import folded_channels, unfolding
from pinxit.nn.quantizers import Codebook


@dataclass(frozen=True)
class VQVAEConfig:
    """The shape of a VQ-VAE."""

    size: int
    """Side of the pictures it is trained on, in pixels; it is fully convolutional."""
    codes: int
    """k, the size of each codebook."""
    dimensions: int
    """d, of the code vectors. Few keep more codes in use."""
    width: int
    """Channels."""
    blocks: int
    """Residual blocks on each side."""
    residual_width: int
    """Channels inside of them."""
    halvings: int
    """How often the resolution is halved before the (finer) grid of codes."""
    levels: int = 1
    """Grids of codes: with 2, a second one at half the resolution is drawn first, and the finer one given it."""
    cosine: bool = False
    """Only the directions of vectors count."""
    patch: int = 1
    """Side of the squares of pixels that are folded into channels first. 1 as published; 4 suits a laptop."""

    def __post_init__(self) -> None:
        if self.levels not in (1, 2):
            raise PinxitError(f"levels={self.levels}: allowed are 1 (VQ-VAE) and 2 (VQ-VAE-2).")
        if self.size % self.coarsest:
            raise PinxitError(
                f"size={self.size} does not divide into codes of {self.coarsest} pixels a side, which "
                f"patch={self.patch}, halvings={self.halvings} and levels={self.levels} make. Choose a multiple of "
                f"{self.coarsest}."
            )

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per code of the finer grid."""
        return int(self.patch * 2**self.halvings)

    @property
    def coarsest(self) -> int:
        """Pixels of a picture's side per code of the coarser grid."""
        return int(self.factor * 2 ** (self.levels - 1))

    @property
    def grids(self) -> tuple[int, ...]:
        """Codes along a side of each grid at `size`, coarsest first."""
        return tuple(self.size // self.factor // 2**level for level in reversed(range(self.levels)))


SIZES = {
    # For 128 px, to 32x32 of 512 codes, in the proportions that public implementations share.
    "paper": VQVAEConfig(size=128, codes=512, dimensions=64, width=128, blocks=2, residual_width=32, halvings=2),
    # For 256 px, to 32x32 over 64x64 of 512 codes, likewise.
    "paper-2": VQVAEConfig(
        size=256, codes=512, dimensions=64, width=128, blocks=2, residual_width=32, halvings=2, levels=2
    ),
    # For two cores: 64 px to 8x8 of 1,024 codes, and to 8x8 over 16x16 of 512.
    "small-64": VQVAEConfig(
        size=64,
        codes=1_024,
        dimensions=12,
        width=256,
        blocks=3,
        residual_width=128,
        halvings=1,
        cosine=True,
        patch=4,
    ),
    "small-64-2": VQVAEConfig(
        size=64,
        codes=512,
        dimensions=12,
        width=192,
        blocks=2,
        residual_width=96,
        halvings=0,
        levels=2,
        cosine=True,
        patch=4,
    ),
    # For tests and first tries: 32 px.
    "tiny-32": VQVAEConfig(
        size=32, codes=128, dimensions=4, width=64, blocks=1, residual_width=32, halvings=0, cosine=True, patch=4
    ),
    "tiny-32-2": VQVAEConfig(
        size=32,
        codes=64,
        dimensions=4,
        width=64,
        blocks=1,
        residual_width=32,
        halvings=0,
        levels=2,
        cosine=True,
        patch=4,
    ),
}


class ResidualBlock(nn.Module):
    """ReLU, 3x3, ReLU, 1x1, beside a skip."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b c h w."""
        out: Tensor = x + self.path(x)
        return out


def encoder(config: VQVAEConfig, inputs: int, halvings: int) -> nn.Sequential:
    """b inputs h w -> b width h/2^halvings w/2^halvings, which has passed a ReLU."""
    layers: list[nn.Module] = []
    width = config.width
    for a, b in pairwise((inputs, *([width // 2] * (halvings - 1)), *([width] * bool(halvings)))):
        layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU()]
    layers.append(nn.Conv2d(width if halvings else inputs, width, 3, padding=1))
    layers += [ResidualBlock(width, config.residual_width) for _ in range(config.blocks)]
    return nn.Sequential(*layers, nn.ReLU())


def decoder(config: VQVAEConfig, inputs: int, outputs: int, halvings: int) -> nn.Sequential:
    """b inputs h w -> b outputs h*2^halvings w*2^halvings: the mirror image."""
    width = config.width
    layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1)]
    layers += [ResidualBlock(width, config.residual_width) for _ in range(config.blocks)]
    layers.append(nn.ReLU())
    for step, (a, b) in enumerate(pairwise((width, *([width // 2] * (halvings - 1)), *([outputs] * bool(halvings))))):
        layers += [nn.ReLU()] * bool(step)
        layers.append(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1))
    if not halvings:
        layers.append(nn.Conv2d(width, outputs, 3, padding=1))
    return nn.Sequential(*layers)


class VQVAE(nn.Module):
    """Picture -> the nearest of k vectors at every place -> picture; with two levels, coarse and then fine."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        width, d = config.width, config.dimensions
        self.fold = nn.PixelUnshuffle(config.patch)
        self.encoder = encoder(config, 3 * config.patch**2, config.halvings)
        fine_inputs = width
        if config.levels == 2:
            self.coarse_encoder = encoder(config, width, 1)
            self.to_coarse = nn.Conv2d(width, d, 1)
            self.coarse = Codebook(config.codes, d, cosine=config.cosine)
            self.coarse_decoder = decoder(config, d, d, 1)
            self.coarse_upsample = nn.ConvTranspose2d(d, d, 4, stride=2, padding=1)
            fine_inputs += d
        self.to_fine = nn.Conv2d(fine_inputs, d, 1)
        self.fine = Codebook(config.codes, d, cosine=config.cosine)
        self.decoder = decoder(config, d * config.levels, folded_channels(3, config.patch), config.halvings)
        self.decoder.extend(unfolding(3, config.patch, nn.ReLU()))

    @property
    def size(self) -> int:
        """Side of the pictures it is trained on, in pixels."""
        return self.config.size

    @property
    def factor(self) -> int:
        """Pixels of a picture's side that h and w have to be multiples of."""
        return self.config.coarsest

    @property
    def codes(self) -> int:
        """k, of each codebook."""
        return self.config.codes

    @property
    def grids(self) -> tuple[int, ...]:
        """Sides of the grids of codes at `size`, one codebook each."""
        return self.config.grids

    @property
    def code_shape(self) -> tuple[int, ...]:
        """h w; with two levels n, the coarse grid's codes before the fine one's, row by row."""
        if self.config.levels == 1:
            return self.config.grids * 2
        return (sum(side**2 for side in self.config.grids),)

    def quantizers(self) -> Mapping[str, nn.Module]:
        """The codebooks."""
        return {"coarse": self.coarse, "fine": self.fine} if self.config.levels == 2 else {"fine": self.fine}

    def through(self, pixels: Tensor, bottleneck: Bottleneck) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> the same, past the bottleneck."""
        features = self.encoder(self.fold(pixels))
        if self.config.levels == 1:
            return self._decode(bottleneck("fine", self.to_fine(features)))
        coarse = bottleneck("coarse", self.to_coarse(self.coarse_encoder(features)))
        fine = bottleneck("fine", self.to_fine(torch.cat([self.coarse_decoder(coarse), features], 1)))
        return self._decode(fine, coarse)

    def to_pixels(self, output: Tensor) -> Tensor:
        """They are pixels."""
        return output

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> ids, int64 b h' w', or b n."""
        ids: list[Tensor] = []

        def nearest(name: str, features: Tensor) -> Tensor:
            codebook = self.get_submodule(name)
            assert isinstance(codebook, Codebook)
            ids.append(codebook.nearest(features))
            return codebook.look_up(ids[-1])

        self.through(pixels, nearest)
        return ids[0] if len(ids) == 1 else torch.cat([grid.flatten(1) for grid in ids], 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Ids b h' w', or b n of a square picture -> pixels b 3 h w."""
        if self.config.levels == 1:
            return self._decode(self.fine.look_up(codes))
        side = round((codes.shape[1] / 5) ** 0.5)  # 1 + 4 codes for each coarse one
        coarse, fine = codes[:, : side**2], codes[:, side**2 :]
        return self._decode(
            self.fine.look_up(fine.view(-1, 2 * side, 2 * side)), self.coarse.look_up(coarse.view(-1, side, side))
        )

    def _decode(self, fine: Tensor, coarse: Tensor | None = None) -> Tensor:
        if coarse is not None:
            fine = torch.cat([self.coarse_upsample(coarse), fine], 1)
        out: Tensor = self.decoder(fine)
        return out
