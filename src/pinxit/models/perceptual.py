"""Distances between pictures as a network sees them: LPIPS, and the same by the features of a CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.models.clip import VisionTower

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the convolutions of VGG16 (Simonyan and Zisserman 2015, table 1, column D), by their five groups."""


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity over VGG16 (Zhang et al. 2018, equation 1).

    It means something with the published weights alone; `pinxit convert` reads them.
    """

    def __init__(self, widths: Sequence[Sequence[int]] = VGG16) -> None:
        super().__init__()
        self.groups = nn.ModuleList()
        inputs = 3
        for number, group in enumerate(widths):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            for width in group:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            self.groups.append(nn.Sequential(*layers))
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(group[-1])) for group in widths)
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches of pictures b 3 h w in [-1, 1], of 16 pixels a side at least -> distances b."""
        x = (torch.cat([a, b]) - self.mean) / self.std
        total = a.new_zeros(len(a), dtype=torch.float32)
        for group, weight in zip(self.groups, self.weights, strict=True):
            x = group(x)
            with torch.autocast(x.device.type, enabled=False):
                features = x.float()
                features = features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)
                first, second = features.chunk(2)
                total = total + ((first - second).square() * weight[:, None, None]).sum(1).mean((1, 2))
        return total


class CLIPDistance(nn.Module):
    """The mean squared difference of the patches' unit features, over all blocks of a CLIP's vision tower.

    For whoever has no VGG16: any CLIP that pinxit has trained. Pictures larger than the tower's are seen in tiles, at
    their own resolution. Patches are cut at a random place each time, the same for both: their seams are nowhere.
    """

    def __init__(self, tower: VisionTower, mean: Tensor, std: Tensor) -> None:
        """`mean` and `std` 3 1 1 are the tower's statistics of pixels in [-1, 1]."""
        super().__init__()
        self.tower = tower
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches of pictures b 3 h w in [-1, 1] -> distances b, between 0 and 4."""
        down, right = torch.randint(self.tower.patches.kernel_size[0], (2,)).tolist()
        x = (torch.cat([a, b]).roll((down, right), (2, 3)) - self.mean) / self.std
        tiles = self._tiles(x)  # 2b*t 3 s s
        features = self.tower.embed(tiles)
        total = a.new_zeros(len(tiles) // 2, dtype=torch.float32)
        for block in self.tower.transformer.blocks:
            features = block(features)
            first, second = F.normalize(features[:, 1:].float(), dim=-1).chunk(2)
            total = total + (first - second).square().sum(-1).mean(1)
        return total.view(len(a), -1).mean(1) / len(self.tower.transformer.blocks)

    def _tiles(self, x: Tensor) -> Tensor:
        """b 3 h w -> b*t 3 s s: scaled to the nearest multiple of the tower's size, and cut."""
        side = self.tower.size
        rows, columns = (max(1, round(length / side)) for length in x.shape[2:])
        if x.shape[2:] != (rows * side, columns * side):
            x = F.interpolate(x, (rows * side, columns * side), mode="bilinear", antialias=True)
        x = x.reshape(len(x), 3, rows, side, columns, side)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
