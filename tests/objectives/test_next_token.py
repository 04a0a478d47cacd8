import math

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pinxit.models.token_transformer import SIZES, TokenTransformer
from pinxit.objectives.next_token import NextToken, NextTokenConfig


class Told(nn.Module):
    """Says what it was told to say, whatever it reads."""

    def __init__(self, text_logits: Tensor, image_logits: Tensor) -> None:
        super().__init__()
        self.text_logits, self.image_logits = nn.Parameter(text_logits), nn.Parameter(image_logits)

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        assert text.dtype == image.dtype == torch.int64
        return self.text_logits, self.image_logits


TEXT = torch.tensor([[4, 1, 0], [2, 2, 3]])
IMAGE = torch.tensor([[1, 0], [1, 1]])
BATCH = {"condition": TEXT, "image": IMAGE}


def told(text_p: list[list[float]], image_p: list[list[float]]) -> Told:
    """Probabilities of the true tokens, b l-1 and b n; the rest is shared out among the others (5 and 2 in all)."""

    def logits(ids: Tensor, p: list[list[float]], k: int) -> Tensor:
        true = torch.tensor(p)[..., None]
        others = ((1 - true) / (k - 1)).expand(*true.shape[:2], k)
        return others.scatter(2, ids[..., None], true).log() + 3.0  # a constant changes nothing

    return Told(logits(TEXT[:, 1:], text_p, 5), logits(IMAGE, image_p, 2))


def test_each_kind_is_a_mean_of_its_own_and_text_counts_an_eighth() -> None:
    # Four text tokens and four image tokens, by hand.
    network = told([[0.5, 0.25], [0.1, 0.4]], [[0.9, 0.3], [0.5, 0.5]])
    text = -(math.log(0.5) + math.log(0.25) + math.log(0.1) + math.log(0.4)) / 4
    image = -(math.log(0.9) + math.log(0.3) + 2 * math.log(0.5)) / 4
    loss, numbers = NextToken(network, NextTokenConfig())(BATCH, "main", 0)
    assert loss.item() == pytest.approx(text / 8 + 7 * image / 8, abs=1e-6)
    assert float(numbers["condition_loss"].detach()) == pytest.approx(text, abs=1e-6)
    assert float(numbers["image_loss"].detach()) == pytest.approx(image, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_text_is_a_setting(share: float) -> None:
    network = told([[0.5, 0.25], [0.1, 0.4]], [[0.9, 0.3], [0.5, 0.5]])
    loss, numbers = NextToken(network, NextTokenConfig(condition_weight=share))(BATCH, "main", 0)
    torch.testing.assert_close(loss, share * numbers["condition_loss"] + (1 - share) * numbers["image_loss"])


def test_the_number_of_tokens_of_a_kind_does_not_change_its_weight() -> None:
    torch.manual_seed(0)
    for length, places in ((3, 2), (9, 2), (3, 40)):
        network = Told(torch.zeros(2, length - 1, 5), torch.zeros(2, places, 7))
        batch = {"condition": torch.randint(5, (2, length)), "image": torch.randint(7, (2, places))}
        loss, _ = NextToken(network, NextTokenConfig())(batch, "main", 0)
        assert loss.item() == pytest.approx(math.log(5) / 8 + 7 * math.log(7) / 8, abs=1e-6)
        loss.backward()
        # Softmax minus one-hot, over the tokens of the kind, by its weight.
        for logits, ids, weight in (
            (network.text_logits, batch["condition"][:, 1:], 1 / 8),
            (network.image_logits, batch["image"], 7 / 8),
        ):
            k = logits.shape[-1]
            expected = (1 / k - torch.eye(k)[ids]) * weight / ids.numel()
            assert logits.grad is not None
            torch.testing.assert_close(logits.grad, expected)


def test_the_loss_is_float32_of_half_precision_logits() -> None:
    network = told([[0.5, 0.25], [0.1, 0.4]], [[0.9, 0.3], [0.5, 0.5]])
    expected, _ = NextToken(network, NextTokenConfig())(BATCH, "main", 0)
    loss, _ = NextToken(network.bfloat16(), NextTokenConfig())(BATCH, "main", 0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=0.02, rtol=0.0)


def test_targets_are_the_tokens_that_the_network_was_to_tell() -> None:
    torch.manual_seed(0)
    config = SIZES["tiny-32"]
    network = TokenTransformer(config)
    text = torch.randint(config.condition_vocabulary, (3, config.condition_length))
    image = torch.randint(config.image_vocabulary, (3, config.image_length))
    _, numbers = NextToken(network, NextTokenConfig())({"condition": text, "image": image}, "main", 0)
    text_p, image_p = (logits.log_softmax(-1) for logits in network(text, image))
    text_nll = [-text_p[b, i, text[b, i + 1]].item() for b in range(3) for i in range(config.condition_length - 1)]
    image_nll = [-image_p[b, i, image[b, i]].item() for b in range(3) for i in range(config.image_length)]
    assert float(numbers["condition_loss"].detach()) == pytest.approx(sum(text_nll) / len(text_nll), abs=1e-5)
    assert float(numbers["image_loss"].detach()) == pytest.approx(sum(image_nll) / len(image_nll), abs=1e-5)


def test_it_learns_a_batch_by_heart() -> None:
    torch.manual_seed(0)
    config = SIZES["tiny-32"]
    objective = NextToken(TokenTransformer(config), NextTokenConfig())
    text = torch.randint(config.condition_vocabulary, (4, config.condition_length))
    text[:, 0] = torch.arange(4)
    batch = {"condition": text, "image": torch.randint(config.image_vocabulary, (4, config.image_length))}
    optimizer = torch.optim.AdamW(objective.parameters(), lr=4e-3)
    for step in range(50):
        optimizer.zero_grad()
        objective(batch, "main", step)[0].backward()
        optimizer.step()
    numbers = objective.eval().validate(batch, 50)
    assert float(numbers["image_loss"].detach()) < 0.1  # type: ignore[union-attr]
    assert float(numbers["condition_loss"].detach()) < 0.3  # type: ignore[union-attr]


def test_the_preview_is_painted_by_whoever_knows_how() -> None:
    network = told([[0.5, 0.25], [0.1, 0.4]], [[0.9, 0.3], [0.5, 0.5]])
    picture = Image.new("RGB", (4, 4))
    assert NextToken(network, NextTokenConfig()).preview() is None
    assert NextToken(network, NextTokenConfig(), lambda: picture).preview() is picture
    assert dict(NextToken(network, NextTokenConfig()).networks()) == {"transformer": network}


class Reader(nn.Module):
    """Remembers which image tokens it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SIZES["tiny-32"]
        self.scale = nn.Parameter(torch.zeros(()))
        self.shown = torch.empty(0)

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        self.shown = image
        k = self.config.image_vocabulary
        return self.scale * torch.ones(*text[:, 1:].shape, 5), self.scale * torch.ones(*image.shape, k)


def test_a_share_of_the_image_tokens_is_replaced_while_learning_and_none_afterwards() -> None:
    torch.manual_seed(0)
    reader = Reader()
    objective = NextToken(reader, NextTokenConfig(keep=0.75))
    image = torch.randint(0, reader.config.image_vocabulary, (64, 64))
    before = image.clone()
    loss, _ = objective.loss({"condition": torch.zeros(64, 3, dtype=torch.int64), "image": image}, "main", 0)
    chance = 1 / reader.config.image_vocabulary  # that the random token is the true one
    assert (reader.shown != image).float().mean().item() == pytest.approx(0.25 * (1 - chance), abs=0.03)
    assert 0 <= int(reader.shown.min()) <= int(reader.shown.max()) < reader.config.image_vocabulary
    assert torch.equal(image, before)
    assert loss.item() == pytest.approx(math.log(5) / 8 + math.log(reader.config.image_vocabulary) * 7 / 8, rel=1e-5)
    objective.eval().loss({"condition": torch.zeros(64, 3, dtype=torch.int64), "image": image}, "main", 0)
    assert torch.equal(reader.shown, image)
