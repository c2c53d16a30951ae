"""Proves that the demo dataset is what it says: Vaihingen's layout, the same from the same seed, height and truth that
fit each other, and classes that colour alone does not tell apart."""

import json
import sys

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from rasterio.warp import transform
from scipy import ndimage

from tools.base.errors import UserError, run
from tools.demo import __main__ as demo
from tools.demo.scene import BUILDING, CAR, CLUTTER, IMPERVIOUS, LOW_VEGETATION, TREE, Scene
from tools.demo.streetmap import streets
from tools.demo.town import draw_town

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the JPEG has no place

SIZE, IDS = 96, [1, 15, 34]
COLOURS = {(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "town"
    demo.make_dataset(out, seed=1, size=SIZE, tile_ids=IDS)
    return out


@pytest.fixture(scope="module")
def tiles():
    return [demo.make_tile(1, tile_id, 256) for tile_id in (1, 5, 13)]


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


def labels_of(rgb):
    """Class ids of ISPRS colours (3, h, w), black as 6."""
    table = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (0, 0, 0)]
    return np.argmax([(rgb == np.array(c)[:, None, None]).all(0) for c in table], axis=0)


# --------------------------------------------------------------------------------------------------- the seed


def test_the_same_seed_gives_the_same_pixels_whatever_else_was_made_before():
    first, second = demo.make_tile(7, 3, 64), demo.make_tile(7, 3, 64)
    for kind in ("image", "dsm", "above_ground", "labels"):
        assert np.array_equal(getattr(first, kind), getattr(second, kind)), kind


def test_files_hold_the_same_pixels_as_a_tile_made_in_this_process(folder):
    tile = demo.make_tile(1, 15, SIZE)
    assert np.array_equal(pixels(folder / "top/top_mosaic_09cm_area15.tif"), tile.image)
    assert np.array_equal(pixels(folder / "dsm/dsm_09cm_matching_area15.tif")[0], tile.dsm)


def test_other_seeds_and_other_tiles_are_other_places():
    here = demo.make_tile(1, 1, 64)
    for other in (demo.make_tile(2, 1, 64), demo.make_tile(1, 3, 64)):
        assert np.mean(here.labels != other.labels) > 0.2
        assert not np.array_equal(here.image, other.image)


# --------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize(
    ("name", "bands", "dtype"),
    [
        ("top/top_mosaic_09cm_area{}.tif", 3, "uint8"),
        ("dsm/dsm_09cm_matching_area{}.tif", 1, "float32"),
        ("ndsm/dsm_09cm_matching_area{}_normalized.jpg", 1, "uint8"),
        ("gts_for_participants/top_mosaic_09cm_area{}.tif", 3, "uint8"),
        ("gts_eroded_for_participants/top_mosaic_09cm_area{}_noBoundary.tif", 3, "uint8"),
    ],
)
def test_files_have_vaihingens_names_and_kinds(folder, name, bands, dtype):
    for tile_id in IDS:
        with rasterio.open(folder / name.format(tile_id)) as file:
            assert (file.count, file.height, file.width) == (bands, SIZE, SIZE)
            assert set(file.dtypes) == {dtype}


def test_geotiffs_lie_near_vaihingen_and_apart_from_each_other(folder):
    boxes = []
    for tile_id in IDS:
        with rasterio.open(folder / f"top/top_mosaic_09cm_area{tile_id}.tif") as file:
            assert file.crs.to_epsg() == 32632
            assert file.res == (0.25, 0.25)
            boxes.append(file.bounds)
        with rasterio.open(folder / f"dsm/dsm_09cm_matching_area{tile_id}.tif") as file:
            assert file.bounds == boxes[-1]
    for i, a in enumerate(boxes):
        assert 496_000 < a.left < 498_000 and 5_418_000 < a.top < 5_420_000
        for b in boxes[i + 1 :]:
            assert a.right < b.left or b.right < a.left or a.top < b.bottom or b.top < a.bottom


def test_details_say_what_made_it(folder):
    details = json.loads((folder / "details.json").read_text())
    assert (details["seed"], details["size_pixels"], details["ndsm_metres_per_step"]) == (1, SIZE, 0.1)
    assert (details["train_ids"], details["val_ids"], details["test_ids"]) == ([1], [15], [34])


# ----------------------------------------------------------------------------------------------- ground truth


def test_ground_truth_holds_only_the_six_colours(folder):
    for path in (folder / "gts_for_participants").iterdir():
        assert {tuple(c) for c in pixels(path).reshape(3, -1).T.tolist()} <= COLOURS


def test_eroded_truth_is_black_exactly_within_three_pixels_of_another_class(folder):
    for tile_id in IDS:
        truth = labels_of(pixels(folder / f"gts_for_participants/top_mosaic_09cm_area{tile_id}.tif"))
        eroded = labels_of(pixels(folder / f"gts_eroded_for_participants/top_mosaic_09cm_area{tile_id}_noBoundary.tif"))
        to_another = np.zeros(truth.shape)
        for label in np.unique(truth):
            to_another = np.where(truth == label, ndimage.distance_transform_edt(truth == label), to_another)
        assert np.array_equal(eroded == 6, to_another <= 3)
        assert np.array_equal(eroded[eroded != 6], truth[eroded != 6])


def test_a_tile_of_one_class_is_not_eroded():
    assert (demo.erode(np.full((9, 9), 2, np.uint8)) == 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("tile_id", demo.TILE_IDS)
def test_every_tile_shows_every_class_but_perhaps_clutter(tile_id):
    shares = np.bincount(demo.make_tile(1, tile_id, 512).labels.ravel(), minlength=6) / 512**2
    assert (shares[:4] > 0.05).all() and shares[CAR] > 0.005 and shares[CLUTTER] < 0.1


# ----------------------------------------------------------------------------------------------------- height


def test_height_fits_the_truth(folder, tiles):
    height = np.concatenate([t.above_ground.ravel() for t in tiles])
    labels = np.concatenate([t.labels.ravel() for t in tiles])
    assert np.median(height[labels == BUILDING]) > 4
    assert np.median(height[labels == TREE]) > 3
    for label in (IMPERVIOUS, LOW_VEGETATION):
        assert abs(np.median(height[labels == label])) < 0.1
        assert np.mean(height[labels == label] < 1.6) > 0.9  # the rest stands beside walls that matching rounded off


def test_ndsm_is_the_height_above_ground_in_decimetres(folder):
    tile = demo.make_tile(1, 34, SIZE)
    stored = pixels(folder / "ndsm/dsm_09cm_matching_area34_normalized.jpg")[0] / 10
    assert np.abs(stored - tile.above_ground.clip(0)).mean() < 0.2  # metres; JPEG
    ground = tile.dsm - tile.above_ground
    assert ground.min() > 150 and np.ptp(ground) < 10


def test_walls_and_crowns_throw_shadows(tiles):
    """Away from the sun (north-west of them) the ground is darker than towards it."""
    for tile in tiles:
        tall, ground = tile.above_ground > 3, tile.above_ground < 0.5
        shift = [(-8, -6), (8, 6)]  # pixels: 2.5 m away from the sun, and towards it
        near = [np.roll(tall, s, (0, 1)) & ground for s in shift]
        behind, before = (tile.image[1][a & ~b].mean() for a, b in (near, near[::-1]))
        assert behind < 0.75 * before


# ------------------------------------------------------------------------------------------ not by colour alone


def test_colour_alone_does_not_solve_it_and_height_helps(tiles):
    """A look-up table of the likeliest class per colour, learned and scored on the same pixels."""
    colour = np.concatenate([t.image.reshape(3, -1) for t in tiles], axis=1) // 16
    height = np.concatenate([t.above_ground.ravel() for t in tiles])
    labels = np.concatenate([t.labels.ravel() for t in tiles])
    steps = np.digitize(height, [0.5, 1.5, 2.5, 4, 6, 8])
    by_colour, by_both = table_accuracy(colour, labels), table_accuracy([*colour, steps], labels)
    assert by_colour < 0.8
    assert by_both > by_colour + 0.1


def table_accuracy(features, labels):
    code = np.zeros(labels.size, int)
    for feature in features:
        code = code * 16 + feature
    counts = np.zeros((code.max() + 1, 6), int)
    np.add.at(counts, (code, labels), 1)
    return counts.max(1).sum() / labels.size


@pytest.mark.parametrize(("one", "other"), [(IMPERVIOUS, BUILDING), (LOW_VEGETATION, TREE)])
def test_classes_of_like_material_share_their_colours(tiles, one, other):
    image = np.concatenate([t.image.reshape(3, -1) for t in tiles], axis=1) // 16
    labels = np.concatenate([t.labels.ravel() for t in tiles])
    code = (image.astype(int) * [[256], [16], [1]]).sum(0)
    a, b = (np.bincount(code[labels == label], minlength=4096) / np.sum(labels == label) for label in (one, other))
    assert np.minimum(a, b).sum() > 0.3  # overlap of the two colour histograms, 1 where they are the same


# --------------------------------------------------------------------------------------------------- the flight


def test_the_flights_polygons_are_its_labels_but_for_streets_and_clutter(tmp_path):
    count = demo.make_flight(tmp_path / "flight", seed=3, size=SIZE)
    tile = demo.make_tile(3, demo.TILE_IDS[0], SIZE)
    with rasterio.open(tmp_path / "flight/ortho.tif") as ortho:
        assert np.array_equal(ortho.read(), tile.image)
        transform, crs = ortho.transform, ortho.crs
    about, _, shapes, (classes,) = pyogrio.raw.read(tmp_path / "flight/labels.shp")
    assert about["fields"].tolist() == ["class"] and rasterio.CRS.from_string(about["crs"]) == crs
    drawn = [(shapely.from_wkb(shape), demo.CLASSES.index(name)) for shape, name in zip(shapes, classes, strict=True)]
    found = rasterio.features.rasterize(drawn, tile.labels.shape, fill=255, transform=transform)
    covered = ~np.isin(tile.labels, [IMPERVIOUS, CLUTTER])
    assert np.array_equal(found, np.where(covered, tile.labels, 255))
    assert count == len(drawn) and {BUILDING, TREE, LOW_VEGETATION} <= set(np.unique(found))


def test_flight_has_its_own_folder_and_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demo.arguments(["--flight"]).size == demo.FLIGHT_PIXELS
    monkeypatch.setattr(sys, "argv", ["demo.py", "--flight", "--size", "64"])
    run(demo.main)
    assert "ortho.tif: 64 x 64 pixels" in capsys.readouterr().out
    assert {"ortho.tif", "labels.shp", "labels.dbf", "labels.prj"} <= {p.name for p in (tmp_path / "data/flight").iterdir()}


# --------------------------------------------------------------------------------------------- a user's mistakes


def test_an_existing_folder_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        demo.make_dataset(tmp_path, size=64, tile_ids=[1])
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_replaces_the_folder(tmp_path):
    out = tmp_path / "town"
    out.mkdir()
    (out / "old.txt").write_text("old")
    (out / "details.json").write_text("{}")  # which tells a folder of ours
    demo.make_dataset(out, size=64, overwrite=True, tile_ids=[1])
    assert not (out / "old.txt").exists() and (out / "top/top_mosaic_09cm_area1.tif").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["town"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "10"], "--size is 10"),
        (["--size", "99999"], "--size is 99999"),
        (["--flight", "--size", "0"], "--size is 0"),
        (["--size", "big"], "big"),
        (["--seed", "-1"], "--seed is -1"),
        (["--sead", "1"], "--sead"),
        (["--out", "."], "exists already"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["demo.py", *words])
    with pytest.raises(SystemExit) as left:
        run(demo.main)
    output = capsys.readouterr()
    assert left.value.code == 2
    assert said in output.err and output.err.count("\n") == 1 and output.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------------------------- the map of the town


def on_tile(tile_id, feature, size=256):
    """A feature of the map in pixels of a tile: column, row."""
    place = demo.place_of(tile_id, size)
    shape = shapely.geometry.shape(feature["geometry"])
    return shapely.transform(shape, lambda xy: np.transpose(~place * np.array(transform("EPSG:4326", demo.CRS, *xy.T))))


def test_the_map_has_most_houses_and_some_that_are_missing_moved_or_gone(tiles):
    grid = shapely.points(*np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5))
    both, drawn, there, gone = 0, 0, 0, 0
    for tile_id, tile in zip((1, 5, 13), tiles, strict=True):
        houses = [on_tile(tile_id, f) for f in tile.map if "building" in f["properties"]]
        on_map, built = shapely.contains(shapely.union_all(houses), grid), tile.labels == BUILDING
        both, drawn, there = both + (on_map & built).sum(), drawn + on_map.sum(), there + built.sum()
        gone += sum(1 for h in houses if shapely.contains(h, grid).any() and not built[shapely.contains(h, grid)].any())
    assert 0.6 < both / there < 0.95 and 0.6 < both / drawn < 0.95
    assert gone


def test_streets_of_the_map_are_middle_lines_a_metre_or_two_off(tiles):
    scene = Scene(256, np.random.default_rng(np.random.SeedSequence([1, 1])))
    true = shapely.union_all([line for line, _ in streets(draw_town(scene), scene)])
    found = [on_tile(1, f) for f in tiles[0].map if "highway" in f["properties"]]
    metres = shapely.transform(shapely.union_all(found), lambda xy: (xy - 128) * 0.25)
    away = shapely.distance(shapely.points(shapely.get_coordinates(metres)), true)
    assert away.max() == pytest.approx(1.5, abs=0.5) and (away < 2.05).all()


def test_the_map_of_all_tiles_is_one_file_that_the_same_seed_gives_again(folder):
    lines = (folder / demo.MAP).read_text()
    on_map = json.loads(lines)["features"]
    assert on_map == json.loads(json.dumps([feature for i in IDS for feature in demo.make_tile(1, i, SIZE).map]))
    assert {key for feature in on_map for key in feature["properties"]} >= {"highway", "building"}
