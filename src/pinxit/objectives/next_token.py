"""Predicting the next token of a stream of condition and image (Ramesh et al. 2021, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pinxit.objectives.objective import Batch, Numbers, Objective


@dataclass(frozen=True)
class NextTokenConfig:
    """What the two kinds of tokens count."""

    condition_weight: float = 1 / 8
    """Of the mean over the tokens of the condition, where the network tells them; that over image tokens counts the
    rest."""
    keep: float = 1.0
    """The share of image tokens that the network sees as they are while it learns. The others are replaced at random,
    so that it does not come to rely on having painted without fault (`pkeep` of Esser et al. 2021)."""


class NextToken(Objective):
    """Cross-entropy of both kinds of tokens, each normalised by itself and weighted, in float32."""

    def __init__(
        self,
        network: nn.Module,
        config: NextTokenConfig,
        paint: Callable[[], Image.Image | None] | None = None,
        name: str = "transformer",
        given: Callable[[Batch, bool], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """`network`, shipped by its `name`, maps a condition and image ids b n to their logits.

        `paint` draws the preview with it. `given` makes both of a batch, and of whether it is one to learn from; they
        are its `condition` b l (or vectors b w) and `image` b n otherwise.
        """
        super().__init__()
        self.name, self.given = name, given
        self.network = network
        self.config = config
        self.paint = paint

    def networks(self) -> Mapping[str, nn.Module]:
        """The network by its name."""
        return {self.name: self.network}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        """Of what `given` makes of the batch. The numbers are nats per token."""
        condition, image = self.given(batch, self.training) if self.given else (batch["condition"], batch["image"])
        seen = image
        if self.training and self.config.keep < 1:
            other = torch.randint_like(image, int(self.network.config.image_vocabulary))  # type: ignore[union-attr,arg-type]
            seen = torch.where(torch.rand(image.shape, device=image.device) < self.config.keep, image, other)
        condition_logits, image_logits = self.network(condition, seen)
        image_loss = F.cross_entropy(image_logits.flatten(0, 1).float(), image.flatten())
        if condition_logits is None:
            return image_loss, {"image_loss": image_loss}
        condition_loss = F.cross_entropy(condition_logits.flatten(0, 1).float(), condition[:, 1:].flatten())
        share = self.config.condition_weight
        loss = share * condition_loss + (1 - share) * image_loss
        return loss, {"condition_loss": condition_loss, "image_loss": image_loss}

    def preview(self) -> Image.Image | None:
        """Pictures of fixed prompts."""
        return self.paint() if self.paint else None
