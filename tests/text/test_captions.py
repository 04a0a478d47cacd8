import random

import numpy as np

from pinxit.text.captions import choose, clean, key


def test_entities_and_white_space_are_resolved() -> None:
    assert clean("  Salt &amp;amp; pepper\n\t on  a table&nbsp;") == "Salt & pepper on a table"
    assert clean(" \n ") == ""


def test_keys_tell_texts_apart_and_fit_int64() -> None:
    keys = [key(f"a red star {i}") for i in range(5_000)]
    assert len(set(keys)) == 5_000
    assert min(keys) >= 0
    assert max(np.array(keys, dtype=np.int64)) > 2**62
    assert key("a red star") == 3_150_468_185_572_523_510  # the same in every process
    assert key("\ud800") >= 0


def test_kinds_are_drawn_by_weight_and_captions_of_a_kind_alike() -> None:
    captions = {"short": ("a", "b"), "long": ("c",)}
    rng = random.Random(0)
    drawn = [choose(captions, {"short": 3.0, "long": 1.0}, rng) for _ in range(8_000)]
    assert 2_800 < drawn.count("a") < 3_200
    assert 1_850 < drawn.count("c") < 2_150


def test_kinds_the_sample_lacks_are_left_out() -> None:
    captions: dict[str, tuple[str, ...]] = {"short": ("a",), "alt": ("b",), "long": ()}
    rng = np.random.default_rng(0)
    drawn = [choose(captions, {"alt": 1.0, "short": 1.0, "long": 98.0}, rng) for _ in range(2_000)]
    assert 850 < drawn.count("a") < 1_150
    assert drawn.count("a") + drawn.count("b") == 2_000


def test_a_weight_of_zero_is_never_drawn() -> None:
    captions = {"short": ("a",), "alt": ("b",)}
    rng = random.Random(0)
    assert {choose(captions, {"short": 1.0, "alt": 0.0}, rng) for _ in range(500)} == {"a"}


def test_no_weighted_kind_at_all_gives_nothing() -> None:
    assert choose({"alt": ("a",)}, {"short": 1.0, "long": 1.0}, random.Random(0)) is None
