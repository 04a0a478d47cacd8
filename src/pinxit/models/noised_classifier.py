"""A classifier of noisy pictures: the first half of a U-Net, and attention that pools it (ADM, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.errors import PinxitError
from pinxit.models.unet import NOTHING, UNetConfig, UNetEncoder
from pinxit.nn.group_norm import GroupNorm


@dataclass(frozen=True)
class NoisedClassifierConfig:
    """The half of a U-Net, the process whose pictures it judges, and the classes."""

    unet: UNetConfig
    process: ProcessConfig
    classes: int

    def __post_init__(self) -> None:
        if self.unet.tokens or self.unet.beside:
            raise PinxitError("A classifier is shown the noisy picture alone: leave unet.tokens and unet.beside out.")


class NoisedClassifier(nn.Module):
    """Noisy pictures and their times -> logits of the classes."""

    def __init__(self, config: NoisedClassifierConfig) -> None:
        super().__init__()
        self.config = config
        width = config.unet.widths[-1]
        self.encoder = UNetEncoder(config.unet)
        self.norm = GroupNorm(config.unet.groups, width)
        self.pool = Pool(width, config.unet.heads_of(width), config.unet.sides[-1], config.classes)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Noisy values b c h w, times b of a thousand -> b k."""
        features, _, _ = self.encoder(x, times, NOTHING)
        out: Tensor = self.pool(F.silu(self.norm(features)))
        return out


class Pool(nn.Module):
    """The mean of all places looks at all places (CLIP's attention pooling)."""

    def __init__(self, width: int, heads: int, side: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.randn(side**2 + 1, width) / width**0.5)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b outputs."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positions
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.query_key_value(x).chunk(3, 2)
        )
        pooled = F.scaled_dot_product_attention(query[:, :, :1], key, value)  # b heads 1 d
        out: Tensor = self.out(pooled.flatten(1))
        return out


def half_of(config: UNetConfig) -> UNetConfig:
    """A U-Net's shape for a classifier of its pictures: what is shown beside them left out."""
    return replace(config, tokens=None, beside=0)


def _published(size: int, multipliers: tuple[float, ...], blocks: int = 2) -> NoisedClassifierConfig:
    betas: Literal["linear", "cosine"] = "cosine" if size == 64 else "linear"
    return NoisedClassifierConfig(
        UNetConfig(size, 128, multipliers, blocks, (32, 16, 8), outputs=6),
        ProcessConfig(DiscreteConfig(betas), learned_variance=True),
        classes=1_000,
    )


SIZES = {
    "adm-64": _published(64, (1, 2, 3, 4), blocks=4),
    "adm-128": _published(128, (1, 1, 2, 3, 4)),
    "adm-256": _published(256, (1, 1, 2, 2, 4, 4)),
    "adm-512": _published(512, (0.5, 1, 1, 2, 2, 4, 4)),
}
"""guided-diffusion's."""
