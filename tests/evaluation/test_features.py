from pathlib import Path

import pytest
from tests.systems.tiny import make_codec, save_codec

from pinxit.checkpoints.files import save_checkpoint
from pinxit.errors import PinxitError
from pinxit.evaluation.features import load_eye
from pinxit.models.perceptual import LPIPS, CLIPDistance


def test_the_shipped_clip_looks_where_nobody_is_named() -> None:
    eye = load_eye()
    assert eye.name == "the CLIP of dalle1-emoji"
    assert isinstance(eye.distance, CLIPDistance)
    assert eye.distance.tower is eye.clip.clip.vision
    assert not any(value.requires_grad for value in eye.distance.parameters())


def test_lpips_looks_where_it_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lpips", {"kind": "lpips", "config": {}}, {"lpips": LPIPS()})
    eye = load_eye(tmp_path / "lpips")
    assert eye.name == "LPIPS (lpips)"
    assert isinstance(eye.distance, LPIPS)
    assert not any(value.requires_grad for value in eye.distance.parameters())


def test_what_cannot_look_is_told(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match="codec is of kind dvae and has no CLIP in it"):
        load_eye(save_codec(make_codec(), tmp_path / "codec"))
