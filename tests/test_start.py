"""Proves that tools.start pairs images with masks, tells classes from faults, and writes configs whose printed lines work."""

import re
import shlex

import numpy as np
import pytest
from conftest import call, done, names, pixels, refused, write_raster
from PIL import Image

from tools.labels.palette import colour_of
from tools.settings import read_settings
from tools.start.attributes import class_attribute
from tools.start.classes import colours_for
from tools.start.pairs import pair, sort_out
from tools.start.plan import block_size, split

HEIGHT, WIDTH = 40, 48
BLUE, RED, GREEN = (0, 0, 255), (255, 0, 0), (0, 255, 0)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """Configs are written to where one is."""
    monkeypatch.chdir(tmp_path)


def image(path, bands=3, dtype="uint8", height=HEIGHT, width=WIDTH, **profile):
    """A picture of noise."""
    noise = np.random.default_rng(len(str(path))).integers(0, 250, (bands, height, width))
    return write_raster(path, noise.astype(dtype), **profile)


def numbers(seed, values=(0, 1), height=HEIGHT, width=WIDTH):
    """Blocks of 8 x 8 pixels of these values, all of which occur."""
    small = np.random.default_rng(seed).permutation(np.resize(values, (height // 8) * (width // 8)))
    return np.kron(small.reshape(height // 8, width // 8), np.ones((8, 8))).astype(np.float32)


def coloured(labels, colours):
    """3 x h x w of numbers 0, 1 ... (h x w)."""
    return np.array(colours, np.uint8)[labels.astype(int)].transpose(2, 0, 1)


def folder_of(tmp_path, masks, name="city"):
    """images/0.tif ... and masks/0.tif ... in a folder of this name."""
    for i, mask in enumerate(masks):
        image(tmp_path / name / f"images/{i}.tif")
        write_raster(tmp_path / name / f"masks/{i}.tif", mask)
    return name


def follow(ran, *until):
    """Run the first of the printed lines (data), but for scripts named in `until`; what they said."""
    lines = ran.out.split("first map:\n\n")[1].split("\n\n")[0]
    data = lines.replace("\\\n", "").splitlines()[0]
    found = []
    for command in data.split("&&"):
        words = shlex.split(command)[1:]
        script, words = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
        if script not in until:
            found.append(done(call(script, *words)))
    return found


CUTTING = ("extract_images", "create_db")  # what need not run to see the labels


# ---------------------------------------------------------------------------------------------------------------- the pairs


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("images/{}.tif", "masks/{}.tif"),
        ("{}.tif", "{}_mask.tif"),
        ("{}_sat.tif", "{}_mask.tif"),
        ("img/scene-{}.tif", "gt/truth-{}-v2.tif"),
        ("top/area{}.tif", "labels/area{}_noBorder.tif"),
        ("north/images/{}.tif", "north/masks/{}.tif"),
    ],
)
def test_images_find_their_masks_however_they_are_called(tmp_path, one, other):
    ids = (1, 2, 10, 21)
    for i in ids:
        image(tmp_path / "city" / one.format(i))
        write_raster(tmp_path / "city" / other.format(i), numbers(i))
    done(call("tools.start", "city"))
    rows = [row.split(",")[:2] for row in (tmp_path / "city/tiles_city.csv").read_text().splitlines()[1:]]
    assert sorted(rows) == sorted([one.format(i), other.format(i)] for i in ids)


def test_masks_are_known_by_their_pixels_if_no_name_tells(tmp_path):
    for i in range(4):
        image(tmp_path / f"city/a/{i}.tif")
        write_raster(tmp_path / f"city/b/{i}.tif", numbers(i))
    done(call("tools.start", "city"))
    assert "a/0.tif,b/0.tif" in (tmp_path / "city/tiles_city.csv").read_text()


def test_eroded_masks_are_passed_over(tmp_path):
    folder_of(tmp_path, [numbers(i) for i in range(3)])
    for i in range(3):
        write_raster(tmp_path / f"city/masks_eroded/{i}_noBoundary.tif", numbers(i))
    ran = done(call("tools.start", "city"))
    assert "3 eroded masks" in ran.out and "eroded" not in (tmp_path / "city/tiles_city.csv").read_text()


def test_of_several_folders_of_images_the_one_that_fits_counts(tmp_path):
    folder_of(tmp_path, [numbers(i) for i in range(4)])
    image(tmp_path / "city/heights/0.tif", bands=1)
    found = sort_out(tmp_path / "city")
    pairs = pair(tmp_path / "city", found.images, found.masks).pairs
    assert len(found.images) == 5 and {one.parent.name for one, _ in pairs} == {"images"}


def test_parts_of_one_place_stay_in_one_split():
    stems = [f"tile{place}_{part:03d}" for place in range(6) for part in range(4)]
    found, how = split(stems, {stem: {0} for stem in stems})
    assert len({(stem.split("_")[0], found[stem]) for stem in stems}) == 6 and "together" in how


def test_the_split_leaves_every_class_in_training():
    stems = [f"area{n}" for n in range(12)]
    for rare in stems:
        held = {stem: {0, 1} if stem == rare else {0} for stem in stems}
        assert split(stems, held)[0][rare] == "train"


def test_the_split_validates_and_tests_on_tiles_that_hold_the_classes():
    stems = [f"area{n}" for n in range(8)]
    for chance in range(10):
        full = set(np.random.default_rng(chance).permutation(stems)[:4])  # the others show one class
        found, _ = split(stems, {stem: {0, 1, 2} if stem in full else {0} for stem in stems})
        assert {found[stem] for stem in full} == {"train", "val", "test"}


# -------------------------------------------------------------------------------------------------------------- the classes


def test_colours_become_classes_and_their_masks_labels(tmp_path):
    truth = [numbers(i, (0, 1, 2)) for i in range(5)]
    name = folder_of(tmp_path, [coloured(t, [RED, BLUE, GREEN]) for t in truth])
    ran = done(call("tools.start", name))
    follow(ran, *CUTTING)
    settings = read_settings("config_city.py")
    assert set(list(settings.classes.palette.values())[:3]) == {RED, BLUE, GREEN}
    for i, t in enumerate(truth):
        labels = pixels(tmp_path / f"city/gts_numpy/{i}.tif")[0]
        drawn = np.array([settings.classes.palette[label] for label in range(3)])[labels]
        assert (drawn == np.array([RED, BLUE, GREEN])[t.astype(int)]).all()
    assert "33.33%" in ran.out and len(settings.data.all_ids) == 5


def test_a_table_of_classes_names_the_colours(tmp_path):
    name = folder_of(tmp_path, [coloured(numbers(i), [RED, BLUE]) for i in range(3)])
    (tmp_path / "city/classes.csv").write_text("name,r,g,b\nroof,255,0,0\nriver,0,0,255\n")
    done(call("tools.start", name))
    assert sorted(read_settings("config_city.py").classes.label_values) == ["river", "roof"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0, 255), {0: 0, 255: 1}),
        ((0, 1, 2), {0: 0, 1: 1, 2: 2}),
        ((1, 2, 3), {1: 0, 2: 1, 3: 2}),
        ((0, 1, 2, 255), {0: 0, 1: 1, 2: 2, 255: 3}),  # 3: not scored
        ((2, 7), {2: 0, 7: 1}),
        ((0, 7, 255), {0: 0, 7: 1, 255: 2}),  # 2: not scored
    ],
)
def test_numbers_of_any_kind_become_labels(tmp_path, values, labels):
    truth = [numbers(i, values).astype(np.uint8) for i in range(3)]
    follow(done(call("tools.start", folder_of(tmp_path, truth))), *CUTTING)
    expected = np.vectorize(labels.get)(truth[1])
    assert (pixels(tmp_path / "city/gts_numpy/1.tif")[0] == expected).all()


@pytest.mark.parametrize(
    ("values", "names"), [((-1, 0, 1), ["class 0", "class 1"]), ((-1, 0, 255), ["background", "foreground"])]
)
def test_numbers_below_zero_are_no_classes(tmp_path, values, names):
    truth = [numbers(i, values).astype(np.int16) for i in range(3)]
    ran = done(call("tools.start", folder_of(tmp_path, truth)))
    follow(ran, *CUTTING)
    assert read_settings("config_city.py").classes.label_values == names and "-1 is taken for 'not scored'" in ran.out
    assert ((pixels(tmp_path / "city/gts_numpy/1.tif")[0] == 2) == (truth[1] == -1)).all()


def test_pixels_that_are_no_number_are_not_scored(tmp_path):
    truth = [numbers(i, (1, 2)) for i in range(3)]
    truth[0][:4] = np.nan
    ran = done(call("tools.start", folder_of(tmp_path, truth)))
    follow(ran, *CUTTING)
    assert (pixels(tmp_path / "city/gts_numpy/0.tif")[0][:4] == 2).all()
    assert f"{4 * WIDTH / (3 * HEIGHT * WIDTH):.2%}" in ran.out


def test_images_of_other_types_are_normalised_by_their_own_numbers(tmp_path):
    for i in range(3):
        image(tmp_path / f"city/images/{i}.tif", bands=4, dtype="uint16")
        write_raster(tmp_path / f"city/masks/{i}.tif", numbers(i))
    done(call("tools.start", "city"))
    data = read_settings("config_city.py").data
    assert data.NORMALISATION == {"image": "standard"} and data.INPUTS == {"image": ["image"]}


def test_colours_that_interpolation_mixed_are_no_classes(tmp_path):
    masks = [coloured(numbers(i), [(0, 0, 0), (255, 255, 255)]) for i in range(3)]
    masks[0][:, 0, :] = np.arange(5, 5 + WIDTH)  # a grey each
    ran = done(call("tools.start", folder_of(tmp_path, masks)))
    follow(ran, *CUTTING)
    assert f"{WIDTH} further colours are mixtures" in ran.out
    assert (pixels(tmp_path / "city/gts_numpy/0.tif")[0][0] == 2).all()


# ------------------------------------------------------------------------------------------------- one image, and polygons


def test_one_image_is_cut_into_blocks_and_its_lines_run(tmp_path):
    image(tmp_path / "city/ortho.tif", height=160, width=192)
    write_raster(tmp_path / "city/ortho_labels.tif", 255 * numbers(1, height=160, width=192).astype(np.uint8))
    ran = done(call("tools.start", "city"))
    *_, cut = follow(ran, "create_db")
    blocks = names(tmp_path / "city/gts_numpy")
    assert [b for b in blocks if b.endswith(".png")] == sorted(f"{i}_{j}.png" for i in range(2) for j in range(3))
    assert "patches in data/city_patches" in cut.out
    assert read_settings(tmp_path / "config_city.py").patches.patch_size == (64, 64)  # as large as the blocks of 80 x 64
    expected = numbers(1, height=160, width=192)[:80, :64]
    assert (pixels(tmp_path / "city/gts_numpy/0_0.png")[0] == expected).all()


def test_an_image_too_small_for_blocks_is_refused(tmp_path):
    image(tmp_path / "city/a.tif")
    write_raster(tmp_path / "city/a_mask.tif", numbers(1))
    refused(call("tools.start", "city"), "too small", f"{HEIGHT}x{WIDTH}")
    assert not (tmp_path / "config_city.py").exists()


def test_patches_are_no_larger_than_the_smallest_tile(tmp_path):
    for i, side in enumerate((304, 120, 280)):
        image(tmp_path / f"city/{i}.tif", height=side, width=304)
        write_raster(tmp_path / f"city/{i}_mask.tif", numbers(i, height=side, width=304))
    done(call("tools.start", "city"))
    assert read_settings(tmp_path / "config_city.py").patches.patch_size == (120, 120)


def test_blocks_are_about_twenty_four():
    size = block_size(5000, 8000)
    assert 20 <= round(5000 / size) * round(8000 / size) <= 28


def polygons(path, attributes):
    """A GeoJSON of squares of 2 x 2 m, one for each entry, beginning at the corner of tile 1."""
    import json

    features = []
    for i, properties in enumerate(attributes):
        x, y = 496_100 + (i % 2), 5_418_999 - i % 3
        ring = [[x, y], [x + 1, y], [x + 1, y - 1], [x, y - 1], [x, y]]
        features.append({"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))


def test_polygons_of_one_kind_are_drawn_over_background(tmp_path):
    for i in range(3):
        image(tmp_path / f"city/{i}.tif")
    image(tmp_path / "city/far.tif", tile=9)
    polygons(tmp_path / "city/roofs.geojson", [{"owner": f"no. {i}"} for i in range(4)])
    ran = done(call("tools.start", "city"))
    follow(ran, *CUTTING)
    assert "3 images lie on one another" in ran.out  # all of them but the far one were made at one place
    assert "far.tif: no polygon lies on it" in ran.out and names(tmp_path / "city/gts_numpy") == [
        "0.tif",
        "1.tif",
        "2.tif",
        "details.json",
    ]
    assert read_settings("config_city.py").classes.label_values == ["background", "roofs"]
    labels = pixels(tmp_path / "city/gts_numpy/0.tif")[0]
    assert labels[12, 5] == 1 and labels[5, 5] == 0  # a pixel is 9 cm: row 12 is 1.1 m below the corner


def test_polygons_that_all_say_one_class_are_called_by_it_not_by_their_file(tmp_path):
    image(tmp_path / "city/0.tif")
    image(tmp_path / "city/1.tif")
    polygons(tmp_path / "city/labels.geojson", [{"owner": "the city", "LandCover": " Road "} for _ in range(4)])
    follow(done(call("tools.start", "city")), *CUTTING)
    assert read_settings("config_city.py").classes.label_values == ["background", "Road"]
    assert set(np.unique(pixels(tmp_path / "city/gts_numpy/0.tif"))) == {0, 1}


def test_the_attribute_with_few_values_names_the_classes(tmp_path):
    image(tmp_path / "city/0.tif")
    image(tmp_path / "city/1.tif")
    polygons(tmp_path / "city/all.geojson", [{"id": i, "class": ["tree", "car"][i % 2], "note": ""} for i in range(6)])
    ran = done(call("tools.start", "city"))
    follow(ran, *CUTTING)
    classes = read_settings("config_city.py").classes
    assert (classes.label_values, classes.LABEL_ATTRIBUTE) == (["background", "car", "tree"], "class")
    assert set(np.unique(pixels(tmp_path / "city/gts_numpy/0.tif"))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("columns", "chosen", "others"),
    [
        ({"width": [0, 1], "landcover": ["field", "wood"]}, "landcover", []),  # 'width' has no 'id' that is a word
        ({"confidence": [0, 1], "Nutzung": ["Acker", "Wald"]}, "Nutzung", []),
        ({"editor_name": ["anna", "ben"], "landcover": ["field", "wood"]}, "landcover", ["editor_name"]),
        ({"class_id": [1, 2], "className": ["field", "wood"]}, "className", ["class_id"]),
        ({"objekt": ["field", "wood"], "dateId": [1, 2]}, "objekt", ["dateId"]),
        ({"code": [41001, 42001]}, "code", []),
        ({"height": [3, 5]}, None, []),
    ],
)
def test_an_attribute_is_known_by_the_words_of_its_name_and_text_comes_before_numbers(columns, chosen, others):
    rows = [{name: values[i % 2] for name, values in columns.items()} for i in range(6)]
    found = class_attribute(rows, most=60)
    assert (found and found.name, found.others if found else []) == (chosen, others)


def test_polygons_without_a_class_are_not_scored_and_blanks_around_a_name_do_not_count(tmp_path):
    image(tmp_path / "city/0.tif")
    image(tmp_path / "city/1.tif")
    values = ["tree", "car", " tree ", "car", None, ""]
    polygons(tmp_path / "city/all.geojson", [{"landcover": value} for value in values])
    ran = done(call("tools.start", "city"))
    assert "2 of 6 polygons have no 'landcover'" in ran.out
    follow(ran, *CUTTING)
    assert read_settings("config_city.py").classes.label_values == ["background", "car", "tree"]
    labels = pixels(tmp_path / "city/gts_numpy/0.tif")[0]  # squares of 11 pixels, the first below row 11
    assert labels[16, 5] == 2 and labels[36, 5] == 2 and labels[16, 16] == 1
    assert labels[27, 5] == 3 and labels[36, 16] == 3  # of no class


def test_blurred_colours_of_jpeg_become_their_classes_and_the_printed_lines_run(tmp_path):
    truth = [np.kron(np.random.default_rng(i).integers(0, 3, (5, 6)), np.ones((24, 24))) for i in range(4)]
    colours = [(60, 16, 152), (155, 155, 155), (254, 221, 58)]
    for i, labels in enumerate(truth):
        image(tmp_path / f"city/images/{i}.tif", height=120, width=144)
        (tmp_path / "city/masks").mkdir(exist_ok=True)
        picture = coloured(labels, colours).transpose(1, 2, 0)
        Image.fromarray(picture).save(tmp_path / f"city/masks/{i}.jpg", quality=85, subsampling=2)
    ran = done(call("tools.start", "city"))
    follow(ran, *CUTTING)
    known = read_settings("config_city.py").classes
    near = [int(np.abs(np.subtract(colours, known.palette[i])).sum(1).argmin()) for i in range(len(known.label_values))]
    assert sorted(near) == [0, 1, 2]
    got = pixels(next((tmp_path / "city/gts_numpy").glob("0.*")))[0]
    right = np.array([*near, 9])[np.minimum(got, 3)] == truth[0]
    assert right.mean() > 0.95
    share = float(re.search(r" 0  .* (\d+\.\d+)%", ran.out)[1])
    assert abs(share - 100 * np.mean([labels == near[0] for labels in truth])) < 4


# ---------------------------------------------------------------------------------------------------------------- bad input


def test_what_has_no_partner_or_does_not_fit_is_named_and_left_out(tmp_path):
    folder_of(tmp_path, [numbers(i) for i in range(4)])
    image(tmp_path / "city/images/lonely.tif")
    image(tmp_path / "city/images/wide.tif", width=WIDTH + 1)
    write_raster(tmp_path / "city/masks/wide.tif", numbers(9))
    image(tmp_path / "city/images/broken.tif")
    (tmp_path / "city/masks/broken.tif").write_bytes(b"no raster")
    image(tmp_path / "city/images/infrared.tif", bands=4)
    write_raster(tmp_path / "city/masks/infrared.tif", numbers(8))
    ran = done(call("tools.start", "city"))
    for words in ("1 images without a mask", "lonely.tif", f"{HEIGHT}x{WIDTH + 1}", "broken.tif", "4 band(s) of uint8"):
        assert words in ran.out
    assert sorted(read_settings("config_city.py").data.all_ids) == ["0", "1", "2", "3"]


def test_a_mask_that_lies_elsewhere_than_its_image_is_named_before_any_work(tmp_path):
    folder_of(tmp_path, [numbers(i) for i in range(4)])
    write_raster(tmp_path / "city/masks/1.tif", numbers(1), tile=2)
    ran = done(call("tools.start", "city"))
    assert "left out: city/masks/1.tif" in ran.out and "does not lie where city/images/1.tif lies" in ran.out
    assert sorted(read_settings("config_city.py").data.all_ids) == ["0", "2", "3"]


def test_a_folder_without_a_pair_is_refused(tmp_path):
    for i, other in enumerate("abc"):
        image(tmp_path / f"city/images/{i}.tif")
        write_raster(tmp_path / f"city/masks/{other}.tif", numbers(i))
    refused(call("tools.start", "city"), "no mask is called like an image", "--labels")


def test_a_folder_without_ground_truth_is_refused(tmp_path):
    image(tmp_path / "city/a.tif")
    refused(call("tools.start", "city"), "neither masks nor polygons")


def test_two_masks_for_one_image_are_refused(tmp_path):
    folder_of(tmp_path, [numbers(i) for i in range(3)])
    write_raster(tmp_path / "city/gt/1.tif", numbers(1))
    refused(call("tools.start", "city"), "several masks for one image", "gt/1.tif", "masks/1.tif", "--labels")
    done(call("tools.start", "city", "--labels", "city/masks"))


def test_masks_in_three_palettes_are_refused(tmp_path):
    palettes = [[RED, BLUE], [GREEN, (9, 9, 9)], [(1, 2, 3), (200, 100, 50)]]
    folder_of(tmp_path, [coloured(numbers(i), palettes[i]) for i in range(3)])
    refused(call("tools.start", "city"), "3 palettes", str(RED))


def test_masks_of_two_kinds_are_refused(tmp_path):
    folder_of(tmp_path, [numbers(0), coloured(numbers(1), [RED, BLUE]), numbers(2)])
    refused(call("tools.start", "city"), "1 masks are in colours", "2 hold numbers")


def test_masks_of_one_value_are_refused(tmp_path):
    folder_of(tmp_path, [np.zeros((HEIGHT, WIDTH), np.uint8)] * 3)
    refused(call("tools.start", "city"), "hold 1 number:", "two classes")


def test_a_config_that_is_there_stays(tmp_path):
    folder_of(tmp_path, [numbers(i) for i in range(3)])
    (tmp_path / "config_city.py").write_text("mine")
    refused(call("tools.start", "city"), "config_city.py exists already", "--overwrite")
    assert (tmp_path / "config_city.py").read_text() == "mine" and not (tmp_path / "city/tiles_city.csv").exists()
    done(call("tools.start", "city", "--overwrite"))
    assert read_settings("config_city.py").data.DATASET == "city"


def test_a_colour_stands_in_the_page_as_it_does_in_the_masks(tmp_path):
    ran = done(call("tools.start", folder_of(tmp_path, [coloured(numbers(i), [RED, BLUE]) for i in range(3)])))
    assert str(RED) in ran.out and str(colour_of(0x0000FF)) in ran.out


def test_classes_whose_names_say_what_they_are_have_the_colours_of_maps_and_all_are_told_apart():
    names = ["background", "Buildings", "low_vegetation", "tree", "car", "water", "id 7", "second tree", "roads"]
    found = dict(zip(names, colours_for(names), strict=True))
    assert len(set(found.values())) == len(names) and found["background"] == (255, 255, 255)
    most = {name: "RGB"[int(np.argmax(found[name]))] for name in ("Buildings", "low_vegetation", "tree", "water")}
    assert most == {"Buildings": "R", "low_vegetation": "G", "tree": "G", "water": "B"}
    assert len(set(found["roads"])) == 1  # grey
    apart = [np.linalg.norm(np.subtract(a, b)) for a in found.values() for b in found.values() if a != b]
    assert min(apart) >= 60
    many = colours_for([f"class {i}" for i in range(60)])
    assert len(set(many)) == 60
