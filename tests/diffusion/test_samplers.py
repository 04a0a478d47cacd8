"""Samplers on distributions whose denoisers are known: the right moments, the order of accuracy, the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from tests.diffusion.toys import GAUSSIAN, TWO, Mixture
from torch import Tensor

from pinxit.diffusion import samplers
from pinxit.diffusion.levels import CLEAN, Denoised, Denoiser, Level
from pinxit.diffusion.samplers import Noise, Step, last
from pinxit.diffusion.schedules import (
    EDM,
    Discrete,
    DiscreteConfig,
    EDMConfig,
    Flow,
    FlowConfig,
    Schedule,
)
from pinxit.errors import PinxitError

Measured = Callable[[str, object], None]
Sampler = Callable[[Denoiser, Tensor, Sequence[Level]], Iterator[Step]]

SCHEDULES: dict[str, Schedule] = {
    "linear": Discrete(DiscreteConfig("linear")),
    "cosine": Discrete(DiscreteConfig("cosine")),
    "zero terminal": Discrete(DiscreteConfig("scaled-linear", zero_terminal_snr=True)),
    "edm": EDM(EDMConfig()),
    "flow": Flow(FlowConfig()),
}
CERTAIN: dict[str, Sampler] = {
    "ddim": samplers.ddim,
    "plms": samplers.plms,
    "heun": samplers.heun,
    "dpm_solver": samplers.dpm_solver,
}
NOISED: dict[str, Callable[[Denoiser, Tensor, Sequence[Level], Noise], Iterator[Step]]] = {
    "ancestral": lambda *walk: samplers.ancestral(*walk[:3], noise=walk[3]),
    "ancestral, large": lambda *walk: samplers.ancestral(*walk[:3], variance="large", noise=walk[3]),
    "ddim, eta 1": lambda *walk: samplers.ddim(*walk[:3], eta=1.0, noise=walk[3]),
    "dpm_solver, random": lambda *walk: samplers.dpm_solver(*walk[:3], random=True, noise=walk[3]),
}
RANDOM: dict[str, Sampler] = {
    name: lambda *walk, sampler=sampler: sampler(*walk, torch.randn_like) for name, sampler in NOISED.items()
}


def start(count: int, levels: Sequence[Level]) -> Tensor:
    """Noise, b 1, double."""
    return torch.randn(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * levels[0].sigma


FROM_PURE_NOISE = ("flow", "zero terminal")


@pytest.mark.parametrize(
    ("schedule", "sampler"),
    [
        (schedule, sampler)
        for schedule in SCHEDULES
        for sampler in (*CERTAIN, *RANDOM)
        if not (sampler == "plms" and schedule in FROM_PURE_NOISE)
    ],
)
def test_moments_of_a_mixture(schedule: str, sampler: str, record_property: Measured) -> None:
    torch.manual_seed(0)
    levels = SCHEDULES[schedule].levels(400)
    made = last({**CERTAIN, **RANDOM}[sampler](TWO.denoise, start(5_000, levels), levels))
    right = made > 0
    share, mean, std = right.double().mean().item(), made[right].mean().item(), made[right].std().item()
    record_property("share, mean and deviation of a mode of 0.5, 0.6, 0.1", f"{share:.3f}, {mean:.4f}, {std:.4f}")
    assert share == pytest.approx(0.5, abs=0.03)
    assert mean == pytest.approx(0.6, abs=0.02)
    assert std == pytest.approx(0.1, abs=0.02)


def exact(mixture: Mixture, x: Tensor, level: Level, to: Level) -> Tensor:
    """Where the probability-flow ODE takes x of a Gaussian: each stays at its quantile."""
    mean, std = mixture.means[0], mixture.std
    before = math.hypot(level.alpha * std, level.sigma)
    after = math.hypot(to.alpha * std, to.sigma)
    return to.alpha * mean + (x - level.alpha * mean) * after / before


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2), ("dpm_solver", 2), ("plms", 2)])
def test_order_of_accuracy(sampler: str, order: int, record_property: Measured) -> None:
    """Twice as many steps, 2^order times as near; PLMS starts with steps of order 2."""

    def error(steps: int) -> float:
        ratios = torch.linspace(math.log(20.0), math.log(0.5), steps + 1).exp().tolist()
        levels = [SCHEDULES["edm"].by_ratio(ratio) for ratio in ratios]
        x = torch.tensor([[-8.0], [1.0], [25.0]], dtype=torch.float64)
        made = last(CERTAIN[sampler](GAUSSIAN.denoise, x, levels))
        return (made - exact(GAUSSIAN, x, levels[0], levels[-1])).abs().max().item()

    coarse, fine = error(80), error(160)
    record_property(f"order of accuracy, {order} by theory", f"{math.log2(coarse / fine):.2f}")
    assert math.log2(coarse / fine) > order - 0.25


@pytest.mark.parametrize(
    ("sampler", "order"), [("ancestral", 1), ("ancestral, large", 1), ("ddim, eta 1", 1), ("dpm_solver, random", 2)]
)
def test_weak_order_of_those_with_noise_of_their_own(sampler: str, order: int, record_property: Measured) -> None:
    """Twice as many steps, 2^order times as near to the variance of a Gaussian.

    Of one about 0 every step is linear in x and in its noise. So the variance is exact without any chance: the sum of
    the squares of what is made of x alone, and of the noise of each step alone.
    """
    mixture = Mixture((0.0,), 0.5)

    def error(steps: int) -> float:
        ratios = torch.linspace(math.log(20.0), math.log(0.5), steps + 1).exp().tolist()
        levels = [SCHEDULES["edm"].by_ratio(ratio) for ratio in ratios]
        x = torch.zeros(steps + 1, 1, dtype=torch.float64)
        x[0] = math.hypot(0.5, levels[0].sigma)
        turns = iter(range(1, steps + 1))

        def one(like: Tensor) -> Tensor:
            alone = torch.zeros_like(like)
            alone[next(turns)] = 1
            return alone

        made = last(NOISED[sampler](mixture.denoise, x, levels, one))
        return abs(made.square().sum().item() - (0.5**2 + levels[-1].sigma ** 2))

    coarse, fine = error(80), error(160)
    record_property(f"weak order, {order} by theory", f"{math.log2(coarse / fine):.2f}")
    assert abs(math.log2(coarse / fine) - order) < 0.25


def test_euler_is_ddim() -> None:
    levels = SCHEDULES["cosine"].levels(20)
    x = start(10, levels)
    euler = last(samplers.heun(TWO.denoise, x, levels, correct=False))
    assert torch.allclose(euler, last(samplers.ddim(TWO.denoise, x, levels)), atol=1e-12)


def test_churn_keeps_the_distribution() -> None:
    schedule = SCHEDULES["edm"]
    levels = schedule.levels(60)
    walk = samplers.heun(TWO.denoise, start(20_000, levels), levels, churn=20.0, by_ratio=schedule.by_ratio)
    made = last(walk)
    assert made[made > 0].mean().item() == pytest.approx(0.6, abs=0.02)
    assert made[made > 0].std().item() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("schedule", ["cosine", "edm", "flow"])
def test_there_and_back(schedule: str) -> None:
    """Refined, the way up meets the way down; without, it comes nearer with more steps."""
    levels = [level for level in SCHEDULES[schedule].levels(50) if level.alpha > 0.02]
    x = torch.linspace(-0.8, 0.8, 9, dtype=torch.float64)[:, None]

    def far(levels: Sequence[Level], refine: int) -> float:
        noise = last(samplers.invert(GAUSSIAN.denoise, x, levels, refine=refine))
        return (last(samplers.ddim(GAUSSIAN.denoise, noise, levels)) - x).abs().max().item()

    plain = far(levels, 0)
    assert far(levels, 30) < min(1e-6, plain / 100)
    more = [level for level in SCHEDULES[schedule].levels(400) if level.alpha > 0.02]
    assert far(more, 0) < plain / 3


@pytest.mark.parametrize("schedule", FROM_PURE_NOISE)
def test_plms_needs_a_little_of_the_picture(schedule: str) -> None:
    levels = SCHEDULES[schedule].levels(10)
    with pytest.raises(PinxitError, match="pure noise"):
        last(samplers.plms(TWO.denoise, start(3, levels), levels))


def test_variance_in_between() -> None:
    """A learnt share of -1 is the small variance, of 1 the large."""
    levels = SCHEDULES["cosine"].levels(10)
    x = start(50, levels)

    def learnt(share: float) -> Denoiser:
        def denoise(x: Tensor, level: Level) -> Denoised:
            return Denoised(TWO.denoise(x, level).x0, torch.full_like(x, share))

        return denoise

    for share, name in ((-1.0, "small"), (1.0, "large")):
        torch.manual_seed(1)
        a = last(samplers.ancestral(learnt(share), x, levels, variance="learned"))
        torch.manual_seed(1)
        b = last(samplers.ancestral(TWO.denoise, x, levels, variance=name))  # type: ignore[arg-type]
        assert torch.allclose(a, b, atol=1e-9)
    with pytest.raises(PinxitError, match="tells none"):
        last(samplers.ancestral(TWO.denoise, x, levels, variance="learned"))


@pytest.mark.parametrize("steps", [3, 10])
def test_few_steps_are_as_various_as_many_where_the_error_is_known(steps: int) -> None:
    """Of a Gaussian, what x0 may be beside the expected one has one variance, and each step is exact."""
    levels = SCHEDULES["linear"].levels(steps)
    std = GAUSSIAN.std

    def error(level: Level) -> float:
        return (std * level.sigma) ** 2 / ((level.alpha * std) ** 2 + level.sigma**2)

    torch.manual_seed(1)
    made = {
        name: last(samplers.ancestral(GAUSSIAN.denoise, start(20_000, levels), levels[:-1], error=told))
        for name, told in (("known", error), ("unknown", None))
    }
    end = levels[-2]
    wanted = math.hypot(end.alpha * std, end.sigma)
    assert made["known"].std().item() == pytest.approx(wanted, rel=0.02)
    assert made["known"].mean().item() == pytest.approx(end.alpha * GAUSSIAN.means[0], abs=0.02)
    assert made["unknown"].std().item() < 0.9 * wanted


@pytest.mark.parametrize("sampler", [*CERTAIN, *RANDOM])
def test_whoever_asks_no_further_has_stopped(sampler: str) -> None:
    asked: list[Level] = []

    def counting(x: Tensor, level: Level) -> Denoised:
        asked.append(level)
        return TWO.denoise(x, level)

    levels = SCHEDULES["cosine"].levels(10)
    x = start(4, levels)
    walk = {**CERTAIN, **RANDOM}[sampler](counting, x, levels)
    assert not asked
    steps = [next(walk) for _ in range(3)]
    assert {level.time for level in asked} <= {level.time for level in levels[:4]}
    assert [step.level for step in steps] == levels[1:4]
    if sampler != "plms":  # whose first step looks ahead
        assert torch.allclose(steps[0].x0, TWO.denoise(x, levels[0]).x0), "a preview of what is expected"
    assert steps[2].x0.shape == (4, 1)


def test_each_ends_clean() -> None:
    levels = SCHEDULES["cosine"].levels(5)
    for sampler in (*CERTAIN.values(), *RANDOM.values()):
        steps = list(sampler(TWO.denoise, start(3, levels), levels))
        assert steps[-1].level == CLEAN
        assert len(steps) == 5
        assert torch.isfinite(steps[-1].x).all()


def test_repaint_of_everything_is_ddpm() -> None:
    levels = SCHEDULES["cosine"].levels(10)
    x = start(6, levels)
    torch.manual_seed(1)
    plain = last(samplers.ancestral(TWO.denoise, x, levels))
    torch.manual_seed(1)
    assert torch.equal(plain, last(samplers.repaint(TWO.denoise, x, levels, known=x, mask=torch.ones(1), repeats=4)))


@pytest.mark.parametrize("repeats", [1, 4])
def test_repaint_keeps_what_is_known(repeats: int) -> None:
    """Where two values are alike, the known one pulls the other to its side; more so when both are gone over again."""

    def alike(x: Tensor, level: Level) -> Denoised:
        """Two values that are always the same: both noisy ones tell of it."""
        pooled = x.mean(1, keepdim=True)
        less = Level(level.alpha, level.sigma / math.sqrt(2), level.time)
        return Denoised(TWO.denoise(pooled, less).x0.expand_as(x))

    levels = SCHEDULES["cosine"].levels(50)
    x = torch.randn(2_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    known, mask = torch.full_like(x, 0.6), torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.manual_seed(2)
    made = last(samplers.repaint(alike, x, levels, known=known, mask=mask, repeats=repeats))
    assert torch.equal(made[:, 0], known[:, 0])
    agree = (made[:, 1] > 0).double().mean().item()
    assert agree > (0.75 if repeats == 1 else 0.95)
