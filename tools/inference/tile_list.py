"""Which tiles are to be labelled: those of the dataset, or what --images names, matched over the modalities of a net."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.base.errors import UserError, listing, nearest
from tools.data.dataset import TileId, tile_id, tile_name
from tools.data.settings import DataSettings
from tools.geo import raster
from tools.geo.area import AreaOfInterest, PlacedArea, cut
from tools.geo.file_list import File, find, refuse_special
from tools.geo.raster import Raster


@dataclass(frozen=True)
class Tile:
    """One tile to label: its name, the file of each modality, and the ground truth by kind ("labels", "labels_eroded").

    area: what is wanted of it, None for all.
    """

    name: str
    paths: Mapping[str, File]
    truths: Mapping[str, File] = field(default_factory=dict)
    area: AreaOfInterest | None = None

    @property
    def first(self) -> File:
        """The file of the first modality: the map takes its size and its place on Earth."""
        return next(iter(self.paths.values()))

    def placed_area(self) -> PlacedArea | None:
        """The area on the pixels of the first file, if there is one."""
        return self.area and self.area.on(raster.inspect(self.first))

    def inspect(self) -> Raster:
        """What the first file says of itself, cut to the window around the area, if there is one."""
        about, area = raster.inspect(self.first), self.placed_area()
        return cut(about, area.window) if area else about


def dataset_tiles(data: DataSettings, words: list[str]) -> list[Tile]:
    """The tiles that the ids name, or all test tiles, with what ground truth there is of them."""
    ids = list(dict.fromkeys(tile_id(word, data.all_ids) for word in words)) or data.ids("test")  # each once
    seen = [tile_name(t) for t in ids if t in data.train_ids]
    if seen:
        print(f"note: {', '.join(seen)} was trained on, so its scores say little about other places.")
    return tiles_of(data, ids)


def tiles_of(data: DataSettings, ids: Iterable[TileId]) -> list[Tile]:
    """These tiles of the dataset, with what ground truth there is of them."""
    kinds = ["labels", "labels_eroded"]
    tiles = [
        Tile(
            tile_name(t),
            {m: data.dataset.path(m, t) for m in data.modalities},
            {kind: data.dataset.path(kind, t) for kind in kinds if data.dataset.has(kind, t)},
        )
        for t in ids
    ]
    for path in (path for tile in tiles for path in [*tile.paths.values(), *tile.truths.values()]):
        refuse_special(Path(path))
    return tiles


def given_tiles(words: Sequence[str], modalities: Sequence[str]) -> list[Tile]:
    """The tiles that the words of --images name.

    words: files, folders, patterns ("flight/*.tif", also in quotes), lists (list.txt, @list: one name on a line) and remote
    files as GDAL takes them. Where the net reads several modalities, each is said: "irrg=flight/*.tif", "dsm=heights/"; words
    without a name belong to the modality before them. Files of one tile are matched by their names, never by their order.
    Raises UserError where words name nothing, two tiles have one name, or files do not match.
    """
    said = _by_modality(words, modalities)
    found = {modality: _named(find(said[modality])) for modality in modalities}
    if len(modalities) == 1:
        return [Tile(name, {modalities[0]: file}) for name, file in found[modalities[0]].items()]
    names = list(found[modalities[0]])
    matched = {modality: _match(found, modalities[0], modality) for modality in modalities}
    return [Tile(name, {m: matched[m][name] for m in modalities}) for name in names]


def touched(tiles: Sequence[Tile], area: AreaOfInterest) -> list[Tile]:
    """The tiles that an area of interest touches, and those that cannot be read, which is said in their turn.

    Raises UserError where it touches none.
    """
    kept, missed = [], []
    for tile in tiles:
        try:
            about = raster.inspect(tile.first)
        except UserError:
            kept.append(tile)
            continue
        found = area.on(about)
        kept.append(replace(tile, area=area)) if found else missed.append(about)
    if not kept:
        raise UserError(area.missed(missed[0]))
    return kept


def _by_modality(words: Sequence[str], modalities: Sequence[str]) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {}
    current = modalities[0] if len(modalities) == 1 else None
    for word in words:
        name, sign, rest = word.partition("=")
        if sign and name in modalities:
            current, word = name, rest
        elif sign and name.isidentifier() and not Path(word).exists() and not raster.is_remote(word):
            raise UserError(
                f"--images {word}: the net reads no '{name}'.{nearest(name, modalities)} It reads {listing(modalities)}."
            )
        if current is None:
            break
        said.setdefault(current, []).append(word)
    missing = [m for m in modalities if m not in said]
    if missing:
        example = " ".join(f"{m}={m}_tiles/" for m in modalities)
        raise UserError(
            f"the net reads {' and '.join(modalities)} of each tile, --images does not say which files are"
            f" {listing(missing)}: name them all, as in --images {example}"
        )
    return said


def _named(files: Sequence[File]) -> dict[str, File]:
    """The files by the names of their tiles; one that is named twice counts once."""
    files = list(dict.fromkeys(files))
    names = [name_of_file(file) for file in files]
    twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UserError(f"several images are called {listing(twice)}: label them in two runs, with a --dir each.")
    return dict(zip(names, files, strict=True))


def name_of_file(file: File) -> str:
    """What a tile is called: its file's name without suffix, nor what follows a remote one's "?"."""
    text = str(file).split("?")[0] if raster.is_remote(file) else str(file)
    return Path(text).stem


def _match(found: Mapping[str, Mapping[str, File]], first: str, other: str) -> dict[str, File]:
    """The files of another modality by the names of the first one's tiles: names are the same, or what differs in them is."""
    ours, theirs = found[first], found[other]
    if set(ours) == set(theirs):
        return dict(theirs)
    wanted = dict(zip(_what_differs(ours), ours, strict=True))
    files = dict(zip(_what_differs(theirs), theirs.values(), strict=True))
    if len(ours) == len(theirs) == 1:
        files = dict(zip(wanted, files.values(), strict=True))  # there is nothing to confuse
    lonely = [name for key, name in wanted.items() if key not in files]
    spare = [name_of_file(file) for key, file in files.items() if key not in wanted]
    if lonely or spare:
        raise UserError(
            f"the files of {first} and {other} do not match by name ({first} alone has {listing(lonely, 4) or 'none'}, {other}"
            f" alone has {listing(spare, 4) or 'none'}): call them alike, such as {first}_7.tif and {other}_7.tif."
        )
    return {name: files[key] for key, name in wanted.items()}


def _what_differs(names: Iterable[str]) -> list[str]:
    """The names without what they all begin with and all end with: area1_top, area11_top -> "1", "11"; 07 counts as 7."""
    names = [re.sub(r"\d+", lambda number: str(int(number[0])), name) for name in names]
    start = _shared(names)
    rest = [name[start:][::-1] for name in names]
    end = _shared(rest)
    return [name[end:][::-1] for name in rest]


def _shared(names: Sequence[str]) -> int:
    """How many characters all names begin with; no number is cut: 10 and 11 differ as 10 and 11."""
    letters = enumerate(zip(*names, strict=False))
    shared = next((i for i, here in letters if len(set(here)) > 1), min(map(len, names)))
    while shared and names[0][shared - 1].isdigit():
        shared -= 1
    return shared
