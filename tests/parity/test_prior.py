"""The diffusion prior beside diffusers' PriorTransformer, with the same random weights."""

import pytest
import torch

from pinxit.checkpoints import from_diffusers
from pinxit.errors import PinxitError
from pinxit.models.prior import SIZES, Prior, Read

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

KARLO = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 3, "embedding_dim": 24, "num_embeddings": 9}


def test_it_is_that_of_diffusers() -> None:
    theirs = diffusers.PriorTransformer(**KARLO).eval()
    generator = torch.Generator().manual_seed(0)
    for value in theirs.parameters():
        value.data.add_(0.2 * torch.randn(value.shape, generator=generator))
    config, weights = from_diffusers.prior(theirs.config, theirs.state_dict())
    ours = Prior(config).eval()
    ours.load_state_dict(weights)
    x, text = (torch.randn(3, 24, generator=generator) for _ in range(2))
    tokens = torch.randn(3, 9, 24, generator=generator)
    mask = torch.arange(9) < torch.tensor([[2], [9], [5]])
    times = torch.tensor([0.0, 480.0, 999.0])
    with torch.no_grad():
        for row in range(3):  # theirs takes one time for all
            one = slice(row, row + 1)
            expected = theirs(x[one], times[row], text[one], tokens[one], mask[one]).predicted_image_embedding
            told = ours(x[one], times[one], Read(tokens[one], mask[one], text[one]))
            torch.testing.assert_close(told, expected, atol=1e-5, rtol=1e-5)
        told = ours(x, times, Read(tokens, mask, text))
        torch.testing.assert_close(ours.unscaled(told), theirs.post_process_latents(told), atol=1e-5, rtol=1e-5)
    with pytest.raises(PinxitError, match="is not unCLIP's"):
        from_diffusers.prior({**KARLO, "additional_embeddings": 6}, theirs.state_dict())


def test_the_size_of_karlo_is_its_own() -> None:
    """Counted in diffusers, of which two numbers for each direction are no weights of ours."""
    with torch.device("meta"):
        ours, theirs = Prior(SIZES["karlo"]), diffusers.PriorTransformer()
    counted = sum(value.numel() for value in theirs.parameters())
    assert sum(value.numel() for value in ours.parameters()) == counted - 2 * 768
