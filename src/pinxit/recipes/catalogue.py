"""The recipes by name."""

from __future__ import annotations

from collections.abc import Callable

from pinxit.errors import unknown
from pinxit.recipes.clip import clip, clip_tiny
from pinxit.recipes.dalle1 import dalle1_dvae
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import Recipe, Stage

RECIPES: dict[str, Callable[[], Recipe | Pipeline | Stage]] = {
    "clip": clip,
    "clip-tiny": clip_tiny,
    "dalle1-dvae": dalle1_dvae,
}
"""Name -> the function that makes the recipe. Every NAME has a twin NAME-tiny, which runs in seconds on one core."""


def find(name: str) -> Recipe | Pipeline | Stage:
    """The recipe of that name; the error for another one names the nearest."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()
