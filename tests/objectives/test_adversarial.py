import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.models.discriminator import Discriminator, DiscriminatorConfig
from pinxit.models.vqgan import SIZES, VQGAN
from pinxit.objectives.adversarial import AdversarialReconstruction, AdversaryConfig
from pinxit.objectives.bottlenecks import NearestConfig
from pinxit.objectives.reconstruction import Reconstruction, ReconstructionConfig

PIXELS = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def made(adversary: AdversaryConfig) -> AdversarialReconstruction:
    torch.manual_seed(0)
    config = ReconstructionConfig(NearestConfig(), distortion="l1")
    reconstruction = Reconstruction("vqgan", VQGAN(SIZES["tiny-32"]), config, torch.empty(0))
    discriminator = Discriminator(DiscriminatorConfig(width=8, layers=2))
    return AdversarialReconstruction(reconstruction, discriminator, adversary)


def test_each_turn_moves_its_own() -> None:
    objective = made(AdversaryConfig(start=0))
    names = {turn: {name for name, _ in objective.parameters_of(turn)} for turn in objective.turns}
    assert names["codec"] | names["discriminator"] == {name for name, _ in objective.named_parameters()}
    assert not names["codec"] & names["discriminator"]
    assert all(name.startswith("discriminator.") for name in names["discriminator"])
    assert list(objective.networks()) == ["vqgan"]

    objective({"pixels": PIXELS}, "codec", 0)[0].backward()
    assert all(value.grad is None for _, value in objective.parameters_of("discriminator"))
    assert all(value.requires_grad for value in objective.parameters())
    objective.zero_grad()
    objective({"pixels": PIXELS}, "discriminator", 0)[0].backward()
    assert all(value.grad is None for _, value in objective.parameters_of("codec"))
    assert any(value.grad is not None and value.grad.any() for _, value in objective.parameters_of("discriminator"))


def test_before_the_start_it_is_the_plain_reconstruction() -> None:
    objective = made(AdversaryConfig(start=3))
    plain, _ = made(AdversaryConfig(start=3)).reconstruction({"pixels": PIXELS}, "main", 2)
    loss, numbers = objective({"pixels": PIXELS}, "codec", 2)
    torch.testing.assert_close(loss, plain)
    assert "deceit" not in numbers
    nothing, _ = objective({"pixels": PIXELS}, "discriminator", 2)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not any(value.grad is not None and value.grad.any() for value in objective.discriminator.parameters())


def test_first_the_discriminator_learns_alone() -> None:
    objective = made(AdversaryConfig(start=3, alone=2))
    for step in (3, 4):
        _, numbers = objective({"pixels": PIXELS}, "codec", step)
        assert "deceit" not in numbers
        loss, _ = objective({"pixels": PIXELS}, "discriminator", step)
        assert float(loss.detach()) > 0.5
    _, numbers = objective({"pixels": PIXELS}, "codec", 5)
    assert "deceit" in numbers


def gradient(loss: Tensor, objective: AdversarialReconstruction) -> Tensor:
    return torch.autograd.grad(
        loss, objective.reconstruction.codec.decoder[-1].get_parameter("weight"), retain_graph=True
    )[0]


@pytest.mark.parametrize("weight", [0.8, 0.4])
def test_the_adversary_pulls_as_hard_as_its_weight_says(weight: float) -> None:
    objective = made(AdversaryConfig(start=0, weight=weight))
    loss, numbers = objective({"pixels": PIXELS}, "codec", 0)
    torch.manual_seed(0)
    plain = made(AdversaryConfig(start=9))
    without, _ = plain({"pixels": PIXELS}, "codec", 0)
    alone = gradient(without, plain)
    pulled = gradient(loss, objective) - alone
    assert float(pulled.norm()) == pytest.approx(weight * float(alone.norm()), rel=1e-3)
    assert float(numbers["adversary_weight"]) > 0


def test_its_factor_is_bounded_and_its_weight_rises() -> None:
    bounded = made(AdversaryConfig(start=0, weight=1.0, most=1e-3))
    _, numbers = bounded({"pixels": PIXELS}, "codec", 0)
    assert float(numbers["adversary_weight"]) == pytest.approx(1e-3)
    rising = made(AdversaryConfig(start=10, weight=1.0, most=1e-3, warmup=4))
    weights = [float(rising({"pixels": PIXELS}, "codec", step)[1]["adversary_weight"]) for step in range(10, 16)]
    assert weights == sorted(weights)
    assert weights[1] == pytest.approx(0.5e-3)
    assert weights[3] == weights[5] == pytest.approx(1e-3)


def test_the_discriminator_learns_to_tell_by_the_hinge() -> None:
    objective = made(AdversaryConfig(start=0, alone=1_000))
    objective({"pixels": PIXELS}, "codec", 0)
    fake = objective._made[0]
    torch.manual_seed(1)
    loss, numbers = objective({"pixels": PIXELS}, "discriminator", 0)
    torch.manual_seed(1)
    real, made_up = objective.discriminator(PIXELS), objective.discriminator(fake)
    torch.testing.assert_close(loss, 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made_up).mean()))
    torch.testing.assert_close(numbers["real"], real.mean())
    optimizer = torch.optim.Adam(objective.discriminator.parameters(), 2e-3)
    for step in range(30):
        objective({"pixels": PIXELS}, "codec", step)
        optimizer.zero_grad()
        loss, numbers = objective({"pixels": PIXELS}, "discriminator", step)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3
    assert float(numbers["real"]) > 0.5 > -0.5 > float(numbers["made"])


def test_several_parts_of_a_batch_are_judged_in_their_order() -> None:
    objective = made(AdversaryConfig(start=0))
    parts = PIXELS[:2], PIXELS[2:]
    for part in parts:
        objective({"pixels": part}, "codec", 0)
    assert [len(fake) for fake in objective._made] == [2, 2]
    for part in parts:
        objective({"pixels": part}, "discriminator", 0)
    assert not objective._made


def test_in_training_no_place_is_looked_at_more_than_others() -> None:
    """What it says of a plain grey picture has no pattern, taken over many looks, as it has without moving."""
    torch.manual_seed(0)
    network = Discriminator(DiscriminatorConfig(width=8, layers=2))
    pixels = torch.zeros(2, 3, 32, 32, requires_grad=True)

    def said(looks: int) -> Tensor:
        total = torch.zeros(16, 16)
        for _ in range(looks):
            (push,) = torch.autograd.grad(network(pixels).mean(), pixels)
            total += push[0].mean(0)[8:24, 8:24] / looks
        return total

    moving = said(300)
    network.eval()
    assert moving.std() < said(1).std() / 4


def test_a_published_discriminator_judges_squares_of_seventy_pixels() -> None:
    network = Discriminator(DiscriminatorConfig()).eval()
    pixels = torch.zeros(1, 3, 256, 256, requires_grad=True)
    logits = network(pixels)
    assert logits.shape == (1, 1, 30, 30)
    (seen,) = torch.autograd.grad(logits[0, 0, 15, 15], pixels)
    rows = seen.abs().sum((0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70
