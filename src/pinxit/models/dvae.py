"""The discrete VAE of DALL·E 1 (Ramesh et al. 2021, section 2.1 and appendix A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.models.autoencoder import Bottleneck
from pinxit.nn.convolution import folded_channels, unfolding
from pinxit.nn.logit_laplace import to_pixels, to_unit
from pinxit.nn.quantizers import CosineCodes, DirectCodes


@dataclass(frozen=True)
class DVAEConfig:
    """The shape of a dVAE.

    The encoder works at `size / patch` and halves the resolution between its groups, so that the codes lie on a grid
    `patch * 2 ** (len(widths) - 1)` times coarser than the picture. The decoder is its mirror image.
    """

    size: int
    """Side of the pictures it is trained on, in pixels; it is fully convolutional."""
    codes: int
    """k, the size of the codebook."""
    widths: tuple[int, ...]
    """Channels of each group of residual blocks, finest first."""
    blocks: int
    """Residual blocks a group."""
    vector: int
    """Width of the code vectors that the decoder starts from."""
    cosine: bool = False
    """Codes are directions of the vector space (`CosineCodes`), rather than free logits and vectors as published."""
    gain: float = 1.0
    """Scale of the residual paths. With 1 they start as zero; the paper starts them at random, scaled by 1/64."""
    patch: int = 1
    """Side of the squares of pixels that are folded into channels first. 1 is the paper's; 4 suits a laptop."""

    def __post_init__(self) -> None:
        if self.size % self.factor:
            raise PinxitError(
                f"size={self.size} does not divide into codes of {self.factor} pixels a side, which patch={self.patch} "
                f"and {len(self.widths)} groups make. Choose a multiple of {self.factor}."
            )

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per code."""
        return int(self.patch * 2 ** (len(self.widths) - 1))

    @property
    def grid(self) -> int:
        """Codes along a side of a picture of `size`."""
        return self.size // self.factor


SIZES = {
    # As published: 256 px to 32x32 of 8,192 codes.
    "paper": DVAEConfig(size=256, codes=8192, widths=(256, 512, 1024, 2048), blocks=2, vector=128, gain=1 / 64),
    # For two cores: 64 px to 8x8 of 1,024 codes.
    "small-64": DVAEConfig(size=64, codes=1024, widths=(128, 256), blocks=2, vector=12, cosine=True, patch=4),
    # For tests and first tries: 32 px to 8x8 of 128 codes.
    "tiny-32": DVAEConfig(size=32, codes=128, widths=(64,), blocks=1, vector=4, cosine=True, patch=4),
}


class ResidualBlock(nn.Module):
    """The bottleneck block of OpenAI's dVAE: four convolutions at a quarter of the width.

    `kernels` are the sizes of the four: 3, 3, 3, 1 in the encoder and 1, 3, 3, 3 in the decoder.
    """

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, int, int, int], gain: float) -> None:
        super().__init__()
        hidden = outputs // 4
        self.gain = gain
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.path = nn.Sequential()
        for (a, b), kernel in zip(pairwise((inputs, hidden, hidden, hidden, outputs)), kernels, strict=True):
            self.path.extend([nn.ReLU(), nn.Conv2d(a, b, kernel, padding=kernel // 2)])

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b c' h w."""
        out: Tensor = self.skip(x) + self.gain * self.path(x)
        return out


class DVAE(nn.Module):
    """Picture -> grid of codes -> picture, with a categorical posterior over the codes at every place of the grid."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.config = config
        widths, gain = config.widths, config.gain
        folded, kernel = 3 * config.patch**2, 7 if config.patch == 1 else 3

        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(config.patch), nn.Conv2d(folded, widths[0], kernel, padding=kernel // 2)
        )
        for group, (a, b) in enumerate(pairwise((widths[0], *widths))):
            if group:
                self.encoder.append(nn.MaxPool2d(2))
            self.encoder.extend(
                ResidualBlock(b if block else a, b, (3, 3, 3, 1), gain) for block in range(config.blocks)
            )
        self.encoder.append(nn.ReLU())

        self.quantizer: DirectCodes | CosineCodes = (CosineCodes if config.cosine else DirectCodes)(
            widths[-1], config.codes, config.vector
        )

        self.decoder = nn.Sequential()
        for group, (a, b) in enumerate(pairwise((config.vector, *reversed(widths)))):
            if group:
                self.decoder.append(nn.Upsample(scale_factor=2, mode="nearest"))
            self.decoder.extend(
                ResidualBlock(b if block else a, b, (1, 3, 3, 3), gain) for block in range(config.blocks)
            )
        self.decoder.append(nn.ReLU())
        self.decoder.append(nn.Conv2d(widths[0], folded_channels(6, config.patch), 1))
        self.decoder.extend(unfolding(6, config.patch, nn.ReLU()))
        self._initialize()

    @property
    def size(self) -> int:
        """Side of the pictures it is trained on, in pixels."""
        return self.config.size

    @property
    def factor(self) -> int:
        """Pixels of a picture's side per code."""
        return self.config.factor

    @property
    def codes(self) -> int:
        """k, the size of the codebook."""
        return self.config.codes

    @property
    def grids(self) -> tuple[int, ...]:
        """Sides of the grids of codes at `size`, one codebook each."""
        return (self.config.grid,)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """h w of a picture of `size`."""
        return self.config.grid, self.config.grid

    def quantizers(self) -> Mapping[str, nn.Module]:
        """The one."""
        return {"quantizer": self.quantizer}

    def through(self, pixels: Tensor, bottleneck: Bottleneck) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> mean and log scale of the logit-Laplace, b 6 h w, past the bottleneck."""
        out: Tensor = self.decoder(bottleneck("quantizer", self.features(pixels)))
        return out

    def to_pixels(self, output: Tensor) -> Tensor:
        """Mean and log scale b 6 h w -> the likeliest pixels b 3 h w in [-1, 1]."""
        return to_pixels(output[:, :3])

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> what the codes are told from, b c h' w'. h and w are multiples of the factor."""
        if pixels.shape[2] % self.config.factor or pixels.shape[3] % self.config.factor:
            raise ValueError(f"pixels {tuple(pixels.shape)} do not divide into squares of {self.config.factor}")
        out: Tensor = self.encoder(to_unit(pixels))
        return out

    def decode_vectors(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Code vectors b d h' w' -> mean and log scale of the logit-Laplace, b 3 h w each."""
        mean, log_scale = self.decoder(vectors).chunk(2, dim=1)
        return mean, log_scale

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> the likeliest codes, int64 b h' w'."""
        return self.quantizer.logits(self.features(pixels)).argmax(1)

    def decode(self, ids: Tensor) -> Tensor:
        """Codes b h' w' -> pixels b 3 h w in [-1, 1]."""
        return to_pixels(self.decode_vectors(self.quantizer.look_up(ids))[0])

    def reconstruct(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> the same pictures through the codes."""
        return self.decode(self.encode(pixels))

    def _initialize(self) -> None:
        """Normal weights of variance 1 / fan-in and zero biases, as OpenAI's release has them."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(module.in_channels * module.kernel_size[0] ** 2) ** -0.5)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualBlock) and module.gain == 1:
                nn.init.zeros_(module.path[-1].weight)  # type: ignore[arg-type]
