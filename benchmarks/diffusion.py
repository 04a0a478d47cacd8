"""The U-Net beside diffusers', of the same shape, taking turns in one run; and what drawing costs beyond the network.

    python benchmarks/diffusion.py                  # forward, training step, sampling loop
    python benchmarks/diffusion.py --memory         # peak memory of each, in processes of their own

Channels 128, 256, 512 at 32x32 of 4 channels, attention at 16x16 and below with 77 tokens of 256 joined, in batches
of 8. Heads are 64 channels wide as in ADM, or 8, which is diffusers' default.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.diffusion.process import ProcessConfig
from pinxit.models.denoiser import Asked, Denoiser, DenoiserConfig
from pinxit.models.unet import Guide, UNet, UNetConfig
from pinxit.nn.attention import Attention
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer
from pinxit.training.memory import keep_freed_memory

BATCH, LENGTH, WIDTH = 8, 77, 256
PEERS = ("pinxit", "diffusers")


def network(peer: str, heads: int) -> tuple[Any, Callable[..., Any]]:
    """A network, and how it is asked: itself, x, times, tokens, what is added to the embedding of the time."""
    torch.manual_seed(0)
    if peer == "pinxit":
        shape = UNetConfig(32, 128, (1, 2, 4), 2, (16, 8), inputs=4, outputs=4, tokens=WIDTH)
        unet = UNet(shape) if heads == 64 else narrow(shape, heads)
        return unet, lambda net, x, times, tokens, added: net(x, times, Guide(added, tokens))
    from diffusers import UNet2DConditionModel

    theirs: Any = UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 2),
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        attention_head_dim=heads,
        cross_attention_dim=WIDTH,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )
    return theirs, lambda net, x, times, tokens, added: net(x, times, tokens, class_labels=added).sample


def narrow(shape: UNetConfig, width: int) -> UNet:
    """Ours with heads of another width than ADM's."""
    unet = UNet(shape)
    for module in unet.modules():
        if isinstance(module, Attention):
            module.heads = module.out.out_features // width
    return unet


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy values, times, tokens, and what is added to the embedding of the time."""
    x = torch.randn(BATCH, 4, 32, 32).contiguous(memory_format=torch.channels_last)
    return x, torch.randint(0, 1000, (BATCH,)), torch.randn(BATCH, LENGTH, WIDTH), torch.randn(BATCH, 512)


def work(peer: str, heads: int, kind: str, bf16: bool) -> Callable[[], None]:
    """What is timed."""
    net, ask = network(peer, heads)
    net.to(memory_format=torch.channels_last)
    given = inputs()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            ask(net, *given)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.mse_loss(ask(net, *given).float(), given[0])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return forward if kind == "forward" else step


def turns(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The median seconds of each; they take turns, so that a neighbour's load hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, run in works.items():
            start = time.perf_counter()
            run()
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def overhead(steps: int, rounds: int) -> float:
    """The time of drawing beyond that of the network alone, as a share: each pass is timed inside."""
    shape = UNetConfig(32, 128, (1, 2, 4), 2, (16, 8))
    drawer = NoiseDrawer.ready(Denoiser(DenoiserConfig(shape, ProcessConfig(), classes=10)), torch.device("cpu"))
    asked, away = Asked(labels=torch.zeros(4, dtype=torch.int64)), Asked(labels=torch.tensor([10]))
    inside = 0.0
    passes = drawer._forward

    def timed(*given: Any) -> Tensor:
        nonlocal inside
        start = time.perf_counter()
        out = passes(*given)
        inside += time.perf_counter() - start
        return out

    drawer._forward = timed
    shares = []
    for _ in range(rounds):
        inside, start = 0.0, time.perf_counter()
        drawer.draw(asked, range(4), Drawing("ddim", steps, guidance=3.0), away=away)
        shares.append((time.perf_counter() - start) / inside - 1)
    return statistics.median(shares)


def peak(peer: str, kind: str) -> float:
    """MiB that a process of its own needs at most, for three rounds in bf16."""
    code = (
        f"import diffusion, resource; run = diffusion.work({peer!r}, 64, {kind!r}, True); [run() for _ in range(3)]; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=sys.path[0])
    return float(told.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    if given.memory:
        for kind in ("forward", "train"):
            print(f"{kind}, bf16: " + ", ".join(f"{peer} {peak(peer, kind):.0f} MiB" for peer in PEERS))
        return
    keep_freed_memory()
    print("| work | heads | precision | pinxit | diffusers | ratio |\n|---|---|---|---|---|---|")
    for kind in ("forward", "train"):
        for heads in (64, 8):
            for bf16 in (False, True):
                took = turns({peer: work(peer, heads, kind, bf16) for peer in PEERS}, given.rounds)
                a, b = (BATCH / took[peer] for peer in PEERS)
                print(f"| {kind} | {heads} | {'bf16' if bf16 else 'float32'} | {a:.2f} | {b:.2f} | {a / b:.2f} |")
    print(f"drawing beyond the network: {overhead(20, 3):.2%} of its time")


if __name__ == "__main__":
    main()
