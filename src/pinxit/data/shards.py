"""Tar shards in the webdataset layout: random access through an index, nothing ever extracted.

A sample is the run of members that share a name up to the first dot: `KEY.png` with `KEY.json`, `KEY.txt` or
`KEY.caption`. A damaged shard (cut short, duplicate or scattered members) is refused by name when it is opened; a
sample that lacks its picture or caption raises `BadSample` when it is asked for.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pinxit.data.images import LIMITS, WHITE, BadImage, Colour, ImageLimits, open_image
from pinxit.data.sample import MAX_TEXT_BYTES, BadSample, Captions, Sample, read_captions
from pinxit.data.shard_index import ABSENT, ShardIndex, Span, load_index
from pinxit.errors import PinxitError

logger = logging.getLogger(__name__)

_OPEN_FILES = 64


class Shards:
    """The samples of these shards, in order, as `Pairs`. Raises `PinxitError` naming a damaged shard.

    Safe in forked and spawned processes; within a process for one thread at a time.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        name: str = "",
        background: Colour = WHITE,
        limits: ImageLimits = LIMITS,
        captioned: bool = True,
    ) -> None:
        self.captioned = captioned
        self.paths = tuple(paths)
        self.name = name or ", ".join(str(path) for path in self.paths)
        self.background = background
        self.limits = limits
        self.indexes = tuple(_index(path) for path in self.paths)
        self._ends = list(itertools.accumulate(len(index.keys) for index in self.indexes))
        self._files: OrderedDict[int, int] = OrderedDict()
        digest = hashlib.sha256("".join(index.sha256 for index in self.indexes).encode())
        self.fingerprint = digest.hexdigest()[:16]
        _report_refused(self.paths, self.indexes)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, position: int) -> Sample:
        shard, i = self._locate(position)
        key = self.indexes[shard].keys[i]
        captions, meta = self._captions(shard, i)
        data = self.picture_bytes(position)
        try:
            image = open_image(data, background=self.background, limits=self.limits)
        except BadImage as fault:
            text = str(fault).replace("The picture", f"The picture of {key!r} in {self.paths[shard]}", 1)
            raise BadSample(key, fault.reason, text) from None
        return Sample(key, image, captions, meta)

    def picture_bytes(self, position: int) -> bytes:
        """The picture as it is stored."""
        shard, i = self._locate(position)
        key, span = self.indexes[shard].keys[i], self.indexes[shard].pictures[i]
        if span == ABSENT:
            raise BadSample(key, "no-picture", f"{key!r} in {self.paths[shard]} has no picture.")
        return self._read(shard, key, span, self.limits.bytes)

    def captions_at(self, position: int) -> Captions:
        """The captions without the cost of the picture."""
        return self._captions(*self._locate(position))[0]

    def meta_at(self, position: int) -> dict[str, Any]:
        """What else the sidecar says, without the cost of the picture."""
        return self._captions(*self._locate(position))[1]

    def _locate(self, position: int) -> tuple[int, int]:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} samples")
        shard = bisect.bisect_right(self._ends, position)
        return shard, position - (self._ends[shard - 1] if shard else 0)

    def _captions(self, shard: int, i: int) -> tuple[Captions, dict[str, Any]]:
        index = self.indexes[shard]
        key, spans = index.keys[i], (index.records[i], index.texts[i])
        record, text = (None if span == ABSENT else self._read(shard, key, span, MAX_TEXT_BYTES) for span in spans)
        return read_captions(key, record, text, captioned=self.captioned)

    def _read(self, shard: int, key: str, span: Span, limit: int) -> bytes:
        offset, size = span
        if size > limit:
            raise BadSample(key, "bytes", f"A member of {key!r} in {self.paths[shard]} is over {limit} bytes.")
        data = os.pread(self._file(shard), size, offset)
        if len(data) < size:
            raise BadSample(
                key, "truncated", f"{self.paths[shard]} ends inside {key!r}; it changed after it was opened."
            )
        return data

    def _file(self, shard: int) -> int:
        # pread shares no position, so a descriptor is good in forked workers too.
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        while len(self._files) >= _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[shard] = os.open(self.paths[shard], os.O_RDONLY | os.O_CLOEXEC)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)


def _index(path: Path) -> ShardIndex:
    try:
        index = load_index(path)
    except OSError as fault:
        raise PinxitError(f"Shard {path} cannot be read: {fault.strerror}.") from None
    if index.damage:
        reason, text = index.damage[0]
        more = f" (and {len(index.damage) - 1} more faults)" if len(index.damage) > 1 else ""
        raise PinxitError(f"Shard {path} is damaged ({reason}): {text}{more}. `pinxit data check {path}` says it all.")
    return index


def _report_refused(paths: Sequence[Path], indexes: Sequence[ShardIndex]) -> None:
    refused = [(path, *member) for path, index in zip(paths, indexes, strict=True) for member in index.refused]
    if refused:
        counts = Counter(reason for _, _, reason in refused)
        path, member, _ = refused[0]
        listed = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        logger.warning("Never read %d tar members (%s), such as %r in %s.", len(refused), listed, member, path)
