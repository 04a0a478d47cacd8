from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.systems.tiny import make_clip, make_codec, make_dalle1, make_tokenizer, save_codec, save_dalle1

import pinxit
from pinxit.data.images import fit, to_pil, to_tensor
from pinxit.data.scenes import Scenes
from pinxit.errors import PinxitError
from pinxit.systems.codec import Codec
from pinxit.systems.encoder import load_encoder


@pytest.fixture(scope="module")
def codec() -> Codec:
    return make_codec()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    scenes = Scenes(5, size=48)
    return [scenes[i].image for i in range(5)]


def test_pictures_become_codes_as_the_network_has_them(codec: Codec, pictures: list[Image.Image]) -> None:
    ids = codec.encode(pictures)
    assert (ids.shape, ids.dtype) == ((5, *codec.grid), torch.int64)
    pixels = torch.stack([to_tensor(fit(picture, 32)) for picture in pictures])
    assert (ids == codec.autoencoder.encode(pixels)).all()
    assert (codec.encode(pictures[2]) == ids[2:3]).all()


def test_codes_become_pictures_in_the_codecs_size(codec: Codec, pictures: list[Image.Image]) -> None:
    ids = codec.encode(pictures)
    made = codec.decode(ids)
    assert [picture.size for picture in made] == [(32, 32)] * 5
    assert made[1].tobytes() == to_pil(codec.autoencoder.decode(ids[1:2])[0]).tobytes()
    assert [a.tobytes() for a in codec.reconstruct(pictures)] == [b.tobytes() for b in made]
    assert len({picture.tobytes() for picture in made}) > 1


def test_pictures_that_are_not_square_are_cropped(codec: Codec) -> None:
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste("blue", (32, 0, 64, 32))
    assert (codec.encode(wide) == codec.encode(Image.new("RGB", (32, 32), "blue"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "CMYK"])
def test_pictures_of_every_mode_have_the_codes_of_what_they_show(codec: Codec, mode: str) -> None:
    shown = Image.new("RGB", (48, 32), "white")
    shown.paste("black", (0, 0, 24, 32))
    assert (codec.encode(shown.convert(mode)) == codec.encode(shown)).all()
    assert codec.reconstruct(shown.convert(mode))[0].tobytes() == codec.reconstruct(shown)[0].tobytes()


def test_what_is_transparent_is_encoded_as_white(codec: Codec) -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (codec.encode(clear) == codec.encode(Image.new("RGB", (32, 32), "white"))).all()


@pytest.mark.parametrize(
    "codes",
    [torch.zeros(4, 4, dtype=torch.int64), torch.zeros(1, 4, 4), torch.full((1, 4, 4), 64), torch.full((1, 4, 4), -1)],
)
def test_what_are_no_codes_is_refused(codec: Codec, codes: torch.Tensor) -> None:
    with pytest.raises(PinxitError, match="cannot be decoded: give integers b h w from 0 to 63"):
        codec.decode(codes)


def test_a_codec_loads_also_in_half_precision(codec: Codec, pictures: list[Image.Image], tmp_path: Path) -> None:
    loaded = pinxit.load(save_codec(codec, tmp_path / "mine"), device="cpu")
    assert isinstance(loaded, Codec)
    assert (loaded.name, loaded.fingerprint) == ("mine", codec.fingerprint)
    assert (loaded.encode(pictures) == codec.encode(pictures)).all()
    half = load_encoder(save_codec(codec, tmp_path / "half", torch.float16), "cpu")
    assert next(half.network.parameters()).dtype == torch.float32
    assert (half.encode(pictures) == codec.encode(pictures)).float().mean() > 0.9
    with pytest.raises(PinxitError, match=r"mine \(kind dvae\) cannot generate\. Systems that can: adm, dalle1"):
        loaded.generate("a red star")


def test_the_codec_of_a_larger_system_is_found_inside_it(tmp_path: Path) -> None:
    system = make_dalle1()
    inner = load_encoder(save_dalle1(system, tmp_path / "whole"), "cpu")
    assert (inner.name, inner.fingerprint) == ("whole", system.codec.fingerprint)
    with pytest.raises(PinxitError, match="transformer is of kind token_transformer and has no codec in it"):
        load_encoder(tmp_path / "whole" / "transformer", "cpu")


def test_other_weights_have_another_fingerprint(codec: Codec) -> None:
    assert make_codec(seed=5).fingerprint != codec.fingerprint == make_codec().fingerprint


def test_in_bfloat16_pictures_are_nearly_the_same(codec: Codec) -> None:
    quick = make_codec()
    quick.quicken(bf16=True)
    images = [Scenes(4, size=32)[i].image for i in range(4)]
    codes = codec.encode(images)
    assert (quick.encode(images) == codes).float().mean() > 0.9
    plain, rounded = (torch.stack([to_tensor(image) for image in one.decode(codes)]) for one in (codec, quick))
    assert not torch.equal(plain, rounded)
    torch.testing.assert_close(plain, rounded, atol=0.1, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_codecs_tell_the_same(codec: Codec) -> None:
    quick = make_codec()
    quick.quicken(compile=True)
    images = [Scenes(4, size=32)[i].image for i in range(4)]
    codes = codec.encode(images)
    assert torch.equal(quick.encode(images), codes)
    for a, b in zip(codec.decode(codes), quick.decode(codes), strict=True):
        torch.testing.assert_close(to_tensor(a), to_tensor(b), atol=0.01, rtol=0)


def test_what_cannot_be_quickened_says_so() -> None:
    with pytest.raises(PinxitError, match="clip computes in float32, as it is"):
        make_clip(make_tokenizer()).quicken(bf16=True)
