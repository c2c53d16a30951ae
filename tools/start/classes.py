"""Which classes masks and polygons hold: colours or numbers, how much of each, and what speaks against them."""

import colorsys
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tools.base.errors import UserError, listing
from tools.geo import raster, vectors
from tools.labels import masks
from tools.labels.class_table import read_classes
from tools.labels.palette import Colour, codes_of, colour_of
from tools.start.attributes import class_attribute, only_class

COLOURS, NUMBERS = "colours", "numbers"
MOST = 60  # classes
_MOST_VALUES = 1 << 16  # different ones in a mask
_CLEAN = 40  # masks with more colours than this hold mixed ones: JPEG, or interpolation
_LEAST = 0.002  # share of the pixels that makes a colour a class there
_FAR = 60  # in R, G, B: what `--nearest` bridges
_MUCH = 0.05  # share of the pixels that no class has, which should worry a user
_CLOSE = 12  # in R, G, B: how far JPEG leaves most of a plain area's pixels from its colour


@dataclass(frozen=True)
class Look:
    """What one mask holds: pixels by colour (its number) or class number, those without data, and its size."""

    kind: str
    counts: Counter
    empty: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Classes:
    """Classes in the order of their labels, as a config has them.

    signs: the colour or number of each class in the ground truth. options: of convert_gt.py. sources: SOURCE_CLASSES, or
    None. shares: of the pixels, by class. unscored: share of those that no class has. notes: what a user should know.
    """

    names: list[str]
    colours: list[Colour]
    signs: list
    options: list[str]
    shares: list[float]
    sources: Mapping | None = None
    unscored: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def palette(self) -> dict[int, Colour]:
        """Colours by label, with one more for pixels that are not scored."""
        spare = next(c for c in ((0, 0, 0), (128, 128, 128), (255, 0, 255), (1, 1, 1)) if c not in self.colours)
        return dict(enumerate([*self.colours, spare]))


def look_at(files: Sequence[Path]) -> list[Look | UserError]:
    """What each mask holds, or why it cannot be read; every pixel counts."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(_look_or_fault, files), "reading masks", len(files), leave=False))


def _look_or_fault(path: Path) -> Look | UserError:
    try:
        return look(path)
    except UserError as error:
        return error


def look(path: Path) -> Look:
    """What a mask holds. Raises UserError where it cannot be read, or has too many different values to be a mask."""
    with raster.open_raster(path) as file:
        coloured = file.colorinterp[0].name == "palette"
    kind = COLOURS if coloured or raster.inspect(path, raster.NUMBERS).bands > 1 else NUMBERS
    counts, empty = Counter(), 0
    with raster.open_colours(path) if kind == COLOURS else raster.open_numbers(path) as file:
        for strip in masks.strips(*file.shape):
            valid = raster.read_valid(file, strip)
            if kind == COLOURS:
                values = codes_of(raster.read_colours_window(file, strip))
            else:
                values = masks.whole_numbers(raster.read_window(file, strip)[0], str(path))
            found, pixels = np.unique(values[valid], return_counts=True)
            counts.update(dict(zip(found.tolist(), pixels.tolist(), strict=True)))
            empty += int(np.count_nonzero(~valid))
            if len(counts) > _MOST_VALUES:
                raise UserError(f"{path} has more than {_MOST_VALUES:,} different {kind}: it is a picture, no mask.")
        return Look(kind, counts, empty, file.shape)


# -------------------------------------------------------------------------------------------------------------- all masks


def classes_of(looks: Mapping[Path, Look], legends: Sequence[Path] = ()) -> Classes:
    """The classes of masks; legends: CSV files that may name them.

    Raises UserError where the masks are of two kinds, in several palettes, or hold no classes.
    """
    kinds = {kind: [p for p, one in looks.items() if one.kind == kind] for kind in (COLOURS, NUMBERS)}
    if all(kinds.values()):
        raise UserError(
            f"{len(kinds[COLOURS])} masks are in colours ({listing(kinds[COLOURS], 1)}), {len(kinds[NUMBERS])} hold numbers"
            f" ({listing(kinds[NUMBERS], 1)}): make them alike, or begin with those of one kind (--labels)."
        )
    total = sum((one.counts for one in looks.values()), Counter())
    empty = sum(one.empty for one in looks.values())
    if kinds[COLOURS]:
        jpeg = any(path.suffix.lower() in (".jpg", ".jpeg") for path in looks)
        return _of_colours(looks, total, empty, jpeg, legends)
    return _of_numbers(total, empty, legends)


def _check_palettes(looks: Mapping[Path, Look], classes: Sequence[int]) -> None:
    """Raise UserError where masks fall into groups that have no colour in common."""
    groups: list[tuple[set, list[Path]]] = []
    for path, one in looks.items():
        colours, files = set(one.counts) & set(classes), [path]
        for other in [g for g in groups if g[0] & colours]:
            groups.remove(other)
            colours, files = colours | other[0], other[1] + files
        groups.append((colours, files))
    groups = [group for group in groups if group[0]]
    if len(groups) > 1 and all(len(colours) > 1 for colours, _ in groups):
        shown = [f"{listing(map(colour_of, sorted(colours)), 3)} in {listing(files, 1)}" for colours, files in groups]
        raise UserError(
            f"the masks are in {len(groups)} palettes that have no colour in common ({'; '.join(shown[:3])}): draw them in one"
            " palette, or begin with those of one (--labels)."
        )


def _of_colours(looks: Mapping, total: Counter, empty: int, jpeg: bool, legends: Sequence[Path]) -> Classes:
    pixels, notes, options = total.total(), [], ["--from-color"]
    chosen = sorted(total)
    if jpeg:
        chosen = _centres(total)
        total = _by_nearest(total, chosen)
        far = pixels - total.total()
        options += ["--nearest", str(_FAR), "--unknown", "ignore"]
        notes.append("these are masks in JPEG, whose colours are blurred: each takes the nearest class, and"
                     f" {far:,} pixels that are far from all of them are not scored.")  # fmt: skip
        if far > _MUCH * pixels:
            notes.append("that is much: classes of small areas may be missing. Get the masks as PNG, or add them.")
    elif len(total) > _CLEAN:
        chosen = _main_colours(total)
        options += ["--unknown", "ignore"]
        notes.append(f"{len(total) - len(chosen):,} further colours are mixtures, as of interpolation; they are not scored.")
    _check_count(len(chosen), "colour")
    _check_palettes(looks, chosen)
    named = {row.colour: row.name for row in _legend(legends)}
    colours = [colour_of(code) for code in chosen]
    names = _unique([named.get(colour) or _colour_name(colour) for colour in colours])
    shares = [total[code] / (pixels + empty) for code in chosen]
    rare = [f"{name} ({total[code]:,} pixels)" for name, code in zip(names, chosen, strict=True) if total[code] < pixels / 1e4]
    if rare:
        notes.append(f"{listing(rare)}: so few may be slips; take such a class out and convert with --unknown ignore.")
    return Classes(names, colours, colours, options, shares, None, 1 - sum(shares), notes)


def _main_colours(total: Counter) -> list[int]:
    """Colours that are frequent and far from more frequent ones."""
    chosen: list[int] = []
    for code, count in total.most_common(4 * MOST):
        if count >= _LEAST * total.total() and _apart(colour_of(code), map(colour_of, chosen)):
            chosen.append(code)
    return sorted(chosen)


def _centres(total: Counter) -> list[int]:
    """Colours that many others lie close around, as JPEG leaves a class: far from each other, and no mixtures of two classes.

    Of a class most pixels are a few steps from its colour, of a border between two they lie along the way from one to the
    other.
    """
    codes, pixels = (np.array(list(values)) for values in (total.keys(), total.values()))
    colours = np.array([colour_of(int(code)) for code in codes], float)
    rest, chosen = pixels.astype(float), []
    for _ in range(4 * MOST):
        first = int(rest.argmax())
        away = np.linalg.norm(colours - colours[first], axis=1)
        near = rest[away <= _CLOSE].sum()
        if not near:
            break
        if near >= _LEAST * pixels.sum() and near >= 0.4 * rest[away <= 3 * _CLOSE].sum():
            chosen.append(int(codes[first]))
            rest[away < _FAR] = 0
        else:
            rest[away <= _CLOSE] = 0
    return sorted(chosen)


def _by_nearest(total: Counter, chosen: Sequence[int]) -> Counter:
    """Pixels by class colour, as `--nearest` deals them out."""
    if not chosen:
        return Counter()
    codes, pixels = (np.array(list(part)) for part in (total.keys(), total.values()))
    labels = masks.Colours({colour_of(code): i for i, code in enumerate(chosen)}, nearest=_FAR).labels_of(codes)
    return Counter({code: int(pixels[labels == i].sum()) for i, code in enumerate(chosen)})


def _of_numbers(total: Counter, empty: int, legends: Sequence[Path]) -> Classes:
    found, pixels = sorted(total), total.total() + empty
    below = [n for n in found if n < 0]
    unscored = below if len(found) - len(below) > 1 else []
    unscored += [255] if len(found) - len(unscored) > 2 and 255 in found else []
    chosen = [n for n in found if n not in unscored]
    _check_count(len(chosen), "number")
    named = {row.number: row.name for row in _legend(legends)}
    options, sources, notes = ["--from-index"], None, []
    names = _unique([named.get(n) or f"class {n}" for n in chosen])
    binary = len(chosen) == 2 and chosen[0] == 0 and chosen[1] != 1
    names = ["background", "foreground"] if binary and not named else names
    if binary and not unscored:  # --foreground makes all else the first class, what is not scored too
        options += ["--foreground", str(chosen[1])]
    elif chosen != list(range(len(chosen))):
        sources = dict(zip(names, chosen, strict=True))
    if unscored:
        options += ["--unknown", "ignore"]
        notes.append(f"{listing(unscored)} is taken for 'not scored', as it usually means.")
    shares = [total[n] / pixels for n in chosen]
    return Classes(names, colours_for(names), chosen, options, shares, sources, max(0.0, 1 - sum(shares)), notes)


def _check_count(count: int, what: str) -> None:
    if count < 2:
        raise UserError(f"the masks hold {count or 'no'} {what}{'' if count == 1 else 's'}: two classes are needed at least.")
    if count > MOST:
        raise UserError(f"the masks hold {count} different {what}s: are they pictures, or numbers of objects?")


def _legend(files: Sequence[Path]) -> list:
    """The lines of the first CSV that is a table of classes."""
    for file in files:
        try:
            if rows := read_classes(file):
                return rows
        except UserError:
            continue  # another kind of CSV
    return []


def _colour_name(colour: Colour) -> str:
    """A word for a colour, and its number: 'blue 0000ff'."""
    known = {
        "black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "red": (230, 20, 20), "green": (20, 180, 20),
        "blue": (20, 20, 230), "yellow": (240, 230, 40), "cyan": (20, 230, 230), "magenta": (230, 20, 230),
        "orange": (240, 150, 30), "brown": (130, 80, 30), "purple": (110, 20, 170), "sky blue": (120, 190, 230),
    }  # fmt: skip
    word = min(known, key=lambda name: np.linalg.norm(np.subtract(known[name], colour)))
    return f"{word} {bytes(colour).hex()}"


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that stand there already."""
    found: list[str] = []
    for name in names:
        again = sum(one == name or one.startswith(f"{name} (") for one in found)
        found.append(f"{name} ({again + 1})" if again else name)
    return found


_USUAL: dict[Colour, str] = {  # what maps of land cover show things in, by words of their names
    (255, 255, 255): r"background|elsewhere|other|unlabell?ed|nothing",
    (200, 50, 45): r"building|house|roof|built",
    (150, 150, 150): r"road|street|impervious|paved|pavement|asphalt|concrete|rail|railway",
    (30, 110, 200): r"water|river|lake|sea|pond|pool",
    (20, 110, 45): r"tree|forest|wood|woodland|canopy",
    (150, 205, 95): r"low vegetation|grass|grassland|lawn|meadow|pasture|rangeland|vegetation|shrub|green",
    (240, 215, 110): r"crop|cropland|agriculture|agricultural|farmland|field|arable",
    (175, 130, 85): r"bare|barren|soil|sand|ground|land",
    (255, 200, 0): r"car|vehicle",
}


def colours_for(names: Sequence[str]) -> list[Colour]:
    """A colour for each class: the usual one where its name says what it is, else one that is easy to tell from the others."""
    found: list[Colour] = []
    spread = _spread(2 * len(names) + len(_USUAL))
    for name in names:
        said = [c for c, words in _USUAL.items() if re.search(rf"\b({words})s?\b", name.lower().replace("_", " "))]
        apart = (c for c in spread if _apart(c, [*found, *_USUAL]))
        found.append(next(c for c in (*said, *apart, *spread) if c not in found))
    return found


def _apart(colour: Colour, others: Iterable[Colour]) -> bool:
    return all(np.linalg.norm(np.subtract(colour, other)) >= _FAR for other in others)


def _spread(count: int) -> list[Colour]:
    """Colours that are easy to tell apart."""
    hues = [(0.58 + 0.618034 * i) % 1 for i in range(count)]
    found = [colorsys.hsv_to_rgb(hue, 0.85, 0.95 if i % 2 == 0 else 0.7) for i, hue in enumerate(hues)]
    return [tuple(round(255 * part) for part in rgb) for rgb in found]


# --------------------------------------------------------------------------------------------------------------- polygons


def of_polygons(path: Path) -> tuple[Classes, str | None]:
    """The classes of a vector file, 'background' first, and the attribute that names them (None where all are of one).

    Shares are those of the polygons' own area. Raises UserError where it is no file of polygons.
    """
    import shapely

    features, _ = vectors.read_polygons(path)
    areas = [shapely.geometry.shape(f.geometry).area for f in features]
    options, by_value, notes = ["--from-vector"], Counter(), []
    columns = [f.properties for f in features]
    attribute = class_attribute(columns, MOST)
    values = attribute.values if attribute else [only_class(columns) or path.stem] * len(features)
    for value, area in zip(values, areas, strict=True):
        by_value[value] += area
    if without := attribute.values.count(None) if attribute else 0:
        options += ["--unknown", "ignore"]
        del by_value[None]
        notes.append(f"{without:,} of {len(features):,} polygons have no '{attribute.name}': what they cover is not scored.")
    if attribute and attribute.others:
        notes.append(
            f"{listing(attribute.others)} could name classes as well: if so, take '{attribute.name}' out of the file, or edit"
            " the classes and --attribute."
        )
    signs = sorted(by_value)
    numbers = not isinstance(signs[0], str)
    names = [f"{attribute.name} {n}" for n in signs] if numbers else signs
    ground = "background" if "background" not in names else "elsewhere"
    shares = [0.0, *(by_value[sign] / (sum(areas) or 1) for sign in signs)]
    sources = dict(zip(names, signs, strict=True)) if numbers else None
    found = Classes(
        [ground, *names], colours_for([ground, *names]), [None, *names], options, shares, sources,
        max(0.0, 1 - sum(shares)) if without else 0.0, notes,
    )  # fmt: skip
    return found, attribute and attribute.name
