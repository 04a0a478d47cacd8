"""CLIPs of transformers, open_clip and GLIDE, pushed through `pinxit convert`, beside what they themselves tell."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tests.parity.guided import LENGTH as TEXT_LENGTH
from tests.parity.guided import Theirs
from tests.parity.test_guided_sampling import GLIDE, save, save_tokenizer
from torch import Tensor

import pinxit
from pinxit.checkpoints.conversion import convert
from pinxit.errors import PinxitError
from pinxit.models.clip import CLIP, SIZES
from pinxit.nn.transformer import Activation
from pinxit.systems.clip import CLIPSystem
from pinxit.text.tokenizer import Tokenizer

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "quick_gelu")
MERGES = ["r e", "re d</w>", "s t", "a r</w>", "st ar</w>"]
VOCABULARY = 512 + len(MERGES) + 2
SIZE, PATCH, WIDTH, LENGTH = 32, 8, 24, 20
VISION = {"width": 48, "depth": 3, "heads": 4}
TEXT = {"width": 32, "depth": 2, "heads": 2}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def randomize(module: torch.nn.Module) -> None:
    """Norms and biases start at 1 and 0, which would hide a swapped name."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name != "logit_scale":
                value.add_(0.1 * torch.randn(value.shape, generator=generator))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in [-1, 1], the same normalised, and framed ids of several lengths."""
    generator = torch.Generator().manual_seed(1)
    fractions = torch.rand(5, 3, SIZE, SIZE, generator=generator)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    ids = torch.randint(1, VOCABULARY - 2, (5, LENGTH), generator=generator)
    end = VOCABULARY - 1
    for row, length in zip(ids, (2, 7, 12, 19, 20), strict=True):
        row[length - 1] = end
        row[length:] = end
    return 2 * fractions - 1, (fractions - mean) / std, ids


def converted(source: Path) -> CLIPSystem:
    assert convert(str(source), source.parent / "ours").kind == "clip"
    system = pinxit.load(source.parent / "ours", "cpu")
    assert isinstance(system, CLIPSystem)
    assert system.tokenizer.encode_ids("Red star") == [513, 516]
    return system


def transformers_clip(activation: Activation, width: int = WIDTH) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    towers = [
        {
            "hidden_size": tower["width"],
            "intermediate_size": 4 * tower["width"],
            "num_hidden_layers": tower["depth"],
            "num_attention_heads": tower["heads"],
            "hidden_act": activation,
        }
        for tower in (VISION, TEXT)
    ]
    end = VOCABULARY - 1
    ids = {"eos_token_id": end, "bos_token_id": end - 1, "pad_token_id": end}
    config = transformers.CLIPConfig(
        projection_dim=width,
        vision_config={**towers[0], "image_size": SIZE, "patch_size": PATCH},
        text_config={**towers[1], "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, **ids},
    )
    theirs = transformers.CLIPModel(config).eval()
    randomize(theirs)
    return theirs


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_equal_those_of_transformers(activation: Activation, tmp_path: Path) -> None:
    theirs = transformers_clip(activation)
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    told = {"image_mean": MEAN, "image_std": STD}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(told))
    ours = converted(tmp_path / "theirs").clip
    assert ours.config.activation == activation
    pixels, normalised, ids = inputs()
    with torch.no_grad():
        output = theirs(pixel_values=normalised, input_ids=ids)
        torch.testing.assert_close(ours.encode_image(pixels), output.image_embeds, atol=1e-5, rtol=0.0)
        torch.testing.assert_close(ours.encode_text(ids), output.text_embeds, atol=1e-5, rtol=0.0)
        torch.testing.assert_close(ours(pixels, ids), output.logits_per_image, atol=2e-4, rtol=0.0)


def test_transformers_reads_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    file = tmp_path / "merges.txt"
    file.write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    ours = Tokenizer.over_merges(file)
    vocabulary = json.loads(ours.to_json())["model"]["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    theirs = transformers.CLIPTokenizerFast.from_pretrained(tmp_path)
    for text in ("A red star!", "redder stars, 42 of them", "Größe: 7€ — ☆"):
        assert theirs(text).input_ids[1:-1] == ours.encode_ids(text)
    assert vocabulary["!"] == 0, "CLIP's bytes begin with what can be printed"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_equal_those_of_open_clip(activation: Activation, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch and a torchvision that imports")
    told = open_clip_config(activation)
    theirs = open_clip.model.CLIP(**told["model_cfg"]).eval()
    randomize(theirs)
    state = {name: value.contiguous() for name, value in theirs.state_dict().items() if name != "attn_mask"}
    ours = converted(save_open_clip(tmp_path, state, told)).clip
    pixels, normalised, ids = inputs()
    with torch.no_grad():
        images = theirs.encode_image(normalised, normalize=True)
        texts = theirs.encode_text(ids, normalize=True)
    torch.testing.assert_close(ours.encode_image(pixels), images, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(ours.encode_text(ids), texts, atol=1e-5, rtol=0.0)


def open_clip_config(activation: Activation) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": WIDTH,
            "quick_gelu": activation == "quick_gelu",
            "vision_cfg": {
                "image_size": SIZE,
                "patch_size": PATCH,
                "width": VISION["width"],
                "layers": VISION["depth"],
                "head_width": VISION["width"] // VISION["heads"],
            },
            "text_cfg": {
                "context_length": LENGTH,
                "vocab_size": VOCABULARY,
                "width": TEXT["width"],
                "heads": TEXT["heads"],
                "layers": TEXT["depth"],
            },
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }


def save_open_clip(folder: Path, state: dict[str, Tensor], told: dict[str, Any]) -> Path:
    theirs = folder / "theirs"
    theirs.mkdir()
    save_file(state, theirs / "open_clip_model.safetensors")
    (theirs / "open_clip_config.json").write_text(json.dumps(told))
    (theirs / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress("\n".join(["#version", *MERGES, ""]).encode()))
    return theirs


def as_open_clip(theirs: Any) -> dict[str, Tensor]:
    """The weights of transformers' by open_clip's names, told by its documented layout."""
    held = theirs.state_dict()
    state = {
        "visual.class_embedding": held["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": held["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": held["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": held["visual_projection.weight"].t(),
        "token_embedding.weight": held["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": held["text_model.embeddings.position_embedding.weight"],
        "text_projection": held["text_projection.weight"].t(),
        "logit_scale": held["logit_scale"],
    }
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    norms |= {"ln_final": "text_model.final_layer_norm"}
    inside = {"ln_1": "layer_norm1", "attn.out_proj": "self_attn.out_proj", "ln_2": "layer_norm2"}
    inside |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for kind in ("weight", "bias"):
        state |= {f"{name}.{kind}": held[f"{other}.{kind}"] for name, other in norms.items()}
        for tower, name, depth in (("vision", "visual.", VISION["depth"]), ("text", "", TEXT["depth"])):
            for layer in range(depth):
                block, other = f"{name}transformer.resblocks.{layer}", f"{tower}_model.encoder.layers.{layer}"
                state |= {f"{block}.{a}.{kind}": held[f"{other}.{b}.{kind}"] for a, b in inside.items()}
                parts = [held[f"{other}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                state[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
    return {name: value.contiguous() for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_layout_of_open_clip(activation: Activation, prefix: str, tmp_path: Path) -> None:
    theirs = transformers_clip(activation)
    state = {prefix + name: value for name, value in as_open_clip(theirs).items()}
    ours = converted(save_open_clip(tmp_path, state, open_clip_config(activation))).clip
    pixels, normalised, ids = inputs()
    with torch.no_grad():
        output = theirs(pixel_values=normalised, input_ids=ids)
        torch.testing.assert_close(ours(pixels, ids), output.logits_per_image, atol=2e-4, rtol=0.0)


def as_program(state: dict[str, Tensor]) -> Any:
    """A TorchScript module that holds these, as OpenAI's own files are."""
    whole = torch.nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        at = whole
        for step in path:
            if not hasattr(at, step):
                at.add_module(step, torch.nn.Module())
            at = at.get_submodule(step)
        at.register_parameter(last, torch.nn.Parameter(value.half(), requires_grad=False))
    return torch.jit.script(whole)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_the_files_of_openai(tmp_path: Path) -> None:
    state = as_open_clip(transformers_clip("quick_gelu"))
    folder = save_open_clip(tmp_path, state, open_clip_config("quick_gelu"))
    (folder / "open_clip_model.safetensors").unlink()
    as_program(state).save(str(folder / "ViT.pt"))
    ours = converted(folder).clip
    for value in ours.parameters():
        assert torch.equal(value, value.half().float())
    assert torch.equal(ours.text.tokens.weight, state["token_embedding.weight"].half().float())


def test_other_towers_are_refused(tmp_path: Path) -> None:
    state = as_open_clip(transformers_clip("gelu"))
    told = open_clip_config("gelu")
    told["model_cfg"]["vision_cfg"]["timm_model_name"] = "resnet50"
    with pytest.raises(PinxitError, match=r"vision_cfg\.timm_model_name makes a network that is not known here"):
        convert(str(save_open_clip(tmp_path, state, told)), tmp_path / "ours")
    (tmp_path / "theirs" / "open_clip_config.json").write_text(json.dumps(open_clip_config("gelu")))
    (tmp_path / "theirs" / "bpe_simple_vocab_16e6.txt.gz").unlink()
    with pytest.raises(
        PinxitError, match=r"bpe_simple_vocab_16e6\.txt\.gz, merges\.txt, tokenizer\.json, and none is in"
    ):
        convert(str(tmp_path / "theirs"), tmp_path / "ours")


class Noised:
    """GLIDE's CLIP of noisy pictures in equations, over weights by its names (Nichol et al. 2021, section 2.4)."""

    levels, heads, depth, width, out = 1_000, 2, 2, 128, 24

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        rows = (SIZE // PATCH) ** 2 + 1
        shapes: dict[str, dict[str, tuple[int, ...]]] = {
            "image": {"w_t": (self.levels, 128), "patch_proj": (128, 3, PATCH, PATCH), "w_pos": (rows, 128)},
            "text": {"w_voc": (VOCABULARY + 7, 128), "w_pos": (LENGTH, 128)},
        }
        self.state: dict[str, dict[str, Tensor]] = {}
        for half, given in shapes.items():
            named = {f"blocks.input.{name}": shape for name, shape in given.items()} | dict(self._shapes(half))
            self.state[half] = {name: 0.15 * torch.randn(shape, generator=generator) for name, shape in named.items()}
            for name in self.state[half]:
                if name.endswith(".g"):
                    self.state[half][name] += 1

    def _shapes(self, half: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        wide = self.width
        norms = ["blocks.output.ln", *(["blocks.input.ln"] if half == "image" else [])]
        for layer in range(self.depth):
            block = f"blocks.block_{layer}"
            norms += [f"{block}.f_attn.ln", f"{block}.f_mlp.ln"]
            for part in ("q", "k", "v", "c"):
                yield f"{block}.f_attn.f_{part}.w", (wide, wide)
                if part != "k":
                    yield f"{block}.f_attn.f_{part}.b", (wide,)
            for name, shape in (("f_1", (4 * wide, wide)), ("f_2", (wide, 4 * wide))):
                yield f"{block}.f_mlp.{name}.w", shape
                yield f"{block}.f_mlp.{name}.b", shape[:1]
        for norm in norms:
            yield f"{norm}.g", (wide,)
            yield f"{norm}.b", (wide,)
        yield "blocks.output.f.w", (self.out, wide)

    def tower(self, half: str, x: Tensor, *, causal: bool) -> Tensor:
        held = self.state[half]

        def norm(y: Tensor, name: str) -> Tensor:
            return F.layer_norm(y, (self.width,), held[f"{name}.g"], held[f"{name}.b"])

        def linear(y: Tensor, name: str) -> Tensor:
            return F.linear(y, held[f"{name}.w"], held.get(f"{name}.b"))

        for layer in range(self.depth):
            block = f"blocks.block_{layer}"
            y = norm(x, f"{block}.f_attn.ln")
            q, k, v = (
                linear(y, f"{block}.f_attn.f_{part}").reshape(*y.shape[:2], self.heads, -1).transpose(1, 2)
                for part in "qkv"
            )
            scores = q @ k.transpose(2, 3) / (self.width / self.heads) ** 0.5
            if causal:
                scores += torch.full(scores.shape[-2:], -1e10).triu(1)
            x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{block}.f_attn.f_c")
            y = F.gelu(linear(norm(x, f"{block}.f_mlp.ln"), f"{block}.f_mlp.f_1"))
            x = x + linear(y, f"{block}.f_mlp.f_2")
        return linear(norm(x, "blocks.output.ln"), "blocks.output.f")

    def images(self, pixels: Tensor, times: Tensor) -> Tensor:
        held = self.state["image"]
        means, stds = torch.tensor(MEAN).view(3, 1, 1) * 255, torch.tensor(STD).view(3, 1, 1) * 255
        x = ((pixels + 1) * 127.5 - means) / stds
        x = F.conv2d(x, held["blocks.input.patch_proj"], stride=PATCH).flatten(2).transpose(1, 2)
        x = torch.cat([held["blocks.input.w_t"][times][:, None], x], 1) + held["blocks.input.w_pos"]
        x = F.layer_norm(x, (self.width,), held["blocks.input.ln.g"], held["blocks.input.ln.b"])
        return F.normalize(self.tower("image", x, causal=False)[:, 0], dim=1)

    def texts(self, ids: Tensor, lengths: list[int]) -> Tensor:
        held = self.state["text"]
        x = held["blocks.input.w_voc"][ids] + held["blocks.input.w_pos"]
        rows = self.tower("text", x, causal=True)
        return F.normalize(torch.stack([row[n - 1] for row, n in zip(rows, lengths, strict=True)]), dim=1)


def test_the_clip_of_glide_for_noisy_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.parity.guided.TEXTS", save_tokenizer(tmp_path).vocab_size)
    clip, base = Noised(), Theirs(GLIDE)
    with torch.no_grad():
        mask = torch.ones(1, TEXT_LENGTH, dtype=torch.bool)
        base(torch.zeros(1, 3, 32, 32), torch.zeros(1), ids=torch.zeros(1, TEXT_LENGTH, dtype=torch.int64), mask=mask)
    save(base, tmp_path / "base.pt")
    torch.save(clip.state["image"], tmp_path / "image-enc.pt")
    with pytest.raises(PinxitError, match=r"one half of GLIDE's CLIP, that for vision\. Put the other one"):
        convert(str(tmp_path), tmp_path / "ours")
    torch.save(clip.state["text"], tmp_path / "text-enc.pt")
    merges = gzip.compress("\n".join(["#version", *MERGES, ""]).encode())
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(merges)
    assert convert(str(tmp_path), tmp_path / "ours").kind == "glide"
    ours = CLIPSystem.from_checkpoint(tmp_path / "ours" / "noised_clip", torch.device("cpu"))

    generator = torch.Generator().manual_seed(3)
    pixels, times = torch.randn(3, 3, SIZE, SIZE, generator=generator), torch.tensor([0, 500, 999])
    images = ours.clip.encode_image(pixels, times.float())
    torch.testing.assert_close(images, clip.images(pixels, times), atol=1e-5, rtol=0)
    red = [VOCABULARY - 2, 513, 516, VOCABULARY - 1]
    ids = torch.tensor([red + [0] * (LENGTH - 4), [VOCABULARY - 2, VOCABULARY - 1] + [0] * (LENGTH - 2)])
    torch.testing.assert_close(ours.encode_text(["red star", ""]), clip.texts(ids, [4, 2]), atol=1e-5, rtol=0)
    assert float(ours.clip.logit_scale.exp()) == pytest.approx(100)
    assert "gradient_guidance" in pinxit.load(tmp_path / "ours", "cpu").defaults


def test_the_published_size_of_the_clip_of_glide() -> None:
    """Theirs has no bias of keys, knows no scale, and has rows for 65,536 ids; counted in OpenAI's code."""
    with torch.device("meta"):
        network = CLIP(SIZES["glide-noised"])
    keys = sum(tower.depth * tower.width for tower in (network.config.vision, network.config.text))
    ours = sum(value.numel() for value in network.parameters())
    assert ours - keys - 1 + (65_536 - 49_408) * network.config.text.width == 158_123_264
