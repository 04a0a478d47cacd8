"""The contract between an objective and the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from PIL import Image
from torch import Tensor, nn

Batch = Mapping[str, Any]
"""What the loader's transform made of the samples: stacked tensors by name, lists of str for text."""

Numbers = Mapping[str, Tensor | float]
"""What a step has to tell: name -> scalar."""

Raw = Callable[[], AbstractContextManager[None]]
"""Inside of it the networks hold their own weights, where otherwise their averages are in place."""


class Objective(nn.Module, ABC):
    """What is minimised, over networks that are handed in.

    Subclasses keep their networks as attributes; frozen ones have `requires_grad_(False)`. The loop does, for each turn
    of each step, loss, backward, clip and optimizer step; device, precision, accumulation, EMA, saving and logging
    belong to the loop. All randomness comes from torch's global generator, which the loop seeds from (seed, step,
    rank), so that a resumed run draws the same noise.
    """

    turns: tuple[str, ...] = ("main",)

    @abstractmethod
    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:
        """The scalar to minimise in this turn, and numbers to log. `step` counts optimizer steps from 0."""

    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """The trained networks by the name under which the checkpoint keeps them; their EMA is what is shipped."""

    def parameters_of(self, turn: str) -> Iterator[tuple[str, nn.Parameter]]:  # noqa: ARG002
        """The named parameters that this turn moves: by default every one that requires a gradient."""
        return ((name, value) for name, value in self.named_parameters() if value.requires_grad)

    def after_step(self, step: int) -> None:
        """Called after the optimizer step, for constraints such as CLIP's clamped temperature."""

    def validate(self, batch: Batch, step: int) -> Numbers:
        """Numbers over one validation batch, without gradients, with the averaged weights in place."""
        return self.loss(batch, self.turns[0], step)[1]

    def conclude(self, gather: Callable[[Tensor], list[Tensor]], raw: Raw | None) -> Numbers:  # noqa: ARG002
        """Numbers over all batches validated since the last call, where a mean over batches would not do.

        Every process calls it; `gather` has what each of them hands in. What has to be told of the networks' own
        weights is told inside of `raw`; None where nothing is averaged.
        """
        return {}

    def preview(self) -> Image.Image | None:
        """A picture of fixed prompts or inputs, drawn with the averaged weights in place; None where there is none."""
        return None

    def forward(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:
        """The loss; what `DistributedDataParallel` wraps."""
        return self.loss(batch, turn, step)
