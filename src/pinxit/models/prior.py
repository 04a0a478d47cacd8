"""unCLIP's diffusion prior: from a text to the CLIP embedding of a picture of it.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents", section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pinxit.diffusion.levels import Level
from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.errors import PinxitError
from pinxit.models.clip import CLIP
from pinxit.nn.attention import Cache
from pinxit.nn.embeddings import embed_times
from pinxit.nn.linear import Linear
from pinxit.nn.transformer import Transformer, initialize_residual

LEVELS = 20
"""Times at which a prior knows how far off it is."""

BEYOND = 4
"""Positions after the text: its embedding, the time, the noisy embedding, and the query."""


@dataclass(frozen=True)
class PriorConfig:
    """The shape of the transformer, and of the CLIP whose embeddings it tells."""

    embedding: int
    """d of the CLIP's embeddings."""
    length: int
    """l, positions of its texts."""
    text_width: int
    """w of what its text tower tells of every token."""
    width: int
    depth: int
    heads: int
    process: ProcessConfig = field(default_factory=lambda: ProcessConfig(DiscreteConfig("cosine"), target="x0"))
    unit: bool = True
    """Whether embeddings are of length 1, or as CLIP's towers give them."""
    bound: float | None = None
    """What values stay within as they are drawn, in the prior's units; without it they are free."""

    def __post_init__(self) -> None:
        if self.process.learned_variance:
            raise PinxitError("A prior tells no variance: its process has learned_variance=false.")
        if not isinstance(self.process.schedule, DiscreteConfig):
            raise PinxitError("A prior knows its errors at levels of noise that are counted: give a DiscreteConfig.")


@dataclass(frozen=True)
class Read:
    """What a CLIP has read of texts: b of each."""

    tokens: Tensor
    """What stands at every token, b l w."""
    mask: Tensor
    """b l, True up to the end of the text."""
    embedding: Tensor
    """b d."""

    def joined(self, other: Read) -> Read:
        """A batch of both, the other's after these."""
        return Read(*(torch.cat([getattr(self, each.name), getattr(other, each.name)]) for each in fields(self)))


class Begun(NamedTuple):
    """What a prior has made of a text, for all times."""

    cache: Cache
    mask: Tensor
    """b l, as in `Read`."""


def read(clip: CLIP, ids: Tensor, *, unit: bool = True) -> Read:
    """Framed ids b l, as a CLIP reads them, whose embeddings are `unit` vectors or as they come."""
    embedding, tokens = clip.read(ids, unit=unit)
    places = torch.arange(ids.shape[1], device=ids.device)
    return Read(tokens, places <= ids.argmax(1)[:, None], embedding)


class Prior(nn.Module):
    """A causal transformer over a text, its embedding, the time, the noisy embedding and a query, whose output tells.

    Embeddings are told apart from their mean, in units of their standard deviation, both kept with the weights: unit
    vectors are small in each direction, and noise would drown them. How far off it is at each level of noise is kept
    as well, for the variance of few steps.
    """

    mean: Tensor
    std: Tensor
    errors: Tensor
    """Mean squared error of the clean embedding that it expects, in those units, by the time: least noise first."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.tokens = Linear(config.text_width, width)
        self.text = Linear(config.embedding, width)
        self.time = nn.Sequential(Linear(width, width), nn.SiLU(), Linear(width, width))
        self.noisy = Linear(config.embedding, width)
        self.query = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.empty(config.length + BEYOND, width))
        self.transformer = Transformer(width, config.depth, config.heads)
        self.norm = nn.LayerNorm(width)
        self.told = Linear(width, config.embedding)
        self.register_buffer("mean", torch.zeros(config.embedding))
        self.register_buffer("std", torch.ones(config.embedding))
        self.register_buffer("errors", torch.zeros(LEVELS))
        nn.init.normal_(self.positions, std=0.01)
        initialize_residual(self.transformer)

    def forward(self, x: Tensor, times: Tensor, read: Read) -> Tensor:
        """Noisy embeddings b d, as `scaled` has them, and times b of a thousand -> what the process wants, b d."""
        return self._out(torch.cat([self._first(read), self._last(x, times)], 1), read.mask)

    def begun(self, read: Read) -> Begun:
        """What stays the same at all times: nothing of a text looks at the time, nor at the noisy embedding."""
        first = self._first(read)
        masks = [mask[:, :, : first.shape[1], : first.shape[1]] for mask in self._masks(read.mask)]
        cache = self.transformer.empty_cache(len(first), self.config.length + BEYOND, first)
        self.transformer(first, masks=masks, cache=cache)
        return Begun(cache, read.mask)

    def continued(self, x: Tensor, times: Tensor, begun: Begun) -> Tensor:
        """The same as `forward`, after what has `begun`."""
        begun.cache.length = self.config.length + 1
        return self._out(self._last(x, times), begun.mask, begun.cache)

    def _first(self, read: Read) -> Tensor:
        first = torch.cat([self.tokens(read.tokens), self.text(read.embedding)[:, None]], 1)
        return first + self.positions[: self.config.length + 1]

    def _last(self, x: Tensor, times: Tensor) -> Tensor:
        time = self.time(embed_times(times, self.config.width).to(x.dtype))
        last = torch.stack([time, self.noisy(x), self.query.expand(len(x), -1).to(x.dtype)], 1)
        return last + self.positions[self.config.length + 1 :]

    def _out(self, stream: Tensor, text: Tensor, cache: Cache | None = None) -> Tensor:
        masks = [mask[:, :, -stream.shape[1] :] for mask in self._masks(text)]
        out: Tensor = self.told(self.norm(self.transformer(stream, masks=masks, cache=cache)[:, -1]))
        return out

    def _masks(self, text: Tensor) -> list[Tensor]:
        """Each position looks back, and not at what lies behind the end of a text; one mask for all blocks."""
        length = self.config.length + BEYOND
        causal = torch.ones(length, length, dtype=torch.bool, device=text.device).tril()
        there = torch.cat([text, text.new_ones(len(text), BEYOND)], 1)
        return [(causal & there[:, None])[:, None]] * self.config.depth

    def error(self, level: Level) -> float:
        """That at one level, between those that it knows."""
        place = min(max(level.time * LEVELS / 1_000 - 0.5, 0.0), LEVELS - 1.0)
        below, share = int(place), place - int(place)
        two = self.errors[below : below + 2].tolist()
        return float(two[0] + share * (two[-1] - two[0]))

    def scaled(self, embeddings: Tensor) -> Tensor:
        """Unit rows b d -> what the process knows."""
        return (embeddings - self.mean) / self.std

    def unscaled(self, values: Tensor) -> Tensor:
        """And back."""
        return values * self.std + self.mean


SIZES = {
    # Table 3 of the paper, over its CLIP ViT-H/16; of 1B parameters.
    "paper": PriorConfig(embedding=1_024, length=256, text_width=1_024, width=2_048, depth=24, heads=32),
    # Karlo's, over CLIP ViT-L/14.
    "karlo": PriorConfig(
        embedding=768, length=77, text_width=768, width=2_048, depth=20, heads=32, unit=False, bound=10.0
    ),
}
