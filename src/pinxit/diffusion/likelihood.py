"""How likely clean values are: exactly by the probability-flow ODE, or a bound of it by the steps of DDPM."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pinxit.diffusion.levels import CLEAN, Denoiser, Level, noise_in
from pinxit.diffusion.process import Process, discrete_log_likelihood, divergence, interpolated, posterior, spread
from pinxit.diffusion.schedules import Discrete


def log_likelihood(denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, probes: int | None = None) -> Tensor:
    """log p(x) in nats, b, by Heun's method up the probability-flow ODE (Song et al. 2021, appendix D.2).

    `levels` as for sampling, from nearly all noise to the least; x is taken for the values at the least noisy one. The
    divergence is exact, at the cost of a pass for each value, or estimated by `probes` random signs (Hutchinson).
    """
    upward = [level for level in reversed(levels) if level.sigma]
    ratio = upward[0].sigma / upward[0].alpha
    x, total = x / upward[0].alpha, x.new_zeros(len(x))
    slope, change = _slope(denoise, x, upward[0], probes)
    for to in upward[1:]:
        step = to.sigma / to.alpha - ratio
        further, there = _slope(denoise, x + step * slope, to, probes)
        x, total = x + step * (slope + further) / 2, total + step * (change + there) / 2
        ratio += step
        slope, change = _slope(denoise, x, to, probes)
    volume = x[0].numel() * math.log(2 * math.pi * ratio**2)
    return total - 0.5 * (volume + x.square().flatten(1).sum(1) / ratio**2)


def _slope(denoise: Denoiser, x: Tensor, level: Level, probes: int | None) -> tuple[Tensor, Tensor]:
    """d(x/alpha) / d(sigma/alpha), which is the noise, at x/alpha; and its divergence, b."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        scaled = level.alpha * leaf
        slope = noise_in(scaled, denoise(scaled, level).x0, level)
        flat = slope.flatten(1)
        if probes is None:
            rows = [torch.autograd.grad(flat[:, i].sum(), leaf, retain_graph=True)[0] for i in range(flat.shape[1])]
            change = torch.stack([row.flatten(1)[:, i] for i, row in enumerate(rows)]).sum(0)
        else:
            signs = [torch.randint(0, 2, x.shape).to(x) * 2 - 1 for _ in range(probes)]
            rows = [torch.autograd.grad((slope * s).sum(), leaf, retain_graph=True)[0] * s for s in signs]
            change = torch.stack([row.flatten(1).sum(1) for row in rows]).mean(0)
    return slope.detach(), change


class Bound:
    """The variational bound, step by step, where variances are learnt (Nichol and Dhariwal 2021, section 3.1)."""

    def __init__(self, schedule: Discrete) -> None:
        levels = [*(schedule.level(time) for time in range(schedule.config.steps))]
        one = torch.ones(())
        rows = []
        for level, to in zip(levels, [CLEAN, *levels], strict=False):
            of_x, small, large = posterior(one, 0 * one, level, to)
            of_x0, _, _ = posterior(0 * one, one, level, to)
            rows.append([of_x0.item(), of_x.item(), small, large])
        rows[0][2] = rows[1][2]  # of the last step, which has none: its logarithm would not be a number (their code)
        self._table = torch.tensor(rows, dtype=torch.float64).t()

    def terms(self, x0: Tensor, x: Tensor, told: Tensor, share: Tensor, times: Tensor) -> Tensor:
        """Terms in bits a value, b, of x at times b, int64; `told` clean values, `share` of the log variance.

        The KL of each step; of the last, to clean values, how likely the brightness of each of 256 is.
        """
        of_x0, of_x, small, large = (spread(row.to(x), x) for row in self._table.to(times.device)[:, times])
        log_variance = interpolated(share, small.log(), large.log())
        expected = of_x0 * told + of_x * x
        kl = divergence(of_x0 * x0 + of_x * x, small.log(), expected, log_variance)
        nats = torch.where(spread(times == 0, x), -discrete_log_likelihood(x0, expected, log_variance), kl)
        return nats.flatten(1).mean(1) / math.log(2)

    def rest(self, x0: Tensor, process: Process) -> Tensor:
        """What the last level still tells of clean values b ..., in bits a value, b (their L_T)."""
        times = torch.full((len(x0),), len(self._table[0]) - 1, device=x0.device)
        alpha, sigma = (spread(value, x0) for value in process.schedule.at(times))
        nothing = torch.zeros_like(x0)
        nats = divergence(alpha * x0, 2 * sigma.log() + nothing, nothing, nothing)
        return nats.flatten(1).mean(1) / math.log(2)
