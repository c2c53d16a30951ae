"""The layout of a dataset on disk: which file is which modality of which tile, and whether all are there and fit."""

import dataclasses
import glob
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from string import Formatter

import numpy as np
import rasterio
from tqdm import tqdm

from tools.base.errors import UserError, listing
from tools.geo import place, raster
from tools.geo.gaps import Gaps
from tools.geo.views import Resized, Size
from tools.labels.palette import Palette

TileId = int | str | tuple
VECTOR_SUFFIXES = (".gpkg", ".shp", ".geojson")  # of labels that are polygons


def tile_name(tile: TileId) -> str:
    """The id as it stands on a command line and in file names: 7 -> '7', (2, 10) -> '2_10', 'city/1' -> 'city_1'."""
    return re.sub(r"[/\\]", "_", "_".join(map(str, tile)) if isinstance(tile, tuple) else str(tile))


def tile_id(word: str, known: Iterable[TileId]) -> TileId:
    """The id that a word on the command line means: a known one of that name, else numbers where it looks like numbers."""
    for tile in known:
        if word in (tile_name(tile), tile):
            return tile
    numbers = tuple(map(int, word.split("_"))) if re.fullmatch(r"\d+(_\d+)*", word) else ()
    return (numbers if len(numbers) > 1 else numbers[0]) if numbers else word


def find_ids(root: str | Path, pattern: str) -> list[TileId]:
    """The sorted ids of the tiles whose files exist: those that match a pattern of `folders` below `root`.

    "images/{}.tif" gives names, or numbers where they are written as {} would; "{0}/images/{0}_{1}.tif" gives pairs. Raises
    UserError where there is no such file.
    """
    found = matching_ids(root, pattern)
    if not found:
        raise UserError(f"no file is called {Path(root) / pattern}: put the tiles there, or correct the pattern.")
    return found


def matching_ids(root: str | Path, pattern: str) -> list[TileId]:
    """Like `find_ids`, but an empty list if no file matches."""
    words, found = _regular(pattern), []
    for file in Path(root).glob("*".join(glob.escape(text) for text in re.split(r"\{[^{}]*\}", pattern))):
        hidden = file.name.startswith(".") and not Path(pattern).name.startswith(".")  # macOS leaves ._1.tif beside 1.tif
        if not hidden and (match := words.fullmatch(file.relative_to(root).as_posix())):
            found.append(_id_of(match, pattern))
    return sorted((tile for tile in found if tile is not None), key=_order)


def list_ids(path: str | Path, pattern: str) -> list[TileId]:
    """The ids of the tiles that a text file names, one on a line, each as in the pattern ("{}_{}.tif").

    Raises UserError for a line that the pattern does not fit.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError:
        raise UserError(f"{path} does not exist: it should list the tiles, one on a line.") from None
    words, found = _regular(pattern), []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line:
            match = words.fullmatch(line)
            tile = match and _id_of(match, pattern)
            if tile is None:
                raise UserError(f"{path}, line {number}: '{line}' is not of the form {pattern}.")
            found.append(tile)
    return found


def _regular(pattern: str) -> re.Pattern:
    """A pattern of file names as a regular expression, with a group for each field; a repeated field must match the same."""
    words, names = "", []
    for text, field, _, _ in Formatter().parse(pattern):
        words += re.escape(text)
        if field is not None:
            name = field if field in names else field or str(len(names))
            words += f"(?P=_{name})" if name in names else f"(?P<_{name}>[^/]+)"
            names.append(name)
    return re.compile(words)


def _id_of(match: re.Match, pattern: str) -> TileId | None:
    """The id in a name that matched; None if the pattern would format it otherwise (7 for {:02d}), or has no {}."""
    kinds = {name or str(i): kind for i, (_, name, kind, _) in enumerate(Formatter().parse(pattern)) if name is not None}
    parts = [_id_part(word, kinds[name[1:]]) for name, word in sorted(match.groupdict().items())]
    if not parts or None in parts:
        return None
    return parts[0] if len(parts) == 1 else tuple(parts)


def _id_part(word: str, kind: str) -> int | str | None:
    """What a field of this format wrote as this word: 07 is '07' for {}, and 7 for {:02d}, which never writes a name."""
    if word.isdigit() and format(int(word), kind) == word:
        return int(word)
    return None if kind else word


def _order(tile: TileId) -> list[tuple]:
    """Sorts numbers by size and before names."""
    return [(isinstance(part, str), part) for part in (tile if isinstance(tile, tuple) else (tile,))]


def is_labels(modality: str) -> bool:
    """Whether a modality is ground truth: "labels", "labels_eroded" ..."""
    return modality.startswith("labels")


def label_fault(path: Path, palette: Palette | None, count: Callable[[np.ndarray], None] = lambda labels: None) -> str | None:
    """What keeps a file from being the labels of a tile, to its last pixel, or None. palette: whose numbers it must have.

    count: called with its labels, piece by piece.
    """

    def check(labels: np.ndarray) -> None:
        if palette:
            palette.check_labels(labels)
        count(labels)

    fault = raster.label_fault(path, palette.classes if palette else 0)
    return fault or raster.read_fault(path, check, raster.NUMBERS)


def _role(modality: str) -> str:
    return raster.NUMBERS if is_labels(modality) else raster.IMAGE


@dataclasses.dataclass
class Content:
    """What one file of a modality holds: what is wrong with it, the pixels of each label, where images lack data."""

    modality: str
    fault: str | None = None
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    gaps: Gaps = dataclasses.field(default_factory=Gaps)

    def count(self, labels: np.ndarray) -> None:
        """Add the labels of a piece."""
        self.labels += np.bincount(labels.ravel(), minlength=256)


class Dataset:
    """Where the files of the tiles are.

    root: the folder of the dataset. patterns: {modality: file below root}, with one {} per part of a tile's id, or
    {modality: {tile: file below root}}. Labels may be polygons (one vector file for all tiles, or one for each): the label
    arrays that convert_gt.py makes of them are then `labels_numpy/TILE.tif`. any_band: modalities of which a pixel is empty
    if one band has its value for no data, whatever that is (see tools/geo/gaps.py). resize: the size that all tiles are `seen`
    at (see tools/geo/views.py), None for their own.
    """

    def __init__(
        self, root: str | Path, patterns: Mapping[str, str | Mapping[TileId, str]], any_band: Collection[str] = (),
        resize: Size | None = None,
    ):  # fmt: skip
        self.root, self.patterns, self.any_band, self.resize = Path(root), patterns, any_band, resize
        self.found: list[Content] = []  # what `check` saw
        self.turned: list[Path] = []

    def path(self, modality: str, tile: TileId) -> Path:
        """The raster of one modality of one tile."""
        if self.is_vector(modality):
            return self.root / f"{modality}_numpy" / f"{tile_name(tile)}.tif"
        return self.given(modality, tile)

    def seen(self, modality: str, tile: TileId) -> Path | Resized:
        """The same as nets see it: at the size `resize`, for the readers of tools/geo/raster.py."""
        path = self.path(modality, tile)
        return path if self.resize is None else Resized(path, self.resize)

    def open(self, modality: str, tile: TileId) -> rasterio.DatasetReader:
        """The raster of one modality of one tile, as nets see it, open for reading; use it in a `with`."""
        path = self.seen(modality, tile)
        return raster.open_numbers(path) if is_labels(modality) else raster.open_image(path, modality in self.any_band)

    @property
    def images(self) -> list[str]:
        """The modalities that are images."""
        return [modality for modality in self.patterns if not is_labels(modality)]

    def is_vector(self, modality: str) -> bool:
        """Whether a modality is given as polygons."""
        pattern = self.patterns[modality]
        return is_labels(modality) and isinstance(pattern, str) and pattern.lower().endswith(VECTOR_SUFFIXES)

    def given(self, modality: str, tile: TileId) -> Path:
        """The file that `patterns` names for one modality of one tile."""
        parts, pattern = tile if isinstance(tile, tuple) else (tile,), self.patterns[modality]
        if isinstance(pattern, Mapping):
            if tile not in pattern:
                raise UserError(f"folders['{modality}'] has no file for the tile {tile_name(tile)}.")
            return self.root / pattern[tile]
        if self.is_vector(modality) and "{" not in pattern:
            return self.root / pattern
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

    def check(self, modalities: list[str], tiles: list[TileId], palette: Palette | None = None) -> dict[TileId, raster.Raster]:
        """Make sure that every tile is there in every modality, is readable to its last pixel, and has one size throughout.

        palette: labels must have its numbers. Returns what the file of the first modality says of each tile, as it is `seen`.
        Raises UserError that names all that is wrong.
        """
        for modality in modalities:
            if tiles and not any(self.path(modality, t).exists() for t in tiles):
                raise UserError(
                    f"folders['{modality}'] matches no file: {self.path(modality, tiles[0])} and its like do not exist"
                    f"{self._advice(modality, tiles[0])}."
                )
        files = [(m, t) for t in tiles for m in modalities]
        with ThreadPoolExecutor() as pool:  # GDAL decodes without the interpreter's lock
            found = pool.map(partial(self._content, palette), files)
            self.found = list(tqdm(found, "checking tiles", len(files), leave=False))
        problems = [content.fault for content in self.found if content.fault]
        faults = problems or self._mismatches(modalities, tiles)
        if faults:
            raise UserError(" ".join(faults[:20]) + (f" (+{len(faults) - 20} more)" if len(faults) > 20 else ""))
        return {tile: raster.inspect(self.seen(modalities[0], tile)) for tile in tiles}

    def notes(self, palette: Palette) -> list[str]:
        """What a user should know of what `check` saw: labels that count from 1, and pixels without data."""
        labels = sum((content.labels for content in self.found if content.modality == "labels"), np.zeros(256, np.int64))
        lines = [f"note: {line}"] if (line := palette.counted_from_one(labels)) else []
        for modality in dict.fromkeys(content.modality for content in self.found):
            gaps = sum((content.gaps for content in self.found if content.modality == modality), Gaps())
            lines += [f"{modality}: {line}"] if (line := gaps.describe()) else []
        if self.turned:
            lines.append(f"note: {listing(self.turned, 3)} are turned upright, as their EXIF says.")
        return lines

    def _advice(self, modality: str, tile: TileId) -> str:
        path = self.path(modality, tile)
        if alike := sorted(file.name for file in path.parent.glob(glob.escape(path.stem) + ".*")):
            return f"; {listing(alike, 3)} is there: correct the suffix in folders['{modality}']"
        if not is_labels(modality):
            return ""
        if self.is_vector(modality):
            return f"; labels are made from {self.patterns[modality]} by convert_gt.py --from-vector"
        return "; labels are made from colour ground truth by convert_gt.py"

    def _content(self, palette: Palette | None, file: tuple[str, TileId]) -> "Content":
        """Read one file to its end."""
        modality, tile = file
        content, path = Content(modality), self.path(modality, tile)
        if not path.exists():
            content.fault = f"tile {tile_name(tile)} has no {modality}: {path} does not exist."
        elif not path.is_file():
            content.fault = f"tile {tile_name(tile)}: {path} is no file but a folder, a pipe or a device."
        elif is_labels(modality):
            content.fault = label_fault(path, palette, content.count)
        else:
            content.fault = raster.read_fault(path, role=raster.IMAGE, gaps=content.gaps, any_band=modality in self.any_band)
        return content

    def _mismatches(self, modalities: list[str], tiles: list[TileId]) -> list[str]:
        faults = []
        about = {t: {m: raster.inspect(self.path(m, t), _role(m)) for m in modalities} for t in tiles}
        usual = {m: Counter((a[m].bands, a[m].dtype) for a in about.values()).most_common(1)[0][0] for m in modalities if tiles}
        for tile in tiles:
            self.turned += [r.path for r in about[tile].values() if r.turned]
            sizes = {m: f"{r.height}x{r.width}" for m, r in about[tile].items()}
            if len(set(sizes.values())) > 1:
                remedy = place.first_fault(about[tile])
                faults.append(f"tile {tile_name(tile)}: its modalities differ in size ({_pairs(sizes)}): {remedy}")
            elif fault := place.first_fault(about[tile]):
                faults.append(f"tile {tile_name(tile)}: {fault}")
            for m, r in about[tile].items():
                if usual[m] != (r.bands, r.dtype):
                    other = next(t for t in tiles if (about[t][m].bands, about[t][m].dtype) == usual[m])
                    faults.append(
                        f"tile {tile_name(tile)}: {m} has {r.bands} band(s) of {r.dtype}, tile {tile_name(other)} has"
                        f" {usual[m][0]} of {usual[m][1]}."
                    )
        return faults


def _pairs(values: Mapping[str, str]) -> str:
    return listing([f"{name} {value}" for name, value in values.items()])


SPLITS = ("train", "val", "test")
