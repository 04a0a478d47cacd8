"""The forward process, what a network may tell about it, and how its telling becomes clean values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pinxit.diffusion.levels import Denoised, Denoiser, Level
from pinxit.diffusion.schedules import DiscreteConfig, EDMConfig, FlowConfig, Schedule, ScheduleConfig, schedule
from pinxit.errors import PinxitError

Target = Literal["eps", "x0", "v", "flow", "edm"]
Weighting = Literal["even", "min-snr", "velocity", "edm"]
Network = Callable[[Tensor, Tensor], Tensor]
"""Noisy values b c h w and what is told of their level, b -> what the target is about, b c h w, or b 2c h w."""


@dataclass(frozen=True)
class ProcessConfig:
    """What a diffusion network has to be known by, beside its own shape."""

    schedule: ScheduleConfig = field(default_factory=DiscreteConfig)
    target: Target = "eps"
    """What the network tells: the noise, the picture, v (Salimans and Ho 2022, appendix D; of levels scaled to
    alpha^2 + sigma^2 = 1), the velocity from picture to noise, or the picture as EDM's preconditioning has it."""
    learned_variance: bool = False
    """Whether it tells the variance of steps as well, in a second half of its channels."""
    data_std: float = 0.5
    """Standard deviation of clean values, for EDM's preconditioning and weighting."""

    def __post_init__(self) -> None:
        if self.learned_variance and not isinstance(self.schedule, DiscreteConfig):
            raise PinxitError("learned_variance=true is for levels that are counted: it needs a DiscreteConfig.")
        if self.target == "eps" and getattr(self.schedule, "zero_terminal_snr", isinstance(self.schedule, FlowConfig)):
            raise PinxitError(
                "target=eps with levels the last of which is all noise (a FlowConfig, zero_terminal_snr=true): to tell "
                "noise tells nothing there. Allowed are x0, v, flow and edm."
            )


class Process:
    """`ProcessConfig` at work."""

    def __init__(self, config: ProcessConfig) -> None:
        self.config = config
        self.schedule: Schedule = schedule(config.schedule)

    def noised(self, x0: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Clean values b ..., noise and times b -> noisy values (Ho et al. 2020, equation 4)."""
        alpha, sigma = (spread(value, x0) for value in self.schedule.at(times))
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the network should have told."""
        alpha, sigma = (spread(value, x0) for value in self.schedule.at(times))
        match self.config.target:
            case "eps":
                return noise
            case "x0":
                return x0
            case "v":
                return (alpha * noise - sigma * x0) / torch.hypot(alpha, sigma)
            case "flow":
                return noise - x0
            case "edm":
                _, skip, out = self._edm(alpha, sigma)
                return (x0 - skip * (alpha * x0 + sigma * noise)) / out

    def clean(self, told: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What it told of noisy values -> the clean ones that this means. alpha and sigma spread over x."""
        match self.config.target:
            case "eps":
                return (x - sigma * told) / alpha
            case "x0":
                return told
            case "v":
                size = torch.hypot(alpha, sigma)
                return (alpha * x / size - sigma * told) / size
            case "flow":
                return (x - sigma * told) / (alpha + sigma)
            case "edm":
                _, skip, out = self._edm(alpha, sigma)
                return skip * x + out * told

    def scaled(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Noisy values as the network sees them: EDM's are brought to a variance of 1, all others left."""
        if self.config.target != "edm" and not isinstance(self.config.schedule, EDMConfig):
            return x
        return self._edm(alpha, sigma)[0] * x

    def _edm(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_in, c_skip and c_out (Karras et al. 2022, table 1) for x = alpha x0 + sigma noise."""
        std = self.config.data_std
        total = (alpha * std).square() + sigma.square()
        return total.rsqrt(), alpha * std**2 / total, sigma * std * total.rsqrt()

    def weights(self, times: Tensor, kind: Weighting, gamma: float = 5.0) -> Tensor:
        """Times b -> what the squared error of the target counts, b.

        "min-snr" bounds what the error of x0 counts by gamma (Hang et al. 2023, section 3.4). "velocity" counts that of
        v, whatever is told (SNR + 1; Salimans and Ho 2022, section 4), bounded by gamma as well. "edm" is their lambda
        (Karras et al. 2022, table 1): even for their own target.
        """
        alpha, sigma = self.schedule.at(times)
        if kind == "even":
            return torch.ones_like(alpha)
        ratio = (alpha / sigma).square()
        match kind:
            case "min-snr":
                wanted = ratio.clamp_max(gamma)
            case "velocity":
                wanted = (ratio + 1).clamp_max(gamma)
            case "edm":
                wanted = ratio + 1 / self.config.data_std**2
        return wanted * self._of_x0(alpha, sigma)

    def _of_x0(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The squared error of x0 over that of the target."""
        match self.config.target:
            case "eps":
                return (sigma / alpha).square()
            case "x0":
                return torch.ones_like(alpha)
            case "v":
                return (sigma / torch.hypot(alpha, sigma)).square()
            case "flow":
                return (sigma / (alpha + sigma)).square()
            case "edm":
                return self._edm(alpha, sigma)[2].square()

    def split(self, told: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the network told -> of the target, and of the variance."""
        if not self.config.learned_variance:
            return told, None
        mean, variance = told.chunk(2, 1)
        return mean, variance

    def denoiser(self, network: Network) -> Denoiser:
        """The network as samplers know it."""

        def denoise(x: Tensor, level: Level) -> Denoised:
            alpha, sigma = (x.new_tensor(value) for value in (level.alpha, level.sigma))
            told = network(self.scaled(x, alpha, sigma), x.new_full((len(x),), level.time))
            told, variance = self.split(told)
            return Denoised(self.clean(told, x, alpha, sigma), variance)

        return denoise


def roughened(x: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """Values b ... as noisy as levels b say, from 0 to 1: what a cascade's next network is shown (Ho et al. 2022)."""
    angles = spread(levels, x) * (math.pi / 2)
    return angles.cos() * x + angles.sin() * noise


def spread(values: Tensor, x: Tensor) -> Tensor:
    """b -> b 1 ..., to go with x."""
    return values.view(-1, *[1] * (x.ndim - 1))


# The variance of a step.


def posterior(x: Tensor, x0: Tensor, level: Level, to: Level) -> tuple[Tensor, float, float]:
    """q(x_to | x, x0): its mean, its variance, and beta, the variance of q(x | x_to) (Ho et al. 2020, equation 7).

    For any two levels: skipping some only makes beta larger.
    """
    beta = max(level.sigma**2 - (level.alpha / to.alpha) ** 2 * to.sigma**2, 0.0)
    of_x0 = to.alpha * beta / level.sigma**2
    of_x = (level.alpha / to.alpha) * to.sigma**2 / level.sigma**2
    return of_x0 * x0 + of_x * x, to.sigma**2 / level.sigma**2 * beta, beta


def interpolated(share: Tensor, log_small: Tensor | float, log_large: Tensor | float) -> Tensor:
    """Log variance between the posterior's and beta's, for a share from -1 to 1 (Nichol and Dhariwal 2021, eq. 15)."""
    share = (share + 1) / 2
    return share * log_large + (1 - share) * log_small


def divergence(mean_a: Tensor, log_a: Tensor, mean_b: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) in nats of Gaussians by their means and log variances, element by element."""
    return 0.5 * (log_b - log_a - 1 + (log_a - log_b).exp() + (mean_a - mean_b).square() * (-log_b).exp())


def discrete_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log p(x) in nats of one of 256 brightnesses, for x and mean in [-1, 1] (Ho et al. 2020, equation 13)."""
    scale = (-0.5 * log_variance).exp()
    below, above = (_below(scale * (x - mean + side)) for side in (-1 / 255, 1 / 255))
    inside = torch.where(x > 0.999, 1 - below, above - below)
    return torch.where(x < -0.999, above, inside).clamp_min(1e-12).log()


def _below(x: Tensor) -> Tensor:
    share: Tensor = torch.special.ndtr(x)
    return share
