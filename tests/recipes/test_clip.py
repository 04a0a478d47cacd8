from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pinxit
from pinxit.data.pairs import open_pairs
from pinxit.data.sample import Sample
from pinxit.errors import PinxitError
from pinxit.recipes.clip import Pair, clip, clip_tiny, train_tokenizer
from pinxit.recipes.overrides import override
from pinxit.recipes.recipe import Context
from pinxit.systems.clip import CLIPSystem
from pinxit.text.tokenizer import Tokenizer

WEIGHTS = {"short": 1.0, "long": 1.0}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a red circle left of a blue star"] * 2, 600)


def gradient() -> Image.Image:
    """A picture whose red tells the column and whose green tells the row."""
    columns, rows = np.meshgrid(np.arange(100), np.arange(60))
    return Image.fromarray(np.stack([columns * 2, rows * 2, rows * 0], axis=-1).astype(np.uint8))


def test_a_sample_becomes_pixels_framed_ids_and_keys(tokenizer: Tokenizer) -> None:
    pair = Pair(tokenizer, size=32, length=12, captions=WEIGHTS)
    sample = Sample("0001", gradient(), {"short": ("A red  circle",)}, {})
    row = pair(sample, np.random.default_rng(0))
    assert row["pixels"].shape == (3, 32, 32)
    ids = [tokenizer.start_id, *tokenizer.encode_ids("a red circle"), tokenizer.end_id]
    assert row["ids"].tolist() == ids + [0] * (12 - len(ids))
    again = pair(replace(sample, key="0002", captions={"long": ("a Red circle",)}), np.random.default_rng(1))
    assert again["caption_key"] == row["caption_key"]
    assert again["picture_key"] != row["picture_key"]


def test_dropout_spells_a_caption_in_many_ways_under_one_key(tokenizer: Tokenizer) -> None:
    pair = Pair(tokenizer, size=8, length=24, captions=WEIGHTS, bpe_dropout=0.5)
    sample = Sample("0001", gradient(), {"short": ("a red circle",)}, {})
    rows = [pair(sample, np.random.default_rng(seed)) for seed in range(20)]
    assert len({tuple(row["ids"]) for row in rows}) > 5
    assert len({row["caption_key"] for row in rows}) == 1
    assert (rows[3]["ids"] == pair(sample, np.random.default_rng(3))["ids"]).all()


def test_the_tokenizer_reads_the_weighted_kinds_of_few_samples() -> None:
    pairs = open_pairs("scenes:40", size=16)
    short = train_tokenizer(pairs, 2_000, {"short": 1.0, "long": 0.0}, 40)
    both = train_tokenizer(pairs, 2_000, {"short": 1.0, "long": 1.0}, 40)
    assert short.vocab_size < both.vocab_size
    assert train_tokenizer(pairs, 2_000, {"short": 1.0}, 10).vocab_size < short.vocab_size
    words = Counter(word for i in range(40) for word in pairs.captions_at(i)["short"][0].split())
    assert len(short.encode_ids(words.most_common(1)[0][0])) == 1


def test_both_recipes_take_overrides_and_name_what_they_are() -> None:
    for recipe in (clip(), clip_tiny()):
        changed = override(recipe, ["model.vision.depth=1", "data.crop=0.5", "optimizer.lr=1e-4"])
        assert changed.model.vision.depth == 1
        assert recipe.expected
    assert clip_tiny().name == f"{clip().name}-tiny"
    with pytest.raises(PinxitError, match=r"Did you mean data\.bpe_dropout"):
        override(clip(), ["data.bpe_drop=0.5"])


def test_training_makes_a_model_that_classifies(tmp_path: Path) -> None:
    settings = ["training.steps=3", "training.batch_size=8", "data.validation=6", "training.precision=float32"]
    recipe = override(clip_tiny(), settings)
    recipe.run(Context("scenes:60", tmp_path))
    assert recipe.done(Context("scenes:60", tmp_path))
    system = pinxit.load(tmp_path, device="cpu")
    assert isinstance(system, CLIPSystem)
    assert system.tokenizer.vocab_size == system.clip.config.text.vocab_size
    chances = system.classify(open_pairs("scenes:1", size=32)[0].image, ["a red circle", "a blue star"])
    assert sum(chances[0].values()) == pytest.approx(1.0)
    page = (tmp_path / "model" / "README.md").read_text()
    assert "scenes:60" in page
    assert "image_to_text_recall" in page


@pytest.mark.slow
def test_the_tiny_recipe_finds_captions_far_better_than_chance(tmp_path: Path) -> None:
    clip_tiny().run(Context("scenes:2000", tmp_path))
    system = pinxit.load(tmp_path, device="cpu")
    assert isinstance(system, CLIPSystem)
    fresh = [open_pairs("scenes:64:held-in", size=32)[i] for i in range(64)]
    cosines = (
        system.encode_image([sample.image for sample in fresh])
        @ system.encode_text([sample.captions["short"][0] for sample in fresh]).T
    )
    ranks = (cosines > cosines.diag()[:, None]).sum(dim=1)
    assert torch.quantile(ranks.float(), 0.5) < 16  # chance is 32
