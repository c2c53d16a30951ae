"""Proves that the sources of composites are found: tiles by patterns of their files, bands by names or as said."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_raster

from tools.composite.__main__ import arguments
from tools.composite.files import bands_of, matching


def test_tiles_are_those_that_match_the_pattern_numbers_by_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/t_1_x.tif", "a/t_12_x.tif", "a/t_2_x.tif", "a/t_07_x.tif", "a/u_1_x.tif", "b/t_02_10.tif", "b/t_x_1.tif"):
        write_raster(Path(name), np.zeros((2, 2), np.uint8))
    assert matching("a/t_{}_x.tif") == [1, 2, 12, "07"]
    assert matching(f"{tmp_path}/a/t_{{:02d}}_x.tif") == [7, 12]
    assert matching("./b/t_{:02d}_{}.tif") == [(2, 10)]
    assert matching("../" + tmp_path.name + "/a/u_{}_x.tif") == [1]
    assert matching("a/t_1_x.tif") == []


@pytest.mark.parametrize(
    ("words", "bands"),
    [
        (["--image", "irrg"], {"ir": 1, "red": 2}),
        (["--image", "rgbir"], {"ir": 4, "red": 1}),
        (["--image", "rgb", "--infrared", "n{}.tif"], {"red": 1}),
        (["--image", "x{}.tif", "--bands", "R=3, NIR=5"], {"ir": 5, "red": 3}),
    ],
)
def test_bands_are_known_by_the_modality_or_said(words, bands):
    assert bands_of(arguments(words)) == bands
