"""The variational autoencoder (Kingma and Welling 2014), in the pyramid of latent diffusion's KL autoencoders.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", appendix G.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pinxit.models.autoencoder import Bottleneck
from pinxit.nn.convolution import Decoder, Encoder, PyramidConfig
from pinxit.nn.gaussian import split


@dataclass(frozen=True)
class VAEConfig:
    """The shape of a VAE."""

    pyramid: PyramidConfig
    scale: float = 1.0
    """What latents are multiplied with when they leave the codec, so that their variance is about one."""

    @property
    def size(self) -> int:
        """Side of the pictures it is trained on, in pixels."""
        return self.pyramid.size


SIZES = {
    # Published: the f8 codec of Stable Diffusion 1, and an f4 one.
    "kl-f8": VAEConfig(PyramidConfig(256, 128, (1, 2, 4, 4), blocks=2, latent=4), scale=0.18215),
    "kl-f4": VAEConfig(PyramidConfig(256, 128, (1, 2, 4), blocks=2, latent=3)),
    # For two cores: 64 px to 8x8 of 4 and 16 numbers.
    "small-64": VAEConfig(PyramidConfig(size=64, channels=64, multipliers=(1, 2), blocks=1, latent=16, patch=4)),
    "small-64-z4": VAEConfig(PyramidConfig(size=64, channels=64, multipliers=(1, 2), blocks=1, latent=4, patch=4)),
    # For tests and first tries: 32 px to 8x8 of 4 numbers.
    "tiny-32": VAEConfig(PyramidConfig(size=32, channels=32, multipliers=(1,), blocks=1, latent=4, groups=8, patch=4)),
}


class VAE(nn.Module):
    """Picture -> a Gaussian over latents -> picture."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        z = config.pyramid.latent
        self.encoder = Encoder(config.pyramid, 2 * z)
        self.to_moments = nn.Conv2d(2 * z, 2 * z, 1)
        self.from_latents = nn.Conv2d(z, z, 1)
        self.decoder = Decoder(config.pyramid)

    @property
    def size(self) -> int:
        """Side of the pictures it is trained on, in pixels."""
        return self.config.pyramid.size

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per latent."""
        return self.config.pyramid.factor

    @property
    def codes(self) -> None:
        """Latents are numbers."""
        return

    @property
    def grids(self) -> tuple[int, ...]:
        """Sides of the grids of codes at `size`, one codebook each."""
        return (self.config.pyramid.grid,)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """z h w of a picture of `size`."""
        return self.config.pyramid.latent, self.config.pyramid.grid, self.config.pyramid.grid

    def quantizers(self) -> Mapping[str, nn.Module]:
        """None: the posterior is a Gaussian."""
        return {}

    def through(self, pixels: Tensor, bottleneck: Bottleneck) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> the same, past the bottleneck, which is given the moments b 2z h' w'."""
        out: Tensor = self.decoder(self.from_latents(bottleneck("posterior", self.moments(pixels))))
        return out

    def to_pixels(self, output: Tensor) -> Tensor:
        """They are pixels."""
        return output

    def moments(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> mean and log variance as they are learnt, b 2z h' w'."""
        out: Tensor = self.to_moments(self.encoder(pixels))
        return out

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> the mean latents times `scale`, float32 b z h' w'."""
        return split(self.moments(pixels))[0] * self.config.scale

    def decode(self, codes: Tensor) -> Tensor:
        """Latents b z h' w' times `scale` -> pixels b 3 h w, about in [-1, 1]."""
        out: Tensor = self.decoder(self.from_latents(codes / self.config.scale))
        return out
