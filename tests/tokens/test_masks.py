import pytest
import torch
from torch import Tensor

from pinxit.tokens.masks import KERNEL, Pattern, paper_patterns, stream_mask

PATTERNS: tuple[Pattern, ...] = ("full", "row", "column", "convolution")


def allowed(pattern: Pattern, query: int, key: int, text: int, columns: int, kernel: int) -> bool:
    """The definitions of appendix B.1, for one query and one key."""
    if key > query:
        return False
    if key < text:
        return True
    q, k = query - text, key - text
    if pattern == "row":  # the previous W + 1 in raster order, up to the one above
        return k in range(q - columns, q + 1)
    if pattern == "column":
        return q % columns == k % columns
    if pattern == "convolution":  # the window, cut from the raster, so that it goes on in the rows beside
        half = range(-(kernel // 2), kernel // 2 + 1)
        return any(q + down * columns + right == k for down in half for right in half)
    return True


def brute(pattern: Pattern, text: int, rows: int, columns: int, kernel: int) -> Tensor:
    n = text + rows * columns
    return torch.tensor([[allowed(pattern, q, k, text, columns, kernel) for k in range(n)] for q in range(n)])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("text", "rows", "columns", "kernel"), [(6, 4, 4, 3), (3, 5, 7, 5), (4, 8, 8, 11), (1, 3, 13, 11), (2, 14, 3, 3)]
)
def test_masks_are_as_defined(pattern: Pattern, text: int, rows: int, columns: int, kernel: int) -> None:
    given = stream_mask(pattern, text, rows, columns, kernel)
    assert given.dtype == torch.bool
    assert torch.equal(given, brute(pattern, text, rows, columns, kernel))


def test_the_window_is_eleven_wide_unless_told() -> None:
    given = stream_mask("convolution", 2, 9, 16)
    assert KERNEL == 11
    assert torch.equal(given, brute("convolution", 2, 9, 16, 11))
    assert not torch.equal(given, stream_mask("convolution", 2, 9, 16, 9))


# The image tokens' part of figure 11: 16 tokens on a 4x4 grid, a 3x3 kernel.
FIGURE: dict[Pattern, str] = {
    "row": """
        #...............
        ##..............
        ###.............
        ####............
        #####...........
        .#####..........
        ..#####.........
        ...#####........
        ....#####.......
        .....#####......
        ......#####.....
        .......#####....
        ........#####...
        .........#####..
        ..........#####.
        ...........#####
    """,
    "column": """
        #...............
        .#..............
        ..#.............
        ...#............
        #...#...........
        .#...#..........
        ..#...#.........
        ...#...#........
        #...#...#.......
        .#...#...#......
        ..#...#...#.....
        ...#...#...#....
        #...#...#...#...
        .#...#...#...#..
        ..#...#...#...#.
        ...#...#...#...#
    """,
    "convolution": """
        #...............
        ##..............
        .##.............
        #.##............
        ##.##...........
        ###.##..........
        .###.##.........
        ..###.##........
        ...###.##.......
        ....###.##......
        .....###.##.....
        ......###.##....
        .......###.##...
        ........###.##..
        .........###.##.
        ..........###.##
    """,
}
TEXT = """
    #.....
    ##....
    ###...
    ####..
    #####.
    ######
"""


@pytest.mark.parametrize("pattern", FIGURE)
def test_figure_eleven(pattern: Pattern) -> None:
    drawn = [line + "." * 16 for line in TEXT.split()] + ["#" * 6 + line for line in FIGURE[pattern].split()]
    expected = torch.tensor([[cell == "#" for cell in line] for line in drawn])
    assert torch.equal(stream_mask(pattern, 6, 4, 4, kernel=3), expected)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_nobody_looks_ahead_and_everybody_sees_itself_and_all_text_before(pattern: Pattern) -> None:
    text = 5
    mask = stream_mask(pattern, text, 6, 6)
    assert not mask.triu(1).any()
    assert mask.diagonal().all()
    assert mask[text:, :text].all()
    assert mask[:text, :text].tril().sum() == text * (text + 1) // 2


def test_the_papers_order_of_layers() -> None:
    patterns = paper_patterns(64)
    assert len(patterns) == 64
    assert patterns[:9] == ("row", "column", "row", "row", "row", "column", "row", "row", "row")
    for number, pattern in enumerate(patterns[:-1], start=1):  # B.1: column where (i - 2) mod 4 = 0, i from 1 to 63
        assert pattern == ("column" if (number - 2) % 4 == 0 else "row")
    assert [number for number, pattern in enumerate(patterns, start=1) if pattern == "convolution"] == [64]
    assert patterns.count("column") == 16


def test_few_layers_keep_the_order() -> None:
    assert paper_patterns(1) == ("convolution",)
    assert paper_patterns(2) == ("row", "convolution")
    assert paper_patterns(4) == ("row", "column", "row", "convolution")
