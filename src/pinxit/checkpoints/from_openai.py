"""The weights of OpenAI's dVAE (the package DALL-E, encoder.pkl and decoder.pkl) as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from pinxit.models.dvae import DVAEConfig

BLOCKS = 2
"""A group."""


def dvae(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], size: int) -> tuple[str, Any, dict[str, Tensor]]:
    """Kind, config and weights. The encoder's and the decoder's names are alike, so they come apart."""
    widths: list[int] = []
    while (name := f"blocks.group_{len(widths) + 1}.block_1.res_path.conv_4.w") in encoder:
        widths.append(encoder[name].shape[0])
    vector, codes = decoder["blocks.input.w"].shape[:2]
    gain = 1 / (BLOCKS * len(widths)) ** 2
    config = DVAEConfig(size=size, codes=codes, widths=tuple(widths), blocks=BLOCKS, vector=vector, gain=gain)
    state = {our_name("encoder", name, len(widths)): value for name, value in encoder.items()}
    state |= {our_name("decoder", name, len(widths)): value for name, value in decoder.items()}
    return "dvae", config, state


def is_half(state: Mapping[str, Tensor]) -> bool:
    """Whether these are an encoder's or a decoder's weights."""
    return {"blocks.input.w", "blocks.group_1.block_1.res_path.conv_1.w", "blocks.output.conv.w"} <= state.keys()


def our_name(side: Literal["encoder", "decoder"], name: str, groups: int) -> str:
    """One of their names -> ours, where blocks, pools and convolutions stand in one sequence."""
    name = re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", name))
    encoder = side == "encoder"
    span = BLOCKS + 1  # of a group, with its pool
    name = name.replace("blocks.input.", "encoder.1." if encoder else "quantizer.vectors.")
    name = name.replace("blocks.output.conv.", "quantizer.to_logits." if encoder else f"decoder.{span * groups}.")
    found = re.match(r"blocks\.group_(\d+)\.block_(\d+)\.(.+)", name)
    if not found:
        return name
    group, block, rest = int(found[1]), int(found[2]), found[3]
    rest = rest.replace("id_path.", "skip.")
    rest = re.sub(r"res_path\.conv_(\d)\.", lambda conv: f"path.{2 * int(conv[1]) - 1}.", rest)
    place = span * (group - 1) + block - 1 + (2 if encoder else 0)
    return f"{side}.{place}.{rest}"
