"""Whether a denoiser in training draws, and not only tells noise ever better: numbers, and warnings in words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pinxit.diffusion.process import Target
from pinxit.diffusion.schedules import at_most
from pinxit.models.denoiser import Conditioning
from pinxit.objectives.objective import Raw
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer

logger = logging.getLogger(__name__)

WALKS = {"ddim": 20, "ddpm": 50}
"""Steps of each of the samplers that are compared: one certain, one at random, of one process."""

RAW = "raw_ddim"
"""Samples by the weights themselves, where all others are by their averages."""

ROUGH = 2.0
"""As rough as so many of the pictures' own are samples that show noise."""

FLAT = 0.5
"""And so rough at most are samples that show little but flat colours."""

APART = 1.5
"""How far the samplers' roughness may differ, as a factor, and by how much of the range their brightness:"""
BRIGHTER = 0.15

LAG = 1.3
"""How much larger the averaged weights' error may be than that of the weights themselves."""


@dataclass(frozen=True)
class Look:
    """What tells pictures from noise and from flat colours, of several together."""

    roughness: float
    """The mean difference of neighbouring values."""
    brightness: float
    """The mean value, from -1 to 1."""

    @classmethod
    def at(cls, pixels: Tensor) -> Look:
        """Pixels b c h w."""
        across, down = pixels.diff(dim=3).abs().mean(), pixels.diff(dim=2).abs().mean()
        return cls(float(across + down) / 2, float(pixels.mean()))


def health(
    drawer: NoiseDrawer,
    asked: Conditioning,
    real: Tensor,
    lag: float | None = None,
    raw: Raw | None = None,
) -> dict[str, float]:
    """How samples by DDIM and by DDPM look beside `real` pictures b c h w in [-1, 1]; warns where something is wrong.

    `asked` is of as many pictures. `lag` is the averaged weights' error over that of the weights themselves, with which
    the network draws inside of `raw`.
    """
    wanted, schedule = Look.at(real), drawer.config.process.schedule
    numbers: dict[str, float] = {}

    def look(name: str, sampler: str) -> None:
        steps = at_most(WALKS[sampler], schedule)
        seen = Look.at(drawer.draw(asked, range(len(real)), Drawing(sampler, steps)))
        numbers[f"{name}_roughness"] = seen.roughness / max(wanted.roughness, 1e-6)
        numbers[f"{name}_brightness"] = seen.brightness - wanted.brightness

    for sampler in WALKS:
        look(sampler, sampler)
    if raw is not None:
        with raw():
            look(RAW, "ddim")
    if lag is not None:
        numbers["averaged_error_over_raw"] = lag
    for warning in warnings(numbers, drawer.config.process.target):
        logger.warning(warning)
    return numbers


def warnings(numbers: Mapping[str, float], target: Target) -> list[str]:
    """What the numbers of `health` mean of a network that tells `target`, where that is nothing good."""
    told: list[str] = []
    rough = [numbers[f"{name}_roughness"] for name in WALKS]
    if min(rough) > ROUGH:
        hint = ", and counts little with target=eps: model.process.target=v counts it more" if target == "eps" else ""
        told.append(
            f"Samples are {min(rough):.1f} times as rough as the pictures: they still show noise. That is so at first; "
            f"if it stays while the error falls, see error_at_90%: what is told of much noise decides{hint}."
        )
    elif max(rough) < FLAT:
        told.append(
            f"Samples are {max(rough):.2f} times as rough as the pictures: they show little but flat colours. That is "
            "so at first; if it stays, the network is too small, its training too short, or its learning rate too low."
        )
    elif max(rough) > APART * min(rough) or abs(numbers["ddim_brightness"] - numbers["ddpm_brightness"]) > BRIGHTER:
        told.append(
            f"DDIM and DDPM disagree: their samples are {rough[0]:.2f} and {rough[1]:.2f} times as rough as the "
            "pictures. Both walk the same process, so what the network tells of some noise is far off: see which "
            "error_at_ is large."
        )
    raw = numbers.get(f"{RAW}_roughness", rough[0])
    if max(raw, rough[0]) > APART * min(raw, rough[0]):
        told.append(
            f"Averaging changes what is drawn: samples are {rough[0]:.2f} times as rough as the pictures by the "
            f"averaged weights, and {raw:.2f} by the weights themselves. That is so at first; if it stays, the "
            "learning rate is high, or training.ema_decay keeps weights that are long outgrown."
        )
    return told + lagging(numbers)


def lagging(numbers: Mapping[str, float]) -> list[str]:
    """A warning where the averaged weights lag behind."""
    if (lag := numbers.get("averaged_error_over_raw", 1.0)) <= LAG:
        return []
    return [
        f"The averaged weights, which are drawn with and shipped, err {lag:.1f} times as much as the weights "
        "themselves: they lag behind. Lower training.ema_decay, or train for longer."
    ]
