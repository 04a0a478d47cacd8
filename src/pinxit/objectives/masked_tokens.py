"""Telling hidden image tokens from all others (Chang et al. 2022, "MaskGIT", section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pinxit.objectives.objective import Batch, Numbers, Objective
from pinxit.tokens.parallel import hidden


@dataclass(frozen=True)
class MaskedTokensConfig:
    """How the hidden tokens are learnt."""

    label_smoothing: float = 0.1
    """The share of the target that is spread over all codes."""


class MaskedTokens(Objective):
    """Cross-entropy of the hidden tokens, in float32. A picture hides a share of a quarter cosine at a random place."""

    def __init__(
        self, network: nn.Module, config: MaskedTokensConfig, paint: Callable[[], Image.Image | None] | None = None
    ) -> None:
        """`network` tells image tokens in any order (`models.token_transformer`); `paint` draws the preview with it."""
        super().__init__()
        self.network = network
        self.config = config
        self.paint = paint

    def networks(self) -> Mapping[str, nn.Module]:
        """The network as `transformer`."""
        return {"transformer": self.network}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        """`batch["condition"]` b l (or vectors b w) and `batch["image"]` b n, int64. The numbers are nats per token."""
        image: Tensor = batch["image"]
        covered = self.cover(len(image), image.shape[1]).to(image.device)
        mask_id: int = self.network.mask_id  # type: ignore[assignment]
        _, logits = self.network(batch["condition"], image.masked_fill(covered, mask_id))
        logits, targets = logits[covered].float(), image[covered]
        plain = F.cross_entropy(logits, targets)
        smooth = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        return smooth if self.training else plain, {"image_loss": plain}

    @staticmethod
    def cover(rows: int, count: int) -> Tensor:
        """What each row hides, boolean b n: at least one token, by torch's global generator."""
        shares = torch.tensor([hidden(progress) for progress in torch.rand(rows).tolist()])
        ranks = torch.rand(rows, count).argsort(1).argsort(1)
        return ranks < (shares * count).ceil().clamp_min(1)[:, None]

    def preview(self) -> Image.Image | None:
        """Pictures of fixed prompts."""
        return self.paint() if self.paint else None
