"""What happens between encoder and decoder while a codec learns: noise, rounding to codes, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.nn.gaussian import draw, split, standard_divergence
from pinxit.nn.quantizers import Codebook, CosineCodes, DirectCodes, Following, gumbel_softmax, uniform_divergence
from pinxit.objectives.objective import Numbers


@dataclass(frozen=True)
class GaussianConfig:
    """Latents drawn from a Gaussian posterior, with the KL to the standard normal (Kingma and Welling 2014)."""

    kl_weight: float = 1.0
    """beta, against a likelihood summed over pixels: 1 is the ELBO, latent diffusion takes 1e-6."""
    kl_warmup: int = 0
    """Steps over which beta rises from zero, along half a cosine."""


@dataclass(frozen=True)
class NearestConfig:
    """The nearest vector, with gradients straight through (van den Oord et al. 2017, section 3.2)."""

    commitment: float = 0.25
    """beta: what the distance of the features from their vectors costs the encoder."""
    moved_by: Literal["mean", "gradient"] = "mean"
    """What moves the vectors: the "mean" of what they serve (appendix A.1), or the "gradient" of their distance."""
    decay: float = 0.99
    """How slowly that mean forgets, a step."""
    dead: float = 0.02
    """Codes that serve less than this part of an even share restart at features that are badly served."""
    continuous: int = 0
    """Steps before features are rounded at all: the decoder learns from them as they are while the vectors follow."""


@dataclass(frozen=True)
class GumbelConfig:
    """Codes relaxed by the Gumbel-softmax, with the KL to the uniform prior (Ramesh et al. 2021, appendix A.2).

    All ramps are half cosines, as the paper found necessary.
    """

    kl_weight: float = 6.6
    """beta: weight of the KL, against a likelihood summed over pixels."""
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


BottleneckConfig = GaussianConfig | NearestConfig | GumbelConfig


@dataclass(frozen=True)
class Passed:
    """What comes out of a bottleneck."""

    vectors: Tensor
    """b d h w, for the decoder."""
    penalty: Tensor
    """What it costs beside a distortion that is a mean over values."""
    numbers: Numbers


class Gaussian(nn.Module):
    """`GaussianConfig` at work."""

    def __init__(self, config: GaussianConfig, quantizers: Mapping[str, nn.Module]) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config

    def forward(self, name: str, quantizer: nn.Module | None, features: Tensor, step: int, values: int) -> Passed:  # noqa: ARG002
        """Moments b 2z h w -> latents b z h w. `values` is how many numbers a picture has."""
        mean, log_variance = split(features)
        kl = standard_divergence(mean, log_variance).sum((1, 2, 3)).mean()  # nats a picture
        beta = ramp(0.0, self.config.kl_weight, step, self.config.kl_warmup)
        return Passed(draw(mean, log_variance), beta * kl / values, {"kl": kl.detach() / mean[0].numel()})


class Nearest(nn.Module):
    """`NearestConfig` at work, with what each codebook remembers of the features it served."""

    def __init__(self, config: NearestConfig, quantizers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.following = nn.ModuleDict()
        for name, codebook in quantizers.items():
            if not isinstance(codebook, Codebook):
                raise PinxitError(f"The quantizer {name} has no vectors to be near to: use another bottleneck.")
            k, d = codebook.embedding.shape
            self.following[name] = Following(k, d, decay=config.decay, dead=config.dead)

    def forward(self, name: str, quantizer: nn.Module | None, features: Tensor, step: int, values: int) -> Passed:  # noqa: ARG002
        """Features b d h w -> the vectors nearest to them."""
        c = self.config
        assert isinstance(quantizer, Codebook)
        following = self.following[name]
        assert isinstance(following, Following)
        features = quantizer.prepare(features)
        if self.training:
            following.update(quantizer, features, move=c.moved_by == "mean" or step < c.continuous)
        vectors = quantizer.look_up(quantizer.nearest(features))
        penalty = c.commitment * F.mse_loss(features, vectors.detach())
        if c.moved_by == "gradient":
            penalty = penalty + F.mse_loss(vectors, features.detach())
        else:
            penalty = penalty + no_gradient(quantizer.embedding)
        numbers = {"quantization_error": (features - vectors).detach().square().sum(1).mean()}
        passed = features if step < c.continuous else features + (vectors - features).detach()
        return Passed(passed, penalty, numbers)


class Gumbel(nn.Module):
    """`GumbelConfig` at work."""

    DECAY, DEAD = 0.95, 0.02

    def __init__(self, config: GumbelConfig, quantizers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.following = nn.ModuleDict()
        for name, quantizer in quantizers.items():
            if not isinstance(quantizer, DirectCodes | CosineCodes):
                raise PinxitError(f"The quantizer {name} has no logits to relax: use another bottleneck.")
            if not config.continuous:
                continue
            if not isinstance(quantizer, CosineCodes):
                raise PinxitError(
                    f"Only cosine codes have a continuous phase, of {config.continuous} steps here: set "
                    "model.cosine=true or objective.bottleneck.continuous=0."
                )
            k, d = quantizer.codebook.embedding.shape
            self.following[name] = Following(k, d, decay=self.DECAY, dead=self.DEAD)

    def forward(self, name: str, quantizer: nn.Module | None, features: Tensor, step: int, values: int) -> Passed:
        """Features b c h w -> a mixture of vectors, b d h w."""
        c, step = self.config, step - self.config.continuous
        assert isinstance(quantizer, DirectCodes | CosineCodes)
        if step < 0:
            assert isinstance(quantizer, CosineCodes)
            return self._directions(name, quantizer, features)
        logits = quantizer.logits(features)
        temperature = ramp(*c.temperature, step, c.anneal)
        vectors = quantizer.mix(gumbel_softmax(logits, temperature))
        kl = uniform_divergence(logits).mean()  # nats a place
        beta = ramp(0.0, c.kl_weight, step, c.kl_warmup)
        places = features.shape[2] * features.shape[3]
        return Passed(vectors, beta * kl * places / values, {"temperature": temperature, "kl": kl})

    def _directions(self, name: str, codes: CosineCodes, features: Tensor) -> Passed:
        directions = codes.continuous(features)
        following = self.following[name]
        assert isinstance(following, Following)
        if self.training:
            following.update(codes.codebook, directions)
        noise = torch.randn_like(directions) * directions.shape[1] ** -0.5
        noisy = F.normalize(directions + self.config.noise * noise, dim=1)
        return Passed(noisy, no_gradient(codes.codebook.embedding, codes.log_scale), {})


def bottleneck(config: BottleneckConfig, quantizers: Mapping[str, nn.Module]) -> Gaussian | Nearest | Gumbel:
    """The bottleneck of a config, over a network's quantizers."""
    match config:
        case GaussianConfig():
            return Gaussian(config, quantizers)
        case NearestConfig():
            return Nearest(config, quantizers)
        case GumbelConfig():
            return Gumbel(config, quantizers)


def no_gradient(*parameters: Tensor) -> Tensor:
    """Zero, of parameters that take no part: processes that average gradients expect one from every parameter."""
    return 0.0 * torch.stack([parameter.sum() for parameter in parameters]).sum()


def ramp(first: float, last: float, step: int, steps: int) -> float:
    """A half cosine from `first` at step 0 to `last` at `steps`; constant outside."""
    progress = min(max(step / steps, 0.0), 1.0) if steps else 1.0
    share = 0.5 * (1 - math.cos(math.pi * progress))
    return first + (last - first) * share
