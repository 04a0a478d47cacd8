from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pinxit.data.sample import BadSample, captions_from_record, draw_caption, read_captions


@pytest.mark.parametrize(
    ("record", "captions"),
    [
        ({"caption": "a"}, {"short": ("a",)}),
        ({"captions": ["a", "b", "a", " "]}, {"short": ("a", "b")}),
        ({"caption": "a", "captions": ["b", "a"]}, {"short": ("a", "b")}),
        ({"captions": {"alt": "a", "long": ["b", "c"]}}, {"alt": ("a",), "long": ("b", "c")}),
        ({"captions": {"blip": "a", "short": ["b", "a"], "coca": ["c"]}}, {"short": ("a", "b", "c")}),
        ({"text": "a"}, {"long": ("a",)}),
        ({"keywords": ["a", "b"]}, {"alt": ("a, b",)}),
        ({"keywords": "a"}, {"alt": ("a",)}),
        ({"alt": "a", "short": ["b"], "long": "c"}, {"alt": ("a",), "short": ("b",), "long": ("c",)}),
        ({"caption": None, "short": " a\n"}, {"short": ("a",)}),
        ({"caption": "Côte d’Ivoire: a, b"}, {"short": ("Côte d’Ivoire: a, b",)}),
    ],
)
def test_captions_by_kind(record: dict[str, Any], captions: dict[str, tuple[str, ...]]) -> None:
    assert captions_from_record("k", {**record, "licence": "CC0"}) == (captions, {"licence": "CC0"})


@pytest.mark.parametrize(
    "record", [{}, {"caption": " "}, {"captions": []}, {"captions": {"alt": ""}}, {"keywords": []}]
)
def test_no_caption_is_named(record: dict[str, Any]) -> None:
    with pytest.raises(BadSample, match="'k' has no caption") as caught:
        captions_from_record("k", record)
    assert caught.value.reason == "no-caption"


@pytest.mark.parametrize("value", [3, {"a": 1}, ["a", 3], [["a"]], True])
def test_what_is_no_text_is_named(value: Any) -> None:
    with pytest.raises(BadSample) as caught:
        captions_from_record("k", {"caption": value})
    assert caught.value.reason == "bad-caption"


def test_a_byte_order_mark_is_not_part_of_the_caption() -> None:
    assert read_captions("k", None, b"\xef\xbb\xbfa cat\r\n")[0] == {"short": ("a cat",)}


def test_a_caption_is_drawn_and_cleaned_or_the_sample_is_bad() -> None:
    rng = np.random.default_rng(0)
    assert draw_caption("x", {"alt": ("a  cat",), "short": ("no",)}, {"alt": 1.0, "short": 0.0}, rng) == "a cat"
    with pytest.raises(
        BadSample, match=r"'x' has captions of kind alt; data\.captions asks for short, long\."
    ) as fault:
        draw_caption("x", {"alt": ("a",)}, {"short": 1.0, "long": 1.0, "alt": 0.0}, rng)
    assert fault.value.reason == "other-captions"
