"""Proves that labels become planes and come back as they were, unscored pixels included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tools.labels import onehot


def test_planes_by_hand():
    planes = onehot.encode(np.array([[0, 2], [1, 6]], np.uint8), 3)
    assert planes.astype(int).tolist() == [[[1, 0], [0, 0]], [[0, 0], [1, 0]], [[0, 1], [0, 0]]]


@given(arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 6)))
def test_a_round_trip_gives_the_labels_back(labels):
    planes = onehot.encode(labels, 6)
    assert planes.shape == (6, *labels.shape)
    assert np.array_equal(planes.sum(0), labels < 6)
    assert np.array_equal(onehot.decode(planes, 6), labels)


@pytest.mark.parametrize("unscored", [3, 6, 255])
def test_pixels_that_are_not_scored_are_in_no_plane_whatever_their_number(unscored):
    planes = onehot.encode(np.array([[0, unscored]], np.uint8), 3)
    assert not planes[:, 0, 1].any()
    assert onehot.decode(planes, unscored).tolist() == [[0, unscored]]


def test_probabilities_are_decoded_to_the_likeliest_class():
    planes = np.array([[[0.2, 0.0]], [[0.5, 0.0]], [[0.3, 0.0]]])
    assert onehot.decode(planes, 9).tolist() == [[1, 9]]
    assert onehot.decode(planes, 9).dtype == np.uint8
