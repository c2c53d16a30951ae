"""Proves that rasters are read and written exactly, by window too, and that damaged ones are named, never half read."""

import os

import numpy as np
import pytest
import rasterio
from conftest import CRS, names, pixels, place, write_raster
from PIL import Image

from tools.base.errors import UserError
from tools.geo import raster
from tools.geo.windows import Window

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 300, 280)).astype(np.uint8)


def save(path):
    """IMAGE as a file of this kind."""
    if path.suffix == ".tif":
        return write_raster(path, IMAGE, compress="deflate")
    if path.stem == "progressive":
        Image.fromarray(IMAGE.transpose(1, 2, 0)).save(path, progressive=True)
    else:
        Image.fromarray(IMAGE.transpose(1, 2, 0)).save(path)
    return path


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "progressive.jpg"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_named_and_never_half_read(tmp_path, name, share):
    path = save(tmp_path / name)
    assert raster.read_fault(path) is None
    os.truncate(path, int(path.stat().st_size * share))
    assert str(path) in raster.read_fault(path)
    with pytest.raises(UserError, match=name):
        raster.read(path)


def test_a_file_that_is_no_raster_or_is_not_there_is_named(tmp_path):
    (tmp_path / "a.tif").write_text("not a raster")
    with pytest.raises(UserError, match=r"a\.tif cannot be read as a raster"):
        raster.inspect(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"b\.tif does not exist"):
        raster.read(tmp_path / "b.tif")


def test_a_window_holds_just_its_pixels(tmp_path):
    path = write_raster(tmp_path / "a.tif", IMAGE)
    assert np.array_equal(raster.read(path, Window(17, 5, 40, 60)), IMAGE[:, 17:57, 5:65])
    assert np.array_equal(raster.read(path), IMAGE)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_what_is_written_is_read_again_in_its_own_pixel_type(tmp_path, dtype):
    image = IMAGE.astype(dtype) * 7 if dtype != "uint8" else IMAGE
    raster.write(tmp_path / "a.tif", image, crs=CRS, transform=place(1))
    assert raster.read(tmp_path / "a.tif").dtype == dtype
    assert np.array_equal(pixels(tmp_path / "a.tif"), image)


def test_the_place_on_earth_survives(tmp_path):
    raster.write(tmp_path / "a.tif", IMAGE, crs=CRS, transform=place(7), nodata=3)
    about = raster.inspect(tmp_path / "a.tif")
    assert (about.crs, about.transform, about.nodata) == (CRS, place(7), 3)
    assert (about.height, about.width, about.bands, about.dtype) == (300, 280, 3, "uint8")


def test_a_picture_without_a_place_gets_none(tmp_path):
    raster.write(tmp_path / "a.png", IMAGE)
    about = raster.inspect(tmp_path / "a.png")
    assert about.place == {"crs": None, "transform": None}
    raster.write(tmp_path / "a.tif", IMAGE, **about.place)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.crs is None


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_colour_table_is_written_beside_the_labels(tmp_path, suffix):
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    raster.write(tmp_path / f"a{suffix}", labels, colours={0: (1, 2, 3), 1: (40, 50, 60), 2: (7, 8, 9)})
    with rasterio.open(tmp_path / f"a{suffix}") as file:
        assert [file.colormap(1)[i][:3] for i in range(3)] == [(1, 2, 3), (40, 50, 60), (7, 8, 9)]
    assert np.array_equal(raster.read_labels(tmp_path / f"a{suffix}"), labels)
    with raster.open_colours(tmp_path / f"a{suffix}") as file:
        assert raster.read_colours_window(file)[1, 0].tolist() == [7, 8, 9]


@pytest.mark.parametrize(("bands", "dtype"), [(3, "uint8"), (1, "uint16"), (1, "float32")])
def test_labels_are_one_band_of_bytes(tmp_path, bands, dtype):
    path = write_raster(tmp_path / "a.tif", np.zeros((bands, 4, 4), dtype))
    with pytest.raises(
        UserError, match=rf"{bands} band\(s\) of {dtype}.*convert_gt\.py --from-{'color' if bands > 1 else 'index'}"
    ):
        raster.read_labels(path)


def test_colours_of_two_bands_or_of_16_bits_are_refused(tmp_path):
    for i, image in enumerate([np.zeros((2, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint16)]):
        with (
            raster.open_colours(write_raster(tmp_path / f"{i}.tif", image)) as file,
            pytest.raises(UserError, match="8-bit R, G, B"),
        ):
            raster.read_colours_window(file)


def test_files_are_written_by_their_suffix_or_not_at_all(tmp_path):
    with pytest.raises(UserError, match=r"not as '\.bmp'"):
        raster.write(tmp_path / "a.bmp", IMAGE)
    for suffix, magic in ((".tif", b"II"), (".png", b"\x89PNG"), (".jpg", b"\xff\xd8")):
        raster.write(tmp_path / f"a{suffix}", IMAGE)
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(magic)


def test_no_files_beside_the_rasters_are_made(tmp_path):
    raster.write(tmp_path / "a.png", IMAGE, tags={"made by": "a test"})
    raster.inspect(tmp_path / "a.png")
    assert names(tmp_path) == ["a.png"]


def test_every_block_goes_through_the_check(tmp_path):
    path = write_raster(tmp_path / "a.tif", IMAGE, tiled=True, blockxsize=64, blockysize=64)
    seen = []
    assert raster.read_fault(path, lambda block: seen.append(block.size)) is None
    assert sum(seen) == IMAGE.size

    def refuse(block):
        raise UserError("that will not do.")

    assert raster.read_fault(path, refuse) == f"{path}: that will not do."


def test_names_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.tif")
    path.touch()
    for action in (raster.inspect, lambda name: raster.write(name, np.zeros((2, 2), np.uint8))):
        with pytest.raises(UserError, match="is not written in UTF-8"):
            action(path)
