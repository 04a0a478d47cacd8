"""The parts of an encoder and decoder pyramid (`nn.convolution`) in order, for whoever renames another's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pinxit.nn.convolution import PyramidConfig

Role = Literal["conv_in", "block", "attention", "downsample", "upsample", "middle", "norm_out", "conv_out"]


@dataclass(frozen=True)
class Piece:
    """One layer of ours, and where it stands."""

    ours: str
    """Its prefix in our state, such as `encoder.4`."""
    side: Literal["encoder", "decoder"]
    role: Role
    level: int = 0
    """Counted from the finest. An upsampling belongs to the level that it comes from."""
    index: int = 0
    """Of blocks and attentions within the level; 0, 1 and 2 in the middle, where 1 is the attention."""


def pieces(config: PyramidConfig) -> Iterator[Piece]:
    """All layers with weights, the encoder's before the decoder's, of a pyramid with `patch` 1 as all published are."""
    levels = len(config.multipliers)

    def level_of(level: int, blocks: int) -> Iterator[tuple[Role, int, int]]:
        for index in range(blocks):
            yield "block", level, index
            if config.sides[level] in config.attention:
                yield "attention", level, index

    def encoder() -> Iterator[tuple[Role, int, int]]:
        yield "conv_in", 0, 0
        for level in range(levels):
            if level:
                yield "downsample", level - 1, 0
            yield from level_of(level, config.blocks)
        yield from (("middle", 0, index) for index in range(3))

    def decoder() -> Iterator[tuple[Role, int, int]]:
        yield "conv_in", 0, 0
        yield from (("middle", 0, index) for index in range(3))
        for level in reversed(range(levels)):
            if level < levels - 1:
                yield "upsample", level + 1, 0
            yield from level_of(level, config.blocks + 1)

    sides: dict[Literal["encoder", "decoder"], Iterator[tuple[Role, int, int]]] = {
        "encoder": encoder(),
        "decoder": decoder(),
    }
    for side, roles in sides.items():
        count = 0
        for role, level, index in roles:
            yield Piece(f"{side}.{count}", side, role, level, index)
            count += 1
        yield Piece(f"{side}.{count}", side, "norm_out")
        yield Piece(f"{side}.{count + 2}", side, "conv_out")  # the swish has no weights


def take(
    state: Mapping[str, Tensor],
    config: PyramidConfig,
    theirs: Callable[[Piece], str],
    attention: Mapping[str, str],
    skip: str,
) -> dict[str, Tensor]:
    """Our encoder's and decoder's weights out of `state`.

    `theirs` gives the prefix of a piece, `attention` their names of norm, query, key, value and out, `skip` that of a
    block's 1x1 convolution.
    """
    found: dict[str, Tensor] = {}

    def copy(ours: str, prefix: str) -> None:
        for kind in ("weight", "bias"):
            if f"{prefix}.{kind}" in state:
                found[f"{ours}.{kind}"] = state[f"{prefix}.{kind}"]

    for piece in pieces(config):
        prefix = theirs(piece)
        if piece.role == "attention" or (piece.role == "middle" and piece.index == 1):
            copy(f"{piece.ours}.norm", f"{prefix}.{attention['norm']}")
            for kind in ("weight", "bias"):
                heads = [state[f"{prefix}.{attention[name]}.{kind}"] for name in ("query", "key", "value")]
                found[f"{piece.ours}.attention.query_key_value.{kind}"] = torch.cat(
                    [part.reshape(part.shape[:2]) if kind == "weight" else part for part in heads]
                )
            out = state[f"{prefix}.{attention['out']}.weight"]
            found[f"{piece.ours}.attention.out.weight"] = out.reshape(out.shape[:2])
            found[f"{piece.ours}.attention.out.bias"] = state[f"{prefix}.{attention['out']}.bias"]
        elif piece.role in ("block", "middle"):
            for name in ("norm1", "conv1", "norm2", "conv2"):
                copy(f"{piece.ours}.{name}", f"{prefix}.{name}")
            copy(f"{piece.ours}.skip", f"{prefix}.{skip}")
        else:
            copy(piece.ours, prefix)
    return found
