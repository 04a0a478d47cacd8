import pytest
import torch
import torch.nn.functional as F

from pinxit.models.token_transformer import TokenTransformer, TokenTransformerConfig
from pinxit.objectives.masked_tokens import MaskedTokens, MaskedTokensConfig
from pinxit.tokens.parallel import fill, noise
from pinxit.tokens.sampler import Choice

CONFIG = TokenTransformerConfig(
    condition_vocabulary=3,
    condition_length=1,
    image_vocabulary=9,
    grid=(3, 4),
    width=32,
    depth=2,
    heads=2,
    order="masked",
    predicts_condition=False,
)


def made() -> MaskedTokens:
    torch.manual_seed(0)
    return MaskedTokens(TokenTransformer(CONFIG), MaskedTokensConfig())


def batch(rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "condition": torch.randint(3, (rows, 1), generator=generator),
        "image": torch.randint(9, (rows, 12), generator=generator),
    }


def test_rows_hide_shares_of_a_quarter_cosine_at_random_places() -> None:
    torch.manual_seed(0)
    covered = MaskedTokens.cover(4_000, 50)
    counts = covered.sum(1)
    assert counts.min() >= 1
    assert counts.max() == 50
    # The mean of cos(pi r / 2) over r is 2 / pi; a share is rounded up.
    assert counts.float().mean() / 50 == pytest.approx(2 / torch.pi + 0.5 / 50, abs=0.015)
    assert covered.float().mean(0).std() < 0.02


def test_only_hidden_tokens_count_and_only_the_others_are_seen() -> None:
    objective, given = made().eval(), batch()
    torch.manual_seed(5)
    loss, numbers = objective.loss(given, "main", 0)
    torch.manual_seed(5)
    covered = objective.cover(4, 12)
    network = objective.network
    assert isinstance(network, TokenTransformer)
    _, logits = network(given["condition"], given["image"].masked_fill(covered, 9))
    expected = F.cross_entropy(logits[covered], given["image"][covered])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(numbers["image_loss"], expected)
    objective.train()
    torch.manual_seed(5)
    smooth, numbers = objective.loss(given, "main", 0)
    torch.testing.assert_close(smooth, F.cross_entropy(logits[covered], given["image"][covered], label_smoothing=0.1))
    torch.testing.assert_close(numbers["image_loss"], expected)


def test_a_batch_that_is_known_by_heart_is_drawn_from_its_conditions() -> None:
    objective = made()
    generator = torch.Generator().manual_seed(1)
    given = {"condition": torch.arange(3)[:, None], "image": torch.randint(9, (3, 12), generator=generator)}
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    for step in range(150):
        optimizer.zero_grad()
        objective({name: value.repeat(8, 1) for name, value in given.items()}, "main", step)[0].backward()
        optimizer.step()
    network = objective.eval().network
    assert isinstance(network, TokenTransformer)
    with torch.no_grad():
        drawn = fill(
            lambda ids: network(given["condition"], ids)[1],
            torch.full((3, 12), network.mask_id),
            network.mask_id,
            noise([0, 1, 2], 6, 12),
            Choice(temperature=0),
        )
    assert (drawn == given["image"]).float().mean() > 0.95
