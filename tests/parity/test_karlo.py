"""Karlo's parts and its whole pipeline, through `pinxit convert`, beside diffusers' with the same random weights."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.parity.test_clip import (
    LENGTH,
    MEAN,
    MERGES,
    SIZE,
    STD,
    TEXT,
    as_open_clip,
    as_program,
    open_clip_config,
    save_open_clip,
    transformers_clip,
)
from torch import Tensor

import pinxit
from pinxit.checkpoints import from_diffusers
from pinxit.checkpoints.conversion import convert, read_state
from pinxit.errors import PinxitError
from pinxit.models.denoiser import SIZES, Denoiser
from pinxit.models.prior import read
from pinxit.systems.dalle2 import DALLE2System
from pinxit.systems.noise_drawing import Drawing, noise_of
from pinxit.systems.prior_drawing import STREAM, PriorDrawing
from pinxit.text.tokenizer import Tokenizer

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
unclip = pytest.importorskip("diffusers.pipelines.deprecated.unclip", reason="needs diffusers' unCLIP")

WIDTH = TEXT["width"]
"""Of embeddings, as of what is read at every token: theirs knows one for both."""
CHANNELS = (32, 64, 64)
TEXTS = ["a red star", "star"]
SEEDS = [7, 8]
"""At the first step alpha is 5e-5, so that where noise is told to within as much, rounding decides: not with these."""


def tokenizer(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    folder.mkdir()
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    vocabulary = json.loads(Tokenizer.over_merges(folder / "merges.txt").to_json())["model"]["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return transformers.CLIPTokenizer.from_pretrained(folder, pad_token="!", model_max_length=LENGTH)


DECODER = {
    "in_channels": 3,
    "out_channels": 6,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "resnet_time_scale_shift": "scale_shift",
    "class_embed_type": "identity",
}


def larger(size: int = 32, blocks: int = 1, widths: tuple[int, ...] = CHANNELS) -> Any:
    return diffusers.UNet2DModel(
        sample_size=size,
        in_channels=6,
        out_channels=3,
        layers_per_block=blocks,
        block_out_channels=widths,
        down_block_types=["ResnetDownsampleBlock2D"] * len(widths),
        up_block_types=["ResnetUpsampleBlock2D"] * len(widths),
        add_attention=False,
    )


def randomized(module: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return module.eval()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline of theirs, with all parts of both."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    whole = transformers_clip("quick_gelu", WIDTH)
    whole.config.text_config.projection_dim = whole.config.vision_config.projection_dim = WIDTH
    text = transformers.CLIPTextModelWithProjection(whole.config.text_config)
    image = transformers.CLIPVisionModelWithProjection(whole.config.vision_config)
    for tower in (text, image):
        tower.load_state_dict({name: value for name, value in whole.state_dict().items() if name in tower.state_dict()})
    parts = {
        "text_encoder": text.eval(),
        "image_encoder": image.eval(),
        "prior": diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=16, num_layers=2, embedding_dim=WIDTH, num_embeddings=LENGTH
        ),
        "text_proj": unclip.text_proj.UnCLIPTextProjModel(
            clip_embeddings_dim=WIDTH, time_embed_dim=4 * CHANNELS[0], cross_attention_dim=40
        ),
        "decoder": diffusers.UNet2DConditionModel(
            **DECODER,
            sample_size=16,
            block_out_channels=CHANNELS,
            layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 2),
            up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"),
            attention_head_dim=16,
            cross_attention_dim=40,
        ),
        "super_res_first": larger(),
        "super_res_last": larger(),
    }
    for seed, name in enumerate(("prior", "text_proj", "decoder", "super_res_first", "super_res_last")):
        randomized(parts[name], seed)
    return parts, tokenizer(tmp_path_factory.mktemp("texts") / "tokenizer")


def schedulers() -> dict[str, Any]:
    kinds = {
        "prior_scheduler": ("fixed_small_log", "sample", 2.0),
        "decoder_scheduler": ("learned_range", "epsilon", 1.0),
        "super_res_scheduler": ("fixed_small_log", "epsilon", 1.0),
    }
    made = {}
    for name, (variance, prediction, bound) in kinds.items():
        made[name] = scheduler = diffusers.UnCLIPScheduler(
            variance_type=variance, prediction_type=prediction, clip_sample_range=bound
        )
        # What is left of 1 - alpha in their float32 is off by a thousandth where there is little noise.
        scheduler.betas = torch.tensor(betas(), dtype=torch.float64)
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return made


def betas() -> list[float]:
    """Those of the cosine schedule, in full precision (Nichol and Dhariwal 2021, equation 17)."""
    share = [math.cos((i / 1_000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1_001)]
    return [min(1 - after / before, 0.999) for before, after in itertools.pairwise(share)]


def from_texts(theirs: Any) -> Any:
    parts, tokenizer = theirs
    used = {name: part for name, part in parts.items() if name != "image_encoder"}
    return unclip.UnCLIPPipeline(**used, tokenizer=tokenizer, **schedulers())


def variations(theirs: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    parts, tokenizer = theirs
    pixels = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=MEAN, image_std=STD
    )
    used = {name: part for name, part in parts.items() if name != "prior"}
    kept = {name: scheduler for name, scheduler in schedulers().items() if name != "prior_scheduler"}
    return unclip.UnCLIPImageVariationPipeline(**used, tokenizer=tokenizer, feature_extractor=pixels, **kept)


@pytest.fixture(scope="module")
def ours(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> DALLE2System:
    """Both pipelines in one folder, converted."""
    folder = tmp_path_factory.mktemp("karlo")
    variations(theirs).save_pretrained(folder / "theirs")
    from_texts(theirs).save_pretrained(folder / "theirs")
    assert convert(str(folder / "theirs"), folder / "ours").kind == "dalle2"
    system = pinxit.load(folder / "ours", "cpu")
    assert isinstance(system, DALLE2System)
    return system


def same_noise(monkeypatch: pytest.MonkeyPatch, *streams: int) -> Callable[[], Tensor]:
    """Gives their schedulers the noise that ours draws, one stream for each stage; and the first of the next stage."""
    drawers: Iterator[Any] = iter([noise_of(SEEDS, stream, torch.device("cpu")) for stream in streams])
    now: list[Any] = [None]

    def begin(shape: tuple[int, ...], **_: Any) -> Tensor:
        now[0] = next(drawers)
        return go_on(shape)

    def go_on(shape: tuple[int, ...], **_: Any) -> Tensor:
        noise: Tensor = now[0](torch.empty(shape))
        return noise

    for module in (unclip.pipeline_unclip, unclip.pipeline_unclip_image_variation):
        monkeypatch.setattr(module, "randn_tensor", begin)
    monkeypatch.setattr("diffusers.schedulers.scheduling_unclip.randn_tensor", go_on)
    return lambda: now[0]


@torch.no_grad()
def test_from_texts(theirs: Any, ours: DALLE2System, monkeypatch: pytest.MonkeyPatch) -> None:
    same_noise(monkeypatch, STREAM, 0, 1)
    pipeline = from_texts(theirs)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt=TEXTS,
        prior_num_inference_steps=5,
        decoder_num_inference_steps=6,
        super_res_num_inference_steps=4,
        prior_guidance_scale=3.0,
        decoder_guidance_scale=2.0,
        output_type="np",
    ).images
    embeddings = ours.priors["diffusion"].draw(TEXTS, SEEDS, PriorDrawing(5, 3.0, candidates=1))
    assert embeddings.norm(dim=1).std() > 0.01, "they are of any length"
    drawn = ours.cascade.draw(
        ours._asked(embeddings, TEXTS),
        SEEDS,
        Drawing("ddpm", 6, guidance=2.0),
        away=ours._asked(ours._nothing, [""]),
        steps=4,
    )
    agrees(drawn, expected)


@torch.no_grad()
def test_variations(theirs: Any, ours: DALLE2System, monkeypatch: pytest.MonkeyPatch) -> None:
    same_noise(monkeypatch, 0, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    picture = Image.fromarray(pixels)
    pipeline = variations(theirs)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        [picture, picture.rotate(90)],
        decoder_num_inference_steps=6,
        super_res_num_inference_steps=4,
        decoder_guidance_scale=2.0,
        output_type="np",
    ).images
    seen = ours.clip.encode_image([picture, picture.rotate(90)], unit=False)
    drawn = ours.cascade.draw(
        ours._asked(seen, ["", ""]),
        SEEDS,
        Drawing("ddpm", 6, guidance=2.0),
        away=ours._asked(ours._nothing, [""]),
        steps=4,
    )
    agrees(drawn, expected)


def agrees(drawn: Tensor, expected: Any) -> None:
    found = (drawn / 2 + 0.5).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.05
    assert np.abs(found[0] - found[1]).max() > 0.1, "each has its own"
    np.testing.assert_allclose(found, expected, atol=1e-4)


@torch.no_grad()
def test_what_is_told_before_the_decoder(theirs: Any, ours: DALLE2System) -> None:
    parts, _ = theirs
    rows = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))
    seen = read(ours.clip.clip, ours.clip.ids_of(TEXTS), unit=False)
    tokens, added = parts["text_proj"](
        image_embeddings=rows,
        prompt_embeds=seen.embedding,
        text_encoder_hidden_states=seen.tokens,
        do_classifier_free_guidance=False,
    )
    guide = ours.cascade.base.network.guide(ours._asked(rows, TEXTS))
    torch.testing.assert_close(guide.tokens, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guide.added, added, atol=1e-5, rtol=1e-5)


def test_it_works_from_the_converted_folder(ours: DALLE2System) -> None:
    assert ours.defaults["prior_candidates"] == 1
    (picture,) = ours.generate("a red star", 1, prior_steps=3, steps=3, upsample_steps=2)
    assert picture.image.size == (32, 32)
    assert picture.settings["prior_guidance"] == 4.0
    assert ours.vary(picture.image, 1, steps=3, upsample_steps=2)[0].image.size == (32, 32)


def test_published_sizes() -> None:
    """Counted in diffusers; that of the embedding which stands for none is no weight of ours."""
    widths = (320, 640, 960, 1_280)
    with torch.device("meta"):
        decoder = diffusers.UNet2DConditionModel(
            **DECODER,
            sample_size=64,
            layers_per_block=3,
            block_out_channels=widths,
            attention_head_dim=64,
            cross_attention_dim=1_536,
            down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
            up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        )
        before = unclip.text_proj.UnCLIPTextProjModel(time_embed_dim=1_280, cross_attention_dim=1_536)
        counts = {
            "karlo-decoder": counted(decoder) + counted(before) - 768,
            "karlo-upsample": counted(larger(size=256, blocks=3, widths=widths)),
        }
        for name, count in counts.items():
            assert counted(Denoiser(SIZES[name])) == count


def counted(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


# Its own files hold the same by the names of guided-diffusion, with the queries, keys and values of a head together.

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
KINDS = ("weight", "bias")


def by_head(parts: list[Tensor]) -> Tensor:
    """Heads of 64."""
    return torch.cat([row for rows in zip(*(torch.split(part, 64) for part in parts), strict=True) for row in rows])


def raw_unet(state: dict[str, Tensor], levels: int, blocks: int) -> dict[str, Tensor]:
    raw: dict[str, Tensor] = {}

    def layer(new: str, old: str) -> None:
        raw.update({f"{new}.{kind}": state[f"{old}.{kind}"] for kind in KINDS if f"{old}.{kind}" in state})

    def resnet(new: str, old: str) -> None:
        for theirs, name in RESNET.items():
            layer(f"{new}.{name}", f"{old}.{theirs}")

    def attention(new: str, old: str) -> int:
        if f"{old}.group_norm.weight" not in state:
            return 0
        layer(f"{new}.norm", f"{old}.group_norm")
        layer(f"{new}.proj_out", f"{old}.to_out.0")
        for kind in KINDS:
            raw[f"{new}.qkv.{kind}"] = by_head([state[f"{old}.to_{part}.{kind}"] for part in "qkv"])
            raw[f"{new}.encoder_kv.{kind}"] = by_head([state[f"{old}.add_{part}_proj.{kind}"] for part in "kv"])
        for name in ("qkv", "encoder_kv", "proj_out"):
            raw[f"{new}.{name}.weight"] = raw[f"{new}.{name}.weight"][..., None]
        return 1

    layer("time_embed.0", "time_embedding.linear_1")
    layer("time_embed.2", "time_embedding.linear_2")
    layer("input_blocks.0.0", "conv_in")
    layer("out.0", "conv_norm_out")
    layer("out.2", "conv_out")
    at = 1
    for level in range(levels):
        for block in range(blocks):
            resnet(f"input_blocks.{at}.0", f"down_blocks.{level}.resnets.{block}")
            attention(f"input_blocks.{at}.1", f"down_blocks.{level}.attentions.{block}")
            at += 1
        if level < levels - 1:
            resnet(f"input_blocks.{at}.0", f"down_blocks.{level}.downsamplers.0")
            at += 1
    resnet("middle_block.0", "mid_block.resnets.0")
    resnet(f"middle_block.{1 + attention('middle_block.1', 'mid_block.attentions.0')}", "mid_block.resnets.1")
    for at in range(levels * (blocks + 1)):
        level, block = divmod(at, blocks + 1)
        resnet(f"output_blocks.{at}.0", f"up_blocks.{level}.resnets.{block}")
        above = 1 + attention(f"output_blocks.{at}.1", f"up_blocks.{level}.attentions.{block}")
        if block == blocks and level < levels - 1:
            resnet(f"output_blocks.{at}.{above}", f"up_blocks.{level}.upsamplers.0")
    return raw


def raw_prior(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {
        "embedding_proj": "text_emb_proj",
        "encoder_hidden_states_proj": "text_enc_proj",
        "proj_in": "clip_img_proj",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "norm_out": "final_ln",
        "proj_to_clip_embeddings": "out_proj",
    }
    inside = {"norm1": "ln_1", "norm3": "ln_2", "attn1.to_out.0": "attn.c_proj"}
    inside |= {"ff.net.0.proj": "mlp.c_fc", "ff.net.2": "mlp.c_proj"}
    depth = len({name.split(".")[1] for name in state if name.startswith("transformer_blocks.")})
    for layer in range(depth):
        old, new = f"transformer_blocks.{layer}", f"transformer.resblocks.{layer}"
        names |= {f"{old}.{a}": f"{new}.{b}" for a, b in inside.items()}
    raw = {f"{new}.{kind}": state[f"{old}.{kind}"] for old, new in names.items() for kind in KINDS}
    for layer in range(depth):
        for kind in KINDS:
            parts = [state[f"transformer_blocks.{layer}.attn1.to_{part}.{kind}"] for part in "qkv"]
            raw[f"transformer.resblocks.{layer}.attn.c_qkv.{kind}"] = by_head(parts)
    return raw | {"positional_embedding": state["positional_embedding"], "prd_emb": state["prd_embedding"]}


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_its_own_files(tmp_path: Path) -> None:
    """What they become is what diffusers' become that hold the same."""
    folder = tmp_path / "theirs"
    clip = as_open_clip(transformers_clip("quick_gelu", WIDTH))
    save_open_clip(tmp_path, clip, open_clip_config("quick_gelu"))
    (folder / "open_clip_model.safetensors").unlink()
    as_program(clip).save(str(folder / "ViT-L-14.pt"))
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=64, num_layers=2, embedding_dim=WIDTH, num_embeddings=LENGTH
    )
    before = unclip.text_proj.UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=256, cross_attention_dim=40)
    decoder = diffusers.UNet2DConditionModel(
        **DECODER,
        sample_size=64,
        layers_per_block=2,
        block_out_channels=(64, 128),
        attention_head_dim=64,
        cross_attention_dim=40,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )
    enlarging = [randomized(larger(256, 2, (32, 64)), seed) for seed in (0, 1)]
    for seed, module in enumerate((prior, before, decoder)):
        randomized(module, seed)
    state = raw_prior(prior.state_dict())
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, folder / "prior-ckpt-1.ckpt")
    torch.save((prior.clip_mean.data[0], prior.clip_std.data[0]), folder / "ViT-L-14_stats.th")
    names = {
        "embedding_proj": "text_feat_proj",
        "clip_image_embeddings_project_to_time_embeddings": "clip_emb",
        "clip_extra_context_tokens_proj": "clip_tok_proj",
        "encoder_hidden_states_proj": "text_seq_proj.0",
        "text_encoder_hidden_states_norm": "text_seq_proj.1",
    }
    held = before.state_dict()
    state = raw_unet(decoder.state_dict(), 2, 2)
    state |= {f"{new}.{kind}": held[f"{old}.{kind}"] for old, new in names.items() for kind in KINDS}
    state["cf_param"] = held["learned_classifier_free_guidance_embeddings"]
    torch.save({"state_dict": {f"model.{n}": value for n, value in state.items()}}, folder / "decoder-ckpt-1.ckpt")
    both = {
        f"model_{which}.{name}": value
        for which, network in zip(("first_steps", "last_step"), enlarging, strict=True)
        for name, value in raw_unet(network.state_dict(), 2, 2).items()
    }
    torch.save({"state_dict": both}, folder / "improved-sr-ckpt-1.ckpt")
    assert convert(str(folder), tmp_path / "ours").kind == "dalle2"
    wanted = {
        "prior": from_diffusers.prior(prior.config, prior.state_dict())[1],
        "decoder": from_diffusers.decoder(decoder.config, decoder.state_dict(), held)[1],
        "upsampler": from_diffusers.upsampler(enlarging[0].config, enlarging[0].state_dict(), 64)[1],
        "upsampler/last": from_diffusers.upsampler(enlarging[1].config, enlarging[1].state_dict(), 64)[1],
    }
    for part, tensors in wanted.items():
        found = read_state(tmp_path / "ours" / part / f"{'prior' if part == 'prior' else 'denoiser'}.safetensors")
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], value) for name, value in tensors.items())
    system = pinxit.load(tmp_path / "ours", "cpu")
    assert isinstance(system, DALLE2System)
    assert system.size == 256
    (folder / "prior-ckpt-1.ckpt").unlink()
    with pytest.raises(PinxitError, match=r"looks like Karlo, but has not exactly one prior-ckpt"):
        convert(str(folder), tmp_path / "ours")


def test_another_schedule_is_refused(theirs: Any, tmp_path: Path) -> None:
    variations(theirs).save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "decoder_scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("learned_range", "fixed_small_log"))
    with pytest.raises(PinxitError, match=r"decoder_scheduler has variance_type=fixed_small_log: .* Read is learned"):
        convert(str(tmp_path / "theirs"), tmp_path / "ours")


def test_a_pipeline_without_eyes(theirs: Any, tmp_path: Path) -> None:
    from_texts(theirs).save_pretrained(tmp_path / "theirs")
    with pytest.raises(PinxitError, match="has no image_encoder, without which pictures cannot be varied"):
        convert(str(tmp_path / "theirs"), tmp_path / "ours")
