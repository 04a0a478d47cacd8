"""DALL·E 2 through every stage for a few steps, and what can be asked of it then."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw

import pinxit
from pinxit.cli.main import main
from pinxit.cli.outputs import animation
from pinxit.data.images import open_image
from pinxit.data.scenes import Scenes
from pinxit.errors import PinxitError
from pinxit.evaluation.report import evaluate
from pinxit.recipes.catalogue import find
from pinxit.recipes.denoisers import Seen
from pinxit.recipes.overrides import override
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Context, Recipe
from pinxit.systems import noise_drawing
from pinxit.systems.cascade import Cascade
from pinxit.systems.dalle2 import DALLE2System, slerp
from pinxit.systems.picture import read_settings
from pinxit.systems.prior_drawing import ARPriorDrawer
from pinxit.systems.system import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline, folder = find("dalle2-tiny"), tmp_path_factory.mktemp("dalle2")
    assert isinstance(pipeline, Pipeline)
    stages = [stage for stage, what in pipeline.stages.items() if isinstance(what, Recipe)]
    settings = [f"{stage}.training.{key}" for stage in stages for key in ("steps=3", "batch_size=8")]
    context = Context("scenes:80", folder)
    override(pipeline, [*settings, *(f"{stage}.data.validation=6" for stage in stages)]).run(context)
    return folder


@pytest.fixture(scope="module")
def system(folder: Path) -> DALLE2System:
    found = pinxit.load(folder, "cpu")
    assert isinstance(found, DALLE2System)
    return found


PICTURE = Scenes(3)[2].image
FEW: Settings = {"steps": 4, "prior_steps": 4, "upsample_steps": 2}
TEXT_ALONE: Settings = {"steps": 4, "prior": "none", "upsample_steps": 2}


def test_from_texts(system: DALLE2System) -> None:
    one, two = system.generate("a red star", 2, seed=3, **FEW)
    assert one.image.size == (128, 128)
    assert one.settings["prior"] == "diffusion"
    (alone,) = system.generate("a red star", 1, seed=4, **FEW)
    assert np.abs(np.asarray(alone.image).astype(int) - np.asarray(two.image).astype(int)).max() <= 1
    ways = [
        system.imagine(["a red star", ""], [3, 4], {**system.defaults, **settings}) for settings in (FEW, TEXT_ALONE)
    ]
    assert not torch.allclose(ways[0], ways[1])
    assert not ways[1][1].any(), "no text, no embedding"
    assert system.generate("a red star", 1, seed=3, **TEXT_ALONE)[0].image.size == (128, 128)
    assert system.generate("", 1, **FEW)[0].image.size == (128, 128)
    in_turn = system.imagine(["a red star", ""], [3, 4], {**system.defaults, "prior": "autoregressive"})
    torch.testing.assert_close(
        system.imagine([""], [4], {**system.defaults, "prior": "autoregressive", "prior_guidance": 1.0})[0], in_turn[1]
    )
    with pytest.raises(PinxitError, match=r"There is no prior 'diffuson'\. Did you mean 'diffusion'"):
        system.generate("a red star", 1, prior="diffuson")


def test_settings_are_those_of_the_parts_that_draw(system: DALLE2System) -> None:
    how: Settings = {"steps": 2, "upsample_steps": 1, "prior": "autoregressive", "prior_guidance": 2.0}
    (one,) = system.generate("a red star", 1, **how)
    assert one.settings["prior_guidance"] == 2
    assert not {"prior_steps", "prior_candidates"} & one.settings.keys()
    with pytest.raises(PinxitError, match="prior=autoregressive does not take prior_steps"):
        system.generate("a red star", 1, prior="autoregressive", prior_steps=4)
    with pytest.raises(PinxitError, match="prior=none does not take prior_guidance"):
        system.generate("a red star", 1, prior="none", prior_guidance=2.0)
    alone = DALLE2System(system.clip, {}, Cascade(system.cascade.base), system.condition)
    assert not {"upsample_steps", "size", "prior_steps"} & alone.defaults.keys()
    assert alone.defaults["prior"] == "none"
    with pytest.raises(PinxitError, match="does not take the setting 'upsample_steps'"):
        alone.generate("a red star", 1, upsample_steps=2)
    assert alone.generate("a red star", 1, steps=2)[0].image.size == (32, 32)
    assert alone.reconstruct(PICTURE, steps=2)[0].size == (32, 32)


def test_a_model_of_parts_that_do_not_belong_together_is_refused(folder: Path, tmp_path: Path) -> None:
    pipeline = find("dalle2-tiny")
    assert isinstance(pipeline, Pipeline)
    parts = {name: str(folder / name) for name in ("clip", "ar_prior", "decoder", "upsampler", "second_upsampler")}
    with pytest.raises(PinxitError, match=r"is of kind denoiser; a network of kind prior is wanted"):
        pipeline.stages["model"].run(
            Context("scenes:80", tmp_path / "model", parts={**parts, "prior": str(folder / "upsampler")})
        )
    assert not (tmp_path / "model").exists()


def test_pictures_too_small_for_a_late_stage_are_refused_before_the_first(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    for place in range(3):
        Scenes(3)[place].image.resize((70, 90)).save(tmp_path / "small" / f"{place}.png")
        (tmp_path / "small" / f"{place}.txt").write_text("a red star")
    pipeline = find("dalle2-tiny")
    match = (
        r"dalle2-second-upsampler-tiny learns to draw 128 .* largest of 3 pictures has 70\..*--part second_upsampler="
    )
    with pytest.raises(PinxitError, match=match):
        pipeline.run(Context(str(tmp_path / "small"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_pictures_of_every_network_of_the_cascade(system: DALLE2System) -> None:
    def sized(width: int, height: int) -> Settings:
        return {**FEW, "size": (width, height)}

    sizes = {side: system.generate("a red star", 1, **sized(side, side))[0].image for side in (32, 64, 128)}
    assert {side: image.size for side, image in sizes.items()} == {side: (side, side) for side in sizes}
    assert sizes[128].tobytes() == system.generate("a red star", 1, **FEW)[0].image.tobytes()
    mask = Image.new("L", PICTURE.size, 255)
    assert system.edit(PICTURE, mask, "a red star", 1, **sized(64, 64))[0].image.size == (64, 64)
    with pytest.raises(PinxitError, match="This model draws 32x32, 64x64, 128x128, not 32x64"):
        system.generate("a red star", 1, **sized(32, 64))


def test_pictures_are_enlarged_at_any_size(
    system: DALLE2System, monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    small = PICTURE.resize((30, 37))
    made = system.upsample(small, seed=3, upsample_steps=2)
    assert made.image.size == (4 * 30, 4 * 37), "by both networks"
    assert made.settings == {"upsampled": [30, 37], "upsample_steps": 2}
    assert system.upsample(PICTURE.resize((64, 70)), upsample_steps=2).image.size == (128, 140), "by the second"
    large = PICTURE.resize((64, 300))
    tiled = system.upsample(large, seed=3, upsample_steps=2).image
    assert tiled.size == (128, 600)
    monkeypatch.setattr(noise_drawing, "TILE", 1_024)
    whole = system.upsample(large, seed=3, upsample_steps=2).image
    assert 0 < np.abs(np.asarray(tiled).astype(int) - np.asarray(whole).astype(int)).mean() < 4
    with pytest.raises(PinxitError, match="would have 16000x16000 pixels"):
        system.upsample(Image.new("RGB", (8_000, 8_000)))
    PICTURE.save(tmp_path / "one.png")
    how = ["upsample", str(tmp_path / "one.png"), "-m", str(folder), "--upsample-steps", "1", "--seed", "1"]
    outcome = CliRunner().invoke(main, [*how, "-o", str(tmp_path / "large.png")])
    assert outcome.exit_code == 0, outcome.output
    assert open_image(tmp_path / "large.png").size == (128, 128)


def test_from_pictures(system: DALLE2System) -> None:
    few: Settings = {"steps": 4, "upsample_steps": 2}
    varied = system.vary(PICTURE, 2, seed=1, **few)
    assert varied[0].image.tobytes() != varied[1].image.tobytes()
    assert varied[0].settings["eta"] == 1.0
    blended = system.blend([PICTURE, Scenes(2)[0].image, PICTURE], frames=3, **few)
    assert len(blended) == 6
    same = [np.asarray(blended[i].image).astype(int) for i in (0, 5)]
    assert np.abs(same[0] - same[1]).max() <= 1, "the ends are the same picture"
    styled = system.restyle(PICTURE, "a red star", "a blue star", frames=2, **few)
    assert [picture.prompt for picture in styled] == ["a blue star"] * 2
    with pytest.raises(PinxitError, match=r"eta is 2; give 0"):
        system.vary(PICTURE, eta=2)
    with pytest.raises(PinxitError, match="there is no way between them"):
        system.restyle(PICTURE, "a star", "a star")
    with pytest.raises(PinxitError, match="give two at least, not 1"):
        system.blend([PICTURE])


def test_what_a_picture_is(system: DALLE2System) -> None:
    few: Settings = {"steps": 4, "size": (32, 32)}
    (back,) = system.reconstruct(PICTURE, steps=4)
    assert back.size == (32, 32), "what enlarges tells nothing of z"
    (same,) = system.vary(PICTURE, 1, eta=0.0, **few)
    assert np.abs(np.asarray(back).astype(int) - np.asarray(same.image).astype(int)).max() <= 1
    parts = system.by_components(PICTURE, [0, 4, 32], steps=4)
    assert [picture.settings["dimensions"] for picture in parts] == [0, 4, 32]
    drawer = system.priors["autoregressive"]
    assert isinstance(drawer, ARPriorDrawer)
    z = system.clip.encode_image([PICTURE])
    torch.testing.assert_close(drawer.prior.truncated(z, 32), z)
    (whole,) = system.paint_embeddings(z, [0], system.resolve(1, 0, {**few, "sampler": "ddim", "guidance": 1.0}))
    assert np.abs(np.asarray(whole).astype(int) - np.asarray(parts[2].image).astype(int)).max() <= 1
    with pytest.raises(PinxitError, match=r"Embeddings have 32 components; give numbers from 0 to as many, not 33"):
        system.by_components(PICTURE, [33])


def test_an_edit_keeps_the_rest(system: DALLE2System) -> None:
    picture, mask = Image.new("RGB", (128, 128), "red"), Image.new("L", (128, 128), 0)
    ImageDraw.Draw(mask).rectangle((0, 0, 63, 127), 255)
    (edited,) = system.edit(picture, mask, "a blue star", 1, **FEW)
    assert (np.asarray(edited.image)[:, 64:] == (255, 0, 0)).all()


def test_a_turn_is_even_and_keeps_lengths() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(
        slerp(a, b, torch.tensor([0.0, 1 / 3, 1.0])), torch.tensor([[1.0, 0.0], [0.75**0.5, 0.5], [0.0, 1.0]])
    )
    torch.testing.assert_close(slerp(a, a, torch.tensor([0.5])), a[None])


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    one, two, out = tmp_path / "one.png", tmp_path / "two.png", tmp_path / "out"
    PICTURE.save(one)
    Scenes(2)[1].image.save(two)

    def run(*words: str | Path) -> list[Path]:
        told = CliRunner().invoke(
            main, [*map(str, words), "--model", str(folder), "--steps", "3", "--upsample-steps", "2", "--seed", "0"]
        )
        assert told.exit_code == 0, told.output
        return [Path(line) for line in told.stdout.splitlines()]

    varied = run("vary", one, "-n", "2", "-o", out)
    assert [open_image(path).size for path in varied] == [(128, 128)] * 2 + [(258, 128)]
    assert varied[0].name == "0001-one-seed0.png"
    assert read_settings(varied[0])["settings"]["source"] == "one.png"
    (blended,) = run("blend", one, two, one, "--frames", "3", "-o", tmp_path / "blend.png")
    assert open_image(blended).size == (388, 258)
    whole = read_settings(blended)["settings"]
    assert whole["source"] == ["one.png", "two.png", "one.png"]
    assert "frame" not in whole
    assert whole["frames"] == 6
    run("blend", one, two, "--frames", "2", "--grid", "-o", out, "--gif", tmp_path / "new" / "blend.gif")
    with Image.open(tmp_path / "new" / "blend.gif") as moving:
        assert moving.size == (128, 128)
    with Image.open(io.BytesIO(animation([Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]))) as moving:
        assert getattr(moving, "n_frames", 1) == 3  # there, longer, and back
    refused = CliRunner().invoke(main, ["blend", str(one), str(two), "--gif", "blend.mp4", "--model", str(folder)])
    assert refused.exit_code == 2
    assert "give a name that ends in .gif" in refused.output
    whole, parts = tmp_path / "whole.png", tmp_path / "parts.png"
    plain = CliRunner().invoke(main, ["reconstruct", str(one), "-m", str(folder), "-o", str(whole)])
    assert " dB" in plain.output
    sheet = CliRunner().invoke(
        main, ["reconstruct", str(one), str(two), "-m", str(folder), "-o", str(parts), "--dimensions", "2,32"]
    )
    assert sheet.exit_code == 0, sheet.output
    assert open_image(parts).size == (100, 66)
    style = ["--from", "a red star", "--to", "a blue star"]
    row = run("restyle", one, *style, "--frames", "3", "-o", tmp_path / "style.png")
    assert open_image(row[0]).size == (388, 128)
    told = read_settings(row[0])
    assert told["settings"]["restyled_from"] == "a red star"
    mask = tmp_path / "mask.png"
    Image.new("L", PICTURE.size, 255).save(mask)
    (edited,) = run("edit", one, "a blue star", "--mask", mask, "-n", "1", "-o", tmp_path / "edited.png")
    assert {"source": "one.png", "mask": "mask.png"}.items() <= read_settings(edited)["settings"].items()


def test_help_offers_what_a_verb_takes() -> None:
    for verb, offered in (("generate", True), ("edit", True), ("vary", False), ("blend", False), ("restyle", False)):
        told = CliRunner().invoke(main, [verb, "--help"]).output
        assert "--guidance" in told
        assert all((option in told) == offered for option in ("--prior-steps", "--sampler", "--top-k"))


def test_frames_know_their_place(system: DALLE2System) -> None:
    made = system.blend([PICTURE, PICTURE], 3, steps=2, upsample_steps=2)
    assert [(one.settings["frame"], one.settings["frames"]) for one in made] == [(1, 3), (2, 3), (3, 3)]


def test_it_can_be_measured(system: DALLE2System) -> None:
    settings: Settings = {"steps": 2, "prior_steps": 2, "upsample_steps": 2}
    report = evaluate(system, Scenes(4, size=128, split="held-in"), source="scenes:4:held-in", settings=settings)
    assert report.following is not None
    assert "prior diffusion" in report.table()


def test_some_embeddings_are_left_out_in_training(system: DALLE2System) -> None:
    seen = Seen(system.clip, 0.5, unit=True).eval()
    batch = {"pixels": torch.rand(64, 3, 32, 32) * 2 - 1}
    kept = seen(batch, False)[1].embedding
    dropped = seen(batch, True)[1].embedding
    assert kept is not None
    assert dropped is not None
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(64))
    assert 16 < int((dropped.norm(dim=1) == 0).sum()) < 48


def test_what_is_made_of_pictures_knows_no_prior(system: DALLE2System) -> None:
    assert "prior" not in system.vary(PICTURE, 1, steps=2)[0].settings
    with pytest.raises(PinxitError, match=r"sampler is for pictures from texts; .* drawn by ddim"):
        system.vary(PICTURE, 1, sampler="heun")
    with pytest.raises(PinxitError, match="prior_steps is for pictures from texts"):
        system.blend([PICTURE, PICTURE], prior_steps=3)
    with pytest.raises(PinxitError, match="`negative` is what guidance leads away from"):
        system.restyle(PICTURE, "a star", "a heart", negative="a moon")
