"""Codes kept once: parts, resuming, refusals, bad samples, and versions of one picture that stay together."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pinxit.data.sample import BadSample, Captions, Sample
from pinxit.data.scenes import Scenes
from pinxit.errors import PinxitError
from pinxit.jobs import encode
from pinxit.jobs.encode import Encoded
from pinxit.models.dvae import DVAE, SIZES
from pinxit.systems.codec import Codec

SOURCE = {"data": {"fingerprint": "f"}, "codec": 1}


class Reads:
    """Scenes that remember which were read; those in `bad` cannot be, and `cut` is where the power fails."""

    name = "reads"
    fingerprint = "f"

    def __init__(self, n: int, bad: Sequence[int] = (), cut: int | None = None) -> None:
        self.scenes, self.bad, self.cut, self.read = Scenes(n, size=48), bad, cut, list[int]()

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if index == self.cut:
            raise KeyboardInterrupt
        if index in self.bad:
            raise BadSample(str(index), "truncated", f"{index} is cut short.")
        return self.scenes[index]

    def captions_at(self, index: int) -> Captions:
        return self.scenes.captions_at(index)

    def meta_at(self, index: int) -> dict[str, Any]:
        return self.scenes.meta_at(index)


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(DVAE(SIZES["tiny-32"]))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "PART", 8)
    monkeypatch.setattr(Codec, "batch", 3)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_kept_is_what_the_codec_says(codec: Codec, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pairs = Reads(20)
    encode.encode(pairs, codec, tmp_path, SOURCE, lambda done, total: seen.append((done, total)))
    kept = Encoded.load(tmp_path)
    assert (len(kept), kept.shape, kept.codes) == (20, codec.shape, codec.codes)
    for i in (0, 7, 8, 19):
        assert kept[i].key == pairs[i].key
        assert kept[i].captions == kept.captions_at(i) == pairs.captions_at(i)
        assert kept[i].codes.dtype == np.int64
        assert (kept[i].codes == codec.encode(pairs[i].image).flatten().numpy()).all()
    assert seen[-1] == (20, 20)
    assert seen == sorted(seen)
    assert encode.source_of(tmp_path) == SOURCE


def test_a_cut_run_goes_on_after_the_last_whole_part_and_ends_alike(codec: Codec, tmp_path: Path) -> None:
    encode.encode(Reads(20), codec, tmp_path / "whole", SOURCE)
    with pytest.raises(KeyboardInterrupt):
        encode.encode(Reads(20, cut=13), codec, tmp_path / "cut", SOURCE)
    assert encode.source_of(tmp_path / "cut") is None
    with pytest.raises(PinxitError, match="no checkpoint"):
        Encoded.load(tmp_path / "cut")
    again = Reads(20)
    encode.encode(again, codec, tmp_path / "cut", SOURCE)
    assert again.read == list(range(8, 20))
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_processes_that_share_the_parts_write_what_one_alone_writes(codec: Codec, tmp_path: Path) -> None:
    encode.encode(Reads(20), codec, tmp_path / "alone", SOURCE)
    seen: list[tuple[int, int]] = []
    for rank in (1, 0):
        encode.encode_parts(
            Reads(20), codec, tmp_path / "shared", SOURCE, lambda *told: seen.append(told), rank=rank, size=2
        )
        assert encode.source_of(tmp_path / "shared") is None
    encode.conclude(Reads(20), codec, tmp_path / "shared", SOURCE)
    assert files(tmp_path / "shared") == files(tmp_path / "alone")
    assert seen[-1] == (20, 20)


def test_what_a_killed_process_left_half_written_is_no_part(codec: Codec, tmp_path: Path) -> None:
    encode.encode(Reads(20), codec, tmp_path / "whole", SOURCE)
    encode.encode(Reads(20), codec, tmp_path / "cut", SOURCE)
    (tmp_path / "cut" / "config.json").unlink()
    (tmp_path / "cut" / "part-00002").rename(tmp_path / "cut" / ".part-00002.partial")
    (tmp_path / "cut" / ".part-00002.partial" / "codes.safetensors").write_bytes(b"half")
    (tmp_path / "cut" / "summary").mkdir()
    encode.encode(Reads(20), codec, tmp_path / "cut", SOURCE)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_finished_folder_is_left_alone(codec: Codec, tmp_path: Path) -> None:
    encode.encode(Reads(20), codec, tmp_path, SOURCE)
    before, again = files(tmp_path), Reads(20)
    encode.encode(again, codec, tmp_path, SOURCE)
    assert again.read == []
    assert files(tmp_path) == before


def test_codes_of_something_else_are_refused(codec: Codec, tmp_path: Path) -> None:
    encode.encode(Reads(9), codec, tmp_path, SOURCE)
    before = files(tmp_path)
    with pytest.raises(PinxitError, match="codes of other pictures or of another codec"):
        encode.encode(Reads(9), codec, tmp_path, {**SOURCE, "codec": 2})
    assert files(tmp_path) == before


def test_bad_samples_are_skipped_and_counted_also_over_a_cut(
    codec: Codec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode.encode(Reads(20, bad=[3, 11], cut=17), codec, tmp_path, SOURCE)
    with caplog.at_level(logging.WARNING):
        encode.encode(Reads(20, bad=[3, 17]), codec, tmp_path, SOURCE)
    assert "17 is cut short" in caplog.text
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["samples"], config["skipped"]) == (17, {"truncated": 3})
    kept = Encoded.load(tmp_path)
    assert [int(key[-7:]) for key in kept.keys] == [i for i in range(20) if i not in (3, 11, 17)]


def test_too_many_bad_samples_end_it(codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match="Too many bad samples"):
        encode.encode(Reads(120, bad=range(0, 120, 4)), codec, tmp_path, SOURCE)
    with pytest.raises(PinxitError, match="no picture that could be encoded"):
        encode.encode(Reads(5, bad=range(5)), codec, tmp_path / "none", SOURCE)


def test_folders_that_hold_no_codes_are_told_apart(codec: Codec, tmp_path: Path) -> None:
    encode.encode(Reads(9), codec, tmp_path, SOURCE)
    assert encode.source_of(tmp_path / "part-00000") is None
    with pytest.raises(PinxitError, match="holds 'codes-part', not codes"):
        Encoded.load(tmp_path / "part-00000")
    assert encode.source_of(tmp_path / "absent") is None


def test_pictures_are_scaled_before_they_wait_in_a_batch(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    original = codec.encode

    def watch(images: Sequence[Image.Image]) -> torch.Tensor:
        sizes.extend(image.size for image in images)
        return original(images)

    monkeypatch.setattr(codec, "encode", watch)
    encode.encode(Reads(4), codec, tmp_path, SOURCE)
    assert sizes == [(32, 32)] * 4


def make(keys: Sequence[str]) -> Encoded:
    ids = np.arange(len(keys), dtype=np.int32)[:, None].repeat(4, axis=1)
    return Encoded(ids, list(keys), [{"short": (key,)} for key in keys], [{}] * len(keys), (2, 2), 64, "f")


def test_codes_of_two_encoders_are_paired_by_key() -> None:
    ours, theirs = make(["a", "b", "c"]), make(["c", "a", "b", "d"])
    paired = ours.beside(theirs)
    assert [paired[i].beside.tolist() for i in range(3)] == [[1] * 4, [2] * 4, [0] * 4]  # type: ignore[union-attr]
    training, held = make([str(i) for i in range(50)]).beside(make([str(i) for i in range(50)])).hold_back(5)
    for side in (training, held):
        assert all(np.array_equal(np.asarray(side[i].beside), side[i].codes) for i in range(len(side)))
    with pytest.raises(PinxitError, match="Of 2 pictures 1 are not among the 3 that were encoded a second time"):
        make(["a", "x"]).beside(make(["a", "b", "c"]))
    with pytest.raises(PinxitError, match="Several pictures have the same key"):
        make(["a", "b"]).beside(make(["b", "a", "a"]))


def test_captions_may_hold_any_separator_of_lines(codec: Codec, tmp_path: Path) -> None:
    class Odd(Reads):
        def __getitem__(self, index: int) -> Sample:
            return replace(
                super().__getitem__(index), captions={"short": ("a\u2028b\u0085c",)}, meta={"kind": "\u2029"}
            )

    encode.encode(Odd(4), codec, tmp_path, SOURCE)
    kept = Encoded.load(tmp_path)
    assert [kept[i].captions["short"] for i in range(4)] == [("a\u2028b\u0085c",)] * 4
    assert kept[0].meta == {"kind": "\u2029"}


def test_versions_of_one_picture_are_held_back_together() -> None:
    versions = {f"{i:03d}": 1 + i % 4 for i in range(100)}
    encoded = make([f"{key}#{v}" if v else key for key, n in versions.items() for v in range(n)])
    training, held = encoded.hold_back(20)
    sides = [{key.partition("#")[0] for key in side.keys} for side in (training, held)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(versions)
    assert len(training) + len(held) == len(encoded)
    assert 10 <= len(held) <= 30
    assert list(held.hold_back(0)[1].keys) == []
    for side in (training, held):
        for i in range(len(side)):
            assert encoded.keys[side[i].codes[0]] == side[i].key == side.captions_at(i)["short"][0]
    again = encoded.hold_back(20)[1]
    assert list(again.keys) == list(held.keys)


def test_at_most_a_tenth_is_held_back() -> None:
    training, held = make([f"{i}" for i in range(50)]).hold_back(1000)
    assert (len(training), len(held)) == (45, 5)
    training, held = make(["a", "b"]).hold_back(1)
    assert (len(training), len(held)) == (2, 0)


def test_codes_of_an_earlier_version_are_told(codec: Codec, tmp_path: Path) -> None:
    encode.encode(Reads(5), codec, tmp_path / "codes", SOURCE)
    file = tmp_path / "codes" / "config.json"
    file.write_text(file.read_text().replace('"shape"', '"grid"'))
    with pytest.raises(PinxitError, match=r"earlier version\. Remove it and encode the pictures again"):
        Encoded.load(tmp_path / "codes")
