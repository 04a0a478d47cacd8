"""`pinxit generate` and `pinxit complete`: files, names, paths, seeds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pinxit.cli.main import main
from pinxit.systems.picture import read_settings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def generate(painter: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(main, ["generate", "-m", str(painter), *arguments])
    assert done.exit_code == 0, done.output
    return done


def test_pictures_and_their_grid_land_in_outputs(painter: Path) -> None:
    done = generate(painter, "A red apple!", "-n", "2", "--seed", "7")
    expected = ["0001-a-red-apple-seed7.png", "0002-a-red-apple-seed8.png", "0003-a-red-apple-seed7-grid.png"]
    assert done.stdout.split() == [f"outputs/{name}" for name in expected]
    assert sorted(path.name for path in Path("outputs").iterdir()) == expected
    record = read_settings(Path("outputs") / expected[1])
    assert (record["prompt"], record["seed"], record["model"]) == ("A red apple!", 8, "painter")
    assert read_settings(Path("outputs") / expected[2])["settings"]["seeds"] == [7, 8]


def test_nothing_is_ever_overwritten(painter: Path) -> None:
    for _ in range(2):
        generate(painter, "a", "-n", "1", "--seed", "0", "-o", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == ["0001-a-seed0.png", "0002-a-seed0.png"]


def test_several_prompts_make_several_sets(painter: Path) -> None:
    done = generate(painter, "a", "b", "-n", "2", "--seed", "0", "-o", "out")
    assert [re.sub(r"out/\d+-", "", line) for line in done.stdout.split()] == [
        "a-seed0.png",
        "a-seed1.png",
        "a-seed0-grid.png",
        "b-seed0.png",
        "b-seed1.png",
        "b-seed0-grid.png",
    ]


def test_a_file_holds_one_picture_or_the_grid_of_all(painter: Path) -> None:
    generate(painter, "a", "-n", "1", "-o", "one.png")
    generate(painter, "a", "b", "-n", "3", "-o", "deep/all.png")
    with Image.open("one.png") as one, Image.open("deep/all.png") as whole:
        assert one.size == (8, 8)
        assert whole.width > whole.height  # a row a prompt, three in a row
    assert read_settings("deep/all.png")["settings"]["prompts"] == ["a"] * 3 + ["b"] * 3


def test_grid_alone(painter: Path) -> None:
    done = generate(painter, "a", "-n", "4", "--seed", "1", "--grid")
    assert done.stdout == "outputs/0001-a-seed1-grid.png\n"


def test_a_random_seed_is_shown_and_makes_the_same_again(painter: Path) -> None:
    done = generate(painter, "a", "-n", "1", "-o", "first.png")
    found = re.fullmatch(r"seed (\d+)\n", done.stderr)
    assert found is not None
    generate(painter, "a", "-n", "1", "-o", "second.png", "--seed", found[1])
    assert Path("first.png").read_bytes() == Path("second.png").read_bytes()


def test_reranking_tells_the_scores_best_first(painter: Path) -> None:
    done = generate(painter, "a", "-n", "3", "--rerank", "9", "--seed", "0")
    scores = [float(word) for word in done.stderr.split()[1:]]
    assert done.stderr.startswith("scores ")
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("../../etc/passwd", "0001-etc-passwd-seed0.png"),
        ("🍎", "0001-picture-seed0.png"),
        ("ein Grüner Baum", "0001-ein-grüner-baum-seed0.png"),
        ("x" * 500, f"0001-{'x' * 40}-seed0.png"),
        ("木" * 500, f"0001-{'木' * 40}-seed0.png"),
    ],
)
def test_prompts_make_safe_names(painter: Path, prompt: str, name: str) -> None:
    assert generate(painter, prompt, "-n", "1", "--seed", "0").stdout == f"outputs/{name}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a", "-o", "a.jpg"], 2, "written as PNG"),
        (["a", "-o", "taken"], 2, "is a file"),
        (["a", "--size", "big"], 2, "WIDTHxHEIGHT"),
        (["a", "--top-p", "1.5"], 2, "top-p"),
        (["a", "-n", "0"], 2, "-n"),
        (["a", "--size", "8x8"], 1, "does not take the setting 'size'"),
        (["a", "--rerank", "2"], 1, "rerank is 2 for 4 pictures"),
        (["a", "--device", "toaster"], 1, "no device"),
    ],
)
def test_wrong_requests_are_told_and_write_nothing(painter: Path, arguments: list[str], code: int, said: str) -> None:
    Path("taken").touch()
    done = CliRunner().invoke(main, ["generate", "-m", str(painter), *arguments])
    assert done.exit_code == code
    assert said in done.stderr
    assert [path.name for path in Path().iterdir()] == ["taken"]


def test_complete_says_who_can(painter: Path) -> None:
    Image.new("RGB", (8, 8)).save("half.png")
    done = CliRunner().invoke(main, ["complete", "half.png", "a", "-m", str(painter)])
    assert done.exit_code == 1
    assert "cannot complete. Systems that can: dalle1, " in done.stderr
    done = CliRunner().invoke(main, ["complete", "none.png", "a", "-m", str(painter)])
    assert done.exit_code == 1
    assert "none.png" in done.stderr
