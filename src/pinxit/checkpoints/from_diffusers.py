"""diffusers' AutoencoderKL, VQModel and PriorTransformer as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pinxit.checkpoints.pyramid_layout import Piece, take
from pinxit.errors import PinxitError
from pinxit.models.prior import BEYOND, LEVELS, PriorConfig
from pinxit.models.vae import VAEConfig
from pinxit.models.vqgan import VQGANConfig
from pinxit.nn.convolution import PyramidConfig

ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
OLD_ATTENTION = {"norm": "group_norm", "query": "query", "key": "key", "value": "value", "out": "proj_attn"}
"""As files from before diffusers 0.17 have it."""

DEFAULT_SCALE = 0.18215
"""Of latents, where an AutoencoderKL's config does not tell, as those of Stable Diffusion 1 do not."""

PLAIN = {"DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"}


def codec(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[str, Any, dict[str, Tensor]]:
    """Kind, config and weights of what a folder's config.json and weights hold."""
    pyramid = _pyramid(config)
    old = any(".query.weight" in name for name in state)
    ours = take(
        state, pyramid, lambda piece: _theirs(piece, pyramid), OLD_ATTENTION if old else ATTENTION, "conv_shortcut"
    )
    vq = "quantize.embedding.weight" in state
    for name, before, after in (
        ("quant_conv", "to_vectors", "to_moments"),
        ("post_quant_conv", "from_vectors", "from_latents"),
    ):
        for kind in ("weight", "bias"):
            ours[f"{before if vq else after}.{kind}"] = state[f"{name}.{kind}"]
    if not vq:
        return "vae", VAEConfig(pyramid, float(config.get("scaling_factor") or DEFAULT_SCALE)), ours
    if config.get("norm_type", "group") != "group" or config.get("lookup_from_codebook"):
        raise PinxitError("This VQModel is of a kind with other norms or lookups, which is not read here.")
    k, d = state["quantize.embedding.weight"].shape
    return "vqgan", VQGANConfig(pyramid, k, d), ours | {"quantizer.embedding": state["quantize.embedding.weight"]}


def _pyramid(config: Mapping[str, Any]) -> PyramidConfig:
    blocks = [*config["down_block_types"], *config["up_block_types"]]
    if odd := set(blocks) - PLAIN:
        raise PinxitError(
            f"A codec with {', '.join(sorted(odd))} is not read here. Allowed: {', '.join(sorted(PLAIN))}."
        )
    if config.get("latents_mean") or config.get("shift_factor"):
        raise PinxitError("Latents that are shifted before they are scaled are not read here.")
    widths = config["block_out_channels"]
    if config.get("mid_block_add_attention") is False or config.get("use_quant_conv") is False:
        raise PinxitError("A codec without attention in its middle, or without quant_conv, is not read here.")
    told = config.get("sample_size") or 256
    size = int(max(told) if isinstance(told, list | tuple) else told)
    size = max(size, 2 ** (len(widths) - 1))
    attends = [level for level, kind in enumerate(config["down_block_types"]) if kind.startswith("Attn")]
    return PyramidConfig(
        size=size,
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=config["layers_per_block"],
        latent=config["latent_channels"],
        attention=tuple(size // 2**level for level in attends),
        groups=config.get("norm_num_groups", 32),
    )


def _theirs(piece: Piece, pyramid: PyramidConfig) -> str:
    match piece.role:
        case "middle":
            return f"{piece.side}.mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[piece.index]}"
        case "norm_out":
            return f"{piece.side}.conv_norm_out"
        case "conv_in" | "conv_out":
            return f"{piece.side}.{piece.role}"
    if piece.side == "encoder":
        level = f"encoder.down_blocks.{piece.level}"
    else:
        level = f"decoder.up_blocks.{len(pyramid.multipliers) - 1 - piece.level}"
    match piece.role:
        case "block":
            return f"{level}.resnets.{piece.index}"
        case "attention":
            return f"{level}.attentions.{piece.index}"
    return f"{level}.{piece.role}rs.0.conv"  # downsamplers, upsamplers


PRIOR = (
    (r"^embedding_proj\.", "text."),
    (r"^encoder_hidden_states_proj\.", "tokens."),
    (r"^proj_in\.", "noisy."),
    (r"^time_embedding\.linear_1\.", "time.0."),
    (r"^time_embedding\.linear_2\.", "time.2."),
    (r"^positional_embedding$", "positions"),
    (r"^prd_embedding$", "query"),
    (r"^norm_out\.", "norm."),
    (r"^proj_to_clip_embeddings\.", "told."),
    (r"^clip_(mean|std)$", r"\1"),
    (r"^transformer_blocks\.", "transformer.blocks."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm3\.", ".mlp_norm."),
    (r"\.attn1\.to_out\.0\.", ".attention.out."),
    (r"\.ff\.net\.0\.proj\.", ".mlp.0."),
    (r"\.ff\.net\.2\.", ".mlp.2."),
)
"""PriorTransformer's names -> ours."""


def prior(described: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[PriorConfig, dict[str, Tensor]]:
    """Config and weights of a PriorTransformer as unCLIP has it: Karlo's."""
    told = {"num_embeddings": 77, "additional_embeddings": BEYOND, "time_embed_dim": None, **described}
    if told["additional_embeddings"] != BEYOND or told.get("added_emb_type", "prd") != "prd" or told["time_embed_dim"]:
        raise PinxitError(
            "This PriorTransformer is not unCLIP's: read are those with a query and 4 places beyond texts."
        )
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, new in PRIOR:
            name = re.sub(pattern, new, name)  # noqa: PLW2901
        ours[name] = value
    for name in [name for name in ours if ".attn1.to_q." in name]:
        parts = [ours.pop(name.replace(".to_q.", f".to_{part}.")) for part in "qkv"]
        ours[name.replace(".attn1.to_q.", ".attention.query_key_value.")] = torch.cat(parts)
    ours |= {name: ours[name].flatten() for name in ("query", "mean", "std")}
    ours["positions"] = ours["positions"][0]
    ours["errors"] = torch.zeros(LEVELS)  # theirs knows the posterior's variance alone
    config = PriorConfig(
        embedding=len(ours["mean"]),
        length=int(told["num_embeddings"]),
        text_width=ours["tokens.weight"].shape[1],
        width=len(ours["query"]),
        depth=int(told["num_layers"]),
        heads=int(told["num_attention_heads"]),
    )
    return config, ours
