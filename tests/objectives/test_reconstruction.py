import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.errors import PinxitError
from pinxit.models.dvae import DVAE, DVAEConfig
from pinxit.models.vqvae import SIZES, VQVAE
from pinxit.nn.logit_laplace import negative_log_likelihood
from pinxit.nn.quantizers import CosineCodes, gumbel_softmax, uniform_divergence
from pinxit.nn.similarity import psnr, ssim
from pinxit.objectives.bottlenecks import Gumbel, GumbelConfig, NearestConfig, ramp
from pinxit.objectives.reconstruction import Reconstruction, ReconstructionConfig

COSINE = DVAEConfig(size=32, codes=64, widths=(32, 64), blocks=1, vector=8, cosine=True, patch=4)
DIRECT = replace(COSINE, cosine=False)
PLAIN = GumbelConfig(kl_warmup=10, anneal=20)


def pictures(n: int, size: int = 32, seed: int = 1) -> Tensor:
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9
    return F.interpolate(coarse, size=(size, size), mode="bilinear")


def objective_of(
    settings: GumbelConfig, config: DVAEConfig = DIRECT, examples: int = 0, *, sharp: float = 0.0, floor: float = -8.0
) -> Reconstruction:
    """`sharp` spreads the logits, so that there is a KL to speak of."""
    torch.manual_seed(4)
    dvae = DVAE(config)
    if sharp:
        dvae.quantizer.get_parameter("to_logits.weight").data.mul_(sharp)
    whole = ReconstructionConfig(settings, distortion="logit-laplace", least_log_scale=floor)
    return Reconstruction("dvae", dvae, whole, pictures(examples, config.size, seed=3))


# Ramps


def test_a_ramp_is_half_a_cosine() -> None:
    assert ramp(2.0, -4.0, 0, 8) == 2.0
    assert ramp(2.0, -4.0, 8, 8) == pytest.approx(-4.0)
    assert ramp(2.0, -4.0, 4, 8) == pytest.approx(-1.0)
    assert ramp(0.0, 1.0, 2, 8) == pytest.approx((1 - math.sqrt(0.5)) / 2)
    assert ramp(0.0, 1.0, -3, 8) == 0.0
    assert ramp(0.0, 1.0, 24, 8) == pytest.approx(1.0)
    assert ramp(0.0, 1.0, 0, 0) == pytest.approx(1.0)


def test_the_papers_schedules_are_the_defaults() -> None:
    c = GumbelConfig()
    assert (c.kl_weight, c.kl_warmup, c.temperature, c.anneal) == (6.6, 5_000, (1.0, 1 / 16), 150_000)
    assert c.continuous == 0


@pytest.mark.parametrize(
    ("step", "temperature"), [(0, 1.0), (10, (1 + 1 / 16) / 2), (20, 1 / 16), (500, 1 / 16), (5, None)]
)
def test_the_temperature_falls_along_one(step: int, temperature: float | None) -> None:
    _, numbers = objective_of(PLAIN)({"pixels": pictures(2)}, "main", step)
    expected = temperature or 1 / 16 + (15 / 16) * (1 + math.cos(math.pi / 4)) / 2
    assert numbers["temperature"] == pytest.approx(expected)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.5), (10, 1.0), (300, 1.0)])
def test_the_weight_of_the_kl_rises_along_one(step: int, share: float) -> None:
    objective = objective_of(replace(PLAIN, kl_weight=6.6), sharp=10)
    loss, numbers = objective({"pixels": pictures(2)}, "main", step)
    expected = share * 6.6 / 192 * numbers["kl"]
    assert numbers["kl"] > 0.5
    torch.testing.assert_close(loss - numbers["distortion"], expected)


def test_ramps_of_no_steps_are_over_at_the_first() -> None:
    objective = objective_of(replace(PLAIN, kl_warmup=0, anneal=0), sharp=10)
    loss, numbers = objective({"pixels": pictures(2)}, "main", 0)
    assert numbers["temperature"] == pytest.approx(1 / 16)
    torch.testing.assert_close(loss - numbers["distortion"], 6.6 / 192 * numbers["kl"])


# The ELBO


def test_the_loss_is_the_negative_elbo_over_the_number_of_values() -> None:
    objective, pixels = objective_of(PLAIN, sharp=10), pictures(3)
    torch.manual_seed(7)
    loss, numbers = objective({"pixels": pixels}, "main", 20)

    torch.manual_seed(7)
    dvae = objective.network
    assert isinstance(dvae, DVAE)
    logits = dvae.quantizer.logits(dvae.features(pixels))
    mean, log_scale = dvae.decode_vectors(dvae.quantizer.mix(gumbel_softmax(logits, 1 / 16)))
    reconstruction = negative_log_likelihood(pixels, mean, log_scale).sum((1, 2, 3))
    divergence = uniform_divergence(logits).sum((1, 2))
    elbo = -reconstruction - 6.6 * divergence
    torch.testing.assert_close(loss, -(elbo / (3 * 32 * 32)).mean())
    torch.testing.assert_close(numbers["kl"], divergence.mean() / 16)  # nats a place
    torch.testing.assert_close(numbers["distortion"], reconstruction.mean() / (3 * 32 * 32))


def test_at_256_pixels_and_32x32_codes_the_mean_kl_weighs_beta_over_192() -> None:
    config = DVAEConfig(size=256, codes=16, widths=(4, 4, 4, 4), blocks=1, vector=4)
    objective = objective_of(replace(PLAIN, kl_weight=6.6), config, sharp=10)
    loss, numbers = objective({"pixels": pictures(1, 256)}, "main", 10)
    assert config.grid == 32
    torch.testing.assert_close(loss - numbers["distortion"], 6.6 / 192 * numbers["kl"])


@pytest.mark.parametrize(("size", "ratio"), [(32, 1 / 192), (64, 1 / 192)])
def test_the_gradient_of_the_kl_weighs_as_much(size: int, ratio: float) -> None:
    pixels = pictures(2, size)
    gradients = []
    for beta in (0.0, 100.0):
        objective = objective_of(replace(PLAIN, kl_weight=beta), replace(DIRECT, size=size), sharp=10)
        torch.manual_seed(1)
        objective({"pixels": pixels}, "main", 10)[0].backward()
        gradients.append(objective.network.get_parameter("quantizer.to_logits.weight").grad)
    objective = objective_of(PLAIN, replace(DIRECT, size=size), sharp=10)
    dvae = objective.network
    assert isinstance(dvae, DVAE)
    uniform_divergence(dvae.quantizer.logits(dvae.features(pixels))).mean().backward()  # type: ignore[no-untyped-call]
    expected = dvae.get_parameter("quantizer.to_logits.weight").grad
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert expected is not None
    torch.testing.assert_close(gradients[1] - gradients[0], 100 * ratio * expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 50.0])
def test_a_heavy_kl_drives_the_codes_to_the_uniform_prior_and_none_does_not(beta: float) -> None:
    objective = objective_of(replace(PLAIN, kl_weight=beta, temperature=(1.0, 1.0)), sharp=5)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    kl = []
    for step in range(60):
        optimizer.zero_grad()
        loss, numbers = objective({"pixels": pictures(4)}, "main", step)
        loss.backward()
        optimizer.step()
        kl.append(float(numbers["kl"].detach()))
    assert kl[0] > 0.5
    assert (kl[-1] < 0.05) if beta else (kl[-1] > max(kl[0], 1.0))


def test_the_scale_has_a_floor() -> None:
    objective, pixels = objective_of(PLAIN, floor=-0.5), pictures(2)
    dvae = objective.network
    assert isinstance(dvae, DVAE)
    bias = dvae.decoder[-1].bias
    assert isinstance(bias, Tensor)
    bias.data[len(bias) // 2 :] = -6.0  # the second half of the channels is the log scale
    torch.manual_seed(7)
    _, numbers = objective({"pixels": pixels}, "main", 20)
    torch.manual_seed(7)
    logits = dvae.quantizer.logits(dvae.features(pixels))
    mean, log_scale = dvae.decode_vectors(dvae.quantizer.mix(gumbel_softmax(logits, 1 / 16)))
    assert log_scale.max() < -0.5
    expected = negative_log_likelihood(pixels, mean, torch.full_like(log_scale, -0.5)).mean()
    torch.testing.assert_close(numbers["distortion"], expected)


@pytest.mark.parametrize("config", [DIRECT, COSINE], ids=["direct", "cosine"])
def test_noise_comes_from_the_global_generator_alone(config: DVAEConfig) -> None:
    objective, batch = objective_of(PLAIN, config), {"pixels": pictures(2)}
    losses = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(float(objective(batch, "main", 3)[0].detach()))
    assert losses[0] == losses[1] != losses[2]


def test_it_is_float32_under_bfloat16_autocast() -> None:
    objective, batch = objective_of(PLAIN, COSINE), {"pixels": pictures(4)}
    torch.manual_seed(1)
    expected, _ = objective(batch, "main", 0)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, numbers = objective(batch, "main", 0)
    assert loss.dtype == numbers["kl"].dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=0.02, rtol=0.0)


# First directions, then codes


def test_codes_are_drawn_only_after_the_continuous_steps() -> None:
    objective = objective_of(replace(PLAIN, continuous=3), COSINE)
    codes = objective.network.get_submodule("quantizer")
    assert isinstance(codes, CosineCodes)
    for step in range(5):
        before = codes.codebook.embedding.detach().clone()
        objective.zero_grad()
        loss, numbers = objective({"pixels": pictures(4, seed=step)}, "main", step)
        loss.backward()
        drawn = step >= 3
        assert ("kl" in numbers) == ("temperature" in numbers) == drawn
        following = objective.bottleneck.get_submodule("following.quantizer")
        assert int(following.get_buffer("updates")) == min(
            step + 1, 3
        )  # k-means moves the codebook before, gradients after
        assert torch.equal(codes.codebook.embedding, before) == drawn
        grads = {name: value.grad for name, value in objective.named_parameters()}
        assert all(grad is not None for grad in grads.values())  # processes wait for one of every parameter
        moved = grads["network.quantizer.codebook.embedding"]
        assert moved is not None
        assert moved.any() == drawn
    assert ramp(1.0, 1 / 16, 1, 20) == pytest.approx(float(numbers["temperature"]))  # ramps begin with the codes


def test_the_continuous_steps_bring_codebook_and_directions_together() -> None:
    torch.manual_seed(0)
    objective = objective_of(replace(PLAIN, continuous=1_000), COSINE)
    dvae, batch = objective.network, {"pixels": pictures(8)}
    assert isinstance(dvae, DVAE)
    codes = dvae.quantizer
    assert isinstance(codes, CosineCodes)

    def served() -> float:
        with torch.no_grad():
            directions = codes.continuous(dvae.features(batch["pixels"]))
            return float(torch.einsum("bdhw,kd->bkhw", directions, codes.codebook.vectors).max(1).values.mean())

    before = served()
    for step in range(40):
        objective(batch, "main", step)
    assert before < 0.9
    assert served() > 0.97


def test_directions_carry_noise_of_the_size_set() -> None:
    features, found = torch.randn(8, 64, 16, 16), []
    for noise in (0.0, 0.1):
        objective = objective_of(replace(PLAIN, continuous=1, noise=noise), COSINE)
        codes = objective.network.get_submodule("quantizer")
        assert isinstance(codes, CosineCodes)
        clean = codes.continuous(features)
        bottleneck = objective.bottleneck
        assert isinstance(bottleneck, Gumbel)
        noisy = bottleneck("quantizer", codes, features, 0, 1).vectors
        torch.testing.assert_close(noisy.norm(dim=1), torch.ones(8, 16, 16))
        found.append((noisy - clean).norm(dim=1).mean().item())
    assert found[0] < 1e-6
    assert found[1] == pytest.approx(0.1 * (7 / 8) ** 0.5, rel=0.1)  # of eight dimensions, one is length


def test_direct_codes_have_no_continuous_phase() -> None:
    with pytest.raises(PinxitError, match=r"Only cosine codes .* 5 steps .* objective\.bottleneck\.continuous=0"):
        objective_of(replace(PLAIN, continuous=5), DIRECT)


# What it tells


def test_validation_tells_of_hard_codes() -> None:
    objective, pixels = objective_of(PLAIN, sharp=10), pictures(5)
    with torch.no_grad():
        numbers = objective.validate({"pixels": pixels}, 0)
        numbers = {**numbers, **objective.conclude(lambda counts: [counts], None)}
        dvae = objective.network
        assert isinstance(dvae, DVAE)
        ids = dvae.encode(pixels)
        drawn = dvae.decode(ids)
    assert float(numbers["psnr"]) == pytest.approx(float(psnr(drawn, pixels).mean()))
    assert float(numbers["ssim"]) == pytest.approx(float(ssim(drawn, pixels).mean()))
    listed = ids.flatten().tolist()
    assert 3 < len(set(listed)) < 64
    assert numbers["codes_used"] == pytest.approx(len(set(listed)) / 64)
    shares = [listed.count(code) / len(listed) for code in set(listed)]
    entropy = -sum(share * math.log(share) for share in shares)
    assert numbers["code_perplexity"] == pytest.approx(math.exp(entropy) / 64)


def test_the_use_of_codes_is_told_over_all_batches_and_processes() -> None:
    """Few pictures use few codes, so that a mean over batches would tell too little."""
    pixels = pictures(6)
    objective = objective_of(PLAIN, sharp=10)
    objective.validate({"pixels": pixels}, 0)
    whole = objective.conclude(lambda counts: [counts], None)

    first, second = objective_of(PLAIN, sharp=10), objective_of(PLAIN, sharp=10)
    for picture in pixels[:2]:
        first.validate({"pixels": picture[None]}, 0)
    second.validate({"pixels": pixels[2:]}, 0)
    assert first.conclude(lambda counts: [counts, second.counts], None) == whole
    first.validate({"pixels": pixels}, 0)
    assert first.conclude(lambda counts: [counts], None) == whole, "every validation counts afresh"


@pytest.mark.parametrize(("examples", "columns", "rows"), [(16, 8, 4), (8, 8, 2), (3, 3, 2), (1, 1, 2), (12, 8, 2)])
def test_the_preview_shows_examples_above_their_reconstructions(examples: int, columns: int, rows: int) -> None:
    objective = objective_of(PLAIN, COSINE, examples)
    with torch.no_grad():
        picture = objective.preview()
    assert picture is not None
    assert picture.size == (columns * 34 - 2, rows * 34 - 2)
    # The first example, and its reconstruction right below.
    dvae = objective.network
    assert isinstance(dvae, DVAE)
    with torch.no_grad():
        drawn = dvae.reconstruct(objective.examples[:1])
    for place, expected in ((0, objective.examples[0]), (34, drawn[0])):
        for x, y in ((0, 0), (31, 31), (7, 20)):
            value = (expected[:, y, x] + 1) * 127.5
            assert picture.getpixel((x, place + y)) == pytest.approx(tuple(value.tolist()), abs=0.6)


def test_without_examples_there_is_no_preview() -> None:
    assert objective_of(PLAIN, COSINE).preview() is None


def test_the_checkpoint_holds_the_network_and_no_examples() -> None:
    objective = objective_of(PLAIN, COSINE, 4)
    assert list(objective.networks()) == ["dvae"]
    assert "examples" not in objective.state_dict()


# The learnt distance


class Darker(nn.Module):
    """Any distance: how much darker the second is."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).mean((1, 2, 3))


def test_the_learnt_distance_counts_from_its_start() -> None:
    torch.manual_seed(4)
    config = ReconstructionConfig(NearestConfig(), distortion="l1", perceptual=0.5, perceptual_start=3)
    objective = Reconstruction("vqvae", VQVAE(SIZES["tiny-32"]), config, torch.empty(0), Darker())
    pixels = pictures(2)
    for step, counts in ((2, False), (3, True)):
        torch.manual_seed(0)
        made = objective.reconstruct(pixels, step)
        plain = (made.pixels - pixels).abs().mean()
        expected = plain + 0.5 * (made.pixels - pixels).mean() if counts else plain
        assert ("perceptual" in made.numbers) == counts
        torch.testing.assert_close(made.distortion, expected)
    assert "perceptual" in objective.validate({"pixels": pixels}, 0)
