"""The one attention: self or cross, causal or masked, with or without a cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.linear import Linear


@dataclass
class Cache:
    """Keys and values of the positions seen so far, for every layer, in memory that is taken once.

    `keys` and `values` are `(layers, b, heads, capacity, head width)`; the first `length` positions are filled. The
    transformer that fills it moves `length` on; nothing is copied or grown while sampling.
    """

    keys: Tensor
    values: Tensor
    length: int = 0

    @classmethod
    def empty(cls, *, layers: int, rows: int, heads: int, capacity: int, head_width: int, like: Tensor) -> Cache:
        """A cache for `rows` sequences of at most `capacity` tokens, with the dtype and device of `like`.

        On a CPU it is float32 at the least: attention over bfloat16 takes one query four times as long.
        """
        shape = (layers, rows, heads, capacity, head_width)
        dtype = torch.promote_types(like.dtype, torch.float32) if like.device.type == "cpu" else like.dtype
        return cls(like.new_zeros(shape, dtype=dtype), like.new_zeros(shape, dtype=dtype))

    @property
    def capacity(self) -> int:
        """How many positions fit."""
        return self.keys.shape[3]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes `b heads n w` of one layer behind what is there, and gives all, `b heads length+n w`."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2).

    Queries come from `x`; keys and values from `context`, or from `x` where there is none. Where both are `joined`,
    those of the context stand before those of `x` (Nichol et al. 2021, section 2.1).
    """

    def __init__(self, width: int, heads: int, *, context_width: int | None = None, joined: bool = False) -> None:
        super().__init__()
        if heads < 1 or width < heads or width % heads:
            raise PinxitError(f"A width of {width} does not divide into {heads} heads: choose a multiple.")
        self.heads = heads
        if context_width is None or joined:
            self.query_key_value = Linear(width, 3 * width)
        else:
            self.query = Linear(width, width)
        if context_width is not None:
            self.key_value = Linear(context_width, 2 * width)
        self.out = Linear(width, width)

    def forward(
        self,
        x: Tensor,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """`x` b n d -> b n d.

        `mask` is boolean and broadcasts to `b heads n m`, True where a query may look; where there is one, it alone
        decides and `causal` is not asked. With a `cache`, `x` holds the
        positions `cache.length ...` of the sequence, whose keys and values are written there before attending, and
        `mask` covers the columns up to the last of them.
        """
        b, n, d = x.shape
        if context is None:
            q, k, v = split(self.query_key_value(x), self.heads)
        else:
            k, v = self.key_value(context).view(b, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
            if hasattr(self, "query"):
                q = self.query(x).view(b, n, self.heads, d // self.heads).transpose(1, 2)
            else:
                q, own_k, own_v = split(self.query_key_value(x), self.heads)
                k, v = torch.cat([k, own_k], 2), torch.cat([v, own_v], 2)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        y = attend(q, k, v, mask, causal)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, n, d))
        return out


def split(query_key_value: Tensor, heads: int) -> tuple[Tensor, ...]:
    """`b n 3d` -> queries, keys and values, `b heads n w` each."""
    b, n, d = query_key_value.shape
    return query_key_value.view(b, n, 3, heads, d // (3 * heads)).permute(2, 0, 3, 1, 4).unbind()


PLAIN_UP_TO = 1024
"""Keys up to which plain products over bfloat16 are faster on a CPU than the fused kernel, up to twice forward and five
times in training. Over float32 they are no faster, and keep all weights for the backward pass.
"""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(w)) v: `b heads n w` and twice `b heads m w` -> `b heads n w`.

    Queries look where `mask` allows, or else causally, or else everywhere. Causally, they are the last n of the m.
    """
    if q.dtype != k.dtype:  # out of a cache
        return attend(q.to(k.dtype), k, v, mask, causal).to(q.dtype)
    n, m = q.shape[-2], k.shape[-2]
    causal = causal and n > 1 and mask is None
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and m <= PLAIN_UP_TO
    if causal and (plain or n < m):
        mask, causal = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n), False
    if plain:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
        return torch.matmul(scores.softmax(-1).to(v.dtype), v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
