"""What is known of a run afterwards: settings, versions, git state, data and device, and how it went, in metrics.json."""

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from tools.base.errors import UserError, listing
from tools.base.folders import read_details, write_json
from tools.compute.device import Device
from tools.settings import Settings

METRICS = "metrics.json"
_REPOSITORY = Path(__file__).parent.parent.parent
_LIBRARIES = ("torch", "torchvision", "numpy", "lmdb", "rasterio", "safetensors", "segmentation-models-pytorch", "timm")
# Settings that a run may change without becoming another run: places, speed, and what is written or kept.
_WITHOUT_EFFECT = {
    "BASE_DIR", "DATASET_DIR", "FOLDER_SUFFIX", "folders", "palette", "test_ids", "WORKERS", "TILE_MEMORY_MB",
    "MEMORY_MB", "SNAPSHOT_EVERY", "KEEP_SNAPSHOTS", "PATIENCE", "TEST_BATCH_SIZE",
}  # fmt: skip


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
    restored at, with the time. training: an `Interval` each. validation: a report of scores each, with its iteration.
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

    def add(self, interval: Interval) -> None:
        """Note how some iterations went."""
        self.training.append({f.name: getattr(interval, f.name) for f in fields(interval)})

    def add_validation(self, iteration: int, scores: Mapping[str, Any]) -> None:
        """Note the scores of a validation."""
        self.validation.append({"iteration": iteration, **scores})

    def write(self, best: Mapping[str, tuple[int, float]], stopped_early: bool) -> None:
        """Write metrics.json; best: (iteration, value) by criterion; stopped_early: whether patience is at its end."""
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    for name, entries in history.items():
        for entry in entries:
            if lacks := _HISTORY[name] - set(entry):
                raise UserError(f"{path} is damaged (an entry of '{name}' has no {listing(sorted(lacks))})")
    return history


def about(settings: Settings, net: nn.Module, device: Device, niter: int) -> dict[str, Any]:
    """What a run is made of, as JSON values: the net, device, database, versions and settings."""
    return {
        "net": {"name": settings.NET, "learnable values": sum(p.numel() for p in net.parameters())},
        "device": str(device),
        "database": {"folder": str(settings.folder("lmdb")), "fingerprint": fingerprint(settings)},
        "versions": versions(),
        "git": git_state(),
        "iterations": niter,
        "settings": settings_of(settings),
    }


def fingerprint(settings: Settings) -> str | None:
    """A number that changes with any pixel and any label of the database; None where an older create_db.py made it."""
    return read_details(settings.folder("lmdb"))["splits"]["train"].get("fingerprint")


def settings_of(settings: Settings) -> dict[str, Any]:
    """All settings as JSON values."""
    return as_json({f.name: getattr(settings, f.name) for f in fields(settings)})


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def made_with(settings: Settings) -> dict[str, Any]:
    """What makes a run the run that it is, as JSON values: settings, and the fingerprint of the data."""
    whole = settings_of(settings)
    found = {name: value for name, value in whole.items() if name not in _WITHOUT_EFFECT}
    if settings.VAL_EVERY is None and settings.LR_POLICY["name"] == "plateau":  # then the rate may fall at each snapshot
        found["SNAPSHOT_EVERY"] = whole["SNAPSHOT_EVERY"]
    return found | {"database": fingerprint(settings)}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another in two of `made_with`: "BATCH_SIZE = 4 (it was 8)".

    A setting that one of the two does not know is of another version of this software, and is left out.
    """
    names = [name for name in now if name in before and before[name] != now[name]]
    return [f"{name} = {now[name]} (it was {before[name]})" for name in names]


def versions() -> dict[str, str | None]:
    """The versions of this software, Python and the libraries that compute; None for one that is not installed."""
    found: dict[str, str | None] = {"orthonets": _own_version(), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _own_version() -> str | None:
    found = re.search(r'^version = "(.+)"', (_REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return found and found[1]


def git_state(folder: Path = _REPOSITORY) -> dict[str, Any] | None:
    """{"commit", "dirty": whether a file that git knows was changed since}, or None outside of a checkout, or without git."""
    commit, status = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or status is None else {"commit": commit.strip(), "dirty": bool(status.strip())}


def _git(folder: Path, *words: str) -> str | None:
    try:
        ran = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout
