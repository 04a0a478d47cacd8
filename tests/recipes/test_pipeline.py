from pathlib import Path

import pytest
from tests.recipes.toy import pipeline

from pinxit.checkpoints.files import read_config
from pinxit.errors import PinxitError
from pinxit.recipes.overrides import override
from pinxit.recipes.recipe import Context
from pinxit.training.distributed import World

SRC = "scenes:60"


def test_runs_in_order_says_what_is_next_and_skips_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = pipeline()
    stages.stages["mean"].run(Context(SRC, tmp_path / "mean"))
    capsys.readouterr()
    assert not stages.done(Context(SRC, tmp_path))
    stages.run(Context(SRC, tmp_path))
    assert capsys.readouterr().out.splitlines() == [
        "Stage 1 of 2, mean: done.",
        "Stage 2 of 2, count: Counts weights. The last one.",
    ]
    assert stages.done(Context(SRC, tmp_path))
    assert read_config(tmp_path / "count")["weights"] > 0


def test_tells_the_stages_to_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline().run(Context(SRC, tmp_path))
    assert "Stage 1 of 2, mean: The mean colour of pictures. Next: count." in capsys.readouterr().out


def test_a_part_that_is_not_there_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(PinxitError, match=r"There is no model '.*nowhere'"):
        pipeline().run(Context(SRC, tmp_path / "run", parts={"count": f"{tmp_path / 'nowhere'}"}))
    assert not (tmp_path / "run").exists()


def test_a_changed_stage_is_not_taken_for_done(tmp_path: Path) -> None:
    pipeline().run(Context(SRC, tmp_path))
    with pytest.raises(PinxitError, match=r"mean was begun with other settings: model\.width: 4 -> 6"):
        override(pipeline(), ["mean.model.width=6"]).run(Context(SRC, tmp_path))


def test_the_leader_alone_decides_what_is_done(tmp_path: Path) -> None:
    """A second process that looked for itself might see less, or more, than the leader saw a moment before."""

    class Follower(World):
        def any(self, flag: bool) -> bool:
            assert not flag, "a follower has no say"
            return True  # the leader found every stage done

    pipeline().run(Context(SRC, tmp_path, Follower(rank=1, size=2)))
    assert not list(tmp_path.iterdir())
