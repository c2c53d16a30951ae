"""Proves that DeepGlobe and OpenEarthMap, laid out as they are downloaded, go through all five scripts with config.py's own
blocks, from delivered masks to maps whose scores are those of the pixels."""

import json

import numpy as np
import pytest
import rasterio
from conftest import call, names, pixels, write_raster
from test_datasets import OPEN_EARTH, block, picture

from tools.settings import read_settings

EDITS = {"WORKERS = None": "WORKERS = 0"}


def scene(seed, classes, height=48, width=40):
    """(picture h x w x 3, labels h x w): squares of 8 pixels, each class with a look of its own, and noise."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, classes, (height // 8, width // 8)), np.ones((8, 8), int)).astype(np.uint8)
    looks = np.random.default_rng(0).integers(30, 225, (classes, 3))
    return np.clip(looks[labels] + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8), labels


def labelled(config, base, dataset):
    """Patches, databases, two iterations, maps: where they are, once each script has come to its end."""
    for script, *words in (["extract_images"], ["create_db"], ["training", "--niter", 2], ["inference"]):
        device = ["--device", "cpu"] if script in ("training", "inference") else []
        ran = call(script, *words, *device, "--config", config)
        assert ran.code == 0, ran.err
    assert (base / f"{dataset}_snapshots_segnet_slim/net_iter_2.safetensors").is_file()
    return base / f"{dataset}_results_segnet_slim"


def check_scores(results, truths, count):
    """The scores are those of the maps that were written: the confusion of each tile, counted pixel by pixel."""
    found = json.loads((results / "scores.json").read_text())["labels"]["tiles"]
    assert set(found) == set(truths)
    for name, truth in truths.items():
        labels = pixels(results / f"{name}_labels.tif")[0]
        assert labels.shape == truth.shape and labels.max() < count
        expected = np.zeros((count, count), int)
        np.add.at(expected, (truth[truth < count], labels[truth < count]), 1)
        assert np.array_equal(found[name]["confusion"], expected)


@pytest.mark.slow
def test_deepglobe_from_the_download_to_scored_maps(tmp_path, without_pictures):
    """Its masks are off 0 and 255 here and there, its validation and test images have no masks, and two tables lie beside."""
    root, numbers = tmp_path / "deepglobe", [119, 855, 2334, 6399, 10452, 21717, 28689, 34330, 41944, 998002]
    colours = np.array([(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3])
    truths = {}
    for number in numbers:
        image, truths[number] = scene(number, 7)
        picture(root / f"train/{number}_sat.jpg", image)
        off = np.random.default_rng(number).integers(0, 60, image.shape)
        picture(root / f"train/{number}_mask.png", np.abs(colours[truths[number]] - off).astype(np.uint8))
    for folder, number in (("valid", 1234), ("test", 5678)):
        picture(root / f"{folder}/{number}_sat.jpg", scene(number, 7)[0])
    (root / "class_dict.csv").write_text("name,r,g,b\nurban_land,0,255,255\n")
    (root / "metadata.csv").write_text(
        "image_id,split,sat_image_path,mask_path\n119,train,train/119_sat.jpg,train/119_mask.png\n"
    )
    config = block(tmp_path, "deepglobe", **EDITS)
    masks = sorted((root / "train").glob("*_mask.png"))
    ran = call("convert_gt", *masks, "--from-color", "--threshold", "--out", root / "gts_numpy", "--config", config)
    assert ran.code == 0, ran.err
    results = labelled(config, tmp_path, "deepglobe")
    check_scores(results, {str(n): truths[n] for n in read_settings(config).data.test_ids}, 6)


@pytest.mark.slow
@pytest.mark.parametrize("small", [False, True])
def test_openearthmap_from_the_download_to_scored_maps(tmp_path, without_pictures, small):
    """Regions differ in size and CRS; xBD's have labels alone, though the lists name them; test images have no labels."""
    root, truths = tmp_path / "openearthmap", {}
    tiles = [("aachen", n) for n in range(1, 13)] + [("les_cayes", n) for n in range(1, 9)]
    bare = [("santa-rosa-wildfire", 7), ("santa-rosa-wildfire", 8)]  # of xBD
    for region, number in [*tiles, *bare, ("tokyo", 1)]:
        image, labels = scene(number, 9, *((48, 40) if region == "aachen" else (40, 72)))
        place = {"crs": rasterio.CRS.from_epsg(32632 if region == "aachen" else 32618)}
        for folder, array, suffix in (("images", image, ".jpg"), ("labels", labels, ".png")):
            path = root / f"{region}/{folder}/{region}_{number}{suffix if small else '.tif'}"
            if (region, folder) in (("santa-rosa-wildfire", "images"), ("tokyo", "labels")):
                continue
            if small:
                picture(path, array)
            else:
                write_raster(path, array if array.ndim == 2 else array.transpose(2, 0, 1), **place)
        truths[f"{region}_{number}"] = labels
    lists = {"train": [*tiles[:16], bare[0]], "val": [*tiles[16:], bare[1]], "test": [("tokyo", 1)]}
    for split, ids in lists.items():
        (root / f"{split}.txt").write_text("".join(f"{region}_{number}.tif\n" for region, number in ids))
    (root / "xbd_files.csv").write_text("santa-rosa-wildfire_7.tif,santa-rosa-wildfire_00000007_pre_disaster\n")
    suffixes = {'_suffix = ".tif"  #': '_suffix = ".jpg"  #', '_mask_suffix = ".tif"': '_mask_suffix = ".png"'} if small else {}
    config = block(tmp_path, "openearthmap", **EDITS, **suffixes)
    folders = sorted(root.glob("*/labels"))
    ran = call("convert_gt", *folders, "--from-index", "--out", root / "gts_numpy", "--config", config)
    assert ran.code == 0, ran.err
    settings = read_settings(config)
    assert len(settings.data.train_ids + settings.data.val_ids) == 16
    assert settings.data.test_ids == tiles[16:]
    results = labelled(config, tmp_path, "openearthmap")
    tested = [f"{region}_{number}" for region, number in tiles[16:]]
    check_scores(results, {name: truths[name] for name in tested}, 9)
    assert {f"{name}_labels.tif" for name in tested} < set(names(results))
    if not small:
        with rasterio.open(results / "les_cayes_8_labels.tif") as file:
            assert file.crs == rasterio.CRS.from_epsg(32618)
            assert file.colormap(1)[8][:3] == OPEN_EARTH[8]
