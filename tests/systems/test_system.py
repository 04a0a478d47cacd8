"""The contract of systems: finding them, their settings, and what they say when they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import pinxit
from pinxit import PinxitError
from pinxit.checkpoints.files import save_checkpoint
from pinxit.systems.picture import Picture
from pinxit.systems.system import KINDS, System, Unsupported, choose_device, grid, system_class


def test_load_names_the_system_after_its_folder(painter: Path) -> None:
    loaded = pinxit.load(painter, device="cpu")
    assert (loaded.kind, loaded.name) == ("painter", "painter")
    assert loaded.generate("a red apple", n=1)[0].model == "painter"


def test_picture_i_is_the_same_alone(painter: Path) -> None:
    loaded = pinxit.load(painter)
    together = loaded.generate("a red apple", n=3, seed=5)
    alone = loaded.generate("a red apple", n=1, seed=7)[0]
    assert [made.seed for made in together] == [5, 6, 7]
    assert together[2].image.tobytes() == alone.image.tobytes()


def test_what_is_asked_overrides_the_defaults(painter: Path) -> None:
    made = pinxit.load(painter).generate("x", n=1, guidance=2.5, temperature=None)  # type: ignore[arg-type]
    assert made[0].settings == {"guidance": 2.5, "temperature": 1.0, "top_k": None, "rerank": None}


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"n": 0}, "at least 1"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 2**32}, "out of range"),
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 1.5}, "top_k is 1.5; give a whole number"),
        ({"top_k": "x"}, "top_k is 'x'"),
        ({"rerank": "8"}, "rerank is '8' for 4 pictures"),
        ({"n": 1.5}, "1.5 pictures cannot be made"),
        ({"seed": 2**32 - 3}, f"give 0 to {2**32 - 4}, "),
        ({"seed": 2**32 - 8, "rerank": 9}, f"give 0 to {2**32 - 9}, "),
        ({"rerank": 3}, "rerank is 3 for 4 pictures"),
        ({"top_p": 0.5}, "painter does not take the setting 'top_p'. It takes: guidance, temperature, top_k, rerank"),
    ],
)
def test_settings_out_of_range_are_refused(painter: Path, asked: dict[str, Any], text: str) -> None:
    with pytest.raises(PinxitError, match=text):
        pinxit.load(painter).generate("x", **asked)


def test_the_last_seed_is_the_largest(painter: Path) -> None:
    assert pinxit.load(painter).generate("x", n=2, seed=2**32 - 2)[-1].seed == 2**32 - 1


def test_a_lacking_capability_names_those_who_have_it(painter: Path) -> None:
    loaded = pinxit.load(painter)
    with pytest.raises(Unsupported, match=r"painter \(kind painter\) cannot complete. Systems that can: dalle1, "):
        loaded.complete(Image.new("RGB", (8, 8)), "x")
    with pytest.raises(Unsupported, match=r"cannot encode image. Systems that can: clip\."):
        loaded.encode_image([])
    assert not hasattr(loaded, "classify")
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = loaded.colour


def test_parts_and_unknown_kinds_are_told(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "odd", {"kind": "dall"}, {"net": {"w": torch.ones(1)}})
    with pytest.raises(PinxitError, match=r"kind 'dall'.*Known: adm, clip, dalle1, .*dvae"):
        pinxit.load(tmp_path / "odd")


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_tells_the_truth(kind: str) -> None:
    found = system_class(kind)
    alone = [row.target for row in KINDS.values()].count(KINDS[kind].target) == 1
    assert found.kind == kind or not alone
    has = {
        name
        for row in KINDS.values()
        for name in row.can
        if getattr(found, name, None) is not getattr(System, name, None)
    }
    shared = {able for row in KINDS.values() if row.target == KINDS[kind].target for able in row.can}
    assert set(KINDS[kind].can) <= has == shared


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None).type in {"cpu", "cuda"}
    with pytest.raises(PinxitError, match="'toaster' is no device"):
        choose_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(PinxitError, match="no CUDA device"):
            choose_device("cuda")


def test_a_grid_remembers_its_pictures() -> None:
    row = [
        Picture(Image.new("RGB", (4, 4)), prompt, seed, "m", {"guidance": 2.0}) for prompt in "ab" for seed in (3, 4)
    ]
    whole = grid(row, columns=2)
    assert (whole.prompt, whole.seed, whole.model) == ("a | b", 3, "m")
    assert whole.settings == {"guidance": 2.0, "prompts": ["a", "a", "b", "b"], "columns": 2, "seeds": [3, 4, 3, 4]}
    assert grid(row[:3]).settings["columns"] == 2
    with pytest.raises(PinxitError, match="at least one"):
        grid([])
