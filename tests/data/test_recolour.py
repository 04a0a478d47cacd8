from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pinxit.data.recolour import COLOURS, in_colour, recolour, recolourable, tint
from pinxit.data.sample import Captions, Sample


def drawing() -> Image.Image:
    """A yellow face with black eyes, a white tooth and soft edges, on white."""
    large = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(large)
    pen.ellipse((40, 40, 216, 216), fill=(250, 200, 60))
    pen.ellipse((90, 90, 114, 114), fill="black")
    pen.ellipse((142, 90, 166, 114), fill="black")
    pen.rectangle((110, 160, 146, 180), fill="white")
    return large.resize((64, 64), Image.Resampling.LANCZOS)


def sample(**captions: str) -> Sample:
    return Sample("0001", drawing(), {kind: (text,) for kind, text in captions.items()}, {"style": "noto"})


def drawn_colour(varied: Sample) -> str:
    """The colour that the short caption names."""
    [name] = [name for name in COLOURS if f" {name} " in f" {varied.captions['short'][0]} "]
    return name


def test_every_caption_names_the_colour_that_is_shown() -> None:
    seen = set()
    for seed in range(60):
        varied = recolour(
            sample(short="a grinning face", long="a Noto emoji of a grinning face", alt="face, grin"),
            np.random.default_rng(seed),
        )
        name = drawn_colour(varied)
        seen.add(name)
        article = "an" if name == "orange" else "a"
        assert varied.captions == {
            "short": (f"{article} {name} grinning face",),
            "long": (f"a Noto emoji of {article} {name} grinning face",),
            "alt": (f"{name}, face, grin",),
        }
        face = np.asarray(varied.image)[40, 20].astype(float)
        distance = {other: np.abs(face - COLOURS[other]).sum() for other in COLOURS}
        assert min(distance, key=lambda other: distance[other]) == name
    assert seen == set(COLOURS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a cat", "a blue cat"),
        ("an apple", "a blue apple"),
        ("the moon", "the blue moon"),
        ("cat with wry smile", "blue cat with wry smile"),
        ("a red apple", "a blue apple"),
        ("a Black cat", "a blue cat"),
        ("a redwood tree", "a blue redwood tree"),
        ("The white flag", "The blue flag"),
        ("an orange", "a blue orange"),
        ("a blood orange", "a blue blood orange"),
        ("an orange with a leaf", "a blue orange with a leaf"),
        ("a large orange cat", "a large blue cat"),
    ],
)
def test_a_colour_is_put_before_the_thing_or_takes_the_place_of_another(before: str, after: str) -> None:
    assert in_colour(before, "blue") == after


def test_an_article_agrees_with_its_colour() -> None:
    assert in_colour("a cat", "orange") == "an orange cat"
    assert in_colour("a red apple", "orange") == "an orange apple"
    assert in_colour("an orange fish", "blue") == "a blue fish"
    assert in_colour("the white flag", "orange") == "the orange flag"


@pytest.mark.parametrize(
    "captions",
    [
        {"short": ("flag: Norway",)},
        {"short": ("a cat", "woman: dark skin tone")},
        {"short": ("a red and white flag",)},
        {"long": ("a cat sits",)},
        {},
    ],
)
def test_captions_that_would_become_untrue_leave_all_as_it_is(captions: Captions) -> None:
    one = Sample("0001", drawing(), captions, {})
    assert not recolourable(captions)
    assert recolour(one, np.random.default_rng(0)) is one


def test_long_captions_that_cannot_be_made_true_are_left_out() -> None:
    varied = recolour(sample(short="a cat", long="a sleepy tabby"), np.random.default_rng(0))
    assert varied.captions.keys() == {"short"}


def test_an_alt_of_several_colours_is_left_out_and_the_fruit_stays_one() -> None:
    varied = recolour(sample(short="a flag", alt="flag, red and white"), np.random.default_rng(0))
    assert varied.captions.keys() == {"short"}
    varied = recolour(sample(short="a tangerine", alt="fruit, orange"), np.random.default_rng(0))
    assert varied.captions["alt"] == (f"{drawn_colour(varied)}, fruit, orange",)


def test_what_else_is_known_stays() -> None:
    before = sample(short="a cat")
    varied = recolour(before, np.random.default_rng(0))
    assert (varied.key, varied.meta, varied.image.size, varied.image.mode) == ("0001", before.meta, (64, 64), "RGB")
    assert before.image.tobytes() == drawing().tobytes()


@pytest.mark.parametrize("name", COLOURS)
def test_white_stays_white_and_black_stays_black(name: str) -> None:
    before, after = np.asarray(drawing()), np.asarray(tint(drawing(), COLOURS[name]))
    assert (after[(before == 255).all(axis=2)] == 255).all()
    assert (after[(before == 0).all(axis=2)] == 0).all()


def test_a_blank_picture_can_be_tinted() -> None:
    for shade in ("white", "black"):
        blank = Image.new("RGB", (8, 8), shade)
        assert tint(blank, COLOURS["red"]).tobytes() == blank.tobytes()


def test_the_generator_decides_and_nothing_else() -> None:
    one, again = (recolour(sample(short="a cat"), np.random.default_rng(7)) for _ in range(2))
    assert one.captions == again.captions
    assert one.image.tobytes() == again.image.tobytes()
