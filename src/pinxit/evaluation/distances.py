"""How far apart two sets of features lie."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians fitted to rows n d and m d (Heusel et al. 2017, equation 6).

    |mean a - mean b|^2 + trace(A + B - 2 (A B)^(1/2)), in float64. Sets of fewer rows than features are told apart by
    their means and by what their few directions hold. The FID, where the features are those of Inception; with others a
    distance of its own, to be compared with the same ones only.
    """
    x, y = a.double(), b.double()
    first, second = _covariance(x), _covariance(y)
    root = _root(first)
    spread = first.trace() + second.trace() - 2 * _root(root @ second @ root).trace()
    return float((x.mean(0) - y.mean(0)).square().sum() + spread)


def _covariance(rows: Tensor) -> Tensor:
    away = rows - rows.mean(0)
    return away.t() @ away / max(len(rows) - 1, 1)


def _root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = torch.linalg.eigh((matrix + matrix.t()) / 2)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.t()
    return root
