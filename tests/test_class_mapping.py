"""Proves that ground truth with other classes, colours, numbers or faults becomes our labels as the config says, and that
what does not fit is named: classes left out, artefacts of JPEG, masks resampled with interpolation, a foreground that is
nowhere."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from conftest import call, pixels, refused, write_config, write_raster
from PIL import Image

from tools.base.errors import UserError
from tools.inference.labeller import Labeller
from tools.inference.window_size import Windows
from tools.labels import masks
from tools.labels.class_mapping import Legend, label_of
from tools.labels.palette import Palette
from tools.settings import read_settings

NAMES = ["land", "built", "water"]
PALETTE = {0: (10, 10, 10), 1: (250, 0, 0), 2: (0, 0, 250), 3: (0, 0, 0)}  # 3: not scored
COLOURS = {"urban": (0, 255, 255), "road": (255, 255, 0), "sea": (0, 0, 255), "field": (0, 255, 0), "unknown": (0, 0, 0)}
MAPPING = {"urban": "built", "road": "built", "sea": "water", "field": "land", "unknown": None}
OURS = Palette(NAMES, PALETTE)


def colour_mask(rows):
    """A picture, h x w x 3, of classes of COLOURS by name."""
    return np.array([[COLOURS[name] for name in row] for row in rows], np.uint8)


@pytest.fixture
def convert(tmp_path):
    """Run convert_gt.py on files with these settings; what it makes goes to tmp_path/out."""

    def run(*words, **changes):
        settings = {"label_values": NAMES, "palette": PALETTE, "IGNORE_LABEL": None} | changes
        config = write_config(tmp_path / "config.py", tmp_path, **settings)
        return call("convert_gt", *words, "--out", tmp_path / "out", "--overwrite", "--config", config)

    return run


def labels_of(folder, name):
    """The labels of a file that convert_gt.py made."""
    return pixels(folder / "out" / name)[0].tolist()


# ------------------------------------------------------------------------------------------------------------ the mapping


def test_classes_are_joined_renamed_and_dropped():
    legend = Legend(OURS, COLOURS, MAPPING)
    assert legend.names == {"urban": 1, "road": 1, "sea": 2, "field": 0, "unknown": 3}
    assert legend.colours == {(0, 255, 255): 1, (255, 255, 0): 1, (0, 0, 255): 2, (0, 255, 0): 0, (0, 0, 0): 3}


def test_without_a_mapping_the_palette_is_both():
    legend = Legend(OURS)
    assert legend.names == {"land": 0, "built": 1, "water": 2}
    assert legend.colours == {(10, 10, 10): 0, (250, 0, 0): 1, (0, 0, 250): 2, (0, 0, 0): 3}
    assert legend.numbers == {0: 0, 1: 1, 2: 2, 3: 3}


def test_other_colours_alone_need_no_mapping():
    assert Legend(OURS, {"water": 7, "land": 4, "built": 9}).numbers == {7: 2, 4: 0, 9: 1}


@pytest.mark.parametrize(
    ("classes", "mapping", "words"),
    [
        (COLOURS, {k: v for k, v in MAPPING.items() if k != "road"}, "CLASS_MAPPING leaves out road"),
        (COLOURS, MAPPING | {"rod": "built"}, "maps 'rod', which SOURCE_CLASSES does not have. Did you mean 'road'?"),
        (COLOURS, MAPPING | {"sea": "wter"}, "makes 'sea' a 'wter', which label_values does not have. Did you mean 'water'?"),
        (COLOURS, None, "SOURCE_CLASSES has 'urban', label_values has not"),
        ({"a": 1, "b": 1}, {"a": "land", "b": "water"}, "gives 1 to both 'a' and 'b'"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(classes, mapping, words):
    with pytest.raises(UserError) as found:
        Legend(OURS, classes, mapping)
    assert words in str(found.value)


def test_a_class_cannot_be_dropped_where_no_label_is_left_for_it():
    with pytest.raises(UserError, match=r"drops 'unknown', but the palette has no label .* add 3"):
        Legend(Palette(NAMES, {k: v for k, v in PALETTE.items() if k != 3}), COLOURS, MAPPING)


def test_a_mistake_in_the_mapping_is_found_when_the_config_is_read(convert):
    broken = {k: v for k, v in MAPPING.items() if k != "road"}
    refused(convert("a.png", "--from-color", SOURCE_CLASSES=COLOURS, CLASS_MAPPING=broken), "config.py", "leaves out road")


def test_a_class_may_be_named_as_there_or_as_here():
    legend = Legend(OURS, COLOURS, MAPPING)
    assert (label_of("road", legend), label_of("water", legend)) == (1, 2)
    with pytest.raises(UserError, match=r"no class 'raod'\. Did you mean 'road'"):
        label_of("raod", legend)


# -------------------------------------------------------------------------------------------------------- masks in colour


def test_a_colour_mask_is_mapped_and_drawn_in_our_colours(convert, tmp_path):
    Image.fromarray(colour_mask([["urban", "sea"], ["road", "unknown"], ["field", "field"]])).save(tmp_path / "a.png")
    ran = convert(tmp_path / "a.png", "--from-color", SOURCE_CLASSES=COLOURS, CLASS_MAPPING=MAPPING)
    assert ran.code == 0, ran.err
    assert labels_of(tmp_path, "a.png") == [[1, 2], [1, 3], [0, 0]]
    with rasterio.open(tmp_path / "out/a.png") as file:
        assert {k: v[:3] for k, v in file.colormap(1).items() if k in PALETTE} == PALETTE
    details = json.loads((tmp_path / "out/details.json").read_text())
    assert details["pixels"] == {"land": 2, "built": 2, "water": 1}
    assert details["pixels_not_scored"] == 1
    assert details["class_mapping"] == MAPPING


def test_bands_are_thresholded_before_they_are_matched(convert, tmp_path):
    Image.fromarray(np.array([[(3, 128, 255), (127, 127, 200), (255, 130, 9)]], np.uint8)).save(tmp_path / "a.png")
    changes = {"SOURCE_CLASSES": COLOURS, "CLASS_MAPPING": MAPPING}
    assert convert(tmp_path / "a.png", "--from-color", "--threshold", **changes).code == 0
    assert labels_of(tmp_path, "a.png") == [[1, 2, 1]]
    assert convert(tmp_path / "a.png", "--from-color", "--threshold", 127, **changes).code == 2  # (255, 255, 255) is no class


def test_the_nearest_class_is_taken_within_the_distance_and_none_beyond(convert, tmp_path):
    Image.fromarray(np.array([[(250, 6, 8), (13, 14, 10), (0, 0, 220)]], np.uint8)).save(tmp_path / "a.png")
    assert convert(tmp_path / "a.png", "--from-color", "--nearest", 10).code == 2
    assert convert(tmp_path / "a.png", "--from-color", "--nearest", 10, "--unknown", "ignore").code == 0
    assert labels_of(tmp_path, "a.png") == [[1, 0, 3]]  # 10 and 5 away; 30 is too far
    assert convert(tmp_path / "a.png", "--from-color", "--nearest", 30).code == 0
    assert labels_of(tmp_path, "a.png") == [[1, 0, 2]]


def test_a_jpeg_mask_is_named_as_such_and_can_be_converted(convert, tmp_path):
    labels = np.kron([[0, 1], [2, 1]], np.ones((32, 32), int))
    table = np.array([PALETTE[i] for i in range(3)], np.uint8)
    Image.fromarray(table[labels]).save(tmp_path / "a.jpg", quality=90)
    refused(convert(tmp_path / "a.jpg", "--from-color"), "a.jpg", "artefacts of JPEG", "--nearest", "--threshold")
    assert convert(tmp_path / "a.jpg", "--from-color", "--nearest", 130).code == 0
    assert (pixels(tmp_path / "out/a.png")[0] == labels).mean() > 0.97


def test_a_mask_resampled_with_interpolation_is_named_as_such(convert, tmp_path):
    labels = np.kron([[0, 1, 2], [2, 1, 0]], np.ones((8, 8), int))
    picture = Image.fromarray(np.array([PALETTE[i] for i in range(3)], np.uint8)[labels])
    picture.resize((40, 27), Image.Resampling.BILINEAR).save(tmp_path / "a.png")
    refused(convert(tmp_path / "a.png", "--from-color"), "between the colours of two classes", "nearest neighbour")
    picture.resize((40, 27), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    assert convert(tmp_path / "a.png", "--from-color").code == 0


def test_a_single_colour_out_of_the_palette_is_not_taken_for_a_resampled_mask(convert, tmp_path):
    picture = np.zeros((9, 9, 3), np.uint8)
    picture[:2] = (200, 100, 30)
    Image.fromarray(picture).save(tmp_path / "a.png")
    ran = convert(tmp_path / "a.png", "--from-color")
    refused(ran, "(200, 100, 30) on 18 pixels", "Add them to the palette")
    assert "between" not in ran.sentence


def test_what_is_not_scored_is_said(convert, tmp_path):
    Image.fromarray(np.array([[(1, 2, 3), (250, 0, 0), (0, 0, 0), (250, 0, 0)]], np.uint8)).save(tmp_path / "a.png")
    ran = convert(tmp_path / "a.png", "--from-color", "--unknown", "ignore")
    assert "1 of 4 pixels (25.000%) are of no class and not scored; most of them have (1, 2, 3)" in ran.out


def test_a_large_mask_is_converted_strip_by_strip(convert, tmp_path, monkeypatch):
    labels = np.random.default_rng(0).integers(0, 4, (700, 40)).astype(np.uint8)
    table = np.array([PALETTE[i] for i in range(4)], np.uint8)
    write_raster(tmp_path / "a.tif", table[labels].transpose(2, 0, 1))
    monkeypatch.setattr(masks.strips, "__defaults__", (40 * 256,))
    assert len(list(masks.strips(700, 40))) == 3
    assert convert(tmp_path / "a.tif", "--from-color").code == 0
    assert np.array_equal(pixels(tmp_path / "out/a.tif")[0], labels)


# ------------------------------------------------------------------------------------------------------ masks of numbers


def test_numbers_are_mapped(convert, tmp_path):
    numbers = {"urban": 21, "road": 22, "sea": 41, "field": 300, "unknown": 0}
    write_raster(tmp_path / "a.tif", np.array([[21, 22, 0], [41, 300, 300]], np.uint16))
    ran = convert(tmp_path / "a.tif", "--from-index", SOURCE_CLASSES=numbers, CLASS_MAPPING=MAPPING)
    assert ran.code == 0, ran.err
    assert labels_of(tmp_path, "a.tif") == [[1, 1, 3], [2, 0, 0]]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8])
def test_unknown_numbers_are_named_with_their_counts(convert, tmp_path, dtype):
    strange = np.array([9, -5 if np.dtype(dtype).kind == "i" else 200], dtype)
    write_raster(tmp_path / "a.tif", np.array([[0, 1, strange[0]], [2, strange[0], strange[1]]], dtype))
    refused(convert(tmp_path / "a.tif", "--from-index"), "a.tif", "9 on 2 pixels", f"{strange[1]} on 1 pixels")
    assert convert(tmp_path / "a.tif", "--from-index", "--unknown", "ignore").code == 0
    assert labels_of(tmp_path, "a.tif") == [[0, 1, 3], [2, 3, 3]]


def test_declared_nodata_never_becomes_a_class(convert, tmp_path):
    write_raster(tmp_path / "a.tif", np.array([[0, 1, 2, 0]], np.uint8), nodata=0)
    assert convert(tmp_path / "a.tif", "--from-index").code == 0
    assert labels_of(tmp_path, "a.tif") == [[3, 1, 2, 3]]


def test_a_palette_png_can_be_read_by_its_numbers(convert, tmp_path):
    picture = Image.fromarray(np.array([[2, 0, 1]], np.uint8), "P")
    picture.putpalette([7] * 9)
    picture.save(tmp_path / "a.png")
    assert convert(tmp_path / "a.png", "--from-index").code == 0
    assert labels_of(tmp_path, "a.png") == [[2, 0, 1]]


def test_colours_are_not_taken_for_numbers_nor_floats(convert, tmp_path):
    path = write_raster(tmp_path / "colours.tif", np.zeros((3, 4, 4), np.uint8))
    refused(convert(path, "--from-index"), path, "not one band of class numbers")
    path = write_raster(tmp_path / "shares.tif", np.full((4, 4), 0.5, np.float32))
    refused(convert(path, "--from-index"), path, "numbers such as 0.5 on 16 pixels, which are not whole")


def test_classes_by_colour_cannot_be_read_as_numbers_and_the_other_way(convert):
    changes = {"SOURCE_CLASSES": COLOURS, "CLASS_MAPPING": MAPPING}
    refused(convert(__file__, "--from-index", **changes), "SOURCE_CLASSES does not give", "--from-index")
    numbers = {"SOURCE_CLASSES": {"land": 1, "built": 2, "water": 3}}
    refused(convert(__file__, "--from-color", **numbers), "SOURCE_CLASSES does not give", "--from-color")


# -------------------------------------------------------------------------------------------------------- binary problems

TWO = {"label_values": ["other", "roof"], "palette": {0: (0, 0, 0), 1: (255, 255, 255)}}


def test_one_colour_or_number_is_the_foreground_and_all_else_the_background(convert, tmp_path):
    Image.fromarray(np.array([[(255, 0, 0), (1, 2, 3)], [(0, 0, 0), (255, 0, 0)]], np.uint8)).save(tmp_path / "a.png")
    ran = convert(tmp_path / "a.png", "--from-color", "--foreground", "255,0,0", **TWO)
    assert ran.code == 0, ran.err
    assert labels_of(tmp_path, "a.png") == [[1, 0], [0, 1]]
    write_raster(tmp_path / "b.tif", np.array([[255, 0, 7]], np.uint8))
    assert convert(tmp_path / "b.tif", "--from-index", "--foreground", 255, **TWO).code == 0
    assert labels_of(tmp_path, "b.tif") == [[1, 0, 0]]


@pytest.mark.parametrize("way", ["--from-color", "--from-index"])
def test_a_black_and_white_mask_is_answered_with_the_option_that_reads_it(convert, tmp_path, way):
    write_raster(tmp_path / "a.tif", np.array([[0, 255]], np.uint8))
    refused(convert(tmp_path / "a.tif", way, **TWO), "a.tif", "--foreground 255")


def test_a_foreground_that_is_nowhere_is_refused_with_what_there_is(convert, tmp_path):
    path = write_raster(tmp_path / "a.tif", np.array([[255, 0, 0]], np.uint8))
    refused(convert(path, "--from-index", "--foreground", 1, **TWO), "no pixel has the foreground 1", "255 on 1 pixels")
    assert not (tmp_path / "out").exists()


def test_a_foreground_needs_two_classes_and_the_right_form(convert, tmp_path):
    path = write_raster(tmp_path / "a.tif", np.array([[255, 0, 0]], np.uint8))
    refused(convert(path, "--from-index", "--foreground", 1), "label_values has 3")
    refused(convert(path, "--from-index", "--foreground", "1,2,3", **TWO), "a number with --from-index")
    for sign in ("white", "1,2", "1,2,256", "65536"):
        assert convert(path, "--from-index", "--foreground", sign, **TWO).code == 2
    assert convert(path, "--from-index", "--threshold", **TWO).code == 2


@pytest.mark.parametrize("fate", ["ignore", "error"])
def test_beside_a_foreground_nothing_is_unknown(convert, tmp_path, fate):
    path = write_raster(tmp_path / "a.tif", np.array([[255, 0, 7]], np.uint8))
    ran = convert(path, "--from-index", "--foreground", 255, "--unknown", fate, **TWO)
    refused(ran, f"--unknown {fate} does not go with --foreground", "SOURCE_CLASSES")
    assert not (tmp_path / "out").exists()


def test_the_threshold_chooses_the_second_class_above_it():
    probabilities = torch.tensor([[[0.8, 0.65, 0.3]], [[0.2, 0.35, 0.7]]])
    two = SimpleNamespace(classes=2)
    labeller = Labeller(two, [], Windows((1, 1), (1, 1)), 1, None)
    assert labeller.choose(probabilities).tolist() == [[0, 0, 1]]
    labeller = Labeller(two, [], Windows((1, 1), (1, 1)), 1, None, 0.3)
    assert labeller.choose(probabilities).tolist() == [[0, 1, 1]]
    assert labeller.choose(probabilities).dtype == torch.uint8


def test_a_threshold_is_for_two_classes_only(tmp_path):
    with pytest.raises(UserError, match=r"THRESHOLD = 0\.3 is for two classes, label_values has 6"):
        read_settings(write_config(tmp_path / "config.py", tmp_path, THRESHOLD=0.3))
    two = TWO | {"IGNORE_LABEL": None, "THRESHOLD": 0.3}
    assert read_settings(write_config(tmp_path / "config.py", tmp_path, **two)).inference.THRESHOLD == 0.3


@pytest.mark.parametrize(
    "changes",
    [
        {"THRESHOLD": 0.0}, {"THRESHOLD": 1.0}, {"THRESHOLD": "half"}, {"SOURCE_CLASSES": {}}, {"SOURCE_CLASSES": {"a": -1}},
        {"SOURCE_CLASSES": {"a": 65536}},
        {"SOURCE_CLASSES": {"a": (0, 0, 256)}}, {"SOURCE_CLASSES": {"a": 1, "b": (0, 0, 0)}}, {"CLASS_MAPPING": {"a": 3}},
        {"CLASS_MAPPING": ["a"]}, {"LABEL_ATTRIBUTE": ""}, {"LABEL_BACKGROUND": 0}, {"LABEL_BACKGROUND": "lnad"},
    ],
)  # fmt: skip
def test_a_setting_of_the_wrong_form_is_named(tmp_path, changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        read_settings(write_config(tmp_path / "config.py", tmp_path, **TWO | {"IGNORE_LABEL": None} | changes))
