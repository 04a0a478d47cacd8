"""Compiled transformers tell the same as others, cached or not, with every kind of mask."""

import shutil
from dataclasses import replace
from typing import Literal

import pytest
import torch

from pinxit.models.token_transformer import TokenTransformer, TokenTransformerConfig
from pinxit.nn.compiling import compiled
from pinxit.tokens.sampler import Choice, sample, uniforms

pytestmark = [
    pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

CONFIG = TokenTransformerConfig(
    condition_vocabulary=20, condition_length=4, image_vocabulary=17, grid=(3, 4), width=16, depth=2, heads=2
)


def network_of(config: TokenTransformerConfig) -> TokenTransformer:
    torch.manual_seed(0)
    network = TokenTransformer(config).eval().requires_grad_(False)
    for value in network.parameters():
        value.add_(torch.randn_like(value) * 0.3)
    return network


@pytest.mark.parametrize(
    ("precision", "attention"),
    [
        (torch.float32, "paper"),
        pytest.param(torch.float32, "full", marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, "full", marks=pytest.mark.slow),
    ],
)
def test_sampling_through_a_compiled_step_is_the_same(
    precision: torch.dtype, attention: Literal["full", "paper"]
) -> None:
    torch.compiler.reset()
    network = network_of(replace(CONFIG, attention=attention)).to(precision)
    twin = compiled(network)
    text = torch.randint(20, (2, 4), generator=torch.Generator().manual_seed(1))
    following, plain = twin.following(text), network.following(text)
    image = torch.randint(17, (2, 12), generator=torch.Generator().manual_seed(2))
    close = 1e-5 if precision == torch.float32 else 0.1
    for place in range(12):
        torch.testing.assert_close(
            following(image[:, :place]), plain(image[:, :place]), atol=close, rtol=close, check_dtype=False
        )
    if precision == torch.float32:
        drawn = [sample(one.following(text), uniforms([0, 1], 12), Choice()) for one in (twin, network)]
        assert torch.equal(*drawn)


@pytest.mark.parametrize("rows", [pytest.param(2, marks=pytest.mark.slow), 8])  # 8 are enough for oneDNN's own linears
def test_passes_without_a_cache_are_the_same(rows: int) -> None:
    torch.compiler.reset()
    network = network_of(replace(CONFIG, order="masked", predicts_condition=False))
    text, image = torch.randint(20, (rows, 4)), torch.randint(17, (rows, 12))
    torch.testing.assert_close(compiled(network)(text, image)[1], network(text, image)[1], atol=1e-5, rtol=1e-5)
