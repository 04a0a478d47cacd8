"""Karlo's own files as ours: unCLIP of Kakao Brain, over OpenAI's CLIP ViT-L/14.

The parts are those that diffusers has of it (`from_diffusers`), by the names of guided-diffusion (`from_guided`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pinxit.checkpoints.from_diffusers import unclip_tokens
from pinxit.checkpoints.from_guided import sorted_by_part, unet_weights
from pinxit.errors import PinxitError
from pinxit.models.denoiser import SIZES, Denoiser, DenoiserConfig
from pinxit.models.prior import BEYOND, LEVELS, PriorConfig
from pinxit.models.prior import SIZES as PRIORS
from pinxit.models.unet import HEAD_WIDTH, UNetConfig

FILES = {
    "clip": "ViT-L-14.pt",
    "stats": "ViT-L-14_stats.th",
    "prior": "prior-ckpt-*.ckpt",
    "decoder": "decoder-ckpt-*.ckpt",
    "upsampler": "improved-sr-ckpt-*.ckpt",
}
"""What its setup fetches, by what they hold."""

PRIOR = (
    (r"^prd_emb$", "query"),
    (r"^positional_embedding$", "positions"),
    (r"^text_emb_proj\.", "text."),
    (r"^text_enc_proj\.", "tokens."),
    (r"^clip_img_proj\.", "noisy."),
    (r"^time_embed\.", "time."),
    (r"^final_ln\.", "norm."),
    (r"^out_proj\.", "told."),
    (r"^transformer\.resblocks\.", "transformer.blocks."),
    (r"\.ln_1\.", ".attention_norm."),
    (r"\.ln_2\.", ".mlp_norm."),
    (r"\.attn\.c_qkv\.", ".attention.query_key_value."),
    (r"\.attn\.c_proj\.", ".attention.out."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.2."),
)
"""Its names -> ours."""

PROJECTIONS = {
    "embedding_to_time": "clip_emb",
    "read_to_time": "text_feat_proj",
    "read.0": "text_seq_proj.0",
    "read.1": "text_seq_proj.1",
}
"""Our layers before the U-Net -> its own."""


def files_in(folder: Path) -> dict[str, Path] | None:
    """Its files, if this is a folder of them; those that are missing are named."""
    found = {part: sorted(folder.glob(name)) for part, name in FILES.items()}
    if not (found["decoder"] and found["stats"]):
        return None
    if missing := [FILES[part] for part, files in found.items() if len(files) != 1]:
        raise PinxitError(f"{folder} looks like Karlo, but has not exactly one {' and one '.join(missing)}.")
    return {part: files[0] for part, files in found.items()}


def prior(state: Mapping[str, Tensor], statistics: Any) -> tuple[PriorConfig, dict[str, Tensor]]:
    """Its prior; `statistics` are the mean and the deviation of embeddings, d each."""
    if not isinstance(statistics, list | tuple) or len(statistics) != 2:
        raise PinxitError(f"{FILES['stats']} holds no mean and deviation of embeddings.")
    mean, std = statistics
    plain = _bare(state, "model.")
    ours: dict[str, Tensor] = {}
    for name, value in plain.items():
        for pattern, new in PRIOR:
            name = re.sub(pattern, new, name)  # noqa: PLW2901
        ours[name] = value
    width = ours["query"].numel()
    depth = len({name.split(".")[2] for name in ours if name.startswith("transformer.blocks.")})
    for name in [name for name in ours if ".query_key_value." in name]:
        ours[name] = sorted_by_part(ours[name], width // HEAD_WIDTH, 3)
    ours |= {"query": ours["query"].flatten(), "positions": ours["positions"][0]}
    ours |= {"mean": mean.flatten(), "std": std.flatten(), "errors": torch.zeros(LEVELS)}
    config = replace(
        PRIORS["karlo"],
        embedding=mean.numel(),
        length=len(ours["positions"]) - BEYOND,
        text_width=ours["tokens.weight"].shape[1],
        width=width,
        depth=depth,
        heads=width // HEAD_WIDTH,
    )
    return config, ours


def decoder(state: Mapping[str, Tensor]) -> tuple[DenoiserConfig, dict[str, Tensor]]:
    """Its decoder."""
    plain = _bare(state, "model.")
    published = SIZES["karlo-decoder"]
    tokens, reads = plain["text_seq_proj.0.weight"].shape
    unet = replace(_shaped(published.unet, plain), tokens=tokens)
    config = replace(published, unet=unet, embedding=plain["clip_emb.weight"].shape[1], reads=reads)
    ours = _unet(plain, config)
    for kind in ("weight", "bias"):
        ours |= {f"{name}.{kind}": plain[f"{theirs}.{kind}"] for name, theirs in PROJECTIONS.items()}
        ours[f"embedding_to_tokens.{kind}"] = unclip_tokens(plain[f"clip_tok_proj.{kind}"])
    return config, ours | {"no_embedding": plain["cf_param"]}


def upsamplers(state: Mapping[str, Tensor]) -> tuple[DenoiserConfig, dict[str, Tensor], dict[str, Tensor]]:
    """Its two networks that enlarge, of one shape: that of the first steps, and that of the last."""
    both = [_bare(state, f"model_{which}.") for which in ("first_steps", "last_step")]
    published = SIZES["karlo-upsample"]
    config = replace(published, unet=_shaped(published.unet, both[0]))
    first, last = (_unet(plain, config) for plain in both)
    return config, first, last


def _bare(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not found:
        raise PinxitError(f"No tensor in it begins with {prefix}: these are no weights of Karlo.")
    return found


def _shaped(published: UNetConfig, state: Mapping[str, Tensor]) -> UNetConfig:
    """The published shape with the widths that the weights have: each level has its own."""
    outs = [
        len(state[f"input_blocks.{number}.0.in_layers.2.weight"])
        for number in range(1, sum(name.endswith(".0.in_layers.2.weight") for name in _of(state, "input_blocks.")) + 1)
    ]
    widths = sorted(set(outs))
    return replace(
        published,
        channels=widths[0],
        multipliers=tuple(width / widths[0] for width in widths),
        blocks=(len(outs) - len(widths) + 1) // len(widths),
    )


def _of(state: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name for name in state if name.startswith(prefix)]


def _unet(state: Mapping[str, Tensor], config: DenoiserConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = Denoiser(config)
    return unet_weights(state, network.unet, "unet", new_order=False)
