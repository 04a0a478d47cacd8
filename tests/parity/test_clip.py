"""Our CLIP beside those of transformers and open_clip, with the same random weights."""

import re
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from pinxit.models.clip import CLIP, CLIPConfig, TextConfig, VisionConfig
from pinxit.nn.transformer import Activation

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "quick_gelu")

TRANSFORMERS = [
    (r"vision_model\.embeddings\.class_embedding", "vision.class_token"),
    (r"vision_model\.embeddings\.patch_embedding\.", "vision.patches."),
    (r"vision_model\.embeddings\.position_embedding\.weight", "vision.positions"),
    (r"vision_model\.pre_layrnorm\.", "vision.norm_before."),
    (r"vision_model\.post_layernorm\.", "vision.norm_after."),
    (r"visual_projection\.", "vision.projection."),
    (r"text_model\.embeddings\.token_embedding\.", "text.tokens."),
    (r"text_model\.embeddings\.position_embedding\.weight", "text.positions"),
    (r"text_model\.final_layer_norm\.", "text.norm."),
    (r"text_projection\.", "text.projection."),
    (r"vision_model\.encoder\.layers\.", "vision.transformer.blocks."),
    (r"text_model\.encoder\.layers\.", "text.transformer.blocks."),
    (r"\.layer_norm1\.", ".attention_norm."),
    (r"\.layer_norm2\.", ".mlp_norm."),
    (r"\.self_attn\.out_proj\.", ".attention.out."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
]

OPEN_CLIP = [
    (r"^visual\.class_embedding", "vision.class_token"),
    (r"^visual\.conv1\.", "vision.patches."),
    (r"^visual\.positional_embedding", "vision.positions"),
    (r"^visual\.ln_pre\.", "vision.norm_before."),
    (r"^visual\.ln_post\.", "vision.norm_after."),
    (r"^visual\.proj$", "vision.projection.weight"),
    (r"^token_embedding\.", "text.tokens."),
    (r"^positional_embedding", "text.positions"),
    (r"^ln_final\.", "text.norm."),
    (r"^text_projection$", "text.projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision.transformer.blocks."),
    (r"^transformer\.resblocks\.", "text.transformer.blocks."),
    (r"\.ln_1\.", ".attention_norm."),
    (r"\.ln_2\.", ".mlp_norm."),
    (r"\.attn\.in_proj_", ".attention.query_key_value."),
    (r"\.attn\.out_proj\.", ".attention.out."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.2."),
]


def config_of(activation: Activation) -> CLIPConfig:
    return CLIPConfig(
        width=24,
        vision=VisionConfig(size=32, patch=8, width=48, depth=3, heads=4),
        text=TextConfig(vocab_size=99, length=20, width=32, depth=2, heads=2),
        activation=activation,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


def renamed(state: Mapping[str, Tensor], table: list[tuple[str, str]]) -> dict[str, Tensor]:
    names = {}
    for name, value in state.items():
        ours = name
        for pattern, replacement in table:
            ours = re.sub(pattern, replacement, ours)
        names[ours] = value
    return names


def randomize(module: torch.nn.Module) -> None:
    """Norms and biases start at 1 and 0, which would hide a swapped name."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name != "logit_scale":
                value.add_(0.1 * torch.randn(value.shape, generator=generator))


def inputs(config: CLIPConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in [-1, 1], the same normalised, and framed ids of several lengths."""
    generator = torch.Generator().manual_seed(1)
    fractions = torch.rand(5, 3, config.vision.size, config.vision.size, generator=generator)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    ids = torch.randint(1, config.text.vocab_size - 2, (5, config.text.length), generator=generator)
    end = config.text.vocab_size - 1
    for row, length in zip(ids, (2, 7, 12, 19, 20), strict=True):
        row[length - 1] = end
        row[length:] = end
    return 2 * fractions - 1, (fractions - mean) / std, ids


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_equal_those_of_transformers(activation: Activation) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = config_of(activation)
    end = config.text.vocab_size - 1
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(
            projection_dim=config.width,
            vision_config={
                "image_size": config.vision.size,
                "patch_size": config.vision.patch,
                "hidden_size": config.vision.width,
                "intermediate_size": 4 * config.vision.width,
                "num_hidden_layers": config.vision.depth,
                "num_attention_heads": config.vision.heads,
                "hidden_act": activation,
            },
            text_config={
                "vocab_size": config.text.vocab_size,
                "max_position_embeddings": config.text.length,
                "hidden_size": config.text.width,
                "intermediate_size": 4 * config.text.width,
                "num_hidden_layers": config.text.depth,
                "num_attention_heads": config.text.heads,
                "hidden_act": activation,
                "eos_token_id": end,
                "bos_token_id": end - 1,
                "pad_token_id": end,
            },
        )
    ).eval()
    randomize(theirs)
    state = renamed({k: v for k, v in theirs.state_dict().items() if not k.endswith("position_ids")}, TRANSFORMERS)
    for tower, depth in (("vision", config.vision.depth), ("text", config.text.depth)):
        for layer in range(depth):
            block = f"{tower}.transformer.blocks.{layer}"
            for kind in ("weight", "bias"):
                parts = [state.pop(f"{block}.self_attn.{part}_proj.{kind}") for part in "qkv"]
                state[f"{block}.attention.query_key_value.{kind}"] = torch.cat(parts)
    ours = CLIP(config).eval()
    ours.load_state_dict(state)

    pixels, normalised, ids = inputs(config)
    with torch.no_grad():
        output = theirs(pixel_values=normalised, input_ids=ids)
        torch.testing.assert_close(ours.encode_image(pixels), output.image_embeds, atol=1e-5, rtol=0.0)
        torch.testing.assert_close(ours.encode_text(ids), output.text_embeds, atol=1e-5, rtol=0.0)
        torch.testing.assert_close(ours(pixels, ids), output.logits_per_image, atol=2e-4, rtol=0.0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_equal_those_of_open_clip(activation: Activation) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch and a torchvision that imports")
    config = config_of(activation)
    theirs = open_clip.model.CLIP(
        embed_dim=config.width,
        quick_gelu=activation == "quick_gelu",
        vision_cfg={
            "image_size": config.vision.size,
            "patch_size": config.vision.patch,
            "width": config.vision.width,
            "layers": config.vision.depth,
            "head_width": config.vision.width // config.vision.heads,
        },
        text_cfg={
            "context_length": config.text.length,
            "vocab_size": config.text.vocab_size,
            "width": config.text.width,
            "heads": config.text.heads,
            "layers": config.text.depth,
        },
    ).eval()
    randomize(theirs)
    state = renamed({k: v for k, v in theirs.state_dict().items() if k != "attn_mask"}, OPEN_CLIP)
    for tower in ("vision", "text"):
        state[f"{tower}.projection.weight"] = state[f"{tower}.projection.weight"].T
    ours = CLIP(config).eval()
    ours.load_state_dict(state)

    pixels, normalised, ids = inputs(config)
    with torch.no_grad():
        images = theirs.encode_image(normalised, normalize=True)
        texts = theirs.encode_text(ids, normalize=True)
    torch.testing.assert_close(ours.encode_image(pixels), images, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(ours.encode_text(ids), texts, atol=1e-5, rtol=0.0)
