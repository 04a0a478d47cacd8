import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pinxit.data.degrade import Damage, blurred, degraded, gaussian
from pinxit.data.images import to_tensor
from pinxit.data.scenes import Scenes

PIXELS = to_tensor(Scenes(3, size=128)[2].image)


def distance(small: torch.Tensor) -> float:
    return float((small - F.avg_pool2d(PIXELS, 4)).square().mean().sqrt())


@pytest.mark.parametrize("damage", ["none", "blur", "bsr"])
def test_all_are_smaller_and_like_the_picture(damage: Damage) -> None:
    made = [degraded(PIXELS, 4, damage, np.random.default_rng(seed)) for seed in range(24)]
    assert all(small.shape == (3, 32, 32) for small in made)
    assert all(small.abs().max() <= 1 for small in made)
    apart = [distance(small) for small in made]
    assert max(apart) < {"none": 1e-6, "blur": 0.1, "bsr": 0.3}[damage]
    changed = sum(each > 1e-3 for each in apart)
    assert {"none": changed == 0, "blur": 6 <= changed <= 18, "bsr": changed == 24}[damage]


def test_the_same_numbers_give_the_same_picture() -> None:
    one, same, other = (degraded(PIXELS, 4, "bsr", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_gaussian_is_one_and_turns() -> None:
    kernel = gaussian(7, 2.0, 0.5, 0.0)
    torch.testing.assert_close(kernel.sum(), torch.tensor(1.0))
    torch.testing.assert_close(gaussian(7, 2.0, 0.5, np.pi / 2), kernel.t())
    torch.testing.assert_close(blurred(torch.full((3, 5, 5), 0.3), kernel), torch.full((3, 5, 5), 0.3))


def test_a_blur_is_that_of_its_deviation() -> None:
    point = torch.zeros(1, 25, 25)
    point[0, 12, 12] = 1
    spread = blurred(point, gaussian(25, 2.0, 2.0, 0.0))[0]
    places = torch.arange(25.0) - 12
    assert float((spread.sum(0) * places**2).sum()) == pytest.approx(4.0, rel=0.01)
