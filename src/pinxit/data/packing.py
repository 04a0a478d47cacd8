"""Writing tar shards: any source, or the project's drawn sets, into one folder with its indexes."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pinxit.data.emoji import Emoji
from pinxit.data.faults import Faults
from pinxit.data.images import RESAMPLE, format_of
from pinxit.data.sample import BadSample, Pairs, Sample, Stored
from pinxit.data.shard_index import build_index, store_index
from pinxit.errors import PinxitError
from pinxit.progress import Progress

Packed = tuple[str, Mapping[str, bytes]]
"""A key, and the content of its members by suffix."""

PER_SHARD = 1000


def pack(
    pairs: Pairs,
    folder: Path,
    *,
    per_shard: int = PER_SHARD,
    size: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the good samples of a source as tar shards, sorted by key; returns how many.

    Stored pictures keep their bytes, unless `size` (pixels) bids to scale the shorter side down to it; those and drawn
    pictures become PNG. Raises `PinxitError` above the limit for bad samples, and leaves nothing behind then.
    """
    with tempfile.TemporaryFile(dir=_parent(folder)) as spool:
        places: dict[str, list[tuple[str, int]]] = {}
        for key, members in _packed(pairs, size, progress):
            if key in places:
                raise PinxitError(f"Two samples of {pairs.name} would have the key {key!r} in a shard; rename one.")
            places[key] = [(suffix, spool.write(data)) for suffix, data in members.items()]
        starts = itertools.accumulate((sum(length for _, length in place) for place in places.values()), initial=0)
        ordered = sorted(zip(places, starts, strict=False))
        return write_shards(folder, (_unspooled(spool, key, start, places[key]) for key, start in ordered), per_shard)


def pack_emoji(emoji: Emoji, folder: Path, *, per_shard: int = PER_SHARD, progress: Progress | None = None) -> int:
    """Write the emoji as transparent PNG with their records as JSON, in their own order; returns how many."""

    def packed(index: int) -> Packed:
        record, drawing = emoji.record(index), _png(emoji.drawing(index))
        if progress:
            progress(index + 1, len(emoji))
        return record["key"], {"png": drawing, "json": _json(record)}

    return write_shards(folder, map(packed, range(len(emoji))), per_shard)


def write_shards(folder: Path, samples: Iterable[Packed], per_shard: int = PER_SHARD) -> int:
    """Write `folder/000000.tar` and so on, `per_shard` samples each, with their indexes; returns the samples written.

    The folder appears whole or not at all; one that already holds something is refused.
    """
    if per_shard < 1:
        raise PinxitError(f"A shard of {per_shard} samples is not possible; ask for at least 1.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PinxitError(f"{folder} exists and is not empty; choose another folder.")
    partial = Path(tempfile.mkdtemp(dir=_parent(folder), prefix=f".{folder.name}."))
    try:
        count, stream = 0, iter(samples)
        for number in itertools.count():
            run = list(itertools.islice(stream, per_shard))
            if not run:
                break
            _write_shard(partial / f"{number:06d}.tar", run)
            count += len(run)
        if count == 0:
            raise PinxitError(f"There is no good sample to write to {folder}.")
        partial.chmod(0o755)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return count


def _write_shard(path: Path, samples: list[Packed]) -> None:
    """Bit-equal for equal samples: no times, no owners."""
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, members in samples:
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())
    index = build_index(path)
    if index.damage or index.refused:
        raise PinxitError(f"The shard {path.name} would be unreadable: {[*index.damage, *index.refused][0]}.")
    store_index(path, index)


def _packed(pairs: Pairs, size: int | None, progress: Progress | None) -> Iterator[Packed]:
    faults = Faults()
    for index in range(len(pairs)):
        faults.seen += 1
        try:
            yield _pack_one(pairs, index, size)
        except BadSample as fault:
            faults.add(fault)
        faults.judge()
        if progress:
            progress(index + 1, len(pairs))


def _pack_one(pairs: Pairs, index: int, size: int | None) -> Packed:
    sample = pairs[index]
    folder, _, name = sample.key.rpartition("/")
    key = f"{folder}/{name.replace('.', '_')}" if folder else name.replace(".", "_")  # a dot would end the key
    suffix, data = _picture(pairs, index, sample, size)
    captions = {kind: list(texts) for kind, texts in sample.captions.items()}
    return key, {suffix: data, "json": _json({**sample.meta, "key": key, "captions": captions})}


def _picture(pairs: Pairs, index: int, sample: Sample, size: int | None) -> tuple[str, bytes]:
    image = sample.image
    shorter = min(image.size)
    if size is not None and shorter > size:
        width, height = (max(1, round(side * size / shorter)) for side in image.size)
        return "png", _png(image.resize((width, height), RESAMPLE))
    if isinstance(pairs, Stored):
        data = pairs.picture_bytes(index)
        kind = format_of(data)
        assert kind is not None  # the sample was opened from these bytes
        return {"JPEG": "jpg"}.get(kind, kind.lower()), data
    return "png", _png(image)


def _unspooled(spool: Any, key: str, start: int, members: list[tuple[str, int]]) -> Packed:
    spool.seek(start)
    return key, {suffix: spool.read(length) for suffix, length in members}


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace")


def _parent(folder: Path) -> Path:
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    return folder.absolute().parent
