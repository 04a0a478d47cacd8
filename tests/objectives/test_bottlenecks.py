import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from pinxit.errors import PinxitError
from pinxit.models.vae import SIZES as VAES
from pinxit.models.vae import VAE
from pinxit.models.vqvae import SIZES as VQVAES
from pinxit.models.vqvae import VQVAE
from pinxit.nn.quantizers import Codebook, DirectCodes
from pinxit.objectives.bottlenecks import (
    Gaussian,
    GaussianConfig,
    Gumbel,
    GumbelConfig,
    Nearest,
    NearestConfig,
    bottleneck,
)
from pinxit.objectives.reconstruction import Reconstruction, ReconstructionConfig


def features(seed: int = 0, channels: int = 4) -> Tensor:
    return torch.randn(3, channels, 5, 5, generator=torch.Generator().manual_seed(seed)).requires_grad_()


# Gaussian


def test_latents_are_drawn_from_the_posterior_and_pay_the_kl() -> None:
    moments = features(channels=6)
    torch.manual_seed(0)
    passed = Gaussian(GaussianConfig(kl_weight=0.5), {})("posterior", None, moments, 0, 100)
    mean, log_variance = moments.chunk(2, 1)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 3)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 3)
    torch.testing.assert_close(passed.penalty, 0.5 * kl_divergence(posterior, prior).mean() / 100)
    torch.manual_seed(0)
    torch.testing.assert_close(passed.vectors, mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
    (gradient,) = torch.autograd.grad(passed.vectors.sum(), moments)
    assert gradient.chunk(2, 1)[0].eq(1).all()
    assert gradient.chunk(2, 1)[1].any()


def test_the_kl_is_warmed_up() -> None:
    passing = Gaussian(GaussianConfig(kl_weight=2.0, kl_warmup=10), {})
    z = features(channels=6).detach()
    penalties = [float(passing("posterior", None, z, step, 1).penalty) for step in (0, 5, 10, 50)]
    assert penalties[0] == 0
    assert penalties[1] == pytest.approx(penalties[2] / 2)
    assert penalties[2] == penalties[3] > 0


def test_a_vaes_loss_is_the_negative_elbo_over_the_number_of_values() -> None:
    network = VAE(VAES["tiny-32"])
    objective = Reconstruction("vae", network, ReconstructionConfig(GaussianConfig(), "gaussian"), torch.empty(0))
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.manual_seed(3)
    loss, numbers = objective({"pixels": pixels}, "main", 0)
    torch.manual_seed(3)
    moments = network.moments(pixels)
    mean, log_variance = moments.chunk(2, 1)
    latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    made = network.decoder(network.from_latents(latents))
    variance = (made - pixels).square().mean()
    likelihood = -Normal(made, variance.sqrt()).log_prob(pixels).sum()  # type: ignore[no-untyped-call]
    kl = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum()
    constant = 0.5 * (1 + math.log(2 * math.pi))
    torch.testing.assert_close(loss + constant, (likelihood + kl) / pixels.numel())
    torch.testing.assert_close(numbers["kl"], kl / mean.numel())


# Nearest


def nearest(**settings: Any) -> tuple[Nearest, Codebook]:
    torch.manual_seed(0)
    codebook = Codebook(30, 4)
    codebook.embedding.data.mul_(30)
    return Nearest(NearestConfig(**settings), {"fine": codebook}), codebook


@pytest.mark.parametrize("moved_by", ["mean", "gradient"])
def test_gradients_pass_straight_through_the_nearest_vector(moved_by: str) -> None:
    passing, codebook = nearest(moved_by=moved_by)
    passing.eval()
    z, ahead = features(), torch.randn(3, 4, 5, 5)
    passed = passing("fine", codebook, z, 0, 1)
    torch.testing.assert_close(passed.vectors, codebook.look_up(codebook.nearest(z)))
    (gradient,) = torch.autograd.grad((passed.vectors * ahead).sum(), z)
    assert torch.equal(gradient, ahead)


def test_commitment_moves_the_features_and_the_mean_moves_the_vectors() -> None:
    passing, codebook = nearest(commitment=0.25)
    passing.eval()
    z = features()
    passed = passing("fine", codebook, z, 0, 1)
    vectors = codebook.look_up(codebook.nearest(z)).detach()
    torch.testing.assert_close(passed.penalty, 0.25 * F.mse_loss(z, vectors))
    by_features, by_vectors = torch.autograd.grad(passed.penalty, [z, codebook.embedding])
    torch.testing.assert_close(by_features, 0.25 * 2 * (z - vectors) / z.numel())
    assert not by_vectors.any()  # yet there: processes wait for one of every parameter
    before = codebook.embedding.detach().clone()
    passing("fine", codebook, z, 0, 1)
    assert torch.equal(codebook.embedding, before), "validation moved the codebook"
    passing.train()("fine", codebook, z, 0, 1)
    assert not torch.equal(codebook.embedding, before)


def test_vectors_may_learn_by_gradient() -> None:
    passing, codebook = nearest(moved_by="gradient")
    passing("fine", codebook, features(1), 0, 1)  # placed by k-means
    z = features()
    passed = passing("fine", codebook, z, 0, 1)
    vectors = codebook.look_up(codebook.nearest(z))
    torch.testing.assert_close(passed.penalty, 1.25 * F.mse_loss(z, vectors))
    (gradient,) = torch.autograd.grad(passed.penalty, codebook.embedding)
    assert gradient.any()


def test_before_rounding_features_pass_as_they_are() -> None:
    passing, codebook = nearest(continuous=5)
    z = features()
    assert torch.equal(passing("fine", codebook, z, 4, 1).vectors, z)
    assert not torch.equal(passing("fine", codebook, z, 5, 1).vectors, z)


def test_a_vqvae_overfits_a_batch_with_few_codes() -> None:
    torch.manual_seed(0)
    coarse = torch.rand(8, 3, 4, 4) * 1.8 - 0.9
    pixels = F.interpolate(coarse, size=(32, 32))
    config = ReconstructionConfig(NearestConfig(decay=0.9))
    objective = Reconstruction("vqvae", VQVAE(VQVAES["tiny-32"]), config, pixels)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    with torch.no_grad():
        before = float(objective.validate({"pixels": pixels}, 0)["psnr"])
    objective.conclude(lambda counts: [counts], None)
    for step in range(150):
        optimizer.zero_grad()
        objective({"pixels": pixels}, "main", step)[0].backward()
        optimizer.step()
    with torch.no_grad():
        after = float(objective.validate({"pixels": pixels}, 0)["psnr"])
    used = objective.conclude(lambda counts: [counts], None)["codes_used"]
    assert before < 15
    assert after > 25
    assert used > 0.8


def test_two_levels_tell_of_each_codebook() -> None:
    network = VQVAE(VQVAES["tiny-32-2"])
    objective = Reconstruction("vqvae", network, ReconstructionConfig(NearestConfig()), torch.empty(0))
    _, numbers = objective({"pixels": torch.rand(2, 3, 32, 32)}, "main", 0)
    assert {"coarse_quantization_error", "fine_quantization_error"} <= numbers.keys()


# Which bottleneck fits which quantizer


def test_the_config_chooses_the_bottleneck() -> None:
    direct: dict[str, nn.Module] = {"quantizer": DirectCodes(4, 5, 6)}
    book: dict[str, nn.Module] = {"quantizer": Codebook(4, 5)}
    assert isinstance(bottleneck(GaussianConfig(), {}), Gaussian)
    assert isinstance(bottleneck(NearestConfig(), book), Nearest)
    assert isinstance(bottleneck(GumbelConfig(), direct), Gumbel)
    with pytest.raises(PinxitError, match="no vectors to be near to"):
        bottleneck(NearestConfig(), direct)
    with pytest.raises(PinxitError, match="no logits to relax"):
        bottleneck(GumbelConfig(), book)
