"""What a run was made of: its settings, data, libraries and the state of the code."""

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from tools.base.folders import read_details
from tools.compute.device import Device

_REPOSITORY = Path(__file__).parent.parent.parent
_LIBRARIES = ("torch", "torchvision", "numpy", "lmdb", "rasterio", "safetensors", "segmentation-models-pytorch", "timm")


def about(
    name: str,
    net: nn.Module,
    device: Device,
    lmdb: Path,
    niter: int | None,
    settings: Mapping[str, Any],
    origins: Mapping[str, str],
) -> dict[str, Any]:
    """What a run is made of, as JSON values: the net called `name`, device, database, versions and settings.

    lmdb: the folder of the databases. settings: all of them by name; origins: where each value came from.
    """
    return {
        "net": {"name": name, "learnable values": sum(p.numel() for p in net.parameters())},
        "device": str(device),
        "database": {"folder": str(lmdb), "fingerprint": fingerprint(lmdb)},
        "versions": versions(),
        "git": git_state(),
        "iterations": niter,
        "settings": as_json(settings),
        "origins": dict(origins),
    }


def fingerprint(lmdb: Path) -> str | None:
    """A number that changes with any pixel and any label of the database; None if an older create_db.py made it."""
    return read_details(lmdb)["splits"]["train"].get("fingerprint")


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def made_with(settings: Mapping[str, Any], lmdb: Path) -> dict[str, Any]:
    """What makes a run the run that it is, as JSON values.

    settings: those whose change makes another run, by name. lmdb: the folder of the databases, whose fingerprint is added.
    """
    return as_json(settings) | {"database": fingerprint(lmdb)}


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
