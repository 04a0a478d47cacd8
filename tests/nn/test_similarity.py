"""PSNR and SSIM beside plain numpy after the papers' formulas, in float64."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from pinxit.nn.similarity import psnr, ssim


def pictures(seed: int = 0, size: tuple[int, int] = (24, 31)) -> tuple[Tensor, Tensor]:
    """Smooth pictures and the same with noise that grows from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, 3, 6, 6, generator=generator) * 2 - 1
    a = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    noise = torch.randn(a.shape, generator=generator) * torch.tensor([0.02, 0.1, 0.4]).view(3, 1, 1, 1)
    return a, (a + noise).clamp(-1, 1)


def reference_ssim(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004, equation 13, window by window, for one picture 3 h w."""
    place = np.arange(11) - 5
    weights = np.exp(-(place[:, None] ** 2 + place[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    x, y = ((picture.double().numpy() + 1) / 2 for picture in (a, b))
    values = []
    for u, v in zip(x, y, strict=True):
        p, q = sliding_window_view(u, (11, 11)), sliding_window_view(v, (11, 11))
        mean_p, mean_q = (p * weights).sum((2, 3)), (q * weights).sum((2, 3))
        dp, dq = p - mean_p[..., None, None], q - mean_q[..., None, None]
        var_p, var_q, cov = ((weights * d).sum((2, 3)) for d in (dp * dp, dq * dq, dp * dq))
        c1, c2 = 0.01**2, 0.03**2
        top = (2 * mean_p * mean_q + c1) * (2 * cov + c2)
        values.append((top / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))).mean())
    return float(np.mean(values))


def test_psnr_is_the_textbooks() -> None:
    a, b = pictures()
    for given, u, v in zip(psnr(a, b), a.double().numpy(), b.double().numpy(), strict=True):
        error = np.mean((127.5 * u - 127.5 * v) ** 2)  # in grey levels, of which the peak is 255
        assert given.item() == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)


def test_psnr_of_known_errors() -> None:
    black = torch.full((1, 3, 4, 4), -1.0)
    assert psnr(black, -black).item() == pytest.approx(0.0)
    assert psnr(black, black + 0.2).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(black, black).item() == pytest.approx(100.0)


def test_ssim_is_the_papers() -> None:
    a, b = pictures()
    for given, u, v in zip(ssim(a, b), a, b, strict=True):
        assert given.item() == pytest.approx(reference_ssim(u, v), abs=1e-4)


def test_ssim_of_known_pairs() -> None:
    a, b = pictures()
    torch.testing.assert_close(ssim(a, a), torch.ones(3))
    assert (ssim(a, b).diff() < 0).all()  # more noise, less alike
    assert (ssim(a, -a) < 0.5).all()
    torch.testing.assert_close(ssim(a, b), ssim(b, a))


def test_each_picture_is_judged_alone() -> None:
    a, b = pictures()
    for measure in (psnr, ssim):
        torch.testing.assert_close(measure(a, b)[1:2], measure(a[1:2], b[1:2]))


def test_ssim_is_the_same_under_autocast() -> None:
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    expected = ssim(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ssim(a, b), expected)


def test_autocast_does_not_blur_the_measure() -> None:
    a, b = pictures()
    for measure in (psnr, ssim):
        expected = measure(a, b)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(measure(a, b), expected)
