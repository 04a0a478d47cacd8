"""The pipelines of Taming, MaskGIT and iGPT, run for a few steps through every stage."""

from pathlib import Path

import pytest
from PIL import Image

import pinxit
from pinxit.errors import PinxitError
from pinxit.recipes.catalogue import find
from pinxit.recipes.overrides import override
from pinxit.recipes.recipe import Context
from pinxit.systems.token_system import TokenSystem

SOURCE = "scenes:80"


@pytest.mark.parametrize("name", ["taming", "maskgit"])
def test_every_stage_runs_and_the_whole_draws(name: str, tmp_path: Path) -> None:
    steps = {"codec": 6, "clip": 3, "transformer": 4}
    settings = [f"{stage}.training.{key}" for stage in steps for key in (f"steps={steps[stage]}", "batch_size=8")]
    settings += [f"{stage}.data.validation=6" for stage in steps]
    pipeline = override(find(f"{name}-tiny"), settings)
    context = Context(SOURCE, tmp_path)
    pipeline.run(context)
    assert pipeline.done(context)
    system = pinxit.load(tmp_path, "cpu")
    assert isinstance(system, TokenSystem)
    assert (system.kind, system.codec.kind) == (name, "vqgan")
    assert len(system.generate("a red star", 2, rerank=3)) == 2
    assert (tmp_path / "transformer" / "samples" / "step-0000004.png").exists()
    picture = Image.new("RGB", (32, 32), "red")
    assert system.complete(picture, "a red star", 1)[0].image.size == (32, 32)
    if name == "maskgit":
        assert system.edit(picture, Image.new("L", (32, 32), 255), "a blue star", 1)[0].settings["steps"] == 12


def test_igpt_draws_and_completes_pictures_without_a_text(tmp_path: Path) -> None:
    settings = ["transformer.training.steps=4", "transformer.training.batch_size=8", "transformer.data.validation=6"]
    pipeline = override(find("igpt-tiny"), settings)
    context = Context(SOURCE, tmp_path)
    pipeline.run(context)
    assert pipeline.done(context)
    system = pinxit.load(tmp_path, "cpu")
    assert isinstance(system, TokenSystem)
    assert (system.kind, system.codec.kind, system.clip) == ("igpt", "palette", None)
    assert (tmp_path / "transformer" / "samples" / "step-0000004.png").exists()
    drawn = system.generate("", 2)
    assert drawn[0].image.size == (16, 16)
    picture = drawn[0].image
    completed = system.complete(picture, "", 1, keep_rows=10)[0].image
    assert completed.crop((0, 0, 16, 10)).tobytes() == picture.crop((0, 0, 16, 10)).tobytes()
    with pytest.raises(PinxitError, match="draws without a text"):
        system.generate("a red star", 1)
