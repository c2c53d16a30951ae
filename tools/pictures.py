"""Pictures for people: loss curves, networks, and label maps beside image and truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen is needed

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from nets.net import Net
from tools.folders import whole_file
from tools.palette import Palette

_KIND_COLOURS = {"data": "#d9d9d9", "conv": "#9ecae1", "pool": "#fdae6b", "unpool": "#a1d99b"}
_OTHER_COLOUR = "#dadaeb"


def loss_plot(path: Path, losses: Sequence[float], scores: Mapping[int, float], title: str) -> None:
    """The loss of each iteration (and its running mean), with the validation score of the snapshots.

    losses: per iteration, from the first on. scores: mean IoU by iteration.
    """
    figure, axis = plt.subplots(figsize=(8, 4.5))
    iterations = np.arange(1, len(losses) + 1)
    axis.plot(iterations, losses, color="#c6dbef", linewidth=0.8, label="loss of the batch")
    axis.plot(iterations, running_mean(losses, max(1, len(losses) // 50)), color="#08519c", label="running mean")
    axis.set(xlabel="iteration", ylabel="loss", title=title)
    axis.set_ylim(0, max(1.05 * float(np.percentile(losses, 99.5)), 1e-6))
    handles, labels = axis.get_legend_handles_labels()
    if scores:
        other = axis.twinx()
        other.plot(list(scores), [100 * s for s in scores.values()], "o-", color="#d94801", label="validation mean IoU")
        other.set(ylabel="validation mean IoU, %", ylim=(0, 100))
        more = other.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    axis.legend(handles, labels, loc="upper center")
    _save(figure, path)


def running_mean(values: Sequence[float], size: int) -> np.ndarray:
    """The mean of each value and up to `size` - 1 values before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - size, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def net_graph(path: Path, net: Net, title: str) -> None:
    """The table of a net as a graph: a box per layer from top to bottom, an arc for each blob that skips layers."""
    rows = net.table()
    place = {row[0]: -i for i, row in enumerate(rows)}
    writer = {blob: name for name, blobs in net.writes.items() for blob in blobs}
    figure, axis = plt.subplots(figsize=(9, 0.32 * len(rows) + 1))
    for name, kind, _, size, learnable in rows:
        colour = _KIND_COLOURS.get(kind, _OTHER_COLOUR)
        axis.add_patch(FancyBboxPatch((-1, place[name] - 0.3), 2, 0.6, boxstyle="round,pad=0.02", fc=colour, ec="#636363"))
        axis.text(0, place[name], f"{name}  ({kind})", ha="center", va="center", fontsize=8)
        note = "x".join(map(str, size)) + (f"   {learnable:,} values" if learnable else "")
        axis.text(1.15, place[name], note, va="center", fontsize=7, color="#525252")
    for row in net.rows:
        for blob in row.reads:
            _arrow(axis, place[writer[blob]], place[row.name])
    axis.set(xlim=(-4.2, 4.2), ylim=(-len(rows) + 0.3, 0.7), title=title)
    axis.axis("off")
    _save(figure, path)


def _arrow(axis, start: float, end: float) -> None:
    if start - end == 1:
        axis.add_patch(FancyArrowPatch((0, start - 0.3), (0, end + 0.3), arrowstyle="-|>", mutation_scale=7, color="#636363"))
        return
    bend = 0.8 / (start - end) ** 0.45  # long arcs would leave the picture at the bend of short ones
    axis.add_patch(
        FancyArrowPatch(
            (-1.02, start), (-1.02, end), arrowstyle="-|>", mutation_scale=7, color="#d94801", linewidth=0.8,
            connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip


def comparison(
    path: Path, image: np.ndarray, truth: np.ndarray | None, predicted: np.ndarray, palette: Palette, title: str
) -> None:
    """Image, truth, prediction and errors side by side, with a legend; without truth, image and prediction.

    image: bands x h x w of any number type. truth, predicted: h x w labels.
    """
    panels = [("image", as_picture(image)), ("prediction", palette.to_colours(predicted))]
    if truth is not None:
        errors = error_map(truth, predicted, palette)
        panels[1:1] = [("ground truth", palette.to_colours(truth))]
        panels.append(("errors (red), not scored (grey)", errors))
    tall = image.shape[1] / image.shape[2]
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 4 * tall + 0.9))
    for axis, (name, picture) in zip(axes, panels, strict=True):
        axis.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) < 600 else "antialiased")
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    legend(figure, palette)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def legend(figure, palette: Palette) -> None:
    """The palette's classes below a figure."""
    colours = {name: np.array(palette.colours[i]) / 255 for i, name in enumerate(palette.names)}
    handles = [Patch(facecolor=colour, edgecolor="#636363", label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 8), fontsize=9, frameon=False)


def as_picture(image: np.ndarray) -> np.ndarray:
    """h x w x 3 uint8 to look at: the first three bands (or the one, in grey), stretched unless they are bytes already."""
    bands = image[:3] if len(image) >= 3 else image[[0, 0, 0]]
    if bands.dtype != np.uint8:
        low, high = np.nanpercentile(bands, [2, 98]) if np.isfinite(bands).any() else (0, 1)
        bands = np.clip(255 * (np.nan_to_num(bands, nan=low) - low) / max(high - low, 1e-6), 0, 255).astype(np.uint8)
    return bands.transpose(1, 2, 0)


def error_map(truth: np.ndarray, predicted: np.ndarray, palette: Palette) -> np.ndarray:
    """h x w x 3: white where the label is right, red where it is wrong, grey where it is not scored."""
    picture = np.full((*truth.shape, 3), 255, np.uint8)
    picture[truth != predicted] = (222, 45, 38)
    picture[(truth >= palette.classes) | (predicted >= palette.classes)] = (160, 160, 160)
    return picture


def _save(figure, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
