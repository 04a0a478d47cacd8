import json
import os
import resource
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pinxit.checkpoints.files import (
    from_config,
    load_network,
    read_config,
    read_tensors,
    replace_folder,
    save_checkpoint,
    to_config,
)
from pinxit.errors import PinxitError


def network(width: int = 4) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


def saved(folder: Path, **kwargs: object) -> Path:
    save_checkpoint(folder, {"kind": "toy", "model": {"width": 4}}, {"net": network()}, **kwargs)  # type: ignore[arg-type]
    return folder


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_round_trip(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", tokenizer='{"a": 1}', card="# A card\n")
    assert read_config(folder)["model"] == {"width": 4}
    assert read_config(folder)["pinxit"]
    assert json.loads((folder / "tokenizer.json").read_text()) == {"a": 1}
    assert (folder / "README.md").read_text() == "# A card\n"
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_network(folder, "net", fresh)
    assert same(fresh, network())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_files_are_readable_by_those_who_may_read_the_folder(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    modes = {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
    (tmp_path / "plain").write_text("")
    assert modes == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}


def test_half_precision_is_cast_on_the_way_in(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", dtype=torch.float16)
    tensors = read_tensors(folder, "net")
    assert tensors["0.weight"].dtype == torch.float16
    assert tensors["1.num_batches_tracked"].dtype == torch.int64
    fresh = network()
    load_network(folder, "net", fresh)
    assert fresh.state_dict()["0.weight"].dtype == torch.float32
    assert torch.equal(fresh.state_dict()["0.weight"], network().state_dict()["0.weight"].half().float())


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    first = nn.Linear(3, 3, bias=False)
    second = nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    save_checkpoint(tmp_path / "m", {"kind": "toy"}, {"net": nn.Sequential(first, second)})
    load_network(tmp_path / "m", "net", nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)))


def test_replaces_an_older_one(tmp_path: Path) -> None:
    saved(tmp_path / "m", tokenizer="{}")
    save_checkpoint(tmp_path / "m", {"kind": "other"}, {"net": network(5)})
    assert read_config(tmp_path / "m")["kind"] == "other"
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "net.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_crash_around_the_renames_leaves_a_loadable_one(tmp_path: Path, moment: str) -> None:
    """The three states in which a replacement can be cut, made by hand."""
    saved(tmp_path / "m")
    if moment == "before":
        (tmp_path / ".m.partial").mkdir()
        (tmp_path / ".m.partial" / "config.json").write_text("{")
    elif moment == "between":
        (tmp_path / "m").rename(tmp_path / ".m.replaced")
        saved(tmp_path / "x").rename(tmp_path / ".m.partial")
    else:
        saved(tmp_path / "x").rename(tmp_path / ".m.replaced")
    assert read_config(tmp_path / "m")["kind"] == "toy"
    load_network(tmp_path / "m", "net", network())
    save_checkpoint(tmp_path / "m", {"kind": "next"}, {"net": network()})
    assert read_config(tmp_path / "m")["kind"] == "next"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_an_error_while_writing_keeps_the_earlier_one(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    with pytest.raises(RuntimeError), replace_folder(tmp_path / "m") as partial:  # noqa: PT012
        (partial / "config.json").write_text("{")
        raise RuntimeError
    assert read_config(tmp_path / "m")["kind"] == "toy"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_a_file_that_cannot_be_read_meanwhile_is_no_lack_of_space(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match=r"No such file.*absent") as caught, replace_folder(tmp_path / "m"):
        (tmp_path / "absent").read_bytes()
    assert "space" not in str(caught.value)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files stop growing at 10 kB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_full_disk_keeps_the_earlier_one(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    with pytest.raises(PinxitError, match=r"Could not write .*m: .*The earlier one is kept\. Free some space"):
        save_checkpoint(tmp_path / "m", {"kind": "big"}, {"net": nn.Linear(100, 100)})
    assert read_config(tmp_path / "m")["kind"] == "toy"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_nan_is_not_saved(tmp_path: Path) -> None:
    broken = network()
    with torch.no_grad():
        next(broken.parameters())[0, 0] = float("nan")
    with pytest.raises(PinxitError, match=r"net: tensor '0\.weight' holds NaN"):
        save_checkpoint(tmp_path / "m", {"kind": "toy"}, {"net": broken})
    assert not (tmp_path / "m").exists()


def test_config_needs_a_kind(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match="kind"):
        save_checkpoint(tmp_path / "m", {}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"is no checkpoint: it has no config\.json"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "names no 'kind'"),
        ('{"kind": "toy"}', "names no 'format'"),
        ('{"kind": "toy", "format": 99, "pinxit": "9.0"}', r"written by pinxit 9\.0, which is newer"),
    ],
)
def test_what_is_no_config(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(PinxitError, match=message):
        read_config(tmp_path)


def test_a_pickle_is_named_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(PinxitError, match=r"pytorch_model\.bin is a pickle"):
        read_config(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("evil",)


def header(entries: Mapping[str, object]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def pickled(_: bytes) -> bytes:
    import pickle

    return pickle.dumps(Evil())


TWO = {
    "0.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "0.bias": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
}
LIE = {"0.weight": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: data[:4], id="torn header length"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda data: data + b"x", id="trailing bytes"),
        pytest.param(lambda data: (2**62).to_bytes(8, "little") + data[8:], id="huge header"),
        pytest.param(lambda _: header(TWO) + bytes(12), id="overlap"),
        pytest.param(lambda _: header(LIE) + bytes(8), id="shape lie"),
        pytest.param(lambda _: header({"0.weight": 3}), id="malformed header"),
        pytest.param(pickled, id="renamed pickle"),
    ],
)
def test_damaged_weights_give_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = saved(tmp_path / "m") / "net.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(PinxitError, match=r"net\.safetensors is damaged or no safetensors file"):
        load_network(tmp_path / "m", "net", network())
    assert not (tmp_path / "evil").exists()


def test_missing_network_lists_those_there_are(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    with pytest.raises(PinxitError, match=r"has no decoder\.safetensors\. Networks it holds: net\."):
        load_network(tmp_path / "m", "decoder", network())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": None}, "'0.bias' is missing"),
        ({"9.bias": torch.zeros(1)}, "'9.bias' is unknown"),
        ({"0.bias": torch.zeros(7)}, r"'0.bias' has shape \[7\], not \[4\]"),
        ({"0.bias": torch.zeros(4, dtype=torch.int64)}, r"'0.bias' is torch\.int64, not torch\.float32"),
        ({"0.bias": torch.full((4,), torch.nan)}, "'0.bias' holds NaN or Inf"),
        ({"0.bias": torch.full((4,), -torch.inf)}, "'0.bias' holds NaN or Inf"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    folder = saved(tmp_path / "m")
    tensors = {**network().state_dict(), **change}
    save_file({key: value for key, value in tensors.items() if value is not None}, folder / "net.safetensors")
    module = network(4)
    with torch.no_grad():
        module[0].weight.fill_(7)  # type: ignore[index]
    with pytest.raises(PinxitError, match=message):
        load_network(folder, "net", module)
    assert bool((module[0].weight == 7).all())  # type: ignore[index]


@dataclass(frozen=True)
class Inner:
    depth: int
    masks: tuple[str, ...] = ("row",)


@dataclass(frozen=True)
class Like:
    depth: int = 1
    spread: float = 0.0


@dataclass(frozen=True)
class Outer:
    width: int
    inner: Inner
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    size: tuple[int, int] | None = None
    other: Inner | None = None
    weights: dict[str, float] = field(default_factory=dict)
    either: Inner | Like = Like()


def test_config_round_trip() -> None:
    config = Outer(3, Inner(2, ("row", "full")), 0.5, "b", (4, 5), Inner(1), {"alt": 0.5}, Inner(3))
    held = json.loads(json.dumps(to_config(config)))
    assert from_config(Outer, held) == config
    assert from_config(Outer, {"width": 3, "inner": {"depth": 2}}) == Outer(3, Inner(2))
    like = Outer(3, Inner(2), either=Like(4, 0.5))
    assert from_config(Outer, json.loads(json.dumps(to_config(like)))) == like


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 1}, r"no setting of Outer 'widht'\. Did you mean 'width'\?"),
        ({"inner": {"depth": 1, "deph": 2}}, r"no setting of Inner 'inner\.deph'\. Did you mean 'inner\.depth'\?"),
        ({"other": {"depth": 1, "x": 2}}, r"no setting of Inner 'other\.x'"),
        ({"either": {"depth": 1, "x": 2}}, r"no setting of Inner 'either\.x'"),
        ({"inner": {}}, r"Outer: inner\.depth: .*required"),
        ({"width": "3"}, r"Outer: width: .*integer \(given: '3'\)"),
        ({"width": 3.5}, r"Outer: width"),
        ({"kind": "c"}, r"Outer: kind: .*'a' or 'b'"),
        ({"size": [1, 2, 3]}, r"Outer: size"),
        ({"inner": 3}, r"Outer: inner"),
    ],
)
def test_config_faults_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(PinxitError, match=message):
        from_config(Outer, {"width": 3, "inner": {"depth": 2}, **change})
