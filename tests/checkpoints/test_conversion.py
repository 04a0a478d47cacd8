"""Public layouts from their files on the disk to a checkpoint that loads; that the numbers agree is in tests/parity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from tests.parity import mingpt
from tests.parity.compvis import ends, published_state
from tests.parity.test_dvae import random_weights
from torch import Tensor, nn

import pinxit
from pinxit.checkpoints import catalogue
from pinxit.checkpoints.conversion import convert
from pinxit.checkpoints.files import load_network, read_config
from pinxit.cli.main import main
from pinxit.data.scenes import Scenes
from pinxit.errors import PinxitError
from pinxit.models.perceptual import LPIPS
from pinxit.systems.codec import Codec


def taming(*, gumbel: bool = False) -> dict[str, Tensor]:
    state = published_state(32, (1, 2), 1, 8, ())
    ends(state, 8, 8)
    state["post_quant_conv.weight"], state["post_quant_conv.bias"] = torch.ones(8, 8, 1, 1), torch.zeros(8)
    if gumbel:
        state["quantize.proj.weight"], state["quantize.proj.bias"] = torch.randn(40, 8, 1, 1), torch.randn(40)
    state[f"quantize.{'embed' if gumbel else 'embedding'}.weight"] = torch.randn(40, 8)
    return state


def kl() -> dict[str, Tensor]:
    state = published_state(32, (1, 1, 1, 1), 1, 4, (), double=True)
    ends(state, 8, 8)
    return {**state, "post_quant_conv.weight": torch.ones(4, 4, 1, 1), "post_quant_conv.bias": torch.zeros(4)}


def opened(folder: Path) -> Codec:
    codec = pinxit.load(folder, "cpu")
    assert isinstance(codec, Codec)
    assert codec.reconstruct(Scenes(1, size=64)[0].image)[0].size == (codec.size, codec.size)
    return codec


class Callback:
    """What Lightning leaves in a checkpoint."""


class Halves(nn.Module):
    """A whole module, as OpenAI pickled its encoder and decoder."""

    def __init__(self, side: str) -> None:
        super().__init__()
        for name, value in random_weights(side).items():
            module: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, nn.Parameter(value))


def test_openais_pickled_modules(tmp_path: Path) -> None:
    for side in ("encoder", "decoder"):
        torch.save(Halves(side), tmp_path / f"{side}.pkl")
    found = convert(str(tmp_path), tmp_path / "ours", size=32)
    assert (found.kind, found.layout) == ("dvae", "openai")
    codec = opened(tmp_path / "ours")
    assert (codec.kind, codec.size, codec.grid, codec.codes) == ("dvae", 32, (4, 4), 512)
    with pytest.raises(PinxitError, match=r"one half of OpenAI's dVAE\. Give the folder"):
        convert(str(tmp_path / "encoder.pkl"), tmp_path / "half")


@pytest.mark.parametrize("gumbel", [False, True], ids=["nearest", "gumbel"])
def test_taming_checkpoints_with_all_that_lightning_leaves_in_them(tmp_path: Path, gumbel: bool) -> None:
    state = taming(gumbel=gumbel) | {"loss.discriminator.main.0.weight": torch.ones(2)}
    torch.save({"state_dict": state, "callbacks": {Callback: 1}, "epoch": 3}, tmp_path / "last.ckpt")
    found = convert(str(tmp_path / "last.ckpt"), tmp_path / "ours", size=64)
    assert (found.kind, found.layout) == ("vqgan", "compvis")
    codec = opened(tmp_path / "ours")
    assert (codec.size, codec.grid, codec.codes) == (64, (32, 32), 40)
    said = read_config(tmp_path / "ours")["converted_from"]
    assert said == {"source": "last.ckpt", "layout": "compvis"}


def test_the_codec_inside_stable_diffusion(tmp_path: Path) -> None:
    state = {f"first_stage_model.{name}": value for name, value in kl().items()}
    save_file({**state, "model.diffusion_model.out.2.bias": torch.ones(4)}, tmp_path / "v1-5.safetensors")
    convert(str(tmp_path / "v1-5.safetensors"), tmp_path / "ours")
    codec = opened(tmp_path / "ours")
    assert (codec.kind, codec.shape) == ("vae", (4, 32, 32))
    assert codec.network.config.scale == 0.18215


def test_folders_of_diffusers_alone_and_in_a_pipeline(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install pinxit[parity]")
    model = diffusers.AutoencoderKL(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, sample_size=64,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "pipeline" / "vae")
    model.save_pretrained(tmp_path / "pickled" / "vae", safe_serialization=False)
    codecs = []
    for number, source in enumerate(("pipeline", "pipeline/vae", "pickled")):
        assert convert(str(tmp_path / source), tmp_path / str(number)).layout == "diffusers"
        codecs.append(opened(tmp_path / str(number)))
    assert len({codec.fingerprint for codec in codecs}) == 1
    assert codecs[0].shape == (4, 32, 32)
    described = json.loads((tmp_path / "pipeline/vae/config.json").read_text())
    described["down_block_types"] = ["DownEncoderBlock2D", "OddBlock"]
    (tmp_path / "pipeline/vae/config.json").write_text(json.dumps(described))
    with pytest.raises(PinxitError, match="A codec with OddBlock is not read here"):
        convert(str(tmp_path / "pipeline"), tmp_path / "odd")


def test_lpips_out_of_a_vqgan(tmp_path: Path) -> None:
    widths = ((0, 3, 64), (2, 64, 64)), ((5, 64, 128), (7, 128, 128)), ((10, 128, 256), (12, 256, 256), (14, 256, 256))
    last = ((17, 256, 512), (19, 512, 512), (21, 512, 512)), ((24, 512, 512), (26, 512, 512), (28, 512, 512))
    state = taming()
    for group, layers in enumerate((*widths, *last), start=1):
        for place, inputs, outputs in layers:
            state[f"loss.perceptual_loss.net.slice{group}.{place}.weight"] = torch.rand(outputs, inputs, 3, 3)
            state[f"loss.perceptual_loss.net.slice{group}.{place}.bias"] = torch.rand(outputs)
        state[f"loss.perceptual_loss.lin{group - 1}.model.1.weight"] = torch.rand(1, outputs, 1, 1)
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    assert convert(str(tmp_path / "last.ckpt"), tmp_path / "codec").kind == "vqgan"
    assert convert(str(tmp_path / "last.ckpt"), tmp_path / "lpips", part="lpips").kind == "lpips"
    network = LPIPS()
    load_network(tmp_path / "lpips", "lpips", network)
    assert torch.equal(network.weights[4], state["loss.perceptual_loss.lin4.model.1.weight"].flatten())


def test_the_command_says_what_it_found(tmp_path: Path) -> None:
    torch.save(taming(), tmp_path / "model.pt")
    done = CliRunner().invoke(main, ["convert", str(tmp_path / "model.pt"), str(tmp_path / "ours")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("vqgan of ")
    assert "from the layout of compvis" in done.output


def test_the_hub_is_asked_for_pickles_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    torch.save(taming(), hub / "model.ckpt")
    asked = []

    def fetch(address: str, files: list[str]) -> Path:
        asked.append((address, "*.ckpt" in files))
        return hub

    monkeypatch.setattr(catalogue, "fetch", fetch)
    convert("hf:somebody/vqgan", tmp_path / "ours")
    assert asked == [("hf:somebody/vqgan", False)], "there are weights, so nothing more is fetched"
    (hub / "model.ckpt").rename(hub / "model")
    with pytest.raises(PinxitError, match="holds no weights"):
        convert("hf:somebody/vqgan", tmp_path / "others")
    assert [pickles for _, pickles in asked[1:]] == [False, False, True]
    assert read_config(tmp_path / "ours")["converted_from"]["source"] == "hf:somebody/vqgan"


def test_what_is_unknown_is_told_with_what_is_known(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(
        PinxitError, match=r"no layout that is known here \(its first tensors: a.weight\). Known are: Op"
    ):
        convert(str(tmp_path / "other.pt"), tmp_path / "ours")
    with pytest.raises(PinxitError, match="is no file and no folder"):
        convert(str(tmp_path / "nothing"), tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PinxitError, match="holds no weights"):
        convert(str(tmp_path / "empty"), tmp_path / "ours")
    with pytest.raises(PinxitError, match="no part 'vgg' to convert"):
        convert(str(tmp_path / "other.pt"), tmp_path / "ours", part="vgg")
    for name in ("one", "two"):
        torch.save(taming(), tmp_path / "empty" / f"{name}.pt")
    with pytest.raises(PinxitError, match=r"several weights: one.pt, two.pt. Give one of them"):
        convert(str(tmp_path / "empty"), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_what_lies_in_the_folder_is_not_replaced(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    torch.save(taming(), models / "last.ckpt")
    with pytest.raises(PinxitError, match=r"holds other things, which would be lost\. Give an empty folder"):
        convert(str(models / "last.ckpt"), models)
    assert (models / "last.ckpt").exists()
    for _ in range(2):  # an earlier conversion may be
        convert(str(models / "last.ckpt"), tmp_path / "ours")


def test_weights_that_are_not_whole_are_told(tmp_path: Path) -> None:
    state = taming()
    torch.save({name: value for name, value in state.items() if name != "encoder.conv_in.bias"}, tmp_path / "a.pt")
    with pytest.raises(PinxitError, match=r"a.pt is not whole, .*'encoder.0.bias' does not fit"):
        convert(str(tmp_path / "a.pt"), tmp_path / "ours")
    torch.save({name: value for name, value in state.items() if name != "encoder.mid.attn_1.k.bias"}, tmp_path / "b.pt")
    with pytest.raises(PinxitError, match=r"b.pt is like a layout that is known here, but not quite: KeyError"):
        convert(str(tmp_path / "b.pt"), tmp_path / "ours")
    torch.save({name: value for name, value in state.items() if ".mid.attn_1" not in name}, tmp_path / "c.pt")
    with pytest.raises(PinxitError, match="without attention in its middle is not read"):
        convert(str(tmp_path / "c.pt"), tmp_path / "ours")
    torch.save(state, tmp_path / "d.pt")
    with pytest.raises(PinxitError, match="size=63 does not divide"):
        convert(str(tmp_path / "d.pt"), tmp_path / "ours", size=63)
    assert not (tmp_path / "ours").exists()


def test_latents_of_stable_diffusion_xl_are_scaled_as_its_own(tmp_path: Path) -> None:
    state = {f"first_stage_model.{name}": value for name, value in kl().items()}
    save_file({**state, "conditioner.embedders.0.w": torch.ones(4)}, tmp_path / "xl.safetensors")
    convert(str(tmp_path / "xl.safetensors"), tmp_path / "ours")
    assert opened(tmp_path / "ours").network.config.scale == 0.13025


# Transformers with their codecs; that the numbers agree is in tests/parity


def test_the_codec_of_a_system_alone(tmp_path: Path) -> None:
    save_file(mingpt.taming_state(), tmp_path / "last.safetensors")
    source = str(tmp_path / "last.safetensors")
    with pytest.raises(PinxitError, match=r"how many heads .*beside it as last.yaml, or .* --part codec\.$"):
        convert(source, tmp_path / "ours", size=mingpt.SIZE)
    assert convert(source, tmp_path / "ours", part="codec", size=mingpt.SIZE).kind == "vqgan"
    assert opened(tmp_path / "ours").shape == (4, 4)
    mingpt.save_mindalle(tmp_path / "1.3B")
    assert convert(str(tmp_path / "1.3B"), tmp_path / "other", part="codec", size=mingpt.SIZE).kind == "vqgan"


def test_the_folder_of_a_run_of_tamings(tmp_path: Path) -> None:
    run = tmp_path / "cin_transformer"
    for folder in ("checkpoints", "configs"):
        (run / folder).mkdir(parents=True)
    file = mingpt.save_taming(run / "checkpoints" / "last.ckpt", mingpt.taming_state(), mingpt.CLASSES)
    file.with_suffix(".yaml").rename(run / "configs" / "2021-04-03T19-39-50-project.yaml")
    (run / "configs" / "2021-04-03T19-39-50-lightning.yaml").write_text("{}")
    done = CliRunner().invoke(main, ["convert", str(run), str(tmp_path / "ours"), "--size", str(mingpt.SIZE)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("taming of ")
    said = read_config(tmp_path / "ours")
    assert said["parts"] == ["codec", "transformer"]
    assert said["converted_from"] == {"source": "cin_transformer", "layout": "compvis"}
    assert read_config(tmp_path / "ours" / "transformer")["labels"] == ["0", "1", "2", "3", "4"]
    assert pinxit.load(tmp_path / "ours", "cpu").kind == "taming"


DEPTH = {"cond_stage_config": {"target": "taming.models.vqgan.VQModel", "params": {}}}
COORDINATES = {"cond_stage_config": {"target": "taming.modules.misc.coord.CoordStage", "params": {}}}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (DEPTH, r"draws for what VQModel makes \(depth.*Read are those for classes and for nothing; --part codec"),
        (COORDINATES, "draws for what CoordStage makes"),
        ({"cond_stage_config": "__is_first_stage__"}, "draws for what __is_first_stage__ makes"),
        ({"cond_stage_config": {"target": "a.Labelator"}}, "known here, but not quite: KeyError at 'params'"),
        ({**mingpt.CLASSES, "transformer_config": {"params": {"n_head": "x"}}}, "but not quite: ValueError"),
        ({**mingpt.CLASSES, "transformer_config": {"params": {"n_head": 5}}}, "does not divide into 5 heads"),
    ],
)
def test_transformers_that_cannot_be_read_are_told(tmp_path: Path, told: dict[str, object], said: str) -> None:
    file = mingpt.save_taming(tmp_path / "last.ckpt", mingpt.taming_state(), told)
    with pytest.raises(PinxitError, match=said) as fault:
        convert(str(file), tmp_path / "ours", size=mingpt.SIZE)
    assert "\n" not in str(fault.value)
    assert not (tmp_path / "ours").exists()


def test_transformers_that_are_not_whole_are_told(tmp_path: Path) -> None:
    state = mingpt.taming_state()
    file = mingpt.save_taming(tmp_path / "a.ckpt", state, mingpt.CLASSES)
    with pytest.raises(PinxitError, match=r"Its 16 positions are too few for 64x64 codes\. Give the --size"):
        convert(str(file), tmp_path / "ours")
    file = mingpt.save_taming(tmp_path / "p.ckpt", {**state, "permuter.idx": torch.ones(16)}, mingpt.CLASSES)
    with pytest.raises(PinxitError, match="draws codes in another order than row by row"):
        convert(str(file), tmp_path / "ours", size=mingpt.SIZE)
    del state["transformer.blocks.1.mlp.2.bias"]
    file = mingpt.save_taming(tmp_path / "b.ckpt", state, mingpt.CLASSES)
    with pytest.raises(PinxitError, match=r"b.ckpt is not whole, .*'transformer.blocks.1.mlp.2.bias' does not fit"):
        convert(str(file), tmp_path / "ours", size=mingpt.SIZE)
    file.with_suffix(".yaml").write_text("model: [")
    with pytest.raises(PinxitError, match=r"b.yaml cannot be read as yaml: [^\n]+$"):
        convert(str(file), tmp_path / "ours", size=mingpt.SIZE)
    assert not (tmp_path / "ours").exists()


def test_mindalle_that_is_not_whole_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "1.3B"
    mingpt.save_mindalle(folder)
    with pytest.raises(PinxitError, match=r"stage2_last.ckpt is one half of minDALL-E\. Give the folder that holds"):
        convert(str(folder / "stage2_last.ckpt"), tmp_path / "ours")
    with pytest.raises(PinxitError, match=r"1.3B is not whole, .*'image_position' does not fit"):
        convert(str(folder), tmp_path / "ours")
    whole = torch.load(folder / "stage2_last.ckpt")["state_dict"]
    fewer = {
        name: value[:-1] if name in ("tok_emb_txt.weight", "head_txt.weight") else value
        for name, value in whole.items()
    }
    torch.save({"state_dict": fewer}, folder / "stage2_last.ckpt")
    with pytest.raises(PinxitError, match=r"The tokenizer has \d+ ids, the transformer knows \d+\."):
        convert(str(folder), tmp_path / "ours", size=mingpt.SIZE)
    (folder / "tokenizer" / "bpe-16k-merges.txt").unlink()
    with pytest.raises(PinxitError, match=r"bpe-16k-merges.txt are no vocabulary with its merges"):
        convert(str(folder), tmp_path / "ours", size=mingpt.SIZE)
    assert not (tmp_path / "ours").exists()
