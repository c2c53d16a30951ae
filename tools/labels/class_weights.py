"""How much each class counts in the loss, from how often it stands in the database's labels."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.base.errors import UserError


@dataclass(frozen=True)
class Counts:
    """Of each class: `pixels` that bear it, and `around`, the labelled pixels of all records in which it occurs (int64)."""

    pixels: np.ndarray
    around: np.ndarray


def count(records: Iterable[np.ndarray], classes: int, ignored: Collection[int]) -> Counts:
    """The counts of label records (any shape, whole numbers). Ignored classes, and labels beyond the classes, count 0."""
    pixels, around = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for labels in records:
        own = count_record(labels, classes, ignored)
        pixels += own
        around += np.where(own > 0, own.sum(), 0)
    return Counts(pixels, around)


def count_record(labels: np.ndarray, classes: int, ignored: Collection[int]) -> np.ndarray:
    """Pixels of each class in one record."""
    own = np.bincount(np.asarray(labels).ravel().astype(np.int64), minlength=classes)[:classes]
    own[list(ignored)] = 0
    return own


def inverse(counts: Counts) -> np.ndarray:
    """All labelled pixels / (classes that occur x pixels of the class): each class counts as much in all as any other."""
    return counts.pixels.sum() / (len(counts.pixels) * counts.pixels)


def median(counts: Counts) -> np.ndarray:
    """Median frequency / frequency of the class, among the pixels of those records that have it.

    Eigen and Fergus, arXiv 1411.4734; SegNet's weights.
    """
    frequency = counts.pixels / counts.around
    return np.median(frequency) / frequency


def effective(counts: Counts) -> np.ndarray:
    """(1 - beta) / (1 - beta^pixels), scaled to a mean of 1: Cui et al., arXiv 1901.05555, "effective number of samples".

    There beta is 0.9999, for thousands of images per class: about 10,000 of them differ, further ones repeat them. Pixels come
    in numbers for which that would be 1 for every class, so beta grows with the database: 1 - classes / pixels, that is an even
    share of the pixels differ. Rare classes get weights near `inverse`, common ones differ less than there.
    """
    different = counts.pixels.sum() / len(counts.pixels)
    if different <= 1:
        return np.ones(len(counts.pixels))
    weights = 1 / -np.expm1(counts.pixels * np.log1p(-1 / different))
    return weights / weights.mean()


def are_weights(value: Any) -> bool:
    """Whether something is a list of weights: numbers of 0 or more, one above 0 at least."""
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < math.inf for w in value) and any(value)


CLASS_WEIGHTS = {"none": None, "inverse": inverse, "median": median, "effective": effective}


def class_weights(
    kind: str | Sequence[float], records: Iterable[np.ndarray], classes: int, ignored: Collection[int]
) -> list[float] | None:
    """The weight of each class, by the formula called `kind`, or the numbers that are given instead; None for "none".

    A class that does not occur has no pixel that a weight could apply to: it gets 0, as the ignored ones do, and stands in no
    mean or median. For "none" only so many records are read as it takes to find a labelled pixel. Raises UserError where
    there is none in all of them.
    """
    if not isinstance(kind, str) and len(kind) != classes:
        raise UserError(f"CLASS_WEIGHTS has {len(kind)} numbers, but there are {classes} classes: give one for each.")
    if kind == "none" or not isinstance(kind, str):
        there = any(count_record(labels, classes, ignored).any() for labels in records)
    else:
        counts = count(records, classes, ignored)
        there = counts.pixels > 0
    if not np.any(there):
        raise UserError(
            "no pixel of the database is labelled with a class that counts, so that nothing can be learned: look at the label"
            " arrays, label_values and IGNORE_LABEL, then make patches and database again."
        )
    if kind == "none":
        return None
    if not isinstance(kind, str):
        return [float(w) for w in kind]
    weights = np.zeros(classes)
    weights[there] = CLASS_WEIGHTS[kind](Counts(counts.pixels[there], counts.around[there]))
    return weights.tolist()
