"""CLIP: a picture tower and a text tower that meet in one space of unit vectors.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision". The towers, their norms
and their pooling are those of the published code, so that its weights give the same numbers here. The configuration
carries what published checkpoints leave to convention: the activation, and the pixel statistics, applied inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.transformer import Activation, Block, Transformer


@dataclass(frozen=True)
class VisionConfig:
    """The vision transformer: square pictures of `size` pixels, cut into patches of `patch` pixels."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    levels: int | None = None
    """How many levels of noise it knows, each by a class token of its own (Nichol et al. 2021, section 2.4); without
    them it knows clean pictures alone."""


@dataclass(frozen=True)
class TextConfig:
    """The text transformer: `length` positions, start and end tokens among them."""

    vocab_size: int
    length: int
    width: int
    depth: int
    heads: int


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers, the width of the space they share, and what travels with the weights.

    `mean` and `std` normalise red, green and blue as fractions of 1, as published preprocessing states them; 0.5 and
    0.5 leave pixels in [-1, 1] as they are.
    """

    width: int
    vision: VisionConfig
    text: TextConfig
    activation: Activation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def with_vocabulary(self, vocab_size: int) -> CLIPConfig:
        """The same network for a tokenizer of `vocab_size` ids."""
        return replace(self, text=replace(self.text, vocab_size=vocab_size))


class VisionTower(nn.Module):
    """Vision transformer with a class token (Dosovitskiy et al. 2021) and a norm before the blocks."""

    def __init__(self, config: VisionConfig, embedding_width: int, activation: Activation) -> None:
        super().__init__()
        if config.patch < 1 or config.size < config.patch or config.size % config.patch:
            raise PinxitError(
                f"Pictures of {config.size} pixels do not divide into patches of {config.patch}: choose a multiple."
            )
        self.size = config.size
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
        self.class_token = nn.Parameter(torch.empty(*([config.levels] if config.levels else []), config.width))
        self.positions = nn.Parameter(torch.empty((config.size // config.patch) ** 2 + 1, config.width))
        self.norm_before = nn.LayerNorm(config.width)
        self.transformer = Transformer(config.width, config.depth, config.heads, activation=activation)
        self.norm_after = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, embedding_width, bias=False)
        std = config.width**-0.5
        nn.init.normal_(self.class_token, std=std)
        nn.init.normal_(self.positions, std=std)
        nn.init.normal_(self.projection.weight, std=std)
        _initialize(self.transformer)

    def forward(self, pixels: Tensor, times: Tensor | None = None) -> Tensor:
        """Normalised pixels b 3 h w, and where it knows noise their times b, of a thousand -> b d."""
        embedding: Tensor = self.projection(self.norm_after(self.transformer(self.embed(pixels, times))[:, 0]))
        return embedding

    def embed(self, pixels: Tensor, times: Tensor | None = None) -> Tensor:
        """Normalised pixels b 3 h w -> what the blocks are given, the class token and then the patches, b 1+n d."""
        if pixels.shape[1:] != (3, self.size, self.size):
            raise ValueError(f"expected pixels b 3 {self.size} {self.size}, got {tuple(pixels.shape)}")
        x = self.patches(pixels).flatten(2).transpose(1, 2)  # b n d
        class_token = self.class_token.to(x.dtype)
        if class_token.ndim == 2:
            times = x.new_zeros(len(x)) if times is None else times
            class_token = class_token[(times * len(class_token) / 1_000).long().clamp(0, len(class_token) - 1)]
        class_token = class_token.view(-1, 1, x.shape[2]).expand(len(x), 1, -1)
        out: Tensor = self.norm_before(torch.cat([class_token, x], dim=1) + self.positions)
        return out


class TextTower(nn.Module):
    """Causal transformer whose output at the end token stands for the text."""

    def __init__(self, config: TextConfig, embedding_width: int, activation: Activation) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.length, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads, activation=activation)
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, embedding_width, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.projection.weight, std=config.width**-0.5)
        _initialize(self.transformer)

    def forward(self, ids: Tensor) -> Tensor:
        """Framed ids b l -> b d. The end token is the largest id, so argmax finds the first."""
        return self._embedding(self.norm(self._ends(self._transformed(ids), ids)))

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Framed ids b l -> b d, and what stands at every token, b l w."""
        x = self.norm(self._transformed(ids))
        return self._embedding(self._ends(x, ids)), x

    def _transformed(self, ids: Tensor) -> Tensor:
        out: Tensor = self.transformer(self.tokens(ids) + self.positions[: ids.shape[1]], causal=True)
        return out

    def _ends(self, x: Tensor, ids: Tensor) -> Tensor:
        """What stands at the end tokens, b w."""
        return x[torch.arange(len(x), device=x.device), ids.argmax(dim=-1)]

    def _embedding(self, end: Tensor) -> Tensor:
        embedding: Tensor = self.projection(end)
        return embedding


class CLIP(nn.Module):
    """Pictures and texts to unit vectors whose dot product, times `exp(logit_scale)`, is the logit of a match."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision, config.width, config.activation)
        self.text = TextTower(config.text, config.width, config.activation)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        # 2 p - 1 = pixel and (p - mean) / std in one: the same statistics, told in the units of [-1, 1].
        self.register_buffer("mean", 2 * torch.tensor(config.mean).view(3, 1, 1) - 1, persistent=False)
        self.register_buffer("std", 2 * torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def encode_image(self, pixels: Tensor, times: Tensor | None = None, *, unit: bool = True) -> Tensor:
        """Pixels in [-1, 1], b 3 h w -> b d in float32, unit rows or as they come.

        One that knows noise is told their times b, of a thousand; without them they are clean.
        """
        return _rows(self.vision((pixels - self.mean) / self.std, times), unit)

    def encode_text(self, ids: Tensor, *, unit: bool = True) -> Tensor:
        """Ids b l, framed by start and end (`text.tokenizer.frame`) -> b d in float32, unit rows or as they come."""
        return _rows(self.text(ids), unit)

    def read(self, ids: Tensor, *, unit: bool = True) -> tuple[Tensor, Tensor]:
        """Ids b l -> the same, and what stands at every token, b l w."""
        embedding, tokens = self.text.read(ids)
        return _rows(embedding, unit), tokens.float()

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Pixels b 3 h w and ids m l -> logits b m."""
        return self.logit_scale.exp() * self.encode_image(pixels) @ self.encode_text(ids).T


def _rows(embeddings: Tensor, unit: bool) -> Tensor:
    embeddings = embeddings.float()
    return F.normalize(embeddings, dim=-1) if unit else embeddings


def _initialize(transformer: Transformer) -> None:
    """The published code's initialisation: by width, and by depth where a layer writes to the residual stream."""
    width, depth = transformer.width, transformer.depth
    for block in transformer.blocks:
        assert isinstance(block, Block)
        widen, narrow = block.mlp[0], block.mlp[2]
        assert isinstance(widen, nn.Linear)
        assert isinstance(narrow, nn.Linear)
        residual_std = width**-0.5 * (2 * depth) ** -0.5
        for layer, std in (
            (block.attention.query_key_value, width**-0.5),
            (block.attention.out, residual_std),
            (widen, (2 * width) ** -0.5),
            (narrow, residual_std),
        ):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


def _published(size: int, patch: int, vision: tuple[int, int], text_width: int, width: int) -> CLIPConfig:
    """A size of the paper's table 20, `vision` being (width, depth), with OpenAI's vocabulary and statistics."""
    return CLIPConfig(
        width=width,
        vision=VisionConfig(size, patch, *vision, heads=vision[0] // 64),
        text=TextConfig(vocab_size=49_408, length=77, width=text_width, depth=12, heads=text_width // 64),
        activation="quick_gelu",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


def _small(size: int, vision: tuple[int, int], text: tuple[int, int], width: int, length: int) -> CLIPConfig:
    """A size for small pictures, with (width, depth) of each tower, heads of 32 and a vocabulary of 2,048."""
    return CLIPConfig(
        width=width,
        vision=VisionConfig(size, 8, *vision, heads=vision[0] // 32),
        text=TextConfig(2_048, length, *text, heads=text[0] // 32),
        activation="gelu",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


SIZES: Mapping[str, CLIPConfig] = {
    "vit-b32": _published(224, 32, (768, 12), 512, 512),
    "vit-b16": _published(224, 16, (768, 12), 512, 512),
    "vit-l14": _published(224, 14, (1024, 24), 768, 768),
    "vit-l14-336": _published(336, 14, (1024, 24), 768, 768),
    "glide-noised": replace(
        _published(64, 4, (768, 12), 512, 512),
        vision=VisionConfig(64, 4, 768, 12, heads=12, levels=1_000),
        activation="gelu",
    ),
    "base-64": _small(64, vision=(192, 6), text=(128, 4), width=128, length=64),  # 3.8 M parameters
    "small-64": _small(64, vision=(128, 6), text=(96, 3), width=96, length=64),  # 1.8 M
    "tiny-32": _small(32, vision=(64, 2), text=(64, 2), width=32, length=32),  # 0.4 M
}
