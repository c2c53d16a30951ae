"""Which weights of a run are used: the best by its validations, the newest snapshot, or a file that is named."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.base.errors import UserError
from tools.weights import snapshots

BEST, NEWEST = "best", "newest"  # words of --weights
_CRITERIA = ("iou", "combined", "loss")  # the best by the first of them that there is
_SCORE = "mean_iou_without_ignored"


@dataclass(frozen=True)
class Chosen:
    """Weights to use. note: which they are and what the other ones of the run would be; "" for a file that was named."""

    path: Path
    note: str = ""


def choose(words: Sequence[str | Path], home: Path) -> list[Chosen]:
    """The weights that the words of --weights mean; without a word, the run of the config.

    words: "best", "newest", files, and folders of runs. home: where the snapshots of the config's run lie. Of a run, the best
    weights by its validation tiles are taken where there are some, else the newest snapshot. Raises UserError where there is
    no such thing.
    """
    return [_one(Path(word), home) for word in words or [home]]


def _one(word: Path, home: Path) -> Chosen:
    if str(word) in (BEST, NEWEST):
        return _of_run(home, str(word))
    return _of_run(word, None) if word.is_dir() or word == home else Chosen(word)


def _of_run(folder: Path, kind: str | None) -> Chosen:
    """The weights of a run of a kind; None: the best ones, or the newest ones where there are none."""
    best, whole = best_of(folder), snapshots.found(folder)
    if kind == BEST and best is None:
        raise UserError(f"--weights best: {folder} has no net_best_*, which training keeps where val_ids names tiles: newest?")
    if kind == NEWEST or best is None:
        path = snapshots.newest(folder)
        other = f"; --weights best would take {describe(best)}" if best else "; there are no best weights by validation"
        return Chosen(path, f"weights of {folder.name}: the newest, {describe(path)}{other}")
    other = f"; --weights newest would take {describe(whole[-1])}" if whole else ""
    return Chosen(best, f"weights of {folder.name}: the best by its validation tiles, {describe(best)}{other}")


def best_of(folder: Path) -> Path | None:
    """The best weights of a run by mean IoU, or by what else there is."""
    return next((path for name in _CRITERIA if (path := snapshots.best_of(folder, name)).is_file()), None)


def describe(path: Path) -> str:
    """What a weights file is, in words: its name, iteration and, of best weights, what they scored."""
    about = snapshots.read_about(path)
    score = about.get("scores", {}).get(_SCORE)
    scored = f", mean IoU {100 * score:.2f} %" if score is not None else ""
    return f"{path.name} (iteration {about.get('iteration', 'unknown')}{scored})"
