"""K-fold cross-validation: which tiles each fold holds out, and what the scores of all folds together say."""

import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tools.base.errors import UserError, listing
from tools.base.folders import write_json
from tools.data.dataset import tile_name
from tools.record import earlier
from tools.record.history import METRICS, read_history
from tools.record.provenance import changed
from tools.training import resume
from tools.weights import snapshots

SUMMARY, _FOLDER = "folds.json", "fold_"  # beside the folders of the folds, whose names begin so and end in a number
_WHOLE = {  # scores of the whole map, by their names in tools.labels.scores.report
    "overall accuracy": "overall_accuracy",
    "kappa": "kappa",
    "mean class accuracy": "mean_accuracy_without_ignored",
    "mean F1": "mean_f1_without_ignored",
    "mean IoU": "mean_iou_without_ignored",
    "FWIoU": "frequency_weighted_iou_without_ignored",
}


def divide(tiles: Sequence, folds: int, seed: int, groups: Mapping[Any, Hashable] | None = None) -> list[list]:
    """The tiles that each fold holds out: every tile stands in one fold, and the folds differ by one tile at most.

    groups: of each tile; a group is never divided, and folds are as even as that allows. Tiles are shuffled by the seed, and
    each fold keeps their order. Raises UserError where there are fewer tiles, or groups, than folds.
    """
    together: dict[Hashable, list[int]] = {}
    for i, tile in enumerate(tiles):
        together.setdefault(groups[tile] if groups else i, []).append(i)
    if folds > len(together):
        what = f"{len(together)} groups of training tiles (GROUPS)" if groups else f"{len(tiles)} training tiles"
        raise UserError(f"--folds {folds}: there are {what}, and each fold holds out one at least.")
    members = list(together.values())
    order = [members[i] for i in np.random.default_rng([seed, folds]).permutation(len(members))]
    held: list[list[int]] = [[] for _ in range(folds)]
    for group in sorted(order, key=len, reverse=True):
        min(held, key=len).extend(group)
    return [[tiles[i] for i in sorted(indices)] for indices in held]


def cross_validate(
    tiles: Sequence,
    folds: int,
    seed: int,
    home: Path,
    train: Callable[[list, list, Path], Mapping[str, Any] | None],
    writer: bool,
    groups: Mapping[Any, Hashable] | None = None,
) -> None:
    """Train once for each fold of the training tiles, scored on those that it holds out, and print what all folds found.

    train: called with the tiles that a fold keeps, those that it holds out, and its folder in `home`; returns its scores, or
    None if it was told to stop. writer: whether this rank writes files. groups: of tiles that no fold divides.
    """
    found = []
    for number, held_out in enumerate(divide(tiles, folds, seed, groups), 1):
        kept = [tile for tile in tiles if tile not in held_out]
        print(f"\nfold {number} of {folds} holds out {listing(map(tile_name, held_out))}")
        scores = train(kept, held_out, home / f"{_FOLDER}{number}")
        if scores is None:
            print(f"stopped in fold {number}; go on with --folds {folds} --restore")
            return
        found.append(scores)
    together = summary(found)
    if writer:
        write_json(home / SUMMARY, together)
    print(f"\n{folds} folds, each scored on the tiles that it held out:\n{as_text(together)}\n{home / SUMMARY}")


def folders(home: Path) -> list[Path]:
    """Those that the folds of an earlier cross-validation, which may have had more of them, lie in."""
    return sorted((path for path in home.glob(f"{_FOLDER}*") if path.is_dir() and _number_of(path)), key=_number_of)


def _number_of(folder: Path) -> int:
    """That of a fold, from 1; 0 for another folder."""
    found = re.fullmatch(rf"{_FOLDER}(\d+)", folder.name)
    return int(found[1]) if found else 0


def clear(folder: Path, overwrite: bool) -> None:
    """Set aside what an earlier cross-validation left in the folder of a fold, in those of later folds, and its summary.

    So no fold of before is taken for one of now, by a person or by --restore. What others put there stays.
    """
    resume.clear(folder, overwrite)
    for later in folders(folder.parent):
        if _number_of(later) > _number_of(folder):
            resume.clear(later, overwrite)
    if overwrite and (folder.parent / SUMMARY).exists():
        earlier.set_aside(folder.parent, [folder.parent / SUMMARY])


def result_of(folder: Path, niter: int, made_with: Mapping[str, Any], patience: int | None) -> dict[str, Any] | None:
    """The scores of a fold that has been trained to its end, None if that is still to do.

    made_with: what provenance says of the fold as it would be trained now; patience: PATIENCE. Raises UserError if its folder
    is of another run, or if its scores are lost.
    """
    iterations = list(map(snapshots.iteration_of, snapshots.found(folder)))
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        before = metrics["settings"] | {"database": metrics["database"]["fingerprint"]}
        early = metrics["stopped early"] and before["PATIENCE"] == patience
        last = ([{"iteration": -1}] + read_history(folder / METRICS)["validation"])[-1]
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        if max(iterations, default=0) < niter:
            return None
        raise UserError(
            f"{folder} is trained to its end, iteration {iterations[-1]}, but its {METRICS}, where its scores stood, is missing"
            " or damaged: put it back, or remove that folder, so that this fold is trained again; then go on with --restore."
        ) from None
    if odd := changed(before, made_with):
        raise UserError(
            f"{folder} was trained with other settings, so that its scores do not belong to the others: {'; '.join(odd)}; set"
            " them back, or begin again with --overwrite."
        )
    return last if (early or last["iteration"] == niter) and last["iteration"] in iterations else None


def summary(scores: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{name: `spread`} of each score and of each class's F1 and IoU over the folds; scores: a report of each fold."""
    found = {name: spread([s.get(key) for s in scores], least=-1 if key == "kappa" else 0) for name, key in _WHOLE.items()}
    for kind, label in (("f1", "F1"), ("iou", "IoU")):
        found |= {f"{label} {name}": spread([s[kind][name] for s in scores]) for name in scores[0][kind]}
    return found


def spread(values: Sequence[float | None], least: float = 0) -> dict[str, Any]:
    """Mean, sample deviation and 95 % interval of the mean (Student's t) of one score over the folds.

    None stands for a fold in which the score is not defined, as where a class is neither in the truth nor in the map: such
    folds are left out, and `folds` says how many were not. With fewer than two there is no deviation and no interval. The
    interval takes the folds for independent; they share training tiles, so it is rather too narrow (Bengio and Grandvalet,
    JMLR 5, 2004). It ends where the score does, at `least` and at 1.
    """
    known = np.array([v for v in values if v is not None], float)
    found: dict[str, Any] = {"folds": len(known), "values": list(values), "mean": None, "deviation": None, "interval": None}
    if len(known):
        found["mean"] = float(known.mean())
    if len(known) > 1:
        found["deviation"] = float(known.std(ddof=1))
        reach = float(stats.t.ppf(0.975, len(known) - 1)) * found["deviation"] / len(known) ** 0.5
        found["interval"] = [max(found["mean"] - reach, least), min(found["mean"] + reach, 1.0)]
    return found


def as_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A summary as a table for the terminal, in per cent (kappa as it is)."""
    width = max(map(len, found))
    lines = [f"{'':{width}}     mean  deviation  95 % interval     folds"]
    for name, row in found.items():
        factor, digits = (1, 3) if name == "kappa" else (100, 2)
        mean, deviation = (_number(row[key], factor, digits) for key in ("mean", "deviation"))
        ends = [_number(end, factor, digits).strip() for end in row["interval"] or ()]
        lines.append(f"{name:{width}}  {mean}     {deviation}  {' to '.join(ends) or '-':16}  {row['folds']:>4}")
    return "\n".join(lines)


def _number(value: float | None, factor: float, digits: int) -> str:
    return "      -" if value is None else f"{factor * value:7.{digits}f}"
