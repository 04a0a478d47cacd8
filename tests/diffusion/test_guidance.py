"""Guidance on closed forms, and switched off."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.diffusion.toys import GAUSSIAN, TWO, Mixture
from torch import Tensor

from pinxit.diffusion import guidance
from pinxit.diffusion.levels import Denoised, Denoiser, Level
from pinxit.diffusion.samplers import ancestral, ddim, last
from pinxit.diffusion.schedules import Discrete, DiscreteConfig

LEVELS = Discrete(DiscreteConfig()).levels(100)
RIGHT = Mixture((0.6,), 0.1)


def noise(count: int) -> Tensor:
    return torch.randn(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def both(x: Tensor, level: Level) -> Denoised:
    """The right hump for the first half, both humps for the second."""
    wanted, unwanted = x.chunk(2)
    return Denoised(torch.cat([RIGHT.denoise(wanted, level).x0, TWO.denoise(unwanted, level).x0]))


def test_switched_off_each_is_the_same_denoiser() -> None:
    plain: Denoiser = TWO.denoise
    assert guidance.classifier_free(plain, both, 1.0) is plain
    assert guidance.autoguidance(plain, GAUSSIAN.denoise, 1.0) is plain
    assert guidance.by_gradient(plain, guidance.uphill(lambda x, level: x.sum(1), 0.0)) is plain  # noqa: ARG005
    assert guidance.clipped(plain, None) is plain
    assert guidance.dynamic_threshold(plain, None) is plain
    assert guidance.keeping(plain, noise(1), None) is plain
    assert guidance.consistent(plain, None) is plain


def test_classifier_free_leads_away_from_the_unwanted() -> None:
    guided = guidance.classifier_free(RIGHT.denoise, both, 3.0)
    made = last(ddim(guided, noise(2_000), LEVELS))
    plain = last(ddim(RIGHT.denoise, noise(2_000), LEVELS))
    assert made.mean() > plain.mean() + 0.01
    assert made.std() < plain.std()


def test_classifier_free_asks_once_and_takes_the_variance_of_the_wanted() -> None:
    sizes: list[int] = []

    def counted(x: Tensor, level: Level) -> Denoised:
        sizes.append(len(x))
        return Denoised(both(x, level).x0, torch.arange(len(x), dtype=x.dtype)[:, None])

    told = guidance.classifier_free(RIGHT.denoise, counted, 2.0)(noise(3), LEVELS[50])
    assert sizes == [6]
    assert told.variance is not None
    assert told.variance.flatten().tolist() == [0, 1, 2]


def test_an_interval_limits_it() -> None:
    guided = guidance.classifier_free(RIGHT.denoise, both, 3.0, interval=(0.5, 2.0))
    for level in LEVELS[:-1]:
        x = noise(4)
        inside = 0.5 <= level.sigma / level.alpha <= 2.0
        same = torch.equal(guided(x, level).x0, RIGHT.denoise(x, level).x0)
        assert same != inside or torch.allclose(TWO.denoise(x, level).x0, RIGHT.denoise(x, level).x0)


def test_autoguidance_sharpens() -> None:
    """Away from a blurred twin of the same mixture, samples lie nearer to the humps."""
    blurred = Mixture((-0.6, 0.6), 0.3)
    made = last(ddim(guidance.autoguidance(TWO.denoise, blurred.denoise, 2.0), noise(2_000), LEVELS))
    plain = last(ddim(TWO.denoise, noise(2_000), LEVELS))
    assert made[made > 0].std() < plain[plain > 0].std()


@pytest.mark.parametrize("by", ["noise", "mean"])
def test_a_classifier_chooses_the_hump(by: str) -> None:
    """p(right | x) of the noisy mixture, which Bayes knows: guided by it, all samples come out right."""

    def log_right(x: Tensor, level: Level) -> Tensor:
        total = (level.alpha * 0.1) ** 2 + level.sigma**2
        return torch.nn.functional.logsigmoid(2 * level.alpha * 0.6 * x / total).sum(1)

    lead = guidance.uphill(log_right, 1.0)
    if by == "noise":
        made = last(ddim(guidance.by_gradient(TWO.denoise, lead), noise(5_000), LEVELS))
    else:
        generator = torch.Generator().manual_seed(1)

        def fresh(x: Tensor) -> Tensor:
            return torch.empty_like(x).normal_(generator=generator)

        made = last(ancestral(TWO.denoise, noise(5_000), LEVELS, lead=lead, noise=fresh))
    assert (made > 0).double().mean().item() > 0.995
    assert made.mean().item() == pytest.approx(0.6, abs=0.02)
    assert made.std().item() == pytest.approx(0.1, abs=0.02)


def test_clipping_and_thresholds() -> None:
    def wild(x: Tensor, level: Level) -> Denoised:  # noqa: ARG001
        return Denoised(torch.tensor([[0.5, -1.0, 4.0, 2.0], [0.1, 0.2, 0.3, -0.4]]))

    x = torch.zeros(2, 4)
    assert guidance.clipped(wild)(x, LEVELS[0]).x0.tolist() == [
        [0.5, -1.0, 1.0, 1.0],
        pytest.approx([0.1, 0.2, 0.3, -0.4]),
    ]
    told = guidance.dynamic_threshold(wild, 1.0)(x, LEVELS[0]).x0
    assert told[0].tolist() == [0.125, -0.25, 1.0, 0.5]
    assert told[1].tolist() == pytest.approx([0.1, 0.2, 0.3, -0.4])


def test_consistent_with_a_small_picture() -> None:
    small = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    start = torch.randn(2, 1, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def smaller(values: Tensor) -> Tensor:
        return F.interpolate(values, (6, 6), mode="bicubic", antialias=True)

    plain, held = (
        last(ddim(denoise, start, LEVELS)) for denoise in (TWO.denoise, guidance.consistent(TWO.denoise, small))
    )
    assert (smaller(held) - small).abs().max() < 0.2 * (smaller(plain) - small).abs().max()
    fine = [values - F.interpolate(smaller(values), (24, 24), mode="bicubic") for values in (plain, held)]
    assert fine[1].std() > 0.5 * fine[0].std(), "finer detail is its own"


def test_keeping_what_is_known() -> None:
    known, mask = torch.full((3, 2), 0.25, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    made = last(ddim(guidance.keeping(TWO.denoise, known, mask), noise(3).expand(3, 2), LEVELS))
    assert torch.allclose(made[:, 0], known[:, 0])
    assert (made[:, 1].abs() > 0.3).all()
