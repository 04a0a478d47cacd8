"""taming-transformers' and latent-diffusion's codecs as functions of a state in the published layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Published:
    """Encoder and decoder as functions of a state in the published layout."""

    def __init__(self, state: Mapping[str, Tensor], groups: int) -> None:
        self.state, self.groups = state, groups

    def conv(self, name: str, x: Tensor, **how: Any) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **how)

    def swish(self, name: str, x: Tensor) -> Tensor:
        x = F.group_norm(x, self.groups, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)
        return x * x.sigmoid()

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", self.swish(f"{name}.norm1", x), padding=1)
        h = self.conv(f"{name}.conv2", self.swish(f"{name}.norm2", h), padding=1)
        return (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x) + h

    def attend(self, name: str, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = F.group_norm(x, self.groups, self.state[f"{name}.norm.weight"], self.state[f"{name}.norm.bias"], 1e-6)
        q, k, v = (self.conv(f"{name}.{part}", y).reshape(b, c, h * w) for part in "qkv")
        weights = torch.einsum("bci,bcj->bij", q, k).mul(c**-0.5).softmax(2)
        return x + self.conv(f"{name}.proj_out", torch.einsum("bij,bcj->bci", weights, v).reshape(b, c, h, w))

    def level(self, name: str, x: Tensor) -> Tensor:
        index = 0
        while f"{name}.block.{index}.conv1.weight" in self.state:
            x = self.block(f"{name}.block.{index}", x)
            if f"{name}.attn.{index}.q.weight" in self.state:
                x = self.attend(f"{name}.attn.{index}", x)
            index += 1
        return x

    def middle(self, side: str, x: Tensor) -> Tensor:
        x = self.attend(f"{side}.mid.attn_1", self.block(f"{side}.mid.block_1", x))
        return self.block(f"{side}.mid.block_2", x)

    def encode(self, x: Tensor, levels: int) -> Tensor:
        x = self.conv("encoder.conv_in", x, padding=1)
        for level in range(levels):
            x = self.level(f"encoder.down.{level}", x)
            if level < levels - 1:
                x = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        x = self.swish("encoder.norm_out", self.middle("encoder", x))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x, padding=1))

    def decode(self, z: Tensor, levels: int) -> Tensor:
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", z), padding=1)
        x = self.middle("decoder", x)
        for level in reversed(range(levels)):
            x = self.level(f"decoder.up.{level}", x)
            if level:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(f"decoder.up.{level}.upsample.conv", x, padding=1)
        return self.conv("decoder.conv_out", self.swish("decoder.norm_out", x), padding=1)


def published_state(
    channels: int,
    multipliers: tuple[int, ...],
    blocks: int,
    z: int,
    attention: tuple[int, ...],
    *,
    double: bool = False,
) -> dict[str, Tensor]:
    """Random weights by the published names; `attention` are levels."""
    generator = torch.Generator().manual_seed(7)
    state: dict[str, Tensor] = {}
    widths = [channels * multiplier for multiplier in multipliers]

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        fan = inputs * kernel**2
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) * 0.7 / fan**0.5
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        state[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)

    def block(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs, 3)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attend(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    for side in ("encoder", "decoder"):
        order = range(len(widths)) if side == "encoder" else reversed(range(len(widths)))
        inputs = widths[0] if side == "encoder" else widths[-1]
        conv(f"{side}.conv_in", 3 if side == "encoder" else z, inputs, 3)
        for level in order:
            name = f"{side}.{'down' if side == 'encoder' else 'up'}.{level}"
            for index in range(blocks + (side == "decoder")):
                block(f"{name}.block.{index}", inputs, widths[level])
                inputs = widths[level]
                if level in attention:
                    attend(f"{name}.attn.{index}", inputs)
            if side == "encoder" and level < len(widths) - 1:
                conv(f"{name}.downsample.conv", inputs, inputs, 3)
            if side == "decoder" and level:
                conv(f"{name}.upsample.conv", inputs, inputs, 3)
        block(f"{side}.mid.block_1", widths[-1], widths[-1])
        attend(f"{side}.mid.attn_1", widths[-1])
        block(f"{side}.mid.block_2", widths[-1], widths[-1])
        norm(f"{side}.norm_out", inputs)
        conv(f"{side}.conv_out", inputs, z * (1 + double) if side == "encoder" else 3, 3)
    return state


def ends(state: dict[str, Tensor], z: int, d: int) -> None:
    """The convolutions beside the codes, z to d and back."""
    generator = torch.Generator().manual_seed(3)
    state["quant_conv.weight"] = torch.randn(d, z, 1, 1, generator=generator) * z**-0.5
    state["quant_conv.bias"] = torch.randn(d, generator=generator) * 0.1
