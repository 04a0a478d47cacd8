"""The pipelines of DDPM, ADM, GLIDE and the GAN, run for a few steps through every stage."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image, ImageDraw

import pinxit
from pinxit.checkpoints.files import read_tensors
from pinxit.cli.main import main
from pinxit.data.images import open_image, to_tensor
from pinxit.data.recolour import COLOURS, tint
from pinxit.data.sample import BadSample, Sample
from pinxit.data.scenes import Scenes
from pinxit.errors import PinxitError
from pinxit.models.denoiser import Conditioning, Denoiser
from pinxit.recipes.catalogue import find
from pinxit.recipes.codecs import Pixels
from pinxit.recipes.conditions import Texts
from pinxit.recipes.denoisers import Example
from pinxit.recipes.overrides import override
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Context, Recipe
from pinxit.systems.noise_drawing import Drawing, NoiseDrawer
from pinxit.systems.system import Settings, System
from pinxit.text.tokenizer import Tokenizer

SOURCE = "scenes:80"


def run(name: str, folder: Path, *more: str, source: str = SOURCE, **parts: str) -> System:
    """Every stage of a pipeline, for a few steps, twice: the second time nothing is left to do."""
    pipeline = find(name)
    assert isinstance(pipeline, Pipeline)
    stages = [stage for stage, what in pipeline.stages.items() if isinstance(what, Recipe)]
    settings = [f"{stage}.training.{key}" for stage in stages for key in ("steps=3", "batch_size=8")]
    settings += [f"{stage}.data.validation=6" for stage in stages]
    pipeline, context = override(pipeline, [*settings, *more]), Context(source, folder, parts=parts)
    pipeline.run(context)
    assert pipeline.done(context)
    return pinxit.load(folder, "cpu")


@pytest.mark.parametrize("name", ["ddpm", "improved-ddpm"])
def test_pictures_alone(name: str, tmp_path: Path) -> None:
    system = run(f"{name}-tiny", tmp_path)
    assert system.kind == "ddpm"
    assert open_image(tmp_path / "base" / "samples" / "step-0000003.png").size == (8 * 34 - 2, 2 * 34 - 2)
    assert system.generate("", 1, steps=3)[0].image.size == (32, 32)
    with pytest.raises(PinxitError, match=r'Give an empty prompt, ""'):
        system.generate("a red star", 1, steps=3)
    with pytest.raises(PinxitError, match="does not take the setting 'guidance'"):
        system.generate("", 1, guidance=2.0)


def test_classes_and_their_classifier(tmp_path: Path) -> None:
    label = [f"{stage}.data.label=class" for stage in ("base", "noised_classifier")]
    system = run("adm-tiny", tmp_path, *label)
    made = system.generate("several", 2, steps=3, guidance=2.0)[0]
    assert made.settings["gradient_guidance"] == 1.0
    assert "classes: black cross, " in CliRunner().invoke(main, ["show", str(tmp_path)]).output
    assert made.image.size == (32, 32)
    with pytest.raises(PinxitError, match="There is no class 'a purple horse'"):
        system.generate("a purple horse", 1, steps=3)


def test_a_classifier_alone_leads_to_a_class(tmp_path: Path) -> None:
    system = run("adm-unconditional-tiny", tmp_path, "noised_classifier.data.label=class")
    assert system.cascade.base.config.classes is None
    made = system.generate("several", 2, steps=3)[0]
    assert made.settings["gradient_guidance"] == 10.0
    assert "guidance" not in made.settings
    assert made.image.tobytes() != system.generate("black cross", 1, steps=3)[0].image.tobytes()
    assert made.image.tobytes() != system.generate("", 1, steps=3)[0].image.tobytes()
    with pytest.raises(PinxitError, match="its classifier alone leads to a class"):
        system.generate("several", 1, steps=3, gradient_guidance=0.0)
    with pytest.raises(PinxitError, match="There is no class 'a purple horse'"):
        system.generate("a purple horse", 1, steps=3)
    with pytest.raises(PinxitError, match="does not take the setting 'guidance'"):
        system.generate("several", 1, steps=3, guidance=2.0)


@pytest.mark.parametrize("name", ["adm", "gan"])
def test_scenes_of_one_thing(name: str, tmp_path: Path) -> None:
    system = run(f"{name}-scenes-tiny", tmp_path, source="scenes:1000")
    few: Settings = {"steps": 3} if name == "adm" else {}
    assert system.generate("red circle", 1, **few)[0].image.size == (32, 32)
    with pytest.raises(PinxitError, match="There is no class 'several'"):
        system.generate("several", 1, **few)


def test_scenes_by_their_captions(tmp_path: Path) -> None:
    system = run("glide-scenes-tiny", tmp_path, source="scenes:200")
    assert system.cascade.base.config.text.length == 24
    assert system.generate("two red rings", 1, rerank=2, steps=3)[0].image.size == (32, 32)


def test_texts_a_cascade_and_clip(tmp_path: Path) -> None:
    system = run("glide-128-tiny", tmp_path)
    assert (system.kind, system.generate("a red star", 2, rerank=3, steps=3)[0].image.size) == ("glide", (32, 32))
    assert "upsample_steps" in system.defaults
    assert system.upsample(Image.new("RGB", (20, 16), "red"), "a red star", upsample_steps=2).image.size == (40, 32)


def test_a_part_of_a_picture_after_what_was_learnt_of_whole_ones(tmp_path: Path) -> None:
    run("glide-tiny", tmp_path / "whole")
    system = run(
        "glide-inpaint-tiny",
        tmp_path / "part",
        source="scenes:90:held-out",
        start=str(tmp_path / "whole"),
        clip=str(tmp_path / "whole"),
    )
    stem = "unet.encoder.stem.weight"
    narrow = read_tensors(tmp_path / "whole" / "base" / "model", "denoiser")[stem]
    wide = read_tensors(tmp_path / "part" / "base" / "model", "denoiser")[stem]
    assert wide.shape[1] == narrow.shape[1] + 4 * 16
    assert (wide[:, : narrow.shape[1]] - narrow).abs().max() < 0.02, "it has gone on from there"
    texts = [(tmp_path / way / "base" / "model" / "tokenizer.json").read_text() for way in ("whole", "part")]
    assert texts[0] == texts[1], "ids mean what they meant, though the captions are others"
    picture, mask = Image.new("RGB", (32, 32), "red"), Image.new("L", (32, 32), 0)
    ImageDraw.Draw(mask).rectangle((0, 0, 15, 31), 255)
    (edited,) = system.edit(picture, mask, "a blue star", 1, steps=3)
    pixels = np.asarray(edited.image)
    assert (pixels[:, 16:] == (255, 0, 0)).all()
    assert (pixels[:, :16] != (255, 0, 0)).any()


def test_training_starts_from_a_network_that_is_alike(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run("ddpm-tiny", tmp_path / "ddpm")
    run("ddpm-tiny", tmp_path / "alike", start=str(tmp_path / "ddpm" / "base"))
    assert "has to learn" not in caplog.text
    run("ddpm-tiny", tmp_path / "eps", "base.model.process.target=eps", start=str(tmp_path / "ddpm" / "base"))
    assert "starts from a network that tells v, and has to learn to tell eps" in caplog.text
    with pytest.raises(PinxitError, match=r"cannot start from .* another: \S+ is .* there and .* here"):
        run("glide-tiny", tmp_path / "glide", start=str(tmp_path / "ddpm" / "base"))
    glide = run("glide-tiny", tmp_path / "glide")
    with pytest.raises(PinxitError, match="has no network that enlarges"):
        glide.upsample(Image.new("RGB", (32, 32)))
    run("dalle2-tiny", tmp_path / "dalle2", start=str(tmp_path / "glide"))
    before, after = (
        read_tensors(tmp_path / folder / "model", "denoiser") for folder in ("glide/base", "dalle2/decoder")
    )
    assert all((after[name] - value).abs().max() < 0.1 for name, value in before.items())
    learnt = after["embedding_to_tokens.weight"].abs().max()
    assert 0 < learnt < 0.02, "nothing was told of embeddings at first"


@pytest.mark.parametrize("name", ["gan", "gan-class"])
def test_a_gan(name: str, tmp_path: Path) -> None:
    system = run(f"{name}-tiny", tmp_path, *(["generator.data.label=class"] if name == "gan-class" else []))
    one, two = system.generate("several", 2)
    assert one.image.size == (32, 32)
    assert one.image.tobytes() != two.image.tobytes()
    with pytest.raises(PinxitError, match="does not take the setting 'steps'"):
        system.generate("several", 1, steps=3)


def test_a_clip_that_knows_noise_leads_glide(tmp_path: Path) -> None:
    recipe = override(find("noised-clip-tiny"), ["training.steps=3", "training.batch_size=8", "data.validation=6"])
    assert isinstance(recipe, Recipe)
    recipe.run(Context(SOURCE, tmp_path / "noised"))
    assert run("glide-tiny", tmp_path / "glide").judge is None
    system = run("glide-tiny", tmp_path / "glide", noised_clip=str(tmp_path / "noised"))
    plain, led = (system.generate("a red star", 1, steps=4, gradient_guidance=scale)[0] for scale in (0.0, 50.0))
    assert plain.image.tobytes() != led.image.tobytes()


def test_what_an_example_holds() -> None:
    sample = Scenes(4)[0]
    example = Example(Pixels(64), low=16, low_noise=0.5, known=True)
    made, again = (example(sample, np.random.default_rng(3)) for _ in range(2))
    assert made["pixels"].shape == (3, 64, 64)
    assert made["low"].shape == (3, 16, 16)
    assert made["mask"].shape == (1, 64, 64)
    assert set(made["mask"].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(made["known"], made["pixels"])
    assert 0 <= made["low_level"] <= 0.5
    assert all(torch.equal(made[name], again[name]) for name in made)
    clean = Example(Pixels(64), low=16, low_noise=0.0)(sample, np.random.default_rng(3))
    torch.testing.assert_close(clean["low"], torch.nn.functional.avg_pool2d(made["pixels"], 4))


def test_a_picture_in_another_colour_is_asked_for_in_that() -> None:
    picture, found = Image.linear_gradient("L").resize((16, 16)).convert("RGB"), set()
    sample = Sample("star", picture, {"short": ("a star",)}, {})
    words = Texts(Tokenizer.train([f"a {name} star" for name in COLOURS] * 2, 600), 12, {"short": 1.0})
    example = Example(Pixels(16, recolour=1.0), words)
    for seed in range(30):
        made = example(sample, np.random.default_rng(seed))
        (name,) = (name for name in COLOURS if f" {name} " in words.tokenizer.decode(made["ids"]))
        assert torch.equal(made["pixels"], to_tensor(tint(picture, COLOURS[name])))
        found.add(name)
    assert len(found) > 4


def test_a_window_shows_the_same_place_of_both() -> None:
    example, sample = Example(Pixels(64), low=16, window=0.25), Scenes(3)[2]
    whole = Example(Pixels(64))(sample, np.random.default_rng(0))["pixels"]
    found = set()
    for seed in range(8):
        made = example(sample, np.random.default_rng(seed))
        assert made["pixels"].shape == (3, 16, 16)
        torch.testing.assert_close(F.avg_pool2d(made["pixels"], 4), made["low"])
        windows = whole.unfold(1, 16, 4).unfold(2, 16, 4)  # 3 y x 16 16
        at = (windows == made["pixels"][:, None, None]).all(-1).all(-1).all(0).nonzero()
        found.add(tuple(at[0].tolist()))
    assert len(found) > 4, "each time another"


@torch.no_grad()
def test_what_enlarges_takes_pictures_of_any_size() -> None:
    recipe = find("dalle2-upsampler-tiny")
    assert isinstance(recipe, Recipe)
    drawer = NoiseDrawer.ready(Denoiser(recipe.model), torch.device("cpu"))
    asked = Conditioning(low=torch.zeros(2, 3, 12, 20), low_level=torch.zeros(2))
    assert drawer.draw(asked, [0, 1], Drawing("ddim", 2)).shape == (2, 3, 24, 40)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("glide-base-tiny", "data.window=0.25", "parts of pictures are for a network that enlarges"),
        ("dalle2-upsampler-tiny", "data.window=2", "makes parts of 128 of 64 pixels"),
        ("dalle2-upsampler-tiny", "data.window=0.03", r"makes parts of 2 of 64 pixels; give .* a multiple of 4"),
    ],
)
def test_windows_that_cannot_be_learnt_from(name: str, setting: str, message: str, tmp_path: Path) -> None:
    recipe = override(find(name), [setting])
    assert isinstance(recipe, Recipe)
    with pytest.raises(PinxitError, match=message):
        recipe.run(Context(SOURCE, tmp_path))


def test_small_pictures_do_not_teach_to_enlarge() -> None:
    with pytest.raises(BadSample, match=r"is 64 x 64 pixels; to learn to enlarge takes 128 a side"):
        Example(Pixels(128), low=32)(Scenes(1, size=64)[0], np.random.default_rng(0))


def test_parts_of_another_kind_are_refused_before_training(tmp_path: Path) -> None:
    run("gan-tiny", tmp_path / "gan")
    run("adm-tiny", tmp_path / "adm", "base.data.label=class", "noised_classifier.data.label=class")
    generator = tmp_path / "gan" / "generator"
    for part, given, told in (
        ("clip", generator, r"--part clip=.* is of kind gan\. What the recipe clip-tiny makes is wanted there"),
        ("base", tmp_path / "adm", r"--part base=.* draws after classes, and glide-base-tiny after texts"),
    ):
        with pytest.raises(PinxitError, match=told):
            run("glide-tiny", tmp_path / "glide", **{part: str(given)})
    assert not (tmp_path / "glide").exists()


def test_a_label_that_no_picture_has_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match=r"looked at has data\.label=kind, .* --set STAGE\.data\.label=NAME"):
        run("adm-tiny", tmp_path, "base.data.label=class", "noised_classifier.data.label=kind")
    assert not (tmp_path / "base").exists()


def test_without_a_judge_no_gradient_leads(tmp_path: Path) -> None:
    system = run("glide-tiny", tmp_path)
    with pytest.raises(PinxitError, match=r"nothing to judge noisy pictures by.* the recipe noised-clip, and copy"):
        system.generate("a red star", 1, gradient_guidance=2.0)
    with pytest.raises(PinxitError, match=r"no system for .* kind 'denoiser'.* Give the folder of a whole"):
        pinxit.load(tmp_path / "base")
