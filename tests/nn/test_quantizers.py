import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from pinxit.nn.quantizers import (
    Codebook,
    CosineCodes,
    DirectCodes,
    Following,
    gumbel_softmax,
    uniform_divergence,
    usage,
)

# Gumbel-softmax


def test_relaxed_samples_are_weights() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, 4)
    for temperature in (4.0, 1.0, 1 / 16):
        y = gumbel_softmax(logits, temperature)
        assert y.shape == logits.shape
        torch.testing.assert_close(y.sum(1), torch.ones(2, 3, 4))
        assert (y >= 0).all()
    torch.testing.assert_close(gumbel_softmax(logits, 1.0, dim=3).sum(3), torch.ones(2, 5, 3))


def test_their_largest_is_distributed_as_the_softmax() -> None:
    torch.manual_seed(0)
    logits, n = torch.tensor([2.0, 0.0, 1.0, -1.0, -30.0]), 20_000
    for temperature in (1.0, 0.1):
        counts = torch.bincount(gumbel_softmax(logits.expand(n, 5), temperature).argmax(1), minlength=5)
        expected = n * logits.softmax(0)
        assert counts[4] == 0
        assert ((counts - expected) ** 2 / expected)[:4].sum() < 16.3  # chi-square, 3 degrees, p = 0.001


def test_the_relaxation_is_the_papers_density() -> None:
    # Two categories: the logistic of (l0 - l1 + logistic noise) / t, whose median and quartiles are known.
    torch.manual_seed(0)
    y = gumbel_softmax(torch.tensor([0.8, 0.3]).expand(40_000, 2), 0.5)[:, 0]
    for p in (0.25, 0.5, 0.75):
        expected = 1 / (1 + math.exp(-(0.5 + math.log(p / (1 - p))) / 0.5))
        assert y.quantile(p).item() == pytest.approx(expected, abs=0.01)


def test_low_temperature_is_one_hot() -> None:
    torch.manual_seed(0)
    y = gumbel_softmax(torch.randn(100, 6), 1e-3)
    assert (y.max(1).values > 0.999).float().mean() > 0.95
    torch.manual_seed(0)
    warm = gumbel_softmax(torch.randn(100, 6), 1.0)
    assert (warm.max(1).values > 0.999).float().mean() < 0.05
    torch.testing.assert_close(warm.argmax(1), y.argmax(1))  # the same noise, the same choice


def test_half_precision_is_relaxed_in_float32_and_gradients_flow() -> None:
    logits = torch.randn(4, 3).bfloat16().requires_grad_()
    y = gumbel_softmax(logits, 0.5)
    assert y.dtype == torch.float32
    y[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.any()


# The KL and the use of the codebook


def test_divergence_from_the_uniform() -> None:
    logits = torch.randn(2, 7, 3, 4, generator=torch.Generator().manual_seed(0)) * 3
    ours = uniform_divergence(logits)
    posterior, uniform = Categorical(logits=logits.movedim(1, -1)), Categorical(logits=torch.zeros(7))
    torch.testing.assert_close(ours, kl_divergence(posterior, uniform))
    torch.testing.assert_close(uniform_divergence(logits.movedim(1, 3), dim=3), ours)


def test_divergence_at_its_ends() -> None:
    assert uniform_divergence(torch.full((1, 8), 3.0)).item() == pytest.approx(0.0, abs=1e-6)
    certain = torch.tensor([[0.0, 200.0, 0.0, 0.0]])
    assert uniform_divergence(certain).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("counts", "share", "perplexity"),
    [
        ([5, 5, 5, 5], 1.0, 1.0),
        ([9, 0, 0, 0], 0.25, 0.25),
        ([3, 3, 0, 0], 0.5, 0.5),
        ([2, 1, 1, 0], 0.75, math.exp(0.5 * math.log(2) + 0.5 * math.log(4)) / 4),
    ],
)
def test_usage_of_known_counts(counts: list[int], share: float, perplexity: float) -> None:
    assert usage(torch.tensor(counts)) == pytest.approx((share, perplexity))


# Codes


@pytest.fixture(params=["direct", "cosine"])
def codes(request: pytest.FixtureRequest) -> DirectCodes | CosineCodes:
    torch.manual_seed(0)
    return DirectCodes(5, 12, 4) if request.param == "direct" else CosineCodes(5, 12, 4)


def test_looking_up_is_mixing_one_hot(codes: DirectCodes | CosineCodes) -> None:
    ids = torch.randint(12, (2, 3, 4))
    one_hot = F.one_hot(ids, 12).permute(0, 3, 1, 2).float()
    vectors = codes.look_up(ids)
    assert vectors.shape == (2, 4, 3, 4)
    torch.testing.assert_close(vectors, codes.mix(one_hot))


def test_every_feature_has_logits_for_all_codes(codes: DirectCodes | CosineCodes) -> None:
    assert codes.logits(torch.randn(2, 5, 3, 4)).shape == (2, 12, 3, 4)


def test_cosine_logits_are_scaled_cosines() -> None:
    torch.manual_seed(0)
    codes = CosineCodes(5, 12, 4, scale=7.0)
    features = torch.randn(2, 5, 3, 3)
    directions = codes.to_direction(features)
    expected = F.cosine_similarity(directions[:, None], codes.codebook.embedding[None, :, :, None, None], dim=2)
    torch.testing.assert_close(codes.logits(features), 7.0 * expected)
    torch.testing.assert_close(codes.continuous(features), directions / directions.norm(dim=1, keepdim=True))
    codes.codebook.embedding.data.mul_(3.0)  # only directions count
    torch.testing.assert_close(codes.logits(features), 7.0 * expected)
    torch.testing.assert_close(codes.codebook.vectors.norm(dim=1), torch.ones(12))


def test_cosine_logits_stay_float32_under_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    codes, features = CosineCodes(5, 12, 4), torch.randn(2, 5, 3, 4)
    expected = codes.logits(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codes.logits(features), expected)


# The nearest vector


@pytest.mark.parametrize("cosine", [False, True])
def test_the_nearest_vector_is_the_nearest(cosine: bool) -> None:
    torch.manual_seed(0)
    codebook, features = Codebook(20, 4, cosine=cosine), torch.randn(2, 4, 3, 5)
    codebook.embedding.data.mul_(10)
    rows = features.permute(0, 2, 3, 1).reshape(-1, 4)
    if cosine:
        expected = (F.normalize(rows) @ F.normalize(codebook.embedding).t()).argmax(1)
    else:
        expected = torch.cdist(rows, codebook.embedding).argmin(1)
    ids = codebook.nearest(features)
    assert ids.tolist() == expected.view(2, 3, 5).tolist()
    vectors = codebook.look_up(ids)
    assert vectors.shape == features.shape
    torch.testing.assert_close(vectors[1, :, 2, 4], codebook.vectors[ids[1, 2, 4]])
    distances, _ = codebook.nearest_to(codebook.prepare(features).permute(0, 2, 3, 1).flatten(0, 2))
    torch.testing.assert_close(distances, (codebook.prepare(features) - vectors).square().sum(1).flatten())


def test_the_nearest_vector_is_the_same_under_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    codebook, features = Codebook(400, 8), torch.randn(2, 8, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codebook.nearest(features), codebook.nearest(features.clone()))
        mixed = codebook.nearest(features)
    assert torch.equal(mixed, codebook.nearest(features))


# k-means


CENTRES = F.normalize(torch.randn(8, 6, generator=torch.Generator().manual_seed(3)), dim=1)


def clustered(seed: int, spread: float = 0.02) -> Tensor:
    """Features around eight centres of length one, b d h w."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(8, (4, 8, 8), generator=generator)
    noise = torch.randn(4, 8, 8, 6, generator=generator)
    return (CENTRES[which] + spread * noise).permute(0, 3, 1, 2)


def followers(
    *, cosine: bool = True, decay: float = 0.9, dead: float = 0.02, codes: int = 16
) -> tuple[Codebook, Following]:
    torch.manual_seed(0)
    return Codebook(codes, 6, cosine=cosine), Following(codes, 6, decay=decay, dead=dead)


@pytest.mark.parametrize("cosine", [False, True])
def test_the_first_step_places_the_codes_on_the_clusters(cosine: bool) -> None:
    codebook, following = followers(cosine=cosine, codes=40)
    assert torch.cdist(CENTRES, codebook.vectors).min(1).values.max() > 0.3
    following.update(codebook, clustered(0))
    assert torch.cdist(CENTRES, codebook.vectors).min(1).values.max() < 0.05


@pytest.mark.parametrize("cosine", [False, True])
def test_codes_follow_clusters_that_move(cosine: bool) -> None:
    codebook, following = followers(cosine=cosine)
    for step in range(60):
        following.update(codebook, clustered(step))
    away = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).Q
    for step in range(120):
        turned = torch.einsum("bdhw,de->behw", clustered(step), away)
        following.update(codebook, turned)
    assert torch.cdist(CENTRES @ away, codebook.vectors).min(1).values.max() < 0.1


def test_a_vector_is_the_mean_of_what_it_served_with_falling_weights() -> None:
    codebook, following = Codebook(2, 2), Following(2, 2, decay=0.75, dead=0.0)
    first = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    following.update(codebook, first.t().reshape(1, 2, 1, 3))
    low, high = codebook.vectors.detach()[codebook.vectors[:, 1].argsort()]
    torch.testing.assert_close(low, torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(high, torch.tensor([9.0, 9.0]))
    following.update(codebook, torch.tensor([[2.0, 0.0], [9.0, 11.0]]).t().reshape(1, 2, 1, 2))
    low, high = codebook.vectors.detach()[codebook.vectors[:, 1].argsort()]
    torch.testing.assert_close(low[0], torch.tensor((0.75 * 1 + 0.25 * 2) / (0.75 * 2 + 0.25 * 1)))
    torch.testing.assert_close(high[1], torch.tensor(0.75 * 9 + 0.25 * 11))


def test_dead_codes_come_back_to_life() -> None:
    lost = F.normalize(-CENTRES.sum(0), dim=0)  # away from all clusters, twelve codes in one place
    held = clustered(999)
    alive, served = {}, {}
    for dead in (0.0, 0.02):
        codebook, following = followers(dead=dead)
        following.update(codebook, clustered(998))
        codebook.embedding.data[4:] = lost
        codebook.embedding.data[:4] = CENTRES[:4]
        following.sums.copy_(codebook.embedding.data * following.counts[:, None])
        for step in range(300):
            following.update(codebook, clustered(step))
        distances, ids = codebook.nearest_to(codebook.prepare(held).permute(0, 2, 3, 1).flatten(0, 2))
        alive[dead], served[dead] = int((torch.bincount(ids) > 0).sum()), distances.mean().item()
    assert alive[0.0] <= 6
    assert alive[0.02] >= 14
    assert served[0.02] < 0.8 * served[0.0]


def test_codes_that_learn_by_gradient_are_placed_and_restarted_but_not_moved() -> None:
    codebook, following = followers(cosine=False, codes=8)
    following.update(codebook, clustered(0), move=False)
    placed = codebook.embedding.detach().clone()
    assert torch.cdist(CENTRES, placed).min(1).values.median() < 0.05
    for step in range(20):
        following.update(codebook, clustered(step) + 0.05, move=False)
    unmoved = (codebook.embedding == placed).all(1)
    assert unmoved.sum() >= 6
    codebook.embedding.data[3] = 50.0
    for step in range(60):
        following.update(codebook, clustered(step), move=False)
    assert codebook.embedding[3].norm() < 2


def test_following_takes_no_randomness_and_no_gradient() -> None:
    (a, following_a), (b, following_b) = followers(), followers()
    state = torch.get_rng_state()
    for step in range(60):
        following_a.update(a, clustered(step).requires_grad_())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    for step in range(60):
        following_b.update(b, clustered(step))
    assert torch.equal(a.embedding, b.embedding)
    assert a.embedding.requires_grad


def test_following_is_exact_under_bfloat16_autocast() -> None:
    (plain, following_plain), (mixed, following_mixed) = followers(), followers()
    for step in range(3):
        following_plain.update(plain, clustered(step, 0.3))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            following_mixed.update(mixed, clustered(step, 0.3))
    assert torch.equal(plain.embedding, mixed.embedding)


RANK = """
import sys
import torch
from torch import distributed
from pinxit.nn.quantizers import Codebook, Following

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
codebook, following = Codebook(16, 6, cosine=True), Following(16, 6, decay=0.9, dead=0.02)
codebook.load_state_dict(torch.load(f"{folder}/codebook.pt"))
torch.manual_seed(rank)
for features in torch.load(f"{folder}/features.pt"):
    following.update(codebook, features[rank * 2 : rank * 2 + 2])
torch.save({**codebook.state_dict(), **following.state_dict()}, f"{folder}/out-{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_follow_as_one(tmp_path: Path) -> None:
    (codebook, following), features = followers(), [clustered(step, 0.2) for step in range(80)]
    torch.save(codebook.state_dict(), tmp_path / "codebook.pt")
    torch.save(features, tmp_path / "features.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in range(2)]
    for step in features:
        following.update(codebook, step)
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    one, other = (torch.load(tmp_path / f"out-{rank}.pt") for rank in range(2))
    for name, value in {**codebook.state_dict(), **following.state_dict()}.items():
        assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one[name], value, atol=1e-5, rtol=1e-5)
