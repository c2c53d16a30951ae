"""Proves that --images names tiles by their files and matches the files of several modalities by name, never by order."""

from pathlib import Path

import pytest

from tools.base.errors import UserError
from tools.inference import tile_list
from tools.inference.tile_list import given_tiles


@pytest.mark.parametrize(
    "address", ["https://host/dir/b.tif", "s3://bucket/b.tif", "/vsicurl/https://host/b.tif", "/vsis3/c/b.tif"]
)
def test_an_address_stays_as_it_is_written(address):
    (tile,) = given_tiles([address], ["irrg"])
    assert (tile.name, tile.first) == ("b", address)


def test_what_follows_a_remote_name_is_no_part_of_the_tiles():
    assert tile_list.name_of_file("https://host/dir/b.tif?key=x.y/z") == "b"


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


def test_an_equals_sign_in_a_name_is_no_modality(tmp_path, monkeypatch):
    (tmp_path / "x=1.tif").touch()
    monkeypatch.chdir(tmp_path)
    words = ["x=1.tif", "https://host/b.tif?a=b"]
    assert [tile.first for tile in given_tiles(words, ["irrg"])] == [Path("x=1.tif"), words[1]]
    assert [tile.first for tile in given_tiles(["irrg=a.png"], ["irrg"])] == [Path("a.png")]


def test_two_tiles_of_one_name_are_refused():
    with pytest.raises(UserError, match="several images are called area1"):
        given_tiles(["area1.tif", "top/area1.tif"], ["irrg"])


def test_a_file_that_two_words_name_is_one_tile():
    assert [tile.first for tile in given_tiles(["top/area1.tif", "a.tif", "top/area1.tif"], ["irrg"])] == [
        Path("top/area1.tif"),
        Path("a.tif"),
    ]
