from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pinxit.data.folders import Folder
from pinxit.data.pairs import FORMS, open_pairs, shard_paths, source_name
from pinxit.data.sample import Pairs
from pinxit.data.scenes import Scenes
from pinxit.data.shards import Shards
from pinxit.data.tables import Table
from pinxit.errors import PinxitError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(pictures / "a.png")
    (pictures / "a.txt").write_text("a picture")
    return pictures


def packed(folder: Path, to: Path) -> Path:
    with tarfile.open(to, "w") as tar:
        for name in ("a.png", "a.txt"):
            tar.add(folder / name, name)
    return to


def test_a_folder_with_sidecars(folder: Path) -> None:
    assert isinstance(open_pairs(str(folder)), Folder)


def test_a_folder_with_metadata(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "from the table"}')
    pairs = open_pairs(f"{folder}/")
    assert isinstance(pairs, Table)
    assert pairs[0].captions == {"short": ("from the table",)}


def test_tables(folder: Path) -> None:
    (folder / "t.csv").write_text("image,caption\na.png,x\n")
    assert len(open_pairs(str(folder / "t.csv"))) == 1


def test_what_a_source_says_besides_is_known_without_the_picture(folder: Path, tmp_path: Path) -> None:
    said = {"style": "flat", "licence": "CC0-1.0"}
    (folder / "a.txt").unlink()
    (folder / "a.json").write_text(json.dumps({"caption": "x", **said}))
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        for name in ("a.json", "a.png"):
            tar.add(folder / name, name)
    (folder / "t.jsonl").write_text(json.dumps({"image": "a.png", "caption": "x", **said}))
    for src in (str(folder), str(tmp_path / "one.tar"), str(folder / "t.jsonl")):
        pairs = open_pairs(src)
        assert pairs.meta_at(0) == pairs[0].meta == said
    drawn = open_pairs("scenes:3")
    assert drawn.meta_at(2) == drawn[2].meta != drawn.meta_at(1)


def test_coco(folder: Path) -> None:
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "x"}]}
    (folder / "coco.json").write_text(json.dumps(content))
    assert open_pairs(f"{folder}/coco.json:{folder}/")[0].captions == {"short": ("x",)}


def test_one_shard_a_folder_of_them_and_a_pattern(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for number in range(3):
        packed(folder, out / f"{number:03d}.tar")
    sources = [str(out / "000.tar"), str(out), str(out / "{000..002}.tar"), str(out / "00{0,2}.tar")]
    pairs = [open_pairs(source) for source in sources]
    assert all(isinstance(each, Shards) for each in pairs)
    assert [len(each) for each in pairs] == [1, 3, 3, 2]
    assert pairs[2].fingerprint == pairs[1].fingerprint
    assert shard_paths(str(out / "{000..001}.tar")) == [out / "000.tar", out / "001.tar"]
    with pytest.raises(PinxitError, match=r"1 of the 4 shards of .* do not exist, such as .*003\.tar"):
        open_pairs(str(out / "{000..003}.tar"))
    with pytest.raises(PinxitError, match="does not run upwards"):
        open_pairs(str(out / "{003..000}.tar"))


def test_scenes() -> None:
    assert isinstance(open_pairs("scenes:5"), Scenes)
    assert open_pairs("scenes:5", size=32)[4].image.size == (32, 32)
    held_out = open_pairs("scenes:5:held-out")
    assert isinstance(held_out, Scenes)
    assert held_out.split == "held-out"
    for wrong in ("scenes:", "scenes:x", "scenes:0", "scenes:-3", "scenes:5:train:x"):
        with pytest.raises(PinxitError, match="write scenes:N"):
            open_pairs(wrong)
    with pytest.raises(PinxitError, match="held-in"):
        open_pairs("scenes:5:helt-in")


@pytest.mark.parametrize("background", [(255, 255, 255), (1, 2, 3)])
def test_the_background_reaches_every_source(folder: Path, tmp_path: Path, background: tuple[int, int, int]) -> None:
    (tmp_path / "t.csv").write_text("image,caption\npictures/a.png,x\n")
    shard = packed(folder, tmp_path / "s.tar")
    sources: list[Pairs] = [open_pairs(str(src), background=background) for src in (folder, tmp_path / "t.csv", shard)]
    assert [pairs[0].image.getpixel((0, 0)) for pairs in sources] == [background] * 3


@pytest.mark.parametrize(
    ("src", "why"),
    [
        ("no/such/folder", "does not exist"),
        ("pipe:touch pwned", "is not on this machine; nothing is fetched or run"),
        ("pipe:cat {0..9}.tar", "is not on this machine"),
        ("https://example.org/{0..9}.tar", "is not on this machine"),
        ("", "does not exist"),
        ("x.json:images", "does not exist"),
    ],
)
def test_a_wrong_source_lists_the_forms(src: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PinxitError) as caught:
        open_pairs(src)
    assert why in str(caught.value)
    assert FORMS in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_and_a_strange_file_list_the_forms(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match="holds no pictures"):
        open_pairs(str(tmp_path))
    for name, why in (("a.zip", "is a file of another kind"), ("coco.json", "COCO file without its picture folder")):
        (tmp_path / name).write_text("{}")
        with pytest.raises(PinxitError, match=why):
            open_pairs(str(tmp_path / name))


@pytest.mark.parametrize(
    ("src", "name"),
    [
        ("/home/ann/photos", "photos"),
        ("photos/", "photos"),
        ("/home/ann/pairs.csv", "pairs.csv"),
        ("/home/ann/coco.json:/home/ann/images/", "coco.json:images"),
        ("/home/ann/{000..003}.tar", "{000..003}.tar"),
        (".", "here"),
        ("coco.json:.", "coco.json:here"),
        ("below/..", "here"),
        ("scenes:10:held-in", "scenes:10:held-in"),
        ("emoji", "emoji"),
    ],
)
def test_a_source_is_told_without_its_folders(
    src: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert source_name(src) == name


def test_a_number_of_scenes_that_nobody_could_draw_is_one_clear_line() -> None:
    with pytest.raises(PinxitError, match=r"^'scenes:99999999\.\.\.' has a number of 5000 digits; give at most 15"):
        open_pairs(f"scenes:{'9' * 5000}")
    assert len(open_pairs(f"scenes:{'9' * 15}")) == 10**15 - 1
