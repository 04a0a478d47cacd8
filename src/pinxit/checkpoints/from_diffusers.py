"""diffusers' AutoencoderKL and VQModel, and the parts of its unCLIP, as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pinxit.checkpoints.pyramid_layout import Piece, take
from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.errors import PinxitError
from pinxit.models.denoiser import EMBEDDING_TOKENS, Denoiser, DenoiserConfig
from pinxit.models.prior import BEYOND, LEVELS, PriorConfig
from pinxit.models.unet import HEAD_WIDTH, AttentionBlock, Block, Change, UNet, UNetConfig
from pinxit.models.vae import VAEConfig
from pinxit.models.vqgan import VQGANConfig
from pinxit.nn.convolution import PyramidConfig

ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
OLD_ATTENTION = {"norm": "group_norm", "query": "query", "key": "key", "value": "value", "out": "proj_attn"}
"""As files from before diffusers 0.17 have it."""

DEFAULT_SCALE = 0.18215
"""Of latents, where an AutoencoderKL's config does not tell, as those of Stable Diffusion 1 do not."""

PLAIN = {"DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"}


def codec(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[str, Any, dict[str, Tensor]]:
    """Kind, config and weights of what a folder's config.json and weights hold."""
    pyramid = _pyramid(config)
    old = any(".query.weight" in name for name in state)
    ours = take(
        state, pyramid, lambda piece: _theirs(piece, pyramid), OLD_ATTENTION if old else ATTENTION, "conv_shortcut"
    )
    vq = "quantize.embedding.weight" in state
    for name, before, after in (
        ("quant_conv", "to_vectors", "to_moments"),
        ("post_quant_conv", "from_vectors", "from_latents"),
    ):
        for kind in ("weight", "bias"):
            ours[f"{before if vq else after}.{kind}"] = state[f"{name}.{kind}"]
    if not vq:
        return "vae", VAEConfig(pyramid, float(config.get("scaling_factor") or DEFAULT_SCALE)), ours
    if config.get("norm_type", "group") != "group" or config.get("lookup_from_codebook"):
        raise PinxitError("This VQModel is of a kind with other norms or lookups, which is not read here.")
    k, d = state["quantize.embedding.weight"].shape
    return "vqgan", VQGANConfig(pyramid, k, d), ours | {"quantizer.embedding": state["quantize.embedding.weight"]}


def _pyramid(config: Mapping[str, Any]) -> PyramidConfig:
    blocks = [*config["down_block_types"], *config["up_block_types"]]
    if odd := set(blocks) - PLAIN:
        raise PinxitError(
            f"A codec with {', '.join(sorted(odd))} is not read here. Allowed: {', '.join(sorted(PLAIN))}."
        )
    if config.get("latents_mean") or config.get("shift_factor"):
        raise PinxitError("Latents that are shifted before they are scaled are not read here.")
    widths = config["block_out_channels"]
    if config.get("mid_block_add_attention") is False or config.get("use_quant_conv") is False:
        raise PinxitError("A codec without attention in its middle, or without quant_conv, is not read here.")
    told = config.get("sample_size") or 256
    size = int(max(told) if isinstance(told, list | tuple) else told)
    size = max(size, 2 ** (len(widths) - 1))
    attends = [level for level, kind in enumerate(config["down_block_types"]) if kind.startswith("Attn")]
    return PyramidConfig(
        size=size,
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=config["layers_per_block"],
        latent=config["latent_channels"],
        attention=tuple(size // 2**level for level in attends),
        groups=config.get("norm_num_groups", 32),
    )


def _theirs(piece: Piece, pyramid: PyramidConfig) -> str:
    match piece.role:
        case "middle":
            return f"{piece.side}.mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[piece.index]}"
        case "norm_out":
            return f"{piece.side}.conv_norm_out"
        case "conv_in" | "conv_out":
            return f"{piece.side}.{piece.role}"
    if piece.side == "encoder":
        level = f"encoder.down_blocks.{piece.level}"
    else:
        level = f"decoder.up_blocks.{len(pyramid.multipliers) - 1 - piece.level}"
    match piece.role:
        case "block":
            return f"{level}.resnets.{piece.index}"
        case "attention":
            return f"{level}.attentions.{piece.index}"
    return f"{level}.{piece.role}rs.0.conv"  # downsamplers, upsamplers


PRIOR = (
    (r"^embedding_proj\.", "text."),
    (r"^encoder_hidden_states_proj\.", "tokens."),
    (r"^proj_in\.", "noisy."),
    (r"^time_embedding\.linear_1\.", "time.0."),
    (r"^time_embedding\.linear_2\.", "time.2."),
    (r"^positional_embedding$", "positions"),
    (r"^prd_embedding$", "query"),
    (r"^norm_out\.", "norm."),
    (r"^proj_to_clip_embeddings\.", "told."),
    (r"^clip_(mean|std)$", r"\1"),
    (r"^transformer_blocks\.", "transformer.blocks."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm3\.", ".mlp_norm."),
    (r"\.attn1\.to_out\.0\.", ".attention.out."),
    (r"\.ff\.net\.0\.proj\.", ".mlp.0."),
    (r"\.ff\.net\.2\.", ".mlp.2."),
)
"""PriorTransformer's names -> ours."""


def prior(
    described: Mapping[str, Any], state: Mapping[str, Tensor], bound: float | None = None
) -> tuple[PriorConfig, dict[str, Tensor]]:
    """Config and weights of a PriorTransformer as unCLIP has it: Karlo's, which draws within a `bound`."""
    told = {"num_embeddings": 77, "additional_embeddings": BEYOND, "time_embed_dim": None, **described}
    if told["additional_embeddings"] != BEYOND or told.get("added_emb_type", "prd") != "prd" or told["time_embed_dim"]:
        raise PinxitError(
            "This PriorTransformer is not unCLIP's: read are those with a query and 4 places beyond texts."
        )
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, new in PRIOR:
            name = re.sub(pattern, new, name)  # noqa: PLW2901
        ours[name] = value
    for name in [name for name in ours if ".attn1.to_q." in name]:
        parts = [ours.pop(name.replace(".to_q.", f".to_{part}.")) for part in "qkv"]
        ours[name.replace(".attn1.to_q.", ".attention.query_key_value.")] = torch.cat(parts)
    ours |= {name: ours[name].flatten() for name in ("query", "mean", "std")}
    ours["positions"] = ours["positions"][0]
    ours["errors"] = torch.zeros(LEVELS)  # theirs knows the posterior's variance alone
    config = PriorConfig(
        embedding=len(ours["mean"]),
        length=int(told["num_embeddings"]),
        text_width=ours["tokens.weight"].shape[1],
        width=len(ours["query"]),
        depth=int(told["num_layers"]),
        heads=int(told["num_attention_heads"]),
        unit=False,
        bound=bound,
    )
    return config, ours


UNCLIP = ("UnCLIPPipeline", "UnCLIPImageVariationPipeline")
"""Classes of pipelines that are read."""

SCHEDULERS = {
    "prior_scheduler": {"prediction_type": "sample", "variance_type": "fixed_small_log"},
    "decoder_scheduler": {"prediction_type": "epsilon", "variance_type": "learned_range"},
    "super_res_scheduler": {"prediction_type": "epsilon", "variance_type": "fixed_small_log"},
}
"""What the schedulers of such a pipeline say where its networks are those that are read."""

UNTOLD: dict[str, Any] = {
    "num_train_timesteps": 1_000,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small_log",
    "clip_sample": True,
    "clip_sample_range": 1.0,
}
"""What holds where they do not say."""


def check_schedulers(schedulers: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Within what the prior draws; a scheduler that its network has not learnt with is refused."""
    for name, told in schedulers.items():
        wanted = {"_class_name": "UnCLIPScheduler", "num_train_timesteps": 1_000, **SCHEDULERS[name]}
        if name != "prior_scheduler":
            wanted |= {"clip_sample": True, "clip_sample_range": 1.0}
        said = {**UNTOLD, **told}
        for key, value in wanted.items():
            if said.get(key) != value:
                raise PinxitError(f"{name} has {key}={said.get(key)}: what it draws would be noise. Read is {value}.")
    prior = {**UNTOLD, **schedulers.get("prior_scheduler", {})}
    return float(prior["clip_sample_range"]) if prior["clip_sample"] else None


UNCLIP_DEFAULTS = {
    "prior_steps": 25,
    "prior_candidates": 1,
    "prior_guidance": 4.0,
    "sampler": "ddpm",
    "steps": 25,
    "guidance": 8.0,
}
"""How the pipeline draws."""

ENLARGING = {"sampler": "ddpm", "steps": 7, "temperature": 1.0}
"""How its super-resolution does."""

BLOCKS = {"norm1": "norm1", "conv1": "conv1", "told": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
BLOCKS |= {"skip": "conv_shortcut"}
"""Our layers in a residual block -> theirs."""

LOOKS = {"query_key_value": ("to_q", "to_k", "to_v"), "key_value": ("add_k_proj", "add_v_proj")}
"""Of ours, those that are several layers there."""

KINDS = {
    "ResnetDownsampleBlock2D": False,
    "ResnetUpsampleBlock2D": False,
    "SimpleCrossAttnDownBlock2D": True,
    "SimpleCrossAttnUpBlock2D": True,
}
"""Blocks of levels that are read, and whether they attend."""

ALIKE = {
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
    "only_cross_attention": False,
    "cross_attention_norm": None,
    "encoder_hid_dim": None,
    "dual_cross_attention": False,
    "num_class_embeds": None,
}
"""Of a U-Net's config, what has to be so where it is told."""

PROJECTIONS = {
    "embedding_to_time": "clip_image_embeddings_project_to_time_embeddings",
    "read_to_time": "embedding_proj",
    "read.0": "encoder_hidden_states_proj",
    "read.1": "text_encoder_hidden_states_norm",
}
"""Our layers -> UnCLIPTextProjModel's."""


def decoder(
    described: Mapping[str, Any],
    state: Mapping[str, Tensor],
    projections: Mapping[str, Tensor],
) -> tuple[DenoiserConfig, dict[str, Tensor]]:
    """A UNet2DConditionModel and the UnCLIPTextProjModel before it."""
    unet = _unet(described, int(described["cross_attention_dim"]))
    reads = projections["encoder_hidden_states_proj.weight"].shape[1]
    process = ProcessConfig(DiscreteConfig("cosine"), learned_variance=True)
    config = DenoiserConfig(unet, process, embedding=reads, unit=False, reads=reads)
    ours = _denoiser(config, state)
    for kind in ("weight", "bias"):
        ours |= {f"{name}.{kind}": projections[f"{theirs}.{kind}"] for name, theirs in PROJECTIONS.items()}
        ours[f"embedding_to_tokens.{kind}"] = unclip_tokens(projections[f"clip_extra_context_tokens_proj.{kind}"])
    return config, ours | {"no_embedding": projections["learned_classifier_free_guidance_embeddings"]}


def unclip_tokens(value: Tensor) -> Tensor:
    """What makes tokens of an embedding, by number and then by token -> by token first."""
    return value.view(-1, EMBEDDING_TOKENS, *value.shape[1:]).transpose(0, 1).reshape(value.shape)


def upsampler(
    described: Mapping[str, Any], state: Mapping[str, Tensor], low: int
) -> tuple[DenoiserConfig, dict[str, Tensor]]:
    """A UNet2DModel that enlarges pictures of `low` pixels: unCLIP's super-resolution."""
    if described.get("add_attention", True):
        raise PinxitError("A UNet2DModel with attention is not read here: unCLIP's has add_attention=false.")
    unet = _unet(described)
    process = ProcessConfig(DiscreteConfig("cosine"))
    config = DenoiserConfig(unet, process, low=low, low_filter="bicubic")
    return config, _denoiser(config, state)


def _unet(described: Mapping[str, Any], tokens: int | None = None) -> UNetConfig:
    """The shape of theirs, as far as unCLIP has it; anything else is refused."""
    down, widths = described["down_block_types"], described["block_out_channels"]
    if odd := {*down, *described["up_block_types"]} - KINDS.keys():
        raise PinxitError(f"A U-Net with {', '.join(sorted(odd))} is not read here. Allowed: {', '.join(KINDS)}.")
    for name, value in ALIKE.items():
        if described.get(name, value) != value:
            raise PinxitError(f"A U-Net with {name}={described[name]} is not read here; unCLIP's has {value}.")
    if described["out_channels"] != (outputs := 3 if tokens is None else 6):
        raise PinxitError(f"A U-Net that tells {described['out_channels']} channels is none of unCLIP's: {outputs}.")
    size = int(described["sample_size"])
    head = described.get("attention_head_dim") or 8
    attends = [level for level, kind in enumerate(down) if KINDS[kind]]
    heads = {widths[level] // head for level in attends}
    plain = tokens is None or head == HEAD_WIDTH
    if not plain and len(heads) > 1:
        raise PinxitError(
            f"attention_head_dim={head}: read are {HEAD_WIDTH}, and others with as many heads everywhere."
        )
    return UNetConfig(
        size=size,
        channels=widths[0],
        multipliers=tuple(width / widths[0] for width in widths),
        blocks=int(described["layers_per_block"]),
        attention=tuple(size // 2**level for level in attends),
        middle=tokens is not None,
        heads=None if plain else heads.pop(),
        tokens=tokens,
        scale_shift=described.get("resnet_time_scale_shift", "default") == "scale_shift",
        groups=int(described.get("norm_num_groups") or 32),
    )


def _denoiser(config: DenoiserConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a U-Net by our names."""
    with torch.device("meta"):
        network = Denoiser(config)
    return {f"unet.{name}": value for name, value in unet_weights(network.unet, state).items()}


def unet_weights(unet: UNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of diffusers' UNet2DModel and UNet2DConditionModel, for a U-Net of the same shape."""
    ours: dict[str, Tensor] = {}
    places, left = _unet_places(unet), dict(state)
    for name in unet.state_dict():
        place, _, kind = name.rpartition(".")
        if several := LOOKS.get(place.rpartition(".")[2]):
            ours[name] = torch.cat([left.pop(f"{places[place]}.{part}.{kind}") for part in several])
        else:
            ours[name] = left.pop(f"{places[place]}.{kind}")
    if left:
        raise PinxitError(f"This U-Net has {min(left)}, which is not known here: it is of another kind than unCLIP's.")
    return ours


def _unet_places(unet: UNet) -> dict[str, str]:
    """Our layers with a weight and a bias -> theirs; for those of `LOOKS`, where they lie."""
    places = {
        "encoder.time.0": "time_embedding.linear_1",
        "encoder.time.2": "time_embedding.linear_2",
        "encoder.stem": "conv_in",
        "head.0": "conv_norm_out",
        "head.2": "conv_out",
    }

    def block(ours: str, module: nn.Module, theirs: str) -> None:
        if isinstance(module, Change):
            places[f"{ours}.conv"] = f"{theirs}.conv"
        else:
            places.update({f"{ours}.{a}": f"{theirs}.{b}" for a, b in BLOCKS.items()})

    def stage(ours: str, theirs: str, attention: str = "") -> None:
        module = unet.get_submodule(ours)
        block(f"{ours}.block", module.block, theirs)  # type: ignore[arg-type]
        if isinstance(module.look, AttentionBlock):
            places[f"{ours}.look.norm"] = f"{attention}.group_norm"
            places[f"{ours}.look.attention.out"] = f"{attention}.to_out.0"
            places[f"{ours}.look.attention.query_key_value"] = attention
            places[f"{ours}.look.attention.key_value"] = attention
        if isinstance(module.change, Block | Change):
            level = theirs.partition(".resnets")[0]
            block(f"{ours}.change", module.change, f"{level}.upsamplers.0")

    config, number = unet.encoder.config, 0
    for level in range(len(config.widths)):
        for i in range(config.blocks):
            stage(f"encoder.down.{number}", f"down_blocks.{level}.resnets.{i}", f"down_blocks.{level}.attentions.{i}")
            number += 1
        if level < len(config.widths) - 1:
            stage(f"encoder.down.{number}", f"down_blocks.{level}.downsamplers.0")
            number += 1
    stage("encoder.middle.0", "mid_block.resnets.0", "mid_block.attentions.0")
    stage("encoder.middle.1", "mid_block.resnets.1")
    for number in range(len(unet.up)):
        level, i = divmod(number, config.blocks + 1)
        stage(f"up.{number}", f"up_blocks.{level}.resnets.{i}", f"up_blocks.{level}.attentions.{i}")
    return places
