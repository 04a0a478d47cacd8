import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pinxit.models.clip import CLIP, SIZES, CLIPConfig
from pinxit.nn.processes import gather
from pinxit.objectives.contrastive import Contrastive

TINY: CLIPConfig = SIZES["tiny-32"]


def batch_of(rows: int, *, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 2_046, (rows, 6), generator=generator)
    ids[:, 5] = 2_047
    return {
        "pixels": torch.rand(rows, 3, 32, 32, generator=generator) * 2 - 1,
        "ids": ids,
        "caption_key": torch.arange(rows),
        "picture_key": torch.arange(rows) + 1_000,
    }


@pytest.fixture
def objective() -> Contrastive:
    torch.manual_seed(0)
    return Contrastive(CLIP(TINY))


def test_without_repeats_it_is_the_papers_loss(objective: Contrastive) -> None:
    batch = batch_of(8)
    logits = objective.network(batch["pixels"], batch["ids"])
    labels = torch.arange(8)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    loss, numbers = objective(batch, "main", 0)
    torch.testing.assert_close(loss, expected)
    assert numbers["image_to_text_recall"] == (logits.argmax(1) == labels).float().mean()
    assert numbers["text_to_image_recall"] == (logits.argmax(0) == labels).float().mean()
    assert float(numbers["temperature"]) == pytest.approx(0.07)


@pytest.mark.parametrize("key", ["caption_key", "picture_key"])
def test_samples_that_share_a_key_are_positives_of_each_other(objective: Contrastive, key: str) -> None:
    batch = batch_of(4)
    batch[key] = torch.tensor([5, 6, 5, 7])
    logits = objective.network(batch["pixels"], batch["ids"])
    targets = torch.eye(4)
    targets[[0, 0, 2, 2], [0, 2, 0, 2]] = 0.5
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(objective(batch, "main", 0)[0], expected)


def test_identical_pairs_reach_the_least_loss_there_is(objective: Contrastive) -> None:
    batch = {name: value[:1].expand(4, *value.shape[1:]) for name, value in batch_of(4).items()}
    loss, numbers = objective(batch, "main", 0)
    assert loss.item() == pytest.approx(math.log(4), abs=1e-5)
    assert numbers["image_to_text_recall"] == 1.0


def test_the_temperature_is_clamped_after_the_step_only(objective: Contrastive) -> None:
    scale = objective.clip.logit_scale
    for given, kept in [(9.0, math.log(100.0)), (-1.0, 0.0), (3.0, 3.0)]:
        scale.data.fill_(given)
        objective(batch_of(2), "main", 0)
        assert scale.item() == given
        objective.after_step(0)
        assert scale.item() == pytest.approx(kept)


def test_it_learns_a_batch_by_heart(objective: Contrastive) -> None:
    batch = batch_of(8)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    for step in range(40):
        optimizer.zero_grad()
        loss, _ = objective(batch, "main", step)
        loss.backward()
        optimizer.step()
        objective.after_step(step)
    numbers = objective.eval().validate(batch, 40)
    assert float(numbers["loss"]) < 0.1
    assert numbers["image_to_text_recall"] == numbers["text_to_image_recall"] == 1.0


def test_logits_stay_float32_under_autocast(objective: Contrastive) -> None:
    batch = batch_of(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = objective(batch, "main", 0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, objective(batch, "main", 0)[0], atol=0.05, rtol=0.0)


def test_gather_without_processes_is_the_rows_themselves() -> None:
    x = torch.rand(3, 2)
    assert gather(x) is x


RANK = """
import sys
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from pinxit.models.clip import CLIP, SIZES
from pinxit.objectives.contrastive import Contrastive

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
objective = Contrastive(CLIP(SIZES["tiny-32"]))
objective.load_state_dict(torch.load(f"{folder}/weights.pt"))
batch = {name: value[rank * 4 : rank * 4 + 4] for name, value in torch.load(f"{folder}/batch.pt").items()}
parallel = DistributedDataParallel(objective)
loss, _ = parallel(batch, "main", 0)
loss.backward()
distributed.all_reduce(loss)
if rank == 0:
    numbers = objective.validate(batch, 0)  # the other process has no batch to validate, and is not waited for
    gradients = {name: value.grad for name, value in objective.named_parameters()}
    torch.save({"loss": loss.detach() / 2, "gradients": gradients, "numbers": numbers}, f"{folder}/out.pt")
distributed.barrier()  # gloo's threads may abort a process that leaves the other behind
distributed.destroy_process_group()
"""


def test_two_processes_have_the_gradients_of_one_with_the_global_batch(objective: Contrastive, tmp_path: Path) -> None:
    batch = batch_of(8)
    batch["caption_key"][6] = batch["caption_key"][1]  # a repeat that lies on the other rank
    torch.save(objective.state_dict(), tmp_path / "weights.pt")
    torch.save(batch, tmp_path / "batch.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]

    loss, _ = objective(batch, "main", 0)
    loss.backward()
    out = torch.load(tmp_path / "out.pt")
    alone = objective.validate({name: value[:4] for name, value in batch.items()}, 0)
    assert float(out["numbers"]["loss"]) == pytest.approx(float(alone["loss"]), abs=1e-6)
    torch.testing.assert_close(out["loss"], loss.detach(), atol=1e-6, rtol=0.0)
    for name, value in objective.named_parameters():
        assert value.grad is not None
        largest = max(1.0, value.grad.abs().max().item())
        assert (out["gradients"][name] - value.grad).abs().max().item() <= 1e-6 * largest, name
