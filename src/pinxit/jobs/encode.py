"""Turning pictures into codes once and keeping them: what `pinxit encode` writes and priors train on.

A folder of parts, `part-00000/` and so on, each with `codes.safetensors` (b n: int32 ids, or float16 latents),
`samples.jsonl` (key, captions) and `config.json`, and a `config.json` of its own, which is written last and says that
all are there, how many samples they hold and how many were skipped for which reason.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pinxit.checkpoints.files import read_config, read_tensors, replace_folder, write_config, write_tensors
from pinxit.data.faults import Faults
from pinxit.data.images import fit
from pinxit.data.sample import BadSample, Captions, Pairs, Sample
from pinxit.errors import PinxitError
from pinxit.progress import Progress
from pinxit.systems.encoder import Encoder

KIND = "codes"
PART = 4096
"""Samples that are encoded between two savings."""


@dataclass(frozen=True)
class EncodedSample:
    """The codes of a picture, int64 or float32 n, with its captions and what else is known of it."""

    key: str
    codes: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    captions: Captions
    meta: Mapping[str, Any]
    beside: npt.NDArray[np.int64] | npt.NDArray[np.float32] | None = None
    """The codes of the same picture by another encoder, or of something taken from it."""


@dataclass(frozen=True)
class Encoded:
    """Encoded pictures with their captions, by position; all in memory, as at most n * 4 bytes a picture allow."""

    values: npt.NDArray[np.int32] | npt.NDArray[np.float16]
    """The codes of all pictures, m n."""
    keys: Sequence[str]
    captions: Sequence[Captions]
    metas: Sequence[Mapping[str, Any]]
    """What the source says beside: texts, numbers, yes and no."""
    shape: tuple[int, ...]
    """Of the codes of a picture, as the codec has it."""
    codes: int | None
    """k, how many codes there are; None where they are numbers."""
    fingerprint: str
    """Of the pictures."""
    encoder: str | None = None
    """The fingerprint of what encoded them, where it was kept."""
    others: Encoded | None = None
    """Codes of the same pictures, in the same order."""

    @classmethod
    def load(cls, folder: Path) -> Encoded:
        """Reads a folder that `encode` has finished."""
        config = read_config(folder)
        if config["kind"] != KIND:
            raise PinxitError(f"{folder} holds {config['kind']!r}, not codes. Make them with `pinxit encode`.")
        if "shape" not in config:
            raise PinxitError(f"{folder} holds codes of an earlier version. Remove it and encode the pictures again.")
        parts = [_part(folder, number) for number in range(config["parts"])]
        values = np.concatenate([read_tensors(part, "codes")["codes"].numpy() for part in parts])
        rows = [json.loads(line) for part in parts for line in _lines(part)]
        captions = [{kind: tuple(texts) for kind, texts in row["captions"].items()} for row in rows]
        keys, source = [row["key"] for row in rows], config["source"]["data"]["fingerprint"]
        metas = [row.get("meta", {}) for row in rows]
        shape, encoder = tuple(config["shape"]), config.get("encoder")
        return cls(values, keys, captions, metas, shape, config["codes"], source, encoder)

    def beside(self, others: Encoded) -> Encoded:
        """These with others of the same pictures."""
        if list(self.keys) == list(others.keys):
            return replace(self, others=others)
        place = {key: position for position, key in enumerate(others.keys)}
        if len(place) < len(others):
            raise PinxitError(
                "Several pictures have the same key, so it cannot be told whose codes belong together. Encode both "
                "from the same source, with the same settings."
            )
        if missing := [key for key in self.keys if key not in place]:
            raise PinxitError(
                f"Of {len(self)} pictures {len(missing)} are not among the {len(others)} that were encoded a second "
                f"time, such as {missing[0]!r}. Encode both from the same source, with the same settings."
            )
        return replace(self, others=others._some([place[key] for key in self.keys]))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> EncodedSample:
        codes = self.values[index].astype(np.float32 if self.codes is None else np.int64)
        beside = None if self.others is None else self.others[index].codes
        return EncodedSample(self.keys[index], codes, self.captions[index], self.metas[index], beside)

    def captions_at(self, index: int) -> Captions:
        """The captions alone."""
        return self.captions[index]

    def hold_back(self, count: int) -> tuple[Encoded, Encoded]:
        """Those to train on, and about `count` others for validation (a tenth at most); the same ones each time.

        Versions of one picture, whose keys differ after a "#" only, stay together.
        """
        pictures = [key.partition("#")[0] for key in self.keys]
        order = sorted(set(pictures))
        views = len(pictures) / len(order)
        chosen = np.random.default_rng(0).permutation(len(order))[: int(min(count / views, len(order) // 10))]
        held = {order[i] for i in chosen}
        return tuple(  # type: ignore[return-value]
            self._some([i for i, picture in enumerate(pictures) if (picture in held) == wanted])
            for wanted in (False, True)
        )

    def _some(self, positions: Sequence[int]) -> Encoded:
        return replace(
            self,
            values=self.values[list(positions)],
            keys=[self.keys[i] for i in positions],
            captions=[self.captions[i] for i in positions],
            metas=[self.metas[i] for i in positions],
            others=None if self.others is None else self.others._some(positions),
        )


def source_of(folder: Path) -> dict[str, Any] | None:
    """What the codes in `folder` were made from; None where they are not all there."""
    try:
        config = read_config(folder)
    except PinxitError:
        return None
    return config.get("source") if config["kind"] == KIND else None


def encode(
    pairs: Pairs, encoder: Encoder, folder: Path, source: Mapping[str, Any], progress: Progress | None = None
) -> None:
    """Encodes every good sample into `folder`, from the first part that is not there yet.

    `source` says what the codes are made from (JSON); parts that were made from something else are refused. Bad samples
    are skipped, counted and named, and raise PinxitError above the limit.
    """
    encode_parts(pairs, encoder, folder, source, progress)
    conclude(pairs, encoder, folder, source)


def encode_parts(
    pairs: Pairs,
    encoder: Encoder,
    folder: Path,
    source: Mapping[str, Any],
    progress: Progress | None = None,
    *,
    rank: int = 0,
    size: int = 1,
) -> None:
    """The parts that fall to the process `rank` of `size`; once all have done theirs, one of them calls `conclude`."""
    faults = Faults()
    done = 0

    def told(positions: int) -> None:
        if progress:  # the other processes are taken to be as far
            progress(min((done + positions) * size, len(pairs)), len(pairs))

    for number in range(rank, _parts(pairs), size):
        part = _part(folder, number)
        positions = range(number * PART, min((number + 1) * PART, len(pairs)))
        if (part / "config.json").exists():
            _check_source(part, source)
        else:
            _encode_part(part, pairs, positions, encoder, source, faults, told)
            told(len(positions))
        done += len(positions)


def conclude(pairs: Pairs, encoder: Encoder, folder: Path, source: Mapping[str, Any]) -> None:
    """Writes what makes the parts a whole."""
    made = [read_config(_part(folder, number)) for number in range(_parts(pairs))]
    samples = sum(config["samples"] for config in made)
    if not samples:
        raise PinxitError(f"{pairs.name} has no picture that could be encoded. `pinxit data check` says why.")
    skipped: Counter[str] = sum((Counter(config["skipped"]) for config in made), Counter())
    config = {"kind": KIND, "source": dict(source), "samples": samples, "skipped": dict(skipped), "parts": len(made)}
    made_by = {"shape": list(encoder.shape), "codes": encoder.codes, "encoder": encoder.fingerprint}
    write_config(folder, config | made_by)


def _encode_part(
    part: Path,
    pairs: Pairs,
    positions: range,
    encoder: Encoder,
    source: Mapping[str, Any],
    faults: Faults,
    told: Callable[[int], None],
) -> None:
    before = Counter(faults.reasons)
    kept = torch.float16 if encoder.codes is None else torch.int32
    codes = [torch.empty(0, math.prod(encoder.shape), dtype=kept)]
    rows = []
    samples = _good(pairs, positions, encoder.size, faults)
    while batch := list(itertools.islice(samples, encoder.batch)):
        codes.append(encoder.encode([sample.image for sample in batch]).flatten(1).to("cpu", kept))
        rows += [{"key": sample.key, "captions": sample.captions, "meta": _plain(sample.meta)} for sample in batch]
        told(len(rows))
    config = {"kind": f"{KIND}-part", "source": dict(source), "samples": len(rows)}
    with replace_folder(part) as partial:
        write_config(partial, {**config, "skipped": dict(faults.reasons - before)})
        write_tensors(partial, "codes", {"codes": torch.cat(codes)})
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (partial / "samples.jsonl").write_text(text, encoding="utf-8")


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if isinstance(value, str | int | float | bool)}


def _good(pairs: Pairs, positions: range, size: int, faults: Faults) -> Iterator[Sample]:
    """The usable samples, scaled at once: pictures in the sizes of cameras would fill the memory."""
    for position in positions:
        faults.seen += 1
        try:
            sample = pairs[position]
            yield replace(sample, image=fit(sample.image, size))
        except BadSample as fault:
            faults.add(fault)
        faults.judge()


def _check_source(part: Path, source: Mapping[str, Any]) -> None:
    if read_config(part).get("source") != dict(source):
        raise PinxitError(
            f"{part.parent} holds codes of other pictures or of another codec. Give another folder, or remove that one."
        )


def _parts(pairs: Pairs) -> int:
    return math.ceil(len(pairs) / PART)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}"


def _lines(part: Path) -> list[str]:
    return (part / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]  # texts may hold other separators
