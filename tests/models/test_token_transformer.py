import itertools
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.errors import PinxitError
from pinxit.models.token_transformer import SIZES, Continuation, TokenTransformer, TokenTransformerConfig
from pinxit.nn.packing import can_pack, packed
from pinxit.tokens.masks import stream_mask
from pinxit.tokens.sampler import Choice, guide, sample, uniforms

# Wide enough that the paper's 11x11 window leaves tokens out; five layers hold every pattern.
TINY = TokenTransformerConfig(
    condition_vocabulary=20, condition_length=5, image_vocabulary=17, grid=(4, 13), width=16, depth=5, heads=2
)
SMALL = TokenTransformerConfig(
    condition_vocabulary=1_024, condition_length=16, image_vocabulary=64, grid=(4, 4), width=64, depth=2, heads=2
)
Kind = Literal["full", "paper"]
KINDS: tuple[Kind, ...] = ("full", "paper")


def network_of(config: TokenTransformerConfig) -> TokenTransformer:
    """With weights so large that every token matters; freshly made, logits would be all but even."""
    torch.manual_seed(0)
    network = TokenTransformer(config).eval().requires_grad_(False)
    for name, value in network.named_parameters():
        matrix = value.ndim == 2 and name.startswith("transformer")
        value.add_(torch.randn_like(value) * (0.7 * value.shape[-1] ** -0.5 if matrix else 0.5))
    return network


def captions(rows: int, config: TokenTransformerConfig = TINY) -> Tensor:
    texts = config.condition_vocabulary + config.condition_length
    return torch.randint(texts, (rows, config.condition_length), generator=torch.Generator().manual_seed(1))


def codes(rows: int, config: TokenTransformerConfig = TINY) -> Tensor:
    shape = (rows, config.image_length)
    return torch.randint(config.image_vocabulary, shape, generator=torch.Generator().manual_seed(2))


def stream(network: TokenTransformer, text: Tensor, image: Tensor) -> list[Tensor]:
    """The logits by their place in the stream: entry p is told from tokens 0 ... p."""
    text_logits, image_logits = network(text, image)
    return [*text_logits.unbind(1), *image_logits.unbind(1)]


# What the stream is


@pytest.mark.parametrize("attention", KINDS)
def test_shapes(attention: Kind) -> None:
    network = network_of(replace(TINY, attention=attention))
    text_logits, image_logits = network(captions(3), codes(3))
    assert text_logits.shape == (3, 4, 25)
    assert image_logits.shape == (3, 52, 17)


def test_places_are_condition_positions_then_rows_plus_columns() -> None:
    network, text, image = network_of(TINY), captions(2), codes(2)
    x = network.embed(text, image)
    for place in range(5):
        expected = network.condition_embedding.weight[text[:, place]] + network.condition_position[place]
        torch.testing.assert_close(x[:, place], expected)
    for row, column in itertools.product(range(4), range(13)):
        place = row * 13 + column
        position = network.row_position[row, 0] + network.column_position[column]
        torch.testing.assert_close(x[:, 5 + place], network.image_embedding.weight[image[:, place]] + position)
    assert torch.equal(network.embed(text, image[:, :7]), x[:, :12])


def test_no_caption_is_the_pad_of_every_place() -> None:
    assert network_of(TINY).no_condition(2).tolist() == [[20, 21, 22, 23, 24]] * 2


def test_one_pad_of_the_vocabulary_stands_for_all_where_there_is_one() -> None:
    network = network_of(replace(TINY, pad=3))
    assert network.no_condition(2).tolist() == [[3] * 5] * 2
    assert network.condition_embedding.weight.shape == network.condition_head.weight.shape == (20, 16)


def test_each_place_may_have_a_vector_of_its_own() -> None:
    network, text, image = network_of(replace(TINY, positions="each")), captions(2), codes(2)
    assert not {"row_position", "column_position"} & network.state_dict().keys()
    x = network.embed(text, image)
    torch.testing.assert_close(x[:, 5:], network.image_embedding.weight[image] + network.image_position)
    assert torch.equal(network.embed(text, image[:, :7]), x[:, :12])
    expected = network(text, image)[1]
    for twin in (network, packed(network)) if can_pack() else (network,):
        following = Continuation(twin, text)
        told = torch.stack([following(image[:, :place]) for place in range(52)], 1)
        torch.testing.assert_close(told, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", KINDS)
def test_no_token_is_told_from_itself_or_from_later_ones(attention: Kind) -> None:
    network = network_of(replace(TINY, attention=attention)).double()
    text, image = captions(1), codes(1)
    before = stream(network, text, image)
    for place in range(5 + 52):
        changed_text, changed_image = text.clone(), image.clone()
        if place < 5:
            changed_text[0, place] = (text[0, place] + 1) % 25
        else:
            changed_image[0, place - 5] = (image[0, place - 5] + 1) % 17
        after = stream(network, changed_text, changed_image)
        assert len(after) == 5 + 52 - 1  # nothing is told from the last token
        for now, then in zip(after[:place], before[:place], strict=True):
            torch.testing.assert_close(now, then, atol=1e-12, rtol=0.0)
        if place < len(after):
            assert (after[place] - before[place]).abs().max() > 1e-3


def test_one_layer_reaches_exactly_as_far_as_its_mask() -> None:
    network = network_of(replace(TINY, depth=1, attention="paper")).double()
    mask = stream_mask("convolution", 5, 4, 13)
    text, image = captions(1), codes(1)
    before = stream(network, text, image)
    for place in range(52):
        changed = image.clone()
        changed[0, place] = (image[0, place] + 1) % 17
        after = stream(network, text, changed)
        moved = [bool((now - then).abs().max() > 1e-9) for now, then in zip(after, before, strict=True)]
        assert moved == mask[:-1, 5 + place].tolist()


def test_full_attention_reaches_all_that_came_before() -> None:
    network = network_of(replace(TINY, depth=1)).double()
    text, image = captions(1), codes(1)
    before, changed = stream(network, text, image), text.clone()
    changed[0, 0] = (text[0, 0] + 1) % 25
    after = stream(network, changed, image)
    assert all((now - then).abs().max() > 1e-9 for now, then in zip(after, before, strict=True))


def test_masks_are_made_in_one_order_and_stay_out_of_checkpoints() -> None:
    # Processes that train together hand buffers on by their order, so it must not depend on Python's hash seed.
    network = TokenTransformer(replace(TINY, attention="paper"))
    assert [name for name, _ in network.named_buffers()] == ["row_mask", "column_mask", "convolution_mask"]
    assert not [name for name in network.state_dict() if "mask" in name]
    assert not list(TokenTransformer(TINY).buffers())


# Sampling


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("attention", KINDS)
def test_continuing_gives_the_logits_of_the_whole(attention: Kind, cached: bool) -> None:
    network = network_of(replace(TINY, attention=attention)).double()
    text, image = captions(3), codes(3)
    _, expected = network(text, image)
    one_by_one = Continuation(network, text, cached=cached)
    for place in range(52):
        torch.testing.assert_close(one_by_one(image[:, :place]), expected[:, place], atol=1e-10, rtol=0.0)
    in_chunks = Continuation(network, text, cached=cached)
    for place in (0, 4, 5, 17, 18, 51):  # the first tokens may be given, and any number may follow at once
        torch.testing.assert_close(in_chunks(image[:, :place]), expected[:, place], atol=1e-10, rtol=0.0)


def draw(
    network: TokenTransformer, text: Tensor, seeds: list[int], *, scale: float, given: Tensor | None, cached: bool
) -> Tensor:
    if scale == 1:
        next_logits = Continuation(network, text, cached=cached)
    else:
        both = torch.cat([text, network.no_condition(len(text))])
        next_logits = guide(Continuation(network, both, cached=cached), scale)  # type: ignore[assignment]
    numbers = uniforms(seeds, network.config.image_length)
    return sample(next_logits, numbers, Choice(temperature=0.9, top_k=12, top_p=0.95), given=given)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("given", [0, 19])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("attention", KINDS)
def test_with_and_without_a_cache_the_tokens_are_the_same(attention: Kind, scale: float, given: int, rows: int) -> None:
    network = network_of(replace(TINY, attention=attention))
    text, prefix, seeds = captions(rows), codes(rows)[:, :given] if given else None, list(range(40, 40 + rows))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = text.clone(), None if prefix is None else prefix.clone()

    cached = draw(network, text, seeds, scale=scale, given=prefix, cached=True)
    uncached = draw(network, text, seeds, scale=scale, given=prefix, cached=False)
    assert torch.equal(cached, uncached)
    assert cached.shape == (rows, 52)
    assert int((torch.bincount(cached.flatten()) > 0).sum()) > 5  # no degenerate pictures, where everything would agree
    if prefix is not None:
        assert torch.equal(cached[:, :given], prefix)

    assert torch.equal(text, before[0])
    assert prefix is None or (before[1] is not None and torch.equal(prefix, before[1]))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("attention", KINDS)
def test_a_picture_is_the_same_alone_and_in_a_batch(attention: Kind) -> None:
    network, text = network_of(replace(TINY, attention=attention)), captions(5)
    batch = draw(network, text, [3, 9, 9, 2, 0], scale=2.5, given=None, cached=True)
    for row, seed in enumerate([3, 9, 9, 2, 0]):
        alone = draw(network, text[row : row + 1], [seed], scale=2.5, given=None, cached=True)
        assert torch.equal(alone[0], batch[row])


def test_guidance_is_between_two_separate_streams() -> None:
    network, text, image = network_of(TINY).double(), captions(3), codes(3)
    _, conditional = network(text, image)
    _, free = network(network.no_condition(3), image)
    next_logits = guide(Continuation(network, torch.cat([text, network.no_condition(3)])), 4.0)
    for place in range(52):
        expected = free[:, place] + 4 * (conditional[:, place] - free[:, place])
        torch.testing.assert_close(next_logits(image[:, :place]), expected, atol=1e-9, rtol=0.0)
    assert (conditional - free).abs().max() > 0.1


def test_a_call_changes_neither_text_nor_tokens_and_keeps_no_graph() -> None:
    network, text, image = network_of(TINY).requires_grad_(True), captions(2), codes(2)
    before = text.clone(), image.clone()
    continuation = Continuation(network, text)
    for place in (0, 1, 2):
        assert not continuation(image[:, :place]).requires_grad
    network(text, image)
    assert torch.equal(text, before[0])
    assert torch.equal(image, before[1])


def test_bfloat16_autocast_samples_through_the_cache() -> None:
    network, text = network_of(TINY), captions(2)
    plain = Continuation(network, text)(codes(2)[:, :9])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        continuation = Continuation(network, text)
        continuation(codes(2)[:, :8])
        mixed = continuation(codes(2)[:, :9])
    assert F.cosine_similarity(plain, mixed.float()).min() > 0.99


# Learning


@pytest.mark.parametrize("attention", KINDS)
def test_it_learns_a_batch_by_heart(attention: Kind) -> None:
    torch.manual_seed(0)
    config = replace(SMALL, attention=attention)
    network, text, image = TokenTransformer(config), captions(6, config), codes(6, config)
    text[:, 0] = torch.arange(6)  # the first token is told from nothing: it may say which row this is
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for _ in range(60):
        text_logits, image_logits = network(text, image)
        text_loss = F.cross_entropy(text_logits.flatten(0, 1), text[:, 1:].flatten())
        image_loss = F.cross_entropy(image_logits.flatten(0, 1), image.flatten())
        optimizer.zero_grad()
        (text_loss + image_loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert text_loss.item() < 0.05
    assert image_loss.item() < 0.05
    drawn = sample(Continuation(network, text), uniforms(range(6), 16), Choice(temperature=0))
    assert torch.equal(drawn, image)


def test_it_starts_knowing_nothing() -> None:
    torch.manual_seed(0)
    config = SMALL
    text_logits, image_logits = TokenTransformer(config)(captions(4, config), codes(4, config))
    for logits in (text_logits, image_logits):
        assert logits.std() < 0.3


# Sizes


def stack(width: int, depth: int) -> int:
    """Attention 4 d^2 + 4 d, perceptron 8 d^2 + 5 d, two norms 4 d, in every layer."""
    return depth * (12 * width**2 + 13 * width)


def test_the_papers_size_needs_no_memory_to_be_built() -> None:
    """12.29 billion parameters in all: 12.10 billion in the 64 layers, which is what the paper's width and depth fix
    and what its "12.0B" can be held against, and 0.19 billion in embeddings, positions and two heads that share nothing
    with the embeddings, of which the paper gives no numbers.
    """
    config = SIZES["paper"]
    with torch.device("meta"):
        network = TokenTransformer(config)
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    assert config.width == config.heads * 64

    d, texts, k = 3_968, 16_384 + 256, 8_192
    embeddings = (texts + k) * d
    positions = (256 + 32 + 32) * d
    expected = embeddings + positions + stack(d, 64) + 2 * d + embeddings
    assert sum(p.numel() for p in network.parameters()) == expected == 12_293_824_256
    assert expected / 12e9 == pytest.approx(1.0, abs=0.025)

    with torch.device("meta"):
        text_logits, image_logits = network(
            torch.empty(1, 256, dtype=torch.int64), torch.empty(1, 1_024, dtype=torch.int64)
        )
    assert text_logits.shape == (1, 255, texts)
    assert image_logits.shape == (1, 1_024, k)


@pytest.mark.parametrize(("width", "billions"), [(1_920, 2.8), (2_688, 5.6), (3_968, 12.0)])
def test_the_layers_of_the_papers_three_sizes_have_the_stated_number_of_parameters(width: int, billions: float) -> None:
    with torch.device("meta"):
        network = TokenTransformer(replace(SIZES["paper"], width=width, heads=width // 64))
    layers = sum(p.numel() for p in network.transformer.parameters())
    assert layers == stack(width, 64)
    assert layers / 1e9 == pytest.approx(billions, rel=0.015)


def test_small_sizes_stay_small() -> None:
    assert sum(p.numel() for p in TokenTransformer(SIZES["small-64"]).parameters()) < 6_000_000
    assert sum(p.numel() for p in TokenTransformer(SIZES["tiny-32"]).parameters()) < 300_000


# Conditions of other kinds, and tokens told in any order


def test_nothing_but_a_pad_is_the_condition_of_an_unconditional_network() -> None:
    network = network_of(replace(TINY, condition_vocabulary=0, condition_length=1, predicts_condition=False))
    nothing = network.no_condition(2)
    assert nothing.tolist() == [[0], [0]]
    told, logits = network(nothing, codes(2))
    assert told is None
    assert logits.shape == (2, 52, 17)
    assert not hasattr(network, "condition_head")


def test_a_vector_is_spread_over_the_positions_and_zeros_are_none() -> None:
    config = replace(TINY, condition_vocabulary=0, condition_length=3, condition_vector=8, predicts_condition=False)
    network = network_of(config)
    vectors = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    found = network.embed_condition(torch.cat([vectors, network.no_condition(1)]))
    expected = vectors @ network.condition_input.weight.t() + network.condition_input.bias
    torch.testing.assert_close(found[:2], expected.view(2, 3, 16))
    torch.testing.assert_close(found[2], network.condition_embedding.weight)
    image = codes(2)
    whole = network(vectors, image)[1]
    cached = Continuation(network, vectors)
    told = torch.stack([cached(image[:, :place]) for place in range(52)], 1)
    torch.testing.assert_close(told, whole, atol=1e-5, rtol=1e-5)
    assert (network(vectors.flip(0), image)[1] - whole).abs().max() > 1e-2


def test_in_any_order_every_token_sees_all_others_and_not_what_is_hidden() -> None:
    network = network_of(replace(TINY, order="masked", predicts_condition=False)).double()
    condition, image = captions(1), codes(1)
    covered = image.clone()
    covered[0, 20] = network.mask_id
    before = network(condition, covered)[1]
    assert before.shape == (1, 52, 17)
    for place in (0, 19, 21, 51):
        changed = covered.clone()
        changed[0, place] = (changed[0, place] + 1) % 17
        assert (network(condition, changed)[1] - before)[0, 20].abs().max() > 1e-3
    changed = condition.clone()
    changed[0, 2] = (changed[0, 2] + 1) % 25
    assert (network(changed, covered)[1] - before)[0, 20].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"order": "masked"}, "order=masked goes with"),
        ({"order": "masked", "predicts_condition": False, "attention": "paper"}, "order=masked goes with"),
        ({"condition_vector": 8}, "condition_vector goes with"),
        ({"pad": 20}, "pad=20 is none of the 20 ids of the condition"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(PinxitError, match=told):
        replace(TINY, **settings)


@pytest.mark.parametrize(("size", "millions"), [("igpt-s", 76), ("igpt-m", 455), ("igpt-l", 1_362)])
def test_igpts_sizes_have_the_published_parameters(size: str, millions: int) -> None:
    config = SIZES[size]
    with torch.device("meta"):
        network = TokenTransformer(config)
    counted = sum(value.numel() for value in network.parameters())
    # What image-gpt's code makes: no biases, norms of gains alone, a start, two tables of colours and one of places.
    d, k, n = config.width, config.image_vocabulary, config.image_length
    published = config.depth * (12 * d**2 + 2 * d) + (2 * k + n + 1) * d + d
    assert published // 10**6 == millions, "the paper cuts off what is below a million"
    assert counted == pytest.approx(published, rel=0.005)
