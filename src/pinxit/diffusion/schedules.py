"""Which levels of noise there are: to learn from, and to sample through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pinxit.diffusion.levels import CLEAN, Level
from pinxit.errors import PinxitError

Floats = npt.NDArray[np.float64]
Spacing = Literal["even", "leading", "trailing", "karras"]
FAST27 = (10, 10, 3, 2, 2)
"""GLIDE's 27 steps for its upsampler: most of them where there is little noise left."""


class Schedule(Protocol):
    """Times, and how noisy each is."""

    def times(self, shares: Tensor) -> Tensor:
        """Shares b from 0 to 1, of what is learnt from, least noise first -> times b."""

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Times b -> alpha and sigma, b each, float32."""

    def timesteps(self, times: Tensor) -> Tensor:
        """Times b -> what the network is told of them, b, float32."""

    def by_ratio(self, ratio: float) -> Level:
        """The level at which sigma/alpha is this."""

    def levels(self, steps: int) -> list[Level]:
        """The levels that sampling in so many steps goes through, noisiest first; the last of them is clean."""


@dataclass(frozen=True)
class DiscreteConfig:
    """Levels 0 to `steps` - 1, each of which adds a little noise to the one before (Ho et al. 2020)."""

    betas: Literal["linear", "cosine", "scaled-linear"] = "cosine"
    """Variances of what each level adds: DDPM's, improved DDPM's, latent diffusion's."""
    steps: int = 1_000
    zero_terminal_snr: bool = False
    """Rescaled so that nothing of the picture is left in the last level (Lin et al. 2023, algorithm 1); for targets v
    and x0, since noise tells nothing there."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise PinxitError(f"steps={self.steps}: levels of noise are 2 at least.")


class Discrete:
    """`DiscreteConfig` at work."""

    def __init__(self, config: DiscreteConfig) -> None:
        self.config = config
        kept = np.cumprod(1 - betas(config.betas, config.steps))
        if config.zero_terminal_snr:
            roots = np.sqrt(kept)
            kept = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        self.kept: Floats = kept.astype(np.float64)
        """alpha bar: the share of the picture's variance that is left at each level, float64."""

    @cached_property
    def _table(self) -> Tensor:
        return torch.from_numpy(np.stack([np.sqrt(self.kept), np.sqrt(1 - self.kept)])).float()

    def times(self, shares: Tensor) -> Tensor:
        """Each level alike, int64."""
        return (shares * self.config.steps).long().clamp_max(self.config.steps - 1)

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """By the table."""
        alpha, sigma = self._table.to(times.device)[:, times.long()]
        return alpha, sigma

    def timesteps(self, times: Tensor) -> Tensor:
        """The number of the level, of a thousand."""
        return times.float() * (1_000 / self.config.steps)

    def level(self, time: float) -> Level:
        """A level by its number; between two, by the logarithm of sigma/alpha, as k-diffusion has it."""
        numbers = np.arange(self.config.steps)
        if float(time).is_integer():
            kept = float(self.kept[int(time)])
        else:
            ratio = math.exp(float(np.interp(time, numbers, self._log_ratios)))
            kept = 1 / (1 + ratio**2)
        return Level(math.sqrt(kept), math.sqrt(1 - kept), time * 1_000 / self.config.steps)

    @cached_property
    def _log_ratios(self) -> Floats:
        with np.errstate(divide="ignore"):
            ratios: Floats = 0.5 * np.log((1 - self.kept) / self.kept)
        return ratios

    def by_ratio(self, ratio: float) -> Level:
        """Between two levels by the logarithm; no further than the last."""
        return self.level(float(np.interp(math.log(ratio), self._log_ratios, np.arange(self.config.steps))))

    def levels(self, steps: int, spacing: Spacing = "even") -> list[Level]:
        """`steps` of them, and the clean one.

        "even" is improved DDPM's respacing, from the first level to the last; "leading" and "trailing" are whole
        strides from the first level up, or from the last one down (Lin et al. 2023, table 2); "karras" is even in
        sigma^(1/7) (Karras et al. 2022, equation 5), between levels. A single one is the noisiest.
        """
        most = self.config.steps
        if not 1 <= steps <= most:
            raise PinxitError(f"steps={steps}: this model has {most} levels of noise; allowed is 1 to {most}.")
        if steps == 1:
            return self.through([most - 1])
        match spacing:
            case "even":
                return self.through(even(0, most - 1, steps))
            case "leading":
                return self.through([i * (most // steps) for i in range(steps)])
            case "trailing":
                return self.through([round(most - i * most / steps) - 1 for i in range(steps)])
            case "karras":
                sigmas = np.exp(self._log_ratios[np.isfinite(self._log_ratios)])
                wanted = karras(float(sigmas[0]), float(sigmas[-1]), steps, 7.0)
                return [*(self.by_ratio(sigma) for sigma in wanted), CLEAN]

    def sections(self, counts: Sequence[int] = FAST27) -> list[Level]:
        """As many evenly spaced levels in each of equal parts, the least noisy part first, and the clean one.

        The noisiest gives way to one two below it, as in GLIDE, whose upsampler never learnt it well.
        """
        most, start = self.config.steps, 0
        times: list[int] = []
        for number, count in enumerate(counts):
            size = most // len(counts) + (number < most % len(counts))
            times += even(start, start + size - 1, count)
            start += size
        return self.through([most - 3 if time == most - 1 else time for time in times])

    def through(self, times: Sequence[float]) -> list[Level]:
        """Levels by their numbers, in the order of sampling."""
        return [*(self.level(time) for time in sorted(set(times), reverse=True)), CLEAN]


def betas(kind: Literal["linear", "cosine", "scaled-linear"], steps: int) -> Floats:
    """Variances of the noise that each level adds, float64."""
    match kind:
        case "linear":  # Ho et al. 2020, section 4, kept alike for other numbers of steps (improved DDPM's code)
            return np.linspace(0.1 / steps, 20 / steps, steps, dtype=np.float64).clip(max=0.999)
        case "scaled-linear":  # latent diffusion's
            return np.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=np.float64) ** 2
        case "cosine":  # Nichol and Dhariwal 2021, equation 17
            places = np.arange(steps + 1, dtype=np.float64) / steps
            kept = np.cos((places + 0.008) / 1.008 * math.pi / 2) ** 2
            added: Floats = (1 - kept[1:] / kept[:-1]).clip(max=0.999)
            return added


def even(first: int, last: int, count: int) -> list[int]:
    """`count` whole numbers from first to last, evenly spaced, both in (the first alone, of one)."""
    stride = (last - first) / (count - 1) if count > 1 else 1.0
    return [first + round(stride * i) for i in range(count)]


def karras(least: float, most: float, count: int, rho: float) -> list[float]:
    """sigmas, falling (Karras et al. 2022, equation 5)."""
    shares = np.linspace(0, 1, count)
    a, b = most ** (1 / rho), least ** (1 / rho)
    return [float(sigma) for sigma in (a + shares * (b - a)) ** rho]


@dataclass(frozen=True)
class EDMConfig:
    """Noise of any size on pictures that are not scaled down (Karras et al. 2022, table 1)."""

    least: float = 0.002
    """sigma, at the end of sampling, and at its start:"""
    most: float = 80.0
    rho: float = 7.0
    """How much more often little noise is sampled through than much."""
    mean: float = -1.2
    """Of the logarithm of sigma in training, which is normal, and how far it spreads:"""
    std: float = 1.2

    def __post_init__(self) -> None:
        if not (0 < self.least < self.most and self.rho > 0):
            raise PinxitError(
                f"Noise from {self.least} to {self.most} by rho={self.rho}: give 0 < least < most, rho > 0."
            )


class EDM:
    """`EDMConfig` at work; times are logarithms of sigma."""

    def __init__(self, config: EDMConfig) -> None:
        self.config = config

    def times(self, shares: Tensor) -> Tensor:
        """Normal."""
        times: Tensor = torch.special.ndtri(shares.clamp(1e-5, 1 - 1e-5)) * self.config.std + self.config.mean
        return times

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """1 and sigma."""
        return torch.ones_like(times), times.exp()

    def timesteps(self, times: Tensor) -> Tensor:
        """A quarter of the logarithm (table 1, c_noise), of a thousand as for all networks."""
        return times * 250.0

    def by_ratio(self, ratio: float) -> Level:
        """Which is sigma."""
        return Level(1.0, ratio, 250.0 * math.log(ratio))

    def levels(self, steps: int) -> list[Level]:
        """By rho."""
        c = self.config
        return [*(self.by_ratio(sigma) for sigma in karras(c.least, c.most, steps, c.rho)), CLEAN]


@dataclass(frozen=True)
class FlowConfig:
    """A straight line from picture to noise: alpha = 1 - t, sigma = t (Lipman et al. 2023; Liu et al. 2023)."""

    mean: float = 0.0
    """Of the logit of t in training, which is normal, and how far it spreads; 0 spread is t drawn evenly."""
    std: float = 1.0
    shift: float = 1.0
    """Above 1, sampling spends more steps on much noise: t -> shift t / (1 + (shift - 1) t) (Esser et al. 2024,
    equation 23)."""

    def __post_init__(self) -> None:
        if self.std < 0 or self.shift <= 0:
            raise PinxitError(f"std={self.std}, shift={self.shift}: give at least 0, and more than 0.")


class Flow:
    """`FlowConfig` at work; times are t."""

    def __init__(self, config: FlowConfig) -> None:
        self.config = config

    def times(self, shares: Tensor) -> Tensor:
        """Logit-normal or even."""
        if not self.config.std:
            return shares
        logits: Tensor = torch.special.ndtri(shares.clamp(1e-5, 1 - 1e-5)) * self.config.std + self.config.mean
        return logits.sigmoid()

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t and t."""
        return 1 - times, times

    def timesteps(self, times: Tensor) -> Tensor:
        """t, of a thousand."""
        return times * 1_000

    def by_ratio(self, ratio: float) -> Level:
        """t / (1 - t)."""
        return self._level(ratio / (1 + ratio))

    def levels(self, steps: int) -> list[Level]:
        """Even in t, shifted."""
        shift = self.config.shift
        times = [1 - i / steps for i in range(steps)]
        return [*(self._level(shift * t / (1 + (shift - 1) * t)) for t in times), CLEAN]

    def _level(self, t: float) -> Level:
        return Level(1 - t, t, 1_000 * t)


ScheduleConfig = DiscreteConfig | EDMConfig | FlowConfig


def at_most(steps: int, config: ScheduleConfig) -> int:
    """So many steps of drawing, or as many as there are levels of noise."""
    return min(steps, config.steps) if isinstance(config, DiscreteConfig) else steps


def draw_shares(count: int, device: torch.device | None = None) -> Tensor:
    """One from each of `count` equal parts of 0 to 1, from torch's global generator: less chance than all alike."""
    return (torch.arange(count, device=device) + torch.rand(count, device=device)) / count


def schedule(config: ScheduleConfig) -> Schedule:
    """The schedule that a config is for."""
    match config:
        case DiscreteConfig():
            return Discrete(config)
        case EDMConfig():
            return EDM(config)
        case FlowConfig():
            return Flow(config)
