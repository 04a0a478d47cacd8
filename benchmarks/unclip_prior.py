"""unCLIP's diffusion prior beside DALLE2-pytorch's and diffusers', of the same shape, taking turns in one run.

    python benchmarks/unclip_prior.py    # forward, and a training step: loss, backward, AdamW

Width 512, 6 blocks of 8 heads, 77 tokens, batches of 64. What is not installed is left out; dalle2-pytorch wants a
torchvision, whose operators need not load. diffusers has no training of it and is timed forward alone.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pinxit.models.prior import Prior, PriorConfig, Read
from pinxit.objectives.denoising import Denoising, DenoisingConfig
from pinxit.training.memory import keep_freed_memory

BATCH, LENGTH, WIDTH, DEPTH, HEADS = 64, 77, 512, 6, 8

Asks = tuple[nn.Module, Callable[[], Tensor], Callable[[], Tensor] | None]
"""A network, a forward pass of it, and its loss."""


def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings of pictures and of texts, what stands at every token, and times."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(BATCH, WIDTH, generator=generator) for _ in range(2)]
    tokens = torch.randn(BATCH, LENGTH, WIDTH, generator=generator)
    return rows[0], rows[1], tokens, torch.randint(1_000, (BATCH,), generator=generator)


def pinxit() -> Asks:
    """Ours, with the loss that it is trained by."""
    images, texts, tokens, times = given()
    prior = Prior(PriorConfig(WIDTH, LENGTH, WIDTH, WIDTH, DEPTH, HEADS))
    read = Read(tokens, torch.ones(BATCH, LENGTH, dtype=torch.bool), texts)
    learning = Denoising(prior, prior.config.process, DenoisingConfig(), given=lambda batch, _: (batch["x"], read))
    return prior, lambda: prior(images, times, read), lambda: learning.loss({"x": images}, "network", 0)[0]


def diffusers() -> Asks:
    """PriorTransformer, which has no training."""
    from diffusers import PriorTransformer

    images, texts, tokens, times = given()
    theirs: Any = PriorTransformer(  # type: ignore[no-untyped-call]
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        num_layers=DEPTH,
        embedding_dim=WIDTH,
        num_embeddings=LENGTH,
    )
    return theirs, lambda: theirs(images, times, texts, tokens).predicted_image_embedding, None


def dalle2_pytorch() -> Asks:
    """DiffusionPrior over its network."""
    for name in ("nms", "qnms"):  # the torchvision for this torch is one for CUDA, whose operators do not load here
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    with contextlib.suppress(ImportError):  # a module that has moved since
        from pytorch_lightning.utilities.rank_zero import rank_zero_only  # type: ignore[import-not-found]

        moved: Any = types.ModuleType("pytorch_lightning.utilities.distributed")
        moved.rank_zero_only = rank_zero_only
        sys.modules[moved.__name__] = moved
    from dalle2_pytorch import DiffusionPrior, DiffusionPriorNetwork  # type: ignore[import-not-found]

    images, texts, tokens, times = given()
    network = DiffusionPriorNetwork(
        dim=WIDTH, depth=DEPTH, dim_head=WIDTH // HEADS, heads=HEADS, num_timesteps=1_000, max_text_len=LENGTH
    )
    prior = DiffusionPrior(net=network, image_embed_dim=WIDTH, timesteps=1_000, cond_drop_prob=0.2)
    return (
        network,
        lambda: network(images, times, text_embed=texts, text_encodings=tokens),
        lambda: prior(text_embed=texts, text_encodings=tokens, image_embed=images),
    )


def work(contender: Callable[[], Asks], kind: str, bf16: bool) -> Callable[[], None] | None:
    """What is timed; None for what is not there."""
    torch.manual_seed(0)
    network, forward, loss = contender()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            forward()

    def step() -> None:
        assert loss is not None
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    if kind == "training":
        return step if loss is not None else None
    return run


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    contenders = {contender.__name__: contender for contender in (pinxit, dalle2_pytorch, diffusers)}
    for kind in ("forward", "training"):
        for bf16 in (False, True):
            works: dict[str, Callable[[], None]] = {}
            for name, contender in contenders.items():
                try:
                    run = work(contender, kind, bf16)
                except ImportError as fault:
                    print(f"{name} is left out: {fault}", file=sys.stderr)
                    continue
                if run is not None:
                    works[name] = run
            took = turns(works, rounds)
            told = ", ".join(f"{name} {BATCH / seconds:.1f}/s" for name, seconds in took.items())
            others = {name: seconds / took["pinxit"] for name, seconds in took.items() if name != "pinxit"}
            ratios = ", ".join(f"{ratio:.2f}x of {name}" for name, ratio in others.items()) or "alone"
            print(f"{kind}, {'bf16' if bf16 else 'float32'}: {told}; ours is {ratios}", flush=True)


if __name__ == "__main__":
    main()
