"""DALL·E 1 trained for so few steps that it draws nothing, in seconds."""

from pinxit.recipes.dalle1 import dalle1_tiny
from pinxit.recipes.overrides import override
from pinxit.recipes.pipeline import Pipeline

HASTY_SOURCE = "scenes:80"


def hasty_dalle1() -> Pipeline:
    """The pipeline dalle1-tiny with a few steps a stage."""
    steps = {"dvae": 6, "clip": 3, "transformer": 4}
    settings = [f"{stage}.training.{name}" for stage in steps for name in (f"steps={steps[stage]}", "batch_size=8")]
    settings += ["dvae.objective.bottleneck.continuous=3", "clip.data.validation=6", "transformer.data.validation=6"]
    return override(dalle1_tiny(), [*settings, "dvae.data.validation=6"])
