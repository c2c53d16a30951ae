"""Proves that the sources of composites are found: tiles by patterns of their files, bands by names or as said."""

from pathlib import Path

import numpy as np
import pytest
from conftest import call, done, names, read_json, write_raster

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


def test_a_modality_may_list_its_files_one_by_one(tmp_path, monkeypatch):
    """As the configs that tools.start writes do."""
    monkeypatch.chdir(tmp_path)
    for i, (file, dtype) in enumerate([("n/a.tif", np.uint8), ("s/b.tif", np.uint8), ("dsm.tif", np.float32)]):
        write_raster(Path("mine") / file, np.full((1 if "dsm" in file else 2, 8, 8), 5 + i, dtype))
    Path("mine.py").write_text(
        "DATASET, DATASET_DIR, label_values = 'mine', 'mine/', ['a', 'b']\n"
        "palette, INPUTS = {0: (0, 0, 0), 1: (255, 0, 0)}, {'image': ['image']}\n"
        "folders = {'image': {'a': 'n/a.tif', 'b': 's/b.tif'}, 'labels': {'a': 'l/a.tif', 'b': 'l/b.tif'}}\n"
        "train_ids, val_ids, test_ids = ['a'], [], ['b']\n"
    )
    words = ["--image", "image", "--bands", "ir=1,red=2", "--dsm", "mine/dsm.tif", "--config", "mine.py"]
    done(call("tools.composite", *words))
    assert names("mine/composite") == ["composite_a.tif", "composite_b.tif", "details.json"]
    assert read_json("mine/composite/details.json")["sources"]["image"] == ["mine/n/a.tif", "mine/s/b.tif"]


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
