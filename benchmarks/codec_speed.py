# mypy: ignore-errors
# (peers are optional here, and untyped)
"""Pictures a second to codes and back, beside diffusers and taming-transformers with the same weights.

    python benchmarks/codec_speed.py [--rounds 5] [--json FILE]

The published sizes kl-f8 (AutoencoderKL) and f16-1024 (VQModel, diffusers' and taming's), 256 pixels, 4 pictures at
once, random weights that `pinxit convert` reads out of the peer's own checkpoint. All take turns in one process, so
that other load on the machine meets them alike; ratios are medians over the turns. taming is left out where it is not
installed.
"""

from __future__ import annotations

import argparse
import json
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
Peer = tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""The network, encode and decode."""


def kl(folder: Path) -> Peer:
    """diffusers' AutoencoderKL, saved to `folder`: itself, encode, decode."""
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=SIZE,
    )  # fmt: skip
    theirs.save_pretrained(folder)
    return theirs, lambda x: theirs.encode(x).latent_dist.mode(), lambda z: theirs.decode(z).sample


def vq(folder: Path) -> Peer:
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
        vectors = theirs.quantize.get_codebook_entry(codes, (len(codes), SIZE // 16, SIZE // 16, 256))
        return theirs.decode(vectors, force_not_quantize=True).sample

    return theirs, encode, decode


def taming(folder: Path) -> Peer:
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


PEERS = {"diffusers kl-f8": kl, "diffusers f16-1024": vq, "taming f16-1024": taming}


def measure(name: str, rounds: int, work: Path) -> list[dict[str, Any]]:
    """Encodes and decodes in turns: theirs and ours, in float32 and in bfloat16."""
    theirs, encode, decode = PEERS[name](work / "theirs")
    theirs.eval().requires_grad_(False)
    convert(str(work / "theirs"), work / "ours", size=SIZE)
    ours = pinxit.load(work / "ours", "cpu").autoencoder
    scale = getattr(ours.config, "scale", 1.0)
    pixels = torch.rand(BATCH, 3, SIZE, SIZE).mul(2).sub(1)
    codes = encode(pixels)
    layout = torch.channels_last
    last = codes.to(memory_format=layout) * scale if codes.is_floating_point() else codes
    runs = {
        ("encode", "theirs"): lambda: encode(pixels),
        ("encode", "ours"): lambda: ours.encode(pixels.to(memory_format=layout)),
        ("decode", "theirs"): lambda: decode(codes),
        ("decode", "ours"): lambda: ours.decode(last),
    }
    seconds = {(*key, bf16): [] for key in runs for bf16 in (False, True)}
    made = {}
    for turn in range(rounds + 1):  # the first warms up
        for (what, whose, bf16), times in seconds.items():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                start = time.perf_counter()
                made[what, whose, bf16] = runs[what, whose]()
                if turn:
                    times.append(time.perf_counter() - start)
    rows = []
    for what in ("encode", "decode"):
        exact = made[what, "theirs", False].float() * (scale if what == "encode" and codes.is_floating_point() else 1)

        def off(whose: str, bf16: bool, what: str = what, exact: Tensor = exact) -> float:
            value = made[what, whose, bf16]
            if not value.is_floating_point():
                return (value != exact).float().mean().item()
            factor = scale if (what, whose) == ("encode", "theirs") else 1
            return (value.float() * factor - exact).abs().max().item()

        def ratio(a: bool, b: bool, what: str = what) -> float:
            pairs = zip(seconds[what, "theirs", a], seconds[what, "ours", b], strict=True)
            return statistics.median(them / us for them, us in pairs)

        rate = {key: BATCH / statistics.median(times) for key, times in seconds.items()}
        rows.append(
            {
                "peer": name,
                "what": what,
                **{
                    f"{whose} {'bf16' if bf16 else 'float32'}": rate[what, whose, bf16]
                    for whose in ("theirs", "ours")
                    for bf16 in (False, True)
                },
                "float32 over float32": ratio(False, False),
                "bf16 over bf16": ratio(True, True),
                "bf16 over float32": ratio(False, True),
                "off float32": off("ours", False),
                "off bf16": off("ours", True),
                "off their bf16": off("theirs", True),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    rows = []
    for name in given.only:
        try:
            with tempfile.TemporaryDirectory() as work, torch.inference_mode():
                rows += measure(name, given.rounds, Path(work))
        except ImportError as fault:
            print(f"{name} is left out: {fault}", file=sys.stderr)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for row in rows:
        print(", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
