"""Proves that NDVI, stretches and the range of heights are those that hands and numpy compute."""

import numpy as np
import pytest

from tools.composite.bands import Heights, ndvi, stretch, sum_of, to_bytes


def test_ndvi_is_0_where_both_are_0_and_never_beyond_1():
    infrared, red = np.array([0, -1, 3, 1, np.nan], np.float32), np.array([0, 1, -1, 0, 1], np.float32)
    assert ndvi(infrared, red).tolist()[:4] == [0, 0, 1, 1]  # reflectances may be a little below 0
    assert np.isnan(ndvi(infrared, red)[4])


def test_what_lies_beyond_the_range_is_cut():
    assert stretch(np.array([1.0, 2, 3, 6, 9]), 2, 6).tolist() == [0, 0, 63.75, 255, 255]


def test_a_range_without_width_gives_0():
    assert stretch(np.array([5.0, 5.0]), 5, 5).tolist() == [0, 0]


def test_pixels_without_data_in_one_band_have_none():
    found, known = to_bytes(np.array([[1, np.nan, 3.5]]), np.array([[7, 8, np.nan]]))
    assert found.tolist() == [[[1, 0, 0]], [[7, 0, 0]]]
    assert known.tolist() == [[True, False, False]]


def test_percentiles_of_a_sum_of_heights_are_those_of_numpy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(200, 9, 4000), rng.normal(260, 3, 1000)
    found = sum_of(iter([Heights.of(first), Heights.of(second)])).range((2, 98))
    assert found == pytest.approx(np.percentile(np.concatenate([first, second]), (2, 98)), abs=0.1)
    assert Heights.of(first).range((0, 100)) == (first.min(), first.max())
