"""The validation curves of several runs in one picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tools.labels.pictures import save
from tools.runs.table import Run


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Mean IoU and loss on the validation tiles over the iterations, a line for each run."""
    figure = Figure(figsize=(9, 7))
    axes = figure.subplots(2, 1, sharex=True)
    for run in runs:
        for axis, score, factor in zip(axes, ("mean_iou_without_ignored", "loss"), (100, 1), strict=True):
            points = [(v["iteration"], factor * v[score]) for v in run.metrics["validation"] if v.get(score) is not None]
            axis.plot(*zip(*points, strict=True) if points else ([], []), "o-", markersize=3, linewidth=1.2, label=run.name)
    axes[0].set(ylabel="validation mean IoU, %", title=f"{len(runs)} runs")
    axes[1].set(ylabel="validation loss", xlabel="iteration")
    axes[0].legend(fontsize=8)
    for axis in axes:
        axis.grid(color="#e5e5e5", linewidth=0.6)
    save(figure, path)
