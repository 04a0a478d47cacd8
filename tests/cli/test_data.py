from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pinxit.cli.data import data
from pinxit.errors import PinxitError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def run(*args: object) -> Result:
    return CliRunner().invoke(data, [str(arg) for arg in args])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.new("RGB", (10 + number, 20)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text("one two three")
    return pictures


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    assert run("make", "scenes", tmp_path / "scenes", "--n", 7, "--size", 32, "--per-shard", 4).exit_code == 0
    return tmp_path / "scenes"


def test_check_reports_a_sound_source(folder: Path, tmp_path: Path) -> None:
    result = run("check", folder, "--json", tmp_path / "report.json")
    assert result.exit_code == 0
    assert "4 good of 4 samples" in result.output
    assert "width       10 to 13, median 11" in result.output
    assert "short       4 captions (1 distinct) on 4 samples; words 3 to 3, median 3" in result.output
    assert result.output.endswith("Usable.\n")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["samples"], report["good"], report["unusable"]) == (4, 4, None)
    assert report["height"] == {"least": 20, "median": 20, "greatest": 20}


def test_check_names_each_fault_with_keys(folder: Path) -> None:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:50])
    (folder / "1.txt").write_text("")
    (folder / "2.txt").unlink()
    result = run("check", folder)
    assert result.exit_code == 0  # too few to judge, and one is good
    assert "1 good of 4 samples" in result.output
    assert "no-caption: 2, such as '1', '2'" in result.output
    assert "truncated: 1, such as '0'" in result.output


def test_check_fails_where_nothing_is_good(folder: Path) -> None:
    for path in folder.glob("*.txt"):
        path.unlink()
    result = run("check", folder)
    assert result.exit_code == 1
    assert "Unusable: no good sample." in result.output


def test_check_fails_above_the_limit(folder: Path) -> None:
    for number in range(100, 206):
        Image.new("RGB", (4, 4)).save(folder / f"{number}.png")
        if number >= 106:
            (folder / f"{number}.txt").write_text("x")
    result = run("check", folder)
    assert result.exit_code == 1
    assert "Unusable: 6 of 110 samples are bad, more than the 5% allowed." in result.output


def test_check_reports_shards(scenes: Path, tmp_path: Path) -> None:
    result = run("check", scenes, "--json", tmp_path / "report.json")
    assert result.exit_code == 0
    assert "7 good of 7 samples" in result.output
    shards = json.loads((tmp_path / "report.json").read_text())["shards"]
    assert [shard["samples"] for shard in shards.values()] == [4, 3]
    assert all(len(shard["sha256"]) == 64 for shard in shards.values())


def test_check_tells_a_truncated_shard_and_reads_the_others(scenes: Path) -> None:
    os.truncate(scenes / "000001.tar", 3000)
    result = run("check", scenes)
    assert result.exit_code == 1
    assert "4 good of 4 samples" in result.output
    assert "truncated-shard: 1, such as '000001.tar'" in result.output


def test_check_tells_a_changed_bit(scenes: Path) -> None:
    shard = scenes / "000000.tar"
    status, content = shard.stat(), bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = run("check", scenes)
    assert result.exit_code == 1
    assert "hash: 1, such as '000000.tar'" in result.output


def test_check_of_no_source_lists_the_forms(tmp_path: Path) -> None:
    result = run("check", tmp_path / "absent")
    assert isinstance(result.exception, PinxitError)
    assert "scenes:N" in str(result.exception)


def test_check_of_drawn_scenes() -> None:
    result = run("check", "scenes:3")
    assert result.exit_code == 0
    assert "width       128 to 128" in result.output


def test_make_scenes_twice_gives_the_same_and_refuses_to_overwrite(scenes: Path, tmp_path: Path) -> None:
    run("make", "scenes", tmp_path / "again", "--n", 7, "--size", 32, "--per-shard", 4)
    assert (scenes / "000001.tar").read_bytes() == (tmp_path / "again/000001.tar").read_bytes()
    assert isinstance(run("make", "scenes", scenes, "--n", 7).exception, PinxitError)


def test_pack(folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes(b"x")
    (folder / "bad.txt").write_text("x")
    result = run("pack", folder, tmp_path / "out", "--size", 5)
    assert result.exit_code == 0
    assert "1 of 5 samples were bad and left out." in result.output
    assert "Wrote 4 samples" in result.output
    assert "width       5 to 5" in run("check", tmp_path / "out").output


@pytest.mark.parametrize(
    "args", [("make", "nothing", "x"), ("make", "scenes", "x", "--n", "0"), ("check",), ("pack", "x")]
)
def test_wrong_usage_exits_with_2(args: tuple[str, ...]) -> None:
    assert run(*args).exit_code == 2


def test_the_group_loads_no_torch() -> None:
    code = "import sys, pinxit.cli.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
