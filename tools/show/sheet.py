"""Samples side by side on one sheet, and beside them the classes with their colours and shares."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tools.labels import pictures
from tools.labels.palette import Palette
from tools.show.samples import Sample, Source

RARE = 1 / 10_000  # of the labelled pixels
_UNKNOWN = (160, 160, 160)  # a label that has no colour
_WARNED = "#b30000"

# ----------------------------------------------------------------------------------------------------------------- shares


def shares(counts: np.ndarray, palette: Palette) -> tuple[np.ndarray, float]:
    """(of each class among the labelled pixels, of pixels without a label among all), 0 to 1, from the counts per label."""
    labelled = counts[: palette.classes]
    return labelled / max(labelled.sum(), 1), 1 - labelled.sum() / max(counts.sum(), 1)


def find_warnings(counts: np.ndarray, palette: Palette) -> list[str]:
    """What a person should know of the classes before training."""
    labelled, total = counts[: palette.classes], counts[: palette.classes].sum()
    if not total:
        return ["no pixel has a label."]
    absent = [name for name, n in zip(palette.names, labelled, strict=True) if not n]
    found = [f"no pixel is {name}: a net cannot learn it." for name in absent]
    for name, n in zip(palette.names, labelled, strict=True):
        if 0 < n < RARE * total:
            found.append(f"only {n:,} of {total:,} labelled pixels are {name}, fewer than one in 10,000.")
    return found


def percent(share: float) -> str:
    """33.1 %, 0.0042 %."""
    return f"{100 * share:.{1 if share >= 0.001 or not share else 4}f} %"


def as_text(counts: np.ndarray, palette: Palette) -> str:
    """The shares, a line per class."""
    by_class, unlabelled = shares(counts, palette)
    width = max(map(len, [*palette.names, "not scored"]))
    lines = [f"  {name:<{width}}  {percent(s):>9}" for name, s in zip(palette.names, by_class, strict=True)]
    return "\n".join([*lines, f"  {'not scored':<{width}}  {percent(unlabelled):>9} of all pixels"])


# ------------------------------------------------------------------------------------------------------------ the picture

_GAP, _BETWEEN, _NAME, _TOP, _SIDE, _MARGIN = 0.05, 0.22, 0.2, 0.75, 3.3, 0.2  # inches
_FEW, _LARGE, _SMALL = 4, 2.6, 1.5  # up to so many samples have large panels; inches of both
_SHAPE = 1.4  # width to height that all samples together should have


def sheet(samples: Sequence[Sample], counts: np.ndarray, source: Source, title: str, together: int = 1) -> Figure:
    """Samples, modalities and labels side by side, in columns; to their right the classes with their shares, and warnings.

    counts: pixels per label (256) of all that the source has. together: so many samples, one after the other, stand in one row.
    """
    warnings = find_warnings(counts, source.palette)
    panels, panel = len(source.modalities) + 1, _LARGE if len(samples) <= _FEW else _SMALL
    card = panels * panel + (panels - 1) * _GAP
    tall = panel * max(np.clip(s.labels.shape[0] / s.labels.shape[1], 0.3, 3) for s in samples)
    columns = together * _columns(len(samples) // together, together * card / (tall + _NAME))
    rows = -(-len(samples) // columns)
    lines = [line for warning in warnings for line in textwrap.wrap(warning, 46)]
    side = 0.3 * (source.palette.classes + 3) + 0.17 * len(lines)
    figure = Figure(
        figsize=(columns * (card + _BETWEEN) + _SIDE + 2 * _MARGIN, _TOP + max(rows * (tall + _NAME), side) + _MARGIN)
    )
    width, height = figure.get_size_inches()
    figure.text(_MARGIN / width, 1 - 0.3 / height, title, fontsize=12, va="center", weight="bold")
    for i, sample in enumerate(samples):
        corner = _MARGIN + i % columns * (card + _BETWEEN), height - _TOP - i // columns * (tall + _NAME)
        _card(figure, sample, source, corner, (panel, tall), heading=i < columns)
    _side(figure, counts, lines, source.palette, width - _SIDE - _MARGIN / 2)
    return figure


def _columns(samples: int, shape: float) -> int:
    """How many columns bring samples of this width to height closest to the shape that all should have."""
    return min(range(1, samples + 1), key=lambda n: abs(np.log(n * shape / -(-samples // n) / _SHAPE)))


def _card(figure, sample: Sample, source: Source, corner: tuple, size: tuple, heading: bool) -> None:
    """One sample: its modalities, its labels, and its name below. corner: left and top; size: of a panel; all in inches."""
    (width, height), (left, top), (panel, tall) = figure.get_size_inches(), corner, size
    shown = {_heading(m, image): picture(image, source.ranges.get(m)) for m, image in sample.images.items()}
    shown["labels"] = label_picture(sample.labels, source.palette)
    for i, (name, image) in enumerate(shown.items()):
        x = left + i * (panel + _GAP)
        axis = figure.add_axes((x / width, (top - tall) / height, panel / width, tall / height), anchor="N")
        axis.imshow(image, interpolation="nearest" if max(image.shape[:2]) < 300 else "antialiased")
        axis.set(xticks=[], yticks=[])
        if heading:
            axis.set_title(name, fontsize=9, pad=3)
    figure.text(left / width, (top - tall - 0.09) / height, sample.name, fontsize=6.5, va="center", color="#525252")


def _heading(modality: str, image: np.ndarray) -> str:
    return modality if len(image) in (1, 3) else f"{modality}, bands 1-{min(3, len(image))} of {len(image)}"


def _side(figure, counts: np.ndarray, lines: list[str], palette: Palette, left: float) -> None:
    """Colours, names and shares of the classes from top to bottom, and the lines of the warnings. left: inches."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((left / width, 0, _SIDE / width, 1))
    axis.set(xlim=(0, _SIDE), ylim=(0, height))
    axis.axis("off")
    by_class, unlabelled = shares(counts, palette)
    warned = {name for name, n in zip(palette.names, counts, strict=False) if n < RARE * counts[: palette.classes].sum()}
    y = height - _TOP
    axis.text(0, y + 0.08, "share of the labelled pixels", fontsize=9, va="bottom")
    for label, (name, share) in enumerate(zip(palette.names, by_class, strict=True)):
        y -= 0.3
        _class(axis, y, palette.colours[label], name, share, share / max(by_class.max(), 1e-9), name in warned)
    y -= 0.36
    _class(axis, y, palette.colours.get(palette.no_label, (0, 0, 0)), "not scored, of all pixels", unlabelled, 0, False)
    axis.text(0, y - 0.15, "\n".join(lines), fontsize=8, va="top", color=_WARNED, linespacing=1.3)


def _class(axis, y: float, colour: Sequence[int], name: str, share: float, bar: float, warned: bool) -> None:
    """A line of the legend: swatch, name, bar (0 to 1 of its room) and share."""
    face, ink = np.array(colour) / 255, _WARNED if warned else "black"
    axis.add_patch(Rectangle((0, y), 0.2, 0.2, facecolor=face, edgecolor="#636363", linewidth=0.7))
    axis.text(0.28, y + 0.1, name, fontsize=9, va="center", color=ink)
    if bar:
        axis.add_patch(Rectangle((1.75, y + 0.03), 0.85 * bar, 0.14, facecolor=face, edgecolor="#636363", linewidth=0.7))
    axis.text(_SIDE - 0.05, y + 0.1, percent(share), fontsize=9, va="center", ha="right", color=ink)


def picture(image: np.ndarray, limits: tuple[list[float], list[float]] | None) -> np.ndarray:
    """h x w x 3 uint8 of bands x h x w: bytes as they are, other numbers stretched, alike for all where `limits` are known.

    limits: per band, what is drawn black and what white.
    """
    if image.dtype == np.uint8 or limits is None:
        return pictures.as_picture(image)
    low, high = (np.array(values, float)[:, None, None] for values in limits)
    stretched = np.clip((np.where(np.isfinite(image), image, low) - low) / np.maximum(high - low, 1e-6), 0, 1)
    return pictures.as_picture((255 * stretched).astype(np.uint8))


def label_picture(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """h x w x 3 uint8: the palette's colours; black where there is no label, grey where the palette does not know it."""
    table = np.full((256, 3), _UNKNOWN, np.uint8)
    table[palette.no_label] = 0
    for label, colour in palette.colours.items():
        table[label] = colour
    return table[labels]
