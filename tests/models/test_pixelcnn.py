from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pinxit.errors import PinxitError
from pinxit.models.pixelcnn import SIZES, PixelCNN, PixelCNNConfig, PixelContinuation
from pinxit.tokens.sampler import Choice, guide, sample, uniforms

ONE = PixelCNNConfig(
    condition_vocabulary=20, condition_length=3, image_vocabulary=17, grids=(6,), width=16, depth=3, kernel=3
)
TWO = replace(ONE, grids=(3, 6))


def network_of(config: PixelCNNConfig) -> PixelCNN:
    """With weights so large that every code matters."""
    torch.manual_seed(0)
    network = PixelCNN(config).eval().requires_grad_(False)
    for value in network.parameters():
        value.mul_(2)
    return network


def conditions(rows: int) -> Tensor:
    return torch.randint(23, (rows, 3), generator=torch.Generator().manual_seed(1))


def codes(rows: int, config: PixelCNNConfig) -> Tensor:
    return torch.randint(17, (rows, config.image_length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("config", [ONE, TWO])
def test_a_code_is_told_from_those_before_it(config: PixelCNNConfig) -> None:
    network, condition, image = network_of(config).double(), conditions(1), codes(1, config)
    logits = network(condition, image)[1]
    assert logits.shape == (1, config.image_length, 17)
    for changed in range(config.image_length):
        other = image.clone()
        other[0, changed] = (other[0, changed] + 1) % 17
        moved = (network(condition, other)[1] != logits).any(2)[0]
        assert not moved[: changed + 1].any()
        fine = changed - (config.image_length - 36)
        if fine < 0:  # a code of the coarse grid, which all of its neighbours in the fine one are told
            assert moved[9:].any()
        else:
            right, below = fine % 6 < 5, fine < 30
            assert not right or moved[changed + 1]
            assert not below or moved[changed + 6]


def test_there_is_no_blind_spot() -> None:
    """One masked convolution after the other would never see what lies right above (section 2.1)."""
    network, condition = network_of(ONE).double(), conditions(1)
    image = codes(1, ONE)
    place = 4 * 6 + 2
    logits = network(condition, image)[1][0, place]
    seen = set()
    for other in range(place):
        changed = image.clone()
        changed[0, other] = (changed[0, other] + 1) % 17
        if (network(condition, changed)[1][0, place] != logits).any():
            seen.add((other // 6, other % 6))
    assert {(r, c) for r in (2, 3) for c in range(6) if abs(c - 2) <= 4 - r} <= seen
    assert (3, 5) in seen


@pytest.mark.parametrize("config", [ONE, TWO])
def test_with_a_cache_logits_are_the_same(config: PixelCNNConfig) -> None:
    network, condition, image = network_of(config), conditions(2), codes(2, config)
    whole = network(condition, image)[1]
    cached, uncached = (PixelContinuation(network, condition, cached=cached) for cached in (True, False))
    for place in range(config.image_length):
        torch.testing.assert_close(cached(image[:, :place]), whole[:, place], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(uncached(image[:, :place]), whole[:, place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [ONE, TWO])
def test_drawing_with_known_codes_and_guidance_is_the_same_with_a_cache(config: PixelCNNConfig) -> None:
    network, image = network_of(config), codes(2, config)
    both = torch.cat([conditions(2), network.no_condition(2)])
    known = torch.arange(config.image_length) % 5 < 3
    drawn = [
        sample(
            guide(PixelContinuation(network, both, cached=cached), 2.0),
            uniforms([3, 4], config.image_length),
            Choice(0.9),
            given=image,
            known=known,
        )
        for cached in (True, False)
    ]
    assert torch.equal(*drawn)
    assert torch.equal(drawn[0][:, known], image[:, known])


@pytest.mark.parametrize("config", [ONE, TWO])
def test_the_condition_matters_and_every_parameter_learns(config: PixelCNNConfig) -> None:
    torch.manual_seed(0)
    network, image = PixelCNN(config), codes(4, config)
    logits = network(conditions(4), image)[1]
    assert not torch.equal(logits, network(network.no_condition(4), image)[1])
    logits.square().sum().backward()
    still = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []


def test_sizes_can_be_built_and_impossible_ones_are_told() -> None:
    for config in SIZES.values():
        with torch.device("meta"):
            PixelCNN(config)
    assert SIZES["small-64"].shape == (8, 8)
    assert SIZES["small-64-2"].shape == (320,)
    with pytest.raises(PinxitError, match=r"grids=\[8, 12\]: give at least one side, and after each twice as many"):
        replace(ONE, grids=(8, 12))
    with pytest.raises(PinxitError, match="kernel=4: give an odd number"):
        replace(ONE, kernel=4)
