"""From noise to pictures, and back: functions over a denoiser, each a walk along levels.

All are iterators: what has been reached is yielded after each step, and whoever asks no further has stopped the walk.
`last(ddim(...))` walks to the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pinxit.diffusion.guidance import Lead
from pinxit.diffusion.levels import Denoised, Denoiser, Level, at_level, noise_in
from pinxit.diffusion.process import interpolated, posterior
from pinxit.errors import PinxitError

Variance = Literal["small", "large", "learned"]
"""Of a step: the posterior's, beta's, or learnt between them."""

Noise = Callable[[Tensor], Tensor]
"""Values of some shape -> standard normal noise of that shape."""


class Step(NamedTuple):
    """Where a walk has come to."""

    x: Tensor
    x0: Tensor
    """The clean values that were expected on the way there: a preview."""
    level: Level
    """Of x."""


def last(steps: Iterator[Step]) -> Tensor:
    """Walks to the end."""
    for step in steps:
        x = step.x
    return x


def ancestral(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    variance: Variance = "small",
    error: Callable[[Level], float] | None = None,
    lead: Lead | None = None,
    noise: Noise = torch.randn_like,
) -> Iterator[Step]:
    """DDPM (Ho et al. 2020, algorithm 2).

    `lead` moves the mean of every step by so many of its variances (Dhariwal and Nichol 2021, algorithm 1), but for the
    last, which has none. `error` tells the mean squared error of what is expected of clean values at a level. What they
    may be beside that adds to the posterior's variance, so that few steps are as various as many (Bao et al. 2022,
    "Analytic-DPM").
    """
    for level, to in pairwise(levels):
        told = denoise(x, level)
        x = _step(x, told, level, to, variance, noise, lead, error)
        yield Step(x, told.x0, to)


def _step(
    x: Tensor,
    told: Denoised,
    level: Level,
    to: Level,
    variance: Variance,
    noise: Noise,
    lead: Lead | None,
    error: Callable[[Level], float] | None = None,
) -> Tensor:
    mean, small, large = posterior(x, told.x0, level, to)
    if not to.sigma:
        return mean
    if error is not None:
        small += (to.alpha * large / level.sigma**2) ** 2 * error(level)
    std = _spread_of(told, variance, small, large)
    if lead is not None:
        mean = mean + std**2 * lead(x, level)
    return mean + std * noise(x)


def _spread_of(told: Denoised, variance: Variance, small: float, large: float) -> Tensor | float:
    if variance == "learned":
        if told.variance is None:
            raise PinxitError("variance=learned: this network tells none. Allowed are small and large.")
        return (0.5 * interpolated(told.variance, math.log(small), math.log(large))).exp()
    return math.sqrt(small if variance == "small" else large)


def ddim(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, eta: float = 0.0, noise: Noise = torch.randn_like
) -> Iterator[Step]:
    """Song et al. 2021, equation 12; eta 0 is certain, eta 1 as random as DDPM with the small variance.

    With eta 0 this is Euler's method on the probability-flow ODE, whatever the schedule; with 1, "Euler ancestral".
    """
    for level, to in pairwise(levels):
        x0 = denoise(x, level).x0
        certain = noise_in(x, x0, level)
        if eta and to.sigma:
            _, small, _ = posterior(x, x0, level, to)
            fresh = eta * math.sqrt(small)
            x = to.alpha * x0 + math.sqrt(max(to.sigma**2 - fresh**2, 0.0)) * certain + fresh * noise(x)
        else:
            x = at_level(x0, certain, to)
        yield Step(x, x0, to)


def invert(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, refine: int = 0) -> Iterator[Step]:
    """Clean values -> the noise from which `ddim` makes them; `levels` as for sampling.

    The noise of a step is told from its lower end, where the values are known, while sampling told it from the upper
    one; clean values pass for the least noisy ones (Dhariwal and Nichol 2021, appendix F). Each of `refine` times, it
    is told again from the upper end that came out.
    """
    for to, level in pairwise(reversed(levels)):  # from the cleaner `to` up to `level`
        asked = to if to.sigma else level
        x0 = denoise(x, asked).x0
        noise = noise_in(x, x0, asked)
        for _ in range(refine):
            above = _above(x, noise, to, level)
            x0 = denoise(above, level).x0
            noise = noise_in(above, x0, level)
        x = _above(x, noise, to, level)
        yield Step(x, x0, level)


def _above(x: Tensor, noise: Tensor, to: Level, level: Level) -> Tensor:
    """What DDIM starts from at `level` to arrive at x, if the noise is this."""
    return level.alpha * (x - to.sigma * noise) / to.alpha + level.sigma * noise


def plms(denoise: Denoiser, x: Tensor, levels: Sequence[Level]) -> Iterator[Step]:
    """Adams-Bashforth on the noise, of order 4, after an improved Euler step (Liu et al. 2022, equations 9 and 12)."""
    if not levels[0].alpha:
        raise PinxitError("plms cannot start from pure noise, as this schedule does. Take any other sampler.")
    told: list[Tensor] = []
    for level, to in pairwise(levels):
        x0 = denoise(x, level).x0
        told = [*told[-3:], noise_in(x, x0, level)]
        match told:
            case [a] if to.sigma:
                there = at_level(x0, a, to)
                step = (a + noise_in(there, denoise(there, to).x0, to)) / 2
            case [a]:
                step = a
            case [b, a]:
                step = (3 * a - b) / 2
            case [c, b, a]:
                step = (23 * a - 16 * b + 5 * c) / 12
            case [d, c, b, a]:
                step = (55 * a - 59 * b + 37 * c - 9 * d) / 24
        x0 = _x0_with(x, step, level)
        x = at_level(x0, step, to)
        yield Step(x, x0, to)


def _x0_with(x: Tensor, noise: Tensor, level: Level) -> Tensor:
    return (x - level.sigma * noise) / level.alpha


def heun(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    correct: bool = True,
    churn: float = 0.0,
    by_ratio: Callable[[float], Level] | None = None,
    noise: Noise = torch.randn_like,
) -> Iterator[Step]:
    """Karras et al. 2022, algorithm 2: second order in sigma/alpha; without `correct`, Euler's method.

    `churn` (S_churn) is how much noise is added and taken away again, over all steps; `by_ratio` is the schedule's,
    which knows the levels between.
    """
    if churn and by_ratio is None:
        raise PinxitError("churn needs by_ratio, the schedule's, which knows how noisy pictures are between levels.")
    gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)
    for level, to in pairwise(levels):
        if gamma and by_ratio and level.alpha:
            ratio = level.sigma / level.alpha
            noisier = by_ratio(ratio * (1 + gamma))
            added = math.sqrt(max((noisier.sigma / noisier.alpha) ** 2 - ratio**2, 0.0))  # 0 above the noisiest level
            x, level = noisier.alpha * (x / level.alpha + added * noise(x)), noisier  # noqa: PLW2901
        x0 = denoise(x, level).x0
        slope = noise_in(x, x0, level)
        there = at_level(x0, slope, to)
        if correct and to.sigma and level.alpha:
            slope = (slope + noise_in(there, denoise(there, to).x0, to)) / 2
            there = to.alpha * (x / level.alpha + (to.sigma / to.alpha - level.sigma / level.alpha) * slope)
        x = there
        yield Step(x, x0, to)


def dpm_solver(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    random: bool = False,
    noise: Noise = torch.randn_like,
) -> Iterator[Step]:
    """DPM-Solver++ (2M) (Lu et al. 2022b, algorithm 2), and its SDE twin (their appendix) where it is `random`.

    The last step, to clean values, is of first order, as is the first.
    """
    before: tuple[Tensor, float] | None = None
    for level, to in pairwise(levels):
        x0 = denoise(x, level).x0
        here = _log_ratio(level)
        expected = x0
        if not to.sigma:
            yield Step(to.alpha * x0, x0, to)
            return
        step = _log_ratio(to) - here
        if before and math.isfinite(step) and math.isfinite(before[1]):
            expected = x0 + (x0 - before[0]) * step / (2 * (here - before[1]))
        shrunk = math.exp(-step)
        if random:
            kept = to.sigma / level.sigma * shrunk
            x = kept * x + to.alpha * (1 - shrunk**2) * expected + to.sigma * math.sqrt(1 - shrunk**2) * noise(x)
        else:
            x = to.sigma / level.sigma * x + to.alpha * (1 - shrunk) * expected
        before = x0, here
        yield Step(x, x0, to)


def _log_ratio(level: Level) -> float:
    """lambda = log alpha/sigma."""
    return math.log(level.alpha / level.sigma) if level.alpha else -math.inf


def repaint(
    denoise: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    *,
    known: Tensor,
    mask: Tensor,
    jump: int = 10,
    repeats: int = 1,
    variance: Variance = "small",
    lead: Lead | None = None,
    noise: Noise = torch.randn_like,
) -> Iterator[Step]:
    """RePaint (Lugmayr et al. 2022, algorithm 1): DDPM where `mask` is 1, and `known` clean values, noised, elsewhere.

    After every `jump` steps it goes as many back up and down again, `repeats` - 1 times, so that both parts agree. With
    nothing known of any it is DDPM.
    """
    if bool((mask == 1).all()):
        yield from ancestral(denoise, x, levels, variance=variance, lead=lead, noise=noise)
        return
    for start in range(0, len(levels) - 1, jump):
        ahead = levels[start : start + jump + 1]
        for turn in range(repeats):
            if turn:
                x = _noisier(x, ahead[-1], ahead[0], noise)
            for level, to in pairwise(ahead):
                told = denoise(x, level)
                x = _step(x, told, level, to, variance, noise, lead)
                x = mask * x + (1 - mask) * at_level(known, noise(x), to)
                yield Step(x, told.x0, to)


def _noisier(x: Tensor, level: Level, to: Level, noise: Noise) -> Tensor:
    """Up to a noisier level by the forward process."""
    kept = to.alpha / level.alpha
    return kept * x + math.sqrt(to.sigma**2 - (kept * level.sigma) ** 2) * noise(x)
