"""Scores of label maps, all from one confusion matrix: rows are the truth, columns what the net says, entries are pixels."""

import warnings
from collections.abc import Collection
from typing import Any

import numpy as np


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """classes x classes pixel counts (int64) of two label arrays of one shape.

    Pixels whose truth is no class (eroded borders), or that were not labelled for want of data, do not count.
    """
    scored = (truth < classes) & (predicted < classes)
    index = truth[scored].astype(np.int64) * classes + predicted[scored]
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def overall_accuracy(matrix: np.ndarray) -> float:
    """The share of the pixels that are right."""
    return _ratio(np.trace(matrix), matrix.sum())


def kappa(matrix: np.ndarray) -> float:
    """Cohen's kappa: the agreement beyond that of two maps with the same class shares that know nothing of each other."""
    total = matrix.sum()
    by_chance = _ratio((matrix.sum(0).astype(float) * matrix.sum(1)).sum(), float(total) ** 2)
    return _ratio(overall_accuracy(matrix) - by_chance, 1 - by_chance)


def f1(matrix: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) per class; NaN for a class that is neither in the truth nor in the map."""
    right = np.diag(matrix)
    return _ratio(2 * right, matrix.sum(0) + matrix.sum(1))


def iou(matrix: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN) per class; NaN for a class that is neither in the truth nor in the map."""
    right = np.diag(matrix)
    return _ratio(right, matrix.sum(0) + matrix.sum(1) - right)


def report(matrix: np.ndarray, names: list[str], ignored: Collection[int] = ()) -> dict[str, Any]:
    """All scores by name, for JSON: NaN becomes None.

    ignored: classes left out of the means "without ignored". As in the protocols of REFERENCE papers that average over
    five of ISPRS's six classes, F1 and IoU of the others still come from the whole matrix.
    """
    kept = [i for i in range(len(names)) if i not in ignored]
    scores = {
        "pixels": int(matrix.sum()),
        "overall_accuracy": overall_accuracy(matrix),
        "kappa": kappa(matrix),
        "mean_f1": _mean(f1(matrix)),
        "mean_iou": _mean(iou(matrix)),
        "mean_f1_without_ignored": _mean(f1(matrix)[kept]),
        "mean_iou_without_ignored": _mean(iou(matrix)[kept]),
        "f1": dict(zip(names, map(float, f1(matrix)), strict=True)),
        "iou": dict(zip(names, map(float, iou(matrix)), strict=True)),
        "confusion": matrix.tolist(),
    }
    return _without_nan(scores)


def as_text(scores: dict[str, Any], ignored_names: Collection[str] = ()) -> str:
    """A report as a small table for the terminal, in per cent."""
    width = max(map(len, [*scores["f1"], "without ignored"]))
    lines = [f"{'':{width}}      F1     IoU"]
    for name in scores["f1"]:
        note = "  (ignored)" if name in ignored_names else ""
        lines.append(f"{name:{width}}  {_percent(scores['f1'][name])}  {_percent(scores['iou'][name])}{note}")
    lines.append(f"{'mean':{width}}  {_percent(scores['mean_f1'])}  {_percent(scores['mean_iou'])}")
    if ignored_names:
        f1_kept, iou_kept = scores["mean_f1_without_ignored"], scores["mean_iou_without_ignored"]
        lines.append(f"{'without ignored':{width}}  {_percent(f1_kept)}  {_percent(iou_kept)}")
    accuracy, agreement = _percent(scores["overall_accuracy"]), scores["kappa"]
    lines.append(f"overall accuracy {accuracy} %, kappa {'-' if agreement is None else f'{agreement:.3f}'}")
    return "\n".join(lines)


def _ratio(a, b):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(a, b, dtype=np.float64) if np.ndim(a) else float(np.divide(a, b, dtype=np.float64))


def _mean(values: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean over nothing, which is NaN
        return float(np.nanmean(values))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _percent(value: float | None) -> str:
    return "     -" if value is None else f"{100 * value:6.2f}"
