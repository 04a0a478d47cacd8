"""The patch discriminator of pix2pix (Isola et al. 2017, appendix 6.1.2), as VQGAN uses it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Its shape. Each logit judges a square of pixels, 70 a side as published."""

    width: int = 64
    """Channels of the first layer; each further one has twice as many, eight times at most."""
    layers: int = 3
    """Convolutions of stride two."""


class Discriminator(nn.Module):
    """Pixels b 3 h w -> b 1 h' w' logits of being real."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        widths = [config.width * min(2**layer, 8) for layer in range(config.layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer, (a, b) in enumerate(pairwise(widths), start=1):
            stride = 2 if layer < config.layers else 1
            layers += [nn.Conv2d(a, b, 4, stride=stride, padding=1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        super().__init__()
        self.stride = 2**config.layers
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels b 3 h w in [-1, 1] -> b 1 h' w'.

        Strided convolutions look at some pixels more than at others. In training all are moved by as much as a random
        place below the stride: a codec would learn the pattern otherwise, as a hatch.
        """
        if self.training:
            h, w = (side - self.stride for side in pixels.shape[2:])
            down, right = torch.randint(self.stride, (2,)).tolist()
            pixels = pixels[..., down : down + h, right : right + w]
        logits: Tensor = self.layers(pixels)
        return logits
