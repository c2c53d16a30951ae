"""Proves that what lies on a server is read as if it lay here: files, tile services in an area, and after lost connections."""

import numpy as np
import pytest
import rasterio
from conftest import pixels, place, refused, write_raster
from PIL import Image
from rasterio.warp import transform_bounds
from test_inference import infer

from tools.geo import raster
from tools.geo.windows import Window

ZOOM = 21  # 5 cm at this latitude
EDGE = 20037508.342789244
SIZE = 2 * EDGE / 2**ZOOM / 256  # of a pixel
SERVICE = """<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>
<DataWindow><UpperLeftX>-{edge}</UpperLeftX><UpperLeftY>{edge}</UpperLeftY><LowerRightX>{edge}</LowerRightX>
<LowerRightY>-{edge}</LowerRightY><TileLevel>{zoom}</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY>
<YOrigin>top</YOrigin></DataWindow><Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY>
<BandsCount>3</BandsCount><ZeroBlockHttpCodes>404</ZeroBlockHttpCodes></GDAL_WMS>"""


WMS = """<GDAL_WMS><Service name="WMS"><Version>1.1.1</Version><ServerUrl>{url}/wms?</ServerUrl><SRS>EPSG:3857</SRS>
<ImageFormat>image/png</ImageFormat><Layers>local/tiles.tif</Layers></Service>
<DataWindow><UpperLeftX>{west!r}</UpperLeftX><UpperLeftY>{north!r}</UpperLeftY><LowerRightX>{east!r}</LowerRightX>
<LowerRightY>{south!r}</LowerRightY><SizeX>{width}</SizeX><SizeY>{height}</SizeY></DataWindow><Projection>EPSG:3857</Projection>
<BlockSizeX>200</BlockSizeX><BlockSizeY>150</BlockSizeY><BandsCount>3</BandsCount></GDAL_WMS>"""
WMTS = """<GDAL_WMTS><GetCapabilitiesUrl>{url}/capabilities.xml</GetCapabilitiesUrl><Layer>town</Layer>
<BandsCount>3</BandsCount><ZeroBlockHttpCodes>404</ZeroBlockHttpCodes></GDAL_WMTS>"""
CAPABILITIES = """<?xml version="1.0"?>
<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1" version="1.0.0"><Contents>
<Layer><ows:Identifier>town</ows:Identifier><Style isDefault="true"><ows:Identifier>default</ows:Identifier></Style>
<Format>image/png</Format><TileMatrixSetLink><TileMatrixSet>g</TileMatrixSet></TileMatrixSetLink>
<ResourceURL format="image/png" resourceType="tile" template="{url}/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.png"/></Layer>
<TileMatrixSet><ows:Identifier>g</ows:Identifier><ows:SupportedCRS>urn:ogc:def:crs:EPSG::3857</ows:SupportedCRS>
<TileMatrix><ows:Identifier>{zoom}</ows:Identifier><ScaleDenominator>{scale!r}</ScaleDenominator>
<TopLeftCorner>-{edge} {edge}</TopLeftCorner><TileWidth>256</TileWidth><TileHeight>256</TileHeight>
<MatrixWidth>{matrix}</MatrixWidth><MatrixHeight>{matrix}</MatrixHeight></TileMatrix></TileMatrixSet></Contents></Capabilities>"""


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(raster, "PAUSES", (0, 0))
    monkeypatch.setitem(raster.os.environ, "GDAL_HTTP_MAX_RETRY", "0")


def make_service(folder, url, image):
    """The image (3 x h x w) around the town's tile 32, as map tiles and as one file; (XML, file, bounds in EPSG:3857)."""
    left, top = transform_bounds("EPSG:32632", "EPSG:3857", *(place(32) * (0, 0)), *(place(32) @ (1, 1)))[0::3]
    first = [int((left + EDGE) / SIZE // 256), int((EDGE - top) / SIZE // 256)]
    count = image.shape[2] // 256, image.shape[1] // 256
    for i in range(count[0]):
        for j in range(count[1]):
            path = folder / str(ZOOM) / str(first[0] + i) / f"{first[1] + j}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[:, 256 * j : 256 * j + 256, 256 * i : 256 * i + 256].transpose(1, 2, 0)).save(path)
    transform = rasterio.transform.from_origin(first[0] * 256 * SIZE - EDGE, EDGE - first[1] * 256 * SIZE, SIZE, SIZE)
    file = write_raster(folder / "local/tiles.tif", image, crs="EPSG:3857", transform=transform)
    (folder / "tiles.xml").write_text(SERVICE.format(url=url, zoom=ZOOM, edge=EDGE))
    return folder / "tiles.xml", file, rasterio.transform.array_bounds(*image.shape[1:], transform)


def test_a_tile_service_is_labelled_in_an_area_at_the_trained_pixel_size_as_a_local_file(trained, tmp_path, server):
    image = np.tile(pixels(trained.path("irrg", 32)), (1, 8, 6)).repeat(2, 1).repeat(2, 2)[:, :512, :768]
    service, file, (west, south, east, north) = make_service(tmp_path, server, image)
    bounds = ",".join(map(str, (west + 12, south + 10, east - 11, north - 13)))
    for path, out in ((service, "there"), (file, "here")):
        ran = infer(trained, "--images", path, "--area", bounds, "--resample", "--dir", tmp_path / out)
        assert ran.code == 0, ran.err
    with rasterio.open(tmp_path / "here/tiles_labels.tif") as here, rasterio.open(tmp_path / "there/tiles_labels.tif") as there:
        assert here.crs == there.crs == "EPSG:3857"
        assert here.bounds == pytest.approx(there.bounds, abs=0.2)
        assert here.transform.a == pytest.approx(0.09 / np.cos(np.radians(48.92)), rel=0.01)
        window = tuple(slice(0, n) for n in np.minimum(here.shape, there.shape))
        same = here.read(1)[window] == there.read(1)[window]
        assert same.mean() > 0.8  # their grids begin at different fractions of a pixel, and the image is all specks
    refused(infer(trained, "--images", service, "--dir", tmp_path / "all"), "as services of the whole Earth do: add --area")


@pytest.mark.parametrize("kind", ["WMS", "WMTS"])
def test_wms_and_wmts_give_the_pixels_that_their_server_shows(tmp_path, server, kind):
    image = np.random.default_rng(1).integers(1, 256, (3, 512, 768)).astype(np.uint8)
    _, _, (west, south, east, north) = make_service(tmp_path, server, image)
    about = {"url": server, "zoom": ZOOM, "edge": EDGE, "west": west, "south": south, "east": east, "north": north}
    about |= {"width": 768, "height": 512, "scale": SIZE / 0.00028, "matrix": 2**ZOOM}  # a standard pixel has 0.28 mm
    (tmp_path / "capabilities.xml").write_text(CAPABILITIES.format(**about))
    (tmp_path / "service.xml").write_text({"WMS": WMS, "WMTS": WMTS}[kind].format(**about))
    with raster.open_image(tmp_path / "service.xml") as file:
        place = raster.inspect(tmp_path / "service.xml").transform
        col, row = (round(n) for n in ~place * (west, north))
        assert place.a == pytest.approx(SIZE, rel=1e-9)
        found = raster.read_window(file, Window(row + 100, col + 50, 300, 600))
    assert np.array_equal(found, image[:, 100:400, 50:650])


def test_a_bucket_of_s3_is_labelled_as_a_local_file_and_one_without_credentials_is_refused(
    trained, tmp_path, server, monkeypatch
):
    image = np.random.default_rng(1).integers(0, 256, (3, 80, 90)).astype(np.uint8)
    file = write_raster(tmp_path / "town/a.tif", image)
    asked = ("--images", "s3://town/a.tif", "--dir", tmp_path / "there")
    settings = {"AWS_S3_ENDPOINT": server.removeprefix("http://"), "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    nowhere = dict.fromkeys(("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), str(tmp_path / "none"))
    for name, value in (settings | nowhere | {"CPL_AWS_AUTODETECT_EC2": "NO"}).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    refused(infer(trained, *asked), "s3://town/a.tif cannot be read as a raster", "AWS_NO_SIGN_REQUEST")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    for words in (asked, ("--images", file, "--dir", tmp_path / "here")):
        ran = infer(trained, *words)
        assert ran.code == 0, ran.err
    with rasterio.open(tmp_path / "here/a_labels.tif") as here, rasterio.open(tmp_path / "there/a_labels.tif") as there:
        assert np.array_equal(here.read(1), there.read(1))


@pytest.mark.usefixtures("no_waiting")
def test_a_lost_connection_is_tried_again(tmp_path, server):
    image = np.random.default_rng(1).integers(0, 256, (3, 600, 500)).astype(np.uint8)
    write_raster(tmp_path / "a.tif", image, tiled=True, blockxsize=256, blockysize=256)
    with raster.open_raster(f"/vsicurl/{server}/a.tif") as file:
        (tmp_path / "a.tif.fail").write_text("2")
        assert np.array_equal(raster.read_window(file), image)
    assert (tmp_path / "a.tif.fail").read_text() == "0"


@pytest.mark.usefixtures("no_waiting")
def test_a_source_that_stays_away_is_named_and_the_others_are_labelled(trained, tmp_path, server):
    image = np.random.default_rng(1).integers(0, 256, (3, 600, 500)).astype(np.uint8)
    for name in "ab":
        write_raster(tmp_path / f"{name}.tif", image, tiled=True, blockxsize=256, blockysize=256)
    with raster.open_raster(f"{server}/a.tif"):  # its header is known from now on
        (tmp_path / "a.tif.fail").write_text("99")
        ran = infer(trained, "--images", f"{server}/a.tif", f"{server}/b.tif", "--dir", tmp_path / "out")
    assert ran.code == 1
    assert f"{server}/a.tif could not be read in 3 tries" in ran.sentence
    assert "see whether the server answers" in ran.sentence
    assert (tmp_path / "out/b_labels.tif").exists()
    assert not (tmp_path / "out/a_labels.tif").exists()
