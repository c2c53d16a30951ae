"""The scores of several splits side by side."""

from collections.abc import Collection, Mapping
from typing import Any

_WHOLE = {  # line -> score, and whether it is a share
    "loss": ("trained_loss", False),
    "cross entropy": ("loss", False),
    "overall accuracy": ("overall_accuracy", True),
    "mean IoU": ("mean_iou_without_ignored", True),
    "mean Dice": ("mean_dice_without_ignored", True),
    "mean class accuracy": ("mean_accuracy_without_ignored", True),
}


def as_text(splits: Mapping[str, Mapping[str, Any]], ignored_names: Collection[str] = ()) -> str:
    """A table with a column for each split: the scores of the whole, then IoU and Dice by class; shares in per cent.

    splits: a report of scores by split, with "loss" and, if another loss than cross entropy is trained, "trained_loss".
    """
    lines = {}
    for line, (score, share) in _WHOLE.items():
        if any(score in found for found in splits.values()):
            lines[line] = [_number(found.get(score), share) for found in splits.values()]
    for label, kind in (("IoU", "iou"), ("Dice", "dice")):
        for name in next(iter(splits.values()))[kind]:
            note = " (ignored)" if name in ignored_names else ""
            lines[f"{label} {name}{note}"] = [_number(found[kind][name], True) for found in splits.values()]
    width = max(map(len, lines))
    head = " " * width + "".join(f"  {split:>8}" for split in splits)
    return "\n".join([head, *(f"{line:{width}}" + "".join(f"  {value:>8}" for value in row) for line, row in lines.items())])


def _number(value: float | None, share: bool) -> str:
    return "-" if value is None else f"{100 * value:.2f}" if share else f"{value:.4f}"
