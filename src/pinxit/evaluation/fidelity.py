"""How much of a picture its codes keep, and how many of the codes are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from pinxit.data.images import to_tensor
from pinxit.nn.quantizers import usage
from pinxit.nn.similarity import psnr, ssim
from pinxit.systems.codec import Codec

BATCH = 64
"""Pictures that go through the codec at once."""


@dataclass(frozen=True)
class Fidelity:
    """Means over pictures, and the use of the codebook over all of them."""

    psnr: float
    """In dB."""
    ssim: float
    codes_used: float
    """The share of the codes that occurred."""
    code_perplexity: float
    """exp(entropy) over the number of codes: 1 where all occur equally often."""
    codes: int
    """k, how many there are."""

    def table(self) -> str:
        """One line."""
        return (
            f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.3f}, {self.codes_used:.0%} of {self.codes} codes used, "
            f"perplexity {self.code_perplexity:.0%} of them"
        )


def fidelity(codec: Codec, pictures: Sequence[Image.Image]) -> tuple[Fidelity, list[Image.Image]]:
    """The measures over pictures in the codec's size, of which there is at least one, and their reconstructions."""
    reconstructions: list[Image.Image] = []
    likeness, structure = [], []
    counts = torch.zeros(codec.codes, dtype=torch.int64)
    for start in range(0, len(pictures), BATCH):
        before = pictures[start : start + BATCH]
        ids = codec.encode(before)
        after = codec.decode(ids)
        x, y = (torch.stack([to_tensor(picture) for picture in side]) for side in (before, after))
        likeness.append(psnr(x, y))
        structure.append(ssim(x, y))
        counts += torch.bincount(ids.flatten().cpu(), minlength=codec.codes)
        reconstructions += after
    used, perplexity = usage(counts)
    mean_psnr, mean_ssim = (torch.cat(parts).mean().item() for parts in (likeness, structure))
    return Fidelity(mean_psnr, mean_ssim, used, perplexity, codec.codes), reconstructions
