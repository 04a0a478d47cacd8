"""The diffusion prior's recipe, over the embeddings of a CLIP that has learnt for a few steps."""

import json
from pathlib import Path

import pytest
import torch

from pinxit.checkpoints.files import read_config, read_tensors
from pinxit.errors import PinxitError
from pinxit.evaluation.prior_health import warnings
from pinxit.recipes.catalogue import find
from pinxit.recipes.overrides import override
from pinxit.recipes.recipe import Context, DataConfig, Recipe
from pinxit.recipes.tokens import TokensStage
from pinxit.systems.clip import load_clip
from pinxit.systems.prior_drawing import PriorDrawer, PriorDrawing

SOURCE = "scenes:120"


def train(name: str, context: Context, *settings: str) -> None:
    recipe = override(find(name), ["data.validation=12", *settings])
    assert isinstance(recipe, Recipe)
    recipe.run(context)


def test_from_texts_to_embeddings(tmp_path: Path) -> None:
    train("clip-tiny", Context(SOURCE, tmp_path / "clip", captioned=True), "training.steps=3", "training.batch_size=8")
    TokensStage("embeddings", DataConfig(), encoder="clip").run(
        Context(SOURCE, tmp_path / "embeddings", captioned=True)
    )
    out = Context(SOURCE, tmp_path / "prior", captioned=True)
    train("dalle2-prior-tiny", out, "training.steps=6", "training.batch_size=16", "training.validate_every=3")
    clip, model = load_clip(tmp_path / "clip", "cpu"), tmp_path / "prior" / "model"
    assert read_config(model)["clip"] == clip.fingerprint
    drawer = PriorDrawer.from_checkpoint(model, clip)
    assert drawer.draw(["a red star", ""], [0, 1], PriorDrawing(steps=4, guidance=2.0)).shape == (2, *clip.shape)
    weights = read_tensors(model, "prior")
    assert weights["errors"][0] < weights["errors"][-1], "much noise tells little"
    scaled = drawer.prior.scaled(clip.encode_text(["a red star"]))
    assert torch.isfinite(scaled).all()
    rows = [json.loads(line) for line in (tmp_path / "prior" / "log.jsonl").read_text().splitlines()]
    told = next(row for row in reversed(rows) if "validation/error" in row)
    for name in ("embedding_scale", "cosine", "best_of_two_gain", "error_at_90%"):
        assert f"validation/{name}" in told
    other = Context(SOURCE, tmp_path / "other", captioned=True)
    train("clip-tiny", other, "training.steps=2", "training.batch_size=8", "training.seed=1")
    parts = {"embeddings": str(tmp_path / "embeddings"), "clip": str(tmp_path / "other")}
    with pytest.raises(PinxitError, match=r"embeddings of 32 numbers by the CLIP \w+; .+ makes 32 and is .+ that made"):
        train("dalle2-prior-tiny", Context(SOURCE, tmp_path / "prior2", parts=parts))


def test_codes_are_no_embeddings(tmp_path: Path, dalle1_run: Path) -> None:
    parts = {"embeddings": str(dalle1_run / "tokens"), "clip": str(dalle1_run / "clip")}
    with pytest.raises(PinxitError, match=r"holds codes\. A prior learns from embeddings"):
        train("dalle2-prior-tiny", Context(SOURCE, tmp_path / "prior", parts=parts))


def test_warnings_say_what_is_wrong() -> None:
    good = {"embedding_scale": 0.95, "cosine": 0.8, "cosine_of_the_mean": 0.3, "best_of_two_gain": 0.01}
    assert not warnings(good)
    (wide,) = warnings({**good, "embedding_scale": 3.0})
    assert "spread 3.00 times as wide" in wide
    (mute,) = warnings({**good, "cosine": 0.2})
    assert "the text is not followed yet" in mute
    (late,) = warnings({**good, "averaged_error_over_raw": 2.0})
    assert "lag behind" in late
