"""Proves that tools.show draws what the files hold, counts all labels, and warns of classes that are absent or rare."""

import numpy as np
import pytest
from conftest import COLOURS, NAMES, call, pixels, refused, write_raster
from PIL import Image

from tools.data.augmentation import Augmentation, bands_of
from tools.data.operations import read_recipe
from tools.data.patches import read_patch
from tools.labels.palette import Palette
from tools.settings import read_settings
from tools.show import sheet
from tools.show.samples import Tiles, count, open_folder, with_versions

ISPRS = Palette(NAMES, COLOURS)


def png(path):
    """The pixels (h x w x 3) of a picture that must be a PNG."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def shown(*words):
    return call("tools.show", *words)


# -------------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("kind", ["patches", "lmdb"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_picture_is_made_of_patches_and_of_databases(databases, tmp_path, kind, split):
    out = tmp_path / "a.png"
    ran = shown(databases.folder(kind), "--split", split, "--count", 3, "--out", out)
    assert ran.code == 0, ran.err
    picture = png(out)
    for label in range(6):  # each class has at least its swatch
        assert (picture == COLOURS[label]).all(-1).sum() > 300, label
    total = {"train": 240, "val": 20, "test": 9}[split]
    assert f"{split}: 3 of {total} patches" in ran.out
    assert f"picture: {out}" in ran.out


def test_tiles_are_shown_in_all_modalities(tiles, tmp_path):
    config = tiles.config(INPUTS={"a": ["irrg"], "b": ["dsm"]}, MEAN_PIXEL={})
    ran = shown("--config", config, "--tiles", 1, 32, "--out", tmp_path / "a.png")
    tiles.config()
    assert ran.code == 0, ran.err
    assert "vaihingen: 2 of 2 tiles" in ran.out
    assert png(tmp_path / "a.png").shape[1] > 3 * 2.6 * 120  # three panels side by side


def test_the_picture_lies_beside_the_folder_and_is_not_overwritten(patches, tmp_path):
    town = patches.copy(tmp_path, "patches")
    assert shown(town.folder("patches")).code == 0
    assert png(tmp_path / "vaihingen_patches_train.png").std() > 1
    refused(shown(town.folder("patches")), "vaihingen_patches_train.png exists already", "--overwrite")
    assert shown(town.folder("patches"), "--overwrite").code == 0


def test_the_seed_chooses_the_patches(databases, tmp_path):
    pictures = []
    for i, seed in enumerate((1, 1, 2)):
        words = ["--count", 4, "--seed", seed, "--out", tmp_path / f"{i}.png"]
        assert shown(databases.folder("patches"), *words).code == 0
        pictures.append(png(tmp_path / f"{i}.png"))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_more_patches_than_there_are_means_all_of_them(databases, tmp_path):
    ran = shown(databases.folder("lmdb"), "--split", "test", "--count", 99, "--out", tmp_path / "a.png")
    assert "9 of 9 patches" in ran.out


# ----------------------------------------------------------------------------------------------------- before and after

RECIPE = {"flip": {}, "turn": {}, "rotate": {"degrees": 45}, "brightness": {"modalities": ["irrg"]}}


@pytest.mark.parametrize("kind", ["patches", "lmdb"])
def test_patches_are_drawn_before_and_after_augmentation(databases, tmp_path, kind):
    config = databases.config(AUGMENTATION=RECIPE)
    words = [databases.folder(kind), "--config", config, "--seed", 2, "--count", 3]
    ran = shown(*words, "--augmented", 4, "--out", tmp_path / "a.png")
    assert ran.code == 0, ran.err
    assert "train: 3 of 240 patches, augmented" in ran.out
    assert shown(*words, "--augmented", 4, "--out", tmp_path / "b.png").code == 0
    assert np.array_equal(png(tmp_path / "a.png"), png(tmp_path / "b.png"))
    assert (png(tmp_path / "a.png") == COLOURS[6]).all(-1).sum() > 1000  # corners that are not scored
    databases.config()


def test_each_patch_is_followed_by_what_is_made_of_it(databases):
    source = open_folder(databases.folder("lmdb"), "val")
    turned = Augmentation(read_recipe({"turn": {}}, ["irrg"], (32, 32)), bands_of(source.details["modalities"], []), 6, 1)
    samples = with_versions(source, [4, 9], turned, 5)
    assert len(samples) == 12
    for first, record in ((0, 4), (6, 9)):
        assert samples[first].name == source[record].name
        for sample in samples[first : first + 6]:
            fits = [np.array_equal(np.rot90(source[record].labels, k), sample.labels) for k in range(4)]
            turns = [
                np.array_equal(np.rot90(source[record].images["irrg"], k, (1, 2)), sample.images["irrg"]) for k in range(4)
            ]
            assert fits == turns
            assert any(fits)
    assert len({sample.labels.tobytes() for sample in samples[:6]}) > 1


def test_what_cannot_be_augmented_is_said(databases, tmp_path):
    lmdb = databases.folder("lmdb")
    words = ["--augmented", "--config"]
    refused(shown(lmdb, *words, databases.config()), "AUGMENTATION is {}")
    config = databases.config(AUGMENTATION=RECIPE)
    refused(shown("--tiles", 1, *words, config), "not --tiles")
    refused(shown(lmdb, *words, databases.config(AUGMENTATION=RECIPE, patch_size=(16, 16))), "patch_size = [32, 32]")
    refused(
        shown(lmdb, *words, databases.config(AUGMENTATION={"flip": {}}, INPUTS={"a": ["dsm"]}, MEAN_PIXEL={})), "has no dsm"
    )
    databases.config()


# --------------------------------------------------------------------------------------------------------------- samples


def test_patches_and_records_are_the_same_samples_in_the_files_band_order(databases):
    patches, records = (open_folder(databases.folder(kind), "val") for kind in ("patches", "lmdb"))
    by_name = {sample.name: sample for sample in (records[i] for i in range(len(records)))}
    assert len(by_name) == len(patches) == 20
    for i in range(len(patches)):
        name, images, labels = patches[i]
        file = databases.folder("patches") / f"irrg_val/{name}.png"
        for found in (images, by_name[name].images):
            assert list(found) == ["irrg"]
            assert np.array_equal(found["irrg"], read_patch(file))
        assert np.array_equal(labels, by_name[name].labels)
    assert np.array_equal(count(patches.labels()), count(records.labels()))


def test_tiles_count_all_of_their_labels_though_they_are_drawn_small(tiles):
    settings = read_settings(tiles.config())
    source = Tiles(settings.data, settings.classes.colours, [1, 3], most=40)
    assert source[0].images["irrg"].shape == (3, 32, 40)
    assert source[0].labels.shape == (32, 40)
    labels = np.concatenate([pixels(tiles.path("labels", t)).ravel() for t in (1, 3)])
    assert np.array_equal(count(source.labels()), np.bincount(labels, minlength=256))


def test_labels_without_a_class_are_black_and_unknown_ones_grey():
    labels = np.array([[0, 5, 6, 9]], np.uint8)
    assert sheet.label_picture(labels, ISPRS)[0].tolist() == [[255, 255, 255], [255, 0, 0], [0, 0, 0], [160, 160, 160]]
    without = Palette(NAMES[:2], {0: (9, 9, 9), 1: (200, 0, 0)})
    assert sheet.label_picture(np.array([[255, 1]], np.uint8), without)[0].tolist() == [[0, 0, 0], [200, 0, 0]]


def test_heights_are_stretched_alike_in_all_patches():
    limits = ([250.0], [300.0])
    low, high = (sheet.picture(np.full((1, 2, 2), v, np.float32), limits) for v in (260, 290))
    assert (low[0, 0].tolist(), high[0, 0].tolist()) == ([51] * 3, [204] * 3)
    assert sheet.picture(np.array([[[np.nan, 400.0]]], np.float32), limits)[0].tolist() == [[0] * 3, [255] * 3]


# -------------------------------------------------------------------------------------------------------------- counting


def counts(**pixels_of):
    found = np.zeros(256, np.int64)
    for label, n in pixels_of.items():
        found[int(label[1:])] = n
    return found


def test_shares_by_hand():
    by_class, unlabelled = sheet.shares(counts(_0=30, _1=10, _3=60, _6=80, _255=20), ISPRS)
    assert by_class.tolist() == [0.3, 0.1, 0, 0.6, 0, 0]
    assert unlabelled == 0.5


def test_absent_and_rare_classes_are_warned_of():
    few = counts(_0=10_000, _1=10_000, _2=10_000, _3=2, _4=4, _6=1_000_000)
    warnings = sheet.find_warnings(few, ISPRS)
    assert warnings == [
        "no pixel is clutter: a net cannot learn it.",
        "only 2 of 30,006 labelled pixels are tree, fewer than one in 10,000.",
    ]
    assert sheet.find_warnings(counts(_6=10), ISPRS) == ["no pixel has a label."]
    assert sheet.find_warnings(counts(**{f"_{i}": 5 for i in range(6)}), ISPRS) == []


def test_warnings_reach_the_screen_and_the_picture(town, tmp_path):
    for tile in (1, 3, 5):
        write_raster(town.path("labels", tile), np.where(pixels(town.path("labels", tile)) == 4, 6, 1).astype(np.uint8), tile)
    assert call("extract_images", "--config", town.config()).code == 0
    ran = shown(town.folder("patches"), "--out", tmp_path / "a.png")
    assert "warning: no pixel is car: a net cannot learn it." in ran.out
    assert "building               100.0 %" in ran.out
    red = (png(tmp_path / "a.png").astype(int) - (0xB3, 0, 0) == 0).all(-1).sum()
    assert red > 100


@pytest.mark.parametrize(("share", "words"), [(0, "0.0 %"), (1, "100.0 %"), (0.0314, "3.1 %"), (0.000042, "0.0042 %")])
def test_percent(share, words):
    assert sheet.percent(share) == words


# -------------------------------------------------------------------------------------------------------------- bad input


def test_mistakes_are_one_sentence(databases, tmp_path):
    lmdb = databases.folder("lmdb")
    refused(shown(), "name either a folder")
    refused(shown(lmdb, "--tiles", 1), "name either a folder")
    refused(shown(tmp_path / "none"), "is no folder")
    refused(shown(tmp_path), "has no details.json")
    refused(shown("--tiles", 99, "--config", databases.config()), "area99.tif and its like do not exist")
    refused(shown(lmdb, "--out", tmp_path / "a.jpg"), "a.jpg: the picture is a PNG")
    (tmp_path / "details.json").write_text("{}")
    refused(shown(tmp_path), "details.json is damaged", "has no 'dataset'")


def test_a_split_that_is_not_there_is_said(town):
    changes = {"val_ids": [], "test_ids": []}
    assert call("extract_images", "--config", town.config(**changes)).code == 0
    refused(shown(town.folder("patches"), "--split", "val"), "has no val patches: it has train")
