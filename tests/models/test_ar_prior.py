"""The autoregressive prior's codes of embeddings, and what its transformer is given."""

import pytest
import torch
import torch.nn.functional as F

from pinxit.errors import PinxitError
from pinxit.models.ar_prior import ARPrior, ARPriorConfig

CONFIG = ARPriorConfig(
    embedding=12, length=6, vocabulary=20, dimensions=8, buckets=32, width=16, depth=1, heads=2, dots=4
)


def rows(count: int = 2_000) -> torch.Tensor:
    """Unit rows that vary in few directions, around something."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator) * torch.linspace(1, 0.01, 12)[:, None]
    return F.normalize(torch.randn(count, 12, generator=generator) @ mixing + 1, dim=1)


def fitted(**change: int) -> tuple[ARPrior, torch.Tensor]:
    prior, embeddings = ARPrior(ARPriorConfig(**{**vars(CONFIG), **change})), rows()
    prior.fit(embeddings, embeddings[:, 0])
    return prior, embeddings


def test_codes_keep_embeddings() -> None:
    prior, embeddings = fitted()
    codes = prior.encode(embeddings)
    assert codes.shape == (2_000, 8)
    assert codes.min() == 0
    assert codes.max() == 31
    cosines = [
        (one.decode(one.encode(embeddings)) * embeddings).sum(1).mean().item()
        for one in (prior, fitted(buckets=4)[0], fitted(dimensions=2)[0])
    ]
    assert cosines[0] > 0.985
    assert cosines[0] > max(cosines[1:]) + 0.001
    used = torch.bincount(codes[:, 0], minlength=32)
    assert used.min() > 0.8 * used.max(), "buckets hold equally many"


def test_those_that_vary_most_come_first() -> None:
    prior, embeddings = fitted()
    spread = ((embeddings - prior.mean) @ prior.basis.t()).std(0)
    assert (spread.diff() <= 1e-4).all()
    near = [(prior.truncated(embeddings, k) * embeddings).sum(1).mean().item() for k in (1, 3, 8, 12)]
    assert near == sorted(near)
    assert near[-1] == pytest.approx(1)


def test_nearness_is_counted_in_equal_shares() -> None:
    prior, embeddings = fitted()
    assert torch.bincount(prior.nearness(embeddings[:, 0])).tolist() == [500] * 4
    assert prior.nearness(torch.tensor([-9.0, 9.0])).tolist() == [0, 3]


def test_everything_before_the_codes_counts() -> None:
    prior, embeddings = fitted()
    torch.manual_seed(0)
    for value in prior.transformer.parameters():
        value.data += 0.1 * torch.randn_like(value)
    ids, near, texts = torch.tensor([[18, 3, 19, 0, 0, 0]]), torch.tensor([2]), embeddings[:1]
    codes = prior.encode(embeddings[5:6])

    def told(*parts: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = prior(prior.condition(*parts), codes)[1]
        return logits

    plain = told(ids, near, texts)
    assert plain.shape == (1, 8, 32)
    for other in (
        told(torch.tensor([[18, 4, 19, 0, 0, 0]]), near, texts),
        told(ids, torch.tensor([3]), texts),
        told(ids, near, -texts),
        prior(prior.transformer.no_condition(1), codes)[1],
    ):
        assert (other - plain).abs().max() > 1e-3


def test_more_components_than_numbers_are_refused() -> None:
    with pytest.raises(PinxitError, match="dimensions=13 of embeddings of 12 numbers"):
        fitted(dimensions=13)
