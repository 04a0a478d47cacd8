"""The public door: what `import pinxit` offers, and the model that comes with it."""

from __future__ import annotations

import pytest

import pinxit
from pinxit.checkpoints import catalogue
from pinxit.systems import picture


def test_the_door_offers_what_it_names() -> None:
    assert all(hasattr(pinxit, name) for name in pinxit.__all__)
    assert pinxit.Picture is picture.Picture
    with pytest.raises(AttributeError, match="no attribute 'Pictures'"):
        _ = pinxit.Pictures


@pytest.mark.skipif(catalogue.DEFAULT not in catalogue.shipped(), reason="the default model is not in this checkout")
def test_the_default_model_makes_pictures() -> None:
    made = pinxit.load(catalogue.DEFAULT, device="cpu").generate("a red apple", n=2, seed=1)
    assert [one.seed for one in made] == [1, 2]
    assert all(one.image.mode == "RGB" and min(one.image.size) >= 64 for one in made)
    assert all(len(one.image.getcolors(one.image.width * one.image.height) or []) > 10 for one in made)
    alone = pinxit.load(catalogue.DEFAULT, device="cpu").generate("a red apple", n=1, seed=2)[0]
    assert alone.image.tobytes() == made[1].image.tobytes()
