"""The weights of taming-transformers and latent-diffusion, Stable Diffusion's codec among them, as ours.

Everything but the size of the pictures can be told from the weights: no yaml is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pinxit.checkpoints.pyramid_layout import Piece, take
from pinxit.errors import PinxitError
from pinxit.models.vae import VAEConfig
from pinxit.models.vqgan import VQGANConfig
from pinxit.nn.convolution import PyramidConfig

ATTENTION = {"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"}

SIZE = 256
"""Of the pictures that all published ones were trained on."""

STABLE_DIFFUSION_SCALE, XL_SCALE = 0.18215, 0.13025
"""Of latents, in Stable Diffusion 1 and 2 and in Stable Diffusion XL."""

PREFIX = "first_stage_model."
"""Of the codec inside a larger model."""


def codec_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The codec's own weights out of a checkpoint; empty where there is none."""
    inside = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    held = inside or dict(state)
    return held if {"encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight"} <= held.keys() else {}


def scale_of(checkpoint: Mapping[str, Tensor]) -> float:
    """What the latents of the KL codec in a checkpoint are scaled by: XL is known by its conditioner."""
    return XL_SCALE if any(name.startswith("conditioner.") for name in checkpoint) else STABLE_DIFFUSION_SCALE


def codec(state: Mapping[str, Tensor], scale: float = STABLE_DIFFUSION_SCALE) -> tuple[str, Any, dict[str, Tensor]]:
    """Kind, config and weights of the codec whose own weights these are; `scale` is for f8 z4 KL codecs alone."""
    pyramid = pyramid_of(state)
    ours = take(state, pyramid, theirs, ATTENTION, skip="nin_shortcut")
    if "quantize.embedding.weight" in state:
        k, d = state["quantize.embedding.weight"].shape
        ours |= _ends(state, "to_vectors", "from_vectors")
        return "vqgan", VQGANConfig(pyramid, k, d), ours | {"quantizer.embedding": state["quantize.embedding.weight"]}
    if "quantize.embed.weight" in state:
        k, d = state["quantize.embed.weight"].shape
        vectors = state["quantize.embed.weight"].t()[:, :, None, None]
        ours |= _ends(state, "to_vectors", "from_vectors")
        ours |= {f"quantizer.to_logits.{kind}": state[f"quantize.proj.{kind}"] for kind in ("weight", "bias")}
        ours |= {"quantizer.vectors.weight": vectors, "quantizer.vectors.bias": vectors.new_zeros(d)}
        return "vqgan", VQGANConfig(pyramid, k, d, "gumbel"), ours
    scaled = pyramid.latent == 4 and pyramid.factor == 8
    return "vae", VAEConfig(pyramid, scale if scaled else 1.0), ours | _ends(state, "to_moments", "from_latents")


def pyramid_of(state: Mapping[str, Tensor]) -> PyramidConfig:
    """The pyramid's shape, from the shapes and names of its weights."""

    def count(pattern: str) -> int:
        return len({match[1] for name in state if (match := re.match(pattern, name))})

    if "encoder.mid.attn_1.q.weight" not in state:
        raise PinxitError("A codec without attention in its middle is not read here.")
    levels = count(r"encoder\.down\.(\d+)\.block\.")
    channels = state["encoder.conv_in.weight"].shape[0]
    widths = [state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    attends = {int(match[1]) for name in state if (match := re.match(r"encoder\.down\.(\d+)\.attn\.", name))}
    return PyramidConfig(
        size=SIZE,
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=count(r"encoder\.down\.0\.block\.(\d+)\."),
        latent=state["decoder.conv_in.weight"].shape[1],
        attention=tuple(SIZE // 2**level for level in sorted(attends)),
        groups=32,
    )


def theirs(piece: Piece) -> str:
    """The prefix of a layer in their state."""
    match piece.role:
        case "middle":
            return f"{piece.side}.mid.{('block_1', 'attn_1', 'block_2')[piece.index]}"
        case "conv_in" | "norm_out" | "conv_out":
            return f"{piece.side}.{piece.role}"
    level = f"{piece.side}.{'down' if piece.side == 'encoder' else 'up'}.{piece.level}"
    match piece.role:
        case "block":
            return f"{level}.block.{piece.index}"
        case "attention":
            return f"{level}.attn.{piece.index}"
    return f"{level}.{piece.role}.conv"


def _ends(state: Mapping[str, Tensor], before: str, after: str) -> dict[str, Tensor]:
    """The 1x1 convolutions on either side of the codes."""
    return {
        f"{ours}.{kind}": state[f"{name}.{kind}"]
        for ours, name in ((before, "quant_conv"), (after, "post_quant_conv"))
        for kind in ("weight", "bias")
    }
