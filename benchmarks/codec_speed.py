# mypy: ignore-errors
# (peers are optional here, and untyped)
"""Pictures a second to codes and back, beside diffusers and taming-transformers with the same weights.

    python benchmarks/codec_speed.py [--rounds 5] [--json FILE]

The published sizes kl-f8 (AutoencoderKL) and f16-1024 (VQModel, diffusers' and taming's), 256 pixels, 4 pictures at once,
random weights that `pinxit convert` reads out of the peer's own checkpoint. All take turns in one process, so that other
load on the machine meets them alike; ratios are medians over the turns. taming is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pinxit
from pinxit.checkpoints.conversion import convert

SIZE, BATCH = 256, 4
Run = Callable[[], Tensor]
PEER = {"taming f16": "taming", "diffusers f16": "diffusers", "diffusers kl-f8": "diffusers"}


def kl(folder: Path) -> tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """diffusers' AutoencoderKL, saved to `folder`: itself, encode, decode."""
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=SIZE,
    )  # fmt: skip
    theirs.save_pretrained(folder)
    return theirs, lambda x: theirs.encode(x).latent_dist.mode(), lambda z: theirs.decode(z).sample


def vq(folder: Path) -> tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """diffusers' VQModel, likewise."""
    from diffusers import VQModel

    theirs = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 4 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 128, 256, 256, 512), layers_per_block=2, latent_channels=256, sample_size=SIZE,
        num_vq_embeddings=1024, vq_embed_dim=256, norm_num_groups=32,
    )  # fmt: skip
    theirs.save_pretrained(folder)

    def encode(x: Tensor) -> Tensor:
        return theirs.quantize(theirs.encode(x).latents)[2][2].view(len(x), SIZE // 16, SIZE // 16)

    def decode(codes: Tensor) -> Tensor:
        return theirs.decode(codes, shape=(len(codes), SIZE // 16, SIZE // 16, 256), force_not_quantize=True).sample

    def decode_codes(codes: Tensor) -> Tensor:
        vectors = theirs.quantize.get_codebook_entry(codes, (len(codes), SIZE // 16, SIZE // 16, 256))
        return theirs.decode(vectors, force_not_quantize=True).sample

    return theirs, encode, decode_codes


def taming(folder: Path) -> tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """taming's VQModel, likewise."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    moved: Any = types.ModuleType("pytorch_lightning.utilities.distributed")  # which taming imports from where it was
    moved.rank_zero_only = rank_zero_only
    sys.modules[moved.__name__] = moved
    from taming.models.vqgan import VQModel

    shape = {
        "double_z": False, "z_channels": 256, "resolution": SIZE, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": (1, 1, 2, 2, 4), "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0,
    }  # fmt: skip
    theirs = VQModel(shape, {"target": "torch.nn.Identity"}, 1024, 256)
    folder.mkdir()
    torch.save({"state_dict": theirs.state_dict()}, folder / "last.ckpt")

    def encode(x: Tensor) -> Tensor:
        return theirs.encode(x)[2][2].view(len(x), SIZE // 16, SIZE // 16)

    def decode(codes: Tensor) -> Tensor:
        vectors = theirs.quantize.get_codebook_entry(codes.flatten(), (len(codes), SIZE // 16, SIZE // 16, 256))
        return theirs.decode(vectors)

    return theirs, encode, decode
