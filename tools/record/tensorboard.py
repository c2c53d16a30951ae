"""A run in TensorBoard: curves of loss, rate, speed and scores, and a picture of a validation tile, as event files."""

import io
import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from tools.record.history import Interval, Validation

_WHOLE = {  # curve -> score
    "loss": "loss",
    "trained loss": "trained_loss",
    "mean IoU": "mean_iou_without_ignored",
    "mean Dice": "mean_dice_without_ignored",
    "mean class accuracy": "mean_accuracy_without_ignored",
    "FWIoU": "frequency_weighted_iou_without_ignored",
    "accuracy": "overall_accuracy",
}
_BY_CLASS = {"IoU": "iou", "Dice": "dice", "class accuracy": "recall", "precision": "precision"}


class Curves:
    """An event file in a folder; `tensorboard --logdir FOLDER` shows it.

    iteration: that training begins at. TensorBoard leaves out what an earlier run wrote of later ones, so that a restored run
    goes on along its curves. Each event is in the file when a call returns, or raises OSError and leaves the file as it was;
    PyTorch's SummaryWriter, which writes in a thread, ends with a traceback where the disk is full.
    """

    def __init__(self, folder: Path, iteration: int):
        self.folder, self._begin = folder, iteration + 1
        self._path: Path | None = None  # made with the first event

    def add(self, interval: Interval) -> None:
        """A point of each training curve."""
        values = {"loss": interval.loss, "rate": interval.rate, "images per second": interval.images_per_second}
        values["mean IoU"] = interval.mean_iou
        self._write(interval.iteration, [scalar(f"training/{n}", v) for n, v in values.items() if v is not None])

    def add_validation(self, iteration: int, found: Validation) -> None:
        """A point of each validation curve, the scores of each class among them, and the picture."""
        values = {name: found.scores.get(key) for name, key in _WHOLE.items()}
        for kind, key in _BY_CLASS.items():
            values |= {f"{kind}/{name}": value for name, value in found.scores.get(key, {}).items()}
        points = [scalar(f"validation/{name}", value) for name, value in values.items() if value is not None]
        self._write(iteration, [*points, image("image, ground truth, prediction", found.picture, dataformats="HWC")])

    def _write(self, iteration: int, summaries: list[Summary]) -> None:
        now = time.time()
        events = [Event(wall_time=now, step=iteration, summary=summary) for summary in summaries]
        if self._path is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._path = self.folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
            start = SessionLog(status=SessionLog.START)
            begin = {"wall_time": now, "step": self._begin}
            events[:0] = [Event(**begin, file_version="brain.Event:2"), Event(**begin, session_log=start)]
        _append(self._path, events)


def _append(path: Path, events: list[Event]) -> None:
    records = io.BytesIO()
    for event in events:
        RecordWriter(records).write(event.SerializeToString())
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(records.getvalue())
    except OSError:
        if path.exists():  # a disk without room for a name has none
            os.truncate(path, size)  # half a record would be the end of the file to who reads it
        raise


def files(folder: Path) -> list[Path]:
    """The event files in a folder."""
    return list(folder.glob("events.out.tfevents.*"))
