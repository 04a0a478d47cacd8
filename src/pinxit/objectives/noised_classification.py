"""The class of pictures at all levels of noise (Dhariwal and Nichol 2021, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.diffusion.process import Process, ProcessConfig, spread
from pinxit.diffusion.schedules import draw_shares
from pinxit.objectives.denoising import SHARES
from pinxit.objectives.objective import Batch, Numbers, Objective


class NoisedClassification(Objective):
    """Cross-entropy of noisy pictures' classes."""

    def __init__(self, network: nn.Module, process: ProcessConfig) -> None:
        """`network` maps noisy values and what is told of their times to logits."""
        super().__init__()
        self.network = network
        self.process = Process(process)

    def networks(self) -> Mapping[str, nn.Module]:
        """The one network."""
        return {"noised_classifier": self.network}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        """`batch["pixels"]` b c h w in [-1, 1] and `batch["labels"]`, int64 b."""
        pixels = batch["pixels"]
        logits = self._logits(pixels, draw_shares(len(pixels), pixels.device))
        loss = F.cross_entropy(logits, batch["labels"])
        return loss, {"accuracy": _accuracy(logits, batch["labels"])}

    def validate(self, batch: Batch, step: int) -> Numbers:
        """The same, the share of right answers at little noise and at much, and that of always the commonest class."""
        numbers = dict(self.loss(batch, self.turns[0], step)[1])
        pixels = batch["pixels"]
        numbers["accuracy_of_a_guess"] = batch["labels"].bincount().max() / len(pixels)
        for share in SHARES:
            shares = torch.full((len(pixels),), share, device=pixels.device)
            numbers[f"accuracy_at_{share:.0%}"] = _accuracy(self._logits(pixels, shares), batch["labels"])
        return numbers

    def _logits(self, pixels: Tensor, shares: Tensor) -> Tensor:
        times = self.process.schedule.times(shares)
        noisy = self.process.noised(pixels, torch.randn_like(pixels), times)
        alpha, sigma = (spread(value, pixels) for value in self.process.schedule.at(times))
        seen = self.process.scaled(noisy, alpha, sigma)
        logits: Tensor = self.network(seen, self.process.schedule.timesteps(times)).float()
        return logits


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()
