"""guided-diffusion's and GLIDE's U-Net by their published names, as equations over a dictionary of tensors.

Weights are made at random where they are first used, so that a first pass leaves a whole state behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TEXTS, LENGTH, WIDTH, DEPTH = 50, 6, 32, 2
"""Of the text transformer."""


@dataclass
class Theirs:
    """A model by its flags."""

    flags: dict[str, Any]
    state: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            std = 0.2 if len(shape) == 1 else 0.06
            self.state[name] = torch.randn(shape, generator=self.generator) * std
        return self.state[name]

    def linear(self, x: Tensor, name: str, outputs: int) -> Tensor:
        return F.linear(x, self.weight(f"{name}.weight", outputs, x.shape[-1]), self.weight(f"{name}.bias", outputs))

    def conv(self, x: Tensor, name: str, outputs: int, side: int = 3, stride: int = 1) -> Tensor:
        weight = self.weight(f"{name}.weight", outputs, x.shape[1], side, side)
        return F.conv2d(x, weight, self.weight(f"{name}.bias", outputs), stride=stride, padding=side // 2)

    def along(self, x: Tensor, name: str, outputs: int) -> Tensor:
        weight = self.weight(f"{name}.weight", outputs, x.shape[1], 1)
        return F.conv1d(x, weight, self.weight(f"{name}.bias", outputs))

    def norm(self, x: Tensor, name: str) -> Tensor:
        channels = x.shape[1]
        return F.group_norm(x, 32, self.weight(f"{name}.weight", channels), self.weight(f"{name}.bias", channels))

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        width = x.shape[-1]
        return F.layer_norm(x, (width,), self.weight(f"{name}.weight", width), self.weight(f"{name}.bias", width))

    def block(self, x: Tensor, name: str, time: Tensor, outputs: int, change: str = "") -> Tensor:
        h = F.silu(self.norm(x, f"{name}.in_layers.0"))
        if change:
            h, x = (half(each) if change == "down" else double(each) for each in (h, x))
        h = self.conv(h, f"{name}.in_layers.2", outputs)
        scaled = self.flags["use_scale_shift_norm"]
        told = self.linear(F.silu(time), f"{name}.emb_layers.1", outputs * (1 + scaled))[:, :, None, None]
        if scaled:
            h = self.norm(h, f"{name}.out_layers.0") * (1 + told[:, :outputs]) + told[:, outputs:]
        else:
            h = self.norm(h + told, f"{name}.out_layers.0")
        h = self.conv(F.silu(h), f"{name}.out_layers.3", outputs)
        return (x if x.shape[1] == outputs else self.conv(x, f"{name}.skip_connection", outputs, 1)) + h

    def attend(self, x: Tensor, name: str, texts: Tensor | None) -> Tensor:
        b, c, h, w = x.shape
        heads = self.flags["num_heads"]
        rows = self.along(self.norm(x, f"{name}.norm").reshape(b, c, h * w), f"{name}.qkv", 3 * c)
        if self.flags.get("use_new_attention_order"):
            q, k, v = (part.reshape(b * heads, c // heads, -1) for part in rows.chunk(3, 1))
        else:
            q, k, v = rows.reshape(b * heads, 3 * c // heads, -1).chunk(3, 1)
        if texts is not None:
            more = self.along(texts, f"{name}.encoder_kv", 2 * c).reshape(b * heads, 2 * c // heads, -1).chunk(2, 1)
            k, v = torch.cat([more[0], k], 2), torch.cat([more[1], v], 2)
        weights = (q.transpose(1, 2) @ k / math.sqrt(c // heads)).softmax(-1)
        out = (v @ weights.transpose(1, 2)).reshape(b, c, h * w)
        return x + self.along(out, f"{name}.proj_out", c).reshape(x.shape)

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.weight("token_embedding.weight", TEXTS, WIDTH)[ids]
        x = x + self.weight("positional_embedding", LENGTH, WIDTH)
        x = torch.where(mask[..., None], x, self.weight("padding_embedding", LENGTH, WIDTH))
        heads = self.flags["xf_heads"]
        for layer in range(DEPTH):
            name = f"transformer.resblocks.{layer}"
            rows = self.linear(self.layer_norm(x, f"{name}.ln_1"), f"{name}.attn.c_qkv", 3 * WIDTH)
            q, k, v = rows.view(*x.shape[:2], heads, -1).chunk(3, -1)
            weights = (torch.einsum("bthc,bshc->bhts", q, k) / math.sqrt(WIDTH // heads)).softmax(-1)
            x = x + self.linear(
                torch.einsum("bhts,bshc->bthc", weights, v).reshape(x.shape), f"{name}.attn.c_proj", WIDTH
            )
            h = F.gelu(self.linear(self.layer_norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc", 4 * WIDTH))
            x = x + self.linear(h, f"{name}.mlp.c_proj", WIDTH)
        return self.layer_norm(x, "final_ln")

    @property
    def widths(self) -> list[int]:
        return [int(float(m) * self.flags["num_channels"]) for m in self.flags["channel_mult"].split(",")]

    @property
    def sides(self) -> set[int]:
        return {int(side) for side in self.flags["attention_resolutions"].split(",")}

    def time(self, times: Tensor) -> Tensor:
        base, told = self.flags["num_channels"], 4 * self.flags["num_channels"]
        angles = times.float()[:, None] * 10_000 ** (-torch.arange(base // 2) / (base // 2))
        time = F.silu(self.linear(torch.cat([angles.cos(), angles.sin()], 1), "time_embed.0", told))
        return self.linear(time, "time_embed.2", told)

    def halves(self, x: Tensor, time: Tensor, texts: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Down, and the middle."""
        flags, widths, sides = self.flags, self.widths, self.sides
        x = self.conv(x, "input_blocks.0.0", widths[0])
        kept, number = [x], 0
        for level, width in enumerate(widths):
            for _ in range(flags["num_res_blocks"]):
                number += 1
                x = self.block(x, f"input_blocks.{number}.0", time, width)
                if x.shape[-1] in sides:
                    x = self.attend(x, f"input_blocks.{number}.1", texts)
                kept.append(x)
            if level < len(widths) - 1:
                number += 1
                name = f"input_blocks.{number}.0"
                down = flags["resblock_updown"]
                x = self.block(x, name, time, width, "down") if down else self.conv(x, f"{name}.op", width, stride=2)
                kept.append(x)
        x = self.block(x, "middle_block.0", time, widths[-1])
        x = self.block(self.attend(x, "middle_block.1", texts), "middle_block.2", time, widths[-1])
        return x, kept

    def classify(self, x: Tensor, times: Tensor, classes: int) -> Tensor:
        x, _ = self.halves(x, self.time(times), None)
        x = F.silu(self.norm(x, "out.0")).flatten(2)
        x = torch.cat([x.mean(2, keepdim=True), x], 2)
        b, c, n = x.shape
        heads = self.flags["num_heads"]
        x = x + self.weight("out.2.positional_embedding", c, n)
        q, k, v = (
            part.reshape(b * heads, c // heads, n) for part in self.along(x, "out.2.qkv_proj", 3 * c).chunk(3, 1)
        )
        out = v @ (q.transpose(1, 2) @ k / math.sqrt(c // heads)).softmax(-1).transpose(1, 2)
        return self.along(out.reshape(b, c, n), "out.2.c_proj", classes)[:, :, 0]

    def __call__(
        self,
        x: Tensor,
        times: Tensor,
        *,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        beside: tuple[Tensor, ...] = (),
    ) -> Tensor:
        size = x.shape[-1]
        time, told = self.time(times), 4 * self.flags["num_channels"]
        texts = None
        if labels is not None:
            time = time + self.weight("label_emb.weight", 5, told)[labels]
        if ids is not None:
            assert mask is not None
            texts = self.texts(ids, mask)
            time = time + self.linear(texts[:, -1], "transformer_proj", told)
            texts = texts.transpose(1, 2)
        x, kept = self.halves(torch.cat([x, *beside], 1), time, texts)
        number, flags, sides = -1, self.flags, self.sides
        for level, width in reversed(list(enumerate(self.widths))):
            for place in range(flags["num_res_blocks"] + 1):
                number += 1
                name, part = f"output_blocks.{number}", 1
                x = self.block(torch.cat([x, kept.pop()], 1), f"{name}.0", time, width)
                if x.shape[-1] in sides:
                    x, part = self.attend(x, f"{name}.1", texts), 2
                if level and place == flags["num_res_blocks"]:
                    if flags["resblock_updown"]:
                        x = self.block(x, f"{name}.{part}", time, width, "up")
                    else:
                        x = self.conv(double(x), f"{name}.{part}.conv", width)
        assert x.shape[-1] == size
        return self.conv(F.silu(self.norm(x, "out.0")), "out.2", 6)


def half(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
