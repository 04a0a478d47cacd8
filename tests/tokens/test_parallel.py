import itertools
import math

import pytest
import torch
from torch import Tensor

from pinxit.tokens.parallel import AllLogits, fill, hidden, noise
from pinxit.tokens.sampler import Choice, guide

COUNT, CODES, MASK = 12, 7, 7


def fixed(seed: int = 0) -> AllLogits:
    """Logits that depend on the place alone."""
    logits = torch.randn(COUNT, CODES, generator=torch.Generator().manual_seed(seed)) * 3
    return lambda ids: logits.expand(len(ids), -1, -1)


def masked(rows: int) -> Tensor:
    return torch.full((rows, COUNT), MASK)


def test_the_share_of_hidden_tokens_falls_along_a_cosine() -> None:
    assert hidden(0) == 1
    assert hidden(1) == pytest.approx(0, abs=1e-9)
    assert hidden(1 / 3) == pytest.approx(math.cos(math.pi / 6))


@pytest.mark.parametrize("steps", [1, 2, 5, 12, 40])
def test_each_step_keeps_what_it_has_and_the_last_hides_nothing(steps: int) -> None:
    seen: list[Tensor] = []
    logits = fixed()

    def remember(ids: Tensor) -> Tensor:
        seen.append(ids.clone())
        return logits(ids)

    ids = fill(remember, masked(3), MASK, noise([0, 1, 2], steps, COUNT), Choice())
    assert (ids < CODES).all()
    assert len(seen) == min(steps, len(seen))
    seen.append(ids)
    for step, (before, after) in enumerate(itertools.pairwise(seen), start=1):
        kept = before != MASK
        assert torch.equal(before[kept], after[kept])
        left = (after == MASK).sum(1)
        assert (left < (before == MASK).sum(1)).all(), "every step brings something"
        assert (left <= COUNT * hidden(step / steps)).all()


def test_given_tokens_stay() -> None:
    ids = masked(2)
    ids[:, 3:8] = torch.tensor([1, 2, 3, 4, 5])
    made = fill(fixed(), ids, MASK, noise([0, 1], 4, COUNT), Choice())
    assert torch.equal(made[:, 3:8], ids[:, 3:8])
    assert (made < CODES).all()
    assert (ids == MASK).any(), "what was given is not changed"
    assert torch.equal(fill(fixed(), made, MASK, noise([0, 1], 4, COUNT), Choice()), made)


def test_a_row_depends_on_its_seed_alone() -> None:
    logits = fixed()
    whole = fill(logits, masked(3), MASK, noise([5, 6, 7], 4, COUNT), Choice())
    alone = fill(logits, masked(1), MASK, noise([6], 4, COUNT), Choice())
    assert torch.equal(whole[1:2], alone)
    assert not torch.equal(whole[0], whole[1])


def test_the_surest_come_first() -> None:
    logits = fixed()
    order: list[Tensor] = []

    def remember(ids: Tensor) -> Tensor:
        order.append(ids[0].clone())
        return logits(ids)

    fill(remember, masked(1), MASK, noise([0], 12, COUNT), Choice(temperature=0), wavering=0.0)
    best = logits(masked(1))[0].log_softmax(-1).max(-1).values
    first = (order[1] != MASK).nonzero()[:, 0]
    assert best[first].min() >= best[order[1] == MASK].max()


def test_wavering_changes_the_order() -> None:
    seen = set()
    for seed in range(20):
        first: list[Tensor] = []

        def remember(ids: Tensor, kept: list[Tensor] = first) -> Tensor:
            kept.append(ids[0] != MASK)
            return fixed()(ids)

        fill(remember, masked(1), MASK, noise([seed], 12, COUNT), Choice(temperature=0), wavering=20.0)
        seen.add(tuple(first[1].tolist()))
    assert len(seen) > 5


def test_tokens_follow_their_distribution() -> None:
    """Where no token depends on another, every order draws each from its own."""
    logits = fixed()
    seeds = range(3_000)
    ids = fill(logits, masked(len(seeds)), MASK, noise(seeds, 1, COUNT), Choice())
    for place in (0, 7):
        expected = logits(masked(1))[0, place].softmax(-1) * len(seeds)
        counts = torch.bincount(ids[:, place], minlength=CODES)
        assert ((counts - expected) ** 2 / expected.clamp_min(1)).sum() < 26  # chi-square, 6 degrees, p < 0.001


def test_it_can_be_guided() -> None:
    free, towards = fixed(0)(masked(1)), fixed(1)(masked(1))

    def both(ids: Tensor) -> Tensor:
        half = len(ids) // 2
        return torch.cat([towards.expand(half, -1, -1), free.expand(half, -1, -1)])

    ids = fill(guide(both, 3.0), masked(2), MASK, noise([0, 1], 3, COUNT), Choice(temperature=0))
    expected = (free + 3 * (towards - free)).argmax(-1).expand(2, -1)
    assert torch.equal(ids, expected)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    fill(fixed(), masked(1), MASK, noise([0], 3, COUNT), Choice(), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
