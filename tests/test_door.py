"""The public door: what `import pinxit` offers, and the model that comes with it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import pinxit
from pinxit.checkpoints import catalogue
from pinxit.systems import picture
from pinxit.systems.system import usual


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


@pytest.mark.skipif("dalle2-emoji" not in catalogue.shipped(), reason="the model is not in this checkout")
def test_the_shipped_model_for_pictures_of_pictures() -> None:
    assert usual("vary") == usual("edit") == "dalle2-emoji"
    system = pinxit.load("dalle2-emoji", "cpu")
    (apple,) = system.generate("a red apple", 1, size=(64, 64))

    red, green, blue = np.asarray(apple.image)[16:48, 16:48].reshape(-1, 3).mean(0)
    assert red > 1.3 * max(green, blue)
    assert len(system.vary(apple.image, 2, size=(64, 64))) == 2
    back = system.reconstruct(apple.image, steps=25)[0]
    assert np.abs(np.asarray(back).astype(int) - np.asarray(apple.image)).mean() < 6

    flat = np.asarray(system.upsample(Image.new("RGB", (180, 160), (60, 110, 220))).image).astype(int)
    assert np.abs(flat - (60, 110, 220)).max() < 10, "no specks, at the border neither"
