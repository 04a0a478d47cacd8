"""Pictures as a critic sees them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pinxit.objectives import augmentation
from pinxit.objectives.augmentation import augmented


@pytest.fixture
def pixels() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(64, 3, 16, 24) * 2 - 1


def test_pictures_are_moved_by_up_to_an_eighth_and_repeat_their_border(pixels: Tensor) -> None:
    moved = augmentation._moved(pixels)
    found = set()
    for picture, original in zip(moved, pixels, strict=True):
        wide = torch.nn.functional.pad(original[None], (3, 3, 2, 2), "replicate")[0]
        places = [
            (down, right)
            for down in range(5)
            for right in range(7)
            if torch.equal(picture, wide[:, down : down + 16, right : right + 24])
        ]
        assert len(places) == 1
        found |= set(places)
    assert {down for down, _ in found} == set(range(5)), "each way and none"
    assert {right for _, right in found} == set(range(7))


def test_a_square_of_half_the_side_is_hidden(pixels: Tensor) -> None:
    hidden = (augmentation._hidden(pixels) == 0).all(1).float().sum((1, 2))
    assert float(hidden.max()) == 8 * 12
    assert float(hidden.min()) < 8 * 12, "squares may lie partly outside"


def test_gradients_and_theirs_are_those_of_what_is_seen(pixels: Tensor) -> None:
    def seen(leaf: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return augmented(leaf)

    few = pixels[:2, :, :8, :8].double().requires_grad_()
    assert torch.autograd.gradcheck(seen, few)
    assert torch.autograd.gradgradcheck(seen, few)
