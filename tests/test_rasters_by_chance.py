"""Proves, on rasters drawn by chance, that extraction and inference take from a file what it declares: which pixels are empty,
what patches hold, and where maps lie, against values computed with numpy and rasterio alone.

A raster is drawn as pixel type x bands x nodata per band x mask x colour interpretation x CRS x transform. `make test` draws a
few; the slow test, for continuous integration, many.
"""

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import COLOURS, NAMES, call, done, pixels, read_json, write_config
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

import nets
from tools.data.inputs import Input
from tools.weights.snapshots import save_net

HEIGHT, WIDTH = 40, 36
WINDOW = 32
PICTURES_HOLD = (0, 255, 65535)
KINDS = ("uint8", "uint16", "int16", "int32", "float32", "float64")
NODATA = {
    "uint8": (0, 255, 7), "uint16": (0, 65535, 9), "int16": (-32768, 0, 5), "int32": (-9999, 0), "float32": (-9999, 0, np.nan),
    "float64": (-1e30, np.nan),
}  # fmt: skip
PLACES = (
    (None, None), ("EPSG:32632", Affine(0.5, 0, 5e5, 0, -0.5, 5.4e6)), ("EPSG:4326", Affine(1e-5, 0, 179.9998, 0, -1e-5, 10)),
    ("EPSG:3857", Affine(1, 0, 1e6, 0, 1, 8e6)), ("EPSG:32632+5773", Affine.translation(5e5, 5e6) * Affine.rotation(30)),
    (None, Affine(2, 0, 100, 0, -2, 100)),
)  # fmt: skip
ORDERS = (None, ("red", "green", "blue"), ("blue", "green", "red"), ("green", "red", "blue"))


@dataclass(frozen=True)
class Drawn:
    """A raster that was drawn."""

    dtype: str
    bands: int
    nodata: float | None
    declaring: tuple[bool, ...]  # which bands say so
    mask: str  # none, inside, beside, alpha
    order: tuple[str, ...] | None
    place: tuple
    any_band: bool
    seed: int


@st.composite
def rasters(draw):
    """Any of the rasters."""
    dtype, bands = draw(st.sampled_from(KINDS)), draw(st.integers(1, 5))
    nodata = draw(st.none() | st.sampled_from(NODATA[dtype]))
    declaring = draw(st.tuples(*[st.booleans()] * bands)) if draw(st.booleans()) else (True,) * bands
    mask = draw(st.sampled_from(["none", "inside", "beside", "alpha"]))
    order = draw(st.sampled_from(ORDERS)) if bands == 3 else None
    return Drawn(
        dtype, bands, nodata, declaring, mask, order, draw(st.sampled_from(PLACES)), draw(st.booleans()),
        draw(st.integers(0, 2**20)),
    )  # fmt: skip


def content(drawn):
    """The pixels (bands x h x w), and the mask: True for data, None if there is none."""
    rng = np.random.default_rng(drawn.seed)
    image = rng.integers(10, 250, (drawn.bands, HEIGHT, WIDTH)).astype(drawn.dtype)
    if drawn.nodata is not None:
        for band in image:  # each band has holes of its own, all have one in common
            row, col = rng.integers(0, 30, 2)
            band[row : row + 5, col : col + 4] = drawn.nodata
        image[:, 30:36, 3:9] = drawn.nodata
    if drawn.mask == "none":
        return image, None
    mask = np.ones((HEIGHT, WIDTH), bool)
    row, col = rng.integers(0, 25, 2)
    mask[row : row + 9, col : col + 7] = False
    return image, mask


def write(path, drawn, image, mask):
    """The GeoTIFF; where not all bands declare the nodata value, a VRT on it that says so of each."""
    crs, transform = drawn.place
    alpha = drawn.mask == "alpha"
    full = np.where(mask, 255, 0).astype(drawn.dtype)[None] if alpha else image[:0]
    tiff = path.with_suffix(".tif")
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "dtype": drawn.dtype, "count": len(image) + alpha}
    profile |= {"crs": crs, "transform": transform, "photometric": "minisblack", "nodata": drawn.nodata}
    if not all(drawn.declaring):
        profile["nodata"] = None
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=drawn.mask == "inside"):
        with rasterio.open(tiff, "w", **profile) as file:
            file.write(np.concatenate([image, full]))
        with rasterio.open(tiff, "r+") as file:
            names = [*(drawn.order or ["gray"] + ["undefined"] * (drawn.bands - 1)), *(["alpha"] if alpha else [])]
            file.colorinterp = [ColorInterp[name] for name in names]
        if mask is not None and not alpha:
            with rasterio.open(tiff, "r+") as file:
                file.write_mask(mask)
    if all(drawn.declaring) or drawn.nodata is None:
        return tiff
    rasterio.shutil.copy(tiff, path, driver="VRT")
    text = path.read_text()
    for number, says in enumerate(drawn.declaring, 1):
        head = text.index(">", text.index(f'band="{number}"')) + 1
        text = text[:head] + (f"<NoDataValue>{drawn.nodata!r}</NoDataValue>" if says else "") + text[head:]
    path.write_text(text)
    return path


def empty_pixels(drawn, image, mask):
    """Where it has no data, by the rules of tools/geo/declared.py written down once more."""
    empty = np.zeros((HEIGHT, WIDTH), bool) if mask is None else ~mask
    if drawn.dtype.startswith("float"):
        empty |= ~np.isfinite(image).all(0)
    bands = [band for band, says in zip(image, drawn.declaring, strict=True) if says]
    if drawn.nodata is None or not bands:
        return empty
    found = [np.isnan(band) if np.isnan(drawn.nodata) else band == drawn.nodata for band in bands]
    together = drawn.nodata in PICTURES_HOLD and not drawn.any_band
    return empty | (np.all(found, 0) if together else np.any(found, 0))


def as_seen(drawn, image):
    """The bands in the order that nets see."""
    if drawn.order is None or set(drawn.order) != {"red", "green", "blue"}:
        return image
    return image[[drawn.order.index(name) for name in ("red", "green", "blue")]]


def town(base, path, drawn, labels):
    """A dataset of this raster as its one training tile; its config."""
    crs, transform = drawn.place
    with rasterio.open(base / "labels.tif", "w", driver="GTiff", count=1, height=HEIGHT, width=WIDTH, dtype="uint8",
                       crs=crs, transform=transform) as file:  # fmt: skip
        file.write(labels, 1)
    return write_config(
        base / "config.py", base, DATASET="t", DATASET_DIR=f"{base}/",
        folders={"x": {1: path.name}, "labels": {1: "labels.tif"}},
        train_ids=[1], val_ids=[], test_ids=[], INPUTS={"x": ["x"]}, MEAN_PIXEL={"x": None}, patch_size=(WINDOW, WINDOW),
        step_size=(WINDOW, WINDOW), ROTATIONS=[0], FLIPS=[False], EMPTY_IF={"x": "any"} if drawn.any_band else {},
        test_patch_size=(WINDOW, WINDOW), test_step_size=(WINDOW, WINDOW), TEST_BATCH_SIZE=None,
    )  # fmt: skip


def check_extraction(base, drawn, path, image, empty):
    """Patches hold the pixels bit for bit, and the mean (NaN in floats) where there is no data; labels are not scored there."""
    labels = np.random.default_rng(drawn.seed).integers(0, 6, (HEIGHT, WIDTH)).astype(np.uint8)
    config = town(base, path, drawn, labels)
    done(call("extract_images", "--config", config))
    about = read_json(base / "t_patches/details.json")["modalities"]["x"]
    known = image[:, ~empty].astype(float)
    assert (about["bands"], about["dtype"]) == (drawn.bands, drawn.dtype)
    assert about["mean"] == pytest.approx(known.mean(1) if known.size else 0, rel=1e-5, abs=1e-6)
    filling = np.rint(about["mean"]) if not drawn.dtype.startswith("float") else np.full(drawn.bands, np.nan)
    wanted = np.where(empty, filling.astype(drawn.dtype)[:, None, None], image)
    scored = np.where(empty, 6, labels)
    suffix = ".png" if drawn.dtype == "uint8" and drawn.bands in (1, 3) else ".tif"
    for row, col in itertools.product((0, HEIGHT - WINDOW), (0, WIDTH - WINDOW)):
        there = (slice(row, row + WINDOW), slice(col, col + WINDOW))
        found = pixels(base / f"t_patches/x_train/1_{row:05d}_{col:05d}{suffix}")
        assert found.dtype == drawn.dtype and np.array_equal(found, wanted[(slice(None), *there)], equal_nan=True)
        assert np.array_equal(pixels(base / f"t_patches/labels_train/1_{row:05d}_{col:05d}.png")[0], scored[there])


def check_inference(base, drawn, path, empty):
    """The map has no label where there is no data, and elsewhere one; it lies where the raster lies."""
    any_band = (True,) if drawn.any_band else None
    spec = Input("x", ("x",), (drawn.bands,), False, (120.0,) * drawn.bands, dtypes=(drawn.dtype,), any_band=any_band)
    save_net_of(base / "net.safetensors", spec)
    words = ["--images", path, "--weights", base / "net.safetensors", "--dir", base / "maps", "--config", base / "config.py"]
    with patch("tools.report.page.write_report"), patch("tools.labels.pictures.comparison"):  # they take most of the time
        done(call("inference", *words, "--device", "cpu"))
    with rasterio.open(base / f"maps/{path.stem}_labels.tif") as found, rasterio.open(path) as source:
        assert np.array_equal(found.read(1) == 6, empty)
        assert (found.crs, found.transform) == (source.crs, source.transform)
    counted = read_json(base / "maps/statistics.json")["all"]["no_data"]["x"]
    assert (counted["pixels"], counted["empty"]) == (HEIGHT * WIDTH, empty.sum())


def save_net_of(path, spec):
    """Weights of a net of random numbers."""
    net = nets.build("segnet_slim", {"x": spec.channels}, 6)
    about = {
        "name": "segnet_slim", "iteration": 0, "inputs": [spec.to_dict()], "dataset": "t", "patch_size": [WINDOW, WINDOW],
        "pixel_size": None, "classes": NAMES, "ignored": [], "palette": {str(k): list(v) for k, v in COLOURS.items()},
    }  # fmt: skip
    save_net(path, net, about)


def check(drawn):
    """Both scripts on one raster."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        image, mask = content(drawn)
        path = write(base / "x.vrt", drawn, image, mask)
        empty = empty_pixels(drawn, image, mask)
        check_extraction(base, drawn, path, as_seen(drawn, image), empty)
        check_inference(base, drawn, path, empty)


ALWAYS = {"database": None}


@settings(max_examples=5, derandomize=True, phases=[Phase.generate], **ALWAYS)
@given(rasters())
def test_what_a_raster_declares_is_taken_at_its_word(drawn):
    check(drawn)


@pytest.mark.slow
@settings(max_examples=100, **ALWAYS)
@given(rasters())
def test_what_many_rasters_declare_is_taken_at_its_word(drawn):
    check(drawn)
