"""A generator at work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pinxit.models.gan import SIZES, Generator
from pinxit.systems.conditions import LabelCondition
from pinxit.systems.gan import GANSystem


@pytest.fixture
def system() -> GANSystem:
    torch.manual_seed(0)
    return GANSystem(Generator(replace(SIZES["tiny-32"], classes=2)), LabelCondition(("one", "two")))


def drawn(system: GANSystem, prompt: str, n: int, **settings: float) -> list[bytes]:
    pictures = system.generate(prompt, n, seed=4, **settings)  # type: ignore[arg-type]
    return [np.asarray(one.image).tobytes() for one in pictures]


def test_a_picture_is_its_seeds_and_its_prompts(system: GANSystem) -> None:
    three = drawn(system, "one", 3)
    assert len(set(three)) == 3
    assert drawn(system, "one", 1) == three[:1]
    assert drawn(system, "two", 1) != three[:1]


def test_temperature_scales_the_noise(system: GANSystem) -> None:
    assert len(set(drawn(system, "one", 3, temperature=0.0))) == 1
    assert drawn(system, "one", 1, temperature=0.5) != drawn(system, "one", 1)
