"""Transformers whose passes `torch.compile` has compiled, over a cache of one shape from first to last."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.attention import Cache
from pinxit.nn.transformer import Transformer

Network = TypeVar("Network", bound=nn.Module)


def check_compiler(device: torch.device) -> None:
    """Raises PinxitError where `torch.compile` would find nothing to compile with."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if device.type == "cpu" and not any(name and shutil.which(name) for name in names):
        raise PinxitError("Compiling for a CPU takes a C++ compiler, which is not installed: get g++, or leave it out.")


def compiled(network: Network) -> Network:
    """A twin of `network` for inference, with its weights, whose transformers are compiled when they are first asked.

    That takes a minute or so for each number of rows.
    """
    twin = copy.copy(network)
    twin._modules = {
        name: CompiledTransformer(child) if type(child) is Transformer else child and compiled(child)
        for name, child in network._modules.items()
    }
    return twin


@dataclass
class StaticCache(Cache):
    """The same memory, of which every step reads all, so that no shape tells one step from another."""

    place: Tensor | None = None
    """Where the step writes, 1."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes `b heads 1 w` of one layer at `place`, and gives all places, `b heads capacity w`."""
        assert self.place is not None
        for memory, new in ((self.keys, k), (self.values, v)):
            memory[layer].index_copy_(2, self.place, new.to(memory.dtype))
        return self.keys[layer], self.values[layer]


class CompiledTransformer(Transformer):
    """`Transformer`, of which single steps over a cache, and passes without one, are compiled."""

    def __init__(self, transformer: Transformer) -> None:
        nn.Module.__init__(self)
        self.width, self.depth, self.heads = transformer.width, transformer.depth, transformer.heads
        self.blocks = transformer.blocks
        self.step = torch.compile(self._step, dynamic=False)
        self.whole = torch.compile(super().forward, dynamic=False)

    def forward(
        self,
        x: Tensor,
        *,
        masks: Sequence[Tensor | None] | None = None,
        causal: bool = False,
        cache: Cache | None = None,
    ) -> Tensor:
        """As `Transformer`."""
        if cache is None:
            out: Tensor = self.whole(x, masks=masks, causal=causal)
            return out
        if x.shape[1] > 1:
            return super().forward(x, masks=masks, causal=causal, cache=cache)
        seen = torch.arange(cache.capacity, device=x.device)[None] <= cache.length  # 1 m
        rest = cache.capacity - cache.length - 1
        rows = [seen if mask is None else F.pad(mask, (0, rest)) for mask in masks or [None] * self.depth]
        place = torch.tensor([cache.length], device=x.device)
        x = self.step(x, cache.keys, cache.values, place, rows)
        cache.length += 1
        return x

    def _step(self, x: Tensor, keys: Tensor, values: Tensor, place: Tensor, masks: list[Tensor]) -> Tensor:
        """One token b 1 d, whose masks 1 m tell of all places, those to come among them."""
        cache = StaticCache(keys, values, place=place)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask=masks[layer], cache=cache, layer=layer)
        return x
