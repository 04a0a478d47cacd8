"""The U-Net of diffusion models: DDPM's, ADM's and GLIDE's.

Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3; Nichol et al. 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.attention import Attention
from pinxit.nn.convolution import folded_channels, unfolding
from pinxit.nn.embeddings import embed_times
from pinxit.nn.group_norm import GroupNorm
from pinxit.nn.linear import Linear

HEAD_WIDTH = 64
"""Channels of a head, as ADM found best (table 2)."""


@dataclass(frozen=True)
class UNetConfig:
    """Its shape, and what it can be told beside the noisy picture."""

    size: int
    """Side of the pictures it is trained on, in pixels or latents; it is fully convolutional."""
    channels: int
    """Of the finest level."""
    multipliers: tuple[float, ...]
    """Channels of each level in these units, finest first."""
    blocks: int
    """Residual blocks a level; on the way up there is one more."""
    attention: tuple[int, ...]
    """Sides of the feature maps, at `size`, whose blocks are followed by attention; as in ADM, those that no level has
    are passed over."""
    middle: bool = True
    """Whether the coarsest one attends anyway, between its blocks in the middle."""
    heads: int | None = None
    """Of each attention; where they are not told, as many as are 64 channels wide."""
    inputs: int = 3
    """Channels of the noisy picture."""
    outputs: int = 3
    """Channels told of it; twice as many where the variance is learnt."""
    beside: int = 0
    """Channels that may stand beside the noisy picture: one at a low resolution, what is known of it and where."""
    tokens: int | None = None
    """Width of tokens to look at."""
    looks: Literal["joined", "cross"] = "joined"
    """Whether tokens join the keys and values of the self-attention, as in GLIDE, or are looked at after it."""
    scale_shift: bool = True
    """The embedding scales and shifts what is normed, as in ADM, rather than being added before."""
    resample: Literal["block", "conv", "fold"] = "block"
    """Resolutions change inside of residual blocks, as in ADM, or by convolutions, as in DDPM; or pixels are folded
    into channels and back, at the lower resolution, which saves a third of the work."""
    dropout: float = 0.0
    groups: int = 32
    """Of the group norms."""
    patch: int = 1
    """Side of the squares of pixels that are folded into channels first. 1 as published; 2 or 4 suits a laptop."""
    positions: bool = False
    """Whether every place has a learnt vector, stretched to pictures of other sizes. Without them convolutions and
    attention know where they are by the edges alone, and learn late what is left, right, above and below."""

    def __post_init__(self) -> None:
        if self.size % self.factor:
            raise PinxitError(
                f"size={self.size} cannot be halved as often as patch={self.patch} and {len(self.multipliers)} levels "
                f"ask. Choose a multiple of {self.factor}."
            )
        for width in self.widths:
            if width % self.groups:
                raise PinxitError(
                    f"A level of {width} channels does not divide into {self.groups} groups. Choose channels and "
                    f"multipliers that make multiples of {self.groups}."
                )
        for side, width in zip(self.sides, self.widths, strict=True):
            if (side in self.attention or (self.middle and side == self.sides[-1])) and width % self.heads_of(width):
                raise PinxitError(
                    f"{width} channels do not divide into {self.heads_of(width)} heads. Choose heads that divide them."
                )

    def heads_of(self, channels: int) -> int:
        """How many heads an attention over so many channels has."""
        return self.heads or max(1, channels // HEAD_WIDTH)

    @property
    def time_width(self) -> int:
        """Width of the embedding of the time."""
        return 4 * self.channels

    @property
    def factor(self) -> int:
        """What sides of pictures have to be multiples of."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(round(self.channels * multiplier) for multiplier in self.multipliers)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of each level's feature maps at `size`, finest first."""
        return tuple(self.size // self.patch // 2**level for level in range(len(self.multipliers)))


@dataclass(frozen=True)
class Guide:
    """What a picture is made for, as the U-Net takes it; each may be left out where the config allows for it."""

    added: Tensor | None = None
    """b w, to the embedding of the time."""
    tokens: Tensor | None = None
    """b l d."""
    mask: Tensor | None = None
    """b l, True where there is a token to look at; all of them where there is no mask."""
    beside: Tensor | None = None
    """b c h w."""


NOTHING = Guide()


class Block(nn.Module):
    """A residual block that knows the time, and may halve or double the resolution inside (ADM, appendix A)."""

    def __init__(
        self, config: UNetConfig, inputs: int, outputs: int, change: Literal["down", "up"] | None = None
    ) -> None:
        super().__init__()
        self.change = change
        self.scale_shift = config.scale_shift
        self.norm1, self.conv1 = GroupNorm(config.groups, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.told = Linear(config.time_width, outputs * (1 + config.scale_shift))
        self.norm2, self.conv2 = GroupNorm(config.groups, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        _zero(self.conv2)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """b c h w and the activated embedding b e -> b c' h' w'."""
        path = self.conv1(resized(F.silu(self.norm1(x)), self.change))
        told = self.told(told)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, 1)
            path = self.norm2(path) * (1 + scale) + shift
        else:
            path = self.norm2(path + told)
        out: Tensor = self.skip(resized(x, self.change)) + self.conv2(self.dropout(F.silu(path)))
        return out


def resized(x: Tensor, change: Literal["down", "up"] | None) -> Tensor:
    """Means of two by two, or each value four times."""
    match change:
        case "down":
            return F.avg_pool2d(x, 2)
        case "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        case None:
            return x


class Change(nn.Module):
    """Half or twice the resolution, by a 3x3 convolution that knows no time (DDPM)."""

    def __init__(self, channels: int, change: Literal["down", "up"]) -> None:
        super().__init__()
        self.change = change
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if change == "down" else 1, padding=1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:  # noqa: ARG002
        """b c h w -> b c h' w'."""
        out: Tensor = self.conv(resized(x, "up") if self.change == "up" else x)
        return out


class Fold(nn.Module):
    """Half or twice the resolution: two by two places into channels and back, mixed at the lower resolution."""

    def __init__(self, inputs: int, outputs: int, change: Literal["down", "up"]) -> None:
        super().__init__()
        self.change = change
        self.conv = nn.Conv2d(4 * inputs, outputs, 1) if change == "down" else nn.Conv2d(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:  # noqa: ARG002
        """b c h w -> b c' h' w'."""
        if self.change == "down":
            return self.conv(F.pixel_unshuffle(x, 2))  # type: ignore[no-any-return]
        return F.pixel_shuffle(self.conv(x), 2)


class AttentionBlock(nn.Module):
    """Every place looks at every other, and at the tokens, beside a skip."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        heads = config.heads_of(channels)
        joined = config.tokens is not None and config.looks == "joined"
        self.norm = GroupNorm(config.groups, channels)
        self.attention = Attention(channels, heads, context_width=config.tokens if joined else None, joined=joined)
        _zero(self.attention.out)
        self.cross = None
        if config.tokens is not None and config.looks == "cross":
            self.cross_norm = GroupNorm(config.groups, channels)
            self.cross = Attention(channels, heads, context_width=config.tokens)
            _zero(self.cross.out)

    def forward(self, x: Tensor, tokens: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """b c h w, tokens b l d and which of them there are, b l -> b c h w."""
        seen = None if mask is None else mask[:, None, None]  # by all heads from all places
        if self.cross is None:
            if seen is not None:
                seen = F.pad(seen, (0, x.shape[2] * x.shape[3]), value=True)  # the picture's own places come behind
            return x + _at_places(self.attention(_places(self.norm(x)), context=tokens, mask=seen), x)
        x = x + _at_places(self.attention(_places(self.norm(x))), x)
        if tokens is not None:
            x = x + _at_places(self.cross(_places(self.cross_norm(x)), context=tokens, mask=seen), x)
        return x


def _places(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _at_places(x: Tensor, like: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(like.shape)


class Stage(nn.Module):
    """A block, a look around where this resolution has one, and on the way up what doubles it."""

    def __init__(self, block: nn.Module, look: AttentionBlock | None = None, change: nn.Module | None = None) -> None:
        super().__init__()
        self.block, self.look, self.change = block, look, change

    def forward(self, x: Tensor, told: Tensor, guide: Guide) -> Tensor:
        """b c h w -> b c' h' w'."""
        x = self.block(x, told)
        if self.look is not None:
            x = self.look(x, guide.tokens, guide.mask)
        return x if self.change is None else self.change(x, told)


class UNetEncoder(nn.Module):
    """The way down, and the middle: of a U-Net, and of a classifier of noisy pictures."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        base, told = config.channels, config.time_width
        self.time = nn.Sequential(Linear(base, told), nn.SiLU(), Linear(told, told))
        self.stem = nn.Conv2d((config.inputs + config.beside) * config.patch**2, config.widths[0], 3, padding=1)
        if config.positions:
            self.positions = nn.Parameter(torch.empty(config.widths[0], config.sides[0], config.sides[0]))
            nn.init.normal_(self.positions, std=0.3)  # half of what the stem makes of pictures
        self.down = nn.ModuleList(_down(config))
        bottom = config.widths[-1]
        self.middle = nn.ModuleList(
            [
                Stage(Block(config, bottom, bottom), AttentionBlock(config, bottom) if config.middle else None),
                Stage(Block(config, bottom, bottom)),
            ]
        )

    def forward(self, x: Tensor, times: Tensor, guide: Guide) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Noisy values b c h w, times b of a thousand -> the middle's features, what all blocks are told, and what the
        way down has kept.
        """
        told = self.time(embed_times(times, self.config.channels).to(self.stem.weight.dtype))
        if guide.added is not None:
            told = told + guide.added
        told = F.silu(told)
        if self.config.beside:
            beside = guide.beside if guide.beside is not None else x.new_zeros(len(x), self.config.beside, *x.shape[2:])
            x = torch.cat([x, beside], 1)
        x = self.stem(F.pixel_unshuffle(x, self.config.patch))
        if self.config.positions:
            x = x + F.interpolate(self.positions[None], x.shape[2:], mode="bilinear").to(x.dtype)
        kept = [x]
        for stage in self.down:
            x = stage(x, told, guide)
            kept.append(x)
        for stage in self.middle:
            x = stage(x, told, guide)
        return x, told, kept


class UNet(nn.Module):
    """A noisy picture and its time -> what the process wants to be told of it."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.encoder = UNetEncoder(config)
        self.up = nn.ModuleList(_up(config))
        last = nn.Conv2d(config.widths[0], folded_channels(config.outputs, config.patch), 3, padding=1)
        self.head = nn.Sequential(
            GroupNorm(config.groups, config.widths[0]),
            nn.SiLU(),
            last,
            *unfolding(config.outputs, config.patch, nn.SiLU()),
        )
        _zero(self.head[-1])

    def forward(self, x: Tensor, times: Tensor, guide: Guide = NOTHING) -> Tensor:
        """Noisy values b c h w, times b of a thousand -> b outputs h w."""
        x, told, kept = self.encoder(x, times, guide)
        for stage in self.up:
            x = stage(torch.cat([x, kept.pop()], 1), told, guide)
        out: Tensor = self.head(x)
        return out


def _down(config: UNetConfig) -> Iterator[Stage]:
    """The stages on the way down, and what they keep for the way up."""
    width = config.widths[0]
    for level, (outputs, side) in enumerate(zip(config.widths, config.sides, strict=True)):
        for _ in range(config.blocks):
            yield Stage(Block(config, width, outputs), _look(config, side, outputs))
            width = outputs
        if level < len(config.widths) - 1:
            yield Stage(_change(config, width, width, "down"))


def _up(config: UNetConfig) -> Iterator[Stage]:
    """The stages on the way up, each of which is given what one on the way down has kept."""
    kept = [config.widths[0]]
    for level, outputs in enumerate(config.widths):
        kept += [outputs] * (config.blocks + (level < len(config.widths) - 1))
    width = config.widths[-1]
    for level, (outputs, side) in reversed(list(enumerate(zip(config.widths, config.sides, strict=True)))):
        for number in range(config.blocks + 1):
            block, width = Block(config, width + kept.pop(), outputs), outputs
            change: nn.Module | None = None
            if level and number == config.blocks:
                width = config.widths[level - 1] if config.resample == "fold" else outputs
                change = _change(config, outputs, width, "up")
            yield Stage(block, _look(config, side, outputs), change)


def _change(config: UNetConfig, inputs: int, outputs: int, change: Literal["down", "up"]) -> nn.Module:
    match config.resample:
        case "block":
            return Block(config, inputs, outputs, change)
        case "conv":
            return Change(inputs, change)
        case "fold":
            return Fold(inputs, outputs, change)


def _look(config: UNetConfig, side: int, channels: int) -> AttentionBlock | None:
    return AttentionBlock(config, channels) if side in config.attention else None


def _zero(module: nn.Module) -> None:
    """A path that starts as nothing."""
    for value in module.parameters():
        nn.init.zeros_(value)
