"""Whether a denoiser reads whose a colour is, and who stands where: how much more it errs for exchanged captions.

    python benchmarks/exchanged.py runs/glide

Pictures of the drawn world are noised, and told clean for their own caption and for one that exchanges the colours of
its two things, or names the opposite relation. A network that reads words without their order errs alike.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from guidance import exchange
from torch import Tensor

import pinxit
from pinxit.data.images import to_tensor
from pinxit.data.pairs import open_pairs
from pinxit.data.scene_captions import short_caption
from pinxit.data.scene_world import Ask
from pinxit.diffusion.levels import at_level
from pinxit.models.denoiser import Conditioning
from pinxit.systems.diffusion_system import DiffusionSystem

RATIOS = (1.0, 3.0, 10.0, 30.0)
"""sigma/alpha: of little noise to much."""

AT_ONCE = 50


@torch.no_grad()
def error(system: DiffusionSystem, pixels: Tensor, texts: list[str], ratio: float) -> float:
    """The mean squared error of clean values, of pictures b 3 h w, always by the same noise."""
    base = system.cascade.base
    level = base.process.schedule.by_ratio(ratio)
    total = 0.0
    for start in range(0, len(pixels), AT_ONCE):
        clean = pixels[start : start + AT_ONCE]
        asked = Conditioning(ids=system.condition(texts[start : start + AT_ONCE]))
        denoise = base.process.denoiser(lambda x, times, asked=asked: base.network(x, times, asked).float())  # type: ignore[misc]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(start))
        total += float((denoise(at_level(clean, noise, level), level).x0 - clean).square().mean((1, 2, 3)).sum())
    return total / len(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model for texts, or of a run that made one")
    parser.add_argument("--data", default="scenes:4000:held-in", help="a source of scenes, which say what was asked")
    parser.add_argument("--n", type=int, default=200, help="pictures of each kind at most (default: 200)")
    given = parser.parse_args()
    system = pinxit.load(given.model, "cpu")
    if not isinstance(system, DiffusionSystem) or not system.reads_texts:
        parser.error(f"{given.model} is not drawn by a denoiser for texts")
    pairs = open_pairs(given.data, size=system.cascade.base.size)
    found: dict[str, list[tuple[Tensor, str, str]]] = defaultdict(list)
    for index in range(len(pairs)):
        meta = pairs.meta_at(index)
        if "ask" not in meta:
            parser.error(f"{given.data} does not say what was asked; give scenes")
        ask = Ask.from_json(meta["ask"])
        if (other := exchange(ask)) and len(found[ask.category]) < given.n:
            pixels = to_tensor(pairs[index].image)
            found[ask.category].append((pixels, short_caption(ask), short_caption(other)))
    print(f"| exchanged | pictures | {' | '.join(f'sigma/alpha {ratio:g}' for ratio in RATIOS)} |")
    print("|---" * (2 + len(RATIOS)) + "|")
    for name, rows in found.items():
        pictures, own, mixed = zip(*rows, strict=True)
        pixels = torch.stack(pictures)
        more = [error(system, pixels, list(mixed), r) / error(system, pixels, list(own), r) - 1 for r in RATIOS]
        print(f"| {name} | {len(rows)} | {' | '.join(f'{share:+.1%}' for share in more)} |")


if __name__ == "__main__":
    main()
