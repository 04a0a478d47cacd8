"""The index of a tar shard: where every sample lies, what the shard weighs and hashes to, what is wrong with it.

A shard is read once, front to back, to build its index; the index is kept as JSON beside the shard
(`NAME.tar.index.json`) or, where that folder is read-only, in the user's cache. It is rebuilt when the shard's size or
time has changed.
Members are read in place by offset and never extracted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import pydantic

from pinxit.atomic import write_atomically
from pinxit.data.images import PICTURE_SUFFIXES
from pinxit.errors import PinxitError

logger = logging.getLogger(__name__)

Span = tuple[int, int]
"""Offset and size of a member's content in the shard, in bytes; (-1, 0) where the sample lacks the member."""

ABSENT: Span = (-1, 0)

# Content that runs code when it is loaded; it is never read, whatever it holds.
_PICKLES = frozenset({"pickle", "pkl", "pyd", "pth", "pt", "joblib", "npy", "npz"})
_BLOCK = 512


@dataclass(frozen=True)
class ShardIndex:
    """One shard, by column: sample i has `keys[i]` and the spans of its picture, its `.json` and its `.txt`.

    `refused` lists members that are never read (name, reason); `damage` lists faults of the shard as a whole
    (reason, text), any of which makes it unusable.
    """

    version: Literal[1]
    size: int
    mtime_ns: int
    sha256: str
    keys: tuple[str, ...]
    pictures: tuple[Span, ...]
    records: tuple[Span, ...]
    texts: tuple[Span, ...]
    refused: tuple[tuple[str, str], ...]
    damage: tuple[tuple[str, str], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many samples there are, how many have a picture, how many have a caption file."""
        captioned = sum(max(spans) != ABSENT for spans in zip(self.records, self.texts, strict=True))
        pictured = sum(span != ABSENT for span in self.pictures)
        return {"samples": len(self.keys), "pictures": pictured, "captioned": captioned}


_JSON = pydantic.TypeAdapter(ShardIndex)


def load_index(shard: Path) -> ShardIndex:
    """The shard's index: the stored one where it is still true, else a new one, stored for next time."""
    status = shard.stat()
    stored = stored_index(shard)
    if stored is not None and (stored.size, stored.mtime_ns) == (status.st_size, status.st_mtime_ns):
        return stored
    if stored is not None and stored.size == status.st_size and stored.sha256 == hash_shard(shard):
        index = replace(stored, mtime_ns=status.st_mtime_ns)  # copied or touched, not changed
    else:
        if stored is not None:
            logger.warning("Shard %s has changed since it was indexed; indexing it again.", shard)
        index = build_index(shard)
    store_index(shard, index)
    return index


def stored_index(shard: Path) -> ShardIndex | None:
    """The index as it was last stored, true or not; None where there is none that can be read."""
    for path in _places(shard):
        try:
            return _JSON.validate_json(path.read_bytes())
        except (OSError, pydantic.ValidationError):
            continue
    return None


def store_index(shard: Path, index: ShardIndex) -> None:
    """Write the index beside the shard, else into the user's cache; without either, it is built anew each time."""
    data = _JSON.dump_json(index)
    for path in _places(shard):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.stat().st_mode & 0o222:
                continue  # the superuser could write there all the same; a read-only folder stays as it is
            write_atomically(path, data)
        except OSError:
            continue
        return


def build_index(shard: Path) -> ShardIndex:
    """Read the shard once and index it. Raises `PinxitError` where it is no tar at all."""
    builder = _Builder()
    status = shard.stat()
    with shard.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise PinxitError(f"Shard {shard} is compressed, which rules out random access. Unpack it with gunzip.")
        file.seek(0)
        try:
            for member in _members(file, status.st_size, builder.damage):
                builder.add(member)
        except tarfile.TarError as fault:
            builder.damage.append(("not-a-tar", f"it is not a tar archive ({fault})"))
    return ShardIndex(
        version=1,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=hash_shard(shard),
        keys=tuple(builder.samples),
        pictures=tuple(sample.get("picture", ABSENT) for sample in builder.samples.values()),
        records=tuple(sample.get("record", ABSENT) for sample in builder.samples.values()),
        texts=tuple(sample.get("text", ABSENT) for sample in builder.samples.values()),
        refused=tuple(builder.refused),
        damage=tuple(builder.damage),
    )


def _members(file: object, size: int, damage: list[tuple[str, str]]) -> Iterator[tarfile.TarInfo]:
    """The members whose content is all there; what cuts the walk short goes to `damage`.

    tarfile ends quietly at a header that is cut or broken, so where it stopped is looked at again here.
    """
    last = "its start"
    with tarfile.TarFile(fileobj=file) as tar:  # type: ignore[arg-type]
        while True:
            try:
                member = tar.next()
            except tarfile.ReadError:
                member = None
                if tar.offset == 0:
                    raise
            if member is None:
                break
            if member.isreg() and member.offset_data + member.size > size:
                damage.append(("truncated-shard", f"it is cut inside {member.name!r}, at byte {size}"))
                return
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            last = repr(member.name)
            yield member
        stopped = tar.offset
    file.seek(stopped)  # type: ignore[attr-defined]
    end = file.read(_BLOCK)  # type: ignore[attr-defined]
    if len(end) < _BLOCK:
        damage.append(("truncated-shard", f"it is cut after {last}, at byte {size}, without an end mark"))
    elif end.strip(b"\0"):
        damage.append(("bad-header", f"the header after {last}, at byte {stopped}, is broken"))


class _Builder:
    """Groups members into samples, by the name up to the first dot, as webdataset does."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, Span]] = {}
        self.refused: list[tuple[str, str]] = []
        self.damage: list[tuple[str, str]] = []
        self._seen: set[str] = set()
        self._last_key: str | None = None

    def add(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        reason = _refusal(member)
        if reason is not None:
            self.refused.append((member.name.encode("utf-8", "backslashreplace").decode(), reason))
            return
        path = PurePosixPath(member.name)
        stem, _, suffix = path.name.partition(".")
        if not stem or not suffix:  # hidden files of the archiving machine, files without a kind
            return
        key, suffix = str(path.with_name(stem)), suffix.lower()
        if suffix.rpartition(".")[2] in _PICKLES:
            self.refused.append((member.name, "pickle"))
            return
        self._note_order(key, member.name)
        role = _role(suffix)
        if role is None:
            return
        sample = self.samples.setdefault(key, {})
        if member.name in self._seen:
            self.damage.append(("duplicate-key", f"it holds {member.name!r} twice"))
        self._seen.add(member.name)
        sample.setdefault(role, (member.offset_data, member.size))

    def _note_order(self, key: str, name: str) -> None:
        if key != self._last_key and key in self.samples and name not in self._seen:
            self.damage.append(("unsorted", f"the members of {key!r} do not lie together; sort the tar by name"))
        self._last_key = key


def _refusal(member: tarfile.TarInfo) -> str | None:
    """Why this member is never read; None where it may be."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "unsafe-name"
    if member.issym() or member.islnk():
        return "link"
    if not member.isreg() or member.issparse():
        return "not-a-file"
    if not member.name.isprintable():  # also what was not UTF-8, which tarfile turns into lone surrogates
        return "unsafe-name"
    return None


def _role(suffix: str) -> str | None:
    if f".{suffix}" in PICTURE_SUFFIXES:
        return "picture"
    return {"json": "record", "txt": "text", "caption": "text"}.get(suffix)


def hash_shard(shard: Path) -> str:
    """The sha256 of the shard as it is now, in hex."""
    with shard.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _places(shard: Path) -> tuple[Path, Path]:
    name = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:32]
    return shard.with_name(f"{shard.name}.index.json"), cache_folder() / "shards" / f"{name}.json"


def cache_folder() -> Path:
    """Where pinxit keeps what it can make again: `$XDG_CACHE_HOME/pinxit`, by default `~/.cache/pinxit`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pinxit"
