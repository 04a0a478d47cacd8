from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pinxit.data.images import ImageLimits
from pinxit.data.loader import Loader
from pinxit.data.sample import BadSample, Sample
from pinxit.data.shards import Shards
from pinxit.errors import PinxitError

DATA = Path(__file__).resolve().parents[3] / "shared/data"
needs_emoji = pytest.mark.skipif(
    not (DATA / "emoji-validation").is_dir(), reason="needs the emoji set in ../shared/data"
)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def shards(folder: Path, counts: tuple[int, ...] = (3, 2)) -> list[Path]:
    paths, number = [], 0
    for shard, count in enumerate(counts):
        members = []
        for _ in range(count):
            members += [(f"{number:03d}.png", picture(number)), (f"{number:03d}.txt", f"number {number}".encode())]
            number += 1
        paths.append(write_tar(folder / f"{shard}.tar", members))
    return paths


def value(sample: Sample) -> Any:
    return sample.image.getpixel((0, 0))[0]  # type: ignore[index]


def test_samples_lie_in_order_across_shards(tmp_path: Path) -> None:
    pairs = Shards(shards(tmp_path, (3, 0, 2)))
    assert len(pairs) == 5
    assert [value(pairs[i]) for i in range(5)] == [0, 1, 2, 3, 4]
    assert [pairs[i].key for i in (4, 0, 3)] == ["004", "000", "003"]
    assert pairs.captions_at(3) == {"short": ("number 3",)}
    for position in (5, -1):
        with pytest.raises(IndexError):
            pairs[position]


def test_json_and_text_go_together(tmp_path: Path) -> None:
    record = {"caption": "one", "text": "long one", "keywords": ["k", "l"], "licence": "CC0"}
    members = [("a.png", picture(1)), ("a.json", json.dumps(record).encode()), ("a.txt", b"two\n")]
    sample = Shards([write_tar(tmp_path / "s.tar", members)])[0]
    assert sample.captions == {"short": ("one", "two"), "long": ("long one",), "alt": ("k, l",)}
    assert sample.meta == {"licence": "CC0"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.txt", b"x")], "no-picture"),
        ([("a.png", picture(1))], "no-caption"),
        ([("a.png", picture(1)), ("a.txt", b" \n")], "no-caption"),
        ([("a.png", picture(1)), ("a.txt", b"\xff\xfe")], "not-utf8"),
        ([("a.png", picture(1)), ("a.json", b"{")], "bad-json"),
        ([("a.png", picture(1)), ("a.json", b"[1]")], "bad-json"),
        ([("a.png", picture(1)), ("a.json", b"[" * 100_000)], "bad-json"),
        ([("a.png", picture(1)), ("a.json", b'{"caption": 3}')], "bad-caption"),
        ([("a.png", picture(1)), ("a.json", b'{"caption": "\\ud83d"}')], "not-utf8"),
        ([("a.png", picture(1)), ("a.txt", b"x" * (2**20 + 1))], "bytes"),
        ([("a.png", picture(1)[:-26]), ("a.txt", b"x")], "truncated"),
        ([("a.png", b"<html>"), ("a.txt", b"x")], "format"),
        ([("a.png", b""), ("a.txt", b"x")], "empty"),
    ],
)
def test_a_bad_sample_is_named_by_reason(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    pairs = Shards([write_tar(tmp_path / "s.tar", [*members, ("b.png", picture(2)), ("b.txt", b"fine")])])
    with pytest.raises(BadSample) as caught:
        pairs[0]
    assert (caught.value.key, caught.value.reason) == ("a", reason)
    assert "'a'" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason
    assert value(pairs[1]) == 2


def test_a_picture_over_the_limit_is_not_read(tmp_path: Path) -> None:
    pairs = Shards(shards(tmp_path), limits=ImageLimits(bytes=10))
    with pytest.raises(BadSample, match="over 10 bytes"):
        pairs[0]


def test_a_damaged_shard_is_refused_by_name(tmp_path: Path) -> None:
    paths = shards(tmp_path)
    os.truncate(paths[1], 1540)
    with pytest.raises(
        PinxitError, match=r"Shard .*1\.tar is damaged \(truncated-shard\): it is cut inside '003\.txt'"
    ):
        Shards(paths)


def test_a_shard_that_shrinks_while_open_is_noticed(tmp_path: Path) -> None:
    paths = shards(tmp_path)
    pairs = Shards(paths)
    os.truncate(paths[0], 600)
    with pytest.raises(BadSample, match="it changed after it was opened"):
        pairs[2]


def test_refused_members_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [("../x.png", b"1"), ("a.png", picture(1)), ("a.txt", b"x"), ("a.pkl", b"x")]
    pairs = Shards([write_tar(tmp_path / "s.tar", members)])
    assert len(pairs) == 1
    assert "Never read 2 tar members (unsafe-name 1, pickle 1), such as '../x.png'" in caplog.text


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert Shards(shards(first)).fingerprint == Shards(shards(second)).fingerprint
    assert Shards(shards(first, (3, 3))).fingerprint != Shards(shards(second)).fingerprint


def test_nothing_is_extracted(tmp_path: Path) -> None:
    pairs = Shards(shards(tmp_path))
    [pairs[i] for i in range(5)]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json", ".tar", ".tar"]


def test_many_shards_need_few_descriptors(tmp_path: Path) -> None:
    pairs = Shards(shards(tmp_path, (1,) * 100))
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [value(pairs[i]) for i in range(100)] == list(range(100))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64
    assert value(pairs[0]) == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_source_travels_to_other_processes(tmp_path: Path, method: str) -> None:
    pairs = Shards(shards(tmp_path))
    pairs[0]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert pool.submit(Shards.picture_bytes, pairs, 3).result(60) == picture(3)
    assert value(pairs[4]) == 4


def brightness(sample: Sample, _: np.random.Generator) -> dict[str, Any]:
    return {"value": value(sample), "caption": sample.captions["short"][0]}


def test_workers_read_shards(tmp_path: Path) -> None:
    batches = iter(Loader(Shards(shards(tmp_path)), batch_size=5, transform=brightness, seed=0, workers=2))
    for _ in range(2):
        batch = next(batches)
        assert sorted(batch["value"].tolist()) == [0, 1, 2, 3, 4]
        assert sorted(batch["caption"]) == [f"number {i}" for i in range(5)]


@needs_emoji
def test_the_emoji_set_reads_as_its_page_says() -> None:
    pairs = Shards(sorted((DATA / "emoji-validation").glob("*.tar")))
    assert len(pairs) == 1414
    samples = [pairs[i] for i in range(0, 1414, 50)]
    assert all(sample.image.size == (128, 128) for sample in samples)
    assert all(set(sample.captions) == {"alt", "short", "long"} for sample in samples)
    assert all(sample.meta["style"] in sample.key for sample in samples)
    corners = [sample.image.getpixel((0, 0)) for sample in samples]
    assert corners.count((255, 255, 255)) > len(corners) / 2  # transparency lies on white, not black
