"""The U-Net beside diffusers', of the same shape, taking turns; and what drawing costs beyond the network.

    python benchmarks/diffusion.py

Channels 128, 256, 512 at 32x32 of 4 channels, attention at 16x16 and below with 77 tokens of 256 joined, in batches
of 8. Heads are 64 channels wide as in ADM, or 8, which is diffusers' default. Every peer runs in a process of its own:

- pinxit as it draws and trains: channels last; drawing from a copy of its weights in bfloat16, training with freed
  memory kept and the fused AdamW;
- diffusers, told all of that, its weights converted in place;
- diffusers as it comes: autocast, channels first, PyTorch's defaults.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.diffusion.process import ProcessConfig
from pinxit.models.denoiser import Conditioning, Denoiser, DenoiserConfig
from pinxit.models.unet import Guide, UNet, UNetConfig
from pinxit.nn.attention import Attention
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer
from pinxit.training.memory import keep_freed_memory

BATCH, LENGTH, WIDTH = 8, 77, 256
PEERS = ("pinxit", "diffusers told", "diffusers as it comes")


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


def inputs() -> list[Tensor]:
    """Noisy values, times, tokens, and what is added to the embedding of the time."""
    x = torch.randn(BATCH, 4, 32, 32).contiguous(memory_format=torch.channels_last)
    return [x, torch.randint(0, 1000, (BATCH,)), torch.randn(BATCH, LENGTH, WIDTH), torch.randn(BATCH, 512)]


def work(peer: str, heads: int, kind: str, bf16: bool) -> Callable[[], None]:
    """What is timed."""
    net, ask = network(peer.partition(" ")[0], heads)
    given, told = inputs(), peer != "diffusers as it comes"
    if told:
        net.to(memory_format=torch.channels_last)
    else:
        given = [value.contiguous() for value in given]
    if told and kind == "train":
        keep_freed_memory()
    whole = net
    if told and kind == "forward" and bf16:
        net = (copy.deepcopy(whole) if peer == "pinxit" else whole).bfloat16()
        given = [value.bfloat16() if value.is_floating_point() else value for value in given]
    optimizer = torch.optim.AdamW(whole.parameters(), 1e-4, fused=told)

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


WARM = {"forward": 2, "train": 4}
"""Rounds until memory and kernels have settled."""


def serve(peer: str, heads: int, kind: str, bf16: bool) -> None:
    """Works each time that a line comes in, and tells the seconds and the MiB held at most."""
    run = work(peer, heads, kind, bf16)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(time.perf_counter() - start, held, flush=True)


def turns(heads: int, kind: str, bf16: bool, rounds: int) -> dict[str, tuple[float, float]]:
    """The median seconds of each peer, and its MiB; they take turns, so that a neighbour's load hits all alike."""
    seconds: dict[str, list[float]] = {peer: [] for peer in PEERS}
    held: dict[str, float] = {}
    with ExitStack() as stack:
        own = [str(heads), kind, str(int(bf16))]
        served = {
            peer: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "--serve", peer, *own],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for peer in PEERS
        }
        for number in range(WARM[kind] + rounds):
            for peer, process in served.items():
                assert process.stdin
                assert process.stdout
                print("go", file=process.stdin, flush=True)
                took, held[peer] = map(float, process.stdout.readline().split())
                if number >= WARM[kind]:
                    seconds[peer].append(took)
    return {peer: (statistics.median(seconds[peer]), held[peer]) for peer in PEERS}


def overhead(steps: int, rounds: int) -> float:
    """The time of drawing beyond that of the network alone, as a share: each pass is timed inside."""
    shape = UNetConfig(32, 128, (1, 2, 4), 2, (16, 8))
    drawer = NoiseDrawer.ready(Denoiser(DenoiserConfig(shape, ProcessConfig(), classes=10)), torch.device("cpu"))
    asked, away = Conditioning(labels=torch.zeros(4, dtype=torch.int64)), Conditioning(labels=torch.tensor([10]))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if find_spec("diffusers") is None:
        parser.error("diffusers is not installed: pip install -e '.[parity]'")
    if given.serve:
        peer, heads, kind, bf16 = given.serve
        serve(peer, int(heads), kind, bf16 == "1")
        return
    print("| work | heads | precision | pictures/s: " + " | ".join(PEERS) + " | ratios | MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in WARM:
        for heads in (64, 8):
            for bf16 in (False, True):
                told = turns(heads, kind, bf16, given.rounds).values()
                own = next(iter(told))[0]
                speeds = " | ".join(f"{BATCH / took:.2f}" for took, _ in told)
                ratios = ", ".join(f"{took / own:.2f}" for took, _ in list(told)[1:])
                held = ", ".join(f"{mib:.0f}" for _, mib in told)
                print(
                    f"| {kind} | {heads} | {'bf16' if bf16 else 'float32'} | {speeds} | {ratios} | {held} |", flush=True
                )
    print(f"drawing beyond the network: {overhead(20, 3):.2%} of its time")


if __name__ == "__main__":
    main()
