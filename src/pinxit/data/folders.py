"""A folder of pictures with sidecars: `a.png` beside `a.txt`, `a.caption` or `a.json`, in any depth."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from pinxit.data.images import LIMITS, PICTURE_SUFFIXES, WHITE, BadImage, Colour, ImageLimits, open_image
from pinxit.data.sample import MAX_TEXT_BYTES, BadSample, Captions, Sample, read_captions

_TEXT_SUFFIXES = (".txt", ".caption")
_SIDECAR_SUFFIXES = frozenset({*_TEXT_SUFFIXES, ".json"})


@dataclass(frozen=True)
class _Files:
    """The files of one sample, relative to the folder; None where it has none."""

    key: str
    picture: str | None
    record: str | None
    text: str | None


class Folder:
    """The pictures under this folder, sorted by path, as `Pairs`.

    Hidden files are left out, links that lead out of the folder are refused. A sidecar without a picture is a bad
    sample, and so is a picture without one where they have to be `captioned`.
    """

    def __init__(
        self, root: Path, *, background: Colour = WHITE, limits: ImageLimits = LIMITS, captioned: bool = True
    ) -> None:
        self.root = root
        self.captioned = captioned
        self.name = str(root)
        self.background = background
        self.limits = limits
        sizes = _list(root)
        self._samples = _group(sorted(sizes, key=lambda name: PurePosixPath(name).parts))
        listing = "".join(f"{name}\0{size}\0" for name, size in sorted(sizes.items()))
        self.fingerprint = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> Sample:
        files = self._samples[position]
        if files.picture is None:
            raise BadSample(files.key, "no-picture", f"{files.key!r} in {self.root} has no picture.")
        captions, meta = self._captions(files)
        image = picture_inside(self.root, files.picture, files.key, self.background, self.limits)
        return Sample(files.key, image, captions, meta)

    def picture_bytes(self, position: int) -> bytes:
        """The picture as it is stored."""
        files = self._samples[position]
        return bytes_inside(self.root, files.picture or "", files.key, self.limits.bytes)

    def captions_at(self, position: int) -> Captions:
        """The captions without the cost of the picture."""
        return self._captions(self._samples[position])[0]

    def meta_at(self, position: int) -> dict[str, Any]:
        """What else the sidecar says, without the cost of the picture."""
        return self._captions(self._samples[position])[1]

    def _captions(self, files: _Files) -> tuple[Captions, dict[str, Any]]:
        record, text = (None if name is None else self._sidecar(files.key, name) for name in (files.record, files.text))
        captions, meta = read_captions(files.key, record, text, captioned=self.captioned)
        inner = PurePosixPath(files.key).parent.name
        return captions, {"folder": inner, **meta} if inner else meta

    def _sidecar(self, key: str, name: str) -> bytes:
        return bytes_inside(self.root, name, key, MAX_TEXT_BYTES)


def path_inside(root: Path, name: str, key: str) -> Path:
    """The file that `name` means under `root`. A name that is absolute, climbs or leads out by a link is refused."""
    plain = PurePosixPath(name)
    if not name or "\0" in name or plain.is_absolute() or ".." in plain.parts or "\\" in name:
        raise BadSample(key, "unsafe-path", f"The path {name!r} does not stay inside {root}.")
    path = root / plain
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise BadSample(key, "unsafe-path", f"The path {name!r} is a link that leads out of {root}.")
    return path


def bytes_inside(root: Path, name: str, key: str, limit: int) -> bytes:
    """The content of the file that `name` means under `root`, if it has at most `limit` bytes."""
    path = path_inside(root, name, key)
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as fault:
        raise BadSample(key, "unreadable", f"{path} cannot be read: {fault.strerror}.") from None
    if len(data) > limit:
        raise BadSample(key, "bytes", f"{path} has more than the {limit} bytes allowed.")
    return data


def picture_inside(root: Path, name: str, key: str, background: Colour, limits: ImageLimits) -> Image.Image:
    """The picture that `name` means under `root`. Raises `BadSample` with the reason of `BadImage` or "unsafe-path"."""
    path = path_inside(root, name, key)
    try:
        return open_image(path, background=background, limits=limits)
    except BadImage as fault:
        raise BadSample(key, fault.reason, str(fault)) from None


def keys_of(names: Sequence[str]) -> list[str]:
    """Names of pictures -> keys: without the suffix, except where two would be the same."""
    stems = [str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name for name in names]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]


def _list(root: Path) -> dict[str, int]:
    """Every picture and sidecar below, by its path from `root`, with its size."""
    sizes = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  # a million Path objects are slow
            if not name.startswith(".") and (suffix in PICTURE_SUFFIXES or suffix in _SIDECAR_SUFFIXES):
                path = Path(folder, name)
                sizes[path.relative_to(root).as_posix()] = path.lstat().st_size
    return sizes


def _group(names: list[str]) -> list[_Files]:
    pictures = [name for name in names if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES]
    sidecars = {name for name in names if PurePosixPath(name).suffix.lower() in _SIDECAR_SUFFIXES}
    by_stem: dict[str, dict[str, str]] = {}
    for name in sorted(sidecars):
        path = PurePosixPath(name)
        by_stem.setdefault(str(path.with_suffix("")), {}).setdefault(path.suffix.lower(), name)
    used: set[str] = set()
    samples = []
    for key, name in zip(keys_of(pictures), pictures, strict=True):
        stem = str(PurePosixPath(name).with_suffix(""))
        used.add(stem)
        samples.append(_files(key, name, by_stem.get(stem, {})))
    samples += [_files(stem, None, found) for stem, found in by_stem.items() if stem not in used]
    return samples


def _files(key: str, picture: str | None, sidecars: dict[str, str]) -> _Files:
    text = next((sidecars[suffix] for suffix in _TEXT_SUFFIXES if suffix in sidecars), None)
    return _Files(key, picture, sidecars.get(".json"), text)
