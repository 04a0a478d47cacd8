import numpy as np
from PIL import Image

from pinxit.data.augment import crop_square, moved, random_mask

WHITE = (255, 255, 255)


def gradient() -> Image.Image:
    """A picture whose red tells the column and whose green tells the row."""
    columns, rows = np.meshgrid(np.arange(100), np.arange(60))
    return Image.fromarray(np.stack([columns * 2, rows * 2, rows * 0], axis=-1).astype(np.uint8))


def test_a_crop_stays_in_the_centre_square_and_keeps_its_share() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        pixels = np.asarray(crop_square(gradient(), 30, 0.9, rng)).astype(float) / 2
        left, right = pixels[15, 0, 0], pixels[15, -1, 0]
        top, bottom = pixels[0, 15, 1], pixels[-1, 15, 1]
        assert 19 <= left < right <= 81
        for kept in (right - left, bottom - top):  # one output pixel is two source pixels, seen at their middles
            assert 60 * 0.9**0.5 - 3.5 <= kept <= 60


def test_without_cropping_the_centre_square_is_seen_as_the_system_sees_it() -> None:
    rng = np.random.default_rng(0)
    whole = np.asarray(crop_square(gradient(), 60, 1.0, rng))
    assert (whole == np.asarray(gradient())[:, 20:80]).all()


def square(side: int = 40, of: int = 100) -> Image.Image:
    """A black square in the middle of a white picture."""
    pixels = np.full((of, of, 3), 255, np.uint8)
    start = (of - side) // 2
    pixels[start : start + side, start : start + side] = 0
    return Image.fromarray(pixels)


def test_a_move_stays_within_its_bounds_and_uses_them() -> None:
    rng = np.random.default_rng(0)
    sides, centres = [], []
    for _ in range(200):
        dark = np.argwhere(np.asarray(moved(square(), rng, scale=0.1, shift=0.2, background=WHITE))[..., 0] < 128)
        (top, left), (bottom, right) = dark.min(0), dark.max(0)
        sides.append(right - left + 1)
        centres.append(((left + right + 1) / 2, (top + bottom + 1) / 2))
    assert 35 <= min(sides) <= 38
    assert 42 <= max(sides) <= 45
    assert np.abs(np.array(centres) - 50).max() <= 21
    assert np.abs(np.array(centres) - 50).max(0).min() >= 15


def test_what_a_move_uncovers_is_background() -> None:
    ground = (10, 200, 30)
    rng = np.random.default_rng(1)
    pixels = np.asarray(moved(Image.new("RGB", (50, 50), ground), rng, scale=0.1, shift=0.2, background=ground))
    assert (pixels == ground).all()


def test_masks_know_a_part_or_nothing() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([random_mask(32, 0.5, rng).mean() for _ in range(400)])
    assert 0.4 < (shares == 0).mean() < 0.65
    assert ((shares > 0.5) & (shares < 1)).any()
    assert all(random_mask(32, 1.0, rng).sum() == 0 for _ in range(20))
