"""Learning discrete codes by reconstruction: the ELBO of the dVAE (Ramesh et al. 2021, section 2.1, appendix A.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pinxit.data.images import grid, to_pil
from pinxit.errors import PinxitError
from pinxit.nn.logit_laplace import negative_log_likelihood, to_pixels
from pinxit.nn.quantizers import CosineCodes, DirectCodes, gumbel_softmax, uniform_divergence, usage
from pinxit.nn.similarity import psnr, ssim
from pinxit.objectives.objective import Batch, Numbers, Objective


@dataclass(frozen=True)
class RelaxedCodesConfig:
    """How the codes are relaxed, and what they cost. All ramps are half cosines, as the paper found necessary."""

    kl_weight: float = 6.6
    """beta: weight of the KL to the uniform prior, against a likelihood summed over pixels."""
    kl_warmup: int = 5_000
    """Steps over which beta rises from zero, once codes are drawn."""
    temperature: tuple[float, float] = (1.0, 1 / 16)
    """Of the Gumbel-softmax, at first and at last."""
    anneal: int = 150_000
    """Steps from the first temperature to the last."""
    continuous: int = 0
    """Steps before codes are drawn at all: the decoder learns from directions while k-means places the codebook."""
    noise: float = 0.1
    """Size of the noise on those directions, of length 1."""
    least_log_scale: float = -8.0
    """Floor of the likelihood's log scale: flat areas would otherwise be worth any certainty."""


class CodeNetwork(Protocol):
    """What the objective needs of a dVAE (`models.dvae.DVAE`)."""

    codes: DirectCodes | CosineCodes

    def features(self, pixels: Tensor) -> Tensor: ...

    def decode_vectors(self, vectors: Tensor) -> tuple[Tensor, Tensor]: ...

    def encode(self, pixels: Tensor) -> Tensor: ...

    def decode(self, ids: Tensor) -> Tensor: ...


class RelaxedCodes(Objective):
    """Negative ELBO per pixel and channel, with codes drawn from a Gumbel-softmax.

    The likelihood is a mean over b * 3 * h * w values, so the KL, a sum over the places of the code grid, is divided by
    3 * h * w as well: at 256 pixels and 32x32 codes, a mean KL per place would be weighted by beta / 192.
    """

    def __init__(self, network: nn.Module, config: RelaxedCodesConfig, examples: Tensor) -> None:
        """`network` is a CodeNetwork. `examples`, pixels b 3 h w, are drawn with their reconstructions as a preview."""
        super().__init__()
        self.network = network
        self.config = config
        self.register_buffer("examples", examples, persistent=False)
        self.examples: Tensor
        self.counts = torch.zeros(int(network.config.codes), dtype=torch.int64)  # type: ignore[union-attr, arg-type]
        """How often validation has met each code."""

    @property
    def dvae(self) -> CodeNetwork:
        """The network by what it can do."""
        return self.network  # type: ignore[return-value]

    def networks(self) -> Mapping[str, nn.Module]:
        """The network as `dvae`."""
        return {"dvae": self.network}

    def loss(self, batch: Batch, turn: str, step: int) -> tuple[Tensor, Numbers]:  # noqa: ARG002
        """`batch["pixels"]` b 3 h w in [-1, 1]."""
        pixels, c = batch["pixels"], self.config
        step = step - c.continuous
        features = self.dvae.features(pixels)
        if step < 0:
            vectors, kl = self._directions(features), features.new_zeros(())
            numbers: dict[str, Tensor | float] = {}
        else:
            logits = self.dvae.codes.logits(features)
            temperature = ramp(*c.temperature, step / max(c.anneal, 1))
            vectors = self.dvae.codes.mix(gumbel_softmax(logits, temperature))
            kl = uniform_divergence(logits).mean()
            numbers = {"temperature": temperature, "kl": kl}
        mean, log_scale = self.dvae.decode_vectors(vectors)
        likelihood = negative_log_likelihood(pixels, mean, log_scale.float().clamp_min(c.least_log_scale)).mean()
        per_value = features.shape[2] * features.shape[3] / pixels[0].numel()
        beta = ramp(0.0, c.kl_weight, step / max(c.kl_warmup, 1))
        numbers |= {"likelihood": likelihood, "psnr": psnr(to_pixels(mean.detach()), pixels).mean()}
        return likelihood + beta * per_value * kl, numbers

    def _directions(self, features: Tensor) -> Tensor:
        codes = self.dvae.codes
        if not isinstance(codes, CosineCodes):
            raise PinxitError(
                f"Only cosine codes have a continuous phase, of {self.config.continuous} steps here: set "
                "model.cosine=true or objective.continuous=0."
            )
        directions = codes.continuous(features)
        codes.follow(directions)
        noise = torch.randn_like(directions) * directions.shape[1] ** -0.5
        noisy = F.normalize(directions + self.config.noise * noise, dim=1)
        # Codebook and scale take no part yet; processes that average gradients expect one from every parameter.
        return noisy + 0.0 * (codes.codebook_embedding.sum() + codes.log_scale)

    def validate(self, batch: Batch, step: int) -> Numbers:  # noqa: ARG002
        """Of reconstructions from hard codes: PSNR in dB and SSIM. `conclude` tells how the codebook is used."""
        pixels = batch["pixels"]
        ids = self.dvae.encode(pixels)
        reconstructed = self.dvae.decode(ids)
        self.counts += torch.bincount(ids.reshape(-1).cpu(), minlength=len(self.counts))
        return {"psnr": psnr(reconstructed, pixels).mean(), "ssim": ssim(reconstructed, pixels).mean()}

    def conclude(self, gather: Callable[[Tensor], list[Tensor]]) -> Numbers:
        """The share of the codes that occurred at all, and their perplexity as a share."""
        used, perplexity = usage(torch.stack(gather(self.counts)).sum(0))
        self.counts.zero_()
        return {"codes_used": used, "code_perplexity": perplexity}

    def preview(self) -> Image.Image | None:
        """Rows of up to eight examples, each above its reconstructions; None where there are no examples."""
        if not len(self.examples):
            return None
        columns = min(8, len(self.examples))
        examples = self.examples[: len(self.examples) // columns * columns]
        drawn = self.dvae.decode(self.dvae.encode(examples))
        rows = [rows[i : i + columns] for i in range(0, len(drawn), columns) for rows in (examples, drawn)]
        return grid([to_pil(picture) for row in rows for picture in row], columns)


def ramp(first: float, last: float, progress: float) -> float:
    """A half cosine from `first` to `last` as `progress` goes from 0 to 1; constant outside."""
    share = 0.5 * (1 - math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return first + (last - first) * share
