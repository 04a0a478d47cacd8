"""What a denoiser is asked for, and what its config has to agree on; its numbers are in tests/parity/test_unet.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.diffusion.process import ProcessConfig
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Conditioning, Denoiser, DenoiserConfig, widened
from pinxit.models.text_encoder import TextEncoderConfig
from pinxit.models.unet import AttentionBlock, UNet, UNetConfig
from pinxit.nn.attention import Attention
from pinxit.nn.group_norm import GroupNorm

SMALL = UNetConfig(32, 32, (1, 2), 1, (8,), patch=2)
CLASSES = DenoiserConfig(SMALL, ProcessConfig(), classes=3)
TEXT = TextEncoderConfig(vocabulary=20, length=5, width=32, depth=1, heads=2)
TEXTS = DenoiserConfig(SMALL, ProcessConfig(), text=TEXT)
X, TIMES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([10.0, 500.0])


def awake(config: DenoiserConfig) -> Denoiser:
    """A network whose zeroed paths are no longer zero."""
    torch.manual_seed(0)
    network = Denoiser(config).eval()
    for value in network.parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.1)
    return network


def test_it_starts_by_telling_nothing() -> None:
    torch.manual_seed(0)
    assert not Denoiser(CLASSES)(X, TIMES, Conditioning()).any()


@torch.no_grad()
def test_the_id_after_the_last_class_is_none() -> None:
    network = awake(CLASSES)
    none = network(X, TIMES, Conditioning(labels=torch.tensor([3, 3])))
    assert torch.equal(none, network(X, TIMES, Conditioning()))
    some = network(X, TIMES, Conditioning(labels=torch.tensor([3, 1])))
    assert torch.equal(some[0], none[0])
    assert not torch.allclose(some[1], none[1])


@torch.no_grad()
def test_a_batch_of_both_is_each_by_itself() -> None:
    network = awake(TEXTS)
    wanted, unwanted = (
        Conditioning(ids=torch.tensor([[1, 2, 22, 23, 24]])),
        Conditioning(ids=torch.arange(20, 25)[None]),
    )
    both = network(X, TIMES, wanted.joined(unwanted))
    torch.testing.assert_close(both[:1], network(X[:1], TIMES[:1], wanted), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[1:], network(X[1:], TIMES[1:], unwanted), atol=1e-5, rtol=1e-5)
    again = wanted.joined(unwanted).rows(1, 2)
    assert again.ids is not None
    assert unwanted.ids is not None
    assert torch.equal(again.ids, unwanted.ids)
    assert not torch.allclose(both[0], network(X[:1], TIMES[:1], unwanted)[0])


@torch.no_grad()
@pytest.mark.parametrize("text", [None, TEXT])
def test_an_embedding_is_told_beside_a_text_or_alone(text: TextEncoderConfig | None) -> None:
    network = awake(DenoiserConfig(SMALL, ProcessConfig(), text=text, embedding=6))
    ids = torch.arange(20, 25).expand(2, -1) if text else None
    shown = torch.eye(6)[:2]
    told = network(X, TIMES, Conditioning(ids=ids, embedding=shown))
    assert not torch.allclose(told, network(X, TIMES, Conditioning(ids=ids, embedding=shown.flip(0))))
    guide = network.guide(Conditioning(ids=ids, embedding=shown))
    assert guide.tokens is not None
    assert guide.tokens.shape[1] == 4 + (TEXT.length if text else 0)
    away = Conditioning(ids=ids, embedding=shown).instead(Conditioning(embedding=torch.zeros(1, 6)))
    assert away.embedding is not None
    assert away.embedding.shape == (2, 6)


@torch.no_grad()
def test_embeddings_of_length_1_are_told_as_loudly_as_any() -> None:
    config = DenoiserConfig(SMALL, ProcessConfig(), embedding=64)
    unit, free = awake(config), awake(replace(config, unit=False))
    row = torch.nn.functional.normalize(torch.randn(2, 64), dim=1)
    ours, theirs = unit.guide(Conditioning(embedding=row)), free.guide(Conditioning(embedding=8 * row))
    torch.testing.assert_close(ours.added, theirs.added)
    torch.testing.assert_close(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("positions", [False, True])
@torch.no_grad()
def test_it_is_fully_convolutional(*, positions: bool) -> None:
    network = awake(replace(CLASSES, unet=replace(CLASSES.unet, positions=positions)))
    assert network(torch.randn(1, 3, 64, 48), TIMES[:1], Conditioning()).shape == (1, 3, 64, 48)


@torch.no_grad()
def test_positions_are_seen_where_they_are() -> None:
    network = awake(replace(CLASSES, unet=replace(CLASSES.unet, positions=True)))
    positions = network.unet.encoder.positions
    assert positions.shape[1:] == (CLASSES.unet.sides[0],) * 2
    x = torch.randn(1, 3, 64, 64)
    before = network(x, TIMES[:1], Conditioning())
    positions[:, :4, :4] += 1
    changed = (network(x, TIMES[:1], Conditioning()) - before).abs().mean((0, 1))
    assert changed[:8, :8].mean() > 2 * changed[-8:, -8:].mean() > 0


@pytest.mark.parametrize("looks", ["joined", "cross"])
@torch.no_grad()
def test_tokens_are_looked_at_either_way(looks: str) -> None:
    network = awake(replace(TEXTS, unet=replace(TEXTS.unet, looks=looks)))  # type: ignore[arg-type]
    guide = network.guide(Conditioning(ids=torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])))
    assert guide.tokens is not None
    plain = network.drawing(X, TIMES, guide)
    other = network.drawing(X, TIMES, replace(guide, tokens=guide.tokens.flip(-1)))
    assert not torch.allclose(plain, other)


@torch.no_grad()
def test_cross_attention_by_its_formula() -> None:
    """Self-attention, then attention to the tokens (Rombach et al. 2022, section 3.3), each normed, beside a skip."""
    torch.manual_seed(0)
    config = replace(SMALL, tokens=24, looks="cross", heads=2)
    block = AttentionBlock(config, 32)
    for value in block.parameters():
        torch.nn.init.normal_(value, std=0.3)
    assert block.cross is not None
    x, tokens = torch.randn(2, 32, 4, 4), torch.randn(2, 5, 24)
    there = torch.tensor([[True] * 5, [True, True, False, False, False]])

    def attended(x: Tensor, norm: Tensor, own: Attention, weights: list[Tensor], seen: Tensor | None) -> Tensor:
        q, k, v = (part.view(2, -1, 2, 16).transpose(1, 2) for part in weights)
        scores = q @ k.transpose(-1, -2) / 4
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + F.linear(mixed, own.out.weight, own.out.bias).transpose(1, 2).view_as(norm)

    def places(x: Tensor, norm: GroupNorm) -> Tensor:
        return F.group_norm(x, 32, norm.weight, norm.bias).flatten(2).transpose(1, 2)

    first, second = block.attention, block.cross
    normed = places(x, block.norm)
    both = F.linear(normed, first.query_key_value.weight, first.query_key_value.bias).chunk(3, -1)
    expected = attended(x, x, first, list(both), None)
    query = F.linear(places(expected, block.cross_norm), second.query.weight, second.query.bias)
    told = F.linear(tokens, second.key_value.weight, second.key_value.bias).chunk(2, -1)
    expected = attended(expected, x, second, [query, *told], there)
    torch.testing.assert_close(block(x, tokens, there), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_shown_besides_starts_by_changing_nothing() -> None:
    """Nichol et al. 2021, section 2.5: the new channels are read with zeros."""
    before = awake(TEXTS)
    after = awake(replace(TEXTS, known=True))
    after.load_state_dict(widened(before.state_dict(), after))
    ids = torch.tensor([[1, 2, 22, 23, 24], [3, 21, 22, 23, 24]])
    shown = Conditioning(ids=ids, known=X.flip(0), mask=torch.ones(2, 1, 32, 32))
    torch.testing.assert_close(after(X, TIMES, shown), before(X, TIMES, Conditioning(ids=ids)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 30}, r"size=30 cannot be halved as often as patch=2 and 2 levels ask\. Choose a multiple of 4"),
        ({"channels": 40}, r"A level of 40 channels does not divide into 32 groups"),
        ({"heads": 5}, r"64 channels do not divide into 5 heads"),
    ],
)
def test_impossible_shapes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PinxitError, match=message):
        UNet(replace(SMALL, **change))


def test_what_follows_from_the_rest_need_not_be_given() -> None:
    config = replace(CLASSES, low=16, known=True, text=TEXT, process=ProcessConfig(learned_variance=True))
    whole = config.whole_unet
    assert (whole.beside, whole.tokens, whole.outputs) == (7, TEXT.width, 6)
    assert replace(config, unet=whole) == config
    assert replace(config, low=None).whole_unet.beside == 4
    with pytest.raises(PinxitError, match=r"unet\.beside=7 does not go with the rest: leave it out, or give 4"):
        replace(config, low=None, unet=whole)


@torch.no_grad()
def test_what_enlarges_may_tell_the_difference_from_the_stretched_picture() -> None:
    config = DenoiserConfig(SMALL, ProcessConfig(target="x0"), low=16, low_skip=True)
    low = torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin().view(2, 3, 16, 16)
    asked = Conditioning(low=low)
    stretched = F.interpolate(low, 32, mode="bilinear")
    torch.testing.assert_close(Denoiser(config)(X, TIMES, asked), stretched)
    plain, added = awake(replace(config, low_skip=False)), awake(config)
    torch.testing.assert_close(added(X, TIMES, asked), plain(X, TIMES, asked) + stretched)
    for wrong in ({"low": None}, {"process": ProcessConfig()}):
        with pytest.raises(PinxitError, match="low_skip=true with low="):
            replace(config, **wrong)


@torch.no_grad()
def test_all_that_is_told_counts() -> None:
    network = awake(replace(TEXTS, classes=3))
    labels, ids = torch.tensor([0, 1]), torch.tensor([[1, 2, 22, 23, 24]] * 2)
    both = network(X, TIMES, Conditioning(labels=labels, ids=ids))
    assert not torch.allclose(both, network(X, TIMES, Conditioning(labels=labels + 1, ids=ids)))
    assert not torch.allclose(both, network(X, TIMES, Conditioning(labels=labels, ids=ids.flip(1))))


def test_only_what_enlarges_is_shown_noisy_pictures() -> None:
    with pytest.raises(PinxitError, match=r"low_noise=0\.5 without low: leave it out, or give low"):
        DenoiserConfig(SMALL, ProcessConfig(), low_noise=0.5)
