"""VQGAN (Esser et al. 2021): discrete codes between the two halves of a deep pyramid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pinxit.models.autoencoder import Bottleneck
from pinxit.nn.convolution import Decoder, Encoder, PyramidConfig
from pinxit.nn.quantizers import Codebook, CosineCodes, DirectCodes

Quantizer = Literal["nearest", "cosine", "gumbel", "gumbel-cosine"]


@dataclass(frozen=True)
class VQGANConfig:
    """The shape of a VQGAN."""

    pyramid: PyramidConfig
    codes: int
    """k, the size of the codebook."""
    dimensions: int
    """d, of the code vectors. Few keep more codes in use."""
    quantizer: Quantizer = "nearest"
    """Codes are the nearest vectors, those of the nearest direction, or the likeliest: of free logits as published, or
    of cosines with few-dimensional directions, which stay in use however short the training."""

    @property
    def size(self) -> int:
        """Side of the pictures it is trained on, in pixels."""
        return self.pyramid.size


def _f16(codes: int) -> VQGANConfig:
    return VQGANConfig(
        PyramidConfig(size=256, channels=128, multipliers=(1, 1, 2, 2, 4), blocks=2, latent=256, attention=(16,)),
        codes=codes,
        dimensions=256,
    )


def _latent_diffusion(
    multipliers: tuple[int, ...], codes: int, latent: int, attention: tuple[int, ...] = ()
) -> VQGANConfig:
    return VQGANConfig(
        PyramidConfig(256, 128, multipliers, blocks=2, latent=latent, attention=attention), codes, dimensions=latent
    )


SIZES = {
    # Published: taming-transformers' and latent-diffusion's.
    "f16-1024": _f16(1_024),
    "f16-16384": _f16(16_384),
    "gumbel-f8-8192": VQGANConfig(
        PyramidConfig(size=256, channels=128, multipliers=(1, 1, 2, 4), blocks=2, latent=256, attention=(32,)),
        codes=8_192,
        dimensions=256,
        quantizer="gumbel",
    ),
    "f4-8192": _latent_diffusion((1, 2, 4), codes=8_192, latent=3),
    "f8-16384": _latent_diffusion((1, 2, 2, 4), codes=16_384, latent=4, attention=(32,)),
    # For two cores: 64 px to 8x8 of 1,024 codes.
    "small-64": VQGANConfig(
        PyramidConfig(size=64, channels=64, multipliers=(1, 2), blocks=1, latent=64, patch=4),
        codes=1_024,
        dimensions=12,
        quantizer="cosine",
    ),
    # For tests and first tries: 32 px to 8x8 of 128 codes.
    "tiny-32": VQGANConfig(
        PyramidConfig(size=32, channels=32, multipliers=(1,), blocks=1, latent=32, groups=8, patch=4),
        codes=128,
        dimensions=4,
        quantizer="cosine",
    ),
}


def quantizer(config: VQGANConfig) -> Codebook | DirectCodes | CosineCodes:
    """What tells codes from features of d channels."""
    d = config.dimensions
    match config.quantizer:
        case "nearest" | "cosine":
            return Codebook(config.codes, d, cosine=config.quantizer == "cosine")
        case "gumbel":
            return DirectCodes(d, config.codes, d)
        case "gumbel-cosine":
            return CosineCodes(d, config.codes, d)


class VQGAN(nn.Module):
    """Picture -> a code at every place of a grid -> picture."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        latent, d = config.pyramid.latent, config.dimensions
        self.encoder = Encoder(config.pyramid, latent)
        self.to_vectors = nn.Conv2d(latent, d, 1)
        self.quantizer = quantizer(config)
        self.from_vectors = nn.Conv2d(d, latent, 1)
        self.decoder = Decoder(config.pyramid)

    @property
    def size(self) -> int:
        """Side of the pictures it is trained on, in pixels."""
        return self.config.pyramid.size

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per code."""
        return self.config.pyramid.factor

    @property
    def codes(self) -> int:
        """k, the size of the codebook."""
        return self.config.codes

    @property
    def grids(self) -> tuple[int, ...]:
        """Sides of the grids of codes at `size`, one codebook each."""
        return (self.config.pyramid.grid,)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """h w of a picture of `size`."""
        return self.config.pyramid.grid, self.config.pyramid.grid

    def quantizers(self) -> Mapping[str, nn.Module]:
        """The one."""
        return {"quantizer": self.quantizer}

    def through(self, pixels: Tensor, bottleneck: Bottleneck) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> the same, past the bottleneck."""
        return self.decode_vectors(bottleneck("quantizer", self.features(pixels)))

    def to_pixels(self, output: Tensor) -> Tensor:
        """They are pixels."""
        return output

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> what the codes are told from, b d h' w'."""
        out: Tensor = self.to_vectors(self.encoder(pixels))
        return out

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Code vectors b d h' w' -> pixels b 3 h w, about in [-1, 1]."""
        out: Tensor = self.decoder(self.from_vectors(vectors))
        return out

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> ids, int64 b h' w'."""
        features = self.features(pixels)
        if isinstance(self.quantizer, DirectCodes | CosineCodes):
            return self.quantizer.logits(features).argmax(1)
        return self.quantizer.nearest(features)

    def decode(self, codes: Tensor) -> Tensor:
        """Ids b h' w' -> pixels b 3 h w, about in [-1, 1]."""
        return self.decode_vectors(self.quantizer.look_up(codes))
