"""The output folder of inference: each tile's files whole or absent, a record of each finished tile, and what they add up to.

tiles/NAME.json appears last of a tile's files, so that a run which was killed can go on with the others. details.json says
from the first moment what the maps are made with, and at the end what came of it.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.base.errors import UserError
from tools.base.exchange import recover
from tools.base.folders import (
    DETAILS,
    list_contents,
    plain,
    read_details,
    refuse_existing,
    replace,
    write_details,
    write_json,
)
from tools.base.forms import read_json
from tools.base.locks import make_folder
from tools.geo import raster
from tools.geo.file_list import File
from tools.geo.gaps import Gaps
from tools.inference.tile_list import Tile
from tools.labels import scores
from tools.labels.palette import Palette
from tools.maps import class_statistics, zones

KINDS = ("labels", "labels_eroded")  # of ground truth
MADE_BY = "inference.py"
_MADE_BY = {"made by": MADE_BY}
OVERALL = (DETAILS, "statistics.json", "scores.json", "report.html")  # files about all tiles
_RECORD = {  # what tiles/NAME.json says
    "stamps": {str: ([int], None)}, "paths": {str: str}, "truths": {str: str}, "files": [str], "seconds": float,
    "statistics": class_statistics.FORM, "confusion": {str: [[int]]},
}  # fmt: skip


class Results:
    """An output folder.

    final: where it is to be. settings: all that its maps depend on, as JSON values. overwrite: replace what is there, once all
    that is new is whole; until then it is in FINAL.partial. resume: keep the finished tiles. Raises UserError where `final`
    holds something and neither is set, or where what is to be resumed was made with other settings, or by another script. Who
    writes into it holds its lock (tools.base.locks).
    """

    def __init__(self, final: Path, settings: Mapping[str, Any], overwrite: bool, resume: bool):
        self.final, self.settings, self.resume = final.resolve(), plain(settings), resume
        recover(self.final)
        if overwrite or not resume:
            refuse_existing(final, overwrite, MADE_BY)
        elif final.exists() and not final.is_dir():
            raise UserError(f"{final} is a file, not a folder to resume: choose another --dir.")
        self.folder = _working_folder(self.final, overwrite)
        if resume and self._begun():
            self._check_settings()

    def _begun(self) -> bool:
        """Whether there is something to resume. Raises UserError where the folder holds something else."""
        files = [] if not self.folder.exists() else [f for f in self.folder.iterdir() if not f.name.startswith(".")]
        if files and not (self.folder / DETAILS).is_file():
            raise UserError(f"{self.folder} is no output of ours (it has no {DETAILS}): choose another --dir.")
        return bool(files)

    def _check_settings(self) -> None:
        for path in [self.folder / "tiles", *(self.folder / "tiles").glob("*.json")]:
            if os.path.lexists(path) and path.is_dir() != (path.name == "tiles"):
                raise UserError(
                    f"{path} stands where the records of finished tiles belong: remove it, or choose another --dir."
                )
        details = read_details(self.folder)
        if (maker := details.get("made by")) != MADE_BY:
            raise UserError(f"{self.folder} was made by {maker}, so it cannot be resumed: choose another --dir.")
        same_weights = "weights_sha256" in details and details["weights_sha256"] == self.settings.get("weights_sha256")
        for name, value in self.settings.items():
            if details.get(name) != value and not (name == "weights" and same_weights):  # wherever they lie
                raise UserError(
                    f"{self.folder} was begun with {name} = {details.get(name)}, now it is {value}: resume it with the same"
                    " settings, choose another --dir, or start anew with --overwrite."
                )

    @contextlib.contextmanager
    def open(self) -> Iterator[Path]:
        """The folder to write into, made; it is removed again where the block fails before any tile is finished."""
        if not self.resume and self.folder != self.final:
            shutil.rmtree(self.folder, ignore_errors=True)
        there = self.folder.exists()
        make_folder(self.folder)
        try:
            write_details(self.folder, **_MADE_BY, **self.settings, complete=False)
            yield self.folder
        finally:
            self._tidy(keep=there)

    def _tidy(self, keep: bool) -> None:
        """Remove what is not whole; where only the details are left, these too, and the folder unless it is to be kept."""
        for rest in self.folder.glob(".*.partial*"):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        if {file.name for file in self.folder.iterdir()} <= {DETAILS}:
            (self.folder / DETAILS).unlink(missing_ok=True)
            if not keep:
                self.folder.rmdir()

    def done(self, tile: Tile) -> bool:
        """Whether a tile was finished before, from files that are still the same."""
        record = self._read(tile.name)
        if record is None:
            return False
        same = record["stamps"] == _stamps(tile) and record["paths"] == plain(tile.paths)
        return same and all((self.folder / file).exists() for file in record["files"])

    def _read(self, name: str) -> dict[str, Any] | None:
        """The record of a tile; None if it has none, or one that is damaged, which costs this tile and no other."""
        path = _record(self.folder, name)
        try:
            return read_json(path, _RECORD, "") if os.path.lexists(path) else None
        except UserError:
            return None

    def records(self, first: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """The records of all finished tiles by name, some names first."""
        files = (self.folder / "tiles").glob("*.json")  # those of hidden images are hidden, and so is what a killed run left
        names = sorted(file.stem for file in files if not (file.name.startswith(".") and file.stem.endswith(".partial")))
        names = [n for n in first if n in names] + [n for n in names if n not in first]
        found = {name: self._read(name) for name in names}
        return {name: record for name, record in found.items() if record is not None}

    def complete(
        self,
        tiles: Sequence[Tile],
        failed: Mapping[str, str],
        palette: Palette,
        ignored: list[int],
        device: str,
        seen: Collection[str] = (),
    ) -> tuple[dict, dict]:
        """Write statistics.json, scores.json (where there is ground truth) and details.json; statistics and scores come back.

        failed: what is wrong with the tiles that could not be labelled. seen: tiles that the net was trained on.
        Where the folder is to replace another, it does so now, unless there are such tiles. Raises UserError where no tile is
        finished.
        """
        records = self.records([tile.name for tile in tiles])
        if not records:
            raise UserError(f"nothing could be labelled: {' '.join(list(failed.values())[:20])}")
        statistics = {name: record["statistics"] for name, record in records.items()}
        found = {"tiles": statistics, "all": {"classes": class_statistics.together(s["classes"] for s in statistics.values())}}
        if self.settings.get("area"):
            found["zones"] = zones.together((record["zones"] for record in records.values()), palette.names)
            zones.write_csv(self.folder / "zones.csv", found["zones"])
        found["all"]["no_data"] = _no_data(records)
        write_json(self.folder / "statistics.json", found)
        result = score(records, palette, ignored, seen)
        if result:
            write_json(self.folder / "scores.json", result)
        found["squared"] = [iou for record in records.values() for iou in record["squared"]]
        more = {"device": device, "complete": not failed, "failed": failed}
        write_details(self.folder, **_MADE_BY, **self.settings, **more, **_summary(records))
        list_contents(self.folder, _files(records))
        if self.folder != self.final and not failed:
            replace(self.folder, self.final)
            self.folder = self.final
        return found, result


def _files(records: Mapping[str, Mapping]) -> list[Path]:
    """All that inference.py puts into such a folder."""
    maps = [Path(name) for record in records.values() for name in record["files"]]
    return [*map(Path, OVERALL), *maps, *(_record(Path(), name) for name in records)]


def _working_folder(final: Path, overwrite: bool) -> Path:
    taken = final.is_dir() and any(final.iterdir())
    return final.with_name(final.name + ".partial") if overwrite and taken else final


def record(folder: Path, tile: Tile, made: Mapping[str, Any]) -> None:
    """Take note, in the folder of the results, that all files of a tile are there, and of what was found out about it."""
    about = {"paths": tile.paths, "truths": tile.truths, "stamps": _stamps(tile), **made}
    write_json(_record(folder, tile.name), about)


def _record(folder: Path, name: str) -> Path:
    return folder / "tiles" / f"{name}.json"


def _summary(records: Mapping[str, Mapping]) -> dict[str, Any]:
    seconds = sum(record["seconds"] for record in records.values())
    pixels = sum(record["statistics"]["height"] * record["statistics"]["width"] for record in records.values())
    parts = {part: {name: record[part] for name, record in records.items()} for part in ("paths", "truths", "files")}
    return {
        "seconds": round(seconds, 1),
        "megapixels_per_second": round(pixels / 1e6 / seconds, 3) if seconds else None,
        "tiles": parts["paths"],
        "truths": {name: truths for name, truths in parts["truths"].items() if truths},
        "windows": {name: record["windows"] for name, record in records.items() if record.get("windows")},
        "files": parts["files"],
    }


def _no_data(records: Mapping[str, Mapping]) -> dict[str, dict]:
    """Where each modality lacks data in all tiles: counts, as `Gaps.from_dict` reads them."""
    found: dict[str, Gaps] = {}
    for record in records.values():
        for modality, gaps in record.get("no_data", {}).items():
            found[modality] = found.get(modality, Gaps()) + Gaps.from_dict(gaps)
    return {modality: gaps.to_dict() for modality, gaps in found.items()}


def score(records: Mapping[str, Mapping], palette: Palette, ignored: list[int], seen: Collection[str] = ()) -> dict[str, Any]:
    """Scores by kind of ground truth: of all tiles together, and of each.

    seen: tiles that the net was trained on, which are named; if there are others too, "unseen" are the scores of those.
    """
    result = {}
    for kind in KINDS:
        found = {name: np.array(r["confusion"][kind]) for name, r in records.items() if kind in r["confusion"]}
        if found:
            reports = {name: scores.report(m, palette.names, ignored) for name, m in found.items()}
            known = [name for name in found if name in seen]
            new = [matrix for name, matrix in found.items() if name not in seen]
            result[kind] = {"all": scores.report(sum(found.values()), palette.names, ignored), "seen": known, "tiles": reports}
            if known and new:
                result[kind]["unseen"] = scores.report(sum(new), palette.names, ignored)
    return result


def _stamps(tile: Tile) -> dict[str, list[int] | None]:
    """Size and time of change of a tile's files, to see whether they are what they were; None for remote ones."""
    return {str(path): _stamp(path) for path in [*tile.paths.values(), *tile.truths.values()]}


def _stamp(path: File) -> list[int] | None:
    if raster.is_remote(path) or not Path(path).exists():
        return None
    about = Path(path).stat()
    return [about.st_size, about.st_mtime_ns]


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file: whether weights are the same, wherever they lie."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
