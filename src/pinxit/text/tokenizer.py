"""Byte-level BPE as CLIP has it, on the `tokenizers` library, with BPE dropout that can be seeded.

The layout of the vocabulary is CLIP's: 256 bytes, the same 256 at a word's end (`</w>`), the merges, then the start and
the end token as its two last ids. Every string has ids, so there is no unknown token. Text is lower-cased and split by
CLIP's pattern (words, single digits, runs of punctuation). minDALL-E's BPE over characters stands beside it.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", 2.4.
Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization", algorithm 1.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers

from pinxit.errors import PinxitError

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
UNKNOWN, PAD = "[UNK]", "[PAD]"
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
# While training, a word's last byte is one character of a private plane, so that the alphabet is 512 characters, known
# beforehand and sorted: the library numbers suffixed characters in hash order, which would break ties by chance.
_LAST = {symbol: chr(0xF0000 + i) for i, symbol in enumerate(_BYTES)}
_UNLAST = str.maketrans({mark: symbol + WORD_END for symbol, mark in _LAST.items()})
_BASE = [*_BYTES, *(symbol + WORD_END for symbol in _BYTES)]
SMALLEST_VOCABULARY = len(_BASE) + 2
MOST_MERGES = 49_152 - 256 - 2
"""Of published CLIPs, whose file holds more."""


class Tokenizer:
    """Text to BPE ids and back. `Tokenizer.train` makes one, `save` and `load` keep it in one tokenizer.json."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        """Wraps a tokenizer of the library whose vocabulary has the layout told above."""
        self._library = library
        self._vocabulary: dict[str, int] = library.get_vocab(with_added_tokens=True)
        self._text_of = {index: token for token, index in self._vocabulary.items()}
        merges = json.loads(library.to_str())["model"]["merges"]
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self._bytes_of = _byte_alphabet()
        if sorted(self._text_of) != list(range(self.vocab_size)) or not self._vocabulary.keys() >= set(_BASE):
            raise PinxitError("The tokenizer is not a byte-level BPE with </w> word ends: some byte has no id.")
        if self._text_of[self.start_id] != START or self._text_of[self.end_id] != END:
            raise PinxitError(f"The tokenizer's two last ids must be {START} and {END}, as CLIP has them.")

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learns merges from captions until `vocab_size` entries, all counted, or until no pair occurs twice.

        The same captions, in any order, give the same tokenizer. Few captions give a smaller vocabulary than asked.
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise PinxitError(
                f"vocab_size is {vocab_size}; bytes, word ends, start and end need {SMALLEST_VOCABULARY} at least."
            )
        bare = _assemble([], _BASE)
        learner = tokenizers.Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=[*_LAST, *_LAST.values()],
            show_progress=False,
        )
        marked = (" ".join(word[:-1] + _LAST[word[-1]] for word in _words(bare, text)) for text in captions)
        learner.train_from_iterator(marked, trainer)

        vocabulary = dict.fromkeys(_BASE)
        merges = []
        for left, right in json.loads(learner.to_str())["model"]["merges"]:
            if len(vocabulary) == vocab_size - 2:
                break
            pair = left.translate(_UNLAST), right.translate(_UNLAST)
            merges.append(pair)
            vocabulary["".join(pair)] = None  # two merges may spell one token
        return cls(_assemble(merges, vocabulary))

    @classmethod
    def over_merges(cls, merges: Path) -> Tokenizer:
        """Reads the merges of a CLIP; ids follow from them.

        They are a pair a line after the first, in a text that may be gzipped, or those of a tokenizer.json.
        """
        try:
            text = _unzipped(merges).decode("utf-8")
            if merges.suffix == ".json":
                told = json.loads(text)["model"]["merges"]
                lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in told]
            else:
                lines = text.split("\n")[1:]
        except (OSError, EOFError, LookupError, TypeError, ValueError, zlib.error) as fault:
            raise PinxitError(f"{merges} cannot be read: {fault}.") from fault
        pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines) if right][:MOST_MERGES]
        spelt = list(_byte_alphabet())
        base = [*spelt, *(symbol + WORD_END for symbol in spelt)]
        return cls(_assemble(pairs, [*base, *("".join(pair) for pair in pairs)]))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads a tokenizer.json."""
        return cls.from_json(_text_of(path))

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Reads the text of a tokenizer.json."""
        library = _parse(text)
        if not isinstance(library.model, models.BPE) or library.model.end_of_word_suffix != WORD_END:
            raise PinxitError("The tokenizer is not a byte-level BPE with </w> word ends.")
        return cls(library)

    def to_json(self) -> str:
        """The text of tokenizer.json."""
        text: str = self._library.to_str(pretty=True)
        return text

    def save(self, path: str | Path) -> None:
        """Writes tokenizer.json."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """How many ids there are, start and end among them."""
        return len(self._vocabulary)

    @property
    def start_id(self) -> int:
        """The id before the last."""
        return self.vocab_size - 2

    @property
    def end_id(self) -> int:
        """The last id, so that argmax over a row of ids finds the end of the text."""
        return self.vocab_size - 1

    def encode_ids(self, text: str, dropout: float = 0.0, rng: np.random.Generator | None = None) -> list[int]:
        """The BPE ids of a text, without start, end or padding.

        `dropout` is the probability with which each candidate merge is passed over at each step; it needs an `rng`.
        Words are lower-cased here; entities and such are `captions.clean`'s work.
        """
        if not dropout:
            ids: list[int] = self._library.encode(_encodable(text), add_special_tokens=False).ids
            return ids
        if rng is None:
            raise ValueError("BPE dropout needs an rng, so that a run can be repeated.")
        spelling = random.Random(int(rng.integers(2**63)))  # draws single numbers ten times as fast as NumPy
        return [
            self._vocabulary[symbol]
            for word in _words(self._library, text)
            for symbol in merge(word, self._ranks, dropout, spelling)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The lower-case text of ids, one space after each word.

        Start, end and ids beyond the vocabulary (pads) are left out. Ids that end inside a character give U+FFFD.
        """
        tokens = (self._text_of[int(i)] for i in ids if 0 <= int(i) < self.start_id)
        raw = bytearray()
        for token in tokens:
            word = token.removesuffix(WORD_END)
            raw += bytes(self._bytes_of[symbol] for symbol in word)
            if word != token:
                raw += b" "
        return raw.decode("utf-8", errors="replace").strip()


class ForeignTokenizer:
    """The BPE of public weights, read and never trained; both are lower-cased.

    minDALL-E's is over the characters of words and punctuation, split as BERT does: what it does not know becomes
    `[UNK]`, and positions that stay empty are `[PAD]`. GLIDE's is GPT-2's, over bytes, whose words begin with their
    space.
    """

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        """Wraps a tokenizer of the library."""
        self._library = library
        if library.model.unk_token == UNKNOWN and library.token_to_id(PAD) is None:
            raise PinxitError(f"The tokenizer has no {PAD}.")
        self.pad_id: int | None = library.token_to_id(PAD)
        """The id of an empty position, where there is one for all of them."""

    @classmethod
    def over_characters(cls, vocabulary: Path, merges: Path) -> ForeignTokenizer:
        """Reads the vocabulary, JSON, and the merges, a pair a line."""
        try:
            char_bpe = tokenizers.CharBPETokenizer.from_file(
                str(vocabulary), str(merges), unk_token=UNKNOWN, lowercase=True
            )
        except Exception as fault:  # the library raises bare Exception
            raise PinxitError(f"{vocabulary} and {merges.name} are no vocabulary with its merges: {fault}.") from fault
        char_bpe.add_special_tokens([PAD])
        return cls(_parse(char_bpe.to_str()))

    @classmethod
    def over_bytes(cls, vocabulary: Path, merges: Path) -> ForeignTokenizer:
        """Reads the vocabulary, JSON, and the merges, a pair a line after the first; either may be gzipped."""
        try:
            tokens = json.loads(_unzipped(vocabulary))
            lines = _unzipped(merges).decode().split("\n")[1:]
            pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines) if right]
            library = tokenizers.Tokenizer(models.BPE(vocab=tokens, merges=pairs))
        except Exception as fault:  # the library raises bare Exception
            raise PinxitError(f"{vocabulary} and {merges.name} are no vocabulary with its merges: {fault}.") from fault
        library.normalizer = normalizers.Lowercase()
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return cls(library)

    def to_json(self) -> str:
        """The text of tokenizer.json."""
        text: str = self._library.to_str(pretty=True)
        return text

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special ones among them."""
        size: int = self._library.get_vocab_size()
        return size

    def encode_ids(self, text: str) -> list[int]:
        """The BPE ids of a text, without padding."""
        ids: list[int] = self._library.encode(_encodable(text)).ids
        return ids


def _unzipped(file: Path) -> bytes:
    content = file.read_bytes()
    return gzip.decompress(content) if file.suffix == ".gz" else content


def read_tokenizer(path: str | Path) -> Tokenizer | ForeignTokenizer:
    """Reads a tokenizer.json of any kind: those of others have an unknown token, or no ends of words."""
    text = _text_of(path)
    model = _parse(text).model
    if isinstance(model, models.BPE) and (model.unk_token == UNKNOWN or model.end_of_word_suffix is None):
        return ForeignTokenizer(_parse(text))
    return Tokenizer.from_json(text)


def merge(word: str, ranks: Mapping[tuple[str, str], int], dropout: float, rng: random.Random) -> list[str]:
    """Splits one word, spelt in the byte alphabet, into BPE symbols; dropout 0 gives the library's own split.

    At each step every adjacent pair that has a merge is a candidate, dropped with probability `dropout`; the best of
    those kept is merged, leftmost first; when none is kept, the word is done.
    """
    symbols = [*word[:-1], word[-1] + WORD_END]
    while len(symbols) > 1:
        kept = [
            (rank, i)
            for i, pair in enumerate(itertools.pairwise(symbols))
            if (rank := ranks.get(pair)) is not None and (not dropout or rng.random() >= dropout)
        ]
        if not kept:
            break
        _, i = min(kept)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return symbols


def pad_per_position(
    ids: Sequence[Sequence[int]], length: int, vocab_size: int, pad: int | None = None
) -> npt.NDArray[np.int64]:
    """DALL-E 1's padding: `b l` ids in which position i without a token holds `vocab_size + i`; over-long rows are cut.

    Each position so has a learned pad of its own, and the text embedding needs `vocab_size + length` rows
    (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", 2.2). With `pad`, that one id stands for all of them.
    """
    rows = np.tile(np.arange(vocab_size, vocab_size + length, dtype=np.int64), (len(ids), 1))
    if pad is not None:
        rows[:] = pad
    for row, tokens in zip(rows, ids, strict=True):
        row[: len(tokens)] = tokens[:length]
    return rows


def frame(ids: Sequence[Sequence[int]], length: int, start: int, end: int) -> npt.NDArray[np.int64]:
    """CLIP's framing: `b l` ids of start, tokens, end, then 0; over-long rows are cut before the end, which stays."""
    if length < 2:
        raise ValueError(f"A framed text needs 2 positions at least, not {length}.")
    rows = np.zeros((len(ids), length), dtype=np.int64)
    for row, tokens in zip(rows, ids, strict=True):
        framed = [start, *tokens[: length - 2], end]
        row[: len(framed)] = framed
    return rows


def _text_of(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise PinxitError(f"{path} cannot be read as a tokenizer.json: {fault}.") from fault


def _parse(text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as fault:  # the library raises bare Exception
        raise PinxitError(f"This is no tokenizer.json: {fault}.") from fault


def _assemble(merges: Sequence[tuple[str, str]], tokens: Iterable[str]) -> tokenizers.Tokenizer:
    """A tokenizer of the library from its merges and its tokens in the order of their ids."""
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    library = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), end_of_word_suffix=WORD_END))
    library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return library


def _words(library: tokenizers.Tokenizer, text: str) -> Iterator[str]:
    """The words of a text, lower-cased and spelt in the byte alphabet."""
    normal = library.normalizer.normalize_str(_encodable(text))
    return (word for word, _ in library.pre_tokenizer.pre_tokenize_str(normal))


def _encodable(text: str) -> str:
    """The text without lone surrogates, which have no UTF-8."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _byte_alphabet() -> dict[str, int]:
    """Symbol -> byte of GPT-2's byte alphabet: printable Latin-1 is itself, the rest lies from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [value for value in range(256) if value not in set(printable)]
    return {chr(value): value for value in printable} | {chr(0x100 + i): value for i, value in enumerate(hidden)}
