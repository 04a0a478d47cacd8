"""Learning codes by reconstruction: a distortion of pictures that have passed a bottleneck, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from PIL import Image
from torch import Tensor, nn

from pinxit.data.images import grid, to_pil
from pinxit.models.autoencoder import Trainable, entries
from pinxit.nn.logit_laplace import negative_log_likelihood
from pinxit.nn.quantizers import usage
from pinxit.nn.similarity import psnr, ssim
from pinxit.objectives.bottlenecks import BottleneckConfig, bottleneck
from pinxit.objectives.objective import Batch, Numbers, Objective, Raw

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two batches of pictures b 3 h w in [-1, 1] -> how far apart each pair looks, b."""


@dataclass(frozen=True)
class ReconstructionConfig:
    """What counts as alike, and how codes are learnt."""

    bottleneck: BottleneckConfig
    distortion: Literal["l1", "l2", "gaussian", "logit-laplace"] = "l2"
    """A mean over values: of absolute or squared differences; or of the negative log likelihood in nats, Gaussian with
    the likeliest variance (the optimal sigma-VAE of Rybkin et al. 2021) or logit-Laplace (Ramesh et al. 2021)."""
    perceptual: float = 0.0
    """The weight of a learnt distance, beside it."""
    perceptual_start: int = 0
    """Steps before that counts: early ones are a third faster without, and about where things are."""
    least_log_scale: float = -8.0
    """Floor of the logit-Laplace's log scale: flat areas would otherwise be worth any certainty."""


@dataclass(frozen=True)
class Reconstructed:
    """What one pass has made of a batch."""

    pixels: Tensor
    """b 3 h w in [-1, 1] or about that."""
    distortion: Tensor
    """With the learnt distance, where there is one."""
    penalty: Tensor
    """What the bottleneck costs."""
    numbers: dict[str, Tensor | float]


class Reconstruction(Objective):
    """Distortion plus the bottleneck's penalty; the negative ELBO per pixel and channel where both are in nats.

    A likelihood is a mean over b * 3 * h * w values, so a KL, a sum over the places of the code grid, is divided by
    3 * h * w as well: at 256 pixels and 32x32 codes, a mean KL per place would be weighted by beta / 192.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        config: ReconstructionConfig,
        examples: Tensor,
        distance: nn.Module | None = None,
    ) -> None:
        """`network` is `Trainable`, and `name` what its checkpoint calls it; `distance` is a `Distance`.

        `examples`, pixels b 3 h w, are drawn with their reconstructions as a preview.
        """
        super().__init__()
        self.name = name
        self.network = network
        self.config = config
        self.bottleneck = bottleneck(config.bottleneck, self.codec.quantizers())
        self.distance = distance.requires_grad_(False) if distance is not None else None
        self.register_buffer("examples", examples, persistent=False)
        self.examples: Tensor
        self.counts = torch.zeros((self.codec.codes or 0) * len(self.codec.grids), dtype=torch.int64)
        """How often validation has met each code, of each codebook in turn."""

    @property
    def codec(self) -> Trainable:
        """The network by what it can do."""
        return cast("Trainable", self.network)

    def networks(self) -> Mapping[str, nn.Module]:
        """The one network."""
        return {self.name: self.network}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        """`batch["pixels"]` b 3 h w in [-1, 1]."""
        made = self.reconstruct(batch["pixels"], step)
        return made.distortion + made.penalty, made.numbers

    def reconstruct(self, pixels: Tensor, step: int) -> Reconstructed:
        """Pictures past the bottleneck, with what that costs."""
        quantizers = self.codec.quantizers()
        numbers: dict[str, Tensor | float] = {}
        penalties: list[Tensor] = []

        def passing(name: str, features: Tensor) -> Tensor:
            passed = self.bottleneck(name, quantizers.get(name), features, step, pixels[0].numel())
            prefix = f"{name}_" if len(quantizers) > 1 else ""
            numbers.update({f"{prefix}{key}": value for key, value in passed.numbers.items()})
            penalties.append(passed.penalty)
            vectors: Tensor = passed.vectors
            return vectors

        output = self.codec.through(pixels, passing)
        made = self.codec.to_pixels(output)
        distortion = self._distortion(output.float(), pixels)
        numbers |= {"distortion": distortion.detach(), "psnr": psnr(made.detach(), pixels).mean()}
        if self.distance is not None and step >= self.config.perceptual_start:
            far = self.distance(made, pixels).mean()
            numbers["perceptual"] = far.detach()
            distortion = distortion + self.config.perceptual * far
        return Reconstructed(made, distortion, torch.stack(penalties).sum(), numbers)

    def _distortion(self, output: Tensor, pixels: Tensor) -> Tensor:
        match self.config.distortion:
            case "l1":
                return (output - pixels).abs().mean()
            case "l2":
                return (output - pixels).square().mean()
            case "gaussian":
                return 0.5 * (output - pixels).square().mean().clamp_min(1e-8).log()
            case "logit-laplace":
                mean, log_scale = output.chunk(2, 1)
                log_scale = log_scale.clamp_min(self.config.least_log_scale)
                return negative_log_likelihood(pixels, mean, log_scale).mean()

    def validate(self, batch: Batch, step: int) -> Numbers:  # noqa: ARG002
        """Of reconstructions from hard codes: PSNR in dB, SSIM and, where it is learnt by, the learnt distance.

        `conclude` tells how the codebook is used.
        """
        pixels = batch["pixels"]
        codes = self.codec.encode(pixels)
        made = self.codec.decode(codes).clamp(-1, 1)
        if len(self.counts):
            met = entries(codes, self.codec.codes or 0, self.codec.grids)
            self.counts += torch.bincount(met.cpu(), minlength=len(self.counts))
        numbers: dict[str, Tensor | float] = {"psnr": psnr(made, pixels).mean(), "ssim": ssim(made, pixels).mean()}
        if self.distance is not None:
            numbers["perceptual"] = self.distance(made, pixels).mean()
        return numbers

    def conclude(self, gather: Callable[[Tensor], list[Tensor]], raw: Raw | None) -> Numbers:  # noqa: ARG002
        """The share of the codes that occurred at all, and their perplexity as a share; the least of all codebooks."""
        if not len(self.counts):
            return {}
        counts = torch.stack(gather(self.counts)).sum(0)
        self.counts.zero_()
        used, perplexity = zip(*(usage(one) for one in counts.chunk(len(self.codec.grids))), strict=True)
        return {"codes_used": min(used), "code_perplexity": min(perplexity)}

    def preview(self) -> Image.Image | None:
        """Rows of up to eight examples, each above its reconstructions; None where there are no examples."""
        if not len(self.examples):
            return None
        columns = min(8, len(self.examples))
        examples = self.examples[: len(self.examples) // columns * columns]
        drawn = self.codec.decode(self.codec.encode(examples))
        rows = [rows[i : i + columns] for i in range(0, len(drawn), columns) for rows in (examples, drawn)]
        return grid([to_pil(picture) for row in rows for picture in row], columns)
