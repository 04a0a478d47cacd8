import re

import pytest
from tests.recipes.toy import mean_colour, pipeline

from pinxit.diffusion.schedules import FlowConfig
from pinxit.errors import PinxitError
from pinxit.recipes.catalogue import find
from pinxit.recipes.model import ModelStage
from pinxit.recipes.overrides import override, settings
from pinxit.recipes.recipe import Recipe


@pytest.mark.parametrize(
    ("assignment", "group", "name", "value"),
    [
        ("model.width=16", "model", "width", 16),
        ("optimizer.lr=1e-4", "optimizer", "lr", 1e-4),
        ("optimizer.lr=1", "optimizer", "lr", 1.0),
        ("training.steps=1e4", "training", "steps", 10_000),
        ("optimizer.betas=0.9,0.98", "optimizer", "betas", (0.9, 0.98)),
        ("optimizer.betas=[0.9, 0.98]", "optimizer", "betas", (0.9, 0.98)),
        ("optimizer.betas=(0.9, 0.98)", "optimizer", "betas", (0.9, 0.98)),
        ("model.kernel=hat", "model", "kernel", "hat"),
        ("model.depth=3", "model", "depth", 3),
        ("model.depth=none", "model", "depth", None),
        ("model.bias=false", "model", "bias", False),
        ("data.background=0,0,0", "data", "background", (0, 0, 0)),
        ('data.captions={"long": 2}', "data", "captions", {"long": 2.0}),
        ("data.captions.alt=0", "data", "captions", {"alt": 0.0, "short": 1.0, "long": 1.0}),
        ('data.exclude.style=["flat"]', "data", "exclude", {"style": ("flat",)}),
    ],
)
def test_reads_by_type(assignment: str, group: str, name: str, value: object) -> None:
    recipe = override(mean_colour(), [assignment])
    given = getattr(getattr(recipe, group), name)
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize("licence", ["CC BY 4.0", "7"])
def test_reads_text_as_it_stands(licence: str) -> None:
    assert override(mean_colour(), [f"licence={licence}"]).licence == licence


def test_later_ones_win_and_the_rest_stays() -> None:
    recipe = override(mean_colour(), ["training.steps=7", "training.steps=9"])
    assert recipe.training.steps == 9
    assert recipe.training.batch_size == mean_colour().training.batch_size
    assert recipe.build is mean_colour().build


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lrr=1", "Did you mean optimizer.lr? optimizer has: lr, betas"),
        ("optimiser.lr=1", "Did you mean optimizer? There are: model, objective, data, optimizer, turns, training"),
        ("zzz=1", "--set zzz: there is no such setting. There are: model"),
        ("name=x", "there is no such setting"),
        ("optimizer.lr.x=1", "optimizer.lr has no settings below it"),
        ("objective.x=1", "objective has no settings below it"),
        ("model=3", "set one of model.width, model.kernel, model.depth, model.bias"),
        ("optimizer.lr", "write path=value"),
        ("training.steps=soon", "--set training.steps=soon: allowed is a whole number; it is 4 now"),
        ("training.steps=3.5", "allowed is a whole number"),
        ("training.steps=true", "allowed is a whole number"),
        ("optimizer.lr=fast", "allowed is a number; it is 0.01 now"),
        ("optimizer.betas=0.9", "allowed is 2 values with commas between: a number, a number"),
        ("model.kernel=cone", "allowed is box or hat; it is box now"),
        ("model.bias=perhaps", "allowed is true or false"),
        ("model.depth=deep", "allowed is a whole number or none"),
        ("data.captions.alt=much", "allowed is a number"),
        ("data.captions.shrt=1", "Did you mean data.captions.short? data.captions has: alt, short, long."),
        ('data.captions={"shrt": 1}', "Did you mean data.captions.short? data.captions has: alt, short, long."),
    ],
)
def test_faults_say_what_is_allowed(assignment: str, message: str) -> None:
    with pytest.raises(PinxitError, match=re.escape(message)):
        override(mean_colour(), [assignment])


def test_pipeline_settings_start_with_the_stage() -> None:
    changed = override(pipeline(), ["mean.training.steps=7", "count.times=3"])
    assert changed.stages["mean"].training.steps == 7  # type: ignore[attr-defined]
    assert changed.stages["count"].times == 3  # type: ignore[attr-defined]
    with pytest.raises(PinxitError, match=r"Did you mean mean\? There are: mean, count\."):
        override(pipeline(), ["meen.training.steps=7"])
    with pytest.raises(PinxitError, match=r"Did you mean mean\.training\? mean has: model"):
        override(pipeline(), ["mean.trainin.steps=7"])


def test_every_setting_listed_can_be_set() -> None:
    listed = dict(settings(pipeline()))
    assert listed["mean.optimizer.betas"] == (0.9, 0.95)
    assert listed["mean.model.depth"] is None
    assert "mean.objective" not in listed
    assert "mean.name" not in listed
    for path, value in listed.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert dict(settings(override(pipeline(), [f"{path}={text}"]))) == listed


def test_a_setting_without_its_stage_is_told_of_those_that_have_it() -> None:
    with pytest.raises(PinxitError, match=r"Stages have it: base\.training\.steps, clip\.training\.steps\."):
        override(find("glide-tiny"), ["training.steps=2"])


def test_sampling_settings_are_known_by_name() -> None:
    stage = ModelStage(name="model")
    assert override(stage, ["defaults.guidance=2"]).defaults == {"guidance": 2}
    with pytest.raises(PinxitError, match=r"Did you mean defaults\.guidance\? defaults has: guidance, negative, "):
        override(stage, ["defaults.guidence=2"])
    with pytest.raises(PinxitError, match="no sampling setting 'steps'"):
        override(stage, ["defaults.steps=2"])
    with pytest.raises(PinxitError, match=r"top_p is 2\.0"):
        override(stage, ["defaults.top_p=2.0"])


def test_a_group_of_another_kind_or_none_at_all() -> None:
    noise = 'model.process.schedule={"mean": 1.3, "std": 1.2, "shift": 4.0}'
    recipe = override(find("ddpm-base"), ["model.process.target=x0", noise])
    assert isinstance(recipe, Recipe)
    assert recipe.model.process.schedule == FlowConfig(1.3, 1.2, 4.0)
    vqgan = override(find("vqgan"), ["objective.adversary=none"])
    assert isinstance(vqgan, Recipe)
    assert vqgan.objective.adversary is None
    for text, message in (
        ('{"betas": "straight"}', "betas = 'straight' is not of a value that is allowed"),
        ('{"mean": 1, "shape": 2}', "There is no setting of DiscreteConfig 'mean'"),
        ("linear", r"set one of model\.process\.schedule\.betas, .* Or give all of it as JSON"),
    ):
        with pytest.raises(PinxitError, match=message):
            override(find("ddpm-base"), [f"model.process.schedule={text}"])
