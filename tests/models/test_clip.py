import math
from dataclasses import replace

import pytest
import torch

from pinxit.errors import PinxitError
from pinxit.models.clip import CLIP, SIZES

TINY = SIZES["tiny-32"]


@pytest.fixture
def clip() -> CLIP:
    torch.manual_seed(0)
    return CLIP(TINY).eval()


def framed(*rows: list[int]) -> torch.Tensor:
    ids = torch.zeros(len(rows), TINY.text.length, dtype=torch.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens) + 2] = torch.tensor([2_046, *tokens, 2_047])
    return ids


@pytest.mark.parametrize(
    ("name", "parameters"), [("vit-b32", 151_277_313), ("vit-b16", 149_620_737), ("vit-l14", 427_616_513)]
)
def test_published_sizes_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        clip = CLIP(SIZES[name])
    assert sum(p.numel() for p in clip.parameters()) == parameters


def test_small_sizes_stay_small() -> None:
    counts = {name: sum(p.numel() for p in CLIP(SIZES[name]).parameters()) for name in ("small-64", "tiny-32")}
    assert counts["small-64"] < 2_000_000
    assert counts["tiny-32"] < 400_000


def test_both_towers_give_unit_rows_in_one_space(clip: CLIP) -> None:
    images = clip.encode_image(torch.rand(3, 3, 32, 32) * 2 - 1)
    texts = clip.encode_text(framed([1, 2, 3], [4]))
    assert images.shape == (3, TINY.width)
    assert texts.shape == (2, TINY.width)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(5))


def test_forward_gives_scaled_cosines(clip: CLIP) -> None:
    pixels, ids = torch.rand(3, 3, 32, 32) * 2 - 1, framed([1, 2, 3], [4])
    expected = clip.encode_image(pixels) @ clip.encode_text(ids).T / 0.07
    torch.testing.assert_close(clip(pixels, ids), expected)


def test_the_text_is_read_at_its_end_and_what_follows_does_not_matter(clip: CLIP) -> None:
    ids = framed([1, 2, 3])
    noisy = ids.clone()
    noisy[0, 5:] = 7
    torch.testing.assert_close(clip.encode_text(noisy), clip.encode_text(ids))
    torch.testing.assert_close(clip.encode_text(ids[:, :6]), clip.encode_text(ids))
    changed = framed([1, 2, 4])
    assert not torch.allclose(clip.encode_text(changed), clip.encode_text(ids))


def test_pixel_statistics_travel_inside() -> None:
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    torch.manual_seed(0)
    clip = CLIP(replace(TINY, mean=mean, std=std)).eval()
    plain = CLIP(TINY).eval()
    plain.load_state_dict(clip.state_dict())
    fractions = torch.rand(2, 3, 32, 32)
    normalised = (fractions - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(clip.encode_image(2 * fractions - 1), plain.encode_image(normalised))
    assert {"mean", "std"}.isdisjoint(clip.state_dict())


def test_the_activation_is_the_one_configured() -> None:
    pixels = torch.rand(2, 3, 32, 32)
    outputs = []
    for activation in ("gelu", "quick_gelu"):
        torch.manual_seed(0)
        outputs.append(CLIP(replace(TINY, activation=activation)).encode_image(pixels))
    assert 1e-5 < (outputs[0] - outputs[1]).abs().max() < 0.1


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    clip = CLIP(replace(TINY, text=replace(TINY.text, width=256, depth=3, heads=4)))
    width, depth = 256, 3
    block = clip.text.transformer.blocks[0]
    for weight, std in [
        (clip.text.tokens.weight, 0.02),
        (clip.text.positions, 0.01),
        (block.get_parameter("attention.query_key_value.weight"), width**-0.5),
        (block.get_parameter("attention.out.weight"), width**-0.5 * (2 * depth) ** -0.5),
        (block.get_parameter("mlp.0.weight"), (2 * width) ** -0.5),
        (block.get_parameter("mlp.2.weight"), width**-0.5 * (2 * depth) ** -0.5),
        (clip.text.projection.weight, width**-0.5),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert clip.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_wrong_shapes_are_named(clip: CLIP) -> None:
    with pytest.raises(ValueError, match=r"expected pixels b 3 32 32, got \(1, 3, 40, 32\)"):
        clip.encode_image(torch.zeros(1, 3, 40, 32))
    with pytest.raises(PinxitError, match="30 pixels do not divide into patches of 8"):
        CLIP(replace(TINY, vision=replace(TINY.vision, size=30)))


def test_features_are_float32_under_bfloat16_autocast(clip: CLIP) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = clip.encode_image(pixels)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, clip.encode_image(pixels), atol=0.02, rtol=0.0)
