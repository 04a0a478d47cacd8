import gzip
import json
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parity.mingpt import save_tokenizer
from tokenizers import ByteLevelBPETokenizer, pre_tokenizers

from pinxit.errors import PinxitError
from pinxit.text.tokenizer import (
    SMALLEST_VOCABULARY,
    ForeignTokenizer,
    Tokenizer,
    _words,
    frame,
    merge,
    pad_per_position,
    read_tokenizer,
)

COLOURS = ["red", "green", "blue", "yellow", "purple"]
THINGS = ["circle", "square", "star", "smiling cat", "Café", "girl's hat", "no. 42"]
CAPTIONS = [
    f"A {colour} {thing} above a {other} {thing}!" for colour in COLOURS for other in COLOURS for thing in THINGS
]
EMOJI = Path(__file__).resolve().parents[3] / "shared" / "data" / "emoji" / "000000.tar"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, 700)


def test_vocabulary_has_the_size_asked_when_the_captions_allow_it_and_tells_the_truth_when_not() -> None:
    assert Tokenizer.train(CAPTIONS, 550).vocab_size == 550
    assert SMALLEST_VOCABULARY < Tokenizer.train(CAPTIONS, 16_384).vocab_size < 700
    assert Tokenizer.train([], 16_384).vocab_size == SMALLEST_VOCABULARY


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(PinxitError, match=r"vocab_size is 100; .* need 514 at least"):
        Tokenizer.train(CAPTIONS, 100)


def test_start_and_end_are_the_two_last_ids_and_no_text_reaches_them(tokenizer: Tokenizer) -> None:
    assert (tokenizer.start_id, tokenizer.end_id) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)
    ids = tokenizer.encode_ids("<|startoftext|> a circle <|endoftext|>")
    assert max(ids) < tokenizer.start_id


def test_whole_words_of_the_captions_become_single_ids() -> None:
    tokenizer = Tokenizer.train(CAPTIONS, 2_000)
    assert len(tokenizer.encode_ids("a purple square above a yellow circle!")) == 8


def test_training_gives_the_same_file_whatever_the_order_or_the_process() -> None:
    here = Tokenizer.train(CAPTIONS, 550).to_json()
    assert Tokenizer.train(CAPTIONS[::-1], 550).to_json() == here
    script = "import sys, json; from pinxit.text.tokenizer import Tokenizer;"
    script += "sys.stdout.buffer.write(Tokenizer.train(json.load(sys.stdin), 550).to_json().encode())"
    there = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(CAPTIONS).encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "RAYON_NUM_THREADS": "3"},
    )
    assert there.stdout.decode() == here


def test_a_saved_tokenizer_encodes_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.to_json() == tokenizer.to_json()
    assert [again.encode_ids(text) for text in CAPTIONS] == [tokenizer.encode_ids(text) for text in CAPTIONS]


def test_files_that_are_no_tokenizer_get_one_clear_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match="cannot be read"):
        Tokenizer.load(tmp_path / "absent.json")
    with pytest.raises(PinxitError, match=r"no tokenizer\.json"):
        Tokenizer.from_json("{}")
    parts = json.loads(tokenizer.to_json())
    parts["model"]["end_of_word_suffix"] = None
    with pytest.raises(PinxitError, match="word ends"):
        Tokenizer.from_json(json.dumps(parts))
    parts = json.loads(tokenizer.to_json())
    parts["model"]["vocab"]["<|other|>"] = parts["model"]["vocab"].pop("<|endoftext|>")
    with pytest.raises(PinxitError, match="two last ids"):
        Tokenizer.from_json(json.dumps(parts))


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_up_to_case_and_white_space(text: str) -> None:
    tokenizer = _shared()
    lowered = tokenizer._library.normalizer.normalize_str(text)
    back = tokenizer.decode(tokenizer.encode_ids(text))
    assert "".join(back.split()) == "".join(lowered.split())


@given(st.text(alphabet=st.characters()))
@settings(max_examples=200, deadline=None)
def test_dropout_changes_the_split_and_never_the_text(text: str) -> None:
    tokenizer = _shared()
    dropped = tokenizer.encode_ids(text, dropout=0.5, rng=np.random.default_rng(0))
    assert tokenizer.decode(dropped) == tokenizer.decode(tokenizer.encode_ids(text))


def test_lone_surrogates_are_encoded_too(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode_ids("a \ud800 star")) == "a ? star"


def test_half_a_character_decodes_to_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode_ids("🦊")[:1]) == "\ufffd"


def test_merging_without_dropout_equals_the_library(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    letters = "abcdelprsu '.4é猫"
    noise = ["".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(3_000)]
    assert_merges_equal_the_library(tokenizer, CAPTIONS + noise)


@pytest.mark.skipif(not EMOJI.exists(), reason="needs the emoji captions in ../shared/data/emoji")
def test_merging_without_dropout_equals_the_library_on_real_captions() -> None:
    texts = []
    with tarfile.open(EMOJI) as shard:
        for member in shard:
            if member.name.endswith(".json"):
                fields = json.load(shard.extractfile(member))  # type: ignore[arg-type]
                texts += [fields["caption"], fields["text"], fields["emoji"], ", ".join(fields["keywords"])]
    assert len(texts) > 3_000
    assert_merges_equal_the_library(Tokenizer.train(texts, 16_384), texts)


def assert_merges_equal_the_library(tokenizer: Tokenizer, texts: list[str]) -> None:
    rng = random.Random(0)
    for text in texts:
        symbols = [s for word in _words(tokenizer._library, text) for s in merge(word, tokenizer._ranks, 0.0, rng)]
        assert [tokenizer._vocabulary[s] for s in symbols] == tokenizer.encode_ids(text), text


def test_dropout_is_a_function_of_its_seed(tokenizer: Tokenizer) -> None:
    text = "a purple square above a yellow smiling cat"
    splits = [tokenizer.encode_ids(text, 0.3, np.random.default_rng(seed)) for seed in range(20)]
    assert splits == [tokenizer.encode_ids(text, 0.3, np.random.default_rng(seed)) for seed in range(20)]
    assert len({tuple(split) for split in splits}) > 5


def test_dropout_of_one_leaves_single_bytes(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode_ids("purple café", 1.0, np.random.default_rng(0))) == len("purplecafé".encode())


def test_a_pair_survives_one_merge_as_often_as_the_probability_says() -> None:
    ranks = {("a", "b</w>"): 0}
    rng = random.Random(0)
    merged = sum(merge("ab", ranks, 0.1, rng) == ["ab</w>"] for _ in range(10_000))
    assert 8_850 < merged < 9_150


def test_dropout_without_an_rng_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="needs an rng"):
        tokenizer.encode_ids("a star", dropout=0.1)


def test_each_position_has_a_pad_of_its_own() -> None:
    rows = pad_per_position([[5, 6], [], [1, 2, 3, 4, 5]], length=4, vocab_size=100)
    assert rows.dtype == np.int64
    assert rows.tolist() == [[5, 6, 102, 103], [100, 101, 102, 103], [1, 2, 3, 4]]


def test_one_pad_may_stand_for_all() -> None:
    rows = pad_per_position([[5, 6], [], [1, 2, 3, 4, 5]], length=4, vocab_size=100, pad=7)
    assert rows.tolist() == [[5, 6, 7, 7], [7, 7, 7, 7], [1, 2, 3, 4]]


def test_framing_keeps_the_end_of_over_long_rows() -> None:
    rows = frame([[5, 6], [], [1, 2, 3, 4, 5]], length=5, start=98, end=99)
    assert rows.dtype == np.int64
    assert rows.tolist() == [[98, 5, 6, 99, 0], [98, 99, 0, 0, 0], [98, 1, 2, 3, 99]]
    assert (rows.argmax(axis=1) == [3, 1, 4]).all()


def test_minDALLEs_ids_are_those_of_the_library(tmp_path: Path) -> None:  # noqa: N802
    theirs = save_tokenizer(tmp_path / "tokenizer")
    theirs.enable_padding(length=64, pad_id=theirs.token_to_id("[PAD]"))
    theirs.enable_truncation(max_length=64)
    ours = ForeignTokenizer.over_characters(
        *(tmp_path / "tokenizer" / f"bpe-16k-{end}" for end in ("vocab.json", "merges.txt"))
    )
    (tmp_path / "tokenizer.json").write_text(ours.to_json(), encoding="utf-8")
    texts = [
        "", "A red STAR, on the left.", "blue-moon's  \t\n\x00 (left)!", "Ünïcode café İstanbul ẞ", "星 is a star🍎",
        "a [PAD] and [UNK] here", "red " * 200, "zzz", "\u200b\ufeff\u00ad left",
    ]  # fmt: skip
    for tokenizer in (ours, read_tokenizer(tmp_path / "tokenizer.json")):
        assert isinstance(tokenizer, ForeignTokenizer)
        assert tokenizer.vocab_size == theirs.get_vocab_size()
        ids = [tokenizer.encode_ids(text) for text in texts]
        rows = pad_per_position(ids, 64, tokenizer.vocab_size, tokenizer.pad_id)
        assert rows.tolist() == [theirs.encode(text).ids for text in texts]
    assert ours.encode_ids("a\ud800") == ours.encode_ids("a?")
    assert len(set(ours.encode_ids("a red star on the left"))) > 3


def test_glides_ids_are_those_of_gpt2s_encoder(tmp_path: Path) -> None:
    """The library has GPT-2's as well; it lower-cases likewise."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("r", "e"), ("re", "d"), ("s", "t"), ("Ġ", "st")]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *map("".join, merges), "<|endoftext|>"])}
    files = tmp_path / "encoder.json", tmp_path / "vocab.bpe.gz"
    files[0].write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    files[1].write_bytes(gzip.compress("\n".join(lines).encode()))
    theirs = ByteLevelBPETokenizer(vocabulary, merges, lowercase=True)
    ours = ForeignTokenizer.over_bytes(*files)
    (tmp_path / "tokenizer.json").write_text(ours.to_json(), encoding="utf-8")
    for tokenizer in (ours, read_tokenizer(tmp_path / "tokenizer.json")):
        assert (tokenizer.vocab_size, isinstance(tokenizer, ForeignTokenizer)) == (len(vocabulary), True)
        for text in ("", "A RED star", "  it's 3 stars!", "Ünïcode 星 🍎", "a\n b"):
            assert tokenizer.encode_ids(text) == theirs.encode(text).ids
    with pytest.raises(PinxitError, match=r"no vocabulary with its merges"):
        ForeignTokenizer.over_bytes(files[1], files[0])


def test_a_tokenizer_json_of_either_kind_is_told_from_the_other(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    tokenizer.save(file)
    assert isinstance(read_tokenizer(file), Tokenizer)
    theirs = json.loads(tokenizer.to_json())
    theirs["model"]["unk_token"] = "[UNK]"
    file.write_text(json.dumps(theirs), encoding="utf-8")
    with pytest.raises(PinxitError, match=r"The tokenizer has no \[PAD\]"):
        read_tokenizer(file)
    with pytest.raises(PinxitError, match=r"none.txt are no vocabulary with its merges"):
        ForeignTokenizer.over_characters(file, tmp_path / "none.txt")


def _shared(_made: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006 - made once for hypothesis, which bars fixtures
    if not _made:
        _made.append(Tokenizer.train(CAPTIONS, 700))
    return _made[0]
