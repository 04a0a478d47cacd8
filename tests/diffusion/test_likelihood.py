"""Likelihoods of distributions that know their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tests.diffusion.toys import GAUSSIAN, TWO, Mixture

from pinxit.diffusion.likelihood import Bound, log_likelihood
from pinxit.diffusion.process import Process, ProcessConfig
from pinxit.diffusion.schedules import EDM, Discrete, DiscreteConfig, EDMConfig, Schedule

VP = Discrete(DiscreteConfig("linear"))


@pytest.mark.parametrize("toy", [GAUSSIAN, TWO], ids=["Gaussian", "mixture"])
@pytest.mark.parametrize("schedule", [EDM(EDMConfig(least=0.002, most=80.0)), VP], ids=["edm", "linear"])
@pytest.mark.parametrize("probes", [None, 1], ids=["exact", "one probe"])
def test_log_likelihood(
    toy: Mixture, schedule: Schedule, probes: int | None, record_property: Callable[[str, object], None]
) -> None:
    """Values that do not depend on each other have a diagonal derivative, whose trace one probe tells exactly."""
    x = torch.tensor([[0.3, 0.55], [-0.5, 0.7], [0.62, 0.58]], dtype=torch.float64)
    levels = schedule.levels(1_000)
    least = levels[-2].sigma / levels[-2].alpha
    told = log_likelihood(toy.denoise, x, levels, probes=probes)
    known = Mixture(toy.means, math.hypot(toy.std, least)).log_density(x)
    record_property("largest difference of log-likelihoods in nats", f"{(told - known).abs().max():.1e}")
    assert torch.allclose(told, known, atol=0.01)


def test_the_bound_is_one() -> None:
    """All terms together are at least the entropy of the data, and near it for the best denoiser."""
    steps = 200
    schedule = Discrete(DiscreteConfig("cosine", steps))
    process = Process(ProcessConfig(DiscreteConfig("cosine", steps), learned_variance=True))
    bound = Bound(schedule)
    generator = torch.Generator().manual_seed(0)
    brightness = torch.randint(0, 2, (4_000, 1), generator=generator)
    x0 = (brightness * 2 - 1).double() * 0.6 + 0.1 * torch.randn(4_000, 1, dtype=torch.float64, generator=generator)
    x0 = ((x0 + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1

    def total(told: Mixture, share: float) -> float:
        found = bound.rest(x0, process).mean().item()
        for time in range(steps):
            times = torch.full((len(x0),), time)
            x = process.noised(x0, torch.randn(x0.shape, dtype=x0.dtype, generator=generator), times)
            expected = told.denoise(x, schedule.level(time)).x0
            found += bound.terms(x0, x, expected, torch.full_like(x0, share), times).mean().item()
        return found

    # The entropy of the two humps in bits, in bins of 2/255.
    entropy = 1 + math.log2(0.1 * math.sqrt(2 * math.pi * math.e)) - math.log2(2 / 255)
    best = total(TWO, 1.0)  # of wide humps, beta is nearer to the best variance
    assert entropy - 0.02 < best < entropy + 0.15
    assert total(TWO, -1.0) > best + 0.2
    assert total(Mixture((-0.6, 0.6), 0.3), 1.0) > best + 0.05
