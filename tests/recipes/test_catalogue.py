import json

import pytest

from pinxit.errors import PinxitError
from pinxit.recipes.catalogue import RECIPES, find
from pinxit.recipes.overrides import settings
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_made_and_has_a_tiny_twin(name: str) -> None:
    stage = find(name)
    assert stage.name == name
    assert stage.summary
    assert name.endswith("-tiny") or f"{name}-tiny" in RECIPES
    assert dict(settings(stage))
    if isinstance(stage, Recipe):
        json.dumps(stage.resolved())
    if isinstance(stage, (Recipe, Pipeline)):
        assert (stage.hours is None) == stage.expected.startswith("not ")
        assert stage.hardware
        assert stage.expected


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(PinxitError, match="There is no recipe 'dale1'"):
        find("dale1")
