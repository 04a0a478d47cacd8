import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.recipes.toy import MeanColour, build, mean_colour

from pinxit.checkpoints.files import read_config
from pinxit.data.pairs import open_pairs
from pinxit.data.sample import Pairs
from pinxit.errors import PinxitError
from pinxit.recipes.catalogue import find
from pinxit.recipes.overrides import override
from pinxit.recipes.recipe import Context, DataConfig, Recipe, Run, claim, differences, hold_back

SRC = "scenes:60"


def test_trains_and_says_in_the_checkpoint_how(tmp_path: Path) -> None:
    recipe = override(mean_colour(), ["model.width=5", "licence=CC0-1.0"])
    assert not recipe.done(Context(SRC, tmp_path))
    recipe.run(Context(SRC, tmp_path))
    assert recipe.done(Context(SRC, tmp_path))
    config = read_config(tmp_path / "model")
    assert config["kind"] == "toy"
    assert config["config"]["width"] == 5
    assert config["recipe"]["training"]["steps"] == 4
    assert config["recipe"]["optimizer"]["lr"] == 0.01
    assert config["data"] == {"source": SRC, "samples": 60, "fingerprint": open_pairs(SRC, size=16).fingerprint}
    assert config["licence"] == "CC0-1.0"
    assert config["metrics"].keys() == {"brightness"}
    assert (tmp_path / "model" / "README.md").read_text().startswith("# Mean colour")
    said = json.loads((tmp_path / "recipe.json").read_text())
    assert said["recipe"] == config["recipe"] == recipe.resolved()


def test_changed_settings_are_named_before_anything_moves(tmp_path: Path) -> None:
    mean_colour().run(Context(SRC, tmp_path))
    before = (tmp_path / "recipe.json").read_text()
    changed = override(mean_colour(), ["optimizer.lr=0.5", "data.validation=5", "training.log_every=1"])
    assert not changed.done(Context(SRC, tmp_path))
    message = r"begun with other settings: data\.validation: 4 -> 5; optimizer\.lr: 0\.01 -> 0\.5\. .*--accept-changes"
    with pytest.raises(PinxitError, match=message):
        changed.run(Context(SRC, tmp_path))
    assert (tmp_path / "recipe.json").read_text() == before
    with pytest.raises(PinxitError, match=r"training\.steps: 4 -> 3"):
        override(mean_colour(), ["training.steps=3"]).run(Context(SRC, tmp_path))
    with pytest.raises(PinxitError, match=r"data\.fingerprint: scenes\S+ -> scenes"):
        mean_colour().run(Context("scenes:61", tmp_path))


def test_what_does_not_touch_the_weights_may_change_and_steps_may_grow(tmp_path: Path) -> None:
    mean_colour().run(Context(SRC, tmp_path))
    longer = override(mean_colour(), ["training.steps=6", "training.log_every=1", "training.checkpoint_every=3"])
    assert not longer.done(Context(SRC, tmp_path))
    longer.run(Context(SRC, tmp_path))
    assert longer.done(Context(SRC, tmp_path))
    assert read_config(tmp_path / "model")["recipe"]["training"]["steps"] == 6


def test_the_licence_of_a_finished_model_can_be_put_right(tmp_path: Path) -> None:
    mean_colour().run(Context(SRC, tmp_path))
    before = (tmp_path / "model" / "net.safetensors").read_bytes()
    put_right = override(mean_colour(), ["licence=CC0-1.0"])
    assert not put_right.done(Context(SRC, tmp_path))
    put_right.run(Context(SRC, tmp_path))
    assert put_right.done(Context(SRC, tmp_path))
    assert read_config(tmp_path / "model")["licence"] == "CC0-1.0"
    assert (tmp_path / "model" / "net.safetensors").read_bytes() == before


def test_what_is_excluded_is_neither_learnt_from_nor_counted(tmp_path: Path) -> None:
    src = open_pairs(SRC, size=16)
    chosen = {i for i in range(len(src)) if src.meta_at(i)["category"] in ("counting", "colors")}
    pairs = Context(SRC, tmp_path).pairs(DataConfig(exclude={"category": ("counting", "colors")}), 16)
    assert 0 < len(chosen) < len(src)
    assert {pairs[i].key for i in range(len(pairs))} == {src[i].key for i in range(len(src)) if i not in chosen}
    recipe = override(mean_colour(), ['data.exclude.category=["counting","colors"]'])
    recipe.run(Context(SRC, tmp_path))
    assert read_config(tmp_path / "model")["data"]["samples"] == len(src) - len(chosen)


def test_what_nothing_can_be_excluded_by_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = Context(SRC, tmp_path).pairs(DataConfig(exclude={"categroy": ("counting",)}), 16)
    assert len(pairs) == 60
    assert re.search(r"data\.exclude\.categroy leaves nothing out: the samples of \S+ say .*category", caplog.text)


def test_changes_can_be_accepted(tmp_path: Path) -> None:
    mean_colour().run(Context(SRC, tmp_path))
    changed = override(mean_colour(), ["optimizer.lr=0.5", "training.steps=6"])
    changed.run(Context(SRC, tmp_path, accept_changes=True))
    assert changed.done(Context(SRC, tmp_path))


def test_a_finished_run_takes_no_settings_that_it_was_not_trained_with(tmp_path: Path) -> None:
    mean_colour().run(Context(SRC, tmp_path))
    before = {path: path.read_bytes() for path in (tmp_path / "recipe.json", tmp_path / "model" / "config.json")}
    for changes in (["optimizer.lr=0.5"], ["optimizer.lr=0.5", "training.steps=3"]):
        changed = override(mean_colour(), changes)
        message = rf"No step is left that could use the new ones: 4 of {changed.training.steps} are done\."
        with pytest.raises(PinxitError, match=message):
            changed.run(Context(SRC, tmp_path, accept_changes=True))
    assert {path: path.read_bytes() for path in before} == before


def test_one_model_may_be_written_in_several_ways(tmp_path: Path) -> None:
    recipe = find("glide-base-tiny")
    assert isinstance(recipe, Recipe)
    said = {"recipe": json.loads(json.dumps(recipe.resolved()))}
    for tokens, changed in ((64, []), (65, ["model.unet.tokens: 65 -> None"])):
        written = copy.deepcopy(said)
        written["recipe"]["model"]["unet"]["tokens"] = tokens  # as it was before that followed from the text encoder
        (tmp_path / "recipe.json").write_text(json.dumps(written))
        assert differences(tmp_path, said, type(recipe.model)) == changed


def test_what_the_weights_are_of_cannot_change_under_them(tmp_path: Path) -> None:
    """Neither the network, even where all shapes fit, nor the product of the stage before."""
    context = Context(SRC, tmp_path / "next", accept_changes=True)
    mean_colour().run(replace(context, out=tmp_path / "mean"))
    learner = replace(mean_colour(), needs=("mean",))
    learner.run(context)
    longer = override(learner, ["training.steps=6"])
    with pytest.raises(PinxitError, match=r"cannot take over this \(model\.kernel: box -> hat\)"):
        override(longer, ["model.kernel=hat"]).run(context)
    override(mean_colour(), ["training.steps=3"]).run(replace(context, out=tmp_path / "other"))
    with pytest.raises(PinxitError, match=r"cannot take over this \(made_from\.mean: \w+ -> \w+\)"):
        longer.run(replace(context, parts={"mean": str(tmp_path / "other" / "model")}))
    longer.run(context)


def test_a_state_that_does_not_fit_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    mean_colour().run(Context(SRC, tmp_path))
    before = (tmp_path / "recipe.json").read_bytes()

    def wider(recipe: Recipe, context: Context, pairs: Pairs) -> Run:
        return replace(build(recipe, context, pairs), objective=MeanColour(recipe.model.width + 1))

    longer = override(replace(mean_colour(), build=wider), ["training.steps=6"])
    with pytest.raises(PinxitError, match="does not fit the recipe"):
        longer.run(Context(SRC, tmp_path))
    assert (tmp_path / "recipe.json").read_bytes() == before


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = f"""
from pathlib import Path
from pinxit.recipes.recipe import claim
with claim(Path({str(tmp_path)!r})):
    pass
"""
    with claim(tmp_path):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"Another process is training into {tmp_path}" in done.stderr
    subprocess.run([sys.executable, "-c", program], check=True)


def test_hold_back_splits_for_good() -> None:
    pairs = open_pairs("scenes:40", size=16)
    seen, held = hold_back(pairs, 100)
    assert len(held) == 4
    assert sorted([*seen.positions, *held.positions]) == list(range(40))
    assert hold_back(pairs, 3)[1].positions == hold_back(pairs, 3)[1].positions
    assert held[0].key == pairs[held.positions[0]].key
    assert held.captions_at(0) == pairs.captions_at(held.positions[0])
    assert held.fingerprint == pairs.fingerprint


def test_earlier_stages_are_neighbours_unless_told(tmp_path: Path) -> None:
    recipe = mean_colour()
    recipe.run(Context(SRC, tmp_path / "mean"))
    context = Context(SRC, tmp_path / "next")
    assert context.part("mean") == tmp_path / "mean"
    assert context.model("mean") == tmp_path / "mean" / "model"
    with pytest.raises(PinxitError, match=r"needs 'clip' first, .* --part clip=FOLDER"):
        context.model("clip")
    elsewhere = replace(context, parts={"clip": str(tmp_path / "mean" / "model")})
    assert elsewhere.model("clip") == tmp_path / "mean" / "model"


def test_no_path_goes_into_what_is_written(tmp_path: Path) -> None:
    assert Context(f"{tmp_path}/coco.json:{tmp_path}/images/", tmp_path).source == "coco.json:images"
    assert Context(f"{tmp_path}/{{000..003}}.tar", tmp_path).source == "{000..003}.tar"
    assert Context(".", tmp_path).source == Path.cwd().name
