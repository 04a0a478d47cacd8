import pytest
import torch
from torch import Tensor, nn

from pinxit.nn.transformer import Block, QuickGELU, Transformer, initialize_residual


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    return Transformer(16, 3, 2).double().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0.0)


def test_a_block_is_two_residual_steps_each_normalised_first(x: Tensor) -> None:
    torch.manual_seed(0)
    block = Block(16, 2).double()
    inside = x + block.attention(block.attention_norm(x), causal=True)
    hidden = nn.functional.gelu(block.mlp[0](block.mlp_norm(inside)))
    assert hidden.shape[-1] == 64
    same(block(x, causal=True), inside + block.mlp[2](hidden))


def test_quick_gelu_is_the_one_of_clip(x: Tensor) -> None:
    same(QuickGELU()(x), x / (1 + (-1.702 * x).exp()))
    torch.manual_seed(0)
    gelu = Block(16, 2).double()
    quick = Block(16, 2, activation="quick_gelu").double()
    quick.load_state_dict(gelu.state_dict())
    assert 1e-6 < (gelu(x) - quick(x)).abs().max() < 0.1


def test_the_stack_is_its_blocks_in_order(transformer: Transformer, x: Tensor) -> None:
    expected = x
    for block in transformer.blocks:
        expected = block(expected, causal=True)
    same(transformer(x, causal=True), expected)


def test_each_block_has_its_own_mask(transformer: Transformer, x: Tensor) -> None:
    narrow, wide = torch.eye(6, dtype=torch.bool), torch.ones(6, 6, dtype=torch.bool).tril()
    expected = x
    for block, mask in zip(transformer.blocks, (narrow, wide, narrow), strict=True):
        expected = block(expected, mask=mask)
    same(transformer(x, masks=[narrow, wide, narrow]), expected)
    same(transformer(x, masks=[narrow, None, narrow], causal=True), expected)  # causal where there is none


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunks", [(1,) * 6, (6,), (2, 3, 1)])
def test_cached_in_parts_equals_the_whole(
    transformer: Transformer, x: Tensor, chunks: tuple[int, ...], masked: bool
) -> None:
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    masks = [causal.triu(-1), causal.triu(-2), causal] if masked else None
    cache, parts = transformer.empty_cache(2, 6, like=x), []
    for part in torch.split(x, list(chunks), 1):
        start, end = cache.length, cache.length + part.shape[1]
        rows = [mask[start:end, :end] for mask in masks] if masks else None
        parts.append(transformer(part, masks=rows, causal=True, cache=cache))
        assert cache.length == end
    same(torch.cat(parts, 1), transformer(x, masks=masks, causal=True))


def test_gpt2_scales_what_writes_to_the_stream() -> None:
    torch.manual_seed(0)
    transformer = Transformer(64, 8, 2)
    nn.init.constant_(transformer.blocks[0].get_parameter("mlp.0.bias"), 3.0)
    initialize_residual(transformer)
    for block in transformer.blocks:
        for name, std in [
            ("attention.query_key_value", 0.02),
            ("mlp.0", 0.02),
            ("attention.out", 0.02 / 4),
            ("mlp.2", 0.02 / 4),
        ]:
            assert block.get_parameter(f"{name}.weight").std().item() == pytest.approx(std, rel=0.05)
            assert not block.get_parameter(f"{name}.bias").any()
