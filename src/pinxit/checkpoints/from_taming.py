"""The token transformers of taming-transformers and of minDALL-E as ours; both are minGPT by their names.

How many heads there are, and what a transformer draws for, weights do not tell: it stands in the yaml beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pinxit.errors import PinxitError
from pinxit.models.token_transformer import TokenTransformerConfig
from pinxit.text.tokenizer import ForeignTokenizer

PREFIX = "transformer."
"""Of the transformer inside a checkpoint of taming's."""

PLACES = {
    "ln1": "attention_norm",
    "ln2": "mlp_norm",
    "attn.proj": "attention.out",
    "mlp.0": "mlp.0",
    "mlp.2": "mlp.2",
}
"""Their layers in a block -> ours; queries, keys and values are one layer here."""

TAMING_DEFAULTS = {"top_k": 250}
MINDALLE_DEFAULTS = {"top_k": 256}
"""Of sampling, as their own scripts have them."""


def is_taming(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a `Net2NetTransformer`: a codec and a transformer over its codes."""
    return {"transformer.tok_emb.weight", "first_stage_model.quant_conv.weight"} <= state.keys()


def is_mindalle(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of minDALL-E's second stage."""
    return {"tok_emb_txt.weight", "tok_emb_img.weight"} <= state.keys()


def taming(
    state: Mapping[str, Tensor], described: Mapping[str, Any], codes: int, side: int
) -> tuple[TokenTransformerConfig, dict[str, Tensor], tuple[str, ...]]:
    """Config, weights and labels of the transformer over `side` x `side` codes (Esser et al. 2021, section 3.2).

    Classes are called by their numbers. Their network has not learnt to draw for none of them: the mean of all stands
    for that.
    """
    if any(name.startswith("permuter.") for name in state):
        raise PinxitError("Its transformer draws codes in another order than row by row, which is not read here.")
    told = described["model"]["params"]
    classes = _classes(state, told)
    own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    tokens, positions = own["tok_emb.weight"], own["pos_emb"][0]
    if len(positions) < side**2:
        raise PinxitError(
            f"Its {len(positions)} positions are too few for {side}x{side} codes. Give the --size of its pictures."
        )
    none = tokens[:classes].mean(0, keepdim=True) if classes else tokens[told.get("sos_token", 0)][None]
    config = TokenTransformerConfig(
        condition_vocabulary=classes,
        condition_length=1,
        image_vocabulary=codes,
        grid=(side, side),
        width=tokens.shape[1],
        depth=_depth(own),
        heads=int(told["transformer_config"]["params"]["n_head"]),
        predicts_condition=False,
        positions="each",
    )
    last = positions.new_zeros(1, config.width)  # of the last token, which nothing comes after, they may have none
    ours = _stack(own) | {
        "condition_embedding.weight": torch.cat([tokens[:classes], none]),
        "condition_position": positions[:1],
        "image_embedding.weight": tokens[:codes],
        "image_position": torch.cat([positions[1:], last])[: side**2],
        "image_head.weight": own["head.weight"][:codes],
    }
    return config, ours, tuple(map(str, range(classes)))


def mindalle(
    state: Mapping[str, Tensor], described: Mapping[str, Any], tokenizer: ForeignTokenizer, side: int
) -> tuple[TokenTransformerConfig, dict[str, Tensor]]:
    """Config and weights of minDALL-E's second stage, which sees the pads of a text as any other token."""
    told = described["stage2"]["hparams"]
    texts, width = state["tok_emb_txt.weight"].shape
    if tokenizer.vocab_size != texts:
        raise PinxitError(f"The tokenizer has {tokenizer.vocab_size} ids, the transformer knows {texts}.")
    config = TokenTransformerConfig(
        condition_vocabulary=texts,
        condition_length=len(state["pos_emb_txt.weight"]),
        image_vocabulary=len(state["tok_emb_img.weight"]),
        grid=(side, side),
        width=width,
        depth=_depth(state),
        heads=int(told["n_heads"]),
        activation="quick_gelu" if told.get("gelu_use_approx") else "gelu",
        pad=tokenizer.pad_id,
        positions="each",
    )
    return config, _stack(state) | {
        "condition_embedding.weight": state["tok_emb_txt.weight"],
        "condition_position": state["pos_emb_txt.weight"],
        "condition_head.weight": state["head_txt.weight"],
        "image_embedding.weight": state["tok_emb_img.weight"],
        "image_position": state["pos_emb_img.weight"],
        "image_head.weight": state["head_img.weight"],
    }


def _classes(state: Mapping[str, Tensor], told: Mapping[str, Any]) -> int:
    """How many classes it draws for; 0 where it draws for nothing."""
    condition = told["cond_stage_config"]
    if told.get("unconditional") or condition == "__is_unconditional__":
        return 0
    name = condition if isinstance(condition, str) else str(condition["target"]).rpartition(".")[2]
    if name != "Labelator" or any(theirs.startswith("cond_stage_model.") for theirs in state):
        raise PinxitError(
            f"Its transformer draws for what {name} makes (depth, segmentation, boxes and such), which is not read "
            "here. Read are those for classes and for nothing; --part codec takes the codec alone."
        )
    return int(condition["params"]["n_classes"])


def _depth(state: Mapping[str, Tensor]) -> int:
    return len({found[1] for name in state if (found := re.match(r"blocks\.(\d+)\.", name))})


def _stack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The blocks and the last norm."""
    ours = {f"norm.{kind}": state[f"ln_f.{kind}"] for kind in ("weight", "bias")}
    for name, value in state.items():
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if not found or found[2] in ("attn.key", "attn.value"):
            continue
        layer, place, kind = found.groups()
        if place == "attn.query":
            parts = [state[f"blocks.{layer}.attn.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"transformer.blocks.{layer}.attention.query_key_value.{kind}"] = torch.cat(parts)
        else:
            ours[f"transformer.blocks.{layer}.{PLACES[place]}.{kind}"] = value
    return ours
