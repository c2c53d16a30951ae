"""Scores of label maps, all from one confusion matrix: rows are the truth, columns what the net says, entries are pixels."""

import warnings
from collections.abc import Collection, Sequence
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


def recall(matrix: np.ndarray) -> np.ndarray:
    """TP / (TP + FN), the accuracy of each class (producer's accuracy); NaN for a class that is not in the truth."""
    return _ratio(np.diag(matrix), matrix.sum(1))


def precision(matrix: np.ndarray) -> np.ndarray:
    """TP / (TP + FP) per class (user's accuracy); NaN for a class that is not in the map."""
    return _ratio(np.diag(matrix), matrix.sum(0))


def frequency_weighted_iou(matrix: np.ndarray, classes: Sequence[int] | None = None) -> float:
    """The mean IoU, each class weighted by its share of the true pixels (FWIoU; Long et al. 2015, arXiv 1411.4038).

    classes: those that it goes over, all where none are given.
    """
    kept = list(range(len(matrix)) if classes is None else classes)
    frequency, found = matrix.sum(1)[kept].astype(float), iou(matrix)[kept]
    return _ratio(float((frequency * np.nan_to_num(found)).sum()), float(frequency.sum()))


def never_predicted(matrix: np.ndarray, names: Sequence[str]) -> list[str]:
    """The classes that occur in the truth but nowhere in the prediction."""
    return [name for name, true, found in zip(names, matrix.sum(1), matrix.sum(0), strict=True) if true and not found]


def report(matrix: np.ndarray, names: list[str], ignored: Collection[int] = ()) -> dict[str, Any]:
    """All scores by name, for JSON: NaN becomes None.

    ignored: classes left out of the means "without ignored". As in the protocols of REFERENCE papers that average over
    five of ISPRS's six classes, scores of the others still come from the whole matrix. Two scores stand under both names that
    the field has for them: F1 is Dice, overall accuracy is pixel accuracy.
    """
    kept = [i for i in range(len(names)) if i not in ignored]
    by_class = {"f1": f1(matrix), "iou": iou(matrix), "recall": recall(matrix), "precision": precision(matrix)}
    means = {"mean_f1": by_class["f1"], "mean_iou": by_class["iou"], "mean_accuracy": by_class["recall"]}
    scores = {
        "pixels": int(matrix.sum()),
        "overall_accuracy": overall_accuracy(matrix),
        "pixel_accuracy": overall_accuracy(matrix),
        "kappa": kappa(matrix),
        **{name: _mean(values) for name, values in means.items()},
        "mean_dice": _mean(by_class["f1"]),
        "frequency_weighted_iou": frequency_weighted_iou(matrix),
        **{f"{name}_without_ignored": _mean(values[kept]) for name, values in means.items()},
        "mean_dice_without_ignored": _mean(by_class["f1"][kept]),
        "frequency_weighted_iou_without_ignored": frequency_weighted_iou(matrix, kept),
        **{kind: dict(zip(names, map(float, values), strict=True)) for kind, values in by_class.items()},
        "dice": dict(zip(names, map(float, by_class["f1"]), strict=True)),
        "never_predicted": never_predicted(matrix, names),
        "confusion": matrix.tolist(),
    }
    return _without_nan(scores)


_COLUMNS = {  # heading -> score of each class, its mean (None: there is none)
    "F1=Dice": ("f1", "mean_f1"),
    "IoU": ("iou", "mean_iou"),
    "accuracy": ("recall", "mean_accuracy"),
    "precision": ("precision", None),
}


def as_text(scores: dict[str, Any], ignored_names: Collection[str] = ()) -> str:
    """A report as a small table for the terminal, in per cent; a class's accuracy is its recall."""
    width = max(map(len, [*scores["f1"], "without ignored"]))
    lines = [" " * width + "".join(f"  {heading:>9}" for heading in _COLUMNS)]
    for name in scores["f1"]:
        note = "  (ignored)" if name in ignored_names else ""
        lines.append(_line(name, width, [scores[kind][name] for kind, _ in _COLUMNS.values()]) + note)
    means = [mean for _, mean in _COLUMNS.values() if mean]
    lines.append(_line("mean", width, [scores[mean] for mean in means]))
    if ignored_names:
        lines.append(_line("without ignored", width, [scores[f"{mean}_without_ignored"] for mean in means]))
    agreement = "-" if scores["kappa"] is None else f"{scores['kappa']:.3f}"
    weighted = _percent(scores["frequency_weighted_iou"])
    lines.append(f"overall accuracy {_percent(scores['overall_accuracy'])} %, FWIoU {weighted} %, kappa {agreement}")
    if scores["never_predicted"]:
        lines.append(f"note: no pixel was labelled {' or '.join(scores['never_predicted'])}, which the ground truth has.")
    return "\n".join(lines)


def matrix_as_text(scores: dict[str, Any]) -> str:
    """The confusion matrix of a report for the terminal: in per cent of each true class (row), what it was labelled as."""
    matrix, names = np.array(scores["confusion"]), list(scores["f1"])
    width = max(map(len, [*names, "true class"]))
    shares = _ratio(100 * matrix, matrix.sum(1, keepdims=True))
    lines = [f"{'true class':{width}}" + "".join(f"  {i:>5}" for i in range(len(names))) + "        pixels"]
    for i, name in enumerate(names):
        row = "".join("      -" if np.isnan(share) else f"  {share:5.1f}" for share in shares[i])
        lines.append(f"{name:{width}}{row}  {matrix[i].sum():12,}")
    legend = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    return "\n".join([*lines, f"in per cent of the true class; labelled as {legend}"])


def _line(name: str, width: int, values: Sequence[float | None]) -> str:
    return f"{name:{width}}" + "".join(f"  {_percent(value):>9}" for value in values)


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
    return "-" if value is None else f"{100 * value:.2f}"
