"""Our token transformer beside taming-transformers' and minDALL-E's: their equations and names, through convert."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.parity import mingpt
from tests.parity.mingpt import CLASSES, CODES, SIDE, SIZE, UNCONDITIONAL, save_mindalle, save_taming, taming_state
from torch import Tensor

import pinxit
from pinxit.checkpoints import from_taming
from pinxit.checkpoints.conversion import convert
from pinxit.data.scenes import Scenes
from pinxit.models.token_transformer import Continuation, TokenTransformer
from pinxit.systems.token_system import TokenSystem

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
N = SIDE**2


def opened(source: Path, folder: Path) -> TokenSystem:
    assert convert(str(source), folder, size=SIZE).kind == "taming"
    system = pinxit.load(folder, "cpu")
    assert isinstance(system, TokenSystem)
    assert (system.kind, system.codec.size, system.codec.grid) == ("taming", SIZE, (SIDE, SIDE))
    return system


def images(rows: int) -> Tensor:
    return torch.randint(CODES, (rows, N), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def agrees(system: TokenSystem, prompts: list[str], theirs: Callable[[Tensor], Tensor]) -> None:
    """Logits of all positions, cached and not, and greedy pictures; `theirs` maps the tokens so far to logits."""
    condition, image = system.condition(prompts), images(len(prompts))
    expected = theirs(image[:, :-1])
    assert expected.std() > 0.3
    torch.testing.assert_close(system.prior(condition, image)[1], expected, **CLOSE)
    network = system.prior
    assert isinstance(network, TokenTransformer)
    for cached in (True, False):
        following = Continuation(network, condition, cached=cached)
        told = torch.stack([following(image[:, :place]) for place in range(N)], 1)
        torch.testing.assert_close(told, expected, **CLOSE)
    greedy = image[:, :0]
    for _ in range(N):
        greedy = torch.cat([greedy, theirs(greedy)[:, -1].argmax(-1, keepdim=True)], 1)
    drawn = system.sample(prompts, range(len(prompts)), system.resolve(1, 0, {"temperature": 0}))
    assert torch.equal(drawn.flatten(1), greedy)
    assert len(set(greedy.flatten().tolist())) > 3


def draws(system: TokenSystem, prompt: str) -> None:
    """Pictures by their seeds, and the rest of a picture."""
    three = [picture.image.tobytes() for picture in system.generate(prompt, 3, seed=4)]
    assert len(set(three)) == 3
    assert system.generate(prompt, 1, seed=5)[0].image.tobytes() == three[1]
    picture = Scenes(1, size=64)[0].image
    whole = system.complete(picture, prompt, 1, keep_rows=SIDE)[0].image
    assert whole.tobytes() == system.reconstruct(picture)[0].tobytes()
    assert system.complete(picture, prompt, 1)[0].image.tobytes() not in (*three, whole.tobytes())


@pytest.mark.parametrize("block", [N, 2 * N])
def test_unconditional_transformers_of_taming(tmp_path: Path, block: int) -> None:
    state = taming_state(block=block)
    system = opened(save_taming(tmp_path / "last.ckpt", state, UNCONDITIONAL), tmp_path / "ours")
    start = torch.full((3, 1), 3)
    agrees(system, [""] * 3, lambda image: mingpt.taming_logits(state, start, image))
    assert system.defaults["top_k"] == 250
    draws(system, "")


def test_class_conditional_transformers_of_taming(tmp_path: Path) -> None:
    state = taming_state()
    system = opened(save_taming(tmp_path / "last.ckpt", state, CLASSES), tmp_path / "ours")
    agrees(system, ["4", "0", "2"], lambda image: mingpt.taming_logits(state, torch.tensor([[4], [0], [2]]), image))
    draws(system, "2")
    assert len(system.generate("", 1, guidance=1.5)) == 1
    with pytest.raises(pinxit.PinxitError, match=r"no class '5'.*Known: 0, 1, 2, 3, 4"):
        system.generate("5")


def test_a_vocabulary_larger_than_the_codebook(tmp_path: Path) -> None:
    state = taming_state(vocabulary=CODES + 10)
    system = opened(save_taming(tmp_path / "last.ckpt", state, CLASSES), tmp_path / "ours")
    start = torch.tensor([[1]])
    agrees(system, ["1"], lambda image: mingpt.taming_logits(state, start, image)[..., :CODES])


def test_mindalle(tmp_path: Path) -> None:
    state, tokenizer = save_mindalle(tmp_path / "1.3B")
    system = opened(tmp_path / "1.3B", tmp_path / "ours")
    prompts = ["A RED star", "a blue moon; a red zebra on the left of a blue star", ""]
    text = torch.tensor([tokenizer.encode(prompt).ids for prompt in prompts])
    assert torch.equal(system.condition(prompts), text)
    assert torch.equal(system.prior.no_condition(1), text[2:])
    agrees(system, prompts, lambda image: mingpt.mindalle_logits(state, text, image)[1])
    told, _ = system.prior(text, images(3))
    torch.testing.assert_close(told, mingpt.mindalle_logits(state, text, images(3))[0], **CLOSE)
    assert system.defaults["top_k"] == 256
    draws(system, prompts[0])
    assert len(system.generate(prompts[0], 1, guidance=2.0, negative="a blue moon")) == 1


class Texts:
    vocab_size, pad_id = 16_384, 0


def test_mindalle_has_the_published_parameters() -> None:
    shapes = mingpt.mindalle_shapes(16_384, 64, 16_384, 256, width=1_536, depth=42)
    described = {"stage2": {"hparams": {"n_heads": 24}}}
    config, weights = from_taming.mindalle(mingpt.random(shapes, "meta"), described, cast("Any", Texts()), side=16)
    with torch.device("meta"):
        network = TokenTransformer(config)
    assert sum(value.numel() for value in network.parameters()) == 1_291_081_728
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }
