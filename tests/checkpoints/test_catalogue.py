"""Names lead to folders, and wrong ones say what would."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from pinxit import PinxitError
from pinxit.checkpoints import catalogue


def test_a_folder_is_found_by_its_path(painter: Path) -> None:
    assert catalogue.find(painter) == catalogue.Found("painter", painter)


def test_a_training_folder_leads_to_its_finished_model(painter: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    painter.rename(out / "model")
    assert catalogue.find(str(out)) == catalogue.Found("run", out / "model")


@pytest.mark.parametrize("stage", ["", "base"])
def test_a_run_that_is_not_finished_says_so(stage: str, tmp_path: Path) -> None:
    (tmp_path / stage).mkdir(exist_ok=True)
    (tmp_path / stage / "recipe.json").write_text("{}")
    with pytest.raises(PinxitError, match="is a training run that is not finished"):
        catalogue.find(tmp_path)


def test_shipped_names_win(painter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(catalogue, "SHIPPED", painter.parent)
    (tmp_path / "here" / "painter").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert catalogue.find("painter").folder == painter


def test_a_misspelt_name_gets_the_nearest(painter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SHIPPED", painter.parent)
    with pytest.raises(PinxitError, match=r"no model 'paintr'. Did you mean 'painter'\?.*hf:owner/name"):
        catalogue.find("paintr")


def test_a_folder_without_a_checkpoint_points_to_those_below(painter: Path) -> None:
    with pytest.raises(
        PinxitError, match=r"neither config.json nor model/config.json. Checkpoints below it: .*painter"
    ):
        catalogue.find(painter.parent)


@pytest.mark.parametrize("address", ["hf:", "hf:a/b/c", "hf:a b/c", "hf:../../etc"])
def test_malformed_hub_addresses_are_refused(address: str) -> None:
    with pytest.raises(PinxitError, match="no address on the hub"):
        catalogue.find(address)


def test_without_the_hub_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PinxitError, match="'nobody/nothing' is not on this machine and the hub cannot be reached"):
        catalogue.find("hf:nobody/nothing@v1")


def test_what_the_package_ships_is_whole() -> None:
    for name, folder in catalogue.shipped().items():
        assert catalogue.find(name) == catalogue.Found(name, folder)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        assert sum(sizes) <= 28e6
        assert max(sizes) <= 15 * 2**20
        assert (folder / "README.md").is_file()
        assert not [path for path in folder.rglob("*") if path.suffix in {".pt", ".pth", ".bin", ".ckpt", ".pkl"}]
