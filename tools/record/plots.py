"""Pictures of a run: the curves of loss and scores, and the net as a drawing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import nn

from nets.net import Box
from tools.labels.pictures import save

_KIND_COLOURS = {"data": "#d9d9d9", "conv": "#9ecae1", "pool": "#fdae6b", "unpool": "#a1d99b"}
_OTHER_COLOUR = "#dadaeb"
_APART, _MARGIN = 8.4, 4.5  # of the middle of a box from the next column, and from the picture's edge
_BATCHES, _TRAINING, _VALIDATION, _ENTROPY = "#c6dbef", "#08519c", "#d94801", "#756bb1"  # colours of curves


def loss_plot(
    path: Path, losses: Sequence[float], training: Sequence[Mapping], validation: Sequence[Mapping], title: str
) -> None:
    """Write the curves of a run; losses: per iteration, from the first on, the others as for `curves`."""
    save(curves(training, validation, title, losses), path, bottom=0)


def curves(
    training: Sequence[Mapping], validation: Sequence[Mapping], title: str, losses: Sequence[float] | None = None
) -> Figure:
    """Loss, mean IoU and learning rate over the iterations, one above the other, of training and of validation.

    training: "iteration", "loss", "rate" and "mean_iou" of some of them, as metrics.json has them. validation:
    "iteration", "loss" (cross entropy), "mean_iou_without_ignored" and, where another loss is trained, "trained_loss", beside
    which cross entropy has an axis of its own. What is None is left out. losses: per iteration, if they are known.
    """
    steps = _points(training, "loss") if losses is None else (range(1, len(losses) + 1), losses)
    figure = Figure(figsize=(8, 8))
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.2))
    trained = _points(validation, "trained_loss")
    _draw_losses(axes[0], steps, trained if trained[0] else _points(validation, "loss"), bool(trained[0]))
    if trained[0]:
        _draw_entropy(axes[0].twinx(), _points(validation, "loss"))
    _draw_scores(axes[1], _points(training, "mean_iou"), _points(validation, "mean_iou_without_ignored"))
    axes[2].plot(*_points(training, "rate"), color=_TRAINING, drawstyle="steps-pre")
    axes[2].set(ylabel="learning rate", xlabel="iteration", ylim=(0, None))
    axes[0].set_title(title)
    for axis in axes:
        axis.grid(color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure


def _draw_entropy(axis, validation: tuple[list, list]) -> None:
    """The cross entropy of validation, which no loss of training can be compared with, on an axis to the right."""
    axis.plot(*validation, "s--", color=_ENTROPY, markersize=3, linewidth=0.9, label="validation, cross entropy (right)")
    axis.set(ylim=(0, 1.05 * max(validation[1], default=1)))
    axis.set_ylabel("cross entropy", color=_ENTROPY)
    axis.legend(loc="lower left", fontsize=9)


def _draw_losses(axis, steps: tuple[Sequence[int], Sequence[float]], validation: tuple[list, list], same: bool) -> None:
    """steps: iterations, and the loss at each or in those up to it."""
    iterations, losses = steps
    axis.plot(iterations, losses, color=_BATCHES, linewidth=0.8, label="training, batches")
    axis.plot(iterations, running_mean(losses, max(1, len(losses) // 50)), color=_TRAINING, label="training, running mean")
    axis.plot(
        *validation, "o-", color=_VALIDATION, markersize=4, label=f"validation ({'the same loss' if same else 'cross entropy'})"
    )
    high = float(np.percentile(losses, 99.5)) if len(losses) else 0
    high = max(high, min(max(validation[1], default=0), 2 * high), 1e-6)  # a net's first validations may be far above
    axis.set(ylabel="loss", ylim=(0, 1.05 * high))
    axis.legend(loc="upper right", fontsize=9)


def _draw_scores(axis, training: tuple[list, list], validation: tuple[list, list]) -> None:
    percent = [100 * score for score in training[1]]
    axis.plot(training[0], percent, color=_BATCHES, linewidth=0.8)
    axis.plot(training[0], running_mean(percent, max(1, len(percent) // 20)), color=_TRAINING, label="training, running mean")
    scores = [100 * score for score in validation[1]]
    axis.plot(validation[0], scores, "o-", color=_VALIDATION, markersize=4, label="validation")
    if scores:
        best, place = max(scores), (validation[0][int(np.argmax(scores))], max(scores))
        axis.plot(*place, "o", mfc="none", color=_VALIDATION, markersize=11)
        axis.annotate(f"{best:.1f}", place, (0, 9), textcoords="offset points", ha="center")
    axis.set(ylabel="mean IoU, %", ylim=(0, 100))
    axis.legend(loc="upper left", fontsize=9)


def _points(entries: Sequence[Mapping], name: str) -> tuple[list, list]:
    """The iterations and values of those entries that have one."""
    found = [(entry["iteration"], entry[name]) for entry in entries if entry.get(name) is not None]
    return [iteration for iteration, _ in found], [value for _, value in found]


def running_mean(values: Sequence[float], size: int) -> np.ndarray:
    """The mean of each value and up to `size` - 1 values before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - size, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def net_graph(path: Path, net: nn.Module, title: str) -> None:
    """A net as a graph: a box per layer, or per stage of a library's net, from top to bottom, an arc for each blob that skips
    layers. Layers that one of several inputs alone decides stand in its column, those of several in the middle.

    net: with `boxes()`, as Net has them.
    """
    boxes = net.boxes()
    column = _columns(boxes)
    places = _places(boxes, column)
    left, right = (edge(x for x, _ in places.values()) for edge in (min, max))
    low = min(y for _, y in places.values())
    figure = Figure(figsize=(0.85 * (right - left + 2 * _MARGIN), 0.32 * (1 - low) + 1))
    axis = figure.subplots()
    for box in boxes:
        side = _side(column[box.name], right > _APART / 2)
        _box(axis, box, places[box.name], side)
        for read in box.reads:
            _arrow(axis, places[read], places[box.name], side)
    axis.set(xlim=(left - _MARGIN, right + _MARGIN), ylim=(low - 0.7, 0.7), title=title)
    axis.axis("off")
    save(figure, path)


def _columns(boxes: Sequence[Box]) -> dict[str, int]:
    """The column of each box: of several inputs, the first one's is -1 and the others' 1, 2 ...; 0 in the middle."""
    roots: dict[str, frozenset[str]] = {}
    for box in boxes:
        roots[box.name] = frozenset().union(*(roots[read] for read in box.reads)) if box.reads else frozenset([box.name])
    inputs = [box.name for box in boxes if not box.reads]
    numbers = dict(zip(inputs, [-1, *range(1, len(inputs))], strict=True))
    return {name: numbers[next(iter(of))] if len(of) == 1 < len(inputs) else 0 for name, of in roots.items()}


def _places(boxes: Sequence[Box], column: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Where the middle of each box lies: below all that it reads, and below the box above it in its column."""
    depth: dict[str, int] = {}
    last: dict[int, int] = {}
    for box in boxes:
        above = [last.get(column[box.name], -1), *(depth[read] for read in box.reads)]
        depth[box.name] = last[column[box.name]] = max(above) + 1
    middle = [depth[name] for name, number in column.items() if number == 0]
    beside = max((depth[name] for name, number in column.items() if number), default=-1)
    apart = _APART if middle and min(middle) <= beside else _APART / 2  # there is nothing between the columns
    return {name: (apart * column[name], -depth[name]) for name in depth}


def _side(column: int, far: bool) -> int:
    """On which side of a box its size stands, 1: right, and arcs on the other one. far: whether there is a column between the
    others; then sizes stand outside, away from what goes into the middle."""
    return -1 if column and (column > 0) != far else 1


def _box(axis, box: Box, place: tuple[float, float], side: int) -> None:
    x, y = place
    colour = _KIND_COLOURS.get(box.kind, _OTHER_COLOUR)
    axis.add_patch(FancyBboxPatch((x - 1.3, y - 0.3), 2.6, 0.6, boxstyle="round,pad=0.02", fc=colour, ec="#636363"))
    axis.text(x, y, f"{box.name}  ({box.kind})", ha="center", va="center", fontsize=min(8, 8 * 40 / len(box.name + box.kind)))
    note = "x".join(map(str, box.size)) + (f"   {box.learnable:,} values" if box.learnable else "")
    axis.text(x + 1.45 * side, y, note, ha="left" if side > 0 else "right", va="center", fontsize=7, color="#525252")


def _arrow(axis, start: tuple[float, float], end: tuple[float, float], side: int) -> None:
    (x, y), (to, below) = start, end
    look = {"arrowstyle": "-|>", "mutation_scale": 7, "shrinkA": 0, "shrinkB": 0}
    if x != to:  # from one column into another
        way = 1 if to > x else -1
        tail, head = (x + 1.32 * way, y - 0.2), (to - 1.32 * way, below)
        axis.add_patch(FancyArrowPatch(tail, head, color="#d94801", linewidth=0.8, **look))
    elif y - below == 1:
        axis.add_patch(FancyArrowPatch((x, y - 0.3), (x, below + 0.3), color="#636363", **look))
    else:
        bend = side * 0.8 / (y - below) ** 0.45  # long arcs would leave the picture at the bend of short ones
        tail, head = (x - 1.32 * side, y), (x - 1.32 * side, below)
        bent = {"color": "#d94801", "linewidth": 0.8, "connectionstyle": f"arc3,rad={bend}"}
        axis.add_patch(FancyArrowPatch(tail, head, **bent, **look))
