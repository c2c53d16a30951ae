"""Proves that --images finds files, folders, patterns, lists and addresses, and matches modalities by name, never by order."""

from pathlib import Path

import pytest

from tools import batches
from tools.batches import given_tiles
from tools.errors import UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Empty files, in the folder where the test runs."""
    for name in (
        "top/area1.tif",
        "top/area2.tif",
        "top/area10.tif",
        "top/area1.tif.aux.xml",
        "top/.area3.partial.tif",
        "a.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*words):
    return [str(tile.first) for tile in given_tiles(words, ["irrg"])]


def test_folders_and_patterns_give_the_rasters_in_them(files):
    whole = ["top/area1.tif", "top/area10.tif", "top/area2.tif"]
    assert found("top") == found("top/*") == found("top/*.tif") == found("t?p/area*") == found("**/area*") == whole
    assert found(f"{files}/top/*1.tif") == [f"{files}/top/area1.tif"]
    assert found("a.png", "top/area1*.tif") == ["a.png", "top/area1.tif", "top/area10.tif"]


@pytest.mark.parametrize("name", ["list.txt", "@list.txt", "@list"])
def test_a_list_names_a_file_on_each_line(files, name):
    lines = ["# the north", "top/area2.tif", "", " a.png ", "/vsicurl/https://host/b.tif"]
    Path(name.removeprefix("@")).write_text("\n".join(lines))
    assert found(name) == ["top/area2.tif", "a.png", "/vsicurl/https://host/b.tif"]


@pytest.mark.parametrize(
    "address", ["https://host/dir/b.tif", "s3://bucket/b.tif", "/vsicurl/https://host/b.tif", "/vsis3/c/b.tif"]
)
def test_an_address_stays_as_it_is_written(address):
    (tile,) = given_tiles([address], ["irrg"])
    assert (tile.name, tile.first) == ("b", address)


def test_what_follows_a_remote_name_is_no_part_of_the_tiles():
    assert batches.tile_name("https://host/dir/b.tif?key=x.y/z") == "b"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nothing*.tif", "the pattern nothing"),
        ("empty", "the folder empty holds no raster"),
        ("none.txt", "cannot be read as a list"),
        ("empty.txt", "names no file"),
    ],
)
def test_what_names_nothing_is_said(files, word, said):
    (files / "empty").mkdir()
    (files / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=said):
        found(word)


def pairs(*words):
    return [(t.name, str(t.paths["irrg"]), str(t.paths["dsm"])) for t in given_tiles(words, ["irrg", "dsm"])]


def test_modalities_are_matched_by_equal_names():
    assert pairs("irrg=top/1.tif", "top/2.tif", "dsm=dsm/2.tif", "dsm/1.tif") == [
        ("1", "top/1.tif", "dsm/1.tif"),
        ("2", "top/2.tif", "dsm/2.tif"),
    ]


def test_modalities_are_matched_by_what_differs_in_their_names():
    irrg = ["top_2_9_IRRG.tif", "top_2_10_IRRG.tif", "top_3_10_IRRG.tif"]
    dsm = ["dsm_02_10.tif", "dsm_03_10.tif", "dsm_02_09.tif"]
    assert pairs("irrg=" + irrg[0], *irrg[1:], "dsm=" + dsm[0], *dsm[1:]) == [
        ("top_2_9_IRRG", irrg[0], dsm[2]),
        ("top_2_10_IRRG", irrg[1], dsm[0]),
        ("top_3_10_IRRG", irrg[2], dsm[1]),
    ]


def test_one_file_of_each_needs_no_likeness():
    assert pairs("irrg=flight.tif", "dsm=heights.tif") == [("flight", "flight.tif", "heights.tif")]


@pytest.mark.parametrize(
    "words", [["irrg=a1.tif", "a2.tif", "dsm=b1.tif", "b3.tif"], ["irrg=a1.tif", "a2.tif", "dsm=b1.tif", "b2.tif", "b3.tif"]]
)
def test_files_that_do_not_match_are_named(words):
    with pytest.raises(UserError, match=r"do not match by name .*b3"):
        pairs(*words)


def test_words_without_a_modality_or_with_an_unknown_one_are_refused():
    with pytest.raises(UserError, match=r"does not say which files are dsm.*irrg=irrg_tiles/ dsm=dsm_tiles/"):
        pairs("irrg=a.tif")
    with pytest.raises(UserError, match="irrg, dsm"):
        pairs("a.tif", "b.tif")
    with pytest.raises(UserError, match=r"reads no 'dms'\. Did you mean 'dsm'"):
        pairs("irrg=a.tif", "dms=b.tif")


def test_an_equals_sign_in_a_name_is_no_modality(files):
    (files / "x=1.tif").touch()
    assert found("x=1.tif", "https://host/b.tif?a=b") == ["x=1.tif", "https://host/b.tif?a=b"]
    assert found("irrg=a.png") == ["a.png"]


def test_two_tiles_of_one_name_are_refused(files):
    (files / "area1.tif").touch()
    with pytest.raises(UserError, match="several images are called area1"):
        found("area1.tif", "top")
