"""What a run leaves beside its snapshots: a log, metrics.json, TensorBoard's events, a plot; a full disk does not stop it."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tools.base.errors import UserError
from tools.record import plots, tensorboard
from tools.record.history import METRICS, Interval, Records, Validation, read_history
from tools.record.log import Log

LOG, EVENTS, PLOT, GRAPH = "training.log", "tensorboard", "loss.png", "net.png"  # beside the snapshots


class Watcher(Protocol):
    """Who is told how a run goes: TensorBoard's curves, a notebook."""

    def add(self, interval: Interval) -> None: ...

    def add_validation(self, iteration: int, found: Validation) -> None: ...


class Recorder:
    """Writes down how a run goes.

    folder: of the snapshots. plot: the picture's file. log: that of the run. about: what metrics.json says first. title: of the
    plot. iteration: that training begins at. before: the folder of the snapshot that the run goes on from. watchers: are
    told of it beside TensorBoard; None for a process that keeps the history and leaves it to another one to write it down.
    """

    def __init__(
        self,
        folder: Path,
        plot: Path,
        log: Log,
        about: Mapping[str, Any],
        title: str,
        iteration: int,
        before: Path | None = None,
        watchers: Sequence[Watcher] | None = (),
    ):
        self.folder, self.plot, self.log, self.title = folder, plot, log, title
        self.records = Records(folder / METRICS, about)
        self.records.begin(iteration, self._history(before / METRICS) if before else None)
        self._writes = watchers is not None
        self._watchers = [tensorboard.Curves(folder / EVENTS, iteration), *watchers] if self._writes else []

    def _history(self, path: Path) -> dict[str, list]:
        """That of the run that is gone on with; none where it cannot be read, which is said."""
        try:
            return read_history(path)
        except UserError as error:
            kept = ""
            if self.log.path and path.exists() and path.resolve() == self.records.path.resolve():
                kept = f"; what was there is now {set_aside(path).name}"
            self.log.warn(f"{error}, so the history begins anew{kept}.")
            return {}

    def add(self, interval: Interval) -> None:
        """Write down how some iterations went."""
        self.log.note(f"iteration {interval.iteration}: {interval}")
        self.records.add(interval)
        for watcher in self._watchers:
            with self.log.training_goes_on("a point of the curves (TensorBoard's, a notebook's)"):
                watcher.add(interval)

    def add_validation(self, iteration: int, found: Validation, better: list[str]) -> None:
        """Write down and say what a validation found, and by which criteria it is the best so far."""
        shown = {"accuracy": found.scores["overall_accuracy"], "mean IoU": found.iou}
        scores = ", ".join(f"{name} {100 * value:.2f} %" for name, value in shown.items() if value is not None)
        loss = "nothing is scored" if found.loss is None else f"loss {found.loss:.4f}, {scores}"
        if found.scores.get("trained_loss") is not None:
            loss = f"loss {found.trained_loss:.4f}, cross entropy {found.loss:.4f}, {scores}"
        self.log.say(f"iteration {iteration}: validation {loss}" + (f"; best {', '.join(better)} so far" if better else ""))
        self.records.add_validation(iteration, found.scores)
        for watcher in self._watchers:
            with self.log.training_goes_on("a validation of the curves (TensorBoard's, a notebook's)"):
                watcher.add_validation(iteration, found)

    def write(self, losses: list[float], best: Mapping[str, tuple[int, float]], stopped_early: bool) -> None:
        """Bring metrics.json and the plot up to date.

        losses: of all iterations. best: (iteration, value) by criterion. stopped_early: whether patience is at its end.
        """
        if not self._writes:
            return
        with self.log.training_goes_on(self.records.path.name):
            self.records.write(best, stopped_early)
        with self.log.training_goes_on(self.plot.name):
            plots.loss_plot(self.plot, losses, self.records.training, self.records.validation, self.title)


def set_aside(path: Path) -> Path:
    """Give a file, before another takes its name, the first free one of NAME.broken, NAME.broken2 ..."""
    names = (path.with_name(f"{path.name}.broken{n if n > 1 else ''}") for n in itertools.count(1))
    return path.rename(next(name for name in names if not name.exists()))


def files(folder: Path) -> list[Path]:
    """What an earlier run wrote down in a folder."""
    named = [folder / name for name in (LOG, METRICS, PLOT, GRAPH)]
    return [*filter(Path.exists, named), *folder.glob(f"{METRICS}.broken*"), *tensorboard.files(folder / EVENTS)]


def remove(folder: Path) -> None:
    """Remove what an earlier run wrote down in a folder; nothing else."""
    for path in files(folder):
        path.unlink()
    remove_empty(folder)


def remove_empty(folder: Path) -> None:
    """Remove the folder of TensorBoard's events if nothing is in it."""
    if (folder / EVENTS).is_dir() and not any((folder / EVENTS).iterdir()):
        (folder / EVENTS).rmdir()
