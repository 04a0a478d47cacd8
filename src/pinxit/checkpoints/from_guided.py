"""guided-diffusion's and GLIDE's denoisers as ours, and the former's classifiers.

Neither keeps a config with its weights: the published ones are known by their number, others by a yaml of the flags
that they were trained with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.errors import PinxitError
from pinxit.models.denoiser import SIZES, Denoiser, DenoiserConfig
from pinxit.models.noised_classifier import SIZES as CLASSIFIERS
from pinxit.models.noised_classifier import NoisedClassifier, NoisedClassifierConfig
from pinxit.models.text_encoder import TextEncoderConfig
from pinxit.models.unet import AttentionBlock, Block, UNet, UNetConfig, UNetEncoder

NEW_ORDER = "adm-64"
"""The published weights whose queries, keys and values stand apart before they are split into heads."""

FLAGS: dict[str, Any] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "rescale_timesteps": False,
    "predict_xstart": False,
}
"""guided-diffusion's, as far as they make a difference, and what they are where they are left out."""

CLASSIFIER_FLAGS = FLAGS | {
    "num_res_blocks": 2,
    "num_head_channels": 64,
    "attention_resolutions": "32,16,8",
    "resblock_updown": True,
    "learn_sigma": True,
}

GLIDE_FLAGS = FLAGS | {
    "num_channels": 192,
    "num_res_blocks": 3,
    "num_heads": 1,
    "num_head_channels": 64,
    "attention_resolutions": "32,16,8",
    "resblock_updown": True,
    "learn_sigma": True,
    "noise_schedule": "squaredcos_cap_v2",
    "text_ctx": 128,
    "xf_heads": 8,
}

MULTIPLIERS = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}
"""By the side of the pictures, where channel_mult is left out."""

DEFAULTS = {
    "glide": {"sampler": "ddpm", "steps": 100, "guidance": 3.0},
    "adm": {"sampler": "ddpm", "steps": 250},
    "ddpm": {"sampler": "ddpm", "steps": 250},
}
"""How their own scripts draw, by the kind of system."""

ENLARGING = {"sampler": "ddpm", "steps": 250, "temperature": 1.0}
"""How guided-diffusion's script enlarges; GLIDE's way is ours."""

LED = 10.0
"""The scale of a classifier's gradient that their scripts lead a base by which knows no classes."""

BETAS: dict[str, Literal["linear", "cosine"]] = {
    "linear": "linear",
    "cosine": "cosine",
    "squaredcos_cap_v2": "cosine",
}

CLIP_NOISE = ProcessConfig(DiscreteConfig("cosine"), learned_variance=True)
"""By which GLIDE's CLIP has learnt of noisy pictures: that of GLIDE's base."""

BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "told",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
}
"""Their layers in a residual block -> ours."""

TEXT = {"attn.c_proj": "attention.out", "ln_1": "attention_norm", "ln_2": "mlp_norm"}
TEXT |= {"mlp.c_fc": "mlp.0", "mlp.c_proj": "mlp.2"}


class Place(NamedTuple):
    """One layer, by their name and by ours; attentions know their heads."""

    theirs: str
    ours: str
    heads: int = 0


def is_denoiser(state: Mapping[str, Tensor]) -> bool:
    """Whether these are a U-Net by their names, with what goes up again."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.0.weight"} <= state.keys()


def is_classifier(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the first half of a U-Net, and what pools it."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.positional_embedding"} <= state.keys()


def classifier(
    state: Mapping[str, Tensor], flags: Mapping[str, Any] | None
) -> tuple[NoisedClassifierConfig, dict[str, Tensor]]:
    """Config and weights of a classifier of noisy pictures, as `denoiser` has them."""
    if flags is not None:
        config = _configured_classifier(state, flags)
    else:
        config = _published(state, CLASSIFIERS, NoisedClassifier)
    with torch.device("meta"):
        network = NoisedClassifier(config)
    ours = _moved(state, [*_encoder(network.encoder, "encoder"), Place("out.0", "norm")], new_order=False)
    ours["pool.positions"] = state["out.2.positional_embedding"].t()
    for kind in ("weight", "bias"):
        for theirs, name in (("qkv_proj", "query_key_value"), ("c_proj", "out")):
            value = state[f"out.2.{theirs}.{kind}"]
            ours[f"pool.{name}.{kind}"] = value.squeeze(-1) if kind == "weight" else value
    return config, ours


def _configured_classifier(state: Mapping[str, Tensor], flags: Mapping[str, Any]) -> NoisedClassifierConfig:
    names = {
        "classifier_width": "num_channels",
        "classifier_depth": "num_res_blocks",
        "classifier_attention_resolutions": "attention_resolutions",
        "classifier_use_scale_shift_norm": "use_scale_shift_norm",
        "classifier_resblock_updown": "resblock_updown",
    }
    told = {**CLASSIFIER_FLAGS, **{names.get(name, name): value for name, value in flags.items()}}
    if (pool := told.get("classifier_pool", "attention")) != "attention":
        raise PinxitError(f"classifier_pool={pool}: read is attention alone.")
    whole = configured({"input_blocks.0.0.weight": state["input_blocks.0.0.weight"]}, told)
    return NoisedClassifierConfig(whole.unet, whole.process, classes=len(state["out.2.c_proj.weight"]))


def denoiser(state: Mapping[str, Tensor], flags: Mapping[str, Any] | None) -> tuple[DenoiserConfig, dict[str, Tensor]]:
    """Config and weights; `flags` are those of training, where the weights are none of the published ones."""
    if flags is not None:
        config = configured(state, flags)
        return config, _weights(state, config, new_order=bool(flags.get("use_new_attention_order")))
    config = _published(state, SIZES, Denoiser)
    return config, _weights(state, config, new_order=config == SIZES[NEW_ORDER])


def _published(state: Mapping[str, Tensor], sizes: Mapping[str, Any], network: type[Any]) -> Any:
    """The published size with as many parameters."""
    for config in sizes.values():
        with torch.device("meta"):
            parameters = sum(value.numel() for value in network(config).parameters())
        if parameters == sum(value.numel() for value in state.values()):
            return config
    raise PinxitError(
        "These weights of guided-diffusion or GLIDE are none of the published ones, and do not tell how they were "
        "trained. Put a yaml of the flags of training, such as image_size and num_channels, beside them."
    )


def configured(state: Mapping[str, Tensor], flags: Mapping[str, Any]) -> DenoiserConfig:
    """The config that flags of training, and the weights, tell."""
    texts = "token_embedding.weight" in state
    told = {**(GLIDE_FLAGS if texts else FLAGS), **flags}
    size = int(told.get("large_size", told["image_size"]))
    channels = int(told["num_channels"])
    given = [float(each) for each in str(told["channel_mult"]).split(",") if each.strip()]
    if not given and size not in MULTIPLIERS:
        raise PinxitError(f"channel_mult is needed for pictures of {size} pixels.")
    text = None
    if texts:
        vocabulary, width = state["token_embedding.weight"].shape
        depth = len({name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")})
        text = TextEncoderConfig(vocabulary, int(told["text_ctx"]), width, depth, int(told["xf_heads"]))
    steps = int(told["diffusion_steps"])
    if steps != 1_000 and not told["rescale_timesteps"]:
        raise PinxitError(f"diffusion_steps={steps} goes with rescale_timesteps=true here: times are of a thousand.")
    if told["noise_schedule"] not in BETAS:
        raise PinxitError(f"noise_schedule={told['noise_schedule']} is unknown here. Known are: {', '.join(BETAS)}.")
    low = int(told["small_size"]) if "small_size" in told else None
    beside = state["input_blocks.0.0.weight"].shape[1] - 3
    head_width = int(told["num_head_channels"])
    if head_width not in (-1, 64):
        raise PinxitError(f"num_head_channels={head_width}: read are 64, and -1 with num_heads.")
    return DenoiserConfig(
        UNetConfig(
            size,
            channels,
            tuple(given) or MULTIPLIERS[size],
            int(told["num_res_blocks"]),
            tuple(int(side) for side in str(told["attention_resolutions"]).split(",")),
            heads=int(told["num_heads"]) if head_width == -1 else None,
            beside=beside,
            scale_shift=bool(told["use_scale_shift_norm"]),
            resample="block" if told["resblock_updown"] else "conv",
            dropout=float(told["dropout"]),
        ),
        ProcessConfig(
            DiscreteConfig(BETAS[told["noise_schedule"]], steps),
            target="x0" if told["predict_xstart"] else "eps",
            learned_variance=bool(told["learn_sigma"]),
        ),
        classes=len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
        text=text,
        low=low,
        known=beside in (4, 7),
    )


def _weights(state: Mapping[str, Tensor], config: DenoiserConfig, *, new_order: bool) -> dict[str, Tensor]:
    """Theirs by our names; what they keep for each head together is sorted by queries, keys and values."""
    with torch.device("meta"):
        network = Denoiser(config)
    ours = _moved(state, _places(network), new_order=new_order)
    if config.classes:
        ours["labels.weight"] = state["label_emb.weight"]
    if config.text:
        positions = state["positional_embedding"]
        # Theirs puts a pad in the place of token and position together.
        pads = state["padding_embedding"] - positions
        ours |= {"text.positions": positions, "text.tokens.weight": torch.cat([state["token_embedding.weight"], pads])}
    return ours


def _moved(state: Mapping[str, Tensor], places: Iterable[Place], *, new_order: bool) -> dict[str, Tensor]:
    """Each layer to its place."""
    ours: dict[str, Tensor] = {}
    for place in places:
        for kind in ("weight", "bias"):
            value = state[f"{place.theirs}.{kind}"]
            if place.heads:
                value = value.squeeze(-1) if kind == "weight" and value.ndim == 3 else value
                whole_text = place.theirs.startswith("transformer.")
                if place.ours.endswith("key_value") and (whole_text or not new_order):
                    value = sorted_by_part(value, place.heads, 3 if place.ours.endswith("query_key_value") else 2)
            ours[f"{place.ours}.{kind}"] = value
    return ours


def sorted_by_part(value: Tensor, heads: int, parts: int) -> Tensor:
    """Rows by head and then by part, such as queries, keys and values -> by part and then by head."""
    return value.reshape(heads, parts, -1, *value.shape[1:]).transpose(0, 1).reshape(value.shape)


def unet_weights(state: Mapping[str, Tensor], unet: UNet, ours: str, *, new_order: bool) -> dict[str, Tensor]:
    """Those of a U-Net alone, which is called `ours`."""
    return _moved(state, _unet(unet, ours), new_order=new_order)


def _unet(unet: UNet, ours: str) -> Iterator[Place]:
    yield from _encoder(unet.encoder, f"{ours}.encoder")
    for number, stage in enumerate(unet.up):
        yield from _stage(stage, [f"output_blocks.{number}.{i}" for i in range(3)], f"{ours}.up.{number}")
    yield from (Place(f"out.{number}", f"{ours}.head.{number}") for number in (0, 2))


def _places(network: Denoiser) -> Iterator[Place]:
    """All layers with a weight and a bias."""
    yield from _unet(network.unet, "unet")
    if network.config.text:
        heads = network.config.text.heads
        for number in range(network.config.text.depth):
            theirs, ours = f"transformer.resblocks.{number}", f"text.transformer.blocks.{number}"
            yield Place(f"{theirs}.attn.c_qkv", f"{ours}.attention.query_key_value", heads)
            yield from (Place(f"{theirs}.{a}", f"{ours}.{b}") for a, b in TEXT.items())
        yield Place("final_ln", "text.norm")
        yield Place("transformer_proj", "text_to_time")


def _encoder(encoder: UNetEncoder, ours: str) -> Iterator[Place]:
    """The way down, and the middle."""
    yield from (Place(f"time_embed.{number}", f"{ours}.time.{number}") for number in (0, 2))
    yield Place("input_blocks.0.0", f"{ours}.stem")
    for number, stage in enumerate(encoder.down):
        yield from _stage(stage, [f"input_blocks.{number + 1}.{i}" for i in range(2)], f"{ours}.down.{number}")
    yield from _stage(encoder.middle[0], ["middle_block.0", "middle_block.1"], f"{ours}.middle.0")
    yield from _stage(encoder.middle[1], [f"middle_block.{1 + encoder.config.middle}"], f"{ours}.middle.1")


def _stage(stage: nn.Module, theirs: list[str], ours: str) -> Iterator[Place]:
    """A block, its attention, and what doubles the resolution: one after the other in `theirs`."""
    for name, (part_name, part) in zip(theirs, stage.named_children(), strict=False):
        place = f"{ours}.{part_name}"
        match part:
            case Block():
                yield from (
                    Place(f"{name}.{a}", f"{place}.{b}")
                    for a, b in BLOCK.items()
                    if not isinstance(getattr(part, b), nn.Identity)
                )
            case AttentionBlock():
                heads = part.attention.heads
                yield Place(f"{name}.norm", f"{place}.norm")
                yield Place(f"{name}.qkv", f"{place}.attention.query_key_value", heads)
                if hasattr(part.attention, "key_value"):
                    yield Place(f"{name}.encoder_kv", f"{place}.attention.key_value", heads)
                yield Place(f"{name}.proj_out", f"{place}.attention.out", heads)
            case _:
                yield Place(f"{name}.{'op' if part.change == 'down' else 'conv'}", f"{place}.conv")
