from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.errors import PinxitError
from pinxit.models.dvae import DVAE, SIZES, DVAEConfig, ResidualBlock
from pinxit.nn.logit_laplace import to_pixels
from pinxit.objectives.bottlenecks import GumbelConfig, ramp
from pinxit.objectives.reconstruction import Reconstruction, ReconstructionConfig

DIRECT = DVAEConfig(size=24, codes=30, widths=(16, 32, 32), blocks=2, vector=6, gain=1 / 36)
COSINE = DVAEConfig(size=32, codes=64, widths=(32, 64), blocks=1, vector=8, cosine=True, patch=4)


@pytest.fixture(params=[DIRECT, COSINE], ids=["direct", "cosine"])
def dvae(request: pytest.FixtureRequest) -> DVAE:
    torch.manual_seed(0)
    dvae = DVAE(request.param).requires_grad_(False)
    for value in dvae.parameters():
        value.add_(0.05 * torch.randn_like(value))
    return dvae


def pictures(n: int, height: int, width: int | None = None) -> Tensor:
    return torch.rand(n, 3, height, width or height, generator=torch.Generator().manual_seed(1)) * 2 - 1


# The paper's size


def test_the_papers_size_has_the_released_number_of_parameters() -> None:
    with torch.device("meta"):
        dvae = DVAE(SIZES["paper"])
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in dvae.named_children()}
    logits = sum(p.numel() for p in dvae.quantizer.get_submodule("to_logits").parameters())
    vectors = sum(p.numel() for p in dvae.quantizer.get_submodule("vectors").parameters())
    assert counts["encoder"] + logits == 53_786_240
    assert counts["decoder"] + vectors == 43_829_766
    assert sum(p.numel() for p in dvae.parameters()) == 53_786_240 + 43_829_766


def test_the_papers_size_turns_256_pixels_into_32x32_of_8192_codes() -> None:
    config = SIZES["paper"]
    assert (config.factor, config.grid, config.codes) == (8, 32, 8192)
    with torch.device("meta"):
        dvae = DVAE(config)
        features = dvae.features(torch.empty(1, 3, 256, 256))
        logits = dvae.quantizer.logits(features)
        mean, log_scale = dvae.decode_vectors(dvae.quantizer.mix(logits))
    assert features.shape == (1, 2048, 32, 32)
    assert logits.shape == (1, 8192, 32, 32)
    assert mean.shape == log_scale.shape == (1, 3, 256, 256)


# Shapes


@pytest.mark.parametrize(("config", "factor", "grid"), [(DIRECT, 4, 6), (COSINE, 8, 4), (SIZES["small-64"], 8, 8)])
def test_factor_and_grid_are_what_comes_out(config: DVAEConfig, factor: int, grid: int) -> None:
    assert (config.factor, config.grid) == (factor, grid)
    dvae = DVAE(config).requires_grad_(False)
    ids = dvae.encode(pictures(2, config.size))
    assert ids.dtype == torch.int64
    assert ids.shape == (2, grid, grid)
    assert ids.min() >= 0
    assert ids.max() < config.codes
    drawn = dvae.decode(ids)
    assert drawn.shape == (2, 3, config.size, config.size)
    assert drawn.abs().max() <= 1


def test_other_sizes_and_shapes_pass_too(dvae: DVAE) -> None:
    factor = dvae.config.factor
    ids = dvae.encode(pictures(1, 3 * factor, 5 * factor))
    assert ids.shape == (1, 3, 5)
    assert dvae.decode(ids).shape == (1, 3, 3 * factor, 5 * factor)


# Codes


def test_decoding_ids_is_decoding_one_hot_weights(dvae: DVAE) -> None:
    ids = torch.randint(dvae.config.codes, (2, 3, 4))
    one_hot = F.one_hot(ids, dvae.config.codes).permute(0, 3, 1, 2).float()
    mean, _ = dvae.decode_vectors(dvae.quantizer.mix(one_hot))
    torch.testing.assert_close(dvae.decode(ids), to_pixels(mean))


def test_encoding_takes_the_likeliest_code_and_no_chance(dvae: DVAE) -> None:
    pixels = torch.rand(3, 3, dvae.config.size, dvae.config.size) * 2 - 1
    before, state = pixels.clone(), torch.get_rng_state()
    ids = dvae.train().encode(pixels)
    assert torch.equal(dvae.eval().encode(pixels), ids)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pixels, before)
    logits = dvae.quantizer.logits(dvae.features(pixels))
    best = logits.max(1).values
    assert torch.equal(logits.gather(1, ids[:, None])[:, 0], best)
    assert torch.equal(dvae.reconstruct(pixels), dvae.decode(ids))
    assert len(set(ids.flatten().tolist())) > 3


def test_a_picture_is_coded_the_same_alone_and_in_a_batch(dvae: DVAE) -> None:
    pixels = pictures(3, dvae.config.size)
    assert torch.equal(dvae.encode(pixels)[1:2], dvae.encode(pixels[1:2]))


def test_the_layout_in_memory_does_not_matter(dvae: DVAE) -> None:
    def mixed(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return dvae.decode_vectors(dvae.quantizer.mix(dvae.quantizer.logits(dvae.features(pixels)).softmax(1)))

    pixels = pictures(2, dvae.config.size)
    expected = mixed(pixels)
    dvae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    again = mixed(pixels.to(memory_format=torch.channels_last))
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-4)


# Beginnings


def test_convolutions_start_with_the_variance_of_their_fan_in_and_no_bias() -> None:
    torch.manual_seed(0)
    dvae = DVAE(replace(DIRECT, widths=(64, 128, 128)))
    for module in dvae.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.bias is not None
            assert not module.bias.any()
            if module.weight.numel() > 2_000:
                assert module.weight.std().item() == pytest.approx(module.weight[0].numel() ** -0.5, rel=0.1)


@pytest.mark.parametrize(("gain", "still"), [(1.0, True), (1 / 36, False)])
def test_residual_paths_start_as_nothing_only_at_gain_one(gain: float, still: bool) -> None:
    torch.manual_seed(0)
    dvae = DVAE(replace(DIRECT, gain=gain))
    blocks = [module for module in dvae.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 12
    for block in blocks:
        first, last = block.path[1], block.path[-1]
        assert isinstance(first, torch.nn.Conv2d)
        assert isinstance(last, torch.nn.Conv2d)
        x = torch.randn(1, first.in_channels, 5, 5)
        assert torch.equal(block(x), block.skip(x)) == still
        torch.nn.init.normal_(last.weight)
        torch.testing.assert_close(block(x), block.skip(x) + gain * block.path(x))


# Learning


@pytest.mark.parametrize(("cosine", "continuous", "steps", "reached"), [(True, 60, 240, 25.0), (False, 0, 200, 17.0)])
def test_it_learns_a_few_pictures_by_heart(cosine: bool, continuous: int, steps: int, reached: float) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(5)
    pixels = F.interpolate(torch.rand(4, 3, 4, 4, generator=generator) * 1.8 - 0.9, size=(32, 32))
    settings = GumbelConfig(
        kl_weight=0.05,
        kl_warmup=50,
        temperature=(1.0, 0.2),
        anneal=steps - continuous - 20,
        continuous=continuous,
    )
    whole = ReconstructionConfig(settings, distortion="logit-laplace", least_log_scale=-1.0)
    objective = Reconstruction("dvae", DVAE(replace(COSINE, cosine=cosine)), whole, pixels)
    optimizer = torch.optim.AdamW(objective.parameters())
    with torch.no_grad():
        before = float(objective.validate({"pixels": pixels}, 0)["psnr"])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = ramp(3e-3, 1e-4, step, steps)
        optimizer.zero_grad()
        objective({"pixels": pixels}, "main", step)[0].backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        after = float(objective.validate({"pixels": pixels}, steps)["psnr"])
    assert before < 14
    assert after > reached


def test_pictures_that_do_not_divide_into_codes_are_refused() -> None:
    with pytest.raises(PinxitError, match="Choose a multiple of 8"):
        replace(COSINE, size=60)
    with pytest.raises(ValueError, match="do not divide into squares of 8"):
        DVAE(COSINE).encode(torch.zeros(1, 3, 32, 44))
