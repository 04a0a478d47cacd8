from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from pinxit.data.folders import Folder, keys_of
from pinxit.data.sample import BadSample


def paint(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, value, value)).save(path)


def reason(folder: Folder, position: int) -> str:
    with pytest.raises(BadSample) as caught:
        folder[position]
    return caught.value.reason


def test_sidecars_of_every_kind_in_any_depth(tmp_path: Path) -> None:
    paint(tmp_path / "b.PNG", 1)
    (tmp_path / "b.txt").write_text("b text\n")
    paint(tmp_path / "deep/er/a.jpg", 2)
    (tmp_path / "deep/er/a.caption").write_text("a caption")
    paint(tmp_path / "c.webp", 3)
    (tmp_path / "c.json").write_text(json.dumps({"captions": ["c one", "c two"], "licence": "CC0"}))
    paint(tmp_path / "d.v2.bmp", 4)
    (tmp_path / "d.v2.txt").write_text("dotted")
    (tmp_path / "d.v2.json").write_text(json.dumps({"text": "dotted at length"}))
    folder = Folder(tmp_path)
    samples = [folder[i] for i in range(len(folder))]
    assert [sample.key for sample in samples] == ["b", "c", "d.v2", "deep/er/a"]
    assert [dict(sample.captions) for sample in samples] == [
        {"short": ("b text",)},
        {"short": ("c one", "c two")},
        {"short": ("dotted",), "long": ("dotted at length",)},
        {"short": ("a caption",)},
    ]
    assert samples[1].meta == {"licence": "CC0"}
    assert folder.captions_at(3) == {"short": ("a caption",)}


def test_pictures_of_one_stem_share_the_sidecar_and_keep_their_names(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 1)
    paint(tmp_path / "a.bmp", 2)
    (tmp_path / "a.txt").write_text("both")
    folder = Folder(tmp_path)
    assert [folder[i].key for i in range(2)] == ["a.bmp", "a.png"]
    assert keys_of(["a.png", "b.png", "b.jpg"]) == ["a", "b.png", "b.jpg"]


def test_half_samples_are_bad_and_keep_their_place(tmp_path: Path) -> None:
    paint(tmp_path / "alone.png")
    (tmp_path / "text.txt").write_text("no picture here")
    paint(tmp_path / "blank.png")
    (tmp_path / "blank.txt").write_text("  ")
    (tmp_path / "cut.png").write_bytes((tmp_path / "alone.png").read_bytes()[:45])
    (tmp_path / "cut.txt").write_text("cut")
    folder = Folder(tmp_path)
    assert [reason(folder, i) for i in range(len(folder))] == ["no-caption", "no-caption", "truncated", "no-picture"]


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    paint(tmp_path / ".a.png")
    paint(tmp_path / ".git/a.png")
    (tmp_path / "notes.md").write_text("x")
    assert len(Folder(tmp_path)) == 0


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    paint(outside / "secret.png")
    (outside / "secret.txt").write_text("secret")
    paint(root / "a.png")
    (root / "a.txt").symlink_to(outside / "secret.txt")
    (root / "b.png").symlink_to(outside / "secret.png")
    (root / "b.txt").write_text("b")
    paint(root / "c.png")
    (root / "d.png").symlink_to("c.png")
    (root / "c.txt").write_text("c")
    (root / "d.txt").write_text("inside is fine")
    (root / "folder").symlink_to(outside)
    folder = Folder(root)
    assert [reason(folder, i) for i in (0, 1)] == ["unsafe-path", "unsafe-path"]
    assert [folder[i].key for i in (2, 3)] == ["c", "d"]
    assert len(folder) == 4
    with pytest.raises(BadSample):
        folder.picture_bytes(1)


def test_the_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a")
    before = Folder(tmp_path).fingerprint
    assert Folder(tmp_path).fingerprint == before
    (tmp_path / "a.txt").write_text("other")
    assert Folder(tmp_path).fingerprint != before


def test_a_file_that_is_gone_is_a_bad_sample(tmp_path: Path) -> None:
    for key in "ab":
        paint(tmp_path / f"{key}.png")
        (tmp_path / f"{key}.txt").write_text(key)
    folder = Folder(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.txt").unlink()
    assert [reason(folder, i) for i in range(2)] == ["missing", "unreadable"]


def test_a_name_that_is_not_utf8_does_no_harm(tmp_path: Path) -> None:
    paint(tmp_path / "ok.png")
    (tmp_path / "ok.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    assert reason(Folder(tmp_path), 0) == "no-caption"
