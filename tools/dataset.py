"""The layout of a dataset on disk: which file is which modality of which tile, and whether all are there and fit."""

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from string import Formatter

from tqdm import tqdm

from tools import raster
from tools.errors import UserError, listing
from tools.palette import Palette

TileId = int | str | tuple


def tile_name(tile: TileId) -> str:
    """The id as it stands on a command line and in file names: 7 -> '7', (2, 10) -> '2_10'."""
    return "_".join(map(str, tile)) if isinstance(tile, tuple) else str(tile)


def tile_id(word: str, known: Iterable[TileId]) -> TileId:
    """The id that a word on the command line means: a known one of that name, else numbers where it looks like numbers."""
    for tile in known:
        if tile_name(tile) == word:
            return tile
    numbers = tuple(map(int, word.split("_"))) if re.fullmatch(r"\d+(_\d+)*", word) else ()
    return (numbers if len(numbers) > 1 else numbers[0]) if numbers else word


class Dataset:
    """Where the files of the tiles are.

    root: the folder of the dataset. patterns: {modality: file below root}, with one {} per part of a tile's id.
    """

    def __init__(self, root: str | Path, patterns: Mapping[str, str]):
        self.root, self.patterns = Path(root), patterns

    def path(self, modality: str, tile: TileId) -> Path:
        """The file of one modality of one tile."""
        parts, pattern = tile if isinstance(tile, tuple) else (tile,), self.patterns[modality]
        try:
            fields = [name for _, name, _, _ in Formatter().parse(pattern) if name is not None]
            if (fields.count("") or len(set(fields))) == len(parts):  # {0} may stand twice
                return self.root / pattern.format(*parts)
        except (IndexError, ValueError, KeyError):
            pass
        raise UserError(
            f"folders['{modality}'] = '{pattern}' does not fit the tile id {tile!r}: it needs a {{}} for each part of the id."
        )

    def has(self, modality: str, tile: TileId) -> bool:
        """Whether the dataset has this modality, and this tile in it."""
        return modality in self.patterns and self.path(modality, tile).exists()

    def check(
        self, modalities: list[str], tiles: list[TileId], palette: Palette | None = None
    ) -> dict[TileId, raster.Raster]:
        """Make sure that every tile is there in every modality, is readable to its last pixel, and has one size throughout.

        palette: labels must have its numbers. Returns what the file of the first modality says of each tile. Raises
        UserError that names all that is wrong.
        """
        for modality in modalities:
            if tiles and not any(self.path(modality, t).exists() for t in tiles):
                raise UserError(
                    f"folders['{modality}'] matches no file: {self.path(modality, tiles[0])} and its like do not exist"
                    f"{self._advice(modality)}."
                )
        files = [(m, t) for t in tiles for m in modalities]
        with ThreadPoolExecutor() as pool:  # GDAL decodes without the interpreter's lock
            found = pool.map(partial(self._problem, palette), files)
            problems = [p for p in tqdm(found, "checking tiles", len(files), leave=False) if p]
        faults = problems or self._mismatches(modalities, tiles)
        if faults:
            raise UserError(" ".join(faults[:20]) + (f" (+{len(faults) - 20} more)" if len(faults) > 20 else ""))
        return {tile: raster.inspect(self.path(modalities[0], tile)) for tile in tiles}

    def _advice(self, modality: str) -> str:
        return "; labels are made from colour ground truth by convert_gt.py" if modality.startswith("labels") else ""

    def _problem(self, palette: Palette | None, file: tuple[str, TileId]) -> str | None:
        modality, tile = file
        path = self.path(modality, tile)
        if not path.exists():
            return f"tile {tile_name(tile)} has no {modality}: {path} does not exist."
        if not modality.startswith("labels"):
            return raster.read_fault(path)
        return raster.label_fault(path) or raster.read_fault(path, palette.check_labels if palette else None)

    def _mismatches(self, modalities: list[str], tiles: list[TileId]) -> list[str]:
        faults = []
        bands: dict[str, tuple] = {}
        for tile in tiles:
            about = {m: raster.inspect(self.path(m, tile)) for m in modalities}
            sizes = {m: f"{r.height}x{r.width}" for m, r in about.items()}
            if len(set(sizes.values())) > 1:
                faults.append(f"tile {tile_name(tile)}: its modalities differ in size ({_pairs(sizes)}).")
            for m, r in about.items():
                first = bands.setdefault(m, (r.bands, r.dtype, tile))
                if first[:2] != (r.bands, r.dtype):
                    faults.append(
                        f"tile {tile_name(tile)}: {m} has {r.bands} band(s) of {r.dtype}, tile {tile_name(first[2])} has"
                        f" {first[0]} of {first[1]}."
                    )
        return faults


def _pairs(values: Mapping[str, str]) -> str:
    return listing([f"{name} {value}" for name, value in values.items()])
