import math

import pytest
import torch
from torch import Tensor

from pinxit.errors import PinxitError
from pinxit.nn.attention import PLAIN_UP_TO, Attention, Cache, attend

WIDTH, HEADS = 12, 3


def explicit(attention: Attention, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, head by head and row by row, from the module's weights."""
    if context is None:
        weights = attention.query_key_value.weight.chunk(3)
        biases = attention.query_key_value.bias.chunk(3)
    else:
        weights = (attention.query.weight, *attention.key_value.weight.chunk(2))
        biases = (attention.query.bias, *attention.key_value.bias.chunk(2))
    sources = (x, *2 * [x if context is None else context])
    q, k, v = (source @ w.T + b for source, w, b in zip(sources, weights, biases, strict=True))
    size = WIDTH // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        e = (scores - scores.amax(-1, keepdim=True)).exp()
        heads.append(e / e.sum(-1, keepdim=True) @ v[..., part])
    return torch.cat(heads, -1) @ attention.out.weight.T + attention.out.bias


def triangle(n: int) -> Tensor:
    return torch.tensor([[key <= query for key in range(n)] for query in range(n)])


@pytest.fixture(params=[True, False], ids=["training", "sampling"])
def trains(request: pytest.FixtureRequest) -> bool:
    """With and without gradients: each has its own way to compute the same."""
    return bool(request.param)


@pytest.fixture
def attention(trains: bool) -> Attention:
    torch.manual_seed(0)
    return Attention(WIDTH, HEADS).double().requires_grad_(trains)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 7, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def empty_cache(capacity: int, like: Tensor, layers: int = 1) -> Cache:
    return Cache.empty(
        layers=layers, rows=len(like), heads=HEADS, capacity=capacity, head_width=WIDTH // HEADS, like=like
    )


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0.0)


def test_everything_looks_at_everything(attention: Attention, x: Tensor) -> None:
    same(attention(x), explicit(attention, x))


def test_causal_looks_back_only(attention: Attention, x: Tensor) -> None:
    same(attention(x, causal=True), explicit(attention, x, mask=triangle(7)))


def test_a_mask_says_who_looks_where(attention: Attention, x: Tensor) -> None:
    mask = torch.rand(7, 7, generator=torch.Generator().manual_seed(2)) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    expected = explicit(attention, x, mask=mask)
    same(attention(x, mask=mask), expected)
    assert (expected - explicit(attention, x)).abs().max() > 1e-3


def test_a_mask_may_differ_between_rows(attention: Attention, x: Tensor) -> None:
    lengths = torch.tensor([3, 7])
    mask = (torch.arange(7) < lengths[:, None])[:, None, None, :]
    same(attention(x, mask=mask)[:1], explicit(attention, x[:1, :7], mask=mask[0, 0].expand(7, 7)))
    same(attention(x, mask=mask)[1:], explicit(attention, x[1:]))


def test_a_mask_takes_the_place_of_causal(attention: Attention, x: Tensor) -> None:
    mask = triangle(7) & (torch.arange(7) % 2 == 0) | torch.eye(7, dtype=torch.bool)
    same(attention(x, mask=mask, causal=True), explicit(attention, x, mask=mask))


def test_cross_attention_takes_keys_and_values_from_the_context(trains: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS, context_width=5).double().requires_grad_(trains)
    x, context = torch.randn(2, 4, WIDTH, dtype=torch.float64), torch.randn(2, 9, 5, dtype=torch.float64)
    same(attention(x, context=context), explicit(attention, x, context))
    mask = (torch.arange(9) < 6)[None]
    same(attention(x, context=context, mask=mask), explicit(attention, x, context[:, :6]))


@pytest.mark.parametrize("chunks", [(1,) * 7, (7,), (3, 1, 1, 2), (1, 5, 1), (4, 3)])
def test_with_a_cache_the_parts_give_the_whole(attention: Attention, x: Tensor, chunks: tuple[int, ...]) -> None:
    cache, parts = empty_cache(9, x), []
    for part in torch.split(x, list(chunks), 1):
        parts.append(attention(part, causal=True, cache=cache))
        cache.length += part.shape[1]
    same(torch.cat(parts, 1), attention(x, causal=True))


@pytest.mark.parametrize("chunks", [(1,) * 7, (7,), (3, 1, 1, 2)])
def test_with_a_cache_and_a_mask_too(attention: Attention, x: Tensor, chunks: tuple[int, ...]) -> None:
    mask = triangle(7) & (torch.arange(7) % 3 == 0) | torch.eye(7, dtype=torch.bool)
    cache, parts = empty_cache(7, x), []
    for part in torch.split(x, list(chunks), 1):
        start, end = cache.length, cache.length + part.shape[1]
        parts.append(attention(part, mask=mask[start:end, :end], cache=cache))
        cache.length = end
    same(torch.cat(parts, 1), attention(x, mask=mask))


@pytest.mark.parametrize("n", [40, 600])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_the_formula_at_any_length(n: int, masked: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(WIDTH, HEADS).double()
    x = torch.randn(1, n, WIDTH, dtype=torch.float64)
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    if masked:
        mask &= torch.rand(n, n) < 0.3
        mask |= torch.eye(n, dtype=torch.bool)
    weight = attention.query_key_value.weight
    goal = torch.randn(1, n, WIDTH, dtype=torch.float64)
    found = attention(x, mask=mask) if masked else attention(x, causal=True)
    (ours,) = torch.autograd.grad((found * goal).sum(), weight)
    (theirs,) = torch.autograd.grad((explicit(attention, x, mask=mask) * goal).sum(), weight)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("m", [9, PLAIN_UP_TO + 1])
@pytest.mark.parametrize("how", ["everywhere", "causal", "masked"])
def test_in_bfloat16_it_is_float32_rounded(m: int, how: str) -> None:
    q, k, v = (torch.randn(2, 3, length, 4, requires_grad=True) for length in (5, m, m))
    mask = torch.rand(2, 1, 5, m) < 0.5 if how == "masked" else None
    goal = torch.randn(2, 3, 5, 4)
    outcomes = []
    for dtype in (torch.float32, torch.bfloat16):
        out = attend(q.to(dtype), k.to(dtype), v.to(dtype), mask, how == "causal").float()
        outcomes.append((out, *torch.autograd.grad((out * goal).sum(), (q, k, v))))
    for exact, rounded in zip(*outcomes, strict=True):
        assert (rounded - exact).norm() < 0.02 * exact.norm()


def test_layers_keep_apart_in_one_cache(attention: Attention, x: Tensor) -> None:
    cache = empty_cache(7, x, layers=2)
    attention(x[:, :6], causal=True, cache=cache, layer=0)
    attention(-x[:, :6], causal=True, cache=cache, layer=1)
    cache.length = 6
    same(attention(x[:, 6:], causal=True, cache=cache, layer=0), attention(x, causal=True)[:, 6:])
    same(attention(-x[:, 6:], causal=True, cache=cache, layer=1), attention(-x, causal=True)[:, 6:])


def test_the_cache_has_the_capacity_and_dtype_it_was_asked_for(x: Tensor) -> None:
    cache = empty_cache(9, x.bfloat16())
    assert cache.capacity == 9
    assert cache.length == 0
    assert cache.keys.dtype == cache.values.dtype == torch.float32, "at the least, on a CPU"
    assert empty_cache(9, x).keys.dtype == x.dtype == torch.float64


def test_what_it_is_given_stays(attention: Attention, x: Tensor) -> None:
    before, mask = x.clone(), triangle(7)
    cache = empty_cache(7, x)
    attention(x, mask=mask, cache=cache)
    assert torch.equal(x, before)
    assert torch.equal(mask, triangle(7))
    assert cache.length == 0  # the stack moves it on, once all layers have written


def test_a_width_that_does_not_divide_is_named() -> None:
    with pytest.raises(PinxitError, match="width of 10 does not divide into 4 heads"):
        Attention(10, 4)
