"""Proves that small patches join the neighbour with the longest common border, in bands as at once, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import sieve
from scipy import ndimage

from tools.labels.cleaning import clean

NONE = 255


def cleaned(labels, least, band=None, classes=3):
    """The whole map, cleaned in bands of so many rows."""
    band = band or len(labels)
    return np.concatenate(list(clean((labels[i : i + band] for i in range(0, len(labels), band)), least, classes)))


def patches(labels, classes=3):
    """(class, mask) of all patches, as scipy finds them."""
    for i in range(classes):
        numbers, count = ndimage.label(labels == i)
        yield from ((i, numbers == n) for n in range(1, count + 1))


def around(mask):
    """How many sides each pixel outside a patch shares with it."""
    sides = np.zeros(np.add(mask.shape, 2), int)
    for row, col in ((0, 1), (2, 1), (1, 0), (1, 2)):
        sides[row : row + mask.shape[0], col : col + mask.shape[1]] += mask
    return sides[1:-1, 1:-1] * ~mask


def one_by_one(labels, least, classes=3):
    """The rule as it is told, patch by patch, layer by layer."""
    labels = labels.copy()
    small = [mask for _, mask in patches(labels, classes) if mask.sum() < least]
    settled = (labels < classes) & ~np.logical_or.reduce([np.zeros(labels.shape, bool), *small])
    while True:
        votes = [np.bincount(labels[settled], around(mask)[settled], classes) for mask in small]
        now = [(mask, vote.argmax()) for mask, vote in zip(small, votes, strict=True) if vote.any()]
        if not now:
            return labels
        for mask, label in now:
            labels[mask], settled[mask] = label, True
        small = [mask for mask, vote in zip(small, votes, strict=True) if not vote.any()]


@st.composite
def maps(draw):
    height, width, grain, seed = (draw(st.integers(*ends)) for ends in ((1, 30), (1, 24), (1, 4), (0, 9999)))
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 2, NONE], (-(-height // grain), -(-width // grain)), p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint8)
    labels = np.kron(coarse, np.ones((grain, grain), np.uint8))[:height, :width]
    specks = rng.random(labels.shape) < 0.1
    labels[specks] = rng.integers(0, 3, specks.sum())
    return labels


@given(maps(), st.integers(1, 40))
@settings(max_examples=60)
def test_all_at_once_it_is_the_rule_patch_by_patch(labels, least):
    found = cleaned(labels, least)
    assert np.array_equal(found, one_by_one(labels, least))
    assert np.array_equal(found == NONE, labels == NONE)
    assert np.array_equal(cleaned(found, least), found)


@given(maps(), st.integers(1, 40), st.integers(1, 12))
@settings(max_examples=100)
def test_bands_give_the_same_as_all_at_once(labels, least, band):
    assert np.array_equal(cleaned(labels, least, band), cleaned(labels, least))


@given(maps(), st.integers(2, 40))
@settings(max_examples=30)
def test_no_small_patch_is_left_beside_a_large_one(labels, least):
    found = cleaned(labels, least)
    large = np.zeros(labels.shape, bool)
    for _, mask in patches(found):
        if mask.sum() >= least:
            large |= mask
    assert not any((around(mask) * large).any() for _, mask in patches(found) if mask.sum() < least)


def test_the_longest_border_counts_not_the_largest_neighbour():
    labels = np.zeros((12, 12), np.uint8)
    labels[8:, 3:9] = 1  # the smaller neighbour, which holds the patch on three sides
    labels[8:10, 5:7] = 2
    found = cleaned(labels, 5)
    assert (found[8:10, 5:7] == 1).all()
    assert (sieve(labels, 5, connectivity=4)[8:10, 5:7] == 0).all()  # GDAL's takes the larger one


def test_lone_patches_go_as_with_gdals_sieve():
    labels = np.zeros((40, 50), np.uint8)
    for i, (row, col) in enumerate([(3, 3), (10, 20), (20, 8), (30, 40), (36, 0)]):
        labels[row : row + 2, col : col + 1 + i] = 1 + i % 2
    for least in (1, 3, 5, 7, 100):
        assert np.array_equal(cleaned(labels, least, 7), sieve(labels, least, connectivity=4))


def test_of_borders_as_long_the_lowest_label_counts_and_no_label_never_does():
    labels = np.array([[1, 1, 1, 2, 0, 0, 0], [NONE, NONE, NONE, 2, NONE, NONE, NONE]], np.uint8)
    assert cleaned(labels, 3).tolist() == [[1, 1, 1, 0, 0, 0, 0], [NONE, NONE, NONE, 0, NONE, NONE, NONE]]


def test_an_island_in_no_data_stays():
    labels = np.full((9, 9), NONE, np.uint8)
    labels[3:5, 3:5], labels[5, 3] = 1, 2
    assert np.array_equal(cleaned(labels, 20, 2), labels)


@pytest.mark.parametrize("band", [1, 3, 64])
def test_rows_wait_only_for_patches_that_hang_together(band):
    labels = np.zeros((64, 16), np.uint8)
    labels[10:14, 4] = 1
    given, most = 0, 0

    def bands():
        nonlocal given
        for i in range(0, 64, band):
            given += band
            yield labels[i : i + band]

    taken = 0
    for rows in clean(bands(), 6, 3):
        taken += len(rows)
        most = max(most, given - taken)
    assert taken == 64
    assert most <= 8 + 2 * band
