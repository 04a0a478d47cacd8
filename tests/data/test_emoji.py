from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from pinxit.data.emoji import INSTALL, Emoji, EmojiFont, Named, choose_tones, find_font, named_emoji, unicode_folder
from pinxit.data.packing import pack_emoji
from pinxit.data.pairs import open_pairs
from pinxit.data.shards import Shards
from pinxit.errors import PinxitError

DATA = Path(__file__).resolve().parents[3] / "shared/data"


def installed() -> bool:
    try:
        return bool(find_font() and unicode_folder())
    except PinxitError:
        return False


needs_font = pytest.mark.skipif(not installed(), reason=f"needs a colour emoji font and Unicode's data. {INSTALL}")


def named(emoji: str) -> Named:
    return Named(emoji, "", (), "", "")


def points(text: str) -> tuple[int, ...]:
    return tuple(int(point, 16) for point in text.split("-"))


@pytest.mark.parametrize(
    ("emoji", "base", "family"),
    [
        ("🐯", "1f42f", "1f42f"),
        ("❤️", "2764", "2764"),
        ("👩🏽‍🚀", "1f469-200d-1f680", "1f9d1-200d-1f680"),
        ("🧚🏻‍♀️", "1f9da-200d-2640", "1f9da"),
        ("🏃‍➡️", "1f3c3-200d-27a1", "1f3c3"),
        ("👦🏿", "1f466", "1f9d2"),
        ("⬅️", "2b05", "2b05"),
        ("♀️", "2640", "2640"),
        ("🇨🇮", "1f1e8-1f1ee", "1f1e8-1f1ee"),
    ],
)
def test_base_and_family(emoji: str, base: str, family: str) -> None:
    assert (named(emoji).base, named(emoji).family) == (points(base), points(family))


def test_two_of_five_tones_are_kept_and_no_mixed_ones() -> None:
    tones = [named(f"👋{chr(tone)}") for tone in range(0x1F3FB, 0x1F400)]
    mixed = named("👩🏽‍🤝‍👨🏿")
    kept = choose_tones([named("👋"), *tones, mixed])
    assert len(kept) == 3
    assert mixed not in kept
    assert kept == choose_tones([named("👋"), mixed, *reversed(tones)])


def test_names_groups_and_keywords_are_read(tmp_path: Path) -> None:
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji/emoji-test.txt").write_text(
        "# group: Animals & Nature\n# subgroup: animal-mammal\n"
        "1F42F ; fully-qualified     # 🐯 E0.6 tiger face\n"
        "2764 ; unqualified         # ❤ E0.6 red heart\n"
        "1F1E8 1F1EE ; fully-qualified     # 🇨🇮 E2.0 flag: Côte d’Ivoire\n"
    )
    assert named_emoji(tmp_path) == [
        Named("🐯", "tiger face", (), "animals & nature", "animal mammal"),
        Named("🇨🇮", "flag: Côte d’Ivoire", (), "animals & nature", "animal mammal"),
    ]
    (tmp_path / "cldr/common/annotations").mkdir(parents=True)
    (tmp_path / "cldr/common/annotations/en.xml").write_text(
        '<ldml><annotations><annotation cp="🐯">face | tiger</annotation>'
        '<annotation cp="🐯" type="tts">tiger face</annotation></annotations></ldml>'
    )
    assert named_emoji(tmp_path)[0].keywords == ("face", "tiger")


def test_what_is_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    with pytest.raises(PinxitError, match="apt-get install fonts-noto-color-emoji unicode-data"):
        unicode_folder()
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(PinxitError, match="has no colour bitmaps"):
        EmojiFont(tmp_path / "no.ttf")


def test_no_font_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("pinxit.data.emoji._FONT_FOLDERS", ())
    with pytest.raises(PinxitError, match="No colour emoji font is installed"):
        find_font()


@needs_font
def test_the_source_draws_what_it_names() -> None:
    pairs = open_pairs("emoji", size=64, background=(1, 2, 3))
    assert isinstance(pairs, Emoji)
    assert len(pairs) > 2000
    at = {pairs.record(i)["emoji"]: i for i in range(len(pairs))}
    heart = pairs[at["❤️"]]
    assert heart.captions["short"] == ("red heart",)
    assert heart.meta["group"] == "smileys & emotion"
    assert heart.image.size == (64, 64)
    red, green, blue = heart.image.getpixel((32, 32))  # type: ignore[misc]
    assert red > 200
    assert max(green, blue) < 100
    assert heart.image.getpixel((0, 0)) == (1, 2, 3)
    assert pairs.captions_at(at["❤️"]) == heart.captions
    assert pairs.meta_at(at["❤️"]) == heart.meta
    assert "🇨🇮" in at
    assert len({pairs.record(i)["key"] for i in range(len(pairs))}) == len(pairs)


@needs_font
def test_a_font_knows_what_it_lacks() -> None:
    font = EmojiFont()
    assert font.has("🐯")
    assert font.has("👩🏽‍🚀")
    assert not font.has("x")
    assert not font.has("🐯🐯")


@needs_font
def test_the_set_is_the_same_each_time_and_travels() -> None:
    first, second = Emoji(32), Emoji(32)
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != Emoji(64).fingerprint
    assert first[7].image.tobytes() == second[7].image.tobytes()
    assert pickle.loads(pickle.dumps(first))[7].image.tobytes() == first[7].image.tobytes()


@needs_font
def test_it_packs_as_transparent_png_with_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emoji = Emoji(32)
    monkeypatch.setattr(emoji, "_named", emoji._named[:20])
    assert pack_emoji(emoji, tmp_path / "out", per_shard=15) == 20
    shards = Shards(sorted((tmp_path / "out").glob("*.tar")))
    assert [shards[i].key for i in range(20)] == [emoji.record(i)["key"] for i in range(20)]
    for i in range(20):
        before, after = emoji[i], shards[i]
        assert (after.captions, after.meta) == (before.captions, before.meta)
        assert np.abs(np.asarray(after.image).astype(int) - np.asarray(before.image)).max() <= 1


@needs_font
@pytest.mark.skipif(not (DATA / "emoji-validation").is_dir(), reason="needs the emoji set in ../shared/data")
def test_it_agrees_with_the_emoji_set() -> None:
    theirs = Shards(sorted((DATA / "emoji-validation").glob("*.tar")))
    ours = Emoji(128)
    at = {ours.record(i)["codepoints"]: i for i in range(len(ours))}
    compared = 0
    for i in range(len(theirs)):
        if theirs.meta_at(i)["style"] != "noto":
            continue
        sample = theirs[i]
        if sample.meta["codepoints"] not in at:
            continue
        record = ours.record(at[sample.meta["codepoints"]])
        assert set(record) == {*sample.meta, "caption", "text", "keywords"}
        assert record["base"] == sample.meta["base"]
        assert json.dumps(record)
        difference = np.asarray(sample.image).astype(int) - np.asarray(ours[at[record["codepoints"]]].image)
        compared += bool(np.abs(difference).mean() < 6)
    assert compared > 150  # the rest was redrawn in another version of the font
