"""Proves that the statistics of a map are numpy's of the whole map, whatever pieces they are added up from."""

from itertools import pairwise

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio import CRS

from tools.geo.raster import Raster
from tools.geo.windows import Window
from tools.maps import class_statistics
from tools.maps.class_statistics import BLOCK, TileStatistics, as_text, together

NAMES = ["road", "roof", "lawn"]


def made(height, width, seed=0):
    """Labels (255: none), confidence (of which float64 adds up any number exactly) and truth (3: not scored) of a made map."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 255], (height, width), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
    return (
        labels,
        ((rng.integers(0, 256, (height, width)) + 0.5) / 256).astype(np.float32),
        rng.integers(0, 4, (height, width)).astype(np.uint8),
    )


def counted(labels, confidence, truth, windows, crs=32632, transform=None):
    about = Raster(
        "x.tif", *labels.shape, 1, "uint8", crs and CRS.from_epsg(crs), transform or Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
    )
    found = TileStatistics(about, NAMES, truth is not None)
    for window in windows:
        cut = window.slices
        found.add(window, labels[cut], confidence[cut], None if truth is None else truth[cut])
    return found.to_dict()


def cut_at(height, width, rows, cols):
    """Windows that cover an image, column strip by column strip."""
    rows, cols = sorted({0, height, *rows}), sorted({0, width, *cols})
    return [Window(r, c, down - r, right - c) for c, right in pairwise(cols) for r, down in pairwise(rows)]


def test_each_number_is_that_of_the_whole_map():
    labels, confidence, truth = made(300, 280)
    found = counted(labels, confidence, truth, cut_at(300, 280, [64, 128, 200], []))
    labelled = labels < 3
    for i, name in enumerate(NAMES):
        cell = found["classes"][name]
        assert cell["pixels"] == (labels == i).sum()
        assert cell["share"] == pytest.approx((labels == i).sum() / labelled.sum())
        assert cell["area_m2"] == pytest.approx((labels == i).sum() / 4)
        assert cell["mean_confidence"] == pytest.approx(confidence[labels == i].mean(dtype=float), rel=1e-6)
    histogram = found["confidence_histogram"]
    right, wrong = labelled & (truth == labels), labelled & (truth < 3) & (truth != labels)
    for name, which in (("pixels", labelled), ("right", right), ("wrong", wrong)):
        assert histogram[name] == np.histogram(confidence[which], histogram["edges"])[0].tolist()
    assert (found["height"], found["width"], found["crs"], found["pixel_size"]) == (300, 280, "EPSG:32632", [0.5, 0.5])


def test_the_worst_blocks_are_those_with_the_largest_share_of_wrong_pixels():
    labels, confidence, truth = made(300, 280, 1)
    truth[:128, 128:256], labels[:128, 128:256] = 1, 2  # all wrong
    labels[256:, 256:], truth[256:, 256:] = 1, 2  # all wrong too, but a sliver at the corner
    blocks = counted(labels, confidence, truth, cut_at(300, 280, [50, 130], []))["blocks"]
    first = blocks[0]
    assert {k: first[k] for k in ("row", "col", "height", "width")} == {"row": 0, "col": 128, "height": 128, "width": 128}
    assert first["wrong"] == first["scored"] == 128 * 128
    assert first["mean_confidence"] == pytest.approx(confidence[:128, 128:256].mean(), rel=1e-5)
    shares = [block["wrong"] / block["scored"] for block in blocks]
    assert shares == sorted(shares, reverse=True)
    assert (256, 256) not in [(block["row"], block["col"]) for block in blocks]
    for block in blocks:
        cut = Window(block["row"], block["col"], block["height"], block["width"]).slices
        scored = (labels[cut] < 3) & (truth[cut] < 3)
        assert block["scored"] == scored.sum()
        assert block["wrong"] == (scored & (labels[cut] != truth[cut])).sum()


def test_without_truth_the_least_sure_blocks_come_first():
    labels, confidence, _ = made(300, 400)
    confidence[128:256, :128] /= 4
    blocks = counted(labels, confidence, None, cut_at(300, 400, [100], [200]))["blocks"]
    assert (blocks[0]["row"], blocks[0]["col"], blocks[0]["scored"], blocks[0]["wrong"]) == (128, 0, None, None)
    assert blocks[0]["mean_confidence"] == pytest.approx(confidence[128:256, :128][labels[128:256, :128] < 3].mean(), rel=1e-5)


def test_no_more_than_twenty_blocks_are_named():
    labels, confidence, truth = made(BLOCK * 5, BLOCK * 5)
    assert len(counted(labels, confidence, truth, cut_at(*labels.shape, [], []))["blocks"]) == 20


CUTS = st.lists(st.integers(1, 299), max_size=3)


@given(st.integers(1, 300), st.integers(1, 300), CUTS, CUTS, st.booleans())
def test_the_pieces_do_not_matter(height, width, rows, cols, scored):
    labels, confidence, truth = made(height, width, height)
    truth = truth if scored else None
    rows, cols = [r for r in rows if r < height], [c for c in cols if c < width]
    whole = counted(labels, confidence, truth, [Window(0, 0, height, width)])
    assert counted(labels, confidence, truth, cut_at(height, width, rows, cols)) == whole


def test_little_memory_is_needed_for_a_large_piece(monkeypatch):
    labels, confidence, truth = made(70, 90)
    whole = counted(labels, confidence, truth, [Window(0, 0, 70, 90)])
    monkeypatch.setattr(class_statistics, "_AT_ONCE", 200)
    again = counted(labels, confidence, truth, [Window(0, 0, 70, 90)])
    assert again["blocks"][0]["wrong"] == whole["blocks"][0]["wrong"]
    assert again["confidence_histogram"] == whole["confidence_histogram"]


def test_rows_in_degrees_have_each_their_own_area():
    labels = np.repeat(np.array([[0], [1]], np.uint8), 10, 1)
    transform = Affine(1, 0, 0, 0, -30, 60)  # 30 to 60 degrees north, and 0 to 30
    found = counted(labels, np.ones((2, 10), np.float32), None, [Window(0, 0, 2, 10)], 4326, transform)["classes"]
    north, south = (np.sin(np.radians(b)) - np.sin(np.radians(a)) for a, b in ((30, 60), (0, 30)))
    assert found["road"]["area_m2"] / found["roof"]["area_m2"] == pytest.approx(north / south, rel=0.01)


def test_several_maps_together_are_their_sums():
    maps = [made(40, 50, seed) for seed in (1, 2)]
    tables = [counted(*m, [Window(0, 0, 40, 50)])["classes"] for m in maps]
    both = together(tables)
    labels, confidence = (np.concatenate([m[i] for m in maps]) for i in (0, 1))
    whole = counted(labels, confidence, None, [Window(0, 0, 80, 50)])["classes"]
    assert both.keys() == whole.keys()
    for name in NAMES:
        assert both[name] == pytest.approx(whole[name])


def test_what_is_not_known_is_none():
    labels, confidence, _ = made(20, 20)
    labels[labels == 1] = 0
    nowhere = counted(labels, confidence, None, [Window(0, 0, 20, 20)], crs=None)["classes"]
    assert nowhere["road"]["area_m2"] is None
    assert nowhere["roof"] == {"pixels": 0, "share": 0.0, "area_m2": None, "mean_confidence": None}
    somewhere = counted(labels, confidence, None, [Window(0, 0, 20, 20)])["classes"]
    assert together([nowhere, somewhere])["road"]["area_m2"] is None
    empty = counted(np.full((5, 5), 255, np.uint8), np.full((5, 5), np.nan, np.float32), None, [Window(0, 0, 5, 5)])
    assert empty["classes"]["road"] == {"pixels": 0, "share": None, "area_m2": 0.0, "mean_confidence": None}
    assert empty["blocks"] == []


def test_the_table_for_the_terminal_names_each_class():
    labels, confidence, _ = made(20, 20)
    lines = as_text(counted(labels, confidence, None, [Window(0, 0, 20, 20)])["classes"]).splitlines()
    assert [line.split()[0] for line in lines] == ["pixels", *NAMES]
    assert lines[1].split()[1] == str((labels == 0).sum())
    assert "m2" in lines[1]
