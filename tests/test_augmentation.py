"""Proves that augmentation keeps image and label together, invents no class and no data, is exact where it can be, and depends
on the seed and the position in the run alone."""

import importlib

import numpy as np
import pytest
import torch
from conftest import call, names, refused, write_config
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tools.base.choices import REQUIRED
from tools.base.errors import UserError
from tools.compute.torchvision_guard import torchvision
from tools.data import augmentation
from tools.data.augmentation import Augmentation, View, bands_of, move, record_weights, resample
from tools.data.augmentation import resample_labels as labels_at
from tools.data.inputs import make_inputs
from tools.data.loader import BatchOrder, Patches, batches
from tools.data.operations import OPERATIONS, read_recipe
from tools.settings import read_settings
from tools.weights import snapshots

functional = importlib.import_module(f"{torchvision.__name__}.transforms.v2.functional")  # after the guard has let it in

SIZE, NO_LABEL = (40, 40), 6
MODALITIES = {"irrg": ("uint8", 3), "ms": ("uint16", 5), "dsm": ("float32", 1)}
TONED = [name for name, numbers in OPERATIONS.items() if "modalities" in numbers and name != "dropout"]
CERTAIN = {"probability": 1}


def record(seed, size=SIZE):
    """Images in three pixel types and labels, all random; each pixel of an image can be told from most others."""
    random = np.random.default_rng([seed, 77])
    images = {
        "irrg": random.integers(0, 256, (3, *size), np.uint8),
        "ms": random.integers(1, 4000, (5, *size), np.uint16),
        "dsm": random.normal(270, 3, (1, *size)).astype(np.float32),
    }
    return images, random.integers(0, NO_LABEL, size, np.uint8)


ABOUT = {
    "irrg": {"bands": 3, "dtype": "uint8", "mean": [127.0] * 3, "deviation": [74.0, 70.0, 60.0], "low": [5.0] * 3,
             "high": [250.0] * 3},
    "ms": {"bands": 5, "dtype": "uint16", "mean": [2000.5] * 5, "deviation": [1150.0] * 5, "low": [80.0] * 5,
           "high": [3900.0] * 5},
    "dsm": {"bands": 1, "dtype": "float32", "mean": [270.1], "deviation": [3.1], "low": [264.0], "high": [276.0]},
}  # fmt: skip


def inputs(normalisation="mean", picks=None, bgr=True):
    """All three modalities in two inputs."""
    wanted = {"image": [("irrg", None), ("ms", picks)], "height": [("dsm", None)]}
    return make_inputs(wanted, ABOUT, {}, dict.fromkeys(ABOUT, normalisation), bgr)


def ready(recipe, size=SIZE, seed=1, bands=None):
    return Augmentation(read_recipe(recipe, list(ABOUT), size), bands or bands_of(ABOUT, inputs()), NO_LABEL, seed)


def augmented(recipe, position=0, which=3, records=8, read=record, **options):
    return ready(recipe, **options)(read, records, which, position)


def assert_same(one, other):
    assert np.array_equal(one[1], other[1])
    for modality, image in other[0].items():
        assert one[0][modality].dtype == image.dtype
        assert np.array_equal(one[0][modality], image, equal_nan=image.dtype.kind == "f"), modality


def places(size=SIZE):
    """A record whose image tells of each pixel where it lay, in row and column; its labels are coarse squares."""
    rows, columns = np.indices(size)
    coarse = (rows // 7 * 3 + columns // 5) % NO_LABEL
    return {"dsm": np.stack([rows, columns]).astype(np.float32)}, coarse.astype(np.uint8)


def where(recipe, position, size=SIZE):
    """Row and column that each pixel of a sample shows, its label, and the record's labels."""
    about = {"dsm": {"mean": [0.0] * 2, "deviation": [1.0] * 2, "low": [0.0] * 2, "high": [1.0] * 2}}
    sample = ready(recipe, size, bands=bands_of(about, []))(lambda i: places(size), 1, 0, position)
    return sample[0]["dsm"], sample[1], places(size)[1]


# --------------------------------------------------------------------------------------------------------- exact operations


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("left_right", [False, True])
@pytest.mark.parametrize("top_bottom", [False, True])
def test_mirrors_and_quarter_turns_are_numpys(quarters, left_right, top_bottom):
    expected = record(0)[0]["ms"]
    expected = np.flip(expected, 2) if left_right else expected
    expected = np.flip(expected, 1) if top_bottom else expected
    for _ in range(quarters):  # counter-clockwise: the last column becomes the first row
        expected = np.flip(np.transpose(expected, (0, 2, 1)), 1)
    assert np.array_equal(move(record(0)[0]["ms"], left_right, top_bottom, quarters), expected)


def test_a_sample_is_one_of_the_eight_symmetries_bit_for_bit_in_all_modalities_and_labels_alike():
    images, labels = record(3)
    kinds = [(flip, turns) for flip in (False, True) for turns in range(4)]
    seen = set()
    for position in range(60):
        found, found_labels = augmented({"flip": {}, "turn": {}}, position)
        (kind,) = [k for k in kinds if np.array_equal(found_labels, move(labels, k[0], False, k[1]))]
        seen.add(kind)
        assert_same((found, found_labels), ({m: move(i, kind[0], False, kind[1]) for m, i in images.items()}, found_labels))
    assert seen == set(kinds)


def test_a_mirror_image_that_is_switched_off_does_not_occur():
    labels = record(3)[1]
    for position in range(30):
        found = augmented({"flip": {"top_bottom": 0}}, position)[1]
        assert np.array_equal(found, labels) or np.array_equal(found, labels[:, ::-1])


def test_a_crop_is_a_window_of_the_record_and_reaches_all_of_it():
    images, labels = record(3)
    corners = set()
    for position in range(400):
        found, found_labels = augmented({"crop": {"height": 32, "width": 36}}, position)
        assert found_labels.shape == (32, 36)
        corner = next(
            (r, c) for r in range(9) for c in range(5) if np.array_equal(labels[r : r + 32, c : c + 36], found_labels)
        )
        corners.add(corner)
        window = {m: i[:, corner[0] : corner[0] + 32, corner[1] : corner[1] + 36] for m, i in images.items()}
        assert_same((found, found_labels), (window, found_labels))
    assert len(corners) == 9 * 5


def test_a_sample_that_nothing_happens_to_is_the_record():
    rarely = {"probability": 1e-9}
    for recipe in ({}, {"mosaic": rarely, "scale": rarely, "noise": {"modalities": list(ABOUT)} | rarely, "dropout": rarely}):
        assert_same(augmented(recipe), record(3))


def test_the_record_itself_is_never_written_to():
    once = record(3)
    every = dict.fromkeys(("mosaic", "cutmix", "scale"), CERTAIN) | {n: {"modalities": list(ABOUT)} | CERTAIN for n in TONED}
    for recipe in ({n: numbers} for n, numbers in every.items()):
        augmented(recipe, read=lambda _: once)
        assert_same(once, record(3))


# -------------------------------------------------------------------------------------------------------------- geometry

GEOMETRY = {
    "flip": {"flip": {}}, "turn": {"turn": {}}, "rotate": {"rotate": {"degrees": 180} | CERTAIN},
    "enlarge": {"scale": {"smallest": 1, "largest": 2} | CERTAIN},
    "shrink": {"scale": {"smallest": 0.5, "largest": 1} | CERTAIN},
    "crop": {"crop": {"height": 24, "width": 24}},
}  # fmt: skip
GEOMETRY["all"] = {name: numbers for recipe in GEOMETRY.values() for name, numbers in recipe.items()}


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("position", range(6))
def test_each_scored_label_is_that_of_the_place_that_the_image_shows_there(name, position):
    (rows, columns), labels, whole = where(GEOMETRY[name], position)
    scored = labels != NO_LABEL
    assert scored.mean() > 0.1
    clear = scored & (abs(rows % 1 - 0.5) > 0.01) & (abs(columns % 1 - 0.5) > 0.01)  # of two pixels just as near, either
    assert np.array_equal(labels[clear], whole[np.rint(rows[clear]).astype(int), np.rint(columns[clear]).astype(int)])


@pytest.mark.parametrize("name", ["rotate", "enlarge", "shrink", "all"])
def test_neighbouring_pixels_show_places_as_far_apart_as_the_scale_says(name):
    for position in range(8):
        (rows, columns), labels, _ = where(GEOMETRY[name], position)
        inner = ndimage.binary_erosion(labels != NO_LABEL, np.ones((5, 5)))[:, :-1]
        steps = np.hypot(np.diff(rows, axis=1), np.diff(columns, axis=1))[inner]
        assert np.ptp(steps) < 1e-3
        low, high = {"rotate": (1, 1), "enlarge": (0.5, 1), "shrink": (1, 2), "all": (1, 2)}[name]
        assert low - 1e-3 <= steps.mean() <= high + 1e-3


@pytest.mark.parametrize(("degrees", "zoom"), [(0, 1.3), (17, 1), (-40, 0.6), (90, 1), (123, 0.9)])
def test_rotation_and_scale_are_torchvisions(degrees, zoom):
    images, labels = record(5, (40, 56))
    centre = (19.5, 27.5)
    at = View(centre, (40, 56), degrees, zoom).places()
    # Theirs turns clockwise for positive angles.
    options = {"angle": -degrees, "translate": [0, 0], "scale": zoom, "shear": [0.0, 0.0]}
    theirs = functional.affine(
        torch.from_numpy(labels)[None], **options, interpolation=functional.InterpolationMode.NEAREST, fill=NO_LABEL
    )[0].numpy()
    ours = labels_at(labels, *at, NO_LABEL)
    assert (ours != theirs).mean() < 0.002  # where two pixels are as near
    image = torch.from_numpy(images["ms"].astype(np.float32))
    expected = functional.affine(image, **options, interpolation=functional.InterpolationMode.BILINEAR).numpy()
    inside = (at[0] >= 0) & (at[0] <= 39) & (at[1] >= 0) & (at[1] <= 55)  # else theirs blends with the colour outside
    assert inside.mean() > 0.3
    assert np.abs(resample(images["ms"].astype(np.float32), *at) - expected)[:, inside].max() < 1


def test_a_full_quarter_turn_and_scale_1_resample_to_the_same_pixels():
    image = record(1)[0]["dsm"]
    assert np.allclose(resample(image, *View((19.5, 19.5), SIZE, 90).places()), np.rot90(image, 1, (1, 2)), atol=1e-3)


def test_what_lies_beyond_the_record_is_not_scored_and_all_else_is():
    for position in range(20):
        (rows, columns), labels, _ = where({"rotate": {"degrees": 180} | CERTAIN}, position)
        # Corners of the square that stays covered by a square turned about its middle, by elementary geometry.
        slope = np.array([np.diff(rows, axis=1)[20, 20], np.diff(columns, axis=1)[20, 20]])
        down, right = np.indices(SIZE) - 19.5
        row, column = 19.5 + slope[1] * down + slope[0] * right, 19.5 + slope[1] * right - slope[0] * down
        beyond = np.maximum(abs(row - 19.5), abs(column - 19.5)) - 20
        assert (labels[beyond > 0.01] == NO_LABEL).all()
        assert (labels[beyond < -0.01] != NO_LABEL).all()


def test_the_image_beyond_its_border_is_its_mirror_image():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    rows, columns = np.meshgrid(np.arange(-3, 6), np.arange(-4, 8), indexing="ij")
    found = resample(image, rows.astype(np.float32), columns.astype(np.float32))
    assert np.allclose(found, np.pad(image, ((0, 0), (3, 3), (4, 4)), mode="symmetric"), atol=1e-4)


@given(position=st.integers(0, 10_000), few=st.sets(st.integers(0, NO_LABEL), min_size=1, max_size=3))
def test_no_class_appears_that_was_not_there(position, few):
    chosen = np.array(sorted(few), np.uint8)

    def read(i):
        images, labels = record(i, (16, 16))
        return images, chosen[labels % len(chosen)]

    recipe = dict.fromkeys(("mosaic", "cutmix", "scale"), CERTAIN) | {"rotate": {"degrees": 90} | CERTAIN, "turn": {}}
    found = augmented(recipe, position, size=(16, 16), read=read)[1]
    assert set(np.unique(found)) <= few | {NO_LABEL}


def test_all_operations_at_once_keep_sizes_and_pixel_types():
    recipe = {n: {k: v for k, v in numbers.items() if v not in (None, REQUIRED)} for n, numbers in OPERATIONS.items()}
    recipe = {n: numbers | ({"probability": 1} if "probability" in numbers else {}) for n, numbers in recipe.items()}
    recipe |= {n: recipe[n] | {"modalities": list(ABOUT)} for n in TONED}
    recipe["rotate"]["degrees"], recipe["crop"] = 30, {"height": 32, "width": 32}
    for position in range(5):
        images, labels = augmented(recipe, position)
        assert labels.shape == (32, 32)
        assert labels.dtype == np.uint8
        for modality, (kind, bands) in MODALITIES.items():
            assert images[modality].shape == (bands, 32, 32)
            assert images[modality].dtype == kind
            assert np.isfinite(images[modality]).all()


def test_scales_are_as_often_below_1_as_above_and_rotations_as_often_left_as_right():
    recipe = {"scale": {"smallest": 0.5, "largest": 2} | CERTAIN, "rotate": {"degrees": 20} | CERTAIN}
    zooms, turns = [], []
    for position in range(300):
        (rows, columns), labels, _ = where(recipe, position)
        inner = ndimage.binary_erosion(labels != NO_LABEL, np.ones((5, 5)))  # away from where the mirror image begins
        down, right = (np.median(np.diff(places, axis=1)[inner[:, :-1]]) for places in (rows, columns))
        zooms.append(1 / np.hypot(down, right))
        turns.append(np.degrees(np.arctan2(down, right)))
    assert 0.4 < np.mean(np.array(zooms) > 1) < 0.6
    assert 0.4 < np.mean(np.array(turns) > 0) < 0.6
    assert 0.5 <= min(zooms) < 0.55 < 1.8 < max(zooms) <= 2.001
    assert 19 < np.max(np.abs(turns)) < 20.01


# ---------------------------------------------------------------------------------------------------------------- mixing


def flat(i):
    """A record whose every pixel, in image and label, says which record it is."""
    labels = np.full(SIZE, i % NO_LABEL, np.uint8)
    return {"irrg": np.full((3, *SIZE), i, np.uint8), "ms": np.full((5, *SIZE), 100 * i, np.uint16)}, labels


@pytest.mark.parametrize("name", ["cutmix", "mosaic"])
def test_mixed_samples_take_image_and_label_of_each_place_from_one_record(name):
    for position in range(30):
        images, labels = augmented({name: CERTAIN}, position, which=0, records=6, read=flat)
        assert np.array_equal(images["irrg"][0], labels)
        assert np.array_equal(images["ms"][4], 100 * labels.astype(int))


@pytest.mark.parametrize("name", ["cutmix", "mosaic"])
def test_mixed_pixels_stay_in_their_places(name):
    choices = [record(i) for i in range(4)]
    for position in range(10):
        images, labels = augmented({name: CERTAIN}, position, which=0, records=4)
        fits = [(images["dsm"] == c[0]["dsm"])[0] & (images["irrg"] == c[0]["irrg"]).all(0) & (labels == c[1]) for c in choices]
        assert np.any(fits, axis=0).all()
        assert fits[0].any()


def test_cutmix_pastes_one_rectangle_of_up_to_its_share():
    shares = []
    for position in range(200):
        pasted = (
            augmented({"cutmix": {"share": 0.4} | CERTAIN}, position, which=7, read=lambda i: flat(i if i == 7 else 2))[1] == 2
        )
        rows, columns = pasted.any(1), pasted.any(0)
        assert np.array_equal(pasted, rows[:, None] & columns[None])
        assert ndimage.label(rows)[1] <= 1 >= ndimage.label(columns)[1]
        shares.append(pasted.mean())
    assert max(shares) <= 0.42
    assert np.quantile(shares, 0.9) > 0.25
    assert np.quantile(shares, 0.2) < 0.15


def test_mosaic_is_four_quarters_that_meet_in_the_middle_half():
    corners = []
    for position in range(50):
        order = iter([0, 1, 2, 3])
        labels = augmented({"mosaic": CERTAIN}, position, which=0, read=lambda _, order=order: flat(next(order)))[1]
        row, column = int((labels[:, 0] == 0).sum()), int((labels[0] == 0).sum())
        expected = np.zeros(SIZE, int)
        expected[:row, column:], expected[row:, :column], expected[row:, column:] = 1, 2, 3
        assert np.array_equal(labels, expected)
        corners.append((row, column))
    assert 10 <= np.min(corners) <= 14
    assert 26 <= np.max(corners) <= 30


# ------------------------------------------------------------------------------------------------------------ photometry


@pytest.mark.parametrize("name", TONED)
@pytest.mark.parametrize("modality", ABOUT)
def test_a_photometric_operation_changes_the_modality_that_it_names_and_nothing_else(name, modality):
    before, changed = record(3), set()
    for position in range(5):
        images, labels = augmented({name: {"modalities": [modality]} | CERTAIN}, position)
        assert np.array_equal(labels, before[1])
        for other, image in before[0].items():
            assert images[other].dtype == image.dtype
            assert images[other].shape == image.shape
            changed |= set() if np.array_equal(images[other], image) else {other}
    assert changed == {modality}


@pytest.mark.parametrize("name", TONED)
def test_bytes_are_held_between_0_and_255(name):
    extreme = {"irrg": np.tile(np.array([0, 255], np.uint8), (3, 40, 20))}, record(0)[1]
    largest = {"brightness": {"deviations": 3}, "contrast": {"factor": 4}, "gamma": {"exponent": 4}, "noise": {"deviations": 3},
               "blur": {"pixels": 3}}  # fmt: skip
    for position in range(10):
        image = augmented({name: {"modalities": ["irrg"]} | CERTAIN | largest[name]}, position, read=lambda _: extreme)[0][
            "irrg"
        ]
        dark, light = image[:, :, 0::2].astype(int), image[:, :, 1::2].astype(int)
        assert dark.mean() < light.mean()  # a number that ran over would come out at the other end
        if name != "noise":
            assert np.ptp(dark, axis=(1, 2)).max() <= (255 if name == "blur" else 0)


def toned(name, position=0, modality="dsm", read=record, **numbers):
    return augmented({name: {"modalities": [modality]} | CERTAIN | numbers}, position, read=read)[0][modality]


def test_brightness_adds_the_same_share_of_each_bands_deviation():
    before, found = record(3)[0]["irrg"], [toned("brightness", p, "irrg", deviations=0.2) for p in range(200)]
    middle = (before > 40) & (before < 215)  # where nothing is cut off
    shifts = np.array([[np.median((f.astype(float) - before)[b][middle[b]]) for b in range(3)] for f in found])
    assert np.allclose(shifts / [74, 70, 60], (shifts / [74, 70, 60]).mean(1, keepdims=True), atol=1 / 60)
    assert 0.18 < np.abs(shifts[:, 0] / 74).max() < 0.21
    assert abs((shifts > 0).mean() - 0.5) < 0.12


def test_contrast_multiplies_the_distance_from_the_mean_of_the_training_tiles():
    before, factors = record(3)[0]["dsm"], []
    for position in range(100):
        found = toned("contrast", position, factor=1.5)
        times = (found - 270.1) / (before - 270.1)
        far = abs(before - 270.1) > 1
        assert np.ptp(times[far]) < 1e-2
        factors.append(np.median(times))
    assert 1 / 1.51 < min(factors) < 0.75 < 1.35 < max(factors) < 1.51


def test_gamma_bends_what_lies_between_black_and_white():
    values = np.array([0, 975, 1950, 2925, 3900, 3999], np.uint16)
    row = {"ms": np.broadcast_to(values, (5, 40, 6)).copy()}, np.zeros((40, 6), np.uint8)
    for position in range(20):
        found = augmented(
            {"gamma": {"modalities": ["ms"], "exponent": 2} | CERTAIN}, position, size=(40, 6), read=lambda _: row
        )
        found = found[0]["ms"][2, 7].astype(float)
        exponent = np.log(found[2] / 3900) / np.log(0.5)
        assert 0.49 < exponent < 2.02
        assert np.allclose(found, 3900 * (values / 3900) ** exponent, atol=1.5)
        assert found[[0, 4]].tolist() == [0, 3900]


def test_noise_has_the_deviation_that_is_drawn_and_no_mean():
    before, ratios = record(3)[0]["dsm"], []
    for position in range(150):
        error = (toned("noise", position, deviations=0.5) - before) / 3.1
        assert abs(error.mean()) < 5 * error.std() / 40 + 1e-4
        ratios.append(error.std())
    assert 0.4 < max(ratios) < 0.54
    assert 0.2 < np.mean(ratios) < 0.3


def test_blur_is_scipys_gaussian():
    image = record(3)[0]["dsm"]
    for sigma in (0.4, 1.0, 2.3):
        expected = ndimage.gaussian_filter(image[0].astype(float), sigma, radius=int(np.ceil(3 * sigma)), mode="reflect")
        assert np.allclose(augmentation.smooth(image, sigma)[0], expected, atol=1e-3)
    stds = [toned("blur", position, pixels=2).std() for position in range(30)]
    assert min(stds) < 0.2 * image.std() < 0.8 * image.std() < max(stds) <= image.std()


# ------------------------------------------------------------------------------------------------------ places without data


def holes(_):
    """A record with a hole in its heights (NaN)."""
    images, labels = record(3)
    images["dsm"][:, 5:15, 20:35] = np.nan
    return images, labels


@pytest.mark.parametrize("name", TONED)
def test_places_without_data_stay_so_and_all_others_keep_theirs(name):
    images = holes(0)[0]
    for position in range(5):
        found = augmented({name: {"modalities": ["ms", "dsm"]} | CERTAIN}, position, read=holes)[0]
        assert np.array_equal(np.isnan(found["dsm"]), np.isnan(images["dsm"]))


def test_no_data_does_not_leak_into_its_neighbours():
    def level(_):
        images, labels = holes(0)
        images["dsm"][np.isfinite(images["dsm"])] = 270
        return images, labels

    every = {
        "blur": {"modalities": ["ms", "dsm"], "pixels": 3} | CERTAIN,
        "rotate": {"degrees": 90} | CERTAIN,
        "scale": CERTAIN,
    }
    for position in range(10):
        found = augmented(every, position, read=level)[0]
        assert np.nanmax(abs(found["dsm"] - 270)) < 1e-3
        assert np.isnan(found["dsm"]).any()


# --------------------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("normalisation", ["mean", "standard", "percentile"])
@pytest.mark.parametrize("picks", [None, (4, 1)])
@pytest.mark.parametrize("bgr", [True, False])
def test_a_dropped_modality_is_0_after_normalisation_in_all_inputs_that_read_it(normalisation, picks, bgr):
    about = {
        **ABOUT,
        "ms": ABOUT["ms"] | {"mean": [500.2, 1000.7, 1500.4, 2000.6, 2500.9], "low": [80.0, 70.0, 60.0, 50.0, 40.0]},
    }
    specs = make_inputs(
        {"image": [("irrg", None), ("ms", picks)], "height": [("dsm", None)]},
        about,
        {},
        dict.fromkeys(about, normalisation),
        bgr,
    )
    whole = ready({"dropout": CERTAIN}, bands=bands_of(about, specs))
    dropped = []
    for position in range(60):
        images, _ = whole(record, 8, 3, position)
        seen = {i.name: i.normalise(torch.from_numpy(i.stack(images).astype(np.float32))[None])[0] for i in specs}
        parts = {"irrg": seen["image"][:3], "ms": seen["image"][3:], "dsm": seen["height"]}
        (gone,) = [m for m, image in images.items() if all(np.ptp(band) == 0 for band in image)]
        # Whole numbers are rounded: half a unit at most, in what a unit is after normalisation.
        unit = {"mean": 1, "standard": 1 / min(about[gone]["deviation"]), "percentile": 1 / 200}[normalisation]
        assert parts[gone].abs().max() <= (0 if gone == "dsm" else 0.5 * unit + 1e-4)
        assert_same(
            ({m: i for m, i in images.items() if m != gone}, 0), ({m: i for m, i in record(3)[0].items() if m != gone}, 0)
        )
        dropped.append(gone)
    assert set(dropped) == set(ABOUT)


def test_only_named_modalities_are_dropped_as_often_as_said():
    gone = [np.ptp(augmented({"dropout": {"modalities": ["dsm"], "probability": 0.25}}, p)[0]["dsm"]) == 0 for p in range(400)]
    assert 0.18 < np.mean(gone) < 0.32
    assert all(np.ptp(augmented({"dropout": {"modalities": ["dsm"]} | CERTAIN}, p)[0]["irrg"]) > 200 for p in range(20))


# --------------------------------------------------------------------------------------------------------------- randomness

FULL = {
    "mosaic": {}, "cutmix": {}, "scale": {}, "rotate": {"degrees": 30}, "flip": {}, "turn": {}, "dropout": {"probability": 0.3},
} | {n: {"modalities": ["irrg", "ms", "dsm"]} for n in TONED}  # fmt: skip


def test_a_sample_depends_on_seed_position_and_record_and_nothing_else():
    first = augmented(FULL, 5)
    np.random.seed(3)
    torch.manual_seed(3)
    augmented(FULL, 6)
    assert_same(augmented(dict(reversed(FULL.items())), 5), first)
    for other in (augmented(FULL, 6), augmented(FULL, 5, seed=2), augmented(FULL, 5, which=4)):
        assert not np.array_equal(other[0]["dsm"], first[0]["dsm"])


def test_images_that_are_views_in_reversed_order_are_as_good_as_others():
    def backwards(i):
        images, labels = record(i)
        return {m: image[::-1].copy()[::-1] for m, image in images.items()}, labels

    for position in range(5):
        assert_same(augmented(FULL, position, read=backwards), augmented(FULL, position))


def test_the_number_of_threads_makes_no_difference():
    first, threads = (
        [augmented(FULL, p, size=(128, 128), read=lambda i: record(i, (128, 128))) for p in range(8)],
        torch.get_num_threads(),
    )
    try:
        torch.set_num_threads(2)
        for position, sample in enumerate(first):
            assert_same(augmented(FULL, position, size=(128, 128), read=lambda i: record(i, (128, 128))), sample)
    finally:
        torch.set_num_threads(threads)


ONE = {n: v for n, v in FULL.items() if n not in ("dropout", *TONED)} | {n: {"modalities": ["irrg"]} for n in TONED}


def feed(databases, workers, start=0, stop=7, recipe=ONE):
    """Batches of the town's training patches."""
    own = read_settings(databases.config(AUGMENTATION=recipe))
    databases.config()
    about = {"irrg": ABOUT["irrg"]}
    specs = make_inputs({"irrg": [("irrg", None)]}, about, {}, {"irrg": "mean"}, True)
    patches = Patches(databases.folder("lmdb"), "train", specs)
    whole = Augmentation(own.augmentation, bands_of(about, specs), NO_LABEL, 1) if recipe else None
    return list(batches(patches, BatchOrder(len(patches), 6, 1, start, stop), workers, False, whole))


def assert_batches(found, expected):
    assert len(found) == len(expected)
    for (images, labels), (other_images, other_labels) in zip(found, expected, strict=True):
        assert torch.equal(labels, other_labels)
        assert all(torch.equal(a, b) for a, b in zip(images, other_images, strict=True))


def test_any_number_of_workers_and_any_start_see_the_same_pixels(databases):
    whole = feed(databases, 0)
    assert_batches(feed(databases, 2), whole)
    assert_batches(feed(databases, 1, start=3), whole[3:])
    assert not torch.equal(feed(databases, 0, recipe={})[0][0][0], whole[0][0][0])


def test_a_run_that_is_restored_with_other_workers_ends_with_the_same_weights(databases, tmp_path, without_pictures):
    outcomes = []
    for parts, workers in (([4], [0]), ([2, 4], [0, 2])):
        town = databases.copy(tmp_path / str(len(parts)), "lmdb")
        recipe = ONE | {"rare": {}, "crop": {"height": 32, "width": 32}}
        for niter, processes in zip(parts, workers, strict=True):
            config = town.config(AUGMENTATION=recipe, WORKERS=processes, val_ids=[], SNAPSHOT_EVERY=2, MEAN_PIXEL={})
            words = ["--niter", niter, "--device", "cpu", "--config", config]
            if snapshots.found(town.snapshots):
                words += ["--restore", snapshots.newest(town.snapshots).with_suffix(".solverstate")]
            ran = call("training", *words)
            assert ran.code == 0, ran.err
        outcomes.append(snapshots.read_weights(snapshots.newest(town.snapshots))[0])
    assert set(outcomes[0]) == set(outcomes[1])
    assert all(torch.equal(outcomes[0][name], outcomes[1][name]) for name in outcomes[0])


# ------------------------------------------------------------------------------------------------------------- oversampling


def label_records(*shares):
    """Label records of 1000 pixels, each given as pixels of the classes 0, 1, 2 ...; the rest is not scored."""
    for pixels in shares:
        labels = np.full(1000, NO_LABEL, np.uint8)
        labels[: sum(pixels)] = np.repeat(np.arange(len(pixels)), pixels)
        yield labels.reshape(20, 50)


def test_weights_by_hand():
    # 3000 labelled pixels, three classes that occur: an even share is 1000; class 1 has 100, class 2 has 600.
    records = [(900, 100), (400, 0, 600), (1000,), ()]
    found = record_weights(label_records(*records), 5, [], most=4)
    assert np.allclose(found, [np.sqrt(1000 / 100), np.sqrt(1000 / 600), 1, 1])
    assert np.allclose(record_weights(label_records(*records), 5, [], most=2), [2, np.sqrt(1000 / 600), 1, 1])


def test_ignored_classes_and_single_pixels_weigh_nothing():
    # Without class 2: classes 0 and 1 with 2300 and 101 pixels; one pixel of class 1 is no more than the 1000th part.
    found = record_weights(label_records((900, 100), (400, 0, 600), (1000,)), 3, [2], most=9)
    assert np.allclose(found, [np.sqrt(2400 / 2 / 100), 1, 1])
    few = (np.pad(labels, ((0, 30), (0, 0)), constant_values=NO_LABEL) for labels in label_records((900, 100), (999, 1)))
    assert record_weights(few, 2, [], most=9)[1] == 1


def test_records_are_drawn_as_often_as_they_weigh():
    weights = np.array([1, 1, 1, 4, 2.5, 1, 1, 1, 1, 1.5])
    drawn = [d.record for batch in BatchOrder(10, 5, 3, 0, 400, weights) for d in batch]
    epochs = np.array(drawn).reshape(200, 10)
    expected = 10 * weights / weights.sum()
    counts = np.stack([np.bincount(epoch, minlength=10) for epoch in epochs])
    assert (counts >= np.floor(expected)).all()
    assert (counts <= np.ceil(expected)).all()
    assert np.abs(counts.mean(0) - expected).max() < 0.1


def test_even_weights_draw_every_record_once_in_the_usual_order_of_chance():
    for length in (1, 7, 1000, 99_991):
        drawn = BatchOrder(length, length, 1, 0, 2, np.full(length, 0.3))
        assert all(sorted(d.record for d in batch) == list(range(length)) for batch in drawn)


# ---------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"flp": {}}, "AUGMENTATION names 'flp', which there is not. Did you mean 'flip'?"),
        ({"rotate": {}}, "'rotate' needs a number, 0 or more, for 'degrees'; it is None"),
        ({"rotate": {"degree": 3}}, "'rotate' does not read 'degree'; it reads degrees, probability. Did you mean 'degrees'?"),
        ({"rotate": {"degrees": 200}}, "degrees = 200: it must be above 0 and at most 180"),
        ({"rotate": {"degrees": 20, "probability": 1.5}}, "probability = 1.5: it must be above 0 and at most 1"),
        ({"rotate": {"degrees": "20"}}, "it is '20'"),
        ({"scale": {"smallest": 0.3}}, "smallest = 0.3: it must be between 0.5 and 1"),
        ({"scale": {"largest": -1}}, "for 'largest'; it is -1"),
        ({"crop": {"height": 32}}, "'crop' needs a number, 0 or more, for 'width'"),
        ({"crop": {"height": 31.5, "width": 32}}, "height = 31.5: it must be a whole number of pixels"),
        ({"crop": {"height": 64, "width": 32}}, "'crop' to 64 x 32 is larger than patch_size = (32, 32)"),
        ({"turn": {}, "crop": {"height": 16, "width": 32}}, "'turn' needs square samples, they are 16 x 32"),
        ({"gamma": {}}, "'gamma' needs 'modalities', a list of those that it changes, such as ['irrg']; it is None"),
        ({"gamma": {"modalities": "irrg"}}, "it is 'irrg'"),
        ({"gamma": {"modalities": ["irgr"]}}, "names the modality 'irgr', which the net does not read. Did you mean 'irrg'?"),
        ({"gamma": {"modalities": ["dsm"]}}, "names the modality 'dsm', which the net does not read. It reads irrg."),
        ({"turn": {"modalities": ["irrg"]}}, "'turn' does not read 'modalities'; it reads nothing."),
        ({"dropout": {}}, "'dropout' needs two modalities or more, the net reads only irrg"),
        ({"rare": {"most": 1}}, "most = 1: it must be above 1 and at most 100"),
    ],
)
def test_mistakes_in_the_recipe_are_one_sentence(tmp_path, recipe, words):
    with pytest.raises(UserError) as found:
        read_settings(write_config(tmp_path / "config.py", tmp_path, AUGMENTATION=recipe))
    assert words in str(found.value)
    assert str(found.value).startswith(str(tmp_path / "config.py"))


def test_a_config_without_the_setting_has_no_augmentation(tmp_path):
    path = write_config(tmp_path / "config.py", tmp_path)
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("AUGMENTATION")))
    own = read_settings(path)
    assert own.augmentation == {}
    assert own.sample_size == (32, 32)


def test_a_crop_that_the_net_cannot_take_is_refused_before_anything_is_removed(databases, tmp_path):
    town = databases.copy(tmp_path, "lmdb")
    town.snapshots.mkdir()
    (town.snapshots / "net_iter_4.safetensors").write_bytes(b"old")
    (town.snapshots / "net_iter_4.solverstate").write_bytes(b"old")
    config = town.config(AUGMENTATION={"crop": {"height": 24, "width": 32}})
    refused(
        call("training", "--niter", 4, "--config", config, "--overwrite", "--device", "cpu"), "24x32", "(the nearest: 32x32)"
    )
    assert names(town.snapshots) == ["net_iter_4.safetensors", "net_iter_4.solverstate"]
