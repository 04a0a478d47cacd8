"""Telling noise (Ho et al. 2020, equation 14), and the variance of steps (Nichol and Dhariwal 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from pinxit.diffusion.likelihood import Bound
from pinxit.diffusion.process import Process, ProcessConfig, Weighting, spread
from pinxit.diffusion.schedules import Discrete, draw_shares
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Conditioning
from pinxit.nn.processes import gather
from pinxit.objectives.objective import Batch, Numbers, Objective, Raw

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the noise that is learnt from, least first: where validation tells the loss."""


@dataclass(frozen=True)
class DenoisingConfig:
    """What errors count."""

    weighting: Weighting = "even"
    """Of the squared error of the target, by the noise."""
    gamma: float = 5.0
    """The bound of min-SNR weighting."""
    learns: Literal["simple", "hybrid", "bound"] = "simple"
    """The squared error; with the variational bound beside it, which moves the variance alone (L_hybrid); or that bound
    by itself (L_vlb), at noise drawn by how much it costs."""
    bound_weight: float = 1e-3
    """lambda: what the bound counts in "hybrid", summed over all steps."""


class Denoising(Objective):
    """The weighted squared error of what a network tells of noisy pictures."""

    def __init__(
        self,
        network: nn.Module,
        process: ProcessConfig,
        config: DenoisingConfig,
        paint: Callable[[], Image.Image | None] | None = None,
        check: Callable[[float | None, Raw | None], Numbers] | None = None,
        *,
        name: str = "denoiser",
        given: Callable[[Batch, bool], tuple[Tensor, Any]] | None = None,
    ) -> None:
        """`network`, shipped by its `name`, maps noisy values, what is told of their times and what is asked to what
        `process` wants to know.

        `given` makes of a batch, and of whether it is one to learn from, clean values b ... and what is asked: its
        pixels and a `Conditioning`, where none is given.
        `check` looks at samples after each validation, given how many times the error of the weights themselves that
        of their averages is, and where the former are; None where nothing is averaged.
        """
        super().__init__()
        if (config.learns == "simple") == process.learned_variance:
            allowed = "hybrid or bound" if process.learned_variance else "simple"
            raise PinxitError(
                f"objective.learns={config.learns} with process.learned_variance={process.learned_variance}: allowed "
                f"is {allowed}."
            )
        if process.target == "eps" and config.weighting in ("velocity", "edm"):
            raise PinxitError(
                f"objective.weighting={config.weighting} with process.target=eps: where nearly all is noise, one error "
                "of it would count more than all others. Allowed are even and min-snr; or tell v or x0."
            )
        self.network = network
        self.config = config
        self.paint, self.check = paint, check
        self.name, self.given = name, given or pictures
        self._latest: tuple[Tensor, Any, Tensor, Tensor] | None = None
        """What was learnt from last: clean values, what was asked, times and noise."""
        self.process = Process(process)
        schedule = self.process.schedule
        self.bound = Bound(schedule) if config.learns != "simple" and isinstance(schedule, Discrete) else None
        self.costs = (
            Costs(schedule.config.steps) if config.learns == "bound" and isinstance(schedule, Discrete) else None
        )

    def networks(self) -> Mapping[str, nn.Module]:
        """The one network."""
        return {self.name: self.network}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        """Of what `given` makes of the batch."""
        clean, asked = self.given(batch, self.training)
        weights: Tensor | None = None
        if self.costs is not None and self.training:
            times, weights = self.costs.draw(len(clean), clean.device)
        else:
            times = self.process.schedule.times(draw_shares(len(clean), clean.device))
        noise = torch.randn_like(clean)
        errors, terms = self._errors(clean, asked, times, noise)
        if self.check and self.training:
            self._latest = clean, asked, times, noise
        weighted = self.process.weights(times, self.config.weighting, self.config.gamma) * errors
        if terms is None:
            return weighted.mean(), {"error": errors.detach().mean()}
        numbers = {"error": errors.detach().mean(), "bound": terms.detach().mean()}
        steps = len(self.process.schedule.kept)  # type: ignore[attr-defined]
        if self.config.learns == "hybrid":
            return weighted.mean() + self.config.bound_weight * steps * terms.mean(), numbers
        if self.costs is not None and self.training:
            self.costs.remember(times, terms.detach())
        return (terms if weights is None else weights * terms).mean() * steps, numbers

    def _errors(self, clean: Tensor, asked: Any, times: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Squared errors of the target at times b, b; and, where there is one, the bound's terms in bits a value."""
        process = self.process
        x = process.noised(clean, noise, times)
        alpha, sigma = (spread(value, x) for value in process.schedule.at(times))
        told, share = process.split(
            self.network(process.scaled(x, alpha, sigma), process.schedule.timesteps(times), asked).float()
        )
        errors = (told - process.target(clean, noise, times)).square().flatten(1).mean(1)
        if self.bound is None or share is None:
            return errors, None
        known = told.detach() if self.config.learns == "hybrid" else told
        x0 = process.clean(known, x, alpha, sigma)
        return errors, self.bound.terms(clean, x, x0, share, times)

    def validate(self, batch: Batch, step: int) -> Numbers:
        """The loss, and the squared error at little noise and at much."""
        numbers = dict(self.loss(batch, self.turns[0], step)[1])
        clean, asked = self.given(batch, False)
        for share in SHARES:
            shares = torch.full((len(clean),), share, device=clean.device)
            errors, _ = self._errors(clean, asked, self.process.schedule.times(shares), torch.randn_like(clean))
            numbers[f"error_at_{share:.0%}"] = errors.mean()
        return numbers

    def conclude(self, gather: Callable[[Tensor], list[Tensor]], raw: Raw | None) -> Numbers:  # noqa: ARG002
        """How samples look, and whether the averaged weights lag: what they err on what was learnt from last."""
        if self.check is None:
            return {}
        if self._latest is None or raw is None:
            return self.check(None, raw)
        averaged = self._errors(*self._latest)[0].mean()
        with raw():
            lag = averaged / self._errors(*self._latest)[0].mean()
        return self.check(float(lag), raw)

    def preview(self) -> Image.Image | None:
        """Pictures of fixed prompts and noise."""
        return self.paint() if self.paint else None


def pictures(batch: Batch, training: bool) -> tuple[Tensor, Conditioning]:  # noqa: ARG001
    """Its `pixels`, b c h w in [-1, 1], and all that a `Conditioning` holds."""
    return batch["pixels"], Conditioning(
        **{name: value for name, value in batch.items() if name in Conditioning.__dataclass_fields__}
    )


class Costs(nn.Module):
    """What the bound has cost at each level lately; those that cost much are drawn often (section 3.3 there)."""

    LAST, EVEN = 10, 1e-3
    counts: Tensor
    squares: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(steps, dtype=torch.int64))
        self.register_buffer("squares", torch.zeros(steps, self.LAST))

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Times, and what each loss has to be multiplied by so that the mean is that of all levels; b each."""
        steps = len(self.counts)
        chances = torch.full((steps,), 1 / steps, device=device)
        if bool((self.counts >= self.LAST).all()):
            sizes = self.squares.mean(1).sqrt()
            chances = sizes / sizes.sum() * (1 - self.EVEN) + self.EVEN / steps
        times = torch.multinomial(chances, count, replacement=True)
        return times, 1 / (steps * chances[times])

    def remember(self, times: Tensor, costs: Tensor) -> None:
        """Keeps the last ten of each level; the same on all processes."""
        for time, cost in zip(gather(times).tolist(), gather(costs).tolist(), strict=True):
            self.squares[time, int(self.counts[time]) % self.LAST] = cost**2
            self.counts[time] += 1
