from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from pinxit.data.loader import Loader, stack
from pinxit.data.sample import BadSample
from pinxit.errors import PinxitError


class Numbers:
    """Sample i is i; those listed as bad raise."""

    def __init__(self, n: int, bad: tuple[int, ...] = ()) -> None:
        self.n = n
        self.bad = bad

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        if index in self.bad:
            raise BadSample(str(index), "broken", f"Sample {index} is broken.")
        return index


def row(sample: int, rng: np.random.Generator) -> dict[str, Any]:
    return {"index": sample, "noise": rng.random(2), "text": f"sample {sample}"}


def loader(samples: Numbers, **settings: Any) -> Loader:
    defaults: dict[str, Any] = {"batch_size": 4, "transform": row, "seed": 7}
    return Loader(samples, **(defaults | settings))


def indices(batches: Iterator[dict[str, Any]], count: int) -> list[int]:
    return [i for batch in islice(batches, count) for i in batch["index"].tolist()]


def global_batches(samples: Numbers, count: int, world: int, workers: int) -> list[tuple[list[int], list[list[float]]]]:
    """The batches of all ranks, joined."""
    ranks = [iter(loader(samples, rank=rank, world=world, workers=workers)) for rank in range(world)]
    joined = []
    for _ in range(count):
        parts = [next(rank) for rank in ranks]
        joined.append(
            (torch.cat([p["index"] for p in parts]).tolist(), torch.cat([p["noise"] for p in parts]).tolist())
        )
    return joined


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 2), (4, 0), (4, 2)])
def test_the_global_batches_are_the_same_for_any_ranks_and_workers(world: int, workers: int) -> None:
    samples = Numbers(11, bad=(3,))
    assert global_batches(samples, 6, world, workers) == global_batches(samples, 6, world=1, workers=0)


def test_every_pass_has_every_sample_once_across_uneven_batches() -> None:
    seen = indices(iter(loader(Numbers(10))), 15)  # 60 samples: six epochs of 10
    epochs = [seen[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_without_shuffling_the_order_is_that_of_the_source() -> None:
    assert indices(iter(loader(Numbers(6), shuffle=False)), 3) == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]


def test_another_seed_gives_another_order() -> None:
    assert indices(iter(loader(Numbers(50), seed=1)), 5) != indices(iter(loader(Numbers(50), seed=2)), 5)


def test_a_sample_is_transformed_differently_in_each_epoch() -> None:
    batches = iter(loader(Numbers(1), batch_size=1))
    assert not torch.equal(next(batches)["noise"], next(batches)["noise"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_a_cut_run_continues_exactly_on_another_number_of_ranks(world: int, workers: int) -> None:
    straight = indices(iter(loader(Numbers(10))), 12)
    before = loader(Numbers(10), workers=workers)
    first = indices(iter(before), 4)
    state = pickle.loads(pickle.dumps(before.state_dict()))
    assert state == {"batches": 4}  # although the workers have prepared more
    ranks = [loader(Numbers(10), rank=rank, world=world) for rank in range(world)]
    for each in ranks:
        each.load_state_dict(state)
    streams = [iter(each) for each in ranks]
    rest = [i for _ in range(8) for stream in streams for i in next(stream)["index"].tolist()]
    assert first + rest == straight


def test_the_position_counts_a_batch_once_it_is_handed_out() -> None:
    numbers = loader(Numbers(10))
    batches = iter(numbers)
    assert numbers.state_dict() == {"batches": 0}
    next(batches)
    assert numbers.state_dict() == {"batches": 1}


def test_a_bad_sample_is_counted_named_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    numbers = loader(Numbers(40, bad=(5,)))
    with caplog.at_level(logging.WARNING):
        seen = indices(iter(numbers), 10)
    assert len(seen) == 40
    assert set(range(40)) - set(seen) == {5}
    assert numbers.faults == {"broken": 1}
    (record,) = caplog.records
    assert record.getMessage() == "Skipped 1 bad samples so far (broken 1). Last: Sample 5 is broken."


def test_the_log_is_rate_limited(caplog: pytest.LogCaptureFixture) -> None:
    numbers = loader(Numbers(20, bad=(5,)), fault_limit=1.0)
    with caplog.at_level(logging.WARNING):
        indices(iter(numbers), 500)  # 100 epochs, so about a hundred faults
    assert numbers.faults["broken"] >= 100
    assert len(caplog.records) == 3  # the first, the tenth, the hundredth


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_stop_the_run(workers: int) -> None:
    numbers = loader(Numbers(100, bad=tuple(range(0, 100, 5))), workers=workers)
    with pytest.raises(PinxitError, match=r"Too many bad samples: \d+ of \d+ \(broken \d+\); at most 5%"):
        indices(iter(numbers), 100)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_of_nothing_but_bad_samples_stops_at_once(workers: int) -> None:
    numbers = loader(Numbers(3, bad=(0, 1, 2)), workers=workers)
    with pytest.raises(PinxitError, match="100 samples in a row were unusable"):
        next(iter(numbers))


def die(sample: int, _: np.random.Generator) -> dict[str, Any]:
    os._exit(sample + 1)


def fail(sample: int, _: np.random.Generator) -> dict[str, Any]:
    raise ZeroDivisionError(f"sample {sample}")


def test_a_worker_that_dies_raises() -> None:
    with pytest.raises(PinxitError, match="A data worker died"):
        next(iter(loader(Numbers(8), transform=die, workers=1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_in_the_transform_is_not_taken_for_a_bad_sample(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        next(iter(loader(Numbers(8), transform=fail, workers=workers)))


def test_fewer_samples_than_workers_do_not_hang() -> None:
    assert indices(iter(loader(Numbers(1), workers=2)), 3) == [0] * 12


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_torchs_global_generator_alone(workers: int) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    next(iter(loader(Numbers(8), workers=workers)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"world": 3}, "A batch of 4 samples does not divide among 3 ranks"),
        ({"batch_size": 0}, "A batch of 0 samples"),
        ({"rank": 2, "world": 2}, "Rank 2 is not one of 2 ranks"),
        ({"seed": -1}, "The seed -1 is negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(PinxitError, match=text):
        loader(Numbers(8), **settings)


def test_no_samples_are_refused() -> None:
    with pytest.raises(PinxitError, match="There are no samples"):
        loader(Numbers(0))


def test_stacking() -> None:
    rows = [{"a": np.ones(2, np.uint8), "b": torch.zeros(3), "c": i, "d": 0.5, "e": "x", "f": True} for i in range(2)]
    batch = stack(rows)
    assert batch["a"].dtype == torch.uint8
    assert batch["a"].shape == (2, 2)
    assert batch["b"].shape == (2, 3)
    assert batch["c"].tolist() == [0, 1]
    assert batch["d"].dtype == torch.float32
    assert batch["e"] == ["x", "x"]
    assert batch["f"].dtype == torch.bool


def test_stacking_refuses_what_no_batch_holds() -> None:
    with pytest.raises(PinxitError, match="gave 'a' as dict"):
        stack([{"a": {}}])
    with pytest.raises(PinxitError, match=r"gave \['b'\] for one sample and \['a'\] for another"):
        stack([{"a": 1}, {"b": 1}])
