"""Proves who labels which tile, that the next tile is read while one is labelled, and that no tile is left open."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import COLOURS, NAMES, names, write_raster

from tools.base.errors import DiskFullError, UserError
from tools.compute.distributed import Ranks
from tools.inference.labeller import Band
from tools.inference.tile_list import Tile
from tools.labels.palette import Palette
from tools.maps.choice import Choice
from tools.maps.writer import Mapmaker, deal


class Slow:
    """In place of a Labeller: labels a tile only after the next one is open. fault: what happens with tile 1."""

    def __init__(self, count, fault=None):
        self.opened = {str(i): threading.Event() for i in range(count)}
        self.opened[str(count)] = threading.Event()
        self.opened[str(count)].set()
        self.closed, self.fault = [], fault

    def open(self, paths, crew=None, area=None):
        name = paths["irrg"].stem
        self.opened[name].set()
        return Open(name, self.closed)

    def bands_of(self, reading):
        assert self.opened[str(int(reading.name) + 1)].wait(10)
        if self.fault and reading.name == "1":
            raise self.fault
        yield Band(0, np.zeros((8, 9), np.uint8), np.full((len(NAMES), 8, 9), 1 / len(NAMES), np.float32))


class Open:
    """In place of a Reading."""

    def __init__(self, name, closed):
        self.name, self.closed = name, closed
        self.tile, self.plan = SimpleNamespace(gaps={}), SimpleNamespace(sliding=SimpleNamespace(size=(8, 9), step=(8, 9)))

    def close(self):
        self.closed.append(self.name)


@pytest.fixture
def tiles(tmp_path):
    """Four tiles of 8 x 9 pixels."""
    return [Tile(str(i), {"irrg": write_raster(tmp_path / f"{i}.tif", np.zeros((3, 8, 9), np.uint8))}) for i in range(4)]


def mapmaker(labeller, folder):
    return Mapmaker(labeller, Palette(NAMES, COLOURS), Choice(), folder, quiet=True)


def test_the_next_tile_is_read_while_one_is_labelled_and_all_are_closed(tiles, tmp_path):
    labeller = Slow(4)
    assert mapmaker(labeller, tmp_path / "out").make(tiles) == {}
    assert labeller.closed == ["0", "1", "2", "3"]
    assert [name for name in names(tmp_path / "out") if name.endswith("_labels.tif")] == [f"{i}_labels.tif" for i in range(4)]


def test_a_tile_that_breaks_off_is_noted_and_the_others_go_on(tiles, tmp_path):
    labeller = Slow(4, UserError("the image ends."))
    assert mapmaker(labeller, tmp_path / "out").make(tiles) == {"1": "the image ends."}
    assert labeller.closed == ["0", "1", "2", "3"]
    assert not (tmp_path / "out/1_labels.tif").exists()
    assert (tmp_path / "out/3_labels.tif").exists()


def test_a_full_disk_ends_the_work_and_closes_what_was_read_ahead(tiles, tmp_path):
    labeller = Slow(4, DiskFullError("the disk is full."))
    with pytest.raises(DiskFullError):
        mapmaker(labeller, tmp_path / "out").make(tiles)
    assert set(labeller.closed) == {name for name, opened in labeller.opened.items() if opened.is_set() and name != "4"}


# ------------------------------------------------------------------------------------------------------ several processes


class Others:
    """In place of a Crew: one other process, which reports this."""

    def __init__(self, failed, fault=None):
        self.ranks, self.told, self.report = Ranks(0, 2), [], (failed, fault)

    def dismiss(self, last):
        self.told += last

    def reports(self):
        return [self.report]


def test_what_is_wrong_with_others_tiles_comes_back_with_our_own_and_they_are_told_what_to_do(tiles, tmp_path):
    others = Others({"3": "the image ends."})
    labeller = Slow(4)
    for event in labeller.opened.values():
        event.set()
    assert mapmaker(labeller, tmp_path / "out").make_together(tiles, others) == {"3": "the image ends."}
    (folder, theirs), *rest = others.told
    assert (folder, rest) == (tmp_path / "out", [])
    ours = {name.removesuffix("_labels.tif") for name in names(tmp_path / "out") if name.endswith("_labels.tif")}
    assert ours | {tile.name for tile in theirs} == {"0", "1", "2", "3"}
    assert len(ours) == len(theirs) == 2


def test_a_full_disk_of_anothers_is_ours_once_our_tiles_are_done(tiles, tmp_path):
    labeller = Slow(4)
    for event in labeller.opened.values():
        event.set()
    with pytest.raises(DiskFullError, match="full over there"):
        mapmaker(labeller, tmp_path / "out").make_together(tiles, Others({}, DiskFullError("full over there.")))
    assert len([name for name in names(tmp_path / "out") if name.endswith("_labels.tif")]) == 2


# -------------------------------------------------------------------------------------------------------- who does what


@pytest.mark.parametrize(
    ("sizes", "count", "shared", "lots"),
    [
        ([5], 1, [], [[0]]),
        ([5], 2, [0], [[], []]),  # a tile alone is shared
        ([5, 5], 2, [], [[0], [1]]),
        ([5, 6, 5], 2, [1], [[0], [2]]),  # what would be left over is shared
        ([9, 1, 1, 1, 1], 2, [0], [[1, 3], [2, 4]]),  # 9 of 13 are more than one's part
        ([9, 1, 1, 1], 2, [0, 1], [[2], [3]]),
        ([1, 4, 3, 2, 1, 3], 2, [], [[0, 1, 3], [2, 4, 5]]),  # 4 3 | 3 2 ...: seven each
        ([], 3, [], [[], [], []]),
    ],
)
def test_large_tiles_are_shared_and_the_others_dealt_out_evenly(sizes, count, shared, lots):
    found, dealt = deal(sizes, count)
    assert found == shared
    assert sorted(dealt) == sorted(lots)


def test_where_nothing_may_be_shared_each_tile_is_somebodys():
    assert deal([9, 1, 1], 2, share=False) == ([], [[0], [1, 2]])
