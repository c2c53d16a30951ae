"""Proves that a raster is read on the pixels of an image wherever it lies: as it is, resampled, or from another CRS."""

import numpy as np
import pytest
import rasterio
import rasterio.warp
from conftest import CRS, write_raster
from rasterio.transform import from_bounds, from_origin

from tools.base.errors import UserError
from tools.composite.alignment import Layer, same_grid
from tools.geo import raster
from tools.geo.windows import Window

HEIGHT, WIDTH = 40, 50
WHOLE = Window(0, 0, HEIGHT, WIDTH)


def place(east=500_000, north=5_400_000, pixel=1.0):
    """A corner and a pixel size, metres, at 32N's middle."""
    return from_origin(east, north, pixel, pixel)


@pytest.fixture
def image(tmp_path):
    """The image on whose pixels all is read: 40 x 50 of one metre."""
    return raster.inspect(write_raster(tmp_path / "image.tif", np.zeros((HEIGHT, WIDTH), np.uint8), transform=place()))


def layer(path, array, image, window=WHOLE, nodata=None, around=(0, 0), **profile):
    """What comes out of a raster of these pixels in a window of the image."""
    write_raster(path, array, **({"transform": place()} | profile))
    with Layer(path, 1, image, nodata, around) as band:
        return band.read(window)


def test_a_raster_on_the_same_grid_is_read_as_it_is(tmp_path, image):
    heights = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH)).astype(np.float32)
    window = Window(3, 5, 7, 11)
    found = layer(tmp_path / "a.tif", heights, image, window)
    assert found.dtype == np.float32
    assert np.array_equal(found, heights[3:10, 5:16])


@pytest.mark.parametrize(
    ("profile", "same"),
    [
        ({}, True),
        ({"transform": place(500_000.005)}, True),  # half a hundredth of a pixel
        ({"transform": place(500_000.5)}, False),
        ({"transform": place(pixel=1.01)}, False),
        ({"crs": None}, True),  # the corners agree
        ({"crs": None, "transform": None}, True),  # a picture: the sizes agree
        ({"crs": rasterio.CRS.from_epsg(32631)}, False),
    ],
)
def test_grids_are_the_same_where_the_corners_meet(tmp_path, image, profile, same):
    write_raster(tmp_path / "a.tif", np.zeros((HEIGHT, WIDTH), np.uint8), **({"transform": place()} | profile))
    assert same_grid(raster.inspect(tmp_path / "a.tif"), image) == same


@pytest.mark.parametrize("epsg", [32631, 4326, 3857])
def test_heights_in_another_crs_are_those_at_the_places_of_the_images_pixels(tmp_path, image, epsg):
    """One hill by a formula, in 200 x 200 pixels of the other CRS around the image."""

    def hill(xs, ys):
        return 220 + 15 * np.sin((xs - 500_000) / 15) + 5 * np.cos((ys - 5_400_000) / 12)

    other = rasterio.CRS.from_epsg(epsg)
    grid = from_bounds(*rasterio.warp.transform_bounds(CRS, other, 499_980, 5_399_930, 500_080, 5_400_030), 200, 200)
    cols, rows = np.meshgrid(np.arange(200) + 0.5, np.arange(200) + 0.5)
    xs, ys = rasterio.warp.transform(other, CRS, *(grid * (cols.ravel(), rows.ravel())))
    heights = hill(np.array(xs), np.array(ys)).reshape(200, 200).astype(np.float32)
    found = layer(tmp_path / "hill.tif", heights, image, transform=grid, crs=other)
    wanted = hill(500_000 + np.arange(WIDTH) + 0.5, 5_400_000 - np.arange(HEIGHT)[:, None] - 0.5)
    assert np.abs(found - wanted).max() < 0.3


@pytest.mark.parametrize("mark", [-9999, np.nan, "said", "mask"])
def test_no_data_does_not_leak_into_what_is_resampled(tmp_path, image, mark):
    """Beside a hole the heights are those of the ground, not a mean with -9999."""
    heights = np.full((30, 30), 230, np.float32)
    heights[10:14, 10:20] = -9999 if isinstance(mark, str) else mark
    path, coarse = tmp_path / "coarse.tif", {"transform": place(499_995, 5_400_005, 2)}
    write_raster(path, heights, **coarse, nodata=mark if mark == -9999 else None)
    if mark == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(heights > 0)
    with Layer(path, 1, image, -9999 if mark == "said" else None) as band:
        found = band.read(WHOLE)
    gap = np.argwhere(np.isnan(found))
    assert len(gap) and (gap.min(0) > (13, 13)).all() and (gap.max(0) < (24, 36)).all()  # 15 to 35 m east, and half a pixel
    assert (found[np.isfinite(found)] == 230).all()


def test_beyond_the_edge_of_a_raster_there_is_no_data(tmp_path, image):
    found = layer(tmp_path / "half.tif", np.full((HEIGHT, 30), 7, np.float32), image, transform=place(499_990))
    assert np.array_equal(np.isfinite(found).all(0), np.arange(WIDTH) < 20)  # it ends after 20 m


def test_a_resampled_raster_can_be_read_around_the_image(tmp_path, image):
    """One plane of 0.5 m per metre to the east, in pixels of 2 m: ten metres to the west of the image it is 5 m lower."""
    east = 499_960 + 2 * (np.arange(60) + 0.5)
    plane = np.tile((200 + 0.5 * (east - 500_000)).astype(np.float32), (60, 1))
    coarse = {"transform": place(499_960, 5_400_020, 2), "around": (4, 12)}
    found = layer(tmp_path / "plane.tif", plane, image, Window(-4, -10, 3, 2), **coarse)
    assert found == pytest.approx(np.tile([195.25, 195.75], (3, 1)), abs=1e-3)
    with Layer(tmp_path / "plane.tif", 1, image, around=(4, 12)) as band:
        assert band.extent == Window(-4, -12, HEIGHT + 8, WIDTH + 24)


def test_without_any_crs_the_plane_that_the_rasters_share_will_do(tmp_path):
    """ISPRS's tiles have world files and no CRS."""
    bare = write_raster(tmp_path / "bare.tif", np.zeros((HEIGHT, WIDTH), np.uint8), transform=place(), crs=None)
    coarse = np.full((30, 30), 230, np.float32)
    found = layer(tmp_path / "coarse.tif", coarse, raster.inspect(bare), transform=place(pixel=2), crs=None)
    assert (found == 230).all()


@pytest.mark.parametrize("profile", [{"crs": None, "transform": place(pixel=2)}, {"crs": None, "transform": None}])
def test_another_grid_without_a_crs_is_refused(tmp_path, image, profile):
    write_raster(tmp_path / "coarse.tif", np.zeros((30, 30), np.float32), **profile)
    with pytest.raises(UserError, match=r"coarse.tif \(30x30\) is not on the grid of .*coarse.tif has no CRS"):
        Layer(tmp_path / "coarse.tif", 1, image)


def test_a_raster_that_breaks_off_is_named(tmp_path, image):
    path = write_raster(tmp_path / "a.tif", np.ones((HEIGHT, WIDTH), np.float32), transform=place())
    path.write_bytes(path.read_bytes()[:4000])
    with Layer(path, 1, image) as band, pytest.raises(UserError, match=r"a.tif breaks off or is damaged"):
        band.read(WHOLE)
