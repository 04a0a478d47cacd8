"""CLIPs of OpenAI, open_clip and transformers, and GLIDE's CLIP of noisy pictures, as ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pinxit.errors import PinxitError
from pinxit.models.clip import SIZES, CLIPConfig, TextConfig, VisionConfig
from pinxit.nn.transformer import Activation
from pinxit.text.tokenizer import Tokenizer

MERGES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt", "merges.txt", "tokenizer.json")
"""Where CLIP's tokenizer lies: in OpenAI's and open_clip's packages, and beside transformers' weights."""

HEAD = 64
"""Width of a head in every published CLIP."""

PUBLISHED = SIZES["vit-b32"]
"""For what weights do not tell."""

Table = Sequence[tuple[str, str]]

BLOCK: Table = (
    (r"\.ln_1\.", ".attention_norm."),
    (r"\.ln_2\.", ".mlp_norm."),
    (r"\.attn\.in_proj_", ".attention.query_key_value."),
    (r"\.attn\.out_proj\.", ".attention.out."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.2."),
)

OPENAI: Table = (
    (r"^visual\.class_embedding$", "vision.class_token"),
    (r"^visual\.conv1\.", "vision.patches."),
    (r"^visual\.positional_embedding$", "vision.positions"),
    (r"^visual\.ln_pre\.", "vision.norm_before."),
    (r"^visual\.ln_post\.", "vision.norm_after."),
    (r"^visual\.proj$", "vision.projection.weight"),
    (r"^token_embedding\.", "text.tokens."),
    (r"^positional_embedding$", "text.positions"),
    (r"^ln_final\.", "text.norm."),
    (r"^text_projection$", "text.projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision.transformer.blocks."),
    (r"^transformer\.resblocks\.", "text.transformer.blocks."),
    *BLOCK,
)
"""OpenAI's and open_clip's."""

TRANSFORMERS: Table = (
    (r"^vision_model\.embeddings\.class_embedding$", "vision.class_token"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "vision.patches."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "vision.positions"),
    (r"^vision_model\.pre_layrnorm\.", "vision.norm_before."),
    (r"^vision_model\.post_layernorm\.", "vision.norm_after."),
    (r"^visual_projection\.", "vision.projection."),
    (r"^text_model\.embeddings\.token_embedding\.", "text.tokens."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "text.positions"),
    (r"^text_model\.final_layer_norm\.", "text.norm."),
    (r"^text_projection\.", "text.projection."),
    (r"^vision_model\.encoder\.layers\.", "vision.transformer.blocks."),
    (r"^text_model\.encoder\.layers\.", "text.transformer.blocks."),
    (r"\.layer_norm1\.", ".attention_norm."),
    (r"\.layer_norm2\.", ".mlp_norm."),
    (r"\.self_attn\.out_proj\.", ".attention.out."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)

GLIDE: Table = (
    (r"^vision\.blocks\.input\.w_t$", "vision.class_token"),
    (r"^vision\.blocks\.input\.patch_proj$", "vision.patches.weight"),
    (r"^vision\.blocks\.input\.ln\.", "vision.norm_before."),
    (r"^vision\.blocks\.output\.ln\.", "vision.norm_after."),
    (r"^text\.blocks\.input\.w_voc$", "text.tokens.weight"),
    (r"^text\.blocks\.output\.ln\.", "text.norm."),
    (r"\.blocks\.input\.w_pos$", ".positions"),
    (r"\.blocks\.output\.f\.", ".projection."),
    (r"\.blocks\.block_(\d+)\.", r".transformer.blocks.\1."),
    (r"\.f_attn\.ln\.", ".attention_norm."),
    (r"\.f_attn\.f_c\.", ".attention.out."),
    (r"\.f_mlp\.ln\.", ".mlp_norm."),
    (r"\.f_mlp\.f_1\.", ".mlp.0."),
    (r"\.f_mlp\.f_2\.", ".mlp.2."),
    (r"\.[wg]$", ".weight"),
    (r"\.b$", ".bias"),
)
"""GLIDE's, whose halves are files of their own: here they are called vision and text."""


class Found(NamedTuple):
    """A CLIP of ours."""

    config: CLIPConfig
    state: dict[str, Tensor]
    tokenizer: Tokenizer


def is_openai(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of OpenAI and open_clip, in a CLIP or in a training run's checkpoint of one."""
    plain = _bare(state)
    return {"visual.conv1.weight", "token_embedding.weight", "ln_final.weight"} <= plain.keys()


def described(folder: Path) -> Mapping[str, Any] | None:
    """The config.json of a CLIP of transformers."""
    found = read_json(folder / "config.json")
    whole = isinstance(found, dict) and found.get("model_type") == "clip" and "text_config" in found
    return found if whole else None


def is_noised(state: Mapping[str, Tensor]) -> str | None:
    """Which half of GLIDE's CLIP this is: vision or text."""
    names = {"vision": "blocks.input.w_t", "text": "blocks.input.w_voc"}
    return next((half for half, name in names.items() if name in state), None)


def openai(state: Mapping[str, Tensor], folder: Path) -> Found:
    """OpenAI's or open_clip's, by the open_clip_config.json beside it, or else by its shapes."""
    plain = _bare(state)
    if "visual.proj" not in plain:
        raise PinxitError("This CLIP looks at pictures through another network than a vision transformer.")
    told = read_json(folder / "open_clip_config.json") or {}
    model, pixels = told.get("model_cfg", {}), told.get("preprocess_cfg", {})
    _refuse_other_towers(model)
    heads = int(model.get("vision_cfg", {}).get("head_width", HEAD))
    activation: Activation = "gelu" if told and not model.get("quick_gelu", False) else "quick_gelu"
    ours = {
        name: value.t() if name.endswith(".projection.weight") else value
        for name, value in _renamed(plain, OPENAI).items()
    }
    config = _config(
        ours,
        heads=(ours["vision.positions"].shape[1] // heads, int(model.get("text_cfg", {}).get("heads", 0)) or None),
        activation=activation,
        mean=pixels.get("mean"),
        std=pixels.get("std"),
    )
    return Found(config, ours, _tokenizer(folder, config))


def transformers(told: Mapping[str, Any], state: Mapping[str, Tensor], texts: Path, pictures: Path) -> Found:
    """transformers' CLIPModel, or both towers of it by themselves; its tokenizer in a folder `texts`, and the
    preprocessor_config.json of `pictures` in another.
    """
    vision, text = told["vision_config"], told["text_config"]
    ours = _renamed({name: value for name, value in state.items() if "position_ids" not in name}, TRANSFORMERS)
    for name in [name for name in ours if ".self_attn.q_proj." in name]:
        parts = [ours.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        ours[name.replace(".self_attn.q_proj.", ".attention.query_key_value.")] = torch.cat(parts)
    activations = {tower.get("hidden_act", "quick_gelu") for tower in (vision, text)}
    if not activations <= {"gelu", "quick_gelu"} or len(activations) > 1:
        raise PinxitError(
            f"hidden_act={' and '.join(sorted(activations))}: read are gelu and quick_gelu, one for both."
        )
    ours.setdefault("logit_scale", torch.tensor(100.0).log())  # as all published ones have it
    pixels = read_json(pictures / "preprocessor_config.json") or {}
    config = _config(
        ours,
        heads=(int(vision.get("num_attention_heads", 12)), int(text.get("num_attention_heads", 8))),
        activation=activations.pop(),
        mean=pixels.get("image_mean"),
        std=pixels.get("image_std"),
    )
    return Found(config, ours, _tokenizer(texts, config))


def noised(vision: Mapping[str, Tensor], text: Mapping[str, Tensor], folder: Path) -> Found:
    """GLIDE's, out of its halves (Nichol et al. 2021, section 2.4). Rows that its tokenizer has no id for are cut."""
    both = {
        f"{half}.{name}": value for half, state in (("vision", vision), ("text", text)) for name, value in state.items()
    }
    ours = _renamed(both, GLIDE)
    for name in [name for name in ours if name.endswith(".f_attn.f_q.weight")]:
        at = name.removesuffix("f_attn.f_q.weight")
        parts = [ours.pop(f"{at}f_attn.f_{part}.weight") for part in "qkv"]
        ours[f"{at}attention.query_key_value.weight"] = torch.cat(parts)
        query, value = (ours.pop(f"{at}f_attn.f_{part}.bias") for part in "qv")
        ours[f"{at}attention.query_key_value.bias"] = torch.cat([query, torch.zeros_like(query), value])
    ours["logit_scale"] = torch.tensor(100.0).log()
    tokenizer = _read_tokenizer(folder)
    ours["text.tokens.weight"] = ours["text.tokens.weight"][: tokenizer.vocab_size]
    return Found(_config(ours, heads=(None, None), activation="gelu"), ours, tokenizer)


def _config(
    ours: Mapping[str, Tensor],
    *,
    heads: tuple[int | None, int | None],
    activation: Activation,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> CLIPConfig:
    """What shapes tell, and what they do not: heads of pictures and texts, of 64 where there is none."""
    width, _, patch, _ = ours["vision.patches.weight"].shape
    side = round((len(ours["vision.positions"]) - 1) ** 0.5)
    vocabulary, text_width = ours["text.tokens.weight"].shape
    depths = [
        len({name.split(".")[3] for name in ours if name.startswith(f"{tower}.transformer.blocks.")})
        for tower in ("vision", "text")
    ]
    token = ours["vision.class_token"]
    return CLIPConfig(
        width=len(ours["vision.projection.weight"]),
        vision=VisionConfig(
            size=side * patch,
            patch=patch,
            width=width,
            depth=depths[0],
            heads=heads[0] or width // HEAD,
            levels=len(token) if token.ndim == 2 else None,
        ),
        text=TextConfig(
            vocabulary, len(ours["text.positions"]), text_width, depths[1], heads=heads[1] or text_width // HEAD
        ),
        activation=activation,
        mean=_three(mean) or PUBLISHED.mean,
        std=_three(std) or PUBLISHED.std,
    )


def _three(values: Sequence[float] | None) -> tuple[float, float, float] | None:
    if not values:
        return None
    red, green, blue = map(float, values)
    return red, green, blue


def _refuse_other_towers(model: Mapping[str, Any]) -> None:
    """Raises PinxitError for what open_clip knows beyond the towers of the paper."""
    known = {
        "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width"},
        "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers"},
    }
    for tower, names in known.items():
        if other := sorted(model.get(tower, {}).keys() - names):
            raise PinxitError(f"open_clip_config.json: {tower}.{other[0]} makes a network that is not known here.")


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what training and open_clip's CustomTextCLIP put before names, and without what is no weight."""
    dropped = ("input_resolution", "context_length", "vocab_size", "attn_mask")
    bare = {name.removeprefix("module.").removeprefix("text."): value for name, value in state.items()}
    return {name: value for name, value in bare.items() if name not in dropped}


def _renamed(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    ours = {}
    for name, value in state.items():
        for pattern, new in table:
            name = re.sub(pattern, new, name)  # noqa: PLW2901
        ours[name] = value.float()
    return ours


def _tokenizer(folder: Path, config: CLIPConfig) -> Tokenizer:
    tokenizer = _read_tokenizer(folder)
    if tokenizer.vocab_size != config.text.vocab_size:
        raise PinxitError(
            f"The tokenizer in {folder} has {tokenizer.vocab_size} ids, the text tower {config.text.vocab_size}: they "
            "do not belong together."
        )
    return tokenizer


def _read_tokenizer(folder: Path) -> Tokenizer:
    for name in MERGES:
        if (file := folder / name).is_file():
            return Tokenizer.over_merges(file)
    raise PinxitError(
        f"CLIP's texts are read by {', '.join((MERGES[0], *MERGES[2:]))}, and none is in {folder}. Its package or "
        "its folder on the hub has one; put it beside the weights."
    )


def read_json(file: Path) -> Any:
    """What a config beside weights says; None where there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as fault:
        raise PinxitError(f"{file} cannot be read as JSON: {fault}.") from fault
