"""The page of inference's report: everything that it shows, computed from the folder's files, and the page itself.

inference.py writes it at its end; `python -m tools.report FOLDER` makes it again from what lies in the folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.base.errors import UserError
from tools.base.folders import read_details, whole_file
from tools.base.forms import Form, read_json
from tools.geo import raster
from tools.geo.windows import Window
from tools.html.images import label_picture, photograph
from tools.html.modules import modules
from tools.html.template import render
from tools.labels import pictures, scores
from tools.maps import class_statistics
from tools.report.geography import Mosaic, Place, mosaic

REPORT = "report.html"
KINDS = {"labels": "full ground truth", "labels_eroded": "eroded ground truth"}
MOST_ON_MAP, MOST_ON_SHEET, MOST_ROWS, MOST_WINDOWS = 200, 24, 500, 12  # of tiles, tiles, tiles, and windows that are shown
_ALL_THUMBNAILS = 1_500_000  # pixels, of all images in the overview together, and of all label maps
_THUMBNAIL = (40, 800)  # pixels, the longer side of each: at least, at most
_NOT_SCORED = (128, 128, 128)  # drawn so where the colour table has no colour
_SHARE = (float, None)
_NAMES = ("mean_f1", "mean_iou", "mean_f1_without_ignored", "mean_iou_without_ignored", "overall_accuracy", "kappa")
_LATER = (  # scores that an earlier version did not write
    "pixel_accuracy", "mean_accuracy", "mean_dice", "mean_accuracy_without_ignored", "mean_dice_without_ignored",
    "frequency_weighted_iou", "frequency_weighted_iou_without_ignored",
)  # fmt: skip
_SCORES = {  # what scores.json says of all tiles, or of one
    **dict.fromkeys(_NAMES, _SHARE), **dict.fromkeys([f"{name}?" for name in _LATER], _SHARE), "pixels": int,
    **{name: {str: _SHARE} for name in ("f1", "iou", "recall?", "precision?", "dice?")}, "never_predicted?": [str],
    "confusion": [[int]],
}  # fmt: skip
_OF_A_KIND = {"all": _SCORES, "tiles": {str: _SCORES}, "seen?": [str], "unseen?": _SCORES}
_STATISTICS = {"tiles": {str: class_statistics.FORM}, "all": {"classes": class_statistics.FORM["classes"]}}
_DETAILS = {name + "?": {str: {str: str}} for name in ("tiles", "truths")} | {"failed?": {str: str}, "made?": str}
_TEMPLATE = Path(__file__).with_name("report.html.j2")
_VIEWER = Path(__file__).with_name("viewer.js")
_OF_TILES = ("tiles", "truths", "files", "failed", "contents")  # of details.json


def write_report(folder: str | Path) -> Path:
    """Write report.html into an output folder of inference.py, from its JSON files and label maps; its path comes back.

    The images are read where details.json says they are; where they are no longer there, the page does without.
    Raises UserError where the folder is none of inference.py's.
    """
    folder = Path(folder)
    results = read(folder)
    page = render(_TEMPLATE, results=results, modules=modules(_VIEWER), **parts(results))
    with whole_file(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / REPORT


# --------------------------------------------------------------------------------------------------------- what is there


@dataclass(frozen=True)
class Results:
    """What an output folder holds: its JSON files as they are, and the classes with their colours (r, g, b).

    `colours` has one more than there are classes: that of pixels without a label.
    """

    folder: Path
    details: dict[str, Any]
    statistics: dict[str, Any]
    scores: dict[str, Any]
    classes: list[str]
    colours: list[tuple[int, int, int]]

    @property
    def tiles(self) -> list[str]:
        """The names of the tiles."""
        return list(self.statistics["tiles"])

    def labels(self, tile: str) -> Path:
        """The label map of a tile."""
        return self.folder / f"{tile}_labels.tif"

    def part(self, tile: str) -> dict[str, int] | None:
        """The part of a tile that its map shows, where it is not all of it."""
        return self.statistics["tiles"][tile].get("part")

    def image(self, tile: str) -> str | None:
        """The file of a tile's first modality, where it is known and at hand."""
        return _at_hand(next(iter(self.details.get("tiles", {}).get(tile, {}).values()), None))

    def truth(self, tile: str) -> str | None:
        """The full ground truth of a tile, where it is known and at hand."""
        return _at_hand(self.details.get("truths", {}).get(tile, {}).get("labels"))


def read(folder: Path) -> Results:
    """What an output folder of inference.py holds. Raises UserError where it is something else."""
    details = read_details(folder, _DETAILS)
    if details.get("made by") != "inference.py":
        raise UserError(f"{folder} was made by {details.get('made by')}: a report is made of an output folder of inference.py.")
    statistics = _read_json(folder, "statistics.json", _STATISTICS)
    if not statistics["tiles"]:
        raise UserError(f"{folder} holds no finished tile, so there is nothing to report: label some with inference.py.")
    scores = _read_json(folder, "scores.json", {str: _OF_A_KIND}) if (folder / "scores.json").exists() else {}
    classes = list(statistics["all"]["classes"])
    _check_sizes(folder, scores, len(classes))
    colours = _colours(folder / f"{next(iter(statistics['tiles']))}_labels.tif", len(classes))
    return Results(folder, details, statistics, scores, classes, colours)


def _check_sizes(folder: Path, scores: Mapping[str, Any], classes: int) -> None:
    """Raise UserError where scores are of other classes than the statistics."""
    for found in scores.values():
        for report in (found["all"], *found["tiles"].values()):
            if {len(report["confusion"]), *map(len, report["confusion"])} != {classes}:
                raise UserError(
                    f"{folder / 'scores.json'} is of {len(report['confusion'])} classes, statistics.json of {classes}: make"
                    f" {folder} again with inference.py --overwrite."
                )


def _read_json(folder: Path, name: str, form: Form) -> dict[str, Any]:
    if not (folder / name).exists():
        raise UserError(f"{folder} has no {name}: make it again with inference.py --overwrite.")
    return read_json(folder / name, form, f"make {folder} again with inference.py --overwrite")


def _colours(labels: Path, classes: int) -> list[tuple[int, int, int]]:
    with raster.open_raster(labels) as file:
        table, no_label = file.colormap(1), file.nodata
    return [tuple(table[i][:3]) for i in range(classes)] + [tuple(table.get(no_label, _NOT_SCORED)[:3])]


def _at_hand(path: str | None) -> str | None:
    """The path, where a raster can be opened there."""
    if path is None:
        return None
    try:
        raster.inspect(path)
    except UserError:
        return None
    return path


# ------------------------------------------------------------------------------------------------- the parts of the page


def parts(results: Results) -> dict[str, Any]:
    """What the template shows, by name; a part is None or empty where the folder has nothing for it."""
    thumbnails, places = overview(results)
    kinds = {
        KINDS.get(kind, kind): found | {"all": with_all_scores(results, found["all"])} for kind, found in results.scores.items()
    }
    return {
        "settings": settings(results.details),
        "failed": results.details.get("failed", {}),
        "thumbnails": thumbnails,
        "map": places,
        "kinds": kinds,
        "confusions": {kind: confusions(found["all"], results.classes) for kind, found in kinds.items()},
        "area": area_unit(results.statistics["all"]["classes"]),
        "zones": results.statistics.get("zones", [])[:MOST_ROWS],
        "rows": results.tiles[:MOST_ROWS],
        "seen": {tile for found in kinds.values() for tile in found.get("seen", [])},
        "sizes": {tile: pixel_size(raster.inspect(results.labels(tile))) for tile in results.tiles[:MOST_ROWS]},
        "histogram": histogram(results.statistics["tiles"]),
        "windows": [show_window(results, tile, block) for tile, block in worst_blocks(results)],
    }


def with_all_scores(results: Results, report: Mapping[str, Any]) -> dict[str, Any]:
    """A report of scores, with those that an earlier version did not write, from its confusion matrix.

    Which classes were ignored is not known then, so means without them are None.
    """
    found = scores.report(np.array(report["confusion"]), results.classes)
    return {name: None if name.endswith("_without_ignored") else value for name, value in found.items()} | dict(report)


def settings(details: Mapping[str, Any]) -> dict[str, str]:
    """The settings of details.json by name, in words; what it says of single tiles is left out."""
    return {name.replace("_", " "): in_words(value) for name, value in details.items() if name not in _OF_TILES}


def in_words(value: Any) -> str:
    """[128, 64] as 128 × 64, False as "no", nothing as "none"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return (" × " if all(isinstance(v, int) for v in value) else ", ").join(map(str, value))
    return "none" if value is None else str(value)


def confusions(report: Mapping[str, Any], classes: Sequence[str], most: int = 5) -> list[tuple[str, str, int, float]]:
    """The most frequent errors: (true class, labelled as, pixels, share of the true class), the most frequent first."""
    matrix = np.array(report["confusion"], float)
    off = matrix * (1 - np.eye(len(matrix)))
    pairs = [np.unravel_index(i, off.shape) for i in np.argsort(-off, axis=None, kind="stable")[:most]]
    return [(classes[i], classes[j], int(off[i, j]), off[i, j] / matrix[i].sum()) for i, j in pairs if off[i, j]]


def area_unit(classes: Mapping[str, Mapping]) -> tuple[str, float] | None:
    """(unit, square metres in it) that makes the areas of the classes easy to read; None where areas are not known."""
    areas = [of_class.get("area_m2") for of_class in classes.values()]
    if None in areas:
        return None
    return ("m²", 1) if sum(areas) < 1e5 else ("ha", 1e4) if sum(areas) < 1e8 else ("km²", 1e6)


def pixel_size(about: raster.Raster) -> str | None:
    """The size of a pixel on the ground with its unit, such as "0.09 m"; None where it is not known."""
    if about.transform is None:
        return None
    a, b, _, d, e, _ = about.transform[:6]
    sizes = [np.format_float_positional(size, 4, fractional=False, trim="-") for size in (np.hypot(a, d), np.hypot(b, e))]
    unit = {"metre": "m", "degree": "°"}.get(about.crs.units_factor[0], about.crs.units_factor[0]) if about.crs else ""
    return f"{sizes[0] if sizes[0] == sizes[1] else ' × '.join(sizes)} {unit}".strip()


@dataclass(frozen=True)
class Histogram:
    """Pixels by confidence. right, wrong: of the scored pixels, None without ground truth; edges: one more than bins."""

    edges: list[float]
    pixels: np.ndarray
    right: np.ndarray | None
    wrong: np.ndarray | None

    @property
    def accuracy(self) -> list[float | None]:
        """The share of right pixels in each bin, None where it has no scored pixel."""
        counts = zip(self.right.tolist(), self.wrong.tolist(), strict=True)
        return [right / (right + wrong) if right + wrong else None for right, wrong in counts]

    @property
    def balance(self) -> tuple[float, float, float]:
        """Of the scored pixels: mean confidence, by the bins' middles; accuracy; and how far they lie apart in a bin.

        The last is the expected calibration error: the mean over the pixels of |accuracy - confidence| of their bin
        (Guo et al. 2017, On Calibration of Modern Neural Networks).
        """
        scored = self.right + self.wrong
        middles = (np.array(self.edges[1:]) + self.edges[:-1]) / 2
        gaps = np.abs(self.right - middles * scored).sum() / scored.sum()
        return (middles * scored).sum() / scored.sum(), self.right.sum() / scored.sum(), gaps


def histogram(tiles: Mapping[str, Mapping]) -> Histogram | None:
    """The confidence histograms of all tiles as one; right and wrong pixels are of the tiles with ground truth."""
    found = [about["confidence_histogram"] for about in tiles.values() if about.get("confidence_histogram")]
    if not found:
        return None
    scored = [h for h in found if h["right"] and sum(h["right"]) + sum(h["wrong"])]
    right, wrong = ([np.sum([h[name] for h in scored], 0) for name in ("right", "wrong")]) if scored else (None, None)
    return Histogram(found[0]["edges"], np.sum([h["pixels"] for h in found], 0), right, wrong)


def worst_blocks(results: Results) -> list[tuple[str, dict]]:
    """The worst blocks of all tiles, with the tile's name, by the share of wrong pixels.

    Where no tile has ground truth they are those that the net is least sure of.
    """
    blocks = [(tile, block) for tile, about in results.statistics["tiles"].items() for block in about["blocks"]]
    scored = [found for found in blocks if found[1]["scored"]]
    if scored:
        return sorted(scored, key=lambda found: -found[1]["wrong"] / found[1]["scored"])[:MOST_WINDOWS]
    return sorted(blocks, key=lambda found: found[1]["mean_confidence"])[:MOST_WINDOWS]


# --------------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Thumbnail:
    """A tile in the overview: its size in pixels, and image (None where it is not at hand) and label map as data URIs."""

    tile: str
    height: int
    width: int
    image: str | None
    labels: str


def overview(results: Results) -> tuple[list[Thumbnail], Mosaic | None]:
    """The tiles, reduced, and where they lie on one map, or None where they have no such places."""
    about = {tile: raster.inspect(results.labels(tile)) for tile in results.tiles[:MOST_ON_MAP]}
    places = mosaic({tile: place(a) for tile, a in about.items()})
    shown = list(about)[: None if places else MOST_ON_SHEET]
    side = int(np.clip((_ALL_THUMBNAILS / len(shown)) ** 0.5, *_THUMBNAIL))
    found = []
    for tile in tqdm(shown, "report", unit="tile", leave=False, delay=2):
        labels = label_picture(raster.read_small(results.labels(tile), side, role=raster.NUMBERS)[0], results.colours)
        image = small_image(results.image(tile), side, results.part(tile))
        found.append(Thumbnail(tile, about[tile].height, about[tile].width, image, labels))
    return found, places


def place(about: raster.Raster) -> Place:
    """A raster's size and place on Earth."""
    return Place(about.height, about.width, about.transform, about.crs)


def small_image(path: str | None, side: int, part: Mapping[str, int] | None = None) -> str | None:
    """An image as a data URI, no side longer than `side` pixels; read larger, so that the reduced one is smooth.

    part: of the image, where it is not all of it that is shown.
    """
    if path is None:
        return None
    window = None
    if part:
        about = raster.inspect(path)
        window = _in_other_pixels(part, (about.height / part["of_height"], about.width / part["of_width"]))
    picture = Image.fromarray(pictures.as_picture(raster.read_small(path, 3 * side, 3, window)))
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return photograph(picture)


def show_window(results: Results, tile: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of one of the worst windows: its place, its numbers, and crops as data URIs (or None)."""
    about = raster.inspect(results.labels(tile))
    predicted = _crop(results.labels(tile), block, about, role=raster.NUMBERS)[0]
    image, truth = results.image(tile), results.truth(tile)
    part = results.part(tile)
    truth = None if truth is None else _crop(truth, block, about, part, raster.NUMBERS)[0]
    centre = None
    if about.transform is not None:
        centre = place(about).at(block["col"] + block["width"] / 2, block["row"] + block["height"] / 2)
    return dict(block) | {
        "tile": tile, "centre": centre,
        "image": None if image is None else photograph(Image.fromarray(pictures.as_picture(_crop(image, block, about, part)))),
        "truth": None if truth is None else label_picture(truth, results.colours),
        "labels": label_picture(predicted, results.colours),
        "error": None if truth is None else main_error(truth, predicted, results.classes),
    }  # fmt: skip


def main_error(truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> tuple[str, str, int] | None:
    """(true class, labelled as, pixels) of the most frequent error in two label arrays of one shape; None without any."""
    wrong = (truth != predicted) & (truth < len(classes)) & (predicted < len(classes))
    if not wrong.any():
        return None
    pairs, counts = np.unique(np.stack([truth[wrong], predicted[wrong]]), axis=1, return_counts=True)
    true, labelled = pairs[:, counts.argmax()]
    return classes[true], classes[labelled], int(counts.max())


def _crop(
    path: str | Path,
    block: Mapping[str, int],
    about: raster.Raster,
    part: Mapping[str, int] | None = None,
    role: str = raster.IMAGE,
) -> np.ndarray:
    """A block of a label map as another file shows it, perhaps in other pixels: bands x h x w, in the map's pixels.

    part: of the other file, where the map does not show all of it. role: see views.plain.
    """
    shape = (block["height"], block["width"])
    if part:
        block = block | {"row": block["row"] + part["row"], "col": block["col"] + part["col"]}
    height, width = (part["of_height"], part["of_width"]) if part else (about.height, about.width)
    with (raster.open_numbers if role == raster.NUMBERS else raster.open_image)(path) as file:
        area = _in_other_pixels(block, (file.height / height, file.width / width))
        return raster.read_part(file, area, lambda window: file.read(window=window, out_shape=(file.count, *shape)))


def _in_other_pixels(block: Mapping[str, int], scale: tuple[float, float]) -> Window:
    """A block in a file that has so many times as many pixels, downward and to the right."""
    return Window(*(round(block[name] * f) for name, f in zip(("row", "col", "height", "width"), 2 * scale, strict=True)))
