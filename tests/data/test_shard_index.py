from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from pinxit.data.shard_index import build_index, hash_shard, load_index, store_index, stored_index
from pinxit.errors import PinxitError

Member = tuple[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "pinxit/shards"


def write_tar(path: Path, members: list[Member]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def three(path: Path) -> Path:
    return write_tar(path, [(f"{key}.{suffix}", key.encode() * 300) for key in "abc" for suffix in ("png", "txt")])


def reasons(path: Path) -> list[str]:
    return [reason for reason, _ in build_index(path).damage]


def test_spans_are_where_the_content_is(tmp_path: Path) -> None:
    shard = three(tmp_path / "s.tar")
    index = build_index(shard)
    assert index.keys == ("a", "b", "c")
    assert index.counts == {"samples": 3, "pictures": 3, "captioned": 3}
    assert (index.damage, index.refused) == ((), ())
    data = shard.read_bytes()
    for key, picture, text in zip(index.keys, index.pictures, index.texts, strict=True):
        for offset, size in (picture, text):
            assert data[offset : offset + size] == key.encode() * 300


def test_long_and_foreign_names_are_read(tmp_path: Path) -> None:
    key = "folder/" + "å" * 120
    assert build_index(write_tar(tmp_path / "s.tar", [(f"{key}.png", b"x"), (f"{key}.json", b"{}")])).keys == (key,)


@pytest.mark.parametrize("cut", range(3000, 8192, 200))
def test_a_cut_anywhere_is_noticed_and_keeps_what_is_whole(tmp_path: Path, cut: int) -> None:
    shard = write_tar(
        tmp_path / "s.tar", [(f"{key}.{suffix}", bytes(300)) for key in "abcd" for suffix in ("png", "txt")]
    )
    assert shard.stat().st_size == 10_240  # members of 1024 bytes each, then the end mark
    os.truncate(shard, cut)
    index = build_index(shard)
    assert [reason for reason, _ in index.damage] == ["truncated-shard"]
    assert len(index.keys) == (cut // 1024 + 1) // 2 if cut % 1024 < 812 else len(index.keys) > 0
    assert f"at byte {cut}" in index.damage[0][1]


def test_a_broken_header_is_noticed(tmp_path: Path) -> None:
    shard = three(tmp_path / "s.tar")
    data = bytearray(shard.read_bytes())
    data[1024 + 10] ^= 0xFF
    shard.write_bytes(data)
    assert reasons(shard) == ["bad-header"]


def test_what_is_no_tar_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(b"<html>not found</html>" * 50)
    assert reasons(path) == ["not-a-tar"]
    path.write_bytes(b"")
    assert reasons(path) == ["not-a-tar"]
    path.write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(PinxitError, match="is compressed"):
        build_index(path)


def test_a_name_that_comes_twice_is_damage(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", [("a.png", b"1"), ("a.txt", b"2"), ("a.png", b"3")])
    assert build_index(shard).damage == (("duplicate-key", "it holds 'a.png' twice"),)


def test_members_of_a_sample_that_lie_apart_are_damage(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", [("a.png", b"1"), ("b.png", b"1"), ("a.txt", b"2"), ("b.txt", b"2")])
    index = build_index(shard)
    assert [reason for reason, _ in index.damage] == ["unsorted", "unsorted"]
    assert "'a'" in index.damage[0][1]


@pytest.mark.parametrize("name", ["../../etc/x.png", "/abs/y.png", "a/../../z.png", "bell\a.png"])
def test_names_that_climb_out_are_refused(tmp_path: Path, name: str) -> None:
    index = build_index(write_tar(tmp_path / "s.tar", [(name, b"1")]))
    assert index.keys == ()
    assert [reason for _, reason in index.refused] == ["unsafe-name"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.FIFOTYPE, "not-a-file"),
        (tarfile.CHRTYPE, "not-a-file"),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes, reason: str) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    assert build_index(tmp_path / "s.tar").refused == (("a.png", reason),)


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pyd", "pth", "npy", "feature.PTH"])
def test_pickles_are_refused_and_their_sample_stays(tmp_path: Path, suffix: str) -> None:
    index = build_index(write_tar(tmp_path / "s.tar", [("a.png", b"1"), ("a.txt", b"1"), (f"a.{suffix}", b"1")]))
    assert index.keys == ("a",)
    assert index.refused == ((f"a.{suffix}", "pickle"),)


def test_folders_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        folder = tarfile.TarInfo("x")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in ("x/._a.png", "x/README", "x/a.png"):
            tar.addfile(tarfile.TarInfo(name))
    index = build_index(tmp_path / "s.tar")
    assert (index.keys, index.refused, index.damage) == (("x/a",), (), ())


def test_the_index_lies_beside_the_shard_and_is_used_again(tmp_path: Path) -> None:
    shard = three(tmp_path / "s.tar")
    index = load_index(shard)
    beside = tmp_path / "s.tar.index.json"
    stored = json.loads(beside.read_text())
    assert stored["sha256"] == hash_shard(shard)
    assert stored["keys"] == ["a", "b", "c"]
    stored["keys"] = ["x", "y", "z"]
    beside.write_text(json.dumps(stored))
    assert load_index(shard).keys == ("x", "y", "z")  # read, not built again
    assert index.keys == ("a", "b", "c")


def test_a_read_only_folder_gets_its_index_in_the_cache(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    shard = three(folder / "s.tar")
    folder.chmod(0o555)
    try:
        index = load_index(shard)
        assert [path.name for path in folder.iterdir()] == ["s.tar"]
        assert len(list(cache.iterdir())) == 1
        assert stored_index(shard) == index
    finally:
        folder.chmod(0o755)


def test_a_changed_shard_is_indexed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = three(tmp_path / "s.tar")
    load_index(shard)
    write_tar(shard, [("new.png", b"1")])
    assert load_index(shard).keys == ("new",)
    assert "has changed since it was indexed" in caplog.text


def test_a_shard_that_was_only_touched_keeps_its_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = three(tmp_path / "s.tar")
    before = load_index(shard)
    os.utime(shard, ns=(0, 0))
    after = load_index(shard)
    assert (after.sha256, after.mtime_ns) == (before.sha256, 0)
    assert caplog.text == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1, "size": "many"}'])
def test_an_index_that_cannot_be_read_is_built_again(tmp_path: Path, content: bytes) -> None:
    shard = three(tmp_path / "s.tar")
    (tmp_path / "s.tar.index.json").write_bytes(content)
    assert load_index(shard).keys == ("a", "b", "c")


def test_an_index_of_another_version_is_not_taken(tmp_path: Path) -> None:
    shard = three(tmp_path / "s.tar")
    store_index(shard, build_index(shard))
    beside = tmp_path / "s.tar.index.json"
    beside.write_text(beside.read_text().replace('"version":1', '"version":2'))
    assert stored_index(shard) is None
