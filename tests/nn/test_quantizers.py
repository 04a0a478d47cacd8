import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from pinxit.nn.quantizers import CosineCodes, DirectCodes, gumbel_softmax, uniform_divergence, usage

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
    expected = F.cosine_similarity(directions[:, None], codes.codebook_embedding[None, :, :, None, None], dim=2)
    torch.testing.assert_close(codes.logits(features), 7.0 * expected)
    torch.testing.assert_close(codes.continuous(features), directions / directions.norm(dim=1, keepdim=True))
    codes.codebook_embedding.data.mul_(3.0)  # only directions count
    torch.testing.assert_close(codes.logits(features), 7.0 * expected)
    torch.testing.assert_close(codes.codebook.norm(dim=1), torch.ones(12))


def test_cosine_logits_stay_float32_under_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    codes, features = CosineCodes(5, 12, 4), torch.randn(2, 5, 3, 4)
    expected = codes.logits(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codes.logits(features), expected)


# k-means


CENTRES = F.normalize(torch.randn(8, 6, generator=torch.Generator().manual_seed(3)), dim=1)


def clustered(seed: int, spread: float = 0.02) -> Tensor:
    """Unit directions around eight centres, b d h w."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(8, (4, 8, 8), generator=generator)
    noise = torch.randn(4, 8, 8, 6, generator=generator)
    return F.normalize(CENTRES[which] + spread * noise, dim=3).permute(0, 3, 1, 2)


def test_codes_settle_on_the_clusters() -> None:
    torch.manual_seed(0)
    codes = CosineCodes(5, 16, 6)
    before = (CENTRES @ codes.codebook.T).max(1).values
    for step in range(150):
        codes.follow(clustered(step))
    nearest = (CENTRES @ codes.codebook.T).max(1).values
    assert before.max() < 0.97
    assert nearest.min() > 0.995


def test_a_code_moves_to_the_mean_of_what_it_serves() -> None:
    codes = CosineCodes(5, 2, 2)
    codes.codebook_embedding.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    angles = torch.tensor([0.1, 0.3, 1.5]).view(1, 1, 3)
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    codes.follow(directions, rate=1.0)
    mean = math.atan2(math.sin(0.1) + math.sin(0.3), math.cos(0.1) + math.cos(0.3))
    expected = torch.tensor([[math.cos(mean), math.sin(mean)], [math.cos(1.5), math.sin(1.5)]])
    torch.testing.assert_close(codes.codebook.detach(), expected)


def test_dead_codes_come_back_to_life() -> None:
    lost = F.normalize(-CENTRES.sum(0), dim=0)  # away from all clusters, twelve codes in one place
    held = clustered(999)
    alive, served = {}, {}
    for dead in (0.0, 0.02):
        torch.manual_seed(0)
        codes = CosineCodes(5, 16, 6)
        codes.codebook_embedding.data[4:] = lost
        codes.codebook_embedding.data[:4] = CENTRES[:4]
        for step in range(300):
            codes.follow(clustered(step), dead=dead)
        cosines, ids = torch.einsum("bdhw,kd->bkhw", held, codes.codebook).max(1)
        alive[dead], served[dead] = int((torch.bincount(ids.flatten()) > 0).sum()), cosines.mean().item()
    assert alive[0.0] <= 6
    assert alive[0.02] >= 14
    assert 1 - served[0.02] < 0.8 * (1 - served[0.0])


def test_following_takes_no_randomness_and_no_gradient() -> None:
    torch.manual_seed(0)
    a, b = CosineCodes(5, 16, 6), CosineCodes(5, 16, 6)
    b.load_state_dict(a.state_dict())
    state = torch.get_rng_state()
    for step in range(60):
        a.follow(clustered(step).requires_grad_())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    for step in range(60):
        b.follow(clustered(step))
    assert torch.equal(a.codebook_embedding, b.codebook_embedding)
    assert a.codebook_embedding.requires_grad


def test_following_is_exact_under_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    plain, mixed = CosineCodes(5, 16, 6), CosineCodes(5, 16, 6)
    mixed.load_state_dict(plain.state_dict())
    for step in range(3):
        plain.follow(clustered(step, 0.3))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed.follow(clustered(step, 0.3))
    assert torch.equal(plain.codebook_embedding, mixed.codebook_embedding)


RANK = """
import sys
import torch
from torch import distributed
from pinxit.nn.quantizers import CosineCodes

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
codes = CosineCodes(5, 16, 6)
codes.load_state_dict(torch.load(f"{folder}/codes.pt"))
torch.manual_seed(rank)
for directions in torch.load(f"{folder}/directions.pt"):
    codes.follow(directions[rank * 2 : rank * 2 + 2])
torch.save(codes.state_dict(), f"{folder}/out-{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_follow_as_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codes, directions = CosineCodes(5, 16, 6), [clustered(step, 0.2) for step in range(80)]
    torch.save(codes.state_dict(), tmp_path / "codes.pt")
    torch.save(directions, tmp_path / "directions.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in range(2)]
    for step in directions:
        codes.follow(step)
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    one, other = (torch.load(tmp_path / f"out-{rank}.pt") for rank in range(2))
    for name, value in codes.state_dict().items():
        assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one[name], value, atol=1e-5, rtol=1e-5)
