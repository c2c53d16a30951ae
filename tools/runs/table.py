"""Runs side by side, from the metrics.json of each and the scores of maps that were made with their weights."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.base.folders import DETAILS, whole_file
from tools.record.history import METRICS

_SCORE = "mean_iou_without_ignored"
_PLACES = {  # settings that say where things lie or what they are called, and the net, which has a column of its own
    "BASE_DIR", "DATASET_DIR", "FOLDER_SUFFIX", "RUN", "NET", "DATASET", "folders",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A training: its folder, and what its metrics.json holds."""

    folder: Path
    metrics: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name; of a fold, with the folder that it lies in."""
        return f"{self.folder.parent.name}/{self.folder.name}" if self.folder.name.startswith("fold_") else self.folder.name

    @property
    def dataset(self) -> str:
        """The dataset that it learned from."""
        return str(self.metrics["settings"].get("DATASET"))

    @property
    def iterations(self) -> int:
        """How many it has done, as far as they are on record."""
        return max((entry["iteration"] for part in ("training", "validation") for entry in self.metrics[part]), default=0)

    @property
    def minutes(self) -> float | None:
        """How long it trained, all sessions together; None in records of earlier versions."""
        seconds = [session.get("seconds") for session in self.metrics["sessions"]]
        return None if None in seconds else sum(seconds) / 60

    def best(self, score: str, sign: int) -> tuple[float, int] | None:
        """(value, iteration) of the best validation by a score, of which more (sign 1) or less (-1) is better."""
        known = [(v[score], v["iteration"]) for v in self.metrics["validation"] if v.get(score) is not None]
        return max(known, key=lambda found: sign * found[0], default=None)


def find_runs(folder: Path) -> list[Run]:
    """The runs below a folder; what is no metrics.json of training.py is passed over."""
    found = []
    for path in sorted(folder.rglob(METRICS)):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            if metrics["made by"] == "training.py" and metrics["settings"] and metrics["net"]["name"]:
                found.append(Run(path.parent, {"training": [], "validation": [], "sessions": []} | metrics))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def test_scores(folder: Path) -> dict[Path, dict[str, float]]:
    """{folder of snapshots: accuracy and mean IoU of the maps that were made with its weights}; of several, the newest maps.

    Tiles that the net was trained on do not count where there are others. Without maps, it is what `tools.final --test` found.
    """
    found: dict[Path, tuple[str, dict]] = {}
    for path in folder.rglob("scores.json"):
        try:
            details = json.loads((path.parent / DETAILS).read_text(encoding="utf-8"))
            scores = json.loads(path.read_text(encoding="utf-8"))["labels"]
            home, made = Path(details["weights"]).resolve().parent, details["made"]
        except (OSError, ValueError, KeyError, TypeError):  # several weights, or no output of inference.py
            continue
        report = scores.get("unseen") or (scores["all"] if not scores.get("seen") else None)
        if report and (home not in found or made > found[home][0]):
            found[home] = made, {"accuracy": report["overall_accuracy"], "iou": report[_SCORE]}
    return _final_scores(folder) | {home: scores for home, (_, scores) in found.items()}


def _final_scores(folder: Path) -> dict[Path, dict[str, float]]:
    """The same of each final.json in which test tiles, or cells, were scored."""
    found = {}
    for path in folder.rglob("final.json"):
        try:
            test = json.loads(path.read_text(encoding="utf-8"))["test"]
            found[path.parent.resolve()] = {"accuracy": test["overall_accuracy"], "iou": test[_SCORE]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


test_scores.__test__ = False  # not one of pytest's


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """{dataset: settings that are not the same in all of its runs}."""
    names: dict[str, list[str]] = {}
    for dataset in {run.dataset for run in runs}:
        settings = [run.metrics["settings"] for run in runs if run.dataset == dataset]
        known = sorted(set().union(*settings) - _PLACES)
        names[dataset] = [n for n in known if len({json.dumps(s.get(n), sort_keys=True) for s in settings}) > 1]
    return names


ORDERS = {  # word -> column, and whether the largest comes first
    "iou": ("val IoU", True), "loss": ("val loss", False), "test": ("test IoU", True), "minutes": ("minutes", False),
    "name": ("run", False),
}  # fmt: skip


def rows(runs: Sequence[Run], tested: Mapping[Path, Mapping[str, float]], order: str) -> list[dict[str, Any]]:
    """A row for each run by column: what it is, how it went, and under "settings" those that differ, in this order."""
    column, falling = ORDERS[order]
    names = differing(runs)
    found = [_row(run, tested.get(run.folder.resolve(), {}), names[run.dataset]) for run in runs]
    known = sorted((row for row in found if row[column] is not None), key=lambda row: row[column], reverse=falling)
    return known + [row for row in found if row[column] is None]


def _row(run: Run, tested: Mapping[str, float], names: Sequence[str]) -> dict[str, Any]:
    iou, at = run.best(_SCORE, 1) or (None, None)
    loss, _ = run.best("loss", -1) or (None, None)
    return {
        "run": run.name, "dataset": run.dataset, "net": run.metrics["net"]["name"], "iterations": run.iterations,
        "minutes": run.minutes, "val IoU": iou, "at": at, "val loss": loss, "test accuracy": tested.get("accuracy"),
        "test IoU": tested.get("iou"), "settings": {name: run.metrics["settings"].get(name) for name in names},
    }  # fmt: skip


_SHOWN = {  # column -> how its values are written
    "run": str, "net": str, "iterations": "{:,}".format, "minutes": "{:.1f}".format,
    "val IoU": lambda v: f"{100 * v:.2f}", "at": "{:,}".format, "val loss": "{:.4f}".format,
    "test accuracy": lambda v: f"{100 * v:.2f}", "test IoU": lambda v: f"{100 * v:.2f}",
}  # fmt: skip


def as_text(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for the terminal; scores in per cent, each the mean over the classes that are not ignored."""
    cells = [[*_SHOWN, "settings that differ"]]
    for row in table:
        shown = ["-" if row[column] is None else show(row[column]) for column, show in _SHOWN.items()]
        cells.append([*shown, ", ".join(f"{name}={value}" for name, value in row["settings"].items())])
    widths = [max(len(line[i]) for line in cells) for i in range(len(_SHOWN))]
    left = 2  # columns of words
    lines = []
    for line in cells:
        words = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=False))]
        lines.append("  ".join([*words, line[-1]]).rstrip())
    return "\n".join(lines)


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """The table as CSV: scores as shares, a column for each setting that differs."""
    names = sorted({name for row in table for name in row["settings"]})
    columns = [column for column in table[0] if column != "settings"]
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *names])
        for row in table:
            writer.writerow([*(row[column] for column in columns), *(row["settings"].get(name) for name in names)])
