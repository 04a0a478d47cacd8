import itertools

import pytest
import torch
from torch import Tensor

from pinxit.systems.tiles import OVERLAP, TILE, by_tiles, spans


@pytest.mark.parametrize("side", [16, 512, 528, 1_024, 1_536, 2_000])
def test_tiles_cover_a_side_and_overlap(side: int) -> None:
    tiles = spans(side, 16)
    assert (tiles[0].start, tiles[-1].stop) == (0, side)
    assert len({tile.stop - tile.start for tile in tiles}) == 1
    assert all(tile.start % 16 == 0 and tile.stop - tile.start <= TILE + OVERLAP for tile in tiles)
    assert all(before.stop - after.start >= OVERLAP for before, after in itertools.pairwise(tiles))


def test_what_is_told_of_places_alone_is_as_told_of_all_at_once() -> None:
    x = torch.randn(1, 3, 640, 1_120)
    seen = []

    def network(part: Tensor, rows: slice, columns: slice) -> Tensor:
        seen.append(part.shape[2:].numel())
        assert torch.equal(part, x[..., rows, columns])
        return torch.cat([part, 2 * part], 1)

    torch.testing.assert_close(by_tiles(network, x, 16), torch.cat([x, 2 * x], 1))
    assert len(seen) == 6
    assert max(seen) <= (TILE + OVERLAP) ** 2


def test_tiles_fade_into_each_other() -> None:
    """What each tells of itself, its number, changes by little from pixel to pixel."""
    count = iter(range(9))
    told = by_tiles(lambda part, *_: torch.full_like(part, next(count)), torch.zeros(1, 1, 1_024, 32), 16)
    assert told[0, 0, 0, 0] == 0
    assert told[0, 0, -1, 0] == 1
    steps = told[0, 0, :, 0].diff()
    assert (steps >= 0).all()
    assert steps.max() < 0.05
