from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from pinxit.models.clip import CLIP
from pinxit.models.clip import SIZES as CLIP_SIZES
from pinxit.models.token_transformer import SIZES, Continuation, TokenTransformer
from pinxit.nn.packing import PackedLinear, PackedTransformer, RoundedLinear, can_pack, packed
from pinxit.nn.transformer import Transformer, initialize_residual
from pinxit.tokens.sampler import Choice, guide, sample, uniforms

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch has no oneDNN")

WIDTH, DEPTH, HEADS = 32, 3, 4


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    transformer = Transformer(WIDTH, DEPTH, HEADS)
    initialize_residual(transformer, std=0.2)
    for parameter in transformer.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3)
    return transformer


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(1))


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 8, 50])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_what_the_layer_gives(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 80, bias=bias)
    twin = packed(nn.Sequential(layer))[0]
    assert isinstance(twin, PackedLinear)
    with torch.inference_mode():
        for x in (torch.randn(rows, 48), torch.randn(rows, 3, 48), torch.randn(rows, 3, 48)[:, -1]):
            same(twin(x), layer(x))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_packed_stack_gives_what_the_stack_gives(
    transformer: Transformer, x: Tensor, causal: bool, masked: bool
) -> None:
    twin = packed(transformer)
    assert isinstance(twin, PackedTransformer)
    mask = torch.ones(9, 9, dtype=torch.bool).tril() & (torch.arange(9) % 2 == 0) | torch.eye(9, dtype=torch.bool)
    masks = [None, mask, mask.tril()] if masked else None
    with torch.inference_mode():
        expected = transformer(x, masks=masks, causal=causal)
        same(twin(x, masks=masks, causal=causal), expected)
        assert (expected - x).abs().mean() > 0.5  # the blocks do something


@pytest.mark.parametrize("chunks", [(1,) * 9, (5, 1, 1, 2), (9,)])
def test_its_cache_too(transformer: Transformer, x: Tensor, chunks: tuple[int, ...]) -> None:
    twin, parts = packed(transformer), []
    cache = twin.empty_cache(len(x), 9, like=x)
    with torch.inference_mode():
        for part in torch.split(x, list(chunks), 1):
            parts.append(twin(part, causal=True, cache=cache))
        assert cache.length == 9
        same(torch.cat(parts, 1), transformer(x, causal=True))


def test_half_precision_is_asked_for(transformer: Transformer, x: Tensor) -> None:
    exact = transformer(x, causal=True).detach()
    for dtype, close in ((torch.bfloat16, 0.9995), (torch.int8, 0.998)):
        twin = packed(transformer, dtype)
        cache = twin.empty_cache(len(x), 9, like=x.bfloat16())
        with torch.inference_mode():
            parts = [twin(part, causal=True, cache=cache) for part in torch.split(x.bfloat16(), [5, 1, 1, 2], 1)]
        found = torch.cat(parts, 1)
        assert found.dtype == torch.bfloat16
        assert torch.cosine_similarity(found.float(), exact, dim=-1).min() > close


def test_eight_bits_keep_what_eight_bits_can() -> None:
    layer = nn.Linear(32, 32)
    with torch.no_grad():
        layer.weight.zero_()[0, :3] = torch.tensor([127.0, -64.0, 1.0])  # the other rows are nothing but zeros
        layer.bias.fill_(0.5)
    twin = packed(nn.Sequential(layer), torch.int8)[0]
    assert isinstance(twin, RoundedLinear)
    with torch.inference_mode():
        found = twin(torch.eye(32).bfloat16())
    assert torch.equal(found.float() - 0.5, layer.weight.T)


def test_eight_bits_leave_odd_shapes_to_bfloat16() -> None:
    layer = nn.Linear(3, 5)
    twin = packed(nn.Sequential(layer), torch.int8)[0]
    assert isinstance(twin, PackedLinear)
    with torch.inference_mode():
        torch.testing.assert_close(
            twin(torch.ones(2, 3).bfloat16()).float(), layer(torch.ones(2, 3)), atol=0.02, rtol=0.02
        )


def test_another_activation_is_kept(x: Tensor) -> None:
    torch.manual_seed(0)
    transformer = Transformer(WIDTH, DEPTH, HEADS, activation="quick_gelu")
    twin = packed(transformer)
    assert not isinstance(twin, PackedTransformer)
    with torch.inference_mode():
        same(twin(x), transformer(x))


def test_the_network_stays_as_it_was(transformer: Transformer, x: Tensor) -> None:
    network = nn.Sequential(nn.Linear(WIDTH, WIDTH), transformer, nn.LayerNorm(WIDTH)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    twin = packed(network, torch.bfloat16)
    assert not twin.training
    assert network.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network(x).sum().backward()
    shared = packed(network).get_parameter("2.weight")
    assert shared.data_ptr() == network.get_parameter("2.weight").data_ptr()  # what stays as it is, is not copied


@pytest.mark.parametrize("attention", ["full", "paper"])
def test_sampling_draws_the_same_tokens(attention: Literal["full", "paper"]) -> None:
    torch.manual_seed(0)
    config = replace(SIZES["tiny-32"], attention=attention)
    network = TokenTransformer(config).eval()
    nn.init.normal_(network.image_head.weight, std=0.5)
    twin = packed(network)
    text = torch.cat(
        [torch.randint(0, config.condition_vocabulary, (2, config.condition_length)), network.no_condition(2)]
    )
    numbers, choice = uniforms([5, 6], config.image_length), Choice(top_k=40)
    expected = sample(guide(Continuation(network, text), 2.0), numbers, choice)
    assert torch.equal(sample(guide(Continuation(twin, text), 2.0), numbers, choice), expected)
    assert torch.equal(sample(guide(Continuation(twin, text, cached=False), 2.0), numbers, choice), expected)


def test_clip_sees_and_reads_the_same() -> None:
    torch.manual_seed(0)
    network = CLIP(CLIP_SIZES["tiny-32"]).eval()
    twin = packed(network)
    pixels, ids = torch.rand(3, 3, 32, 32) * 2 - 1, torch.randint(0, 2_000, (3, 32))
    with torch.inference_mode():
        same(twin.encode_image(pixels), network.encode_image(pixels))
        same(twin.encode_text(ids), network.encode_text(ids))
