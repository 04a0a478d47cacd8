from typing import Literal

import pytest
import torch

from pinxit.models.text_encoder import TextEncoder, TextEncoderConfig


def reached(*, token_shift: bool) -> list[int]:
    """The places that the word at place 3 of 6 has reached before the first block."""
    config = TextEncoderConfig(vocabulary=9, length=6, width=8, depth=0, heads=1, token_shift=token_shift)
    encoder = TextEncoder(config)
    one, other = encoder(torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 8, 5, 6]]))
    return [place for place in range(config.length) if not torch.equal(one[place], other[place])]


def test_token_shift_lets_neighbours_see_each_other() -> None:
    assert reached(token_shift=False) == [3]
    assert reached(token_shift=True) == [2, 3, 4]


def test_what_is_shifted_in_at_the_ends_is_nothing() -> None:
    encoder = TextEncoder(TextEncoderConfig(vocabulary=9, length=3, width=8, depth=0, heads=1, token_shift=True))
    first, last = (encoder(torch.tensor([ids]))[0] for ids in ([1, 2, 3], [1, 2, 5]))
    torch.testing.assert_close(first[0], last[0])


@pytest.mark.parametrize(("stands", "told"), [("last", [3]), ("mean", [0, 1, 2, 3]), ("words", [0, 1])])
def test_what_stands_for_a_text(stands: Literal["last", "mean", "words"], told: list[int]) -> None:
    encoder = TextEncoder(TextEncoderConfig(vocabulary=9, length=4, width=8, depth=1, heads=1, stands=stands))
    ids = torch.tensor([[1, 2, 9 + 2, 9 + 3]])
    tokens = encoder(ids)
    torch.testing.assert_close(encoder.whole(tokens, ids), tokens[:, told].mean(1))


def test_no_words_are_nothing_in_particular() -> None:
    encoder = TextEncoder(TextEncoderConfig(vocabulary=9, length=4, width=8, depth=1, heads=1, stands="words"))
    ids = torch.arange(9, 13)[None]
    assert encoder.whole(encoder(ids), ids).eq(0).all()
