"""How alike two pictures are, pixel by pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures b 3 h w in [-1, 1]; one a picture, at most 100."""
    error = ((a.float() - b.float()) / 2).square().mean((1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of pictures b 3 h w in [-1, 1]; one number of at most 1 a picture.

    An 11x11 Gaussian window of deviation 1.5, K1 = 0.01, K2 = 0.03, over the places where the window fits, averaged
    over the three channels.
    """
    c1, c2 = 0.01**2, 0.03**2
    x, y = (a.float() + 1) / 2, (b.float() + 1) / 2
    offsets = torch.arange(11, device=x.device) - 5.0
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = (window / window.sum()).expand(3, 1, 1, 11)

    def blur(v: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(v, window, groups=3), window.transpose(2, 3), groups=3)

    with torch.autocast(x.device.type, enabled=False):  # variances are small differences: bfloat16 would lose them
        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        covariance = blur(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))
