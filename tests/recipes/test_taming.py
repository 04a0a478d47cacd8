"""The pipelines of Taming, MaskGIT, PixelCNN and iGPT, run for a few steps through every stage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import pinxit
from pinxit.cli.main import main
from pinxit.data.pairs import open_pairs
from pinxit.data.sample import BadSample
from pinxit.data.scenes import Scenes
from pinxit.data.views import VIEWS, View
from pinxit.errors import PinxitError
from pinxit.jobs.encode import Encoded, EncodedSample
from pinxit.recipes.catalogue import find
from pinxit.recipes.conditions import Given, Labels
from pinxit.recipes.overrides import override
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Context, Recipe
from pinxit.systems.conditions import EmbeddingCondition, LabelCondition, NoCondition, ViewCondition
from pinxit.systems.picture import Picture
from pinxit.systems.token_system import TokenSystem

SOURCE = "scenes:80"


def run(name: str, folder: Path, *more: str, source: str = SOURCE) -> TokenSystem:
    """Every stage of a pipeline, for a few steps, twice: the second time nothing is left to do."""
    pipeline = find(name)
    assert isinstance(pipeline, Pipeline)
    steps = {"codec": 6, "clip": 3, "transformer": 4, "prior": 4}
    stages = [stage for stage in steps if isinstance(pipeline.stages.get(stage), Recipe)]
    settings = [f"{stage}.training.{key}" for stage in stages for key in (f"steps={steps[stage]}", "batch_size=8")]
    settings += [f"{stage}.data.validation=6" for stage in stages]
    pipeline, context = override(pipeline, [*settings, *more]), Context(source, folder)
    pipeline.run(context)
    assert pipeline.done(context)
    system = pinxit.load(folder, "cpu")
    assert isinstance(system, TokenSystem)
    assert list(folder.glob("*/samples/step-0000004.png"))
    assert f"A system of kind {system.kind}" in (folder / "model" / "README.md").read_text()
    return system


@pytest.mark.parametrize("name", ["taming", "maskgit", "pixelcnn", "pixelcnn2"])
def test_every_stage_runs_and_the_whole_draws(name: str, tmp_path: Path) -> None:
    system = run(f"{name}-tiny", tmp_path)
    assert (system.kind, system.codec.kind) == {
        "taming": ("taming", "vqgan"),
        "maskgit": ("maskgit", "vqgan"),
        "pixelcnn": ("pixelcnn", "vqvae"),
        "pixelcnn2": ("pixelcnn", "vqvae"),
    }[name]
    assert len(system.generate("a red star", 2, rerank=3, guidance=2.0)) == 2
    picture = Image.new("RGB", (32, 32), "red")
    assert system.complete(picture, "a red star", 1)[0].image.size == (32, 32)
    if name == "maskgit":
        assert system.edit(picture, Image.new("L", (32, 32), 255), "a blue star", 1)[0].settings["steps"] == 12
    if name == "pixelcnn2":
        codes = system.encode(picture)
        kept = system.drawer.draw(
            system.condition([""]),
            [0],
            system.resolve(1, 0, {}),
            given=codes,
            known=torch.cat([torch.arange(16) < 8, torch.arange(64) < 32]),
        )
        assert (kept[0, :8] == codes[0, :8]).all()
        assert (kept[0, 16:48] == codes[0, 16:48]).all()
        assert pixels(system.complete(picture, "", 1, keep_rows=2)) == [system.decode(kept)[0].tobytes()]
        with pytest.raises(PinxitError, match="size is fixed for codes of several grids"):
            system.generate("", 1, size=(64, 64))
    else:
        assert system.generate("a red star", 1, size=(64, 32))[0].image.size == (64, 32)


def pixels(pictures: list[Picture]) -> list[bytes]:
    return [picture.image.tobytes() for picture in pictures]


def test_nothing_is_asked_of_what_has_learnt_from_pictures_alone(tmp_path: Path) -> None:
    system = run("taming-unconditional-tiny", tmp_path)
    assert isinstance(system.condition, NoCondition)
    one, two = system.generate("", 2)
    assert one.image.tobytes() != two.image.tobytes()
    assert system.generate("", 1, size=(64, 32))[0].image.size == (64, 32)
    with pytest.raises(PinxitError, match="draws without a text"):
        system.generate("a red star", 1)


def test_classes_are_learnt_by_the_names_that_the_source_tells(tmp_path: Path) -> None:
    system = run("taming-class-tiny", tmp_path, "transformer.data.label=category")
    assert isinstance(system.condition, LabelCondition)
    assert {"single_object", "two_object", "position"} <= set(system.condition.labels)
    assert len(system.generate("two_object", 2, guidance=2.0)) == 2
    with pytest.raises(PinxitError, match=r"no class 'two_objects'. .*two_object"):
        system.generate("two_objects", 1)


def test_folders_of_pictures_without_captions_are_classes(tmp_path: Path) -> None:
    for i in range(40):
        folder = tmp_path / "pictures" / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Scenes(40, size=32)[i].image.save(folder / f"{i:02d}.png")
    system = run("taming-class-tiny", tmp_path / "run", source=str(tmp_path / "pictures"))
    assert isinstance(system.condition, LabelCondition)
    assert system.condition.labels == ("cats", "dogs")
    assert len(Encoded.load(tmp_path / "run" / "tokens")) == 40
    done = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "pictures")])
    assert done.exit_code == 0, done.output
    assert "on 40 pictures" in done.output
    with pytest.raises(PinxitError, match="data check"):
        run("taming-tiny", tmp_path / "other", source=str(tmp_path / "pictures"))


def test_what_is_no_class_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match=r"data.label=folder has 0 different values.* says .*category.*style"):
        run("taming-class-tiny", tmp_path)


def test_embeddings_of_pictures_are_learnt_and_those_of_texts_drawn(tmp_path: Path) -> None:
    system = run("taming-clip-tiny", tmp_path)
    assert isinstance(system.condition, EmbeddingCondition)
    assert system.prior.config.condition_vector == system.condition.clip.shape[0]
    assert len(system.generate("a red star", 2, guidance=2.0)) == 2
    quick = pinxit.load(tmp_path, "cpu", bf16=True)
    assert quick.generate("a red star", 1, guidance=2.0)[0].settings["bf16"] is True
    encoded = Encoded.load(tmp_path / "embeddings")
    scene = open_pairs(SOURCE, size=32)[3]
    expected = system.condition.clip.encode_image(scene.image)[0]
    found = torch.from_numpy(encoded[encoded.keys.index(scene.key)].codes)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_what_is_given_is_left_out_or_blurred_while_learning() -> None:
    rng = np.random.default_rng(0)
    unit = np.array([0.6, 0.8, 0.0, 0.0], np.float32)
    sample = EncodedSample("0", np.arange(4), {}, {"kind": " cat "}, unit)
    nothing = np.zeros(4, np.float32)
    assert (Given(nothing)(sample, rng)["condition"] == unit).all()
    assert (Given(nothing, dropout=1.0)(sample, rng)["condition"] == nothing).all()
    blurred = Given(nothing, noise=0.5)(sample, rng)["condition"]
    assert blurred.dtype == np.float32
    assert np.linalg.norm(blurred) == pytest.approx(1)
    assert 0.02 < np.linalg.norm(blurred - unit) < 1.2
    labels = Labels(("cat", "dog"), "kind")
    assert labels(sample, rng)["condition"].tolist() == [0]
    assert replace(labels, dropout=1.0)(sample, rng)["condition"].tolist() == [2]
    with pytest.raises(BadSample, match="has no 'breed' that is a class"):
        Labels(("cat", "dog"), "breed")(sample, rng)


def test_settings_that_no_condition_has_are_told(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match=r"model.pad=0 is an id of a text, and this recipe has none"):
        run("taming-class-tiny", tmp_path, "transformer.data.label=category", "transformer.model.pad=0")
    with pytest.raises(PinxitError, match=r"holds codes of whole pictures. Set views.view to edges or low or lower"):
        run("taming-edges-tiny", tmp_path / "views", "views.view=none")


@pytest.mark.parametrize("view", ["edges", "low"])
def test_views_are_learnt_and_pictures_drawn_from_them(view: View, tmp_path: Path) -> None:
    system = run("taming-edges-tiny", tmp_path, f"views.view={view}")
    scene = open_pairs(SOURCE, size=32)[3]
    encoded = Encoded.load(tmp_path / "views")
    taken = VIEWS[view](scene.image)
    codes = torch.from_numpy(encoded[encoded.keys.index(scene.key)].codes)[None]
    assert torch.equal(system.encode(taken).flatten(1), codes)
    assert isinstance(system.condition, ViewCondition)
    assert torch.equal(system.condition.of(scene.image), codes)
    assert torch.equal(system.condition.of(taken, as_it_is=True), codes)
    assert (system.condition([""]) == system.prior.no_condition(1)).all()
    drawn = system.translate(scene.image, 1, guidance=2.0)
    scene.image.save(tmp_path / "scene.png")
    command = [
        "translate",
        str(tmp_path / "scene.png"),
        "-m",
        str(tmp_path),
        "-n",
        "1",
        "--seed",
        "0",
        "--guidance",
        "2",
    ]
    done = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "one.png")])
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "one.png") as written:
        assert written.convert("RGB").tobytes() == drawn[0].image.tobytes()
    assert pixels(drawn) == pixels(system.translate(taken, 1, as_it_is=True, guidance=2.0))
    with pytest.raises(PinxitError, match=r"draws from the .* of a picture. Give one: `pinxit translate`"):
        system.generate("a red star", 1)


def test_igpt_draws_and_completes_pictures_without_a_text(tmp_path: Path) -> None:
    system = run("igpt-tiny", tmp_path)
    assert (system.kind, system.codec.kind, system.clip) == ("igpt", "palette", None)
    drawn = system.generate("", 2)
    assert drawn[0].image.size == (16, 16)
    picture = drawn[0].image
    completed = system.complete(picture, "", 1, keep_rows=10)[0].image
    assert completed.crop((0, 0, 16, 10)).tobytes() == picture.crop((0, 0, 16, 10)).tobytes()
    with pytest.raises(PinxitError, match="draws without a text"):
        system.generate("a red star", 1)
