"""Proves every cell of the table in tools/geo/declared.py: what a file declares, in an image, in a mask, in the maps.

Files are written by rasterio, PIL and GDAL's own formats; what must come of them is computed here with numpy.
"""

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import COLOURS, NAMES, call, done, names, pixels, refused, write_config, write_raster
from PIL import Image, ImageOps
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from test_no_data import net_of

from tools.base.errors import UserError
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.geo import declared, place, raster
from tools.geo.gaps import Gaps
from tools.geo.pixel_size import pixel_areas
from tools.inference.labeller import Labeller
from tools.inference.tile_list import Tile
from tools.inference.window_size import Windows
from tools.labels.palette import Palette
from tools.maps.outputs import Choice
from tools.maps.writer import Mapmaker

SIDE = 40
RGB = np.random.default_rng(1).integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8)  # neither 0 nor 255
HEIGHTS = np.random.default_rng(2).normal(280, 9, (1, SIDE, SIDE)).astype(np.float32)
HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[:11, 5:20] = True
LABELS = np.kron(np.arange(4).reshape(2, 2), np.ones((20, 20))).astype(np.uint8)
PALETTE = Palette(NAMES, COLOURS)
CELLS: dict[tuple[str, str], list] = {}  # what is tested: (row of the table, column) -> tests


def cell(what, *columns):
    """Says which cells of the table a test is for."""

    def note(test):
        for column in columns:
            CELLS.setdefault((what, column), []).append(test)
        return test

    return note


# ------------------------------------------------------------------------------------------------------------- what they are


def read_image(path, any_band=False):
    """An image as nets see it: bands and where it is empty."""
    with raster.open_image(path, any_band) as file:
        found, empty = raster.read_with_gaps(file)
    return found, np.zeros(found.shape[1:], bool) if empty is None else empty


def save(path, array, mask=None, **profile):
    """A GeoTIFF; mask: where there is data, kept inside the file."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_raster(path, array, **profile)
        if mask is not None:
            with rasterio.open(path, "r+") as file:
                file.write_mask(mask)
    return path


def stack(path, bands):
    """A VRT of bands: the file and the band of each, its type as GDAL calls it, and its nodata value."""
    text = ""
    for number, (file, band, kind, nodata) in enumerate(bands, 1):
        text += f'<VRTRasterBand dataType="{kind}" band="{number}">'
        text += "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
        text += f"<SimpleSource><SourceFilename>{file}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>"
        text += "</VRTRasterBand>"
    path.write_text(f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{text}</VRTDataset>')
    return path


def convert(folder, mask, way, **changes):
    """convert_gt.py on one mask; what was printed, and the labels."""
    config = write_config(folder / "config.py", folder, **changes)
    ran = call("convert_gt", mask, way, "--out", folder / "out", "--config", config, "--overwrite")
    return ran, pixels(folder / "out" / f"{mask.stem}{'.tif' if mask.suffix == '.tif' else '.png'}")[
        0
    ] if not ran.code else None


def painted(labels=LABELS, hole=None, colour=(255, 255, 255)):
    """The colours (h x w x 3) of labels; those of the hole are of class 0, as most programs leave it."""
    table = np.array([COLOURS[i] for i in range(7)], np.uint8)
    colours = table[labels]
    if hole is not None:
        colours[hole] = colour
    return colours


def check_labels(found, hole=HOLE):
    assert np.array_equal(found, np.where(hole, 6, LABELS))


def maps(folder, image, confidence="uint8", probabilities=None, cog=False, bands=None):
    """The folder with the maps of an image, by a net of random weights."""
    bands = bands or len(read_image(image)[0])
    spec = Input("x", ("x",), (bands,), False, (120.0,) * bands)
    labeller = Labeller(net_of(spec), [spec], Windows((32, 32), (16, 16)), 4, Device(torch.device("cpu"), bf16=False))
    palette = Palette(NAMES[:4], {i: COLOURS[i] for i in range(4)} | {4: (0, 0, 0)})
    choice = Choice(confidence=confidence, probabilities=probabilities, cog=cog)
    out = folder / "maps"
    out.mkdir()
    assert Mapmaker(labeller, palette, choice, out, quiet=True).make([Tile("a", {"x": image})]) == {}
    return out


def test_every_cell_of_the_table_has_a_test():
    cells = {(row.what, column) for row in declared.TABLE for column in row._fields[1:]}
    assert set(CELLS) == cells
    assert all(test.__name__ in globals() for tests in CELLS.values() for test in tests)


# -------------------------------------------------------------------------------------------------------------------- nodata

NODATA = "nodata value of each band"


@cell(NODATA, "images")
@pytest.mark.parametrize(("dtype", "value"), [("uint8", 0), ("uint8", 255), ("uint16", 0), ("uint16", 65535), ("float32", 0)])
def test_a_value_that_pictures_hold_means_no_data_in_all_bands_alone(tmp_path, dtype, value):
    image = RGB.astype(dtype)
    image[:, HOLE] = value
    image[1, 30:33] = value  # dark, or saturated
    path = save(tmp_path / "a.tif", image, nodata=value)
    found, empty = read_image(path)
    assert np.array_equal(empty, HOLE)
    assert np.array_equal(found[:, ~HOLE], image[:, ~HOLE])
    _, empty = read_image(path, any_band=True)
    assert np.array_equal(empty, HOLE | (np.arange(SIDE)[:, None] // 3 == 10))


@cell(NODATA, "images")
@pytest.mark.parametrize(("dtype", "value"), [("int16", -32768), ("float32", -9999), ("float32", np.nan), ("float64", -3.4e38)])
def test_any_other_value_in_one_band_empties_a_pixel(tmp_path, dtype, value):
    image = RGB.astype(dtype)
    image[2, HOLE] = value
    found, empty = read_image(save(tmp_path / "a.tif", image, nodata=value))
    assert np.array_equal(empty, HOLE)
    assert np.array_equal(found[:, ~HOLE], image[:, ~HOLE])


@cell(NODATA, "images")
def test_bands_may_have_values_of_their_own(tmp_path):
    """A VRT: 0 in two bands of a picture, 7 in the third, none in the fourth."""
    image = np.maximum(np.concatenate([RGB, RGB[:1]]), 8)
    image[0, HOLE] = image[1, HOLE] = 0
    image[0, 20], image[2, 25], image[3, 30] = 0, 7, 0
    source = save(tmp_path / "a.tif", image, photometric="minisblack")
    _, empty = read_image(stack(tmp_path / "a.vrt", [(source, i, "Byte", value) for i, value in enumerate((0, 0, 7, None), 1)]))
    assert np.array_equal(empty, HOLE | (np.arange(SIDE)[:, None] == 25))


@cell(NODATA, "images")
@pytest.mark.parametrize("value", [-9999, 256, 1.5])
def test_a_value_that_the_pixel_type_cannot_hold_means_nothing(tmp_path, value):
    path = save(tmp_path / "a.tif", RGB)
    found, empty = read_image(stack(tmp_path / "a.vrt", [(path, 1, "Byte", value)]))
    assert not empty.any() and np.array_equal(found, RGB[:1])


@cell(NODATA, "masks")
@pytest.mark.parametrize(
    ("dtype", "value"), [("uint8", 99), ("int16", -1), ("float32", np.nan), ("float32", -9999), ("int32", 77)]
)
def test_masks_of_numbers_are_not_scored_where_they_have_none(tmp_path, dtype, value):
    mask = save(tmp_path / "m.tif", np.where(HOLE, value, LABELS.astype(float)).astype(dtype), nodata=value)
    ran, labels = convert(tmp_path, mask, "--from-index")
    assert f"{HOLE.sum()} of 1,600 pixels hold nothing" in done(ran).out
    check_labels(labels)


@cell(NODATA, "masks")
def test_colour_masks_are_not_scored_where_all_bands_have_none(tmp_path):
    """The colour of class 3 is (0, 255, 0): nodata 0 in two bands alone."""
    mask = save(tmp_path / "m.tif", painted(hole=HOLE, colour=(0, 0, 0)).transpose(2, 0, 1), nodata=0)
    ran, labels = convert(tmp_path, mask, "--from-color")
    assert "hold nothing" in done(ran).out
    check_labels(labels)


@cell(NODATA, "masks")
def test_label_arrays_are_not_scored_where_they_have_none_and_may_not_declare_a_class(tmp_path):
    path = save(tmp_path / "l.tif", np.where(HOLE, 255, LABELS).astype(np.uint8), nodata=255)
    assert raster.label_fault(path, 6) is None
    check_labels(raster.read_labels(path, no_label=6))
    path = save(tmp_path / "0.tif", LABELS, nodata=0)
    assert "declares 0 to mean no data, and 0 is a class" in raster.label_fault(path, 6)


@cell(NODATA, "outputs")
@cell("mask of the file", "outputs")
@cell("transparent colour", "outputs")
@cell("alpha band", "outputs")
def test_maps_say_where_there_is_no_data_and_only_colours_have_an_alpha_band(tmp_path):
    image = RGB.copy()
    image[:, HOLE] = 0
    out = maps(tmp_path, save(tmp_path / "a.tif", image, nodata=0), "uint8", "float32")
    for kind, value in (("labels", 4), ("confidence", 255)):
        with rasterio.open(out / f"a_{kind}.tif") as file:
            assert np.array_equal(file.read(1) == value, HOLE) and file.nodata == value
            assert file.mask_flag_enums == ([rasterio.enums.MaskFlags.nodata],)
    with rasterio.open(out / "a_probabilities.tif") as file:
        assert np.array_equal(np.isnan(file.read(1)), HOLE) and np.isnan(file.nodata)
    with rasterio.open(out / "a_colours.tif") as file:
        assert [c.name for c in file.colorinterp] == ["red", "green", "blue", "alpha"]
        assert np.array_equal(file.read(4) == 0, HOLE)


# ------------------------------------------------------------------------------------------------- masks, alpha, transparent


@cell("mask of the file", "images")
@pytest.mark.parametrize("inside", [True, False])
def test_what_a_file_masks_out_is_empty_in_images(tmp_path, inside):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
        path = write_raster(tmp_path / "a.tif", RGB)
        with rasterio.open(path, "r+") as file:
            file.write_mask(~HOLE)
    assert (tmp_path / "a.tif.msk").exists() != inside
    found, empty = read_image(path)
    assert np.array_equal(empty, HOLE) and np.array_equal(found[:, ~HOLE], RGB[:, ~HOLE])


@cell("mask of the file", "images")
def test_a_mask_and_a_nodata_value_both_count(tmp_path):
    heights = HEIGHTS.copy()
    heights[0, 35] = -9999
    _, empty = read_image(save(tmp_path / "a.tif", heights, ~HOLE, nodata=-9999))
    assert np.array_equal(empty, HOLE | (np.arange(SIDE)[:, None] == 35))


@cell("mask of the file", "images")
def test_what_any_bands_own_mask_masks_out_is_empty(tmp_path):
    path = save(tmp_path / "a.tif", RGB)
    with rasterio.open(tmp_path / "a.tif.msk", "w", driver="GTiff", count=3, height=SIDE, width=SIDE, dtype="uint8") as file:
        file.write(np.where([HOLE, HOLE & False, np.arange(SIDE)[:, None] + HOLE * 0 == 30], 0, 255).astype(np.uint8))
        file.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": 0 for band in (1, 2, 3)})
    found, empty = read_image(path)
    assert np.array_equal(empty, HOLE | (np.arange(SIDE)[:, None] == 30)) and np.array_equal(found, RGB)


@cell("mask of the file", "masks")
@pytest.mark.parametrize("way", ["--from-color", "--from-index"])
def test_what_a_mask_masks_out_is_not_scored(tmp_path, way):
    array = painted(hole=HOLE).transpose(2, 0, 1) if way == "--from-color" else np.where(HOLE, 0, LABELS).astype(np.uint8)
    ran, labels = convert(tmp_path, save(tmp_path / "m.tif", array, ~HOLE), way)
    done(ran)
    check_labels(labels)
    path = save(tmp_path / "l.tif", LABELS, ~HOLE)
    check_labels(raster.read_labels(path, no_label=6))


@cell("alpha band", "images")
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_alpha_band_is_a_mask_and_no_channel(tmp_path, dtype):
    alpha = np.where(HOLE, 0, np.iinfo(dtype).max)
    alpha[20, 20:30] = 3  # a bit opaque is data
    image = np.concatenate([RGB, alpha[None]]).astype(dtype)
    path = save(tmp_path / "a.tif", image, photometric="rgb", alpha="yes")
    found, empty = read_image(path)
    assert np.array_equal(empty, HOLE) and np.array_equal(found, image[:3])
    assert (raster.inspect(path).bands, raster.inspect(path).dtype) == (3, dtype)


@cell("alpha band", "images")
def test_grey_with_alpha_is_one_band(tmp_path):
    Image.fromarray(np.dstack([RGB[0], np.where(HOLE, 0, 255).astype(np.uint8)])).save(tmp_path / "a.png")
    found, empty = read_image(tmp_path / "a.png")
    assert np.array_equal(found, RGB[:1]) and np.array_equal(empty, HOLE)


@cell("alpha band", "images")
def test_infrared_that_gdal_calls_alpha_is_a_channel(tmp_path):
    image = np.concatenate([RGB, RGB[::-1][:1]])
    image[3, 3:9] = 0  # dark water
    path = save(tmp_path / "a.tif", image)
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    found, empty = read_image(path)
    assert np.array_equal(found, image) and not empty.any()


@cell("alpha band", "masks")
@pytest.mark.parametrize("kind", ["colours.png", "numbers.png", "colours.tif"])
def test_transparent_pixels_of_masks_are_not_scored(tmp_path, kind):
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    bands = np.where(HOLE, 0, LABELS).astype(np.uint8) if kind.startswith("numbers") else painted(hole=HOLE)
    array = np.dstack([bands, alpha])
    if kind.endswith("tif"):
        save(tmp_path / kind, array.transpose(2, 0, 1), photometric="rgb", alpha="yes")
    else:
        Image.fromarray(array).save(tmp_path / kind)
    ran, labels = convert(tmp_path, tmp_path / kind, "--from-index" if kind.startswith("numbers") else "--from-color")
    done(ran)
    check_labels(labels)


@cell("transparent colour", "images")
@pytest.mark.parametrize("kind", ["palette", "several", "colour"])
def test_a_transparent_colour_is_empty(tmp_path, kind):
    path = tmp_path / "a.png"
    if kind == "colour":
        image = RGB.copy()
        image[:, HOLE] = np.array([[9], [8], [7]])
        Image.fromarray(image.transpose(1, 2, 0)).save(path, transparency=(9, 8, 7))
    else:
        picture = Image.fromarray(np.where(HOLE, 4 + (np.arange(SIDE) % 2), LABELS).astype(np.uint8)).convert("P")
        picture.putpalette([part for i in range(7) for part in COLOURS[i]])
        last = bytes([255] * 4 + [0, 0, 255]) if kind == "several" else 4
        picture.save(path, transparency=last)
        image = painted(np.where(HOLE, 4 + (np.arange(SIDE) % 2), LABELS)).transpose(2, 0, 1)
    found, empty = read_image(path)
    hole = HOLE & (np.arange(SIDE) % 2 == 0) if kind == "palette" else HOLE
    assert np.array_equal(empty, hole) and np.array_equal(found[:, ~hole], image[:, ~hole])


@cell("transparent colour", "masks")
@pytest.mark.parametrize("way", ["--from-color", "--from-index"])
def test_transparent_entries_of_a_masks_palette_are_not_scored(tmp_path, way):
    picture = Image.fromarray(np.where(HOLE, 5, LABELS).astype(np.uint8)).convert("P")
    picture.putpalette([part for i in range(4) for part in COLOURS[i]] + [0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "m.png", transparency=bytes([255] * 4 + [0, 0]))
    ran, labels = convert(tmp_path, tmp_path / "m.png", way)
    done(ran)
    check_labels(labels)


# ------------------------------------------------------------------------------------------------- pixel types, scale, offset

KINDS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


@cell("pixel type", "images")
@pytest.mark.parametrize("dtype", KINDS)
def test_any_real_pixel_type_is_read_as_it_is(tmp_path, dtype):
    image = (RGB // 2).astype(dtype)
    found, empty = read_image(save(tmp_path / "a.tif", image, photometric="minisblack"))
    assert found.dtype == dtype and np.array_equal(found, image) and not empty.any()


def mixed(folder, *arrays):
    """A VRT that stacks bands of several types."""
    kinds = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}
    bands = [(save(folder / f"{i}.tif", a), 1, kinds[a.dtype.name], None) for i, a in enumerate(arrays)]
    return stack(folder / "mixed.vrt", bands)


@cell("pixel type", "images")
@pytest.mark.parametrize(("kinds", "wanted"), [
    (("uint8", "float32"), "float32"), (("uint8", "uint16"), "uint16"), (("uint16", "int16"), "int32"),
    (("uint8", "int16"), "int16"),
])  # fmt: skip
def test_bands_of_several_types_become_the_type_that_holds_all(tmp_path, kinds, wanted):
    arrays = [RGB[i].astype(kind) * 3 for i, kind in enumerate(kinds)]
    found, _ = read_image(mixed(tmp_path, *arrays))
    assert found.dtype == wanted and np.array_equal(found, np.stack(arrays).astype(wanted))


@cell("pixel type", "images")
def test_complex_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.tif holds complex64 numbers: save their amplitude"):
        read_image(save(tmp_path / "a.tif", np.ones((1, 4, 4), np.complex64)))


@cell("pixel type", "masks")
@pytest.mark.parametrize("dtype", KINDS)
def test_class_numbers_of_any_type_are_read_if_they_are_whole(tmp_path, dtype):
    ran, labels = convert(tmp_path, save(tmp_path / "m.tif", LABELS.astype(dtype)), "--from-index")
    done(ran)
    check_labels(labels, False)


@cell("pixel type", "masks")
def test_fractions_are_no_classes_and_minus_one_is_dropped_if_the_config_says_so(tmp_path):
    ran, _ = convert(tmp_path, save(tmp_path / "m.tif", LABELS + np.float32(0.25)), "--from-index")
    refused(ran, "numbers such as 0.25 on 1,600 pixels, which are not whole")
    mask = save(tmp_path / "m.tif", np.where(HOLE, -1, LABELS.astype(int)).astype(np.int32))
    ran, _ = convert(tmp_path, mask, "--from-index")
    refused(ran, "-1 on 165 pixels", "--unknown ignore", "CLASS_MAPPING drops")
    sources = {"nothing": -1} | {name: number for number, name in enumerate(NAMES)}
    mapping = {"nothing": None} | {name: name for name in NAMES}
    ran, labels = convert(tmp_path, mask, "--from-index", SOURCE_CLASSES=sources, CLASS_MAPPING=mapping)
    done(ran)
    check_labels(labels)


@cell("pixel type", "outputs")
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_labels_are_bytes_and_shares_bytes_or_floats(tmp_path, dtype):
    out = maps(tmp_path, save(tmp_path / "a.tif", HEIGHTS), dtype)
    kinds = {kind: raster.inspect(out / f"a_{kind}.tif", raster.NUMBERS).dtype for kind in ("labels", "colours", "confidence")}
    assert kinds == {"labels": "uint8", "colours": "uint8", "confidence": dtype}


def scaled(path, array, scale, offset, **profile):
    save(path, array, **profile)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,) * file.count, (offset,) * file.count
    return path


@cell("scale and offset", "images")
@pytest.mark.parametrize(("dtype", "nodata"), [("int16", -32768), ("uint16", 0), ("uint8", None)])
def test_scale_and_offset_are_applied_but_not_to_nodata(tmp_path, dtype, nodata):
    image = RGB.astype(dtype)
    if nodata is not None:
        image[:, HOLE] = nodata
    path = scaled(tmp_path / "a.tif", image, 0.1, -20, nodata=nodata)
    found, empty = read_image(path)
    assert found.dtype == "float32" and raster.inspect(path).dtype == "float32"
    assert np.array_equal(empty, HOLE & (nodata is not None))
    assert found[:, ~empty] == pytest.approx(image[:, ~empty] * 0.1 - 20, abs=1e-4)


@cell("scale and offset", "images")
@pytest.mark.parametrize(("scale", "offset"), [(0, 5), (np.nan, 0), (1, np.inf)])
def test_a_scale_that_leaves_nothing_of_an_image_is_refused(tmp_path, scale, offset):
    path = scaled(tmp_path / "a.tif", RGB, scale, offset)
    with pytest.raises(UserError, match=r"a\.tif says that band 1 has a scale of"):
        read_image(path)


@cell("scale and offset", "masks")
def test_class_numbers_are_not_scaled(tmp_path):
    ran, labels = convert(tmp_path, scaled(tmp_path / "m.tif", LABELS, 0.5, 1), "--from-index")
    done(ran)
    check_labels(labels, False)


@cell("scale and offset", "outputs")
def test_per_cent_say_their_scale_and_labels_have_none(tmp_path):
    out = maps(tmp_path, scaled(tmp_path / "a.tif", RGB, 0.5, 3))
    for kind, scale in (("confidence", 0.01), ("labels", 1)):
        with rasterio.open(out / f"a_{kind}.tif") as file:
            assert (file.scales, file.offsets) == ((scale,), (0.0,))


# --------------------------------------------------------------------------------------------------------- colours, palettes


@cell("palette", "images")
def test_a_palette_gives_its_colours_and_a_grey_one_one_band(tmp_path):
    picture = Image.fromarray(LABELS).convert("P")
    picture.putpalette([part for i in range(7) for part in COLOURS[i]])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[0], painted().transpose(2, 0, 1))
    grey = {i: (10 * i + 3,) * 3 for i in range(256 // 11)}
    raster.write(tmp_path / "g.tif", LABELS, colours=grey)
    assert np.array_equal(read_image(tmp_path / "g.tif")[0][0], 10 * LABELS + 3)


@cell("palette", "masks")
@pytest.mark.parametrize(("way", "order"), [("--from-color", [3, 2, 1, 0]), ("--from-index", [0, 1, 2, 3])])
def test_masks_are_read_by_the_colours_of_their_palette_or_by_its_numbers(tmp_path, way, order):
    raster.write(tmp_path / "m.tif", LABELS, colours={i: COLOURS[3 - i] for i in range(4)})
    ran, labels = convert(tmp_path, tmp_path / "m.tif", way)
    done(ran)
    assert np.array_equal(labels, np.array(order)[LABELS])


@cell("palette", "outputs")
@cell("band order", "outputs")
@cell("colour space", "outputs")
def test_maps_have_the_configs_colours_as_a_palette_and_as_red_green_and_blue(tmp_path):
    out = maps(tmp_path, save(tmp_path / "a.tif", RGB))
    with rasterio.open(out / "a_labels.tif") as file:
        labels, table = file.read(1), file.colormap(1)
    assert [table[i][:3] for i in range(4)] == [COLOURS[i] for i in range(4)]
    with rasterio.open(out / "a_colours.tif") as file:
        assert [c.name for c in file.colorinterp] == ["red", "green", "blue"]
        assert np.array_equal(file.read().transpose(1, 2, 0), painted(labels))


def in_order(path, array, order):
    with rasterio.open(write_raster(path, array, photometric="minisblack"), "r+") as file:
        file.colorinterp = [ColorInterp[name] for name in order]
    return path


@cell("band order", "images")
def test_three_bands_that_say_their_colours_stand_as_red_green_blue_and_more_as_in_the_file(tmp_path):
    path = in_order(tmp_path / "a.tif", RGB[::-1], ["blue", "green", "red"])
    assert np.array_equal(read_image(path)[0], RGB)
    four = np.concatenate([RGB[::-1], RGB[:1]])
    path = in_order(tmp_path / "b.tif", four, ["blue", "green", "red", "undefined"])
    assert np.array_equal(read_image(path)[0], four)
    alpha = np.concatenate([RGB[::-1], np.where(HOLE, 0, 255).astype(np.uint8)[None]])
    found, empty = read_image(in_order(tmp_path / "c.tif", alpha, ["blue", "green", "red", "alpha"]))
    assert np.array_equal(found, RGB) and np.array_equal(empty, HOLE)


@cell("band order", "masks")
def test_a_mask_in_blue_green_red_has_the_colours_that_gis_show(tmp_path):
    path = in_order(tmp_path / "m.tif", painted().transpose(2, 0, 1)[::-1], ["blue", "green", "red"])
    ran, labels = convert(tmp_path, path, "--from-color")
    done(ran)
    check_labels(labels, False)


@cell("colour space", "images")
@pytest.mark.parametrize("kind", ["cmyk.jpg", "ycbcr.tif"])
def test_other_colour_spaces_are_red_green_and_blue_where_gdal_gives_them_so(tmp_path, kind):
    flat = np.repeat(np.repeat(RGB[:, ::20, ::20], 20, 1), 20, 2)
    if kind == "cmyk.jpg":
        Image.fromarray(flat.transpose(1, 2, 0)).convert("CMYK").save(tmp_path / kind, quality=98)
    else:
        save(tmp_path / kind, flat, photometric="ycbcr", compress="jpeg", jpeg_quality=98)
    found, _ = read_image(tmp_path / kind)
    assert found.shape == RGB.shape and np.abs(found.astype(int) - flat)[:, 8:12, 8:12].max() < 10


@cell("colour space", "images", "masks")
@pytest.mark.parametrize(
    "order", [["cyan", "magenta", "yellow", "black"], ["Y", "Cb", "Cr"], ["hue", "saturation", "lightness"]]
)
def test_bands_of_another_colour_space_are_refused(tmp_path, order):
    path = in_order(tmp_path / "a.tif", np.resize(RGB, (len(order), SIDE, SIDE)), order)
    with pytest.raises(UserError, match=f"has bands of {', '.join(order)}, not of red"):
        read_image(path)
    refused(convert(tmp_path, path, "--from-color")[0], path, "convert it to RGB")


# ------------------------------------------------------------------------------------------------------------------ side-cars


def aux(path, text):
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>")
    return path


PLACE = Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)
PAM = "<SRS>EPSG:32632</SRS><GeoTransform>500000, 0.5, 0, 5400000, 0, -0.5</GeoTransform>"


def holed(value=0):
    image = RGB.copy()
    image[:, HOLE] = value
    return image


@cell("side-car .aux.xml", "images")
def test_a_side_car_gives_nodata_and_place(tmp_path):
    bands = "".join(f'<PAMRasterBand band="{i}"><NoDataValue>0</NoDataValue></PAMRasterBand>' for i in (1, 2, 3))
    path = aux(tmp_path / "a.png", PAM + bands)
    Image.fromarray(holed().transpose(1, 2, 0)).save(path)
    about = raster.inspect(path)
    assert (about.crs.to_epsg(), about.transform) == (32632, PLACE)
    assert np.array_equal(read_image(path)[1], HOLE)


@cell("side-car .aux.xml", "masks")
def test_a_side_car_gives_the_nodata_of_a_mask(tmp_path):
    path = aux(tmp_path / "m.png", '<PAMRasterBand band="1"><NoDataValue>9</NoDataValue></PAMRasterBand>')
    Image.fromarray(np.where(HOLE, 9, LABELS).astype(np.uint8)).save(path)
    ran, labels = convert(tmp_path, path, "--from-index")
    done(ran)
    check_labels(labels)


@cell("side-car .aux.xml", "outputs")
@cell("world file", "outputs")
@cell("pages and subdatasets", "outputs")
def test_the_only_side_cars_of_maps_are_the_names_of_classes(tmp_path):
    image = aux(save(tmp_path / "a.tif", RGB, crs=None, transform=None), PAM)
    out = maps(tmp_path, image)
    assert [name for name in names(out) if not name.endswith((".tif", ".png", ".qml"))] == ["a_labels.tif.aux.xml", "tiles"]
    with rasterio.open(out / "a_labels.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.subdatasets) == (32632, PLACE, [])
    assert names(tmp_path) == ["a.tif", "a.tif.aux.xml", "maps"]


@cell("world file", "images", "masks")
@pytest.mark.parametrize(("kind", "world"), [("a.png", "a.pgw"), ("a.jpg", "a.jgw"), ("a.tif", "a.tfw")])
def test_a_world_file_gives_the_transform(tmp_path, kind, world):
    Image.fromarray(LABELS).save(tmp_path / kind)
    (tmp_path / world).write_text("0.5\n0\n0\n-0.5\n500000.25\n5399999.75\n")  # of the middle of the first pixel
    for role in (raster.IMAGE, raster.NUMBERS):
        about = raster.inspect(tmp_path / kind, role)
        assert (about.crs, about.transform) == (None, PLACE)


# ------------------------------------------------------------------------------------------------------------------ pages


def pages(path, *arrays):
    first, *others = map(Image.fromarray, arrays)
    first.save(path, save_all=True, append_images=others)
    return path


@cell("pages and subdatasets", "images", "masks")
def test_pages_are_refused_and_named(tmp_path):
    path = pages(tmp_path / "a.tif", *RGB)
    with pytest.raises(UserError, match=r"a\.tif has 3 pages \(GTIFF_DIR:1:.*gdalbuildvrt -separate"):
        read_image(path)
    refused(convert(tmp_path, pages(tmp_path / "m.tif", LABELS, LABELS), "--from-index")[0], "has 2 pages")


# -------------------------------------------------------------------------------------------------------------------- places

NORTH = 6_378_137 * np.log(np.tan(np.pi / 4 + np.radians(60) / 2))  # of 60 degrees in Web Mercator


@cell("CRS", "images")
@pytest.mark.parametrize(("crs", "transform", "area"), [
    ("EPSG:32632", PLACE, 0.25),
    ("EPSG:32632+5773", PLACE, 0.25),  # with heights
    ("EPSG:2263", Affine(1, 0, 9e5, 0, -1, 2e5), (1200 / 3937) ** 2),  # feet
    ("EPSG:3857", Affine(1, 0, 1e6, 0, -1, NORTH), 0.2508),
    ("EPSG:3857+5773", Affine(1, 0, 1e6, 0, -1, NORTH), 0.2508),
    ("EPSG:3395", Affine(1, 0, 1e6, 0, -1, 8_362_698.5), 0.2508),  # World Mercator at the same place
    ("EPSG:32662", Affine(1, 0, 1e6, 0, -1, 60 * 111_319.49), 0.5008),  # metres of the equator, at 60 degrees north
    ("EPSG:4326", Affine(1e-5, 0, 8, 0, -1e-5, 60), 1.11319**2 * 0.5016),
    ("EPSG:4326", Affine(1e-5, 0, 179.9999, 0, -1e-5, 0), 1.11319 * 1.10574),  # across the date line
    ("EPSG:4326", Affine(1e-5, 0, 359.9999, 0, -1e-5, 0), 1.11319 * 1.10574),
    ("EPSG:4979", Affine(1e-5, 0, 8, 0, -1e-5, 60), 1.11319**2 * 0.5016),  # with heights above the ellipsoid
    ("EPSG:3031", Affine(10, 0, -200, 0, -10, 200), 105.75),  # at the south pole, true at 71 degrees
    ("EPSG:3995", Affine(10, 0, -200, 0, -10, 200), 105.75),  # at the north pole
    ("EPSG:32631", Affine(1, 0, 1_800_000, 0, -1, 5_400_000), 0.957),  # far beyond its zone
    ('LOCAL_CS["plan",UNIT["foot",0.3048]]', Affine(2, 0, 0, 0, -2, 0), (2 * 0.3048) ** 2),
    (None, PLACE, None),
])  # fmt: skip
def test_areas_are_true_wherever_a_raster_lies(tmp_path, crs, transform, area):
    """Expected by hand: the sphere or the ellipsoid at that latitude, scale factors by their formulas."""
    about = raster.inspect(save(tmp_path / "a.tif", RGB, crs=crs, transform=transform))
    found = pixel_areas(about)
    assert found is None if area is None else found == pytest.approx([area] * SIDE, rel=0.02)


def placed(path, **profile):
    return raster.inspect(save(path, LABELS, **profile), raster.NUMBERS)


ONE = {"crs": "EPSG:32632", "transform": PLACE}


@cell("CRS", "masks")
@cell("transform", "masks")
@pytest.mark.parametrize(("other", "same"), [
    (ONE, True),
    (ONE | {"crs": "EPSG:32632+5773"}, True),
    (ONE | {"crs": "EPSG:25832"}, True),  # another name for the same place, to a metre
    (ONE | {"crs": None}, True),  # a world file
    (ONE | {"crs": None, "transform": PLACE * Affine.translation(30, 0)}, False),
    (ONE | {"crs": None, "transform": Affine(1e-5, 0, 9, 0, -1e-5, 48)}, True),  # in another unit: nothing to compare
    (ONE | {"crs": None, "transform": Affine(0.5, 0, 0, 0, -0.5, SIDE / 2)}, True),  # from its own corner
    (ONE | {"transform": None}, True),  # does not say
    ({"crs": None, "transform": None}, True),
    (ONE | {"transform": PLACE * Affine.translation(0.4, 0)}, True),  # within half a pixel
    (ONE | {"transform": PLACE * Affine.translation(0, 0.6)}, False),
    (ONE | {"transform": PLACE * Affine.scale(1.02)}, False),  # the first corner agrees
    (ONE | {"transform": PLACE * Affine.translation(0, SIDE) * Affine.scale(1, -1)}, False),  # south up
    (ONE | {"crs": "EPSG:32633"}, False),
    (ONE | {"crs": "EPSG:4326"}, False),
])  # fmt: skip
def test_a_mask_must_lie_where_its_image_lies_if_both_say_so(tmp_path, other, same):
    fault = place.fault(placed(tmp_path / "a.tif", **ONE), placed(tmp_path / "b.tif", **other), ("rgb", "labels"))
    assert fault is None if same else f"{tmp_path}/b.tif (labels) does not lie where {tmp_path}/a.tif (rgb) lies" in fault


@cell("control points", "masks")
@pytest.mark.parametrize(("bend", "apart"), [(0, None), (3, 3)])
def test_control_points_are_compared_with_the_place_of_the_image(tmp_path, bend, apart):
    image, mask = placed(tmp_path / "a.tif", **ONE), raster.inspect(by_points(tmp_path / "b.tif", LABELS, bend), raster.NUMBERS)
    assert place.fault(mask, mask) is None
    for one, other in ((image, mask), (mask, image)):
        fault = place.fault(one, other)
        assert fault is None if apart is None else f"it is {apart} pixels off" in fault


@pytest.mark.parametrize(("name", "way"), [("labels", "near"), ("dsm", "bilinear")])
def test_the_command_that_brings_a_file_onto_the_others_grid_is_said(tmp_path, name, way):
    image = placed(tmp_path / "a.tif", **ONE)
    coarse = PLACE * Affine.translation(-8, -8) * Affine.scale(4)
    heights = raster.inspect(write_raster(tmp_path / "b.tif", HEIGHTS[:, :14, :14], **ONE | {"transform": coarse}))
    numbers = "500000 5399980 500020 5400000 -ts 40 40"
    said = f"(gdalwarp -t_srs EPSG:32632 -te {numbers} -r {way} {tmp_path}/b.tif b_aligned.tif)"
    assert said in place.fault(image, heights, ("irrg", name))
    nowhere = raster.inspect(write_raster(tmp_path / "c.tif", HEIGHTS[:, :14, :14], crs=None, transform=None))
    assert place.fault(image, nowhere).endswith("has 40x40): make the one as large as the other.")


@cell("side-car .aux.xml", "masks")
def test_labels_of_a_png_with_a_place_say_where_they_lie(tmp_path):
    mask = tmp_path / "m.png"
    Image.fromarray(painted()).save(mask)
    (tmp_path / "m.pgw").write_text("0.5\n0\n0\n-0.5\n600000.25\n4999999.75\n")
    done(convert(tmp_path, mask, "--from-color")[0])
    labels = raster.inspect(tmp_path / "out/m.png", raster.NUMBERS)
    assert labels.transform.almost_equals(Affine(0.5, 0, 6e5, 0, -0.5, 5e6))
    assert f"{tmp_path}/out/m.png does not lie where" in place.fault(placed(tmp_path / "a.tif", **ONE), labels)


@cell("transform", "images")
def test_a_crs_alone_is_no_place_and_pixels_have_no_area(tmp_path):
    about = raster.inspect(save(tmp_path / "a.tif", RGB, transform=None))
    assert about.crs.to_epsg() == 32632 and about.transform is None and pixel_areas(about) is None


@cell("CRS", "masks")
def test_a_mask_in_degrees_across_the_date_line_lies_where_its_image_lies(tmp_path):
    east, west = (Affine(1e-5, 0, lon, 0, -1e-5, 10) for lon in (179.9999, -180.0001))
    ones = [placed(tmp_path / f"{i}.tif", crs="EPSG:4326", transform=t) for i, t in enumerate((east, west))]
    assert place.fault(*ones) is None
    pacific = placed(tmp_path / "p.tif", crs="EPSG:3832", transform=PLACE)  # centred at 150 degrees east
    assert "does not lie" in place.fault(ones[0], pacific)


@cell("CRS", "outputs")
@cell("transform", "outputs")
@pytest.mark.parametrize(
    "transform",
    [PLACE, Affine(0.5, 0, 5e5, 0, 0.5, 5e6), PLACE * Affine.rotation(30), Affine(0.5, 0.1, 5e5, 0.05, -0.5, 5e6)],
)
def test_maps_lie_where_the_image_lies(tmp_path, transform):
    crs = rasterio.CRS.from_string("EPSG:32632+5773")
    out = maps(tmp_path, save(tmp_path / "a.tif", RGB, crs=crs, transform=transform))
    for kind in ("labels", "colours", "confidence"):
        with rasterio.open(out / f"a_{kind}.tif") as file:
            assert file.crs == crs and file.transform.almost_equals(transform)


@cell("transform", "images")
@pytest.mark.parametrize("transform", [Affine(np.nan, 0, 0, 0, -1, 0), Affine(0, 0, 100, 0, 0, 5), Affine(1, 1, 0, 1, 1, 0)])
def test_a_transform_that_leaves_no_area_is_none(tmp_path, transform):
    about = raster.inspect(save(tmp_path / "a.tif", RGB, transform=transform))
    assert about.transform is None and pixel_areas(about) is None


def points(bend=0.0):
    """Nine points of PLACE, the middle one `bend` pixels off."""
    there = [(r, c) for r in (0, 20, 40) for c in (0, 20, 40)]
    return [GroundControlPoint(r, c, *(PLACE * (c + bend * (r == c == 20), r))) for r, c in there]


def by_points(path, array, bend=0.0):
    return save(path, array, gcps=points(bend), transform=None)


@cell("control points", "images", "masks")
def test_control_points_on_a_plane_are_a_transform(tmp_path):
    for role in (raster.IMAGE, raster.NUMBERS):
        about = raster.inspect(by_points(tmp_path / "a.tif", LABELS), role)
        assert about.crs.to_epsg() == 32632 and about.transform.almost_equals(PLACE, 1e-6) and not about.gcps
        bent = raster.inspect(by_points(tmp_path / "b.tif", LABELS, 3), role)
        assert bent.transform is None and len(bent.gcps) == 9 and bent.is_placed
    assert pixel_areas(about) == pytest.approx([0.25] * SIDE) and pixel_areas(bent) is None


@cell("control points", "outputs")
@pytest.mark.parametrize("bend", [0, 3])
def test_maps_lie_where_control_points_put_the_image(tmp_path, bend):
    out = maps(tmp_path, by_points(tmp_path / "a.tif", RGB, bend))
    for kind in ("labels", "colours"):
        with rasterio.open(out / f"a_{kind}.tif") as file:
            found, crs = file.gcps
            if bend:
                assert crs.to_epsg() == 32632
                assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points(bend)]
            else:
                assert file.crs.to_epsg() == 32632 and file.transform.almost_equals(PLACE, 1e-6)


MODEL = RPC(
    height_off=300.0, height_scale=500.0, lat_off=48.0, lat_scale=0.1, line_off=20.0, line_scale=20.0, long_off=9.0,
    long_scale=0.1, samp_off=20.0, samp_scale=20.0, err_bias=-1.0, err_rand=-1.0,
    line_den_coeff=[1.0] + [0.0] * 19, line_num_coeff=[0.0, 0.0, -1.0] + [0.0] * 17,
    samp_den_coeff=[1.0] + [0.0] * 19, samp_num_coeff=[0.0, 1.0] + [0.0] * 18,
)  # fmt: skip


@cell("RPC", "images", "masks", "outputs")
def test_a_camera_model_places_an_image_and_its_maps_keep_it(tmp_path):
    path = save(tmp_path / "a.tif", RGB, crs=None, transform=None, rpcs=MODEL)
    about = raster.inspect(path)
    assert about.is_placed and (about.crs, about.transform) == (None, None)
    mask = raster.inspect(save(tmp_path / "m.tif", LABELS), raster.NUMBERS)
    assert place.fault(about, mask) is None  # a model says nothing that a mask could contradict
    with rasterio.open(maps(tmp_path, path) / "a_labels.tif") as file:
        assert file.rpcs.to_dict() == MODEL.to_dict()


# ----------------------------------------------------------------------------------------------------- EXIF, overviews, tags

UPRIGHT = {  # EXIF's number: the upright picture (bands x h x w) of the stored one
    1: lambda a: a, 2: lambda a: a[:, :, ::-1], 3: lambda a: a[:, ::-1, ::-1], 4: lambda a: a[:, ::-1],
    5: lambda a: a.transpose(0, 2, 1), 6: lambda a: np.rot90(a, -1, (1, 2)), 7: lambda a: a.transpose(0, 2, 1)[:, ::-1, ::-1],
    8: lambda a: np.rot90(a, 1, (1, 2)),
}  # fmt: skip


def turned(path, array, way):
    """A picture (bands x h x w) whose EXIF says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = way
    bands = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(bands)).save(path, exif=exif, **({"quality": 98} if path.suffix == ".jpg" else {}))
    return path


@cell("EXIF orientation", "images")
@pytest.mark.parametrize("kind", ["a.png", "a.tif", "a.jpg"])
@pytest.mark.parametrize("way", UPRIGHT)
def test_pictures_are_read_upright(tmp_path, kind, way):
    path = turned(tmp_path / kind, RGB[:, :25], way)
    with rasterio.open(path) as file:
        wanted = UPRIGHT[way](file.read())
    found, _ = read_image(path)
    assert np.array_equal(found, wanted)
    assert (raster.inspect(path).height, raster.inspect(path).width) == wanted.shape[1:]
    assert not raster.inspect(path).is_placed and raster.inspect(path).turned == (way > 1)
    with Image.open(path) as picture:  # as PIL turns it, too
        assert ImageOps.exif_transpose(picture).size == wanted.shape[:0:-1]


@cell("EXIF orientation", "images")
def test_a_placed_picture_is_read_as_stored(tmp_path):
    path = turned(tmp_path / "a.jpg", RGB, 6)
    (tmp_path / "a.jgw").write_text("0.5\n0\n0\n-0.5\n500000\n5400000\n")
    with rasterio.open(path) as file:
        assert np.array_equal(read_image(path)[0], file.read())


@cell("EXIF orientation", "masks")
def test_masks_are_read_upright_too(tmp_path):
    labels = LABELS[:30]
    ran, found = convert(tmp_path, turned(tmp_path / "m.png", labels[None], 6), "--from-index")
    done(ran)
    assert np.array_equal(found, np.rot90(labels, -1))


@cell("EXIF orientation", "outputs")
def test_the_map_of_a_turned_picture_is_upright_and_says_so(tmp_path):
    out = maps(tmp_path, turned(tmp_path / "a.jpg", RGB[:, :30], 6))
    with rasterio.open(out / "a_labels.tif") as file:
        assert file.shape == (SIDE, 30) and "EXIF_Orientation" not in file.tags()


@cell("overviews", "images", "masks", "outputs")
def test_overviews_reach_neither_nets_nor_labels(tmp_path):
    """Overviews of the mean of classes 0 and 2 would be class 1."""
    stripes = np.tile(np.array([0, 2], np.uint8), (512, 256))
    path = write_raster(tmp_path / "l.tif", stripes, tiled=True, blockxsize=128, blockysize=128)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    with rasterio.open(path) as file:
        assert 1 in file.read(1, out_shape=(64, 64))
    assert set(np.unique(raster.read_small(path, 64, role=raster.NUMBERS))) <= {0, 2}
    assert np.array_equal(read_image(path)[0][0], stripes)
    out = tmp_path / "cog.tif"
    raster.write(out, stripes, colours=COLOURS)
    raster.cloud_optimised(out, "mode")
    with rasterio.open(out) as file:
        assert set(np.unique(file.read(1, out_shape=(256, 256)))) <= {0, 2}


@cell("tags", "images", "masks", "outputs")
def test_tags_are_carried_on_but_for_those_on_how_pixels_are_stored(tmp_path):
    path = save(tmp_path / "a.tif", RGB)
    with rasterio.open(path, "r+") as file:
        file.update_tags(PILOT="Ada", NODATA_VALUES="1 2 3", EXIF_Orientation="6")
    assert np.array_equal(read_image(path)[0], RGB)
    with rasterio.open(maps(tmp_path, path) / "a_labels.tif") as file:
        found = file.tags()
    assert found["PILOT"] == "Ada" and not {"NODATA_VALUES", "EXIF_Orientation"} & set(found)


# ------------------------------------------------------------------------------------------------------------- what is said


def test_what_went_is_said_by_band(tmp_path):
    image = holed()
    image[1, 30] = 0
    with raster.open_image(save(tmp_path / "a.tif", image, nodata=0)) as file:
        gaps = Gaps()
        gaps.add(file, *raster.read_with_gaps(file))
    assert (gaps.pixels, gaps.empty, dict(gaps.kept)) == (1600, HOLE.sum(), {2: 40})
    assert gaps.describe() == (
        "165 of 1,600 pixels have no data; pixels with the value for that in some bands alone count as data (40 in band 2)."
    )
    assert Gaps.from_dict(gaps.to_dict()) == gaps


def test_reading_makes_no_side_car(tmp_path):
    raster.inspect(save(tmp_path / "a.tif", RGB))
    assert names(tmp_path) == ["a.tif"]
