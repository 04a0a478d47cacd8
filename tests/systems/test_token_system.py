"""What the kinds beyond DALL·E 1 add: other conditions, drawing in any order, and parts painted anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.systems.tiny import make_clip, make_codec, make_tokenizer, make_transformer

import pinxit
from pinxit.checkpoints.files import save_checkpoint, to_config
from pinxit.data.images import fit
from pinxit.data.scenes import Scenes
from pinxit.errors import PinxitError
from pinxit.models.token_transformer import TokenTransformer, TokenTransformerConfig
from pinxit.systems.conditions import EmbeddingCondition, LabelCondition, NoCondition, TextCondition
from pinxit.systems.system import Unsupported
from pinxit.systems.token_drawing import TokenDrawer
from pinxit.systems.token_system import TokenSystem

PROMPT = "a red star"


def made(config: TokenTransformerConfig) -> TokenTransformer:
    torch.manual_seed(1)
    network = TokenTransformer(config)
    for value in network.parameters():  # the condition must matter
        value.data += 0.15 * torch.randn_like(value)
    return network


def config_like(**settings: object) -> TokenTransformerConfig:
    tokenizer, codec = make_tokenizer(), make_codec()
    plain = make_transformer(tokenizer, codec).config
    return replace(plain, predicts_condition=False, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def maskgit() -> TokenSystem:
    tokenizer, config = make_tokenizer(), config_like(order="masked")
    drawer = TokenDrawer.ready(made(config), torch.device("cpu"))
    system = TokenSystem("maskgit", make_codec(), drawer, TextCondition(tokenizer, 16), make_clip(tokenizer))
    system.name = "tiny"
    return system


def save(system: TokenSystem, folder: Path, tokenizer: str | None = None, **said: object) -> Path:
    save_checkpoint(folder, {"kind": system.kind, "defaults": {"guidance": 1.5}}, {})
    codec = {"kind": "dvae", "config": to_config(system.codec.network.config)}
    save_checkpoint(folder / "codec", codec, {"dvae": system.codec.network})
    config = {"kind": "token_transformer", "config": to_config(system.prior.config), **said}
    save_checkpoint(folder / "transformer", config, {"transformer": system.prior}, tokenizer=tokenizer)
    return folder


def bytes_of(pictures: list[pinxit.Picture]) -> list[bytes]:
    return [picture.image.tobytes() for picture in pictures]


# MaskGIT


@pytest.mark.parametrize("settings", [{}, {"steps": 3}, {"guidance": 2.0}, {"steps": 1, "top_k": 5}])
def test_a_picture_of_a_batch_equals_the_same_made_alone(maskgit: TokenSystem, settings: dict[str, float]) -> None:
    together = maskgit.generate(PROMPT, 3, seed=4, **settings)  # type: ignore[arg-type]
    alone = maskgit.generate(PROMPT, 1, seed=5, **settings)  # type: ignore[arg-type]
    assert bytes_of(together)[1] == bytes_of(alone)[0]
    assert len(set(bytes_of(together))) == 3
    assert together[0].settings["steps"] == settings.get("steps", 12)


def test_the_network_is_asked_once_a_step(maskgit: TokenSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    forward = TokenTransformer.forward

    def count(self: TokenTransformer, *given: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        asked.append(len(given[0]))
        return forward(self, *given)

    monkeypatch.setattr(TokenTransformer, "forward", count)
    maskgit.generate(PROMPT, 2, steps=5, guidance=1.0)
    assert asked == [2] * 5
    maskgit.generate(PROMPT, 2, steps=5, guidance=2.0)
    assert asked[5:] == [4] * 5


def test_what_the_mask_leaves_black_stays_to_the_pixel(maskgit: TokenSystem) -> None:
    picture = Scenes(1, size=64)[0].image
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 20, 64))
    edited = maskgit.edit(picture, mask, PROMPT, 3, seed=1)
    before = fit(picture, 32)
    for one in edited:
        assert one.image.size == (32, 32)
        assert one.image.crop((10, 0, 32, 32)).tobytes() == before.crop((10, 0, 32, 32)).tobytes()
        assert one.image.crop((0, 0, 10, 32)).tobytes() != before.crop((0, 0, 10, 32)).tobytes()
    assert len(set(bytes_of(edited))) == 3


def test_codes_outside_of_the_mask_are_given(maskgit: TokenSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Scenes(1, size=32)[0].image
    mask = Image.new("L", (32, 32))
    mask.paste(255, (9, 9, 10, 10))  # one pixel of the code in the second row and column
    seen: list[torch.Tensor] = []
    draw = TokenDrawer.draw

    def remember(self: TokenDrawer, *given: object, **named: object) -> torch.Tensor:
        seen.append(named["known"])  # type: ignore[arg-type]
        return draw(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenDrawer, "draw", remember)
    maskgit.edit(picture, mask, PROMPT, 1)
    assert (~seen[0]).nonzero().flatten().tolist() == [5]


def test_masks_that_make_no_sense_are_told(maskgit: TokenSystem) -> None:
    picture = Image.new("RGB", (32, 32))
    with pytest.raises(PinxitError, match=r"mask has \(16, 16\) pixels, the picture \(32, 32\)"):
        maskgit.edit(picture, Image.new("L", (16, 16)), PROMPT)
    with pytest.raises(PinxitError, match="black all over"):
        maskgit.edit(picture, Image.new("L", (32, 32)), PROMPT)


def test_first_rows_are_kept(maskgit: TokenSystem) -> None:
    picture = Scenes(1, size=32)[0].image
    completed = maskgit.complete(picture, PROMPT, 2, keep_rows=2)
    codes = maskgit.encode(picture)
    known = torch.arange(16) < 8
    conditions, settings = maskgit.condition([PROMPT] * 2), maskgit.resolve(2, 0, {})
    drawn = maskgit.drawer.draw(conditions, [0, 1], settings, given=codes.flatten(1), known=known)
    assert (drawn[:, :2] == codes[:, :2]).all()
    assert bytes_of(completed) == [image.tobytes() for image in maskgit.decode(drawn)]


def test_a_saved_one_draws_the_same(maskgit: TokenSystem, tmp_path: Path) -> None:
    loaded = pinxit.load(save(maskgit, tmp_path / "mine", make_tokenizer().to_json()), "cpu")
    assert (loaded.kind, loaded.defaults["guidance"]) == ("maskgit", 1.5)
    same = maskgit.generate(PROMPT, 2, guidance=1.5)
    assert bytes_of(loaded.generate(PROMPT, 2)) == bytes_of(same)


# Taming's conditions


def taming(config: TokenTransformerConfig, **said: object) -> tuple[TokenSystem, dict[str, object]]:
    drawer = TokenDrawer.ready(made(config), torch.device("cpu"))
    return TokenSystem("taming", make_codec(), drawer, NoCondition(config.condition_length)), said


def test_without_a_condition_pictures_are_drawn_after_nothing(tmp_path: Path) -> None:
    system, _ = taming(config_like(condition_vocabulary=0, condition_length=1))
    loaded = pinxit.load(save(system, tmp_path / "mine"), "cpu")
    assert isinstance(loaded, TokenSystem)
    assert isinstance(loaded.condition, NoCondition)
    assert len(set(bytes_of(loaded.generate("", 3)))) == 3
    with pytest.raises(PinxitError, match=r"draws without a text\. Give an empty prompt"):
        loaded.generate("a cat")
    with pytest.raises(Unsupported, match=r"cannot edit. Systems that can: adm, dalle2, ddpm, glide, maskgit"):
        loaded.edit(Image.new("RGB", (8, 8)), Image.new("L", (8, 8)), "")


def test_classes_are_asked_for_by_name(tmp_path: Path) -> None:
    system, _ = taming(config_like(condition_vocabulary=2, condition_length=1))
    loaded = pinxit.load(save(system, tmp_path / "mine", labels=["cat", "dog"]), "cpu")
    assert isinstance(loaded, TokenSystem)
    assert isinstance(loaded.condition, LabelCondition)
    assert loaded.condition(["dog", "", "cat"]).tolist() == [[1], [2], [0]]
    assert (loaded.condition([""]) == loaded.prior.no_condition(1)).all()
    assert bytes_of(loaded.generate("cat", 1, guidance=2)) != bytes_of(loaded.generate("dog", 1, guidance=2))
    with pytest.raises(PinxitError, match=r"no class 'dg'.*dog"):
        loaded.generate("dg")


def test_an_embedding_of_the_text_stands_for_that_of_a_picture(tmp_path: Path) -> None:
    clip = make_clip(make_tokenizer())
    width = clip.clip.config.width
    system, _ = taming(config_like(condition_vocabulary=0, condition_length=2, condition_vector=width))
    folder = save(system, tmp_path / "mine")
    with pytest.raises(PinxitError, match="draws for embeddings of a CLIP, which is not there"):
        pinxit.load(folder, "cpu")
    config = {"kind": "clip", "config": to_config(clip.clip.config)}
    save_checkpoint(folder / "clip", config, {"clip": clip.clip}, tokenizer=clip.tokenizer.to_json())
    loaded = pinxit.load(folder, "cpu")
    assert isinstance(loaded, TokenSystem)
    assert isinstance(loaded.condition, EmbeddingCondition)
    torch.testing.assert_close(loaded.condition([PROMPT]), clip.encode_text(PROMPT))
    assert not loaded.condition([""]).any()
    assert bytes_of(loaded.generate(PROMPT, 1, seed=3)) != bytes_of(loaded.generate("a blue moon", 1, seed=3))
