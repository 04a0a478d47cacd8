"""What a generator and its critic learn by, turn by turn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pinxit.models.gan import SIZES, Critic, Generator
from pinxit.objectives.adversarial_generation import AdversarialGeneration, GANObjectiveConfig

LABELS = replace(SIZES["tiny-32"], classes=3)
ROWS = 64
"""As many as the recipes': fewer take another way through linear layers."""


class Draws(Generator):
    """Always these pictures, whose words are the classes themselves."""

    def __init__(self, made: Tensor) -> None:
        super().__init__(LABELS)
        self.words = nn.Identity()  # type: ignore[assignment]
        self.made = made

    def draw(self, noise: Tensor, words: Tensor | None) -> Tensor:  # noqa: ARG002
        return self.made


def batch() -> dict[str, Tensor]:
    return {"pixels": torch.rand(ROWS, 3, 32, 32) * 2 - 1, "labels": torch.arange(ROWS) % 3}


@pytest.fixture
def objective() -> AdversarialGeneration:
    torch.manual_seed(0)
    config = GANObjectiveConfig(augment=False)
    return AdversarialGeneration(Generator(LABELS), Critic(LABELS), LABELS.latent, "labels", config)


@pytest.mark.parametrize("turn", ["critic", "generator"])
def test_a_turn_moves_its_own_network_alone(objective: AdversarialGeneration, turn: str) -> None:
    loss, _ = objective(batch(), turn, 0)
    loss.backward()
    moved = {name for name, value in objective.named_parameters() if value.grad is not None}
    assert moved == {name for name, _ in objective.parameters_of(turn)}
    assert ("generator.words.labels.weight" in moved) == (turn == "critic"), "classes are learnt by telling them apart"
    every = [name for each in objective.turns for name, _ in objective.parameters_of(each)]
    assert sorted(every) == sorted(name for name, _ in objective.named_parameters())


def test_the_penalty_is_the_squared_gradient_and_comes_as_often_as_asked(objective: AdversarialGeneration) -> None:
    given = batch()
    numbers = [objective(given, "critic", step)[1] for step in range(17)]
    assert [step for step, told in enumerate(numbers) if "r1" in told] == [0, 16]
    critic, leaf = objective.critic, given["pixels"].clone().requires_grad_()
    words = objective.generator.words(given["labels"])
    critic.judge(critic.see(leaf), words).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    torch.testing.assert_close(torch.as_tensor(numbers[0]["r1"]), leaf.grad.square().sum((1, 2, 3)).mean())


def test_the_penalty_flattens_the_critic() -> None:
    class Slope(Critic):
        def __init__(self) -> None:
            super().__init__(LABELS)
            self.steep = nn.Parameter(torch.tensor(2.0))

        def see(self, pixels: Tensor) -> Tensor:
            return self.steep * pixels.mean((1, 2, 3))

        def judge(self, features: Tensor, words: Tensor | None) -> Tensor:  # noqa: ARG002
            return features

    slope = Slope()
    objective = AdversarialGeneration(Generator(LABELS), slope, 8, None, GANObjectiveConfig(r1=1.0, augment=False))
    (pull,) = torch.autograd.grad(objective._r1(torch.zeros(2, 3, 4, 4), None), slope.steep)
    assert float(pull) == pytest.approx(2 * 2.0 / 48)  # of steep^2 / 48


@pytest.mark.parametrize("augment", [True, False])
def test_the_critic_sees_real_and_made_pictures_changed_alike(augment: bool) -> None:
    class Sees(Critic):
        def __init__(self) -> None:
            super().__init__(LABELS)
            self.shown: list[Tensor] = []

        def see(self, pixels: Tensor) -> Tensor:
            self.shown.append(pixels)
            return super().see(pixels)

        def judge(self, features: Tensor, words: Tensor | None) -> Tensor:  # noqa: ARG002
            return super().judge(features, None)

    critic, given = Sees(), batch()
    made = torch.rand_like(given["pixels"])
    objective = AdversarialGeneration(Draws(made), critic, 8, "labels", GANObjectiveConfig(r1=0.0, augment=augment))
    objective(given, "critic", 0)
    objective(given, "generator", 0)
    objective.validate(given, 0)
    shown = [given["pixels"], made, made, given["pixels"], made]
    for seen, whole in zip(critic.shown, shown, strict=True):
        assert all(torch.equal(one, other) != augment for one, other in zip(seen, whole, strict=True))


def test_no_pair_counts_as_mismatched_that_matches() -> None:
    class Says(Critic):
        def __init__(self) -> None:
            super().__init__(LABELS)
            self.seen = 0

        def see(self, pixels: Tensor) -> Tensor:
            self.seen += 1
            return pixels

        def judge(self, features: Tensor, words: Tensor | None) -> Tensor:  # noqa: ARG002
            assert words is not None
            return 10.0 * words

    critic, nothing = Says(), Draws(torch.zeros(3, 3, 4, 4))
    objective = AdversarialGeneration(nothing, critic, 8, "labels", GANObjectiveConfig(r1=0.0, augment=False))

    def loss(*labels: int) -> float:
        given = {"pixels": torch.zeros(len(labels), 3, 4, 4), "labels": torch.tensor(labels)}
        return float(objective(given, "critic", 0)[0])

    assert loss(0, 0, 0) == 1 + 1, "real and made ones alone"
    assert critic.seen == 2, "real pictures once, and made ones"
    real, made, first_and_last = 2 / 3, 13 / 3, (11 + 1) / 2
    assert loss(0, 0, 1) == pytest.approx(real + (made + first_and_last) / 2)


def test_each_turn_goes_its_way() -> None:
    """The generator's up the critic's logits; the critic's is heavier by the penalty."""
    torch.manual_seed(0)
    given, networks = batch(), (Generator(LABELS), Critic(LABELS))

    def objective(r1: float) -> AdversarialGeneration:
        return AdversarialGeneration(*networks, LABELS.latent, "labels", GANObjectiveConfig(r1, 4, augment=False))

    def of(turn: str, r1: float) -> tuple[float, dict[str, float]]:
        torch.manual_seed(1)
        loss, numbers = objective(r1)(given, turn, 0)
        return float(loss.detach()), {name: float(value) for name, value in numbers.items()}

    torch.manual_seed(1)
    made = networks[0](torch.randn(ROWS, LABELS.latent), given["labels"])
    logits = networks[1].judge(networks[1].see(made), networks[0].words(given["labels"]))
    assert of("generator", 0.0)[0] == pytest.approx(-float(logits.detach().mean()), rel=1e-5)
    (plain, _), (heavier, numbers) = of("critic", 0.0), of("critic", 3.0)
    assert heavier - plain == pytest.approx(4 * 3.0 / 2 * numbers["r1"], abs=1e-6)


def test_what_is_told_of_mismatches_is_of_them_alone() -> None:
    class Knows(Critic):
        def see(self, pixels: Tensor) -> Tensor:
            return pixels[:, 0, 0, 0].long()

        def judge(self, features: Tensor, words: Tensor | None) -> Tensor:
            assert words is not None
            return torch.where(features == words, 5.0, -5.0)

    labels = torch.tensor([0, 0, 0, 1])
    pixels = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    networks = Draws(torch.zeros(4, 3, 32, 32)), Knows(LABELS)
    objective = AdversarialGeneration(*networks, 8, "labels", GANObjectiveConfig(r1=0.0, augment=False))
    _, numbers = objective({"pixels": pixels, "labels": labels}, "critic", 0)
    assert float(numbers["real"]) == 5
    assert float(numbers["mismatched"]) == -5
