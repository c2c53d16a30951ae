"""Small patches of a label map join their surroundings: streamed in bands of rows, with the same result as all at once.

A patch is connected pixels of one class (4 neighbours). One of fewer than `least` pixels takes the label with which it has the
longest common border; of several as long, the lowest label. Only what is large, or has its new label already, counts as a
neighbour, so that patches between other small ones wait for those, from the outside inward, and no small patch is left. Pixels
without a label neither change nor count. Small patches that touch each other and nothing larger stay as they are.

GDAL's sieve is something else: it takes the largest neighbour, however short the common border, and needs the whole map.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label as connected


class _Held(NamedTuple):
    """Rows kept back until the rows below are known: labels, which pixels are final, how many rows are given (0 or 1)."""

    labels: np.ndarray
    final: np.ndarray
    given: int = 0


class _Borders(NamedTuple):
    """Between patches: pairs of their numbers, and how many pixel sides they share. Every pair stands in both orders."""

    source: np.ndarray
    target: np.ndarray
    length: np.ndarray

    def where(self, wanted: np.ndarray) -> "_Borders":
        return _Borders(self.source[wanted], self.target[wanted], self.length[wanted])


def clean(bands: Iterable[np.ndarray], least: float, classes: int) -> Iterator[np.ndarray]:
    """The rows of a label map (bands of h x width, uint8, from top to bottom), cleaned, in bands of other heights.

    least: pixels; smaller patches go. classes: labels from this number on are no classes. Rows wait only until the small
    patches that touch each other there are complete.
    """
    held, gathered = None, []
    for rows, last in _with_last(bands):
        held = held or _Held(rows[:0], np.zeros(rows[:0].shape, bool))
        gathered.append(rows)
        if not last and sum(map(len, gathered)) < len(held.labels):
            continue  # at least as many as wait, so that none is looked at over and over
        labels = np.concatenate([held.labels, *gathered])
        final = np.zeros(labels.shape, bool)
        final[: len(held.final)] = held.final
        labels, waiting = _settle(labels, final, least, classes, last)
        done = int(waiting.any(1).argmax()) if waiting.any() else len(labels)
        if done > held.given:
            yield labels[held.given : done]
        keep, gathered = max(done - 1, 0), []
        held = _Held(labels[keep:], ~waiting[keep:], min(done, 1))


def _with_last(bands: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """(band, whether it is the last)."""
    before = None
    for band in bands:
        if before is not None:
            yield before, False
        before = band
    yield before, True


def _settle(labels: np.ndarray, final: np.ndarray, least: float, classes: int, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """The labels with small patches gone, as far as they are complete, and which pixels wait for the rows below (h x w)."""
    numbers = connected(np.where(labels < classes, labels + 1, 0), background=0, connectivity=1)
    large = np.bincount(numbers.ravel()) >= least
    large[numbers[final]] = True
    large[0] = True  # what has no label
    small = ~large[numbers]
    if not small.any():
        return labels, small
    label = np.zeros(len(large), np.uint8)
    label[numbers.ravel()] = labels.ravel()
    borders = _borders(numbers, small)
    ends = np.zeros(len(large), bool)
    if not last:
        ends[numbers[-1]] = True
    waits = _touching(borders, ends & ~large, large)
    _join(borders.where(~waits[borders.source]), label, large, classes)
    waiting = small & waits[numbers]
    return np.where(small & ~waiting, label[numbers], labels), waiting


def _borders(numbers: np.ndarray, small: np.ndarray) -> _Borders:
    """Those of small patches."""
    count, keys = int(numbers.max()) + 1, []
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = numbers[here], numbers[there]
        some = (small[here] | small[there]) & (a != b) & (a > 0) & (b > 0)
        keys.append(a[some] * count + b[some])
    pairs, length = np.unique(np.concatenate(keys), return_counts=True)
    a, b = pairs // count, pairs % count
    return _Borders(np.concatenate([a, b]), np.concatenate([b, a]), np.concatenate([length, length]))


def _touching(borders: _Borders, some: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Which small patches are connected, possibly through other small ones, to any of the given ones."""
    between = borders.where(~large[borders.source] & ~large[borders.target])
    graph = coo_array((np.ones(len(between.source), bool), (between.source, between.target)), shape=(len(large), len(large)))
    group = connected_components(graph, directed=False)[1]
    chosen = np.zeros(len(large), bool)
    chosen[group[some]] = True
    return chosen[group] & ~large


def _join(borders: _Borders, label: np.ndarray, large: np.ndarray, classes: int) -> None:
    """Give small patches the label of their longest border with a settled one (`large`), in place, layer by layer."""
    settled = large.copy()
    while True:
        borders = borders.where(~settled[borders.source])
        now = borders.where(settled[borders.target])
        if not len(now.source):
            return
        patches, index = np.unique(now.source, return_inverse=True)
        votes = np.bincount(index * classes + label[now.target], now.length, len(patches) * classes)
        label[patches] = votes.reshape(-1, classes).argmax(1)
        settled[patches] = True
