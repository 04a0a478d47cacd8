"""Drawing many tokens at once, the surest first, over any callable that tells all of them (Chang et al. 2022, 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pinxit.progress import Progress
from pinxit.tokens.sampler import Choice, draw

AllLogits = Callable[[Tensor], Tensor]
"""All tokens, int64 b n, some of them hidden by an id of their own -> logits of every one, b n k."""


def hidden(progress: float) -> float:
    """The share of tokens that is still hidden after a share of the steps: a quarter of a cosine (equation 3)."""
    return math.cos(math.pi / 2 * progress)


def noise(seeds: Sequence[int], steps: int, count: int) -> Tensor:
    """Uniform numbers for `fill`, b steps 2 n, float64 on the CPU. A row depends on its seed alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(steps, 2, count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def fill(
    all_logits: AllLogits,
    ids: Tensor,
    mask_id: int,
    uniform: Tensor,
    choice: Choice,
    *,
    wavering: float = 4.5,
    progress: Progress | None = None,
) -> Tensor:
    """Draws the tokens of `ids` (b n) that are `mask_id`, in as many steps as `uniform` (b steps 2 n) has.

    In each step all hidden ones are drawn, and the surest kept: those of the highest log probability, plus Gumbel noise
    of a size that falls from `wavering` to nothing. Every row has to hide equally many. Returns ids b n.
    """
    ids = ids.clone()
    rows, count = ids.shape
    steps = uniform.shape[1]
    total = int((ids[0] == mask_id).sum())
    for step in range(steps):
        covered = ids == mask_id
        if not covered.any():
            break
        logits = all_logits(ids).float()
        ids, covered = ids.to(logits.device), covered.to(logits.device)
        drawn = draw(logits.flatten(0, 1), uniform[:, step, 0].flatten(), choice).view(rows, count)
        chosen = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
        gumbel = -(-uniform[:, step, 1].clamp_min(1e-12).log()).log().to(logits.device, torch.float32)
        sureness = chosen + wavering * (1 - (step + 1) / steps) * gumbel
        sureness = sureness.masked_fill(~covered, torch.inf)
        remain = min(int(total * hidden((step + 1) / steps)), int(covered[0].sum()) - 1)
        least = sureness.argsort(-1)[:, :remain]
        ids = torch.where(covered, drawn, ids).scatter(1, least, mask_id)
        if progress:
            progress(step + 1, steps)
    return ids
