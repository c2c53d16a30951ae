"""What is known of a run afterwards: settings, versions, git state, data and device, and how it went, in metrics.json."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tools.base.errors import UserError, listing
from tools.base.folders import write_json

METRICS = "metrics.json"


@dataclass(frozen=True)
class Interval:
    """How some iterations went.

    iteration: the last of them. loss: their mean. rate: the learning rate of the last. images_per_second: validation and
    snapshots not counted. mean_iou: of the net on the batches while it learned from them, None where it is not known.
    """

    iteration: int
    loss: float
    rate: float
    images_per_second: float
    mean_iou: float | None = None

    def __str__(self) -> str:
        return f"loss {self.loss:.4f}, rate {self.rate:g}, {self.images_per_second:.1f} images/s"


class Records:
    """The history of a run, and what it was made with.

    path: of metrics.json. about: JSON values that stand there first. sessions: the iterations that the run was begun and
    restored at, with the time, and how long each took in seconds. training: an `Interval` each. validation: a report
    of scores each, with its iteration.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]):
        self.path, self.about = path, about
        self.sessions: list[dict] = []
        self.training: list[dict] = []
        self.validation: list[dict] = []

    def begin(self, iteration: int, before: Mapping[str, list] | None = None) -> None:
        """Note that training begins; `before` is a history (`read_history`) that is gone on with up to the iteration.

        What came after that iteration will be done again.
        """
        for name, entries in (before or {}).items():
            setattr(self, name, [e for e in entries if e["iteration"] <= iteration])
        self.sessions.append({"iteration": iteration, "time": datetime.now().astimezone().isoformat(timespec="seconds")})
        self._since = time.monotonic()

    def add(self, interval: Interval) -> None:
        """Note how some iterations went."""
        self.training.append({f.name: getattr(interval, f.name) for f in fields(interval)})

    def add_validation(self, iteration: int, scores: Mapping[str, Any]) -> None:
        """Note the scores of a validation."""
        self.validation.append({"iteration": iteration, **scores})

    def write(self, best: Mapping[str, tuple[int, float]], stopped_early: bool) -> None:
        """Write metrics.json; best: (iteration, value) by criterion; stopped_early: whether patience is at its end."""
        self.sessions[-1]["seconds"] = round(time.monotonic() - self._since, 1)
        found = {name: {"iteration": iteration, "value": value} for name, (iteration, value) in best.items()}
        history = {name: getattr(self, name) for name in _HISTORY}
        write_json(
            self.path, {"made by": "training.py", **self.about, "stopped early": stopped_early, "best": found, **history}
        )


_HISTORY = {  # what is noted, and what each entry must say to be gone on with
    "sessions": {"iteration"},
    "training": {f.name for f in fields(Interval)},
    "validation": {"iteration", "loss", "mean_iou_without_ignored"},
}


def read_history(path: Path) -> dict[str, list]:
    """The history in a metrics.json. Raises UserError where the file is missing or not as `Records.write` leaves it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        history = {name: [dict(e, iteration=int(e["iteration"])) for e in found[name]] for name in _HISTORY}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    for name, entries in history.items():
        for entry in entries:
            if lacks := _HISTORY[name] - set(entry):
                raise UserError(f"{path} is damaged (an entry of '{name}' has no {listing(sorted(lacks))})")
    return history


@dataclass(frozen=True)
class Validation:
    """What a net is worth: scores by name, `loss` among them, as JSON values; a picture of the first tile (h x w x 3).

    The picture shows image, ground truth and prediction side by side.
    """

    scores: dict[str, Any]
    picture: np.ndarray

    @property
    def loss(self) -> float | None:
        """The mean cross entropy of the scored pixels, None where there is none, or where it is no number."""
        return self.scores["loss"]

    @property
    def trained_loss(self) -> float | None:
        """The loss that the net learns by, which is cross entropy where no other was computed."""
        return self.scores.get("trained_loss", self.loss)

    @property
    def iou(self) -> float | None:
        """The mean IoU over the classes that are not ignored."""
        return self.scores["mean_iou_without_ignored"]
