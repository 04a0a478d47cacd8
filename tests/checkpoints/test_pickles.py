import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pinxit.checkpoints.pickles import StandIn, _is_program, read_pickle, read_tensors, tensors_of
from pinxit.errors import PinxitError


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.act = torch.relu


class Bomb:
    """Whoever unpickles it as pickles are meant to be makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.makedirs, (str(self.mark), 0o777, True)


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_the_tensors_of_a_whole_module_are_read_without_its_class(tmp_path: Path, archive: bool) -> None:
    network = Network()
    torch.save(network, tmp_path / "network.pkl", _use_new_zipfile_serialization=archive)
    held = read_pickle(tmp_path / "network.pkl")
    assert isinstance(held, StandIn)
    found = tensors_of(held)
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_nothing_that_a_pickle_asks_for_is_done(tmp_path: Path, archive: bool) -> None:
    mark = tmp_path / "mark"
    state = {"w": torch.ones(2)}
    checkpoint = {"state_dict": state, "callbacks": {Network: Bomb(mark)}, "more": [Bomb(mark), {1, 2}]}
    torch.save(checkpoint, tmp_path / "bomb.ckpt", _use_new_zipfile_serialization=archive)
    assert torch.equal(tensors_of(read_pickle(tmp_path / "bomb.ckpt"))["w"], torch.ones(2))
    assert not mark.exists()
    torch.load(tmp_path / "bomb.ckpt", weights_only=False)  # the bomb is live
    assert mark.exists()


@pytest.mark.parametrize(
    "wrapped", [lambda state: state, lambda state: {"state_dict": state}, lambda state: {"model": state, "epoch": 3}]
)
def test_state_dicts_are_found_where_trainers_put_them(tmp_path: Path, wrapped: Callable[[Any], Any]) -> None:
    state = Network().state_dict()
    torch.save(wrapped(state), tmp_path / "a.pt")
    assert tensors_of(read_pickle(tmp_path / "a.pt")).keys() == state.keys()


def test_what_is_no_pickle_of_torch_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    with (tmp_path / "plain.ckpt").open("wb") as file:
        pickle.dump(Bomb(tmp_path / "mark"), file)
    (tmp_path / "empty.ckpt").touch()
    for name in ("text", "plain", "empty"):
        with pytest.raises(PinxitError, match=rf"{name}.ckpt cannot be read as what torch writes"):
            read_pickle(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "mark").exists()


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_values_of_a_program_are_read_and_its_code_is_not(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.LayerNorm(3)), nn.BatchNorm1d(3)).half().eval()
    torch.jit.trace(network, torch.randn(4, 2).half()).save(tmp_path / "script.pt")  # type: ignore[no-untyped-call]
    found = read_tensors(tmp_path / "script.pt")
    wanted = network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    with zipfile.ZipFile(tmp_path / "broken.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"script/{name}", "3\n")
    with pytest.raises(PinxitError, match=r"broken\.pt cannot be read"):
        read_pickle(tmp_path / "broken.pt")


def test_a_program_that_hides_from_other_readers_is_known_by_torchs_own(tmp_path: Path) -> None:
    """Two directories of the archive: Python reads the one just before the end, torch the one at the told offset."""
    file = tmp_path / "hidden.pt"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"script/{name}", "3\n")
    data = file.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    crafted = data[:end] + data[start:end].replace(b"constants.pkl", b"innocents.pkl") + data[end:]
    file.write_bytes(crafted)
    assert "script/constants.pkl" not in zipfile.ZipFile(file).namelist()
    with pytest.raises(PinxitError, match=r"hidden\.pt cannot be read"):
        read_pickle(file)
    assert _is_program(file), "torch's own loader would run it"


def a_program(file: Path, values: bytes, **memory: bytes) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, told in {"data.pkl": values, "constants.pkl": b"3\n", "version": b"3\n"}.items():
            archive.writestr(f"script/{name}", told)
        for name, told in memory.items():
            archive.writestr(f"script/data/{name}", told)
    return file


class Claim:
    """Unpickled, a tensor of a thousand numbers over memory that has none."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (Memory(), 0, (1000,), (1,), False, {})


class Memory:
    """What a pickler keeps beside the pickle."""


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "m", "cpu", 1000) if isinstance(value, Memory) else None


def test_a_hostile_program_does_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    read_pickle(a_program(tmp_path / "bomb.pt", pickle.dumps({"w": Bomb(mark)}, 2)))
    assert not mark.exists()
    values = io.BytesIO()
    Pickler(values, 2).dump({"w": Claim()})
    with pytest.raises(PinxitError, match="claims 1000 numbers, more than there are"):
        read_tensors(a_program(tmp_path / "claim.pt", values.getvalue(), m=b""))
    assert read_tensors(a_program(tmp_path / "held.pt", values.getvalue(), m=bytes(4000)))["w"].shape == (1000,)


def test_modules_that_are_shared_over_and_over_end(tmp_path: Path) -> None:
    at = nn.Module()
    for _ in range(40):
        above = nn.Module()
        above.one, above.other = at, at
        at = above
    torch.save(at, tmp_path / "shared.pt")
    with pytest.raises(PinxitError, match="more than 100000 modules"):
        read_tensors(tmp_path / "shared.pt")


def test_a_tensor_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(100_000, 100_000)}, tmp_path / "large.pt")
    with pytest.raises(PinxitError, match="a tensor claims 10000000000 numbers, more than there are"):
        read_tensors(tmp_path / "large.pt")


def test_a_module_that_contains_itself_ends(tmp_path: Path) -> None:
    network = Network()
    network._modules["self"] = network
    torch.save(network, tmp_path / "loop.pt")
    with pytest.raises(PinxitError, match="contains itself"):
        read_tensors(tmp_path / "loop.pt")


class Patch:
    """Unpickled, it writes into what the pickle may call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (), (None, {"__defaults__": (1,)})


def test_what_may_be_called_cannot_be_written_into(tmp_path: Path) -> None:
    before = torch._utils._rebuild_tensor_v2.__defaults__
    torch.save({"x": Patch()}, tmp_path / "patch.pt")
    with pytest.raises(PinxitError, match="cannot be read"):
        read_pickle(tmp_path / "patch.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
