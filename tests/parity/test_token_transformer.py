"""Our token transformer with full attention beside the GPT-2 of transformers, with the same random weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pinxit.models.token_transformer import Continuation, TokenTransformer, TokenTransformerConfig
from pinxit.tokens.sampler import Choice, sample, uniforms

CONFIG = TokenTransformerConfig(
    condition_vocabulary=30, condition_length=7, image_vocabulary=40, grid=(4, 5), width=32, depth=3, heads=4
)
TEXTS = CONFIG.condition_vocabulary + CONFIG.condition_length

transformers = pytest.importorskip("transformers", reason="needs transformers")


def ours() -> TokenTransformer:
    """With every parameter moved away from where it starts, which could hide a swapped one."""
    torch.manual_seed(0)
    network = TokenTransformer(CONFIG).eval().requires_grad_(False)
    for value in network.parameters():
        value.add_(0.1 * torch.randn_like(value))
    return network


def theirs(network: TokenTransformer) -> Any:
    """GPT-2 over one vocabulary, in which the codes come after the text, with our weights."""
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=TEXTS + CONFIG.image_vocabulary,
            n_positions=CONFIG.condition_length + CONFIG.image_length,
            n_embd=CONFIG.width,
            n_layer=CONFIG.depth,
            n_head=CONFIG.heads,
            activation_function="gelu",
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    s = network.state_dict()
    places = (s["row_position"] + s["column_position"]).flatten(0, 1)
    state = {
        "transformer.wte.weight": torch.cat([s["condition_embedding.weight"], s["image_embedding.weight"]]),
        "transformer.wpe.weight": torch.cat([s["condition_position"], places]),
        "lm_head.weight": torch.cat([s["condition_head.weight"], s["image_head.weight"]]),
    }
    for kind in ("weight", "bias"):
        state[f"transformer.ln_f.{kind}"] = s[f"norm.{kind}"]
        for layer in range(CONFIG.depth):
            for name, name_there in (
                ("attention_norm", "ln_1"),
                ("attention.query_key_value", "attn.c_attn"),
                ("attention.out", "attn.c_proj"),
                ("mlp_norm", "ln_2"),
                ("mlp.0", "mlp.c_fc"),
                ("mlp.2", "mlp.c_proj"),
            ):
                value = s[f"transformer.blocks.{layer}.{name}.{kind}"]
                state[f"transformer.h.{layer}.{name_there}.{kind}"] = value.T if value.ndim == 2 else value
    gpt2.load_state_dict(state)
    return gpt2


def tokens(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(TEXTS, (rows, CONFIG.condition_length), generator=generator)
    return text, torch.randint(CONFIG.image_vocabulary, (rows, CONFIG.image_length), generator=generator)


def test_logits_equal_those_of_gpt2() -> None:
    network, (text, image) = ours(), tokens(3)
    with torch.no_grad():
        logits = theirs(network)(torch.cat([text, TEXTS + image], 1)).logits
    text_logits, image_logits = network(text, image)
    last = CONFIG.condition_length - 1
    assert image_logits.std() > 0.3
    torch.testing.assert_close(text_logits, logits[:, :last, :TEXTS], atol=1e-5, rtol=0.0)
    torch.testing.assert_close(image_logits, logits[:, last:-1, TEXTS:], atol=1e-5, rtol=0.0)


def test_greedy_pictures_equal_those_of_gpt2_with_its_own_cache() -> None:
    network, (text, _) = ours(), tokens(3)
    gpt2, cache, ids, expected = theirs(network), None, text, []
    with torch.no_grad():
        for _ in range(CONFIG.image_length):
            output = gpt2(ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            expected.append(output.logits[:, -1, TEXTS:].argmax(-1, keepdim=True))
            ids = TEXTS + expected[-1]
    drawn = sample(Continuation(network, text), uniforms([0, 1, 2], CONFIG.image_length), Choice(temperature=0))
    assert torch.equal(drawn, torch.cat(expected, 1))
    assert len(set(drawn.flatten().tolist())) > 5
