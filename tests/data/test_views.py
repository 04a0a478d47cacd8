"""What views show, by the pixels."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from pinxit.data.views import VIEWS, View


def seen(view: View, image: Image.Image) -> npt.NDArray[np.int64]:
    shown = VIEWS[view](image)
    assert (shown.size, shown.mode) == (image.size, "RGB")
    return np.asarray(shown).astype(np.int64)


def square() -> Image.Image:
    """Black on white, in the middle."""
    image = Image.new("RGB", (32, 32), "white")
    image.paste("black", (8, 8, 24, 24))
    return image


def test_edges_are_dark_lines_where_colours_change_and_nowhere_else() -> None:
    lines = seen("edges", square())[..., 0]
    border = np.zeros((32, 32), bool)
    border[7:25, 7:25] = True
    border[10:22, 10:22] = False
    assert (lines[~border] == 255).all()
    assert lines[8, 8:24].max() < 128 or lines[7, 8:24].max() < 128
    # A change of colour alone is one as well, and an even picture has no frame.
    two = Image.new("RGB", (32, 32), (255, 0, 0))
    two.paste((0, 0, 255), (16, 0, 32, 32))
    assert seen("edges", two)[4:28, 15:17].min() < 128
    assert (seen("edges", Image.new("RGB", (32, 32), "white")) == 255).all()


def test_a_low_resolution_tells_no_more_than_eight_pixels_a_side() -> None:
    fine = Image.fromarray(np.indices((32, 32)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
    assert np.ptp(seen("low", fine)) <= 2
    assert seen("low", square())[16, 16].max() < 20
    assert seen("low", square())[1, 1].min() > 235


def test_the_lower_half_stays_under_white() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 200, (32, 32, 3), dtype=np.uint8))
    shown = seen("lower", image)
    assert (shown[:16] == 255).all()
    assert (shown[16:] == np.asarray(image)[16:]).all()
