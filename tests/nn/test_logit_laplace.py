import math

import pytest
import torch
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from pinxit.nn.logit_laplace import EPSILON, from_unit, negative_log_likelihood, to_pixels, to_unit


def test_the_interval_is_the_papers() -> None:
    fractions = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.testing.assert_close(to_unit(2 * fractions - 1), 0.8 * fractions + 0.1)
    assert EPSILON == 0.1


def test_there_and_back() -> None:
    pixels = torch.linspace(-1, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(from_unit(to_unit(pixels)), pixels)
    unit = torch.linspace(0.1, 0.9, 101, dtype=torch.float64)
    torch.testing.assert_close(to_unit(from_unit(unit)), unit)


def test_what_lies_outside_is_clamped() -> None:
    assert from_unit(torch.tensor([0.0, 0.05, 0.95, 1.0])).tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert to_pixels(torch.tensor([-50.0, 0.0, 50.0])).tolist() == pytest.approx([-1.0, 0.0, 1.0])


def test_the_median_is_the_picture() -> None:
    pixels = torch.linspace(-1, 1, 21)
    torch.testing.assert_close(to_pixels(torch.logit(to_unit(pixels))), pixels)


@pytest.mark.parametrize("mean", [-1.5, 0.0, 0.7])
@pytest.mark.parametrize("log_scale", [-2.0, -0.5, 0.3])
def test_the_density_integrates_to_one(mean: float, log_scale: float) -> None:
    # Over the logit, where its tails are long but smooth: f(x) dx = f(x) x (1 - x) dlogit.
    logit = torch.linspace(-14, 14, 200_001, dtype=torch.float64)
    x = logit.sigmoid()
    pixels = (x - EPSILON) / (0.5 - EPSILON) - 1  # all of (0, 1), beyond what pictures use
    nll = negative_log_likelihood(pixels, torch.tensor(mean), torch.tensor(log_scale)).double()
    total = torch.trapezoid((-nll).exp() * x * (1 - x), logit)
    assert total.item() == pytest.approx(1.0, abs=1e-3)


def test_it_is_the_laplace_behind_a_sigmoid() -> None:
    torch.manual_seed(0)
    pixels, mean, log_scale = torch.rand(2, 3, 5, 4) * 2 - 1, torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4) - 1
    theirs = TransformedDistribution(Laplace(mean, log_scale.exp()), [SigmoidTransform()])
    expected = -theirs.log_prob(to_unit(pixels))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(negative_log_likelihood(pixels, mean, log_scale), expected, atol=1e-4, rtol=1e-5)


def test_equation_two_by_hand() -> None:
    # pixel 0 -> x = 0.5, logit 0: f = 1 / (2 b / 4) exp(-|0 - 1| / b), with b = 0.5.
    expected = -math.log(1 / (2 * 0.5 * 0.25) * math.exp(-1 / 0.5))
    given = negative_log_likelihood(torch.zeros(1), torch.ones(1), torch.tensor([math.log(0.5)]))
    assert given.item() == pytest.approx(expected, abs=1e-6)


def test_black_and_white_stay_finite_in_half_precision() -> None:
    pixels = torch.tensor([-1.0, 1.0], dtype=torch.bfloat16)
    nll = negative_log_likelihood(pixels, torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16))
    assert nll.dtype == torch.float32
    assert torch.isfinite(nll).all()
