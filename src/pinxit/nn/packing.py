"""Networks made ready to be asked, on a CPU: weights in the layout that its kernels read fastest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from pinxit.nn.attention import Cache, attend, split
from pinxit.nn.linear import ONEDNN, Linear
from pinxit.nn.transformer import Block, Transformer

Network = TypeVar("Network", bound=nn.Module)

ROWS = 16
"""How many rows oneDNN is told to expect. What it lays out for a single one is slower with any number, one included."""


def can_pack() -> bool:
    """Whether this PyTorch has what `packed` asks of oneDNN."""
    return ONEDNN and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@torch.no_grad()
def packed(network: Network, dtype: torch.dtype | None = None) -> Network:
    """A twin of `network` for inference on the CPU, whose linear layers hold packed copies of their weights.

    Where rows are few, multiplying is reading the weights. PyTorch's `nn.Linear` reads them at a third to a half of the
    memory's speed, in float32 (MKL, on AMD's processors at least) and in bfloat16 (oneDNN over an unfit layout).

    `dtype` is float32 or bfloat16 (None: what the network has), or int8: weights rounded to 8 bits with a scale for
    each output, all else bfloat16. The twin shares what is neither packed nor converted, and what `network` learns
    later does not reach the rest. It is not for training, saving or moving.
    """
    twin = _ready(network, dtype or next(network.parameters()).dtype).eval()
    assert isinstance(twin, type(network))
    return twin


def _ready(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    if isinstance(module, nn.Linear) and type(module) in {nn.Linear, Linear}:  # others' weight may be read from outside
        if dtype is torch.int8 and module.in_features % 32 == module.out_features % 32 == 0:  # or else its kernel fails
            return RoundedLinear(module)
        return PackedLinear(module, torch.bfloat16 if dtype is torch.int8 else dtype)
    if type(module) is Transformer and dtype is not torch.int8 and _has_gelu(module):
        return PackedTransformer(module, dtype)
    rest = torch.bfloat16 if dtype is torch.int8 else dtype
    twin = copy.copy(module)
    twin._parameters = {
        name: value if value is None else nn.Parameter(value.detach().to(rest), requires_grad=False)
        for name, value in module._parameters.items()
    }
    twin._buffers = {
        name: value.to(rest) if value is not None and value.is_floating_point() else value
        for name, value in module._buffers.items()
    }
    twin._modules = {name: child and _ready(child, dtype) for name, child in module._modules.items()}
    return twin


class PackedLinear(nn.Module):
    """`nn.Linear` over a packed weight."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.bias = _packed_linear(linear, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`x` ... d -> ... m."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


class RoundedLinear(nn.Module):
    """`nn.Linear` with weights of 8 bits and a scale for each output, on activations in bfloat16.

    It reads half of what bfloat16 weights are, which pays for one or two rows; with more, converting costs what
    reading saves.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny).bfloat16()
        self.weight = (weight / self.scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """`x` ... d -> ... m."""
        y = torch._weight_int8pack_mm(x.flatten(0, -2), self.weight, self.scale).view(*x.shape[:-1], -1)
        return y if self.bias is None else y.add_(self.bias)


class PackedTransformer(Transformer):
    """`Transformer` with the exact GELU, in as few operations as oneDNN's fused ones allow.

    For one row, a block of width 512 computes for a tenth to a half of a millisecond: time in which a module's call
    and an addition count.
    """

    def __init__(self, transformer: Transformer, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.width, self.depth, self.heads = transformer.width, transformer.depth, transformer.heads
        self.packed_blocks = [_packed_block(block, dtype) for block in transformer.blocks]

    def forward(
        self,
        x: Tensor,
        *,
        masks: Sequence[Tensor | None] | None = None,
        causal: bool = False,
        cache: Cache | None = None,
    ) -> Tensor:
        """As `Transformer`."""
        shape, width = x.shape, (self.width,)
        linear = torch.ops.mkldnn._linear_pointwise.default
        linear_then_add = torch.ops.mkldnn._linear_pointwise.binary
        for layer, (attention_norm, query_key_value, out, mlp_norm, up, down) in enumerate(self.packed_blocks):
            h = linear(torch.layer_norm(x, width, *attention_norm), *query_key_value, "none", [], "")
            q, k, v = split(h, self.heads)
            if cache is not None:
                k, v = cache.extend(layer, k, v)
            h = attend(q, k, v, masks[layer] if masks else None, causal)
            x = linear_then_add(h.transpose(1, 2).reshape(shape), x, *out, "add")
            h = linear(torch.layer_norm(x, width, *mlp_norm), *up, "gelu", [], "none")
            x = linear_then_add(h, x, *down, "add")
        if cache is not None:
            cache.length += shape[1]
        return x


Pair = tuple[Tensor, Tensor | None]
"""A weight and a bias."""


def _packed_linear(linear: nn.Module, dtype: torch.dtype) -> Pair:
    assert isinstance(linear, nn.Linear)
    weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), ROWS)
    return weight, None if linear.bias is None else linear.bias.detach().to(dtype)


def _packed_block(block: nn.Module, dtype: torch.dtype) -> tuple[Pair, Pair, Pair, Pair, Pair, Pair]:
    assert isinstance(block, Block)
    attention_norm, mlp_norm = (
        (norm.weight.detach().to(dtype), norm.bias.detach().to(dtype))
        for norm in (block.attention_norm, block.mlp_norm)
    )
    up, _, down = block.mlp
    query_key_value, out = block.attention.query_key_value, block.attention.out
    linears = [_packed_linear(linear, dtype) for linear in (query_key_value, out, up, down)]
    return attention_norm, linears[0], linears[1], mlp_norm, linears[2], linears[3]


def _has_gelu(transformer: Transformer) -> bool:
    return all(isinstance(block, Block) and isinstance(block.mlp[1], nn.GELU) for block in transformer.blocks)
