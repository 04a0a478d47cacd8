"""What a source holds and what is wrong with it: every sample is opened, every shard's hash is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pinxit.data.faults import ENOUGH_TO_JUDGE, LIMIT
from pinxit.data.pairs import open_pairs, shard_paths
from pinxit.data.sample import BadSample, Pairs, Sample
from pinxit.data.shard_index import ShardIndex, hash_shard, load_index, stored_index
from pinxit.data.shards import Shards
from pinxit.errors import PinxitError
from pinxit.progress import Progress

_EXAMPLES = 5


@dataclass(frozen=True)
class Fault:
    """One kind of fault: how often, the first keys that have it, and the first one's full text."""

    count: int
    examples: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Spread:
    """The least, the middle and the greatest of some numbers."""

    least: int
    median: int
    greatest: int


@dataclass(frozen=True)
class Report:
    """The outcome of a check. `unusable` says why the source cannot be used, and is None where it can."""

    source: str
    fingerprint: str | None
    samples: int
    good: int
    width: Spread | None
    height: Spread | None
    captions: dict[str, dict[str, Any]]
    faults: dict[str, Fault]
    shards: dict[str, dict[str, Any]]
    unusable: str | None


@dataclass
class _Tally:
    """What is gathered on the way."""

    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    with_kind: Counter[str] = field(default_factory=Counter)
    characters: dict[str, list[int]] = field(default_factory=dict)
    words: dict[str, list[int]] = field(default_factory=dict)
    distinct: dict[str, set[int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def add_sample(self, sample: Sample) -> None:
        self.widths.append(sample.image.width)
        self.heights.append(sample.image.height)
        for kind, captions in sample.captions.items():
            self.with_kind[kind] += 1
            self.characters.setdefault(kind, []).extend(len(caption) for caption in captions)
            self.words.setdefault(kind, []).extend(len(caption.split()) for caption in captions)
            self.distinct.setdefault(kind, set()).update(hash(caption) for caption in captions)

    def add_fault(self, reason: str, key: str, text: str) -> None:
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(key)
        self.texts.setdefault(reason, text)

    def faults(self) -> dict[str, Fault]:
        return {
            reason: Fault(count, tuple(self.examples[reason]), self.texts[reason])
            for reason, count in self.counts.most_common()
        }

    def captions(self) -> dict[str, dict[str, Any]]:
        return {
            kind: {
                "samples": self.with_kind[kind],
                "captions": len(self.characters[kind]),
                "distinct": len(self.distinct[kind]),
                "words": _spread(self.words[kind]),
                "characters": _spread(self.characters[kind]),
            }
            for kind in sorted(self.with_kind)
        }


def check_source(src: str, *, progress: Progress | None = None) -> Report:
    """Open every sample of SRC and report. Raises `PinxitError` only where SRC is no source at all."""
    tally = _Tally()
    paths = shard_paths(src) if src else None
    if paths is None:
        pairs: Pairs | None = open_pairs(src)
        shards: dict[str, dict[str, Any]] = {}
    else:
        pairs, shards = _check_shards(paths, src, tally)
    damaged = sum(tally.counts[reason] for reason in _DAMAGE)
    bad = 0
    for index in range(len(pairs) if pairs else 0):
        assert pairs is not None
        try:
            tally.add_sample(pairs[index])
        except BadSample as fault:
            bad += 1
            tally.add_fault(fault.reason, fault.key, str(fault))
        if progress:
            progress(index + 1, len(pairs))
    samples = len(pairs) if pairs else 0
    return Report(
        source=src,
        fingerprint=pairs.fingerprint if pairs and not damaged else None,
        samples=samples,
        good=samples - bad,
        width=_spread(tally.widths),
        height=_spread(tally.heights),
        captions=tally.captions(),
        faults=tally.faults(),
        shards=shards,
        unusable=_verdict(samples, bad, damaged),
    )


_DAMAGE = ("truncated-shard", "bad-header", "not-a-tar", "duplicate-key", "unsorted", "hash", "unreadable-shard")


def _check_shards(paths: Sequence[Path], src: str, tally: _Tally) -> tuple[Shards | None, dict[str, dict[str, Any]]]:
    """The shards that can be opened, and what each of all holds."""
    sound: list[Path] = []
    shards: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            index = _checked_index(path, tally)
        except (PinxitError, OSError) as fault:
            tally.add_fault("unreadable-shard", path.name, f"Shard {path} cannot be read: {fault}")
            continue
        shards[str(path)] = {**index.counts, "bytes": index.size, "sha256": index.sha256}
        for reason, text in index.damage:
            tally.add_fault(reason, path.name, f"Shard {path}: {text}.")
        for name, reason in index.refused:
            tally.add_fault(reason, name, f"Member {name!r} of {path} is never read ({reason}).")
        if not index.damage:
            sound.append(path)
    return Shards(sound, name=src) if sound else None, shards


def _checked_index(path: Path, tally: _Tally) -> ShardIndex:
    """The index, after a look whether the shard still is what was indexed."""
    stored = stored_index(path)
    if stored is not None and stored.sha256 != hash_shard(path):
        text = f"Shard {path} is not what was indexed: it was changed or damaged since. If it is right, check again."
        tally.add_fault("hash", path.name, text)
        if stored.mtime_ns == path.stat().st_mtime_ns:  # a change that leaves the time alone is no edit
            return stored
    return load_index(path)


def _spread(values: Sequence[int]) -> Spread | None:
    return Spread(min(values), int(np.median(values)), max(values)) if values else None


def _verdict(samples: int, bad: int, damaged: int) -> str | None:
    if damaged:
        return f"{damaged} faults of whole shards"
    if samples == bad:
        return "no good sample"
    if samples >= ENOUGH_TO_JUDGE and bad > LIMIT * samples:
        return f"{bad} of {samples} samples are bad, more than the {LIMIT:.0%} allowed"
    return None
