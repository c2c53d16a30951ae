"""Tiles in, maps out: the next tile is read and the last one's files are completed while the net labels a tile."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tools.base.errors import DiskFullError, UserError
from tools.base.pipeline import Ahead
from tools.geo.area import PlacedArea
from tools.inference import resampled
from tools.inference.labeller import Labeller, Reading
from tools.inference.ranks import Crew
from tools.inference.tile_list import Tile
from tools.labels.palette import Palette
from tools.maps import results
from tools.maps.choice import Choice
from tools.maps.outputs import TileOutputs


class Begun(NamedTuple):
    """A tile as it is read, and its first windows; or what is wrong with it."""

    tile: Tile
    reading: Reading | None
    fault: UserError | None = None
    area: PlacedArea | None = None

    def close(self) -> None:
        """Read no more of it."""
        if self.reading:
            self.reading.close()


@dataclass(frozen=True)
class Mapmaker:
    """Labels tiles and writes their files into a folder.

    size: of the pixels (metres) at which tiles are to be read, None for their own. quiet: whether to show no progress.
    """

    labeller: Labeller
    palette: Palette
    choice: Choice
    folder: Path
    size: float | None = None
    quiet: bool = False

    def make(self, tiles: Sequence[Tile], crew: Crew | None = None, pixels: int = 0) -> dict[str, str]:
        """The maps of the tiles; what is wrong with some of them comes back, by tile. Raises DiskFullError.

        crew: the processes that share these tiles, if any. pixels: of all tiles, for the bar.
        """
        failed: dict[str, str] = {}
        finishing: list[tuple[Tile, Future]] = []
        with (
            ThreadPoolExecutor(1) as other,
            closing(Ahead((self._begin(tile, crew) for tile in tiles), 1)) as begun,
            tqdm(desc="labelling", total=pixels, unit="px", unit_scale=True, disable=self.quiet) as bar,
        ):
            for tile, now in zip(tiles, begun, strict=True):
                with noted(tile, failed), closing(now):
                    finishing.append((tile, other.submit(self._finish, tile, self._label(now, bar))))
                if len(finishing) > 1:
                    _wait(*finishing.pop(0), failed)
            for last in finishing:
                _wait(*last, failed)
        return failed

    def _begin(self, tile: Tile, crew: Crew | None) -> Begun:
        """Open a tile. What is wrong is kept for its turn."""
        try:
            tile = resampled.at_pixel_size(tile, self.size) if resampled.differs(tile, self.size) else tile
            area = tile.placed_area()
            return Begun(tile, self.labeller.open(tile.paths, crew, area=area), area=area)
        except UserError as error:
            return Begun(tile, None, error)

    def _label(self, begun: Begun, bar: tqdm) -> TileOutputs:
        """The outputs of one tile, which are to be finished."""
        if begun.fault:
            raise begun.fault
        tags = {"MADE_BY": "orthonets inference.py", "CLASSES": json.dumps(dict(enumerate(self.palette.names)))}
        outputs = TileOutputs(begun.tile, self.palette, self.choice, self.folder, tags, begun.area)
        try:
            with closing(self.labeller.bands_of(begun.reading)) as bands:
                for band in bands:
                    outputs.add(band)
                    bar.update(band.labels.size)
            outputs.gaps, sliding = begun.reading.tile.gaps, begun.reading.plan.sliding
            outputs.windows = sliding.size, sliding.step
        except BaseException:
            outputs.abandon()
            raise
        return outputs

    def _finish(self, tile: Tile, outputs: TileOutputs) -> None:
        """Complete the files of a tile and write down that it is done."""
        results.record(self.folder, tile, outputs.finish())

    def make_together(self, tiles: Sequence[Tile], crew: Crew) -> dict[str, str]:
        """The same by all processes, seen from the first one: the others `help`.

        Tiles that make up more than a process's part of the work, and those that would be left over, are shared by all of them;
        the rest is dealt out whole.
        """
        sizes = [_pixels(tile) for tile in tiles]
        shared, lots = deal(sizes, crew.ranks.count, share=self.size is None)  # views are in one process's memory
        failed, fault = self._make_some(tiles, sizes, shared, crew), None
        crew.dismiss([(self.folder, [tiles[i] for i in lot]) for lot in lots[1:]])
        try:
            failed |= self._make_some(tiles, sizes, lots[0])
        except UserError as error:
            fault = error  # the others are still at work
        for others, their_fault in crew.reports():
            failed, fault = failed | others, fault or their_fault
        if fault:
            raise fault
        return failed

    def _make_some(self, tiles: Sequence[Tile], sizes: Sequence[int], which: list[int], crew: Crew | None = None) -> dict:
        return self.make([tiles[i] for i in which], crew, sum(sizes[i] for i in which)) if which else {}

    def help(self, crew: Crew) -> None:
        """What all processes but the first one do; where the maps go is what that one says."""
        served = crew.serve(partial(self.labeller.work, crew))
        if not served:
            return
        folder, tiles = served
        own = replace(self, folder=folder, quiet=True)
        try:
            crew.report((own.make(tiles), None))
        except UserError as error:
            crew.report(({}, error))


def deal(sizes: Sequence[int], count: int, share: bool = True) -> tuple[list[int], list[list[int]]]:
    """Who does what: the tiles that `count` processes share, and those of each process alone.

    sizes: of the tiles, in pixels. Tiles that are more than a process's part of the work are shared, and the largest of the
    others that would be left over; share: False if none may be.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    large = sum(size * count > sum(sizes) for size in sizes)
    shared = order[: large + (len(order) - large) % count] if share else []
    lots: list[list[int]] = [[] for _ in range(count)]
    for i in order[len(shared) :]:
        min(lots, key=lambda lot: sum(sizes[j] for j in lot)).append(i)
    return sorted(shared), [sorted(lot) for lot in lots]


@contextmanager
def noted(tile: Tile, failed: dict[str, str]) -> Iterator[None]:
    """Within this block, what is wrong with a tile is noted and the others go on; a full disk ends the work."""
    try:
        yield
    except DiskFullError:
        raise
    except UserError as error:
        failed[tile.name] = str(error)


def _wait(tile: Tile, completed: Future, failed: dict[str, str]) -> None:
    """Until a tile's files are complete."""
    with noted(tile, failed):
        completed.result()


def _pixels(tile: Tile) -> int:
    """How many are to be labelled; 0 where the tile cannot be read, which is said in its turn."""
    try:
        about = tile.inspect()
    except UserError:
        return 0
    return about.height * about.width
