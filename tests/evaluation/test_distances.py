import numpy as np
import pytest
import torch
from torch import Tensor

from pinxit.evaluation.distances import frechet


def rows(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mix + shift


def test_it_is_the_formula() -> None:
    a, b = rows(200, 6, 0), rows(300, 6, 1, shift=0.5)
    x, y = a.double().numpy(), b.double().numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.linalg.eigvals(first @ second).real  # the eigenvalues of (A B)^(1/2) are their square roots
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * np.sqrt(roots).sum()
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-9)


def test_the_same_rows_are_no_way_apart() -> None:
    a = rows(100, 5, 0)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 2) == pytest.approx(5 * 4)
    one_dimension = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [5.0]])
    assert frechet(*one_dimension) == pytest.approx(1 + (2**0.5 - 8**0.5) ** 2)


def test_fewer_rows_than_features_are_compared_too() -> None:
    assert frechet(rows(4, 30, 0), rows(5, 30, 1)) > 0
    assert frechet(torch.zeros(1, 3), torch.ones(1, 3)) == pytest.approx(3)
