"""Proves that the one sliding window covers every pixel, stands nowhere twice, and is pushed inward at the far borders."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tools.geo.windows import Window, positions, sliding, step_in_pixels

lengths = st.integers(1, 200)


@st.composite
def axes(draw):
    """(length, size, step) of an axis; the step is at most the size, as the settings demand."""
    size = draw(st.integers(1, 64))
    return draw(lengths), size, draw(st.integers(1, size))


def test_positions_by_hand():
    assert positions(10, 4, 3) == [0, 3, 6]
    assert positions(11, 4, 3) == [0, 3, 6, 7]
    assert positions(12, 4, 4) == [0, 4, 8]
    assert positions(4, 4, 1) == [0]
    assert positions(3, 4, 2) == [0]


@given(axes())
def test_every_pixel_is_covered(axis):
    length, size, step = axis
    covered = np.zeros(length, int)
    for start in positions(length, size, step):
        covered[start : start + size] += 1
    assert (covered > 0).all()


@given(axes())
def test_no_position_stands_twice_and_they_go_up(axis):
    found = positions(*axis)
    assert found == sorted(set(found))


@given(axes())
def test_the_last_window_is_pushed_inward_and_the_others_are_a_step_apart(axis):
    length, size, step = axis
    found = positions(*axis)
    assert found[-1] == max(length - size, 0)
    assert found[:-1] == [i * step for i in range(len(found) - 1)]


@given(axes(), axes())
def test_the_windows_of_an_image_are_all_pairs_of_positions_row_by_row(rows, cols):
    size, step = (rows[1], cols[1]), (rows[2], cols[2])
    expected = [Window(r, c, *size) for r in positions(*rows) for c in positions(*cols)]
    assert list(sliding(rows[0], cols[0], size, step)) == expected


def test_the_windows_of_a_whole_country_are_not_all_in_memory_at_once():
    windows = sliding(10**7, 10**7, (128, 128), (64, 64))
    assert next(windows) == Window(0, 0, 128, 128)
    assert next(windows) == Window(0, 64, 128, 128)


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.001, 1))
def test_a_step_is_given_in_pixels_or_as_a_share_of_the_window(height, width, share):
    assert step_in_pixels((3, 4), (height, width)) == (3, 4)
    assert step_in_pixels(0.5, (128, 64)) == (64, 32)
    for step, size in zip(step_in_pixels(share, (height, width)), (height, width), strict=True):
        assert 1 <= step <= size
        assert step == 1 or abs(step - share * size) <= 0.5


def test_a_window_slices_the_last_two_axes():
    image = np.arange(2 * 5 * 7).reshape(2, 5, 7)
    rows, cols = Window(1, 2, 3, 4).slices
    assert image[:, rows, cols].tolist() == image[:, 1:4, 2:6].tolist()
