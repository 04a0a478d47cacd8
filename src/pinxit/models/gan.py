"""A generative adversarial network for classes, texts or nothing: what diffusion is compared with.

Goodfellow et al. 2014; residual blocks and the scaled, shifted norms of the generator as in Brock et al. 2019
("BigGAN"); the critic's condition by a projection (Miyato and Koyama 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.models.text_encoder import TextEncoder, TextEncoderConfig
from pinxit.nn.group_norm import GroupNorm
from pinxit.nn.linear import Linear

GROUPS = 8
"""Of the norms."""

HEAD = 24
"""Channels of the generator's last layers, at the size of the pictures."""

START = 4
"""Side of the feature maps that the generator starts from, and the critic ends at."""


@dataclass(frozen=True)
class GANConfig:
    """Both networks' shape, and what they can be asked for."""

    size: int
    """Side of the pictures in pixels."""
    widths: tuple[int, ...]
    """Channels of the feature maps, coarsest first, each twice as large a side as the one before."""
    latent: int = 128
    """Width of the noise."""
    patch: int = 1
    """How many times smaller than the pictures the largest feature maps are."""
    classes: int | None = None
    text: TextEncoderConfig | None = None

    def __post_init__(self) -> None:
        if (side := START * 2 ** (len(self.widths) - 1) * self.patch) != self.size:
            raise PinxitError(f"{len(self.widths)} widths with patch={self.patch} make {side} pixels, not {self.size}.")
        if odd := [width for width in self.widths if width % GROUPS]:
            raise PinxitError(f"widths={self.widths}: {odd[0]} does not divide into the {GROUPS} groups of a norm.")

    @property
    def condition_width(self) -> int:
        """Width of what both are told."""
        return self.widths[0]


class Words(nn.Module):
    """Classes b, of which one too many is none in particular and zeros, or the ids of texts b l -> b d."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.labels = nn.Embedding(config.classes, config.condition_width) if config.classes else None
        self.text = TextEncoder(config.text) if config.text else None
        self.out = Linear(config.text.width, config.condition_width) if config.text else None

    def forward(self, asked: Tensor | None) -> Tensor | None:
        """Nothing where nothing can be asked."""
        if asked is None:
            return None
        if self.text is not None and self.out is not None:
            told = self.out(self.text.whole(self.text(asked), asked))
            # As large as a class's embedding: a tenth of that is hardly read.
            return F.layer_norm(told, told.shape[-1:])
        assert self.labels is not None
        some = asked < self.labels.num_embeddings
        return self.labels(asked * some) * some[:, None]  # type: ignore[no-any-return]


class Up(nn.Module):
    """Twice the resolution, with norms that are told what to draw."""

    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(GROUPS, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(GROUPS, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.told1, self.told2 = Linear(told, 2 * inputs), Linear(told, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """b c h w -> b c' 2h 2w."""
        path = _enlarged(_told(self.norm1(x), self.told1(told)))
        path = self.conv2(_told(self.norm2(self.conv1(path)), self.told2(told)))
        out: Tensor = path + _enlarged(self.skip(x))
        return out


def _enlarged(x: Tensor) -> Tensor:
    """Smoothly (Karras et al. 2019): repeated pixels leave blocks, of which no critic soon rids a generator."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


def _told(x: Tensor, told: Tensor) -> Tensor:
    scale, shift = told[:, :, None, None].chunk(2, 1)
    return F.silu(x * (1 + scale) + shift)


class Generator(nn.Module):
    """Noise and what is asked -> pictures."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        width, told = config.widths[0], config.condition_width
        self.words = Words(config)
        self.style = nn.Sequential(Linear(config.latent + told, told), nn.SiLU(), Linear(told, told), nn.SiLU())
        self.start = Linear(told, START**2 * width)
        self.up = nn.ModuleList(Up(a, b, told) for a, b in pairwise(config.widths))
        self.out = nn.Sequential(
            GroupNorm(GROUPS, config.widths[-1]),
            nn.SiLU(),
            nn.Conv2d(config.widths[-1], HEAD, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(scale_factor=config.patch, mode="bilinear"),
            nn.Conv2d(HEAD, 3, 3, padding=1),
        )

    def forward(self, noise: Tensor, asked: Tensor | None = None) -> Tensor:
        """Normal noise b latent and what is asked, b or b l -> pixels b 3 h w, hardly beyond [-1, 1]."""
        return self.draw(noise, self.words(asked))

    def draw(self, noise: Tensor, words: Tensor | None) -> Tensor:
        """For what `words` has made of what was asked. Pixels pass no tanh, the gradient of which vanishes on white."""
        told = noise.new_zeros(len(noise), self.config.condition_width) if words is None else words
        style = self.style(torch.cat([noise, told], 1))
        x = self.start(style).view(len(noise), -1, START, START)
        for up in self.up:
            x = up(x, style)
        pixels: Tensor = self.out(x)
        return pixels


class Down(nn.Module):
    """Half the resolution, without norms."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Conv2d(inputs, inputs, 3, padding=1),
            nn.Conv2d(inputs, outputs, 3, padding=1),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b c' h/2 w/2."""
        path = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        out: Tensor = F.avg_pool2d(path + self.skip(x), 2) / 2**0.5
        return out


class Critic(nn.Module):
    """Pictures, and the generator's `words` of what was asked -> how real they look, and how well they fit."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths[::-1]
        self.stem = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Down(a, b) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        # PyTorch's own linear layers: R1 takes the gradient of a gradient, which oneDNN's has none of.
        self.features = nn.Linear(widths[-1] * START**2, config.condition_width)
        self.out = nn.Linear(config.condition_width, 1)

    def see(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> features b d, which may be judged for several texts or classes."""
        x = self.stem(F.pixel_unshuffle(pixels, self.config.patch))
        for down in self.down:
            x = down(x)
        x = F.leaky_relu(self.last(torch.cat([x, _variety(x)], 1)), 0.2)
        return F.leaky_relu(self.features(x.flatten(1)), 0.2)

    def judge(self, features: Tensor, words: Tensor | None) -> Tensor:
        """Features b d and what `words` has made of what was asked -> logits b."""
        logits: Tensor = self.out(features)[:, 0]
        return logits if words is None else logits + (features * words).sum(1) / self.config.condition_width**0.5


def _variety(x: Tensor) -> Tensor:
    """How much pictures of the batch differ, by fours: b 1 h w (Karras et al. 2018, section 3)."""
    group = next(size for size in (4, 2, 1) if len(x) % size == 0)
    spread = x.view(group, -1, *x.shape[1:]).float().var(0, unbiased=False).add(1e-8).sqrt()
    told = spread.mean((1, 2, 3), keepdim=True).repeat(group, 1, 1, 1)
    return told.expand(-1, 1, *x.shape[2:]).to(x.dtype)


SIZES = {
    "small-64": GANConfig(size=64, widths=(256, 192, 128, 64), patch=2),
    "tiny-32": GANConfig(size=32, widths=(64, 32, 32), patch=2, latent=32),
}
