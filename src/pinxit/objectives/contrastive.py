"""CLIP's symmetric contrastive loss, over the global batch of all processes.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", 2.3 and figure 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.diffusion.process import Process
from pinxit.diffusion.schedules import draw_shares
from pinxit.nn.processes import gather
from pinxit.objectives.objective import Batch, Numbers, Objective

LARGEST_LOGIT_SCALE = math.log(100.0)


class TwoTowers(Protocol):
    """What the objective needs of a CLIP (`models.clip.CLIP`)."""

    logit_scale: nn.Parameter

    def encode_image(self, pixels: Tensor, times: Tensor | None = None) -> Tensor: ...

    def encode_text(self, ids: Tensor) -> Tensor: ...


class Contrastive(Objective):
    """Each picture picks its caption out of the batch, and each caption its picture.

    The batch holds `pixels` b 3 h w in [-1, 1], `ids` b l framed token ids, and two int64 keys a sample, `caption_key`
    and `picture_key` (`text.captions.key`). Samples that share either key are no negatives of each other: captions
    repeat in small sets, and one picture may be drawn with several captions. The target of a row is then spread evenly
    over its positives. Keys rather than token rows are compared since BPE dropout spells one caption in many ways.

    Across processes every rank scores its own rows against the features of all, so that the averaged gradients are
    those of one process with the global batch.
    """

    def __init__(self, network: nn.Module, process: Process | None = None) -> None:
        """`network` is TwoTowers; with a `process` it learns from pictures at all its levels of noise."""
        super().__init__()
        self.network = network
        self.process = process

    @property
    def clip(self) -> TwoTowers:
        """The network by what it can do."""
        return self.network  # type: ignore[return-value]

    def networks(self) -> Mapping[str, nn.Module]:
        """The one network."""
        return {"clip": self.network}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        """Mean of the two cross-entropies, in float32, and the recalls at 1 within the global batch."""
        return self._compare(batch, gather)

    def validate(self, batch: Batch, step: int) -> Numbers:  # noqa: ARG002
        """The same within this batch alone: processes validate different batches, and not equally many."""
        return self._compare(batch, lambda rows: rows)[1]

    def _compare(self, batch: Batch, others: Callable[[Tensor], Tensor]) -> tuple[Tensor, Numbers]:
        """Loss and numbers of this batch's rows against what `others` makes of rows b ... -> m ..."""
        pixels, times = batch["pixels"], None
        if self.process:
            drawn = self.process.schedule.times(draw_shares(len(pixels), pixels.device))
            pixels = self.process.noised(pixels, torch.randn_like(pixels), drawn)
            times = self.process.schedule.timesteps(drawn)
        images = self.clip.encode_image(pixels, times)  # b d
        texts = self.clip.encode_text(batch["ids"])  # b d
        keys = torch.stack([batch["caption_key"], batch["picture_key"]], dim=1)  # b 2
        # A pair is positive when it shares the caption or the picture.
        positive = (keys[:, None] == others(keys)[None]).any(dim=-1)  # b m

        scale = self.clip.logit_scale.float().exp()
        with torch.autocast(images.device.type, enabled=False):
            to_texts = scale * images @ others(texts).T  # b m
            to_images = scale * texts @ others(images).T  # b m
        targets = positive / positive.sum(dim=1, keepdim=True)
        loss = (F.cross_entropy(to_texts, targets) + F.cross_entropy(to_images, targets)) / 2
        return loss, {
            "loss": loss.detach(),
            "image_to_text_recall": _recall(to_texts, positive),
            "text_to_image_recall": _recall(to_images, positive),
            "temperature": 1 / scale.detach(),
        }

    def after_step(self, step: int) -> None:  # noqa: ARG002
        """Keeps logits from being scaled by more than 100 (section 2.5), or by less than 1."""
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0.0, LARGEST_LOGIT_SCALE)


def _recall(logits: Tensor, positive: Tensor) -> Tensor:
    """The share of rows whose best column is one of their positives."""
    return positive.gather(1, logits.argmax(dim=1, keepdim=True)).float().mean()
