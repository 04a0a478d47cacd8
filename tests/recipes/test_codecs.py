"""Every codec's recipe, run for a few steps through the loop and asked for what it can; whole runs are slow."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pinxit
from pinxit.checkpoints.files import read_config, read_tensors
from pinxit.data.images import fit
from pinxit.data.pairs import open_pairs
from pinxit.data.scenes import Scenes
from pinxit.evaluation.features import load_eye
from pinxit.evaluation.fidelity import fidelity
from pinxit.models.palette import Palette, PaletteConfig
from pinxit.recipes.catalogue import find
from pinxit.recipes.codecs import Pixels
from pinxit.recipes.overrides import override
from pinxit.recipes.palette import PaletteStage
from pinxit.recipes.recipe import Context, Recipe
from pinxit.systems.codec import Codec

CODECS = {
    "dalle1-dvae": (8, 8),
    "vae": (4, 8, 8),
    "kl": (4, 8, 8),
    "vqvae": (8, 8),
    "vqvae2": (80,),
    "vqgan": (8, 8),
    "vqgan-gumbel": (8, 8),
}
"""The recipe, and the codes of a picture of its tiny twin."""


def hasty(name: str) -> Recipe:
    settings = ["training.steps=6", "training.batch_size=8", "training.checkpoint_every=3", "data.validation=6"]
    recipe = override(find(f"{name}-tiny"), settings)
    assert isinstance(recipe, Recipe)
    if recipe.objective.adversary:
        adversary = replace(recipe.objective.adversary, start=1, alone=1, warmup=2)
        recipe = replace(recipe, objective=replace(recipe.objective, adversary=adversary))
    return recipe


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_trains_loads_and_reconstructs(name: str, tmp_path: Path) -> None:
    hasty(name).run(Context("scenes:80", tmp_path))
    codec = pinxit.load(tmp_path, "cpu")
    assert isinstance(codec, Codec)
    assert codec.shape == CODECS[name]
    pictures = [Scenes(3, size=40)[index].image for index in range(3)]
    codes = codec.encode(pictures)
    assert codes.shape == (3, *codec.shape)
    assert codes.is_floating_point() == (codec.codes is None)
    assert [picture.size for picture in codec.reconstruct(pictures)] == [(32, 32)] * 3
    metrics = read_config(tmp_path / "model")["metrics"]
    assert {"psnr", "ssim"} <= metrics.keys()
    assert ("codes_used" in metrics) == (codec.codes is not None)
    assert (tmp_path / "samples" / "step-0000006.png").exists()


@pytest.mark.parametrize("name", ["vqvae2", "vqgan"])
def test_a_run_that_was_cut_goes_on_to_the_same_weights(name: str, tmp_path: Path) -> None:
    whole = hasty(name)
    cut = replace(whole, training=replace(whole.training, steps=3))
    # The schedule knows the steps: a constant rate makes the first half of the whole the same as the cut.
    cut, whole = (
        replace(
            each,
            optimizer=replace(each.optimizer, schedule="constant"),
            turns={turn: replace(how, schedule="constant") for turn, how in each.turns.items()},
        )
        for each in (cut, whole)
    )
    cut.run(Context("scenes:80", tmp_path / "cut"))
    whole.run(Context("scenes:80", tmp_path / "cut"))
    whole.run(Context("scenes:80", tmp_path / "uncut"))
    kind = read_config(tmp_path / "cut" / "model")["kind"]
    one, other = (read_tensors(tmp_path / run / "model", kind) for run in ("cut", "uncut"))
    assert all(torch.equal(one[key], value) for key, value in other.items())


def test_two_turns_and_a_codebook_go_through_two_processes(tmp_path: Path) -> None:
    settings = ["training.steps=4", "training.batch_size=8", "training.accumulate=2", "data.validation=6"]
    settings += ["training.precision=float32", "objective.adversary.start=1", "objective.adversary.alone=1"]
    settings += ["objective.adversary.warmup=2", "objective.adversary.weight=0.0"]
    words = ["train", "vqgan-tiny", "--data", "scenes:80", *(word for one in settings for word in ("--set", one))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *launcher, "-m", "pinxit", *words, "--out", str(tmp_path / str(processes))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("1", "2")]
    one, two = ([json.loads(line) for line in log] for log in logs)
    assert any("discriminator/real" in row for row in two)
    assert two[-1]["validation/psnr"] == pytest.approx(one[-1]["validation/psnr"], abs=1.0)
    assert two[-1]["validation/codes_used"] == pytest.approx(one[-1]["validation/codes_used"], abs=0.15)


def test_a_palette_is_placed_on_the_colours_that_there_are(tmp_path: Path) -> None:
    stage, context = find("palette-tiny"), Context("scenes:60", tmp_path)
    assert isinstance(stage, PaletteStage)
    assert not stage.done(context)
    stage.run(context)
    assert stage.done(context)
    assert not replace(stage, rounds=3).done(context)
    assert not replace(stage, model=replace(stage.model, codes=8)).done(context)
    codec = pinxit.load(tmp_path, "cpu")
    assert isinstance(codec, Codec)
    assert (codec.kind, codec.shape, codec.codes) == ("palette", (16, 16), 32)
    pictures = [fit(Scenes(60, size=16)[index].image, 16) for index in range(20)]
    kept = fidelity(codec, pictures, load_eye())[0]
    assert kept.psnr > 25
    assert kept.codes_used == 1.0
    assert kept.bits_per_pixel == 5
    grey = Palette(PaletteConfig(size=16, codes=32))
    grey.colours.embedding.data = torch.linspace(-1, 1, 32)[:, None].expand(-1, 3).clone()
    assert fidelity(Codec(grey), pictures, load_eye())[0].psnr < kept.psnr - 5


def test_pixels_are_cropped_flipped_and_recoloured_by_the_generator() -> None:
    sample = open_pairs("scenes:1", size=48)[0]
    plain = Pixels(32)(sample, np.random.default_rng(0))["pixels"]
    assert plain.shape == (3, 32, 32)
    assert torch.equal(plain, Pixels(32)(sample, np.random.default_rng(1))["pixels"])
    flipped = [Pixels(32, flip=True)(sample, np.random.default_rng(seed))["pixels"] for seed in range(20)]
    assert {torch.equal(pixels, plain) for pixels in flipped} == {True, False}
    assert all(torch.equal(pixels, plain) or torch.equal(pixels, plain.flip(2)) for pixels in flipped)
    varied = Pixels(32, crop=0.8, flip=True, recolour=1.0)
    one, again, other = (varied(sample, np.random.default_rng(seed))["pixels"] for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "psnr", "used"),
    [("dalle1-dvae", 20, 0.7), ("vae", 20, None), ("kl", 20, None), ("vqvae", 20, 0.97), ("vqvae2", 20, 0.97)],
)
def test_tiny_codecs_keep_what_is_there_and_use_their_codes(
    name: str, psnr: float, used: float | None, tmp_path: Path
) -> None:
    recipe = find(f"{name}-tiny")
    assert isinstance(recipe, Recipe)
    recipe.run(Context("scenes:2000", tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    last = [row for row in rows if "validation/psnr" in row][-1]
    assert last["validation/psnr"] > psnr
    assert used is None or last["validation/codes_used"] >= used
