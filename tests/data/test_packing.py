from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pinxit.data.packing import pack, write_shards
from pinxit.data.pairs import open_pairs
from pinxit.data.scenes import Scenes
from pinxit.data.shard_index import stored_index
from pinxit.errors import PinxitError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = tmp_path / "pictures"
    for number, name in enumerate(("b.png", "a.v1.png", "deep/c.jpg")):
        path = pictures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA" if number == 0 else "RGB", (40, 20), (number, number, number)).save(path)
        record = {"caption": f"short {number}", "text": f"long {number}", "licence": "CC0"}
        path.with_suffix(".json").write_text(json.dumps(record))
    return pictures


def members(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return tar.getnames()


def test_a_source_comes_back_as_it_was_sorted_by_key(folder: Path, tmp_path: Path) -> None:
    source = open_pairs(str(folder))
    told: list[tuple[int, int]] = []
    assert pack(source, tmp_path / "out", per_shard=2, progress=lambda *now: told.append(now)) == 3
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert members(tmp_path / "out/000000.tar") == ["a_v1.png", "a_v1.json", "b.png", "b.json"]
    assert members(tmp_path / "out/000001.tar") == ["deep/c.jpg", "deep/c.json"]
    again = open_pairs(str(tmp_path / "out"))
    samples = {sample.key: sample for sample in (again[i] for i in range(len(again)))}
    for i in range(3):
        before = source[i]
        after = samples[before.key.replace(".", "_")]
        assert after.image.tobytes() == before.image.tobytes()
        assert after.captions == before.captions
        assert after.meta["licence"] == "CC0"


def test_stored_pictures_keep_their_bytes(folder: Path, tmp_path: Path) -> None:
    pack(open_pairs(str(folder)), tmp_path / "out")
    with tarfile.open(tmp_path / "out/000000.tar") as tar:
        stored = tar.extractfile("deep/c.jpg")
        assert stored is not None
        assert stored.read() == (folder / "deep/c.jpg").read_bytes()


def test_a_size_scales_down_and_never_up(folder: Path, tmp_path: Path) -> None:
    pack(open_pairs(str(folder)), tmp_path / "small", size=10)
    pack(open_pairs(str(folder)), tmp_path / "large", size=100)
    assert open_pairs(str(tmp_path / "small"))[0].image.size == (20, 10)
    assert open_pairs(str(tmp_path / "large"))[0].image.size == (40, 20)


def test_equal_samples_give_equal_shards_with_an_index_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert pack(Scenes(5, size=16), tmp_path / name, per_shard=3) == 5
    for shard in ("000000.tar", "000001.tar"):
        assert (tmp_path / "a" / shard).read_bytes() == (tmp_path / "b" / shard).read_bytes()
        index = stored_index(tmp_path / "a" / shard)
        assert index is not None
        assert index.mtime_ns == (tmp_path / "a" / shard).stat().st_mtime_ns


def test_scenes_keep_their_captions_and_truth(tmp_path: Path) -> None:
    scenes = Scenes(3, size=32)
    pack(scenes, tmp_path / "out")
    again = open_pairs(str(tmp_path / "out"))
    for i in range(3):
        assert again[i].image.tobytes() == scenes[i].image.tobytes()
        assert again[i].captions == scenes[i].captions
        truth = json.loads(json.dumps(scenes[i].meta))
        assert {name: again[i].meta[name] for name in truth} == truth


def test_bad_samples_are_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "a.v1.png").write_bytes(b"no picture")
    assert pack(open_pairs(str(folder)), tmp_path / "out") == 2


def test_too_many_bad_samples_leave_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(120):
        (folder / f"{number:03d}.txt").write_text("alone")
    with pytest.raises(PinxitError, match="Too many bad samples"):
        pack(open_pairs(str(folder)), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


def test_keys_that_would_be_one_are_named(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "a_v1.png")
    (folder / "a_v1.txt").write_text("x")
    with pytest.raises(PinxitError, match="would have the key 'a_v1'"):
        pack(open_pairs(str(folder)), tmp_path / "out")


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(PinxitError, match="exists and is not empty"):
        write_shards(tmp_path, [("a", {"txt": b"x"})])
    with pytest.raises(PinxitError, match="exists and is not empty"):
        write_shards(tmp_path / "x", [("a", {"txt": b"x"})])
    (tmp_path / "empty").mkdir()
    assert write_shards(tmp_path / "empty", [("a", {"txt": b"x"})]) == 1


def test_a_fault_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def failing() -> object:
        yield "a", {"txt": b"x"}
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shards(tmp_path / "out", failing(), per_shard=1)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PinxitError, match="no good sample"):
        write_shards(tmp_path / "out", [])
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    with pytest.raises(PinxitError, match="would be unreadable"):
        write_shards(tmp_path / "out", [("../a", {"png": buffer.getvalue()})])
