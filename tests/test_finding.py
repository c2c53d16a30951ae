"""The words of a command line name files, folders, patterns, lists and addresses, in order; what names nothing is refused."""

import os
from pathlib import Path

import pytest

from tools.base.errors import UserError
from tools.geo.file_list import find, find_local


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
    return [str(file) for file in find(words)]


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


def test_an_address_stays_as_it_is_written():
    addresses = ["https://host/dir/b.tif", "s3://bucket/b.tif", "/vsicurl/https://host/b.tif", "/vsis3/c/b.tif"]
    assert find(addresses) == addresses


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


def test_files_are_found_on_this_machine_or_refused(files):
    assert find_local(["a.png", "top/area2.tif"]) == [Path("a.png"), Path("top/area2.tif")]
    with pytest.raises(UserError, match=r"c\.tif does not exist"):
        find_local(["a.png", "c.tif"])


def test_our_own_details_among_the_files_of_a_folder_are_no_raster(files):
    (files / "top/details.json").touch()
    assert found("top/area1.tif", "top/details.json") == ["top/area1.tif"]


def test_what_is_no_file_is_refused_before_it_is_opened(files):
    os.mkfifo(files / "pipe.tif")
    with pytest.raises(UserError, match=r"pipe\.tif is no file but a pipe"):
        find(["pipe.tif"])
    with pytest.raises(UserError, match="cannot be the name of a file"):
        find(["n" * 300])
