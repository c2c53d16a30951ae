"""Proves that OpenStreetMap's features, from files of any form, become rasters on an image's own grid, pixel by pixel."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from conftest import FOLDERS, REPO, TEST, TRAIN, VAL, call, done, names, pixels, read_json, refused, train, write_raster
from rasterio.warp import transform
from scipy import ndimage

from tools.osm import layers

STREET = REPO / "tests/data/osm/street.osm"  # ten features, by hand; street.osm.pbf was made of it by osmium
UTM = rasterio.CRS.from_epsg(32632)
EAST, NORTH = 500_000, 5_400_000  # of the tile's lower left corner, which the shapes below are measured from
CORNER = np.array([EAST, NORTH])
HEIGHT, WIDTH, PIXEL = 80 * 4, 60 * 4, 0.25
PLACE = rasterio.transform.from_origin(EAST, NORTH + 80, PIXEL, PIXEL)
NAMES = ["roads", "buildings", "water", "green", "railways"]


def line(*corners, width):
    return shapely.LineString(corners).buffer(width / 2, quad_segs=64)


HOUSE = shapely.box(5, 40, 17, 50)
FLATS = shapely.box(40, 50, 55, 70) - shapely.box(45, 55, 50, 60)
SHAPES = {  # what street.osm says, with the widths of the table and the tram's own
    "roads": [line((-20, 20), (90, 20), width=5.5), line((30, 20), (30, 100), width=2)],
    "buildings": [HOUSE, FLATS],
    "water": [shapely.box(20, 2, 28, 8)],
    "green": [
        shapely.box(0, 0, 60, 10),
        line((8, 60), (8, 72), width=1.5),
        shapely.Point(20.25, 65.25).buffer(2.5, quad_segs=64),
    ],
    "railways": [line((-10, 30), (70, 30), width=4)],
}
CENTRES = shapely.points(*np.meshgrid((np.arange(WIDTH) + 0.5) * PIXEL, 80 - (np.arange(HEIGHT) + 0.5) * PIXEL))


def differs(found, shapes, slack=0.06):
    """How many pixels are not as their centres lie, those within some metres of the shapes' border left out."""
    union = shapely.union_all(shapes)
    clear = shapely.distance(CENTRES, union.boundary) > slack
    return int((clear & (found != shapely.contains(union, CENTRES))).sum())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, with one tile."""
    monkeypatch.chdir(tmp_path)
    write_raster("top/area1.tif", np.zeros((3, HEIGHT, WIDTH), np.uint8), crs=UTM, transform=PLACE)
    return tmp_path


def made(*extracts, words=(), image="top/area{}.tif"):
    """Run the command; the raster of the one tile comes back."""
    done(call("tools.osm", *extracts, "--image", image, "--out", "osm", "--overwrite", *words))
    return pixels("osm/osm_1.tif")


def degrees(shape):
    """A shape of the tile's metres in degrees."""
    return shapely.transform(shape, lambda xy: np.transpose(transform(UTM, "EPSG:4326", *(xy + CORNER).T)))


def write_geojson(path, *pairs):
    """A GeoJSON of (shape in the tile's metres, tags)."""
    features = [{"type": "Feature", "properties": tags, "geometry": shapely.geometry.mapping(degrees(s))} for s, tags in pairs]
    Path(path).write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def write_vector(path, shapes, kind, **columns):
    """A vector file of the tile's shapes, in its CRS."""
    wkb = np.array([shapely.transform(s, lambda xy: xy + CORNER).wkb for s in shapes], dtype=object)
    values = [np.array(v, dtype=object) for v in columns.values()]
    pyogrio.raw.write(
        path, wkb, values, list(columns), geometry_type=kind, crs=UTM.to_wkt(), append=Path(path).exists(), layer=kind
    )
    return path


# ------------------------------------------------------------------------------------------------------------- what is drawn


def test_each_theme_covers_the_pixels_whose_centres_its_shapes_hold(folder):
    found = made(STREET)
    assert found.shape == (5, HEIGHT, WIDTH) and set(np.unique(found)) == {0, 255}
    assert {name: differs(band == 255, SHAPES[name]) for name, band in zip(NAMES, found, strict=True)} == dict.fromkeys(
        NAMES, 0
    )


def test_the_raster_lies_where_the_image_lies_and_says_what_its_bands_are(folder):
    made(STREET)
    with rasterio.open("osm/osm_1.tif") as file:
        assert (file.crs, file.transform, file.shape) == (UTM, PLACE, (HEIGHT, WIDTH))
        assert file.descriptions == tuple(NAMES)
    told = read_json("osm/details.json")
    assert (told["made by"], told["form"], told["map"]) == ("tools.osm", "binary", [str(STREET)])
    assert told["themes"]["roads"]["lines_metres"]["highway"]["residential"] == 5.5
    area = sum(shape.area for shape in SHAPES["buildings"])
    assert told["shares"]["1"]["buildings"] == pytest.approx(area / 4800, rel=0.01)


def test_what_lies_in_a_tunnel_is_left_out(folder):
    assert not made(STREET)[0, : 8 * 4, : 28 * 4].any()  # a motorway at 75 m, were it seen


def test_a_ways_own_width_wins_over_the_tables_and_width_changes_the_table(folder):
    street = shapely.LineString([(-5, 40), (65, 40)])
    for tags, words, metres in [
        ({"width": "9"}, [], 9), ({"width": "9 m"}, [], 9), ({"width": "0"}, [], 5.5), ({"width": "wide"}, [], 5.5),
        ({}, ["--width", "residential=7.5"], 7.5), ({"width": "3"}, ["--width", "residential=7.5"], 3),
    ]:  # fmt: skip
        found = made(write_geojson("a.geojson", (street, {"highway": "residential"} | tags)), words=words)[0]
        assert differs(found > 0, [street.buffer(metres / 2)]) == 0, (tags, words)


def test_a_way_narrower_than_a_pixel_is_drawn_a_pixel_wide_without_gaps(folder):
    coarse = rasterio.transform.from_origin(EAST, NORTH + 80, 10, 10)
    write_raster("coarse1.tif", np.zeros((3, 8, 6), np.uint8), crs=UTM, transform=coarse)
    path = shapely.LineString([(-5, 42), (65, 47)])
    found = made(write_geojson("a.geojson", (path, {"highway": "path"})), image="coarse{}.tif")[0]
    assert (found > 0).sum(0).tolist() == [1] * 6


def test_themes_are_chosen_and_stand_in_the_tables_order(folder):
    every = made(STREET)
    assert np.array_equal(made(STREET, words=["--themes", "green", "roads"]), every[[0, 3]])


# --------------------------------------------------------------------------------------------------------------------- forms


def test_distances_are_metres_to_the_border_positive_inside_and_cut(folder):
    found = made(STREET, words=["--form", "distance", "--clip", 6])
    assert found.dtype == np.float32
    for name, band in zip(NAMES, found, strict=True):
        union = shapely.union_all(SHAPES[name])
        away = shapely.distance(CENTRES, union.boundary) * np.where(shapely.contains(union, CENTRES), 1, -1)
        assert np.abs(band - np.clip(away, -6, 6)).max() < PIXEL, name


def test_distances_piece_by_piece_are_those_at_once(folder, monkeypatch):
    whole = made(STREET, words=["--form", "distance", "--clip", 9])
    monkeypatch.setattr(layers, "_PIECE", (48, 64))
    assert np.array_equal(made(STREET, words=["--form", "distance", "--clip", 9]), whole)


def test_colours_are_the_originals_with_buildings_on_top(folder):
    found = made(STREET, words=["--form", "colours"])
    at = {(10, 45): (0, 0, 255), (35, 20): (255, 255, 255), (24, 5): (255, 0, 0), (50, 5): (0, 128, 0), (2, 70): (0, 0, 0)}
    for (x, y), colour in at.items():
        assert tuple(found[:, int((80 - y) / PIXEL), int(x / PIXEL)]) == colour, (x, y)
    every = made(STREET)
    assert np.array_equal(found.any(0), every.any(0))
    assert (found[:, every[1] > 0].T == (0, 0, 255)).all()


# ------------------------------------------------------------------------------------------------------------- forms of files


def test_pbf_gives_what_osm_gives(folder):
    differences = made(STREET.with_suffix(".osm.pbf")) != made(STREET)
    assert differences.sum() <= 5  # it keeps places to a centimetre


def as_overpass(with_geometry):
    """street.osm as Overpass answers, with `out geom;` or with nodes."""
    root, elements = ElementTree.parse(STREET).getroot(), []
    places = {n.get("id"): {"lat": float(n.get("lat")), "lon": float(n.get("lon"))} for n in root.iter("node")}
    for item in root:
        tags = {t.get("k"): t.get("v") for t in item.iter("tag")}
        one = {"type": item.tag, "id": int(item.get("id")), "tags": tags}
        refs = [nd.get("ref") for nd in item.iter("nd")]
        if item.tag == "node":
            one |= places[item.get("id")]
        elif item.tag == "way":
            one |= {"geometry": [places[r] for r in refs]} if with_geometry else {"nodes": [int(r) for r in refs]}
        else:
            members = item.iter("member")
            one["members"] = [{"type": m.get("type"), "ref": int(m.get("ref")), "role": m.get("role")} for m in members]
        elements.append(one)
    if not with_geometry:
        return {"elements": elements}
    ways = {e["id"]: e for e in elements if e["type"] == "way"}
    for member in elements[-1]["members"]:
        member["geometry"] = ways[member["ref"]]["geometry"]
    members = [member["ref"] for member in elements[-1]["members"]]
    return {"elements": [e for e in elements if e["type"] != "node" or e["tags"] if e["id"] not in members]}


@pytest.mark.parametrize("with_geometry", [True, False])
def test_answers_of_overpass_give_what_osm_gives(folder, with_geometry):
    Path("q.json").write_text(json.dumps(as_overpass(with_geometry)))
    assert np.array_equal(made("q.json"), made(STREET))


def test_a_street_that_leaves_the_area_asked_for_and_comes_back_has_a_gap_there(folder):
    """`out geom(bbox)` gives null for the nodes beyond."""
    whole = as_overpass(with_geometry=True)
    street = next(e for e in whole["elements"] if e["type"] == "way" and e["tags"].get("highway"))
    first, last = street["geometry"][0], street["geometry"][-1]

    def between(share):
        return {k: first[k] + share * (last[k] - first[k]) for k in first}

    for nodes, halves in (
        ([first, between(0.45), None, between(0.55), last], 2),
        ([first, between(0.45), between(0.55), last], 1),
    ):
        street["geometry"] = nodes
        Path("q.json").write_text(json.dumps({"elements": [street]}))
        assert ndimage.label(made("q.json")[0] > 0)[1] == halves


def test_what_lies_in_tunnels_is_left_out_as_geofabrik_says_it(folder):
    line_of = [shapely.LineString([(-10, y), (70, y)]) for y in (30, 60)]
    write_vector("a.gpkg", line_of, "LineString", fclass=["residential"] * 2, tunnel=["T", "F"])
    assert differs(made("a.gpkg")[0] > 0, [line((-10, 60), (70, 60), width=5.5)]) == 0


def test_distances_that_nobody_asked_for_bound_no_pixels(folder):
    """20 m, what --form distance takes by itself, are 4,000 pixels of 5 mm."""
    fine = rasterio.transform.from_origin(EAST + 10, NORTH + 45, 0.005, 0.005)
    write_raster("top/area1.tif", np.zeros((3, 100, 100), np.uint8), crs=UTM, transform=fine)
    assert made(STREET)[1].all()  # within the house
    refused(
        call("tools.osm", STREET, "--image", "top/area{}.tif", "--out", "far", "--form", "distance"), "--clip 20 is 3998 pixels"
    )


def test_geopackages_of_several_layers_with_other_tags_are_read_in_their_own_crs(folder):
    """As `ogr2ogr a.gpkg a.osm.pbf` makes them."""
    middle = shapely.LineString([(-10, 30), (70, 30)])
    write_vector("a.gpkg", [middle], "LineString", highway=[None], other_tags=['"railway"=>"tram","width"=>"4","a\\"b"=>"c"'])
    write_vector("a.gpkg", [HOUSE, FLATS], "Polygon", building=["yes", "no"], other_tags=[None, None])
    found = made("a.gpkg")
    assert differs(found[4] > 0, SHAPES["railways"]) == 0
    assert differs(found[1] > 0, [HOUSE]) == 0 and not found[[0, 2, 3]].any()


def test_geofabriks_shapefiles_say_it_in_fclass_and_are_one_map(folder):
    roads = [shapely.LineString([(-20, 20), (90, 20)]), shapely.LineString([(30, 20), (30, 100)])]
    write_vector("roads.shp", roads, "LineString", fclass=["residential", "footway"])
    write_vector("buildings.shp", [HOUSE, FLATS], "Polygon", fclass=["building", "building"], type=["house", None])
    land = [shapely.box(0, 0, 60, 80), shapely.box(0, 0, 60, 10)]
    write_vector("landuse.shp", land, "Polygon", fclass=["residential", "grass"])
    found = made("roads.shp", "buildings.shp", "landuse.shp")
    for band, shapes in ((0, SHAPES["roads"]), (1, SHAPES["buildings"]), (3, land[1:])):
        assert differs(found[band] > 0, shapes) == 0, band


def test_a_closed_riverbank_is_an_area_and_a_closed_street_is_not(folder):
    ring = [(10, 20), (50, 20), (50, 60), (10, 60), (10, 20)]
    bank, street = shapely.LineString(ring), shapely.LineString(ring)
    found = made(write_geojson("a.geojson", (bank, {"waterway": "riverbank"}), (street, {"highway": "service"})))
    assert differs(found[2] > 0, [shapely.Polygon(ring)]) == 0
    assert differs(found[0] > 0, [street.buffer(1.75, quad_segs=64)]) == 0


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:25832"])
def test_streets_are_as_wide_on_the_ground_whatever_the_crs_of_the_image(folder, crs):
    """In degrees, in Web Mercator, which stretches metres by half here, and in a grid of metres."""
    street = shapely.LineString([(30, -300), (30, 300)])
    (x, right), (y, top) = transform(UTM, crs, [EAST + 30, EAST + 80], [NORTH + 40, NORTH + 90])
    side = (top - y) / 200  # a quarter of a metre from south to north
    place = rasterio.transform.from_origin(x - 200 * side, y + 200 * side, side, side)
    write_raster("t1.tif", np.zeros((3, 400, 400), np.uint8), crs=crs, transform=place)
    found = made(write_geojson("a.geojson", (street, {"highway": "residential", "width": "20"})), image="t{}.tif")[0] > 0
    metres = 50 / ((right - x) / side)  # from one column to the next, on the ground
    assert np.median(found.sum(1)) * metres == pytest.approx(20, abs=0.3)


# ------------------------------------------------------------------------------------------------------------------ mistakes


def answer(**changes):
    return json.dumps({"elements": [{"type": "way", "id": 1, "tags": {"highway": "service"}, "nodes": [1, 2]}]} | changes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.osm"], ["none.osm does not exist"]),
        (["odd_tags.gpkg"], ["'{\"highway' in a column other_tags is no JSON"]),
        (["empty.geojson"], ["empty.geojson holds no features at all"]),
        (["far.geojson"], ["far.geojson touches no tile", "degrees W, S, E, N"]),
        (["empty.osm"], ["empty.osm holds no features at all"]),
        (["cut.osm"], ["cut.osm", "breaks off or is damaged"]),
        (["text.osm"], ["text.osm", "cannot be read as a vector file"]),
        (["cut.osm.pbf"], ["cut.osm.pbf", "breaks off or is damaged"]),
        (["cut.json"], ["cut.json breaks off or is no JSON"]),
        (["bare.json"], ["bare.json: way 1 has no coordinates", "out geom;"]),
        (["late.json"], ["late.json is not whole", "timed out"]),
        (["odd.json"], ["odd.json is no answer of Overpass as we know it"]),
        (["bare.shp"], ["bare.shp has no CRS"]),
        (["strange.geojson"], ["strange.geojson has no attribute that themes are known by", "it has kind"]),
        (["shops.geojson"], ["shops.geojson has 1 feature(s) near the tiles, but none with tags of roads"]),
        ([STREET, "--themes", "road"], ["--themes names 'road'", "Did you mean 'roads'?"]),
        ([STREET, "--form", "binry"], ["invalid choice: 'binry'"]),
        ([STREET, "--width", "residental=5"], ["no line of the themes", "Did you mean 'residential'?"]),
        ([STREET, "--width", "residential=0"], ["--width residential=0", "0.3 to 100 metres"]),
        ([STREET, "--width", "residential=-2"], ["--width residential=-2"]),
        ([STREET, "--width", "5"], ["--width 5"]),
        ([STREET, "--clip", "0", "--form", "distance"], ["'0' must be a number above 0"]),
        ([STREET, "--clip", "9"], ["--clip 9 is for --form distance"]),
        ([STREET, "--clip", "5000", "--form", "distance"], ["--clip 5000 is 19992 pixels", "2000 are the most"]),
        ([STREET, "--name", "a.png"], ["--name 'a.png'"]),
        ([STREET, "--ids", "7"], ["area7.tif does not exist"]),
        ([STREET, "--image", "nowhere{}.png"], ["nowhere1.png", "georeference is missing"]),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(folder, words, said):
    near, tags = shapely.box(5, 5, 9, 9), {"shop": "bakery", "building": None}
    write_geojson("far.geojson", (shapely.box(5000, 0, 5009, 9), {"building": "yes"}))
    write_geojson("strange.geojson", (near, {"kind": "house"}))
    write_geojson("shops.geojson", (near, tags))
    write_vector("bare.shp", [near], "Polygon", building=["yes"])
    write_vector("odd_tags.gpkg", [near], "Polygon", other_tags=['{"highway'])
    write_geojson("empty.geojson")
    Path("bare.prj").unlink()
    text = STREET.read_text()
    for name, content in {
        "empty.osm": '<?xml version="1.0"?><osm version="0.6"></osm>', "cut.osm": text[:2000], "text.osm": "hello",
        "cut.json": answer()[:-9], "bare.json": answer(), "late.json": answer(remark="runtime error: Query timed out"),
        "odd.json": answer(elements=[{"type": "way"}]),
    }.items():  # fmt: skip
        Path(name).write_text(content)
    Path("cut.osm.pbf").write_bytes(STREET.with_suffix(".osm.pbf").read_bytes()[:400])
    write_raster("nowhere1.png", np.zeros((3, 8, 8), np.uint8), driver="PNG", crs=None, transform=None)
    before = names(folder)
    image = [] if "--image" in words else ["--image", "top/area{}.tif"]
    refused(call("tools.osm", *words, *image, "--out", "osm"), *said)
    assert names(folder) == before


def test_tiles_that_the_map_does_not_reach_are_named(folder):
    east = rasterio.transform.from_origin(EAST + 200, NORTH + 80, PIXEL, PIXEL)
    write_raster("top/area2.tif", np.zeros((3, 40, 40), np.uint8), crs=UTM, transform=east)
    ran = done(call("tools.osm", STREET, "--image", "top/area{}.tif", "--out", "osm"))
    assert "nothing of the map lies on the tiles 2" in ran.out
    assert not pixels("osm/osm_2.tif").any()


# -------------------------------------------------------------------------------------------------------------- from end to end


@pytest.mark.slow
@pytest.mark.parametrize("net", ["fusenet", "segnet_rc"])
def test_nets_of_two_inputs_train_on_images_and_map_and_label_tiles(town, net):
    corners = [rasterio.open(town.path("irrg", tile)).bounds[:2] for tile in (*TRAIN, *VAL, *TEST)]
    houses = [shapely.transform(shapely.box(0.5, 0.5, 3, 3), lambda xy, corner=corner: xy + corner) for corner in corners]
    write_vector(town.base / "map.gpkg", [shapely.transform(h, lambda xy: xy - CORNER) for h in houses], "Polygon",
                 building=["yes"] * len(houses))  # fmt: skip
    town.changes |= {"folders": FOLDERS | {"osm": "osm/osm_{}.tif"}, "INPUTS": {"irrg": ["irrg"], "osm": ["osm"]}}
    town.changes |= {"NET": net, "NET_OPTIONS": {"planes": (4, 4, 4, 4, 4)}, "MEAN_PIXEL": {}}
    words = ["--config", town.config()]
    for script, *own in [("tools.osm", town.base / "map.gpkg"), ("extract_images",), ("create_db",)]:
        done(call(script, *own, *words))
    done(train(town, 4))
    done(call("inference", *TEST, *words, "--device", "cpu"))
    labels = pixels(town.base / f"vaihingen_results_{net}/{TEST[0]}_labels.tif")
    assert labels.shape[1:] == pixels(town.path("irrg", TEST[0])).shape[1:]
