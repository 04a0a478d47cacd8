"""How much of a picture its codes keep, at what cost, and how many of the codes are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from pinxit.data.images import to_tensor
from pinxit.evaluation.distances import frechet
from pinxit.evaluation.features import Eye
from pinxit.models.autoencoder import entries
from pinxit.nn.quantizers import usage
from pinxit.nn.similarity import psnr, ssim
from pinxit.systems.codec import Codec


@dataclass(frozen=True)
class Fidelity:
    """Means over pictures, and the use of the codebook over all of them."""

    psnr: float
    """In dB."""
    ssim: float
    perceptual: float
    """How far apart picture and reconstruction look to `eye`."""
    feature_distance: float
    """The squared Fréchet distance between the features of all pictures and of all reconstructions."""
    eye: str
    """Who told these two; distances by another are not to be compared with them."""
    bits_per_pixel: float
    """Of codes at the same length each; numbers count 16 bits, as they are kept."""
    codes: int | None
    """k, how many there are; None where codes are numbers, and so with the next two."""
    codes_used: float | None
    """The share of the codes that occurred; the least, where there are several codebooks, as with the next."""
    code_perplexity: float | None
    """exp(entropy) over the number of codes: 1 where all occur equally often."""

    def table(self) -> str:
        """One line."""
        told = (
            f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.3f}, perceptual {self.perceptual:.4f}, "
            f"features {self.feature_distance:.5f} apart (by {self.eye}), {self.bits_per_pixel:.3f} bits per pixel"
        )
        if self.codes is None:
            return told
        return (
            f"{told}, {self.codes_used:.0%} of {self.codes} codes used, perplexity {self.code_perplexity:.0%} of them"
        )


@torch.no_grad()
def fidelity(codec: Codec, pictures: Sequence[Image.Image], eye: Eye) -> tuple[Fidelity, list[Image.Image]]:
    """The measures over pictures in the codec's size, of which there is at least one, and their reconstructions."""
    reconstructions: list[Image.Image] = []
    likeness, structure, looks = [], [], []
    grids = codec.autoencoder.grids
    counts = torch.zeros((codec.codes or 0) * len(grids), dtype=torch.int64)
    for start in range(0, len(pictures), codec.batch):
        before = pictures[start : start + codec.batch]
        codes = codec.encode(before)
        after = codec.decode(codes)
        x, y = (torch.stack([to_tensor(picture) for picture in side]) for side in (before, after))
        likeness.append(psnr(x, y))
        structure.append(ssim(x, y))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # where patches are cut
            looks.append(eye.distance(x, y))
        if codec.codes is not None:
            counts += torch.bincount(entries(codes, codec.codes, grids).cpu(), minlength=len(counts))
        reconstructions += after
    used, perplexity = None, None
    if codec.codes is not None:
        each = [usage(one) for one in counts.chunk(len(grids))]
        used, perplexity = min(share for share, _ in each), min(share for _, share in each)
    means = (torch.cat(parts).mean().item() for parts in (likeness, structure, looks))
    bits = 16.0 if codec.codes is None else math.log2(codec.codes)
    per_pixel = bits * math.prod(codec.shape) / codec.size**2
    apart = frechet(eye.clip.encode_image(pictures), eye.clip.encode_image(reconstructions))
    mean_psnr, mean_ssim, look = means
    measured = Fidelity(mean_psnr, mean_ssim, look, apart, eye.name, per_pixel, codec.codes, used, perplexity)
    return measured, reconstructions
