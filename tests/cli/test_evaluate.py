"""`pinxit evaluate`: tables, JSON, and faults in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.systems.tiny import make_codec, make_dalle1, save_codec, save_dalle1

from pinxit.cli.main import main

HELD_IN = "scenes:12:held-in"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_codec(make_codec(), folder / "codec")
    save_dalle1(make_dalle1(), folder / "whole")
    save_dalle1(make_dalle1(with_clip=False), folder / "clipless")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *(str(argument) for argument in arguments)])


def test_a_codec_is_told_in_a_line_and_in_json(models: Path, tmp_path: Path) -> None:
    done = run(models / "codec", "--data", HELD_IN, "--n", 7, "--json", tmp_path / "deep" / "numbers.json")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == f"codec on 7 pictures of {HELD_IN}"
    assert " dB, SSIM " in done.stdout
    told = json.loads((tmp_path / "deep" / "numbers.json").read_text())
    assert told.keys() == {"model", "source", "pictures", "skipped", "codec"}
    assert f"PSNR {told['codec']['psnr']:.2f} dB" in done.stdout


def test_numbers_take_the_place_of_earlier_ones_whole(models: Path, tmp_path: Path) -> None:
    path, linked = tmp_path / "numbers.json", tmp_path / "earlier.json"
    path.write_text("earlier")
    linked.hardlink_to(path)  # writing in place would change both
    assert run(models / "codec", "--data", HELD_IN, "--n", 2, "--json", path).exit_code == 0
    assert json.loads(path.read_text())["pictures"] == 2
    assert linked.read_text() == "earlier"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["earlier.json", "numbers.json"]


def test_scenes_are_followed_by_the_number_of_candidates(models: Path, tmp_path: Path) -> None:
    arguments = [models / "whole", "--data", HELD_IN, "--n", 3, "--rerank", 3, "--seed", 5, "--top-p", 0.8]
    done = run(*arguments, "--json", tmp_path / "numbers.json")
    assert done.exit_code == 0, done.output
    assert "best of 2  best of 3   any of 3" in done.stdout
    assert "(guidance 1.0, temperature 1.0, top_p 0.8, rerank 3, seed 5)" in done.stdout
    assert done.stdout.splitlines()[-1].split()[:2] == ["overall", "3"]
    told = json.loads((tmp_path / "numbers.json").read_text())
    assert told["following"]["best_of"].keys() == {"1", "2", "3"}
    assert [row["seed"] for row in told["following"]["prompts"]] == [5 + 1024 * j for j in range(3)]
    assert run(*arguments).stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["codec", "--data", HELD_IN, "--rerank", "4"], "codec does not take the setting 'rerank'. It takes: none."),
        (["clipless", "--data", HELD_IN, "--rerank", "4"], "clipless has no CLIP, so it cannot rerank."),
        (["whole", "--data", HELD_IN, "--rerank", "2000"], "2000 candidates a prompt are too many: at most 1024."),
        (["whole", "--data", "scenes:x"], "scenes:x"),
        (["whole/transformer", "--data", HELD_IN], "token_transformer"),
    ],
)
def test_faults_are_told_in_one_line(models: Path, arguments: list[str], said: str) -> None:
    done = run(models / arguments[0], *arguments[1:])
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_usage_is_told(models: Path) -> None:
    assert run(models / "whole").exit_code == 2
    assert run(models / "whole", "--data", HELD_IN, "--top-p", 1.5).exit_code == 2
