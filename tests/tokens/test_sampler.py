"""The sampler over callables that are no networks."""

import pytest
import torch
from torch import Tensor

from pinxit.tokens.sampler import Choice, draw, guide, restrict, sample, uniforms

LAST = 1 - 2.0**-53  # the largest number below 1


def chi_square(ids: Tensor, p: Tensor) -> float:
    """Over the ids that are possible; the others must not have been drawn."""
    counts = torch.bincount(ids, minlength=len(p)).double()
    assert not counts[p == 0].any()
    expected = len(ids) * p[p > 0].double()
    return float(((counts[p > 0] - expected) ** 2 / expected).sum())


# One token

LOGITS = torch.tensor([1.0, -0.5, 2.0, 0.3, -3.0, 1.5])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_ids_are_drawn_as_often_as_the_softmax_says(temperature: float) -> None:
    n = 30_000
    numbers = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = draw(LOGITS.expand(n, 6), numbers, Choice(temperature=temperature))
    assert chi_square(ids, (LOGITS / temperature).softmax(0)) < 20.5  # 5 degrees, p = 0.001


@pytest.mark.parametrize("choice", [Choice(top_k=3), Choice(top_p=0.8), Choice(top_k=4, top_p=0.7)])
def test_what_is_left_keeps_its_proportions(choice: Choice) -> None:
    n = 30_000
    numbers = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept = {3: [2, 5, 0], None: [2, 5, 0], 4: [2, 5]}[choice.top_k]  # p: .45 .27 .16 .08 ..., of the four: .46 .28
    p = torch.zeros(6)
    p[kept] = LOGITS[kept].softmax(0)
    assert chi_square(draw(LOGITS.expand(n, 6), numbers, choice), p) < 13.8  # 2 degrees, p = 0.001


def test_the_number_walks_along_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.25, 0.25]).log().expand(6, 3)
    numbers = torch.tensor([0.0, 0.499, 0.501, 0.749, 0.751, LAST], dtype=torch.float64)
    assert draw(logits, numbers, Choice()).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("number", [0.0, LAST])
def test_the_impossible_is_not_drawn_even_at_the_ends(number: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 9, generator=generator)
    logits[:, [0, 1, 7, 8]] = -torch.inf
    ids = draw(logits, torch.full((500,), number, dtype=torch.float64), Choice())
    assert set(ids.tolist()) == {2 if number == 0 else 6}


def test_temperature_zero_takes_the_likeliest_whatever_the_number() -> None:
    numbers = torch.tensor([0.0, 0.5, LAST], dtype=torch.float64)
    assert draw(LOGITS.expand(3, 6), numbers, Choice(temperature=0)).tolist() == [2, 2, 2]
    low = draw(LOGITS.expand(3, 6), numbers.clamp_min(1e-9), Choice(temperature=0.01))
    assert low.tolist() == [2, 2, 2]


def test_of_equals_temperature_zero_takes_one_and_the_same() -> None:
    tied = torch.tensor([0.0, 3.0, 1.0, 3.0]).expand(5, 4)
    ids = draw(tied, torch.linspace(0, 0.9, 5, dtype=torch.float64), Choice(temperature=0))
    assert set(ids.tolist()) in ({1}, {3})


def test_half_precision_logits_are_drawn_from_as_they_are() -> None:
    numbers = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rough = LOGITS.bfloat16()
    ids = draw(rough.expand(200, 6), numbers, Choice(top_k=4))
    assert torch.equal(ids, draw(rough.float().expand(200, 6), numbers, Choice(top_k=4)))


def test_drawing_changes_nothing_it_was_given() -> None:
    logits, numbers = LOGITS.repeat(3, 1), torch.rand(3, dtype=torch.float64)
    before = logits.clone(), numbers.clone()
    draw(logits, numbers, Choice(temperature=0.7, top_k=3, top_p=0.9))
    assert torch.equal(logits, before[0])
    assert torch.equal(numbers, before[1])


# What may be drawn


def left(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> list[set[int]]:
    kept = restrict(logits, top_k, top_p)
    assert torch.equal(kept[kept > -torch.inf], logits[kept > -torch.inf])
    return [set(row.nonzero()[:, 0].tolist()) for row in kept > -torch.inf]


def test_top_k_keeps_the_k_likeliest_of_each_row() -> None:
    logits = torch.stack([LOGITS, -LOGITS])
    assert left(logits, top_k=1) == [{2}, {4}]
    assert left(logits, top_k=3) == [{2, 5, 0}, {4, 1, 3}]
    assert left(logits, top_k=6) == left(logits, top_k=99) == [set(range(6))] * 2


def test_top_k_keeps_those_that_tie_with_the_last() -> None:
    assert left(torch.tensor([[1.0, 2.0, 1.0, 0.0]]), top_k=2) == [{0, 1, 2}]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.0, {1}),  # at least one
        (0.01, {1}),
        (0.49, {1}),
        (0.51, {1, 3}),
        (0.79, {1, 3}),
        (0.81, {1, 3, 0}),
        (0.94, {1, 3, 0}),
        (0.96, {1, 3, 0, 2}),
        (1.0, {1, 3, 0, 2}),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: set[int]) -> None:
    p = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    assert left(p.log(), top_p=top_p) == [kept]


def test_top_p_of_each_row_on_its_own_and_against_a_search() -> None:
    logits = 2 * torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    for row, kept in zip(logits.double().softmax(1), left(logits, top_p=0.7), strict=True):
        size = next(n for n in range(1, 31) if row.topk(n).values.sum() >= 0.7)
        assert kept == set(row.topk(size).indices.tolist())


def test_top_p_is_of_what_top_k_left() -> None:
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    assert left(p.log(), top_p=0.55) == [{0, 1}]
    assert left(p.log(), top_k=2, top_p=0.55) == [{0}]  # of 0.4 / 0.7 = 0.57


# The numbers


def test_numbers_of_a_row_depend_on_its_seed_alone() -> None:
    many = uniforms([3, 1, 4, 1, 5], 8)
    assert many.shape == (5, 8)
    assert many.dtype == torch.float64
    assert torch.equal(many[1], many[3])
    assert len({tuple(row) for row in many.tolist()}) == 4
    for row, seed in zip(many, [3, 1, 4, 1, 5], strict=True):
        assert torch.equal(uniforms([seed], 8)[0], row)
    assert torch.equal(uniforms([4], 5)[0], many[2, :5])  # and not on how many follow


def test_numbers_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    uniforms([1, 2], 4)
    assert torch.equal(torch.get_rng_state(), state)


# Whole sequences

VOCABULARY = 12
TABLE = 2 * torch.randn(101, VOCABULARY, generator=torch.Generator().manual_seed(7))


def next_logits(ids: Tensor) -> Tensor:
    """Depends on every token and its place."""
    places = torch.arange(1, ids.shape[1] + 1)
    return TABLE[(ids * places * 37 + places).sum(1) % 101]


def test_a_sequence_is_drawn_token_by_token() -> None:
    numbers, choice = uniforms([0, 1, 2], 6), Choice(temperature=0.8, top_k=5)
    ids = sample(next_logits, numbers, choice)
    assert ids.dtype == torch.int64
    assert ids.shape == (3, 6)
    for row in range(3):
        for place in range(6):
            one = draw(next_logits(ids[row : row + 1, :place]), numbers[row : row + 1, place], choice)
            assert one.item() == ids[row, place]


def test_a_row_of_a_batch_is_what_it_is_alone() -> None:
    seeds = [11, 5, 8, 21, 2]
    batch = sample(next_logits, uniforms(seeds, 9), Choice())
    assert len({tuple(row) for row in batch.tolist()}) == 5
    for row, seed in zip(batch, seeds, strict=True):
        assert torch.equal(sample(next_logits, uniforms([seed], 9), Choice())[0], row)


def test_given_tokens_stay_and_the_rest_follows_from_them() -> None:
    numbers = uniforms([0, 1], 7)
    free = sample(next_logits, numbers, Choice())
    assert torch.equal(sample(next_logits, numbers, Choice(), given=free[:, :3]), free)
    other = (free[:, :3] + 1) % VOCABULARY
    ids = sample(next_logits, numbers, Choice(), given=other)
    assert torch.equal(ids[:, :3], other)
    assert not torch.equal(ids[:, 3:], free[:, 3:])


def test_when_all_is_given_nothing_is_asked() -> None:
    given = torch.arange(6).view(2, 3)

    def refuse(ids: Tensor) -> Tensor:
        raise AssertionError(ids)

    ids = sample(refuse, uniforms([0, 1], 3), Choice(), given=given)
    assert torch.equal(ids, given)
    assert ids.data_ptr() != given.data_ptr()


def test_nothing_given_is_changed() -> None:
    numbers, given = uniforms([0, 1], 7), torch.tensor([[3, 4], [5, 6]])
    before = numbers.clone(), given.clone()
    seen: list[tuple[Tensor, Tensor]] = []

    def remember(ids: Tensor) -> Tensor:
        seen.append((ids, ids.clone()))
        return next_logits(ids)

    sample(remember, numbers, Choice(), given=given)
    assert torch.equal(numbers, before[0])
    assert torch.equal(given, before[1])
    assert all(torch.equal(view, copy) for view, copy in seen)  # what a cache may hold on to
    assert [copy.shape for _, copy in seen] == [(2, n) for n in range(2, 7)]


def test_progress_counts_every_token() -> None:
    told: list[tuple[int, int]] = []
    sample(next_logits, uniforms([0], 5), Choice(), progress=lambda done, of: told.append((done, of)))
    assert told == [(n, 5) for n in range(1, 6)]
    told.clear()
    given = torch.zeros(1, 3, dtype=torch.int64)
    sample(next_logits, uniforms([0], 5), Choice(), given=given, progress=lambda done, of: told.append((done, of)))
    assert told == [(4, 5), (5, 5)]


# Guidance

CONDITION = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(8))


def doubled(ids: Tensor) -> Tensor:
    """The first half of the rows has a condition."""
    assert torch.equal(*ids.chunk(2))
    logits = next_logits(ids)
    return logits + torch.cat([CONDITION[: len(ids) // 2], torch.zeros(len(ids) // 2, VOCABULARY)])


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -0.5])
def test_guidance_goes_from_without_towards_with(scale: float) -> None:
    ids = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    free = next_logits(ids)
    expected = free + scale * CONDITION
    torch.testing.assert_close(guide(doubled, scale)(ids), expected)
    if scale == 0:
        assert torch.equal(guide(doubled, scale)(ids), free)


def test_guided_sequences_are_one_stream_a_row() -> None:
    numbers = uniforms([0, 1, 2, 3], 6)

    def conditional(ids: Tensor) -> Tensor:
        return next_logits(ids) + CONDITION

    assert torch.equal(sample(guide(doubled, 1.0), numbers, Choice()), sample(conditional, numbers, Choice()))
    assert torch.equal(sample(guide(doubled, 0.0), numbers, Choice()), sample(next_logits, numbers, Choice()))
    strong = sample(guide(doubled, 1e4), numbers, Choice())
    assert torch.equal(strong, CONDITION.argmax(1, keepdim=True).expand(4, 6))


def test_tokens_may_be_known_anywhere() -> None:
    numbers, asked = uniforms([0, 1], 6), []

    def next_logits(ids: Tensor) -> Tensor:
        asked.append(ids.shape[1])
        return ids.sum(1, keepdim=True).float() * torch.tensor([[0.1, -0.2, 0.3]])

    given = torch.tensor([[2, 0, 1, 2, 0, 1], [1, 1, 0, 2, 2, 0]])
    known = torch.tensor([True, False, True, True, False, False])
    ids = sample(next_logits, numbers, Choice(), given=given, known=known)
    assert asked == [1, 4, 5]
    assert torch.equal(ids[:, known], given[:, known])
    prefix = sample(next_logits, numbers, Choice(), given=given, known=torch.arange(6) < 3)
    assert torch.equal(prefix, sample(next_logits, numbers, Choice(), given=given[:, :3]))
