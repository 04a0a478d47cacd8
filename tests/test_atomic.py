from __future__ import annotations

from pathlib import Path

import pytest

from pinxit.atomic import write_atomically


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_folders_are_made_and_the_file_is_as_any_other(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "a", b"new")
    (tmp_path / "deep" / "b").write_bytes(b"")
    a, b = (tmp_path / "deep" / name for name in "ab")
    assert a.read_bytes() == b"new"
    assert a.stat().st_mode == b.stat().st_mode
