"""Whether a diffusion prior in training draws embeddings like those of pictures: numbers, and warnings in words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pinxit.diffusion.process import Process, spread
from pinxit.diffusion.schedules import at_most
from pinxit.evaluation.health import lagging
from pinxit.models.prior import LEVELS, Prior, Read
from pinxit.systems.prior_drawing import PriorDrawer, PriorDrawing

logger = logging.getLogger(__name__)

STEPS = 32
"""In which embeddings are drawn to be looked at."""

SCALE = 1.25
"""By which factor the spread of drawn embeddings may differ from that of pictures'."""


@torch.no_grad()
def prior_errors(
    prior: Prior, given: Callable[[Any], tuple[Tensor, Read]], batches: Iterable[Mapping[str, Any]]
) -> Tensor:
    """The mean squared error of the clean embedding that it expects, at each of its `LEVELS`, over some batches."""
    process, device = Process(prior.config.process), prior.mean.device
    times = (torch.arange(LEVELS, device=device) + 0.5) * (1_000 / LEVELS)
    total, count = torch.zeros(LEVELS, device=device), 0
    for batch in batches:
        clean, asked = given({name: value.to(device) for name, value in batch.items()})
        count += 1
        for place, time in enumerate(times.tolist()):
            at = torch.full((len(clean),), time, device=device)
            own = process.schedule.times(at / 1_000)
            x = process.noised(clean, torch.randn_like(clean), own)
            alpha, sigma = (spread(value, x) for value in process.schedule.at(own))
            told = prior(process.scaled(x, alpha, sigma), process.schedule.timesteps(own), asked).float()
            total[place] += (process.clean(told, x, alpha, sigma) - clean).square().mean()
    return total / max(count, 1)


def prior_health(
    drawer: PriorDrawer, texts: Sequence[str], wanted: Tensor, lag: float | None = None
) -> dict[str, float]:
    """How near embeddings drawn for texts come to those of their pictures, `wanted` b d; warns where it is not."""
    seeds, how = range(len(texts)), PriorDrawing(at_most(STEPS, drawer.prior.config.process.schedule))
    drawn, better = (drawer.draw(texts, seeds, how._replace(candidates=count)) for count in (1, 2))
    said = drawer.read(texts).embedding.cpu()
    mean = drawer.prior.mean.cpu()
    numbers = {
        "embedding_scale": float((drawn - mean).norm() / (wanted - mean).norm()),
        "cosine": float((drawn * wanted).sum(1).mean()),
        "cosine_of_the_mean": float((torch.nn.functional.normalize(mean, dim=0) * wanted).sum(1).mean()),
        "best_of_two_gain": float(((better - drawn) * said).sum(1).mean()),
    }
    if lag is not None:
        numbers["averaged_error_over_raw"] = lag
    for warning in warnings(numbers):
        logger.warning(warning)
    return numbers


def warnings(numbers: Mapping[str, float]) -> list[str]:
    """What the numbers of `prior_health` mean, where that is nothing good."""
    told: list[str] = []
    scale = numbers["embedding_scale"]
    if not 1 / SCALE < scale < SCALE:
        told.append(
            f"Drawn embeddings are spread {scale:.2f} times as wide as those of pictures: a decoder has learnt from "
            "none like them. That is so at first; if it stays, the embeddings are not those of this CLIP."
        )
    if numbers["cosine"] < numbers["cosine_of_the_mean"]:
        told.append(
            f"Drawn embeddings lie no nearer to their pictures' ({numbers['cosine']:.2f}) than the mean of all does "
            f"({numbers['cosine_of_the_mean']:.2f}): the text is not followed yet."
        )
    return told + lagging(numbers)
