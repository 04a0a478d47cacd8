"""The diffusion prior: what it looks at, and what it keeps with its weights."""

import pytest
import torch

from pinxit.diffusion.levels import Level
from pinxit.diffusion.process import ProcessConfig
from pinxit.errors import PinxitError
from pinxit.models.clip import CLIP, SIZES
from pinxit.models.prior import LEVELS, Prior, PriorConfig, Read, read
from pinxit.text.tokenizer import frame

CLIP_CONFIG = SIZES["tiny-32"]
CONFIG = PriorConfig(
    embedding=CLIP_CONFIG.width,
    length=CLIP_CONFIG.text.length,
    text_width=CLIP_CONFIG.text.width,
    width=32,
    depth=2,
    heads=2,
)


def test_a_text_is_read_up_to_its_end() -> None:
    clip = CLIP(CLIP_CONFIG).eval()
    start, end = CLIP_CONFIG.text.vocab_size - 2, CLIP_CONFIG.text.vocab_size - 1
    ids = torch.from_numpy(frame([[5, 6, 7], []], CLIP_CONFIG.text.length, start, end))
    told = read(clip, ids)
    assert told.mask.sum(1).tolist() == [5, 2]
    torch.testing.assert_close(told.embedding, clip.encode_text(ids))
    prior = Prior(CONFIG).eval()
    x, times = torch.randn(2, CONFIG.embedding), torch.tensor([3.0, 700.0])
    expected = prior(x, times, told)
    behind = told.tokens.masked_fill(~told.mask[..., None], 9.0)
    changed = prior(x, times, type(told)(behind, told.mask, told.embedding))
    torch.testing.assert_close(changed, expected)
    assert (prior(x, times, type(told)(told.tokens + 1, told.mask, told.embedding)) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_text_is_read_once_for_all_times() -> None:
    torch.manual_seed(0)
    prior = Prior(CONFIG).eval()
    torch.nn.init.normal_(prior.query)
    ends = torch.tensor([[4], [9]])
    told = Read(
        torch.randn(2, CONFIG.length, CONFIG.text_width),
        torch.arange(CONFIG.length) < ends,
        torch.randn(2, CONFIG.embedding),
    )
    begun = prior.begun(told)
    for time in (900.0, 20.0):
        x, times = torch.randn(2, CONFIG.embedding), torch.full((2,), time)
        torch.testing.assert_close(prior.continued(x, times, begun), prior(x, times, told))


def test_units() -> None:
    prior = Prior(CONFIG)
    prior.mean.fill_(0.5)
    prior.std.fill_(0.1)
    rows = torch.rand(3, CONFIG.embedding)
    torch.testing.assert_close(prior.unscaled(prior.scaled(rows)), rows)
    assert prior.scaled(torch.full((1, CONFIG.embedding), 0.6))[0, 0].item() == pytest.approx(1.0)


def test_errors_lie_between_those_that_are_known() -> None:
    prior = Prior(CONFIG)
    prior.errors.copy_(torch.arange(LEVELS))
    for time, expected in ((0.0, 0.0), (25.0, 0.0), (50.0, 0.5), (975.0, LEVELS - 1), (999.0, LEVELS - 1)):
        assert prior.error(Level(0.5, 0.5, time)) == pytest.approx(expected)


def test_a_learnt_variance_is_refused() -> None:
    with pytest.raises(PinxitError, match="A prior tells no variance"):
        PriorConfig(8, 4, 8, 8, 1, 1, process=ProcessConfig(learned_variance=True))
