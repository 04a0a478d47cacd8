"""The transformer block and the stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pinxit.nn.attention import Attention, Cache
from pinxit.nn.linear import Linear

Activation = Literal["gelu", "quick_gelu"]


class QuickGELU(nn.Module):
    """`x * sigmoid(1.702 x)`, the approximation that OpenAI's CLIP and iGPT were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm residual block: attention, then a two-layer perceptron four times as wide (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int, *, activation: Activation = "gelu") -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            Linear(width, 4 * width),
            nn.GELU() if activation == "gelu" else QuickGELU(),
            Linear(4 * width, width),
        )

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False, cache: Cache | None = None, layer: int = 0
    ) -> Tensor:
        """`x` b n d -> b n d; the other arguments as in `Attention`."""
        x = x + self.attention(self.attention_norm(x), mask=mask, causal=causal, cache=cache, layer=layer)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class Transformer(nn.Module):
    """A stack of blocks. Embedding, final norm and head belong to the network that uses it."""

    def __init__(self, width: int, depth: int, heads: int, *, activation: Activation = "gelu") -> None:
        super().__init__()
        self.width, self.depth, self.heads = width, depth, heads
        self.blocks = nn.ModuleList(Block(width, heads, activation=activation) for _ in range(depth))

    def forward(
        self,
        x: Tensor,
        *,
        masks: Sequence[Tensor | None] | None = None,
        causal: bool = False,
        cache: Cache | None = None,
    ) -> Tensor:
        """`x` b n d -> b n d.

        `masks` gives each block its own (True where a query may look; None for none). With a `cache`, `x` continues
        the sequence in it, and the masks' columns reach up to the last position of `x`.
        """
        for layer, block in enumerate(self.blocks):
            x = block(x, mask=masks[layer] if masks else None, causal=causal, cache=cache, layer=layer)
        if cache is not None:
            cache.length += x.shape[1]
        return x

    def empty_cache(self, rows: int, capacity: int, like: Tensor) -> Cache:
        """A cache for `rows` sequences of at most `capacity` tokens, with the dtype and device of `like`."""
        return Cache.empty(
            layers=self.depth,
            rows=rows,
            heads=self.heads,
            capacity=capacity,
            head_width=self.width // self.heads,
            like=like,
        )


def initialize_residual(transformer: Transformer, std: float = 0.02) -> None:
    """GPT-2's initialisation: normal weights, and those that write to the residual stream scaled by 1/sqrt(2 depth)."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
    for block in transformer.blocks:
        assert isinstance(block, Block)
        for layer in (block.attention.out, block.mlp[2]):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=std * (2 * transformer.depth) ** -0.5)
