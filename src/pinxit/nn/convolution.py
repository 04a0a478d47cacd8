"""The encoder and decoder pyramid of VQGAN and latent diffusion (Esser et al. 2021, table 7; Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.attention import Attention
from pinxit.nn.group_norm import GroupNorm


@dataclass(frozen=True)
class PyramidConfig:
    """Levels of residual blocks, each of half the resolution of the one before."""

    size: int
    """Side of the pictures it is trained on, in pixels; it is fully convolutional."""
    channels: int
    """Of the finest level."""
    multipliers: tuple[int, ...]
    """Channels of each level in these units, finest first."""
    blocks: int
    """Residual blocks a level; the decoder has one more."""
    latent: int
    """z, channels between encoder and decoder."""
    attention: tuple[int, ...] = ()
    """Sides of the feature maps, at `size`, whose blocks are followed by attention. The coarsest one attends anyway."""
    groups: int = 32
    """Of the group norms."""
    patch: int = 1
    """Side of the squares of pixels that are folded into channels first. 1 as published; 4 suits a laptop."""

    def __post_init__(self) -> None:
        if self.size % self.factor:
            raise PinxitError(
                f"size={self.size} does not divide into latents of {self.factor} pixels a side, which "
                f"patch={self.patch} and {len(self.multipliers)} levels make. Choose a multiple of {self.factor}."
            )
        if any(width % self.groups for width in self.widths):
            raise PinxitError(
                f"Levels of {', '.join(map(str, self.widths))} channels do not divide into {self.groups} groups: "
                "choose other channels, or other groups."
            )

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per latent."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))

    @property
    def grid(self) -> int:
        """Latents along a side of a picture of `size`."""
        return self.size // self.factor

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of each level's feature maps at `size`, finest first."""
        return tuple(self.size // self.patch // 2**level for level in range(len(self.multipliers)))


REFINED = 24
"""Channels at full resolution before the last convolution, where squares of pixels were folded into channels."""


def folded_channels(outputs: int, patch: int) -> int:
    """Channels that `unfolding` starts from."""
    return REFINED * patch**2 if patch > 1 else outputs


def unfolding(outputs: int, patch: int, activation: nn.Module) -> list[nn.Module]:
    """Layers from b `folded_channels` h w to b outputs h*patch w*patch; none, where nothing was folded.

    Squares that were each drawn by themselves would show their seams; so there are more channels than the picture
    needs, which a last 3x3 convolution reads across the seams.
    """
    return [nn.PixelShuffle(patch), activation, nn.Conv2d(REFINED, outputs, 3, padding=1)] if patch > 1 else []


def norm(channels: int, groups: int) -> GroupNorm:
    """Group norm with the published epsilon."""
    return GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Twice norm, swish and a 3x3 convolution, beside a skip."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inputs, groups), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = norm(outputs, groups), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b c' h w."""
        path = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = self.skip(x) + self.conv2(F.silu(self.norm2(path)))
        return out


class SpatialAttention(nn.Module):
    """Every place looks at every other, with one head, beside a skip."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = norm(channels, groups)
        self.attention = Attention(channels, heads=1)

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b c h w."""
        places = self.norm(x).flatten(2).transpose(1, 2)  # b n c
        out: Tensor = x + self.attention(places).transpose(1, 2).reshape(x.shape)
        return out


class Downsample(nn.Conv2d):
    """A 3x3 convolution of stride two, padded at the right and below alone as published."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, input: Tensor) -> Tensor:
        """b c 2h 2w -> b c h w."""
        return super().forward(F.pad(input, (0, 1, 0, 1)))


FOLDS_FROM = 1_024
"""Places of a feature map from which on a kernel that is made anew for each call pays, on a CPU."""


class Upsample(nn.Conv2d):
    """The nearest pixel twice, and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """b c h w -> b c 2h 2w."""
        if input.device.type != "cpu" or input.shape[-2] * input.shape[-1] < FOLDS_FROM:
            return super().forward(F.interpolate(input, scale_factor=2.0, mode="nearest"))
        # Both at once are one transposed convolution, with 4 products a place and channel instead of 9.
        kernel = self.weight.flip(2, 3).transpose(0, 1)
        shifted = [F.pad(kernel, (x, 1 - x, y, 1 - y)) for x in (0, 1) for y in (0, 1)]
        return F.conv_transpose2d(input, torch.stack(shifted).sum(0), self.bias, stride=2, padding=1)


def _level(inputs: int, width: int, blocks: int, attends: bool, groups: int) -> Iterable[nn.Module]:
    """Residual blocks, each followed by attention where the level attends."""
    for a, b in pairwise((inputs, *([width] * blocks))):
        yield ResidualBlock(a, b, groups)
        if attends:
            yield SpatialAttention(width, groups)


def _middle(width: int, groups: int) -> list[nn.Module]:
    return [ResidualBlock(width, width, groups), SpatialAttention(width, groups), ResidualBlock(width, width, groups)]


class Encoder(nn.Sequential):
    """Pixels b 3 h w -> b outputs h/f w/f."""

    def __init__(self, config: PyramidConfig, outputs: int) -> None:
        widths, groups = config.widths, config.groups
        layers: list[nn.Module] = [nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)]
        if config.patch > 1:
            layers.insert(0, nn.PixelUnshuffle(config.patch))
        for level, (inputs, width) in enumerate(pairwise((widths[0], *widths))):
            if level:
                layers.append(Downsample(inputs))
            layers.extend(_level(inputs, width, config.blocks, config.sides[level] in config.attention, groups))
        layers.extend(_middle(widths[-1], groups))
        layers.extend([norm(widths[-1], groups), nn.SiLU(), nn.Conv2d(widths[-1], outputs, 3, padding=1)])
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """b latent h/f w/f -> pixels b 3 h w; the encoder's mirror image, with one block more a level."""

    def __init__(self, config: PyramidConfig) -> None:
        widths, groups = config.widths[::-1], config.groups
        layers: list[nn.Module] = [nn.Conv2d(config.latent, widths[0], 3, padding=1), *_middle(widths[0], groups)]
        for level, (inputs, width) in enumerate(pairwise((widths[0], *widths))):
            if level:
                layers.append(Upsample(inputs))
            attends = config.sides[-1 - level] in config.attention
            layers.extend(_level(inputs, width, config.blocks + 1, attends, groups))
        layers.extend([norm(widths[-1], groups), nn.SiLU()])
        layers.append(nn.Conv2d(widths[-1], folded_channels(3, config.patch), 3, padding=1))
        layers.extend(unfolding(3, config.patch, nn.SiLU()))
        super().__init__(*layers)
