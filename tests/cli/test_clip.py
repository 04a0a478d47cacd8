from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from pinxit.checkpoints.files import save_checkpoint, to_config
from pinxit.cli.main import main
from pinxit.models.clip import CLIP, SIZES
from pinxit.systems.picture import read_settings
from pinxit.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("models") / "mine", seed=0)


def make(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train(["a red circle", "a red circle"], 600)
    clip = CLIP(SIZES["tiny-32"].with_vocabulary(tokenizer.vocab_size))
    save_checkpoint(
        folder, {"kind": "clip", "config": to_config(clip.config)}, {"clip": clip}, tokenizer=tokenizer.to_json()
    )
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (40, 40), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} square")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_classify_prints_a_line_a_picture_with_the_likeliest_first(model: str, pictures: Path) -> None:
    result = run("classify", pictures / "red.png", pictures / "blue.png", "--labels", "cat, dog,a red car", "-m", model)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(pictures / "red.png"), str(pictures / "blue.png")]
    for line in lines:
        chances = [float(word) for word in line.split() if word.startswith(("0.", "1."))]
        assert len(chances) == 3
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1.0, abs=0.002)


def test_classify_tells_faults_in_one_line(model: str, pictures: Path) -> None:
    result = run("classify", pictures / "absent.png", "--labels", "cat", "-m", model)
    assert result.exit_code == 1
    assert result.stderr.startswith("pinxit: ")
    result = run("classify", pictures / "red.png", "--labels", "cat", "--template", "no place", "-m", model)
    assert "'no place' has no {}" in result.stderr
    assert run("classify", pictures / "red.png", "-m", model).exit_code == 2


def test_search_finds_a_picture_by_itself_and_draws_the_matches(model: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    result = run("search", pictures / "green.png", "--in", pictures, "-k", 2, "-o", out, "-m", model)
    assert result.exit_code == 0, result.output
    first, second, path = result.stdout.splitlines()
    assert first.split()[0] == "1.000"
    assert "green" in first
    assert float(second.split()[0]) < 1
    assert path == str(out)
    with Image.open(out) as sheet:
        assert sheet.size == (40 + 2 + 40, 40)
        assert sheet.getpixel((5, 5)) == (0, 128, 0)
    assert read_settings(out)["model"] == "mine"


def test_a_saved_index_answers_alike_and_for_its_model_only(model: str, pictures: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.safetensors"
    built = run("search", "a red square", "--in", pictures, "--save", index, "-m", model)
    kept = run("search", "a red square", "--in", index, "-m", model)
    assert built.exit_code == kept.exit_code == 0, built.output + kept.output
    assert len(kept.stdout.splitlines()) == 3
    assert built.stdout == kept.stdout
    other = run("search", "a red square", "--in", index, "-m", make(tmp_path / "other", seed=1))
    assert other.exit_code == 1
    assert "made by another model than other" in other.stderr


def test_keys_cannot_move_the_terminal(model: str, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "pairs" / "a\x1b[2J\nb.png")
    (tmp_path / "pairs" / "a\x1b[2J\nb.txt").write_text("a red square")
    found = run("search", "red", "--in", tmp_path / "pairs", "-m", model)
    assert found.exit_code == 0, found.output
    assert found.stdout.rstrip("\n").endswith(r"  a\x1b[2J\nb")


def test_what_is_written_names_the_source_without_its_folders(
    model: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, out = tmp_path / "index.safetensors", tmp_path / "grid.png"
    assert run("search", "red", "--in", pictures, "--save", index, "-o", out, "-m", model).exit_code == 0
    assert read_settings(out)["settings"]["source"] == pictures.name
    assert str(pictures.parent).encode() not in index.read_bytes() + out.read_bytes()
    monkeypatch.chdir(tmp_path)
    lost = run("search", "red", "--in", index, "-o", out, "-m", model)
    assert lost.exit_code == 1
    assert f"The pictures of the index, '{pictures.name}', cannot be opened here" in lost.stderr
    monkeypatch.chdir(pictures.parent)
    assert run("search", "red", "--in", index, "-o", out, "-m", model).exit_code == 0


def test_a_picture_that_is_not_there_is_not_taken_for_a_text(model: str, pictures: Path) -> None:
    result = run("search", "absent.png", "--in", pictures, "-m", model)
    assert result.exit_code == 1
    assert "'absent.png' cannot be read" in result.stderr


@pytest.mark.parametrize("options", [("--save", "index.npz"), ("-o", "grid.jpg")])
def test_endings_that_are_not_written_are_wrong_usage(model: str, pictures: Path, options: tuple[str, str]) -> None:
    assert run("search", "red", "--in", pictures, "-m", model, *options).exit_code == 2
