"""The two networks of a GAN: both hear what is asked, and the critic how much pictures differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pinxit.models.gan import SIZES, Critic, GANConfig, Generator
from pinxit.models.text_encoder import TextEncoderConfig

TEXT = TextEncoderConfig(vocabulary=20, length=6, width=32, depth=1, heads=1, stands="words")
CLASSES, TEXTS = (replace(SIZES["tiny-32"], **told) for told in ({"classes": 3}, {"text": TEXT}))
ASKED = {
    "classes": (CLASSES, torch.tensor([0, 1, 2])),
    "texts": (TEXTS, torch.tensor([[1, 2, 22, 23, 24, 25], [2, 1, 22, 23, 24, 25], [3, 21, 22, 23, 24, 25]])),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ASKED)
def test_what_is_asked_matters_to_both(kind: str) -> None:
    config, asked = ASKED[kind]
    noise = torch.randn(1, config.latent).expand(3, -1)
    generator = Generator(config)
    drawn = generator(noise, asked)
    assert drawn.shape == (3, 3, 32, 32)
    assert all((drawn[a] - drawn[b]).abs().max() > 1e-3 for a, b in ((0, 1), (0, 2), (1, 2)))
    critic = Critic(config)
    features = critic.see(torch.rand(1, 3, 32, 32)).expand(3, -1)
    judged = critic.judge(features, generator.words(asked))
    assert len({round(value, 5) for value in judged.tolist()}) == 3


def test_noise_matters() -> None:
    drawn = Generator(CLASSES)(torch.randn(2, CLASSES.latent), torch.tensor([1, 1]))
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3


def test_no_class_in_particular_is_nothing() -> None:
    told = Generator(CLASSES).words(torch.tensor([3, 1]))
    assert told is not None
    assert not told[0].any()
    assert told[1].any()


def test_the_critic_knows_pictures_that_are_all_alike() -> None:
    critic, pixels = Critic(CLASSES), torch.rand(4, 3, 32, 32)

    def first(batch: Tensor) -> Tensor:
        return critic.see(batch)[0]

    alone = first(pixels[:1])
    torch.testing.assert_close(first(pixels[:1].expand(4, -1, -1, -1)), alone)
    assert (first(pixels) - alone).abs().max() > 1e-4


def test_unfit_sizes_are_told() -> None:
    with pytest.raises(Exception, match="3 widths with patch=2 make 32 pixels, not 64"):
        GANConfig(size=64, widths=(64, 32, 32), patch=2)
