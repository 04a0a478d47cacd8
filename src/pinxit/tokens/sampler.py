"""Drawing tokens one after the other, over any callable that gives the logits of the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pinxit.progress import Progress

NextLogits = Callable[[Tensor], Tensor]
"""All tokens so far, int64 b m -> logits of the next one, b k. It may remember what it was given before."""


@dataclass(frozen=True)
class Choice:
    """How a token is chosen from its logits."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest."""
    top_k: int | None = None
    """Only the k likeliest can be drawn."""
    top_p: float | None = None
    """Only the likeliest that together hold this share of the probability can be drawn (Holtzman et al. 2019)."""


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """One uniform number a token, b count, float64 on the CPU. A row depends on its seed alone."""
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows)


def draw(logits: Tensor, uniform: Tensor, choice: Choice) -> Tensor:
    """Logits b k and numbers b in [0, 1) -> ids b, by inverting the cumulative distribution.

    One number a token, rather than one a code, keeps a picture the same whether it is drawn alone or in a batch.
    """
    if choice.temperature == 0:
        return logits.argmax(-1)
    logits = restrict(logits.float() / choice.temperature, choice.top_k, choice.top_p)
    cumulative = logits.softmax(-1).double().cumsum(-1)
    place = uniform.to(logits.device) * cumulative[:, -1]
    ids = torch.searchsorted(cumulative, place[:, None], right=True)[:, 0]
    return ids.clamp_max(logits.shape[-1] - 1)


def restrict(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits b k with -inf where `top_k`, or `top_p` of what that left, forbids.

    What ties with the k-th likeliest stays in, and the likeliest always does.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        ranked, order = logits.sort(-1, descending=True)
        p = ranked.softmax(-1)
        beyond = p.cumsum(-1) - p >= top_p
        beyond[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits


def guide(next_logits: NextLogits, scale: float) -> NextLogits:
    """Classifier-free guidance: `next_logits` sees each row twice, with its condition first, then all without.

    Logits become without + scale * (with - without) (Ho and Salimans 2022, section 3.2).
    """

    def guided(ids: Tensor) -> Tensor:
        conditional, free = next_logits(torch.cat([ids, ids])).chunk(2)
        return free + scale * (conditional - free)

    return guided


def sample(
    next_logits: NextLogits,
    uniform: Tensor,
    choice: Choice,
    *,
    given: Tensor | None = None,
    known: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Draws `uniform.shape[1]` tokens for each row of `uniform` (b n), but for those that are `given`.

    `given` are the first ones (b m), or all of which those stay that `known` (n, boolean) marks. Returns ids b n,
    int64. Position j uses column j of `uniform`, whatever was given.
    """
    rows, count = uniform.shape
    ids = torch.zeros(rows, count, dtype=torch.int64, device=None if given is None else given.device)
    stay = torch.zeros(count, dtype=torch.bool)
    if given is not None:
        ids[:, : given.shape[1]] = given
        stay[: given.shape[1]] = True if known is None else known
    for position in range(count):
        if stay[position]:
            continue
        logits = next_logits(ids[:, :position])
        ids = ids.to(logits.device)
        ids[:, position] = draw(logits, uniform[:, position], choice)
        if progress:
            progress(position + 1, count)
    return ids
