"""What an exchange makes false, and what it leaves alone."""

import random

import pytest

from pinxit.text.exchanges import exchanged


def all_of(caption: str) -> set[str | None]:
    return {exchanged(caption, random.Random(seed)) for seed in range(60)}


@pytest.mark.parametrize(
    ("caption", "false"),
    [
        ("a red star and a blue circle", {"a blue star and a red circle"}),
        ("An orange ring on a white ground", {"A white ring on an orange ground"}),
        ("a cat left of a dog", {"a cat right of a dog"}),
        ("a red star above a blue circle", {"a blue star above a red circle", "a red star below a blue circle"}),
        ("two hearts", {"three hearts", "four hearts", "five hearts", "six hearts"}),
        ("red, green, blue", {"green, red, blue", "blue, green, red", "red, blue, green"}),
    ],
)
def test_one_exchange_makes_it_false(caption: str, false: set[str]) -> None:
    assert all_of(caption) == false


@pytest.mark.parametrize("caption", ["", "a red star", "a red star and a Red circle", "leftovers, reddish", "someone"])
def test_what_has_nothing_to_exchange_stays_alone(caption: str) -> None:
    assert all_of(caption) == {None}
