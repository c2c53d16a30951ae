"""Proves that the page labels images as inference.py does, in a real browser, from a disk, without a network.

The page is made by tools.export, opened in Chromium by playwright, given files and asked for its own. Without browser, node or
npm's packages these tests are skipped. What the modules compute by themselves is tested by node, in tools/page/test.
"""

import contextlib
import io
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import torch
from conftest import (
    COLOURS,
    CRS,
    HEIGHT,
    LOOKS,
    NAMES,
    REPO,
    WIDTH,
    call,
    make_image,
    make_labels,
    pixels,
    refused,
    write_raster,
)
from conftest import place as place_of
from PIL import Image
from rasterio.features import rasterize

from nets.layers import concat, conv, data, pool, score, unpool
from nets.net import Net
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.geo import raster
from tools.geo.pixel_size import pixel_areas
from tools.inference.labeller import Labeller, prepared
from tools.inference.window_size import Windows
from tools.page import assemble as page_of_export
from tools.weights import snapshots

SOURCES = REPO / "tools" / "page"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PLANES = Input(
    "all", ("rgbir", "dsm"), (3, 1), True, (900.0, 1100.0, 1300.0, 270.0), (300.0, 350.0, 400.0, 4.0), None,
    ((3, 0, 1), (0,)), (4, 1), dtypes=("uint16", "float32"), fill=(800.5, 1000.0, 1200.0, 271.0),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------- node's own tests


def test_the_modules_of_the_page_pass_their_own_tests():
    if not shutil.which("node"):
        pytest.skip("there is no node")
    files = sorted(str(path) for path in (SOURCES / "test").glob("*.test.js"))
    ran = subprocess.run(["node", "--test", *files], cwd=SOURCES, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout[-5000:]


CHOSEN = [  # of windows that suit each tile: a step by the halo, by a share of the window, a net that wants multiples
    Windows((512, 512), None, 64, 1, 32), Windows((512, 512), 0.3, 64, 1, 32), Windows((480, 480), None, 17, 48, 96),
    Windows((32, 64), (16, 16)),
]  # fmt: skip


@pytest.mark.parametrize("windows", CHOSEN, ids=str)
def test_the_page_chooses_the_windows_that_inference_chooses(windows):
    if not shutil.which("node"):
        pytest.skip("there is no node")
    shapes = [[int(n) for n in pair] for pair in np.random.default_rng(1).integers(1, 4000, (300, 2))]
    program = f"""
        import {{ windowsOn }} from {json.dumps((SOURCES / "label" / "windows.js").as_uri())};
        const found = {json.dumps(shapes)}.map((shape) => windowsOn({json.dumps(windows.to_dict())}, shape));
        console.log(JSON.stringify(found.map(({{ window, step }}) => [window, step])));
    """
    ran = subprocess.run(["node", "--input-type=module", "-e", program], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [[list(size), list(step)] for size, step in map(windows.on, shapes)]


# ------------------------------------------------------------------------------------------------------- the made pages


@pytest.fixture(scope="module")
def chromium():
    """Debian's Chromium, or another one on the path, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Made:
    """A page, and the weights in it."""

    weights: Path
    page: Path

    def labels(self, **paths):
        """What inference.py's labeller gives for the files of one place, in fp32."""
        net, about = snapshots.load_net(self.weights)
        device = Device(torch.device("cpu"), bf16=False)
        inputs = [Input.from_dict(i) for i in about["inputs"]]
        return Labeller(prepared(net, device), inputs, Windows((32, 32), (16, 16)), 8, device, blend="cosine").labels(paths)


def export(weights, page, config):
    """tools.export --page; skips if npm's packages are not there and cannot be fetched."""
    if not shutil.which("node"):
        pytest.skip("there is no node")
    ran = call("tools.export", weights, "--page", page, "--config", config)
    if ran.code and "npm cannot fetch" in ran.err:
        pytest.skip(ran.sentence)
    assert ran.code == 0, ran.err
    return Made(weights, page)


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory, chromium):
    """The page of the town's net: three bands of bytes."""
    weights = trained.snapshots / "net_iter_150.safetensors"
    return export(weights, tmp_path_factory.mktemp("page") / "map.html", trained.config())


@pytest.fixture(scope="module")
def made_of_two(trained, tmp_path_factory, chromium):
    """The page of a made net that takes three bands of four of 16 bits, and heights."""
    torch.manual_seed(3)
    rows = [
        data("all", 4), conv("a", "all", 8), pool("p", "a"), conv("b", "p", 8), unpool("u", "b", "p_mask"),
        concat("c", "a", "u"), score("s", "c", 6),
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("two")
    about = {"name": "made", "iteration": 3, "classes": NAMES, "palette": COLOURS, "ignored": [5], "patch_size": [32, 32]}
    snapshots.save_net(folder / "net.safetensors", Net(rows).eval(), about | {"inputs": [PLANES.to_dict()]})
    return export(folder / "net.safetensors", folder / "map.html", trained.config())


class Shown:
    """A page in a browser without a network, as a person uses it."""

    def __init__(self, browser, path, **options):
        context = browser.new_context(offline=True, accept_downloads=True, viewport={"width": 1200, "height": 800}, **options)
        self.page, self.errors, self.requests = context.new_page(), [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def wait(self, condition, seconds=180):
        """Until condition() holds; returns what it gave."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, (self.status, self.faults)
            self.page.wait_for_timeout(50)
        return found

    @property
    def status(self):
        return self.page.inner_text("#status")

    @property
    def faults(self):
        return [text.removesuffix("×").strip() for text in self.page.locator("#faults p").all_inner_texts()]

    def choose(self, *paths):
        """Choose images by the button, all at once."""
        self.page.set_input_files("#files", [str(path) for path in paths])

    def choose_each(self, **paths):
        """Choose a file for each modality."""
        self.page.locator("[data-choose]:visible").first.click()
        for modality, path in paths.items():
            self.page.get_by_label(modality, exact=True).set_input_files(str(path))
        self.page.click("#chooser button[type=submit]")

    def label(self, *paths, **by_modality):
        """Choose, and wait until the last one is finished."""
        self.choose(*paths) if paths else self.choose_each(**by_modality)
        name = Path(paths[-1] if paths else next(iter(by_modality.values()))).name
        self.wait(lambda: self.status.startswith(f"{name}: finished") or self.faults)
        assert self.faults == []

    def save(self, kind, folder):
        """Press the button; the path of what was downloaded."""
        with self.page.expect_download() as download:
            self.page.click(f"[data-save={kind}]")
        path = Path(folder) / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def colour(self, x=0.5, y=0.5):
        """The colour (r, g, b) of the view at shares of its width and height."""
        self.page.wait_for_timeout(100)
        picture = Image.open(io.BytesIO(self.page.locator("#view").screenshot())).convert("RGB")
        return picture.getpixel((int(x * picture.width), int(y * picture.height)))


@contextlib.contextmanager
def shown(browser, page, **options):
    opened = Shown(browser, page, **options)
    try:
        yield opened
        assert opened.errors == []
        assert [url for url in opened.requests if not url.startswith(("file:", "blob:", "data:"))] == []
    finally:
        opened.page.context.close()


def image(seed, height=HEIGHT, width=WIDTH):
    """Pixels of a made tile, bands x h x w, bytes."""
    return make_image(make_labels(seed, height, width), seed)


# ----------------------------------------------------------------------------------------------------- the same answer


def write_forms(folder):
    """One file of each form that holds three bands of bytes: by what is odd about it."""
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 32}
    write_raster(folder / "tiled.tif", image(21, 150, 201), **blocks, compress="deflate", predictor=2)
    write_raster(folder / "strips.tif", image(22), compress="lzw", interleave="band")
    write_raster(folder / "big_endian.tif", image(23, 200, 90), ENDIANNESS="BIG", BIGTIFF="YES", blockysize=1)
    write_raster(folder / "zstd.tif", image(24), compress="zstd")
    write_raster(folder / "small.tif", image(25, 20, 25))
    write_raster(folder / "flat.tif", image(26, 20, 70))
    holes = image(27)
    holes[:, 20:40, 30:60] = 0
    write_raster(folder / "nodata.tif", holes, nodata=0)
    write_raster(folder / "mask.tif", image(28))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(folder / "mask.tif", "r+") as file:
        file.write_mask(np.pad(np.full((HEIGHT - 9, WIDTH - 9), 255, np.uint8), ((9, 0), (0, 9))))
    Image.fromarray(image(29, 61, 77).transpose(1, 2, 0)).save(folder / "photo.png")
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_files_of_many_forms_are_labelled_as_inference_labels_them(chromium, made, tmp_path):
    (tmp_path / "images").mkdir()
    files = write_forms(tmp_path / "images")
    with shown(chromium, made.page) as page:
        page.label(*files)
        for file in files:
            page.page.get_by_role("button", name=file.name).click()
            saved = page.save("labels", tmp_path)
            wanted = made.labels(irrg=file)
            wanted[wanted == 255] = 6
            assert len(np.unique(wanted)) >= 3, file.name
            assert (pixels(saved)[0] == wanted).mean() >= 0.999, file.name


@pytest.mark.slow
def test_a_jpeg_is_labelled_as_inference_labels_it_turned_as_its_exif_says(chromium, made, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turned
    Image.fromarray(image(31).transpose(1, 2, 0)).save(tmp_path / "photo.jpg", quality=95, subsampling=0, exif=turned)
    with shown(chromium, made.page) as page:
        page.label(tmp_path / "photo.jpg")
        found = pixels(page.save("labels", tmp_path))[0]
    assert found.shape == (WIDTH, HEIGHT)
    assert (found == made.labels(irrg=tmp_path / "photo.jpg")).mean() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize(("photometric", "least"), [("rgb", 0.99), ("ycbcr", 0.9)])
def test_a_geotiff_of_jpegs_is_labelled_nearly_as_inference_labels_it(chromium, made, tmp_path, photometric, least):
    """Colours at half the size (ycbcr) are enlarged differently by each libjpeg: at the hard edges of this picture it shows."""
    smooth = LOOKS.astype(np.uint8)[make_labels(32, 130, 170)].transpose(2, 0, 1)
    jpeg = {"compress": "jpeg", "photometric": photometric, "tiled": True, "blockxsize": 64, "blockysize": 64}
    file = write_raster(tmp_path / "jpeg.tif", smooth, **jpeg)
    with shown(chromium, made.page) as page:
        page.label(file)
        found = pixels(page.save("labels", tmp_path))[0]
    assert (found == made.labels(irrg=file)).mean() >= least


@pytest.mark.slow
def test_picked_bands_of_16_bits_and_heights_with_gaps_are_labelled_as_inference_labels_them(chromium, made_of_two, tmp_path):
    rng = np.random.default_rng(5)
    smooth = np.kron(rng.normal(0, 1, (4, 10, 12)), np.ones((8, 8)))[:, :75, :93]
    bands = (1100 + 300 * smooth + rng.normal(0, 90, smooth.shape)).clip(1, 4000).astype(np.uint16)
    bands[2, 0:5, 0:5] = 0  # dark in one band: no gap
    bands[:, 10:20, 10:30] = 0
    heights = (270 + 3 * smooth[0] + rng.normal(0, 1, (75, 93))).astype(np.float32)
    heights[40:50, 50:70], heights[60, :] = -9999, np.nan
    write_raster(tmp_path / "rgbir_1.tif", bands, nodata=0, tiled=True, blockxsize=32, blockysize=32)
    write_raster(tmp_path / "dsm_1.tif", heights, nodata=-9999, compress="deflate", predictor=3)
    paths = {"rgbir": tmp_path / "rgbir_1.tif", "dsm": tmp_path / "dsm_1.tif"}
    with shown(chromium, made_of_two.page) as page:
        page.label(**paths)
        found = pixels(page.save("labels", tmp_path))[0]
    wanted = made_of_two.labels(**paths)
    assert (wanted == 255).sum() == 10 * 20 + 10 * 20 + 93
    assert len(np.unique(wanted)) >= 4
    wanted[wanted == 255] = 6
    assert (found == wanted).mean() >= 0.999


# ------------------------------------------------------------------------------------------------------------ what is saved


@pytest.mark.slow
def test_what_is_saved_holds_the_map_its_colours_and_its_place(chromium, made, tmp_path):
    holes = image(41)
    holes[:, 5:15, 5:25] = 0
    file = write_raster(tmp_path / "top (1) é.tif", holes, nodata=0)
    with shown(chromium, made.page) as page:
        page.label(file)
        page.page.fill("#least", "0")
        saved = {kind: page.save(kind, tmp_path) for kind in ("labels", "colours", "confidence", "table", "polygons")}
    labels = pixels(saved["labels"])[0]
    with rasterio.open(saved["labels"]) as map_file, rasterio.open(file) as source:
        assert (map_file.crs, map_file.transform, map_file.nodata) == (source.crs, source.transform, 6)
        assert {i: map_file.colormap(1)[i][:3] for i in COLOURS} == COLOURS
        assert map_file.tags()["class_3"] == "tree"
    opaque = np.asarray(Image.open(saved["colours"]).convert("RGBA"))
    assert np.array_equal(opaque[..., :3], np.array([COLOURS[i] for i in range(7)], np.uint8)[labels])
    assert np.array_equal(opaque[..., 3] == 0, labels == 6)
    sure = pixels(saved["confidence"])[0]
    assert np.array_equal(sure == 255, labels == 6)
    assert sure[labels < 6].max() <= 100
    check_table(saved["table"], labels, sure, np.full(HEIGHT, 0.09**2))
    check_polygons(saved["polygons"], labels, place_of(1))


def check_table(path, labels, sure, areas):
    """A line for each class, by numpy."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "label,class,colour,pixels,share,area_m2,mean_confidence"
    for i, line in enumerate(lines[1:]):
        here = labels == i
        share, area, mean = (float(word or "nan") for word in line.split(",")[4:])
        assert line.split(",")[:4] == [str(i), NAMES[i], "#{:02x}{:02x}{:02x}".format(*COLOURS[i]), str(here.sum())]
        assert share == pytest.approx(here.sum() / (labels < 6).sum(), abs=1e-6)
        assert area == pytest.approx((here.sum(1) * areas).sum(), abs=1e-3)
        assert np.isnan(mean) if not here.any() else mean == pytest.approx(sure[here].mean() / 100, abs=1e-4)


def check_polygons(path, labels, transform):
    """Valid polygons that give the map again when they are drawn."""
    found = json.loads(path.read_text(encoding="utf-8"))
    assert rasterio.CRS.from_user_input(found["crs"]["properties"]["name"]) == CRS
    shapes = [(shapely.geometry.shape(f["geometry"]), f["properties"]) for f in found["features"]]
    assert all(shape.is_valid and shape.exterior.is_ccw for shape, _ in shapes)
    assert all(shape.area == pytest.approx(about["area_m2"], rel=1e-3) for shape, about in shapes)
    drawn = rasterize([(shape, about["label"]) for shape, about in shapes], labels.shape, fill=6, transform=transform)
    assert np.array_equal(drawn, labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", rasterio.transform.from_origin(9, 48.9, 2e-6, 1e-6)),
        ("EPSG:3857", rasterio.transform.from_origin(1_001_000, 6_250_000, 0.1, 0.1)),
        ("EPSG:2263", rasterio.transform.from_origin(990_000, 200_000, 0.5, 0.5)),  # feet
    ],
)
def test_areas_are_those_of_inference_in_any_crs(chromium, made, tmp_path, crs, transform):
    file = write_raster(tmp_path / "a.tif", image(42), crs=crs, transform=transform)
    with shown(chromium, made.page) as page:
        page.label(file)
        labels, sure = (pixels(page.save(kind, tmp_path))[0] for kind in ("labels", "confidence"))
        check_table(page.save("table", tmp_path), labels, sure, pixel_areas(raster.inspect(file)))


# --------------------------------------------------------------------------------------------------------------- the view


@pytest.mark.slow
def test_classes_are_hidden_layers_changed_and_images_swiped(chromium, made, tmp_path):
    file = write_raster(tmp_path / "a.tif", image(43))
    with shown(chromium, made.page) as page:
        page.label(file)
        page.page.evaluate("document.getElementById('opacity').value = 100")
        page.page.dispatch_event("#opacity", "input")
        label = made.labels(irrg=file)[HEIGHT // 2, WIDTH // 2]
        assert page.colour() == COLOURS[label]
        page.page.locator("#rows input").nth(label).click()
        plain = page.colour()
        assert plain != COLOURS[label]
        page.page.locator("#rows input").nth(label).click()
        page.page.get_by_text("Confidence", exact=True).click()
        assert page.colour() not in (plain, COLOURS[label])
        page.page.get_by_text("Image", exact=True).click()
        assert page.colour() == plain
        page.page.get_by_text("Classes", exact=True).first.click()
        page.page.get_by_text("Swipe", exact=True).click()
        for _ in range(3):
            page.page.press("#handle", "ArrowRight")
        assert page.colour() == plain
        for _ in range(6):
            page.page.press("#handle", "ArrowLeft")
        assert page.colour() == COLOURS[label]


@pytest.mark.slow
def test_the_view_is_moved_by_keys_and_wheel_and_tells_what_is_under_the_pointer(chromium, made, tmp_path):
    file = write_raster(tmp_path / "a.tif", image(44))
    with shown(chromium, made.page) as page:
        page.label(file)
        box = page.page.locator("#view").bounding_box()
        middle = box["x"] + box["width"] / 2 + 2, box["y"] + box["height"] / 2 + 2
        labels = made.labels(irrg=file)

        def told():
            page.page.mouse.move(middle[0] + 1, middle[1])
            page.page.mouse.move(*middle)
            return page.page.inner_text("#readout")

        before = told()
        assert before.startswith(NAMES[labels[HEIGHT // 2, WIDTH // 2]])
        assert f"row {HEIGHT // 2}, column {WIDTH // 2}" in before
        assert "(EPSG:32632)" in before
        page.page.press("#view", "ArrowRight")
        assert f"row {HEIGHT // 2}, column {WIDTH // 2}" not in told()
        page.page.press("#view", "0")
        assert told() == before
        page.page.mouse.wheel(0, -400)
        page.page.press("#view", "+")
        assert told() == before  # zoomed around the pointer, then around the middle, which it is nearly
        assert page.page.get_attribute("#view", "aria-label") == "Image and map: a.tif"


@pytest.mark.slow
def test_stopping_keeps_what_is_labelled(chromium, made, tmp_path):
    file = write_raster(tmp_path / "a.tif", np.tile(image(45, 256, 256), (1, 6, 6)))
    with shown(chromium, made.page) as page:
        page.choose(file)
        page.wait(lambda: page.page.evaluate("document.getElementById('bar').value") > 0.02)
        page.page.click("#stop")
        page.wait(lambda: "stopped" in page.status)
        found = pixels(page.save("labels", tmp_path))[0]
    assert 0 < (found < 6).mean() < 1
    wanted = made.labels(irrg=file)
    assert (found == wanted)[found < 6].mean() >= 0.999


@pytest.mark.slow
def test_webgpu_is_tried_and_checked_and_the_quicker_one_computes(chromium, made_of_two, tmp_path):
    """The browser's own graphics card of software, which the page would not take, is let pass as a real one."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"] + ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    browser = chromium.browser_type.launch(executable_path=program, args=flags)
    try:
        page = browser.new_page()
        page.add_init_script("Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', {get: () => false})")
        page.goto(made_of_two.page.as_uri())
        if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
            pytest.skip("this Chromium has no WebGPU of software")
        page.click("#about > summary")
        page.get_by_text("WebGPU").wait_for(timeout=90_000)
        told = page.inner_text("#engine")
    finally:
        browser.close()
    accepted = ("the processor is", "hardly faster", "Computes on the graphics card by WebGPU", "not ready after")
    assert any(words in told for words in accepted), told


# ------------------------------------------------------------------------------------------------------------- bad input


def write_broken(folder):
    """Files that cannot be labelled, and words of what the page says of each."""
    whole = write_raster(folder / "whole.tif", image(51, 200, 200), compress="deflate").read_bytes()
    Image.fromarray(image(51).transpose(1, 2, 0)).save(folder / "whole.jpg")
    Image.fromarray(image(51).transpose(1, 2, 0)).save(folder / "whole.png")
    (folder / "half.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "half.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-200])
    (folder / "half.png").write_bytes((folder / "whole.png").read_bytes()[:-2000])
    (folder / "noise.tif").write_bytes(b"II*\0" + np.random.default_rng(1).bytes(3000))
    (folder / "loop.tif").write_bytes(b"II*\0\x08\0\0\0\0\0\x08\0\0\0")
    (folder / "empty.tif").write_bytes(b"")
    (folder / "text.tif").write_text("hello")
    write_raster(folder / "four.tif", np.zeros((4, 40, 40), np.uint8))
    write_raster(folder / "deep.tif", np.zeros((3, 40, 40), np.uint16))
    size = {"count": 3, "width": 60_000, "height": 60_000, "dtype": "uint8", "tiled": True, "compress": "deflate"}
    with rasterio.open(folder / "huge.tif", "w", driver="GTiff", SPARSE_OK=True, **size):
        pass
    return {
        "half.tif": "breaks off or is damaged", "half.jpg": "breaks off or is damaged", "half.png": "breaks off or is damaged",
        "noise.tif": "breaks off or is damaged", "loop.tif": "breaks off or is damaged", "empty.tif": "is empty",
        "text.tif": "is no PNG, JPEG or TIFF", "four.tif": "has 4 bands, but the net was trained on 3 of irrg",
        "deep.tif": "holds uint16 values, but the net was trained on uint8", "huge.tif": "60000 × 60000 pixels, more than fits",
    }  # fmt: skip


@pytest.mark.slow
def test_broken_and_hostile_files_are_a_sentence_each_and_the_next_one_is_labelled(chromium, made, tmp_path):
    broken = write_broken(tmp_path)
    good = write_raster(tmp_path / "good.tif", image(52))
    with shown(chromium, made.page) as page:
        page.choose(*(tmp_path / name for name in broken), good)
        page.wait(lambda: page.status.startswith("good.tif: finished"))
        told = page.faults
        assert len(told) == len(broken)
        for (name, words), sentence in zip(broken.items(), told, strict=True):
            assert sentence.startswith(name), sentence
            assert words in sentence, sentence
            assert sentence.count(".\n") == 0
        assert (pixels(page.save("labels", tmp_path))[0] == made.labels(irrg=good)).mean() >= 0.999


@pytest.mark.slow
def test_a_missing_modality_is_asked_for(chromium, made_of_two, tmp_path):
    file = write_raster(tmp_path / "rgbir.tif", np.full((4, 40, 40), 900, np.uint16))
    other = write_raster(tmp_path / "dsm.tif", np.full((41, 40), 270, np.float32))
    with shown(chromium, made_of_two.page) as page:
        page.choose_each(rgbir=file)
        assert page.page.inner_text("#chooser-fault") == "Choose a file for dsm too: the net reads all of them together."
        page.page.get_by_label("dsm", exact=True).set_input_files(str(other))
        page.page.click("#chooser button[type=submit]")
        page.wait(lambda: page.faults)
        assert page.faults == ["dsm.tif has 40 × 41 pixels, rgbir.tif has 40 × 40: the files of one place must agree."]


# ------------------------------------------------------------------------------------------------------------ how it is made


@pytest.mark.slow
def test_the_page_is_small_says_how_it_was_made_and_holds_the_licences(chromium, made):
    assert made.page.stat().st_size < 25e6
    assert str(REPO).encode() not in made.page.read_bytes()
    with shown(chromium, made.page) as page:
        page.wait(lambda: page.page.evaluate("document.body.dataset.ready") == "yes")
        page.page.click("#about > summary")
        text = page.page.inner_text("#about")
        assert "python -m tools.export net_iter_150.safetensors --page" in text
        assert "iteration 150, trained on vaihingen" in text
        assert "Windows of 32 × 32 pixels, 16 × 16 apart, are blended (cosine)" in text
        assert "onnxruntime-web 1.30.0 (MIT)" in text
        assert "WebAssembly with SIMD" in text
        page.page.click("text=Licences")
        page.wait(lambda: "Permission is hereby granted" in page.page.inner_text("#licences"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(chromium, made, scheme):
    """WCAG 2.1 asks for 4.5 to 1."""
    with shown(chromium, made.page, color_scheme=scheme) as page:
        names = ("ink", "soft", "bad", "paper", "stage", "faint", "accent", "on-accent")
        script = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
        colours = dict(zip(names, page.page.evaluate(script, list(names)), strict=True))
    for text, grounds in {"ink": ("paper", "stage", "faint"), "soft": ("paper", "stage"), "on-accent": ("accent",)}.items():
        for ground in grounds:
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(one, other):
    """The contrast of two colours, as WCAG 2.1 defines it."""
    lights = sorted(map(light, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def light(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    parts = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.fixture
def without_libraries(monkeypatch, tmp_path):
    """The page's sources, of which npm has fetched nothing; a folder for programs of that name."""
    shutil.copytree(SOURCES, tmp_path / "page", ignore=shutil.ignore_patterns("node_modules"))
    monkeypatch.setattr(page_of_export, "SOURCES", tmp_path / "page")
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("programs", "sentence"),
    [
        ({}, "--page needs node 18 or newer to put the page together, there is none"),
        ({"node": "echo v12.22.0"}, "there is v12.22.0"),
        ({"node": "echo v20.0.0"}, "--page needs npm, which comes with node"),
        (
            {"node": "echo v20.0.0", "npm": "echo npm error network down >&2; exit 1"},
            "npm cannot fetch the page's libraries (npm error network down)",
        ),
    ],
)
def test_what_is_missing_for_a_page_is_one_sentence(trained, without_libraries, monkeypatch, tmp_path, programs, sentence):
    for name, text in programs.items():
        program(without_libraries / name, text)
    shell = tmp_path / "shell"
    shell.mkdir()
    for needed in ("sh", "echo"):
        (shell / needed).symlink_to(shutil.which(needed))
    monkeypatch.setenv("PATH", f"{without_libraries}:{shell}")
    weights = trained.snapshots / "net_iter_150.safetensors"
    refused(call("tools.export", weights, "--page", tmp_path / "map.html", "--config", trained.config()), sentence)
    assert not (tmp_path / "map.html").exists()


@pytest.mark.slow
def test_a_config_of_other_classes_is_refused(trained, tmp_path):
    if not shutil.which("node"):
        pytest.skip("there is no node")
    weights = trained.snapshots / "net_iter_150.safetensors"
    config = trained.config(label_values=["a", "b"], palette={0: (0, 0, 0), 1: (255, 0, 0)}, IGNORE_LABEL=None)
    try:
        refused(call("tools.export", weights, "--page", tmp_path / "map.html", "--config", config), "knows the classes", "a, b")
    finally:
        trained.config()


def test_the_lock_file_names_versions_and_no_registry():
    lock = (SOURCES / "package-lock.json").read_text(encoding="utf-8")
    assert "resolved" not in lock
    assert "http" not in lock.replace('"url": "http', "")
    wanted = json.loads((SOURCES / "package.json").read_text(encoding="utf-8"))
    versions = [*wanted["dependencies"].values(), *wanted["devDependencies"].values()]
    assert all(version[0].isdigit() for version in versions)
