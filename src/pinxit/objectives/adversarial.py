"""Reconstruction that has to pass for real pictures as well: VQGAN's objective (Esser et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pinxit.objectives.bottlenecks import no_gradient, ramp
from pinxit.objectives.objective import Batch, Numbers, Objective, Raw
from pinxit.objectives.reconstruction import Reconstruction


@dataclass(frozen=True)
class AdversaryConfig:
    """When the discriminator has a say, and how much."""

    start: int
    """Steps before reconstructions are judged at all. Published: at least an epoch."""
    alone: int = 0
    """Steps from then on in which only the discriminator learns, so that its first word is not noise. Taming has none,
    and its reconstructions suffer when the adversary comes."""
    warmup: int = 0
    """Steps over which the weight then rises from zero, along half a cosine."""
    weight: float = 0.8
    """What the adversary counts against the reconstruction, by the size of their gradients at the last layer."""
    most: float = 1e4
    """The largest factor (lambda, equation 7) that this may bring about."""


class AdversarialReconstruction(Objective):
    """Two turns a step: the codec's, against its reconstruction and a discriminator, and the discriminator's."""

    turns = ("codec", "discriminator")

    def __init__(self, reconstruction: Reconstruction, discriminator: nn.Module, config: AdversaryConfig) -> None:
        """`discriminator` maps pixels b 3 h w to logits of being real, of any shape."""
        super().__init__()
        self.reconstruction = reconstruction
        self.discriminator = discriminator
        self.config = config
        self._made: list[Tensor] = []
        """The reconstructions of the codec's turn, for the discriminator's."""

    def networks(self) -> Mapping[str, nn.Module]:
        """The codec. The discriminator has done its work when training ends."""
        return self.reconstruction.networks()

    def parameters_of(self, turn: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The discriminator's own, or all others."""
        return (
            (name, value)
            for name, value in self.named_parameters()
            if value.requires_grad and name.startswith("discriminator.") == (turn == "discriminator")
        )

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:
        """`batch["pixels"]` b 3 h w in [-1, 1]. The codec's turn comes first."""
        judged = step >= self.config.start
        if turn == "discriminator":
            return self._judge(batch["pixels"]) if judged else (no_gradient(*self.discriminator.parameters()), {})
        made = self.reconstruction.reconstruct(batch["pixels"], step)
        loss, numbers = made.distortion + made.penalty, made.numbers
        if judged:
            self._made.append(made.pixels.detach())
        since = step - self.config.start - self.config.alone
        if since < 0:
            return loss, numbers
        for value in self.discriminator.parameters():  # this turn moves the codec alone
            value.requires_grad_(False)
        deceit = -self.discriminator(made.pixels).float().mean()
        for value in self.discriminator.parameters():
            value.requires_grad_(True)
        factor = self._factor(made.distortion, deceit) if self.training else torch.zeros(())
        weight = ramp(0.0, self.config.weight, since + 1, self.config.warmup)
        numbers |= {"deceit": deceit.detach(), "adversary_weight": weight * factor}
        return loss + weight * factor * deceit, numbers

    def _factor(self, distortion: Tensor, deceit: Tensor) -> Tensor:
        """What makes both gradients equally large at the last layer (lambda, equation 7)."""
        last = self.reconstruction.codec.decoder[-1].get_parameter("weight")
        wanted, pushed = (torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (distortion, deceit))
        factor: Tensor = (wanted / (pushed + 1e-6)).clamp(0.0, self.config.most).detach()
        return factor

    def _judge(self, pixels: Tensor) -> tuple[Tensor, Numbers]:
        """The hinge loss: real pictures above 1, reconstructions below -1."""
        real, made = self.discriminator(pixels).float(), self.discriminator(self._made.pop(0)).float()
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())
        return loss, {"real": real.detach().mean(), "made": made.detach().mean()}

    def validate(self, batch: Batch, step: int) -> Numbers:
        """As without an adversary."""
        return self.reconstruction.validate(batch, step)

    def conclude(self, gather: Callable[[Tensor], list[Tensor]], raw: Raw | None) -> Numbers:
        """As without an adversary."""
        return self.reconstruction.conclude(gather, raw)

    def preview(self) -> Image.Image | None:
        """As without an adversary."""
        return self.reconstruction.preview()
