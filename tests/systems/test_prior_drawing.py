"""Embeddings drawn by a prior: the same alone and among others, guided, the better of two, and by the right CLIP."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.systems.tiny import make_clip, make_tokenizer

from pinxit.checkpoints.files import save_checkpoint, to_config
from pinxit.errors import PinxitError
from pinxit.models.prior import Prior, PriorConfig
from pinxit.systems.clip import CLIPSystem
from pinxit.systems.prior_drawing import PriorDrawer, PriorDrawing

CLIP = make_clip(make_tokenizer())
FEW = PriorDrawing(steps=6)
PROMPTS = ["a red star", "a blue moon", "a red star"]


def config_for(clip: CLIPSystem) -> PriorConfig:
    known = clip.clip.config
    return PriorConfig(known.width, known.text.length, known.text.width, width=32, depth=1, heads=2)


def make_prior() -> Prior:
    torch.manual_seed(3)
    prior = Prior(config_for(CLIP))
    for value in prior.parameters():  # the text must matter
        value.data += 0.1 * torch.randn_like(value)
    prior.mean.normal_(std=0.1)
    prior.std.fill_(0.15)
    prior.errors.fill_(0.3)
    return prior


def test_an_embedding_is_the_same_alone_and_among_others() -> None:
    drawer = PriorDrawer(make_prior(), CLIP)
    rows = drawer.draw(PROMPTS, [5, 6, 7], FEW._replace(guidance=2.0))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(drawer.draw(PROMPTS[1:2], [6], FEW._replace(guidance=2.0))[0], rows[1])
    assert not torch.allclose(rows[0], rows[2]), "another seed"
    assert not torch.allclose(rows, drawer.draw(PROMPTS, [5, 6, 7], FEW), atol=1e-3), "guidance"
    assert not torch.allclose(rows[0], drawer.draw(["a blue moon"], [5], FEW._replace(guidance=2.0))[0], atol=1e-3)


def test_the_better_of_two_is_kept() -> None:
    drawer, texts = PriorDrawer(make_prior(), CLIP), CLIP.encode_text(PROMPTS)
    one, two = (drawer.draw(PROMPTS, [1, 2, 3], FEW._replace(candidates=count)) for count in (1, 2))
    fits = [(rows * texts).sum(1) for rows in (one, two)]
    assert (fits[1] >= fits[0] - 1e-6).all()
    assert (fits[1] > fits[0] + 1e-4).any()


def test_another_clip_is_refused(tmp_path: Path) -> None:
    said = {"kind": "prior", "config": to_config(config_for(CLIP)), "clip": CLIP.fingerprint}
    save_checkpoint(tmp_path, said, {"prior": make_prior()})
    drawn = PriorDrawer.from_checkpoint(tmp_path, CLIP).draw(["a red star"], [1], FEW)
    torch.testing.assert_close(drawn, PriorDrawer(make_prior(), CLIP).draw(["a red star"], [1], FEW))
    other = make_clip(make_tokenizer())
    other.clip.vision.projection.weight.data += 0.1
    with pytest.raises(PinxitError, match=r"was trained with the embeddings of CLIP \w+, and this one is \w+"):
        PriorDrawer.from_checkpoint(tmp_path, other)
    with pytest.raises(PinxitError, match=r"knows embeddings of 8 numbers .* They must belong"):
        PriorDrawer(Prior(replace(config_for(CLIP), embedding=8)), CLIP)
