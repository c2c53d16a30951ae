"""Labels that look wrong: places of tiles where a trained net surely takes something for another class than its label."""

import csv
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.base.errors import UserError, listing
from tools.base.folders import whole_file
from tools.base.locks import locked
from tools.compute import device
from tools.compute.device import Device
from tools.data.dataset import TileId, tile_id, tile_name
from tools.data.inputs import Input
from tools.geo import raster
from tools.geo.windows import Window
from tools.html.images import label_picture, photograph
from tools.html.template import render
from tools.inference.labeller import NO_DATA, Labeller, make_labeller, prepared
from tools.inference.load import Asked, check_agreement
from tools.inference.tile_list import Tile, tiles_of
from tools.labels import pictures
from tools.labels.palette import Palette
from tools.record.choose import choose
from tools.settings import Settings
from tools.show.disagreement import Disagreement, Place
from tools.training import folds
from tools.weights import snapshots

_TEMPLATE = Path(__file__).with_name("suspects.html.j2")
_SIDE = 256  # pixels, the longer side of a picture at most
_AROUND, _LEAST = 0.35, 96  # what is shown around a place, in its own sizes; pixels, the least side that is shown
_NO_LABEL = (128, 128, 128)
_WRONG = np.array(pictures.ERRORS.colours[1])
_COLUMNS = ("rank", "tile", "row", "column", "height", "width", "x", "y", "labelled", "looks like", "pixels", "score",
            "confidence", "share of the window", "weights")  # fmt: skip


@dataclass(frozen=True)
class Suspect:
    """A place of a tile, what of the tile is shown around it, and the weights of the net that looked.

    share: of the shown pixels that are surely something else. centre: of the place in the tile's CRS, None if that is unknown.
    images: data URIs by what they show; empty as long as the page need not have them.
    """

    tile: str
    place: Place
    shown: Window
    share: float
    centre: tuple[float, float] | None
    weights: str
    images: dict[str, str]


@dataclass(frozen=True)
class Judge:
    """A net that looks at tiles, and the weights that it has."""

    weights: Path
    labeller: Labeller
    ids: Sequence[TileId]


def make(args: Namespace, settings: Settings, count: int) -> None:
    """All of `python -m tools.show --suspects`. count: places that the page shows."""
    words = args.tiles or []
    ids = [tile_id(word, settings.data.all_ids) for word in words] or settings.data.ids(args.split)
    if not ids:
        raise UserError(f"{args.split}_ids of {args.config} is empty: name tiles there, another --split, or --tiles.")
    weights, notes = weights_of(args.weights, settings.snapshots, ids)
    out = args.out or next(iter(weights)).with_name("suspects.html")
    refuse(out, args.overwrite)
    settings.data.dataset.check(settings.data.with_labels, ids, settings.classes.colours)
    print("\n".join(notes))
    found = find(settings, judges(args, settings, weights), count)
    shown = [suspect for suspect in found if suspect.images]
    with locked(out):
        write_table(out.with_suffix(".csv"), found, settings.classes.label_values)
        write_page(out, shown, found, settings, notes)
    print(f"{as_text(found, len(ids), settings.classes.label_values)}\npage: {out}\ntable: {out.with_suffix('.csv')}")


def refuse(out: Path, overwrite: bool) -> None:
    """Raise UserError if the page has another suffix, or if it or its table is there and may not be replaced."""
    if out.suffix.lower() != ".html":
        raise UserError(f"--out {out}: the page is HTML, name it so.")
    there = [path for path in (out, out.with_suffix(".csv")) if path.exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} exists already: choose another name with --out, or add --overwrite.")


def weights_of(word: Path | None, home: Path, ids: Sequence[TileId]) -> tuple[dict[Path, list[TileId]], list[str]]:
    """Which weights look at which tiles, and what to say of that.

    Of a cross-validation (`training.py --folds`), each tile is looked at by a net that was not trained on it.
    """
    if word is None or not folds.folders(word):
        (chosen,) = choose([word] if word else [], home)
        seen = set(snapshots.read_about(chosen.path).get("trained_on", []))
        seen &= set(map(tile_name, ids))
        note = f"; it was trained on {len(seen)} of these tiles, and may have learnt their faults" if seen else ""
        return {chosen.path: list(ids)}, [(chosen.note or str(chosen.path)) + note]
    found: dict[Path, list[TileId]] = {}
    left = list(ids)
    for path in (choose([folder], folder)[0].path for folder in folds.folders(word)):
        trained = snapshots.read_about(path).get("trained_on", [])
        if mine := [tile for tile in left if tile_name(tile) not in trained]:
            found[path] = mine
            left = [tile for tile in left if tile not in mine]
    if left:
        raise UserError(f"every fold in {word} was trained on {listing(map(tile_name, left))}: give the weights of one run.")
    return found, [f"{len(found)} folds of {word}: each tile is looked at by a net that was not trained on it"]


def judges(args: Namespace, settings: Settings, weights: dict[Path, list[TileId]]) -> Iterator[Judge]:
    """The nets, one at a time."""
    where: Device = device.choose(args.device, args.precision)
    for path, ids in weights.items():
        net, about = snapshots.load_labeller(path)
        inputs = [Input.from_dict(spec) for spec in about["inputs"]]
        check_agreement(Asked(settings.data, settings.classes, settings.net), about, inputs, path)
        labeller = make_labeller(settings.inference, prepared(net, where), inputs, where, resize=settings.data.RESIZE)
        yield Judge(path, labeller, ids)


# ------------------------------------------------------------------------------------------------------------- the places


def find(settings: Settings, nets: Iterator[Judge], count: int) -> list[Suspect]:
    """All suspects, the highest score first; the first `count` of them have pictures."""
    found: list[Suspect] = []
    for judge in nets:
        shown = tqdm(tiles_of(settings.data, judge.ids), "looking at tiles", unit="tile", leave=False, delay=1)
        for tile in shown:
            found = ranked(found + look(tile, judge, settings, found, count), count)
    return found


def ranked(found: list[Suspect], count: int) -> list[Suspect]:
    """The highest score first, without the pictures of those that come behind `count` others."""
    found = sorted(found, key=lambda suspect: -suspect.place.score)
    return [suspect if i < count else replace(suspect, images={}) for i, suspect in enumerate(found)]


def look(tile: Tile, judge: Judge, settings: Settings, before: Sequence[Suspect], count: int) -> list[Suspect]:
    """The suspects of one tile; those that are among the first `count`, with the ones before, have pictures."""
    classes = settings.classes
    about = raster.inspect(tile.first)
    with tempfile.TemporaryDirectory() as folder, raster.open_numbers(tile.truths["labels"]) as labels:
        seen = Disagreement(Path(folder), (about.height, about.width), len(classes.label_values))
        for band in judge.labeller.bands(tile.paths):
            seen.add(band, raster.read_labels_window(labels, band.window, NO_DATA), classes.ignored)
        places = [suspect(tile, about, place, seen, judge) for place in seen.places()]
        first = ranked([*before, *places], count)[:count]
        least = first[-1].place.score if len(first) == count else 0
        return [replace(s, images=images(tile, s, seen, classes.colours)) if s.place.score >= least else s for s in places]


def suspect(tile: Tile, about: raster.Raster, place: Place, seen: Disagreement, judge: Judge) -> Suspect:
    """A place with what stands beside it on the page, yet without pictures."""
    window, centre = around(place.window, seen.shape), None
    if about.transform is not None:
        row, col, height, width = place.window
        centre = about.transform * (col + width / 2, row + height / 2)
    return Suspect(tile.name, place, window, seen.share(window), centre, str(judge.weights), {})


def around(window: Window, shape: tuple[int, int]) -> Window:
    """A larger window with this one in its middle, as far as the tile has it, and at most twice as long as wide."""
    sides = [max(round(length * (1 + 2 * _AROUND)), _LEAST) for length in window[2:]]
    height, width = (min(max(side, max(sides) // 2), whole) for side, whole in zip(sides, shape, strict=True))
    row = min(max(window.row + (window.height - height) // 2, 0), shape[0] - height)
    col = min(max(window.col + (window.width - width) // 2, 0), shape[1] - width)
    return Window(row, col, height, width)


# ----------------------------------------------------------------------------------------------------------- the pictures


def images(tile: Tile, suspect: Suspect, seen: Disagreement, palette: Palette) -> dict[str, str]:
    """Image, labels, prediction and disagreement around a place, as data URIs."""
    here = suspect.shown
    picture = pictures.as_picture(raster.read_small(tile.first, _SIDE, 3, here))
    rows, cols = (
        first + np.arange(shown) * length // shown
        for first, length, shown in zip(here[:2], here[2:], picture.shape[:2], strict=True)
    )
    labels, predicted, margin = (plane[np.ix_(rows, cols)] for plane in (seen.labels, seen.predicted, seen.margin))
    colours = [palette.colours[label] for label in range(palette.classes)] + [palette.colours.get(palette.classes, _NO_LABEL)]
    return {
        "image": photograph(Image.fromarray(picture)),
        "labels": label_picture(labels, colours),
        "prediction": label_picture(predicted, colours),
        "disagreement": photograph(Image.fromarray(redden(picture, margin))),
    }


def redden(picture: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """The picture (h x w x 3, uint8) in pale grey, red where the net disagrees: the redder, the surer (margin: 0 to 255)."""
    grey, share = 128 + picture.mean(2, keepdims=True) / 2, margin[..., None] / 255
    return (grey * (1 - share) + _WRONG * share).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------- what is written


def write_page(out: Path, shown: list[Suspect], found: list[Suspect], settings: Settings, notes: list[str]) -> None:
    """The page of the first suspects."""
    page = render(
        _TEMPLATE, suspects=shown, count=len(found), dataset=settings.data.DATASET, notes=notes,
        classes=settings.classes.label_values, colours=settings.classes.colours.colours, table=out.with_suffix(".csv").name,
    )  # fmt: skip
    with whole_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_table(out: Path, found: Sequence[Suspect], classes: Sequence[str]) -> None:
    """All suspects as CSV, a line each."""
    with whole_file(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for rank, suspect in enumerate(found, 1):
            place, (x, y) = suspect.place, suspect.centre or ("", "")
            words = classes[place.label], classes[place.predicted], place.pixels, f"{place.score:.1f}"
            shares = f"{place.confidence:.3f}", f"{suspect.share:.3f}"
            writer.writerow([rank, suspect.tile, *place.window, x, y, *words, *shares, suspect.weights])


def as_text(found: Sequence[Suspect], tiles: int, classes: Sequence[str], most: int = 5) -> str:
    """How many there are, and the first of them."""
    lines: list[Any] = [f"{len(found):,} places in {tiles} tiles where the net surely sees something else than the label"]
    for suspect in found[:most]:
        place = suspect.place
        lines.append(
            f"  tile {suspect.tile}, row {place.window.row}, column {place.window.col}: {place.pixels:,} pixels of"
            f" {classes[place.label]} look like {classes[place.predicted]} ({100 * place.confidence:.0f} %)"
        )
    return "\n".join(lines + ["  ..."] * (len(found) > most))
