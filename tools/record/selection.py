"""Which weights of a run were the best so far, by its validations, and when to wait no longer for better ones."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

CRITERIA: dict[str, Callable[[float, float, int], float]] = {  # of loss, mean IoU and number of classes; more is better
    "loss": lambda loss, iou, classes: -loss,
    "iou": lambda loss, iou, classes: iou,
    # ln(classes) is the cross entropy of a net that knows nothing: both terms then go over a range of about 1.
    "combined": lambda loss, iou, classes: iou - loss / math.log(classes),
}


class Selection:
    """The best validations of a run by each of CRITERIA, and how long ago there was one.

    classes: of the net. patience: validations in a row without a new best by any criterion after which training should stop;
    None: never. best: {criterion: (iteration, value)} of the weights that were kept; of equal values the earlier one stays.
    """

    def __init__(self, classes: int, patience: int | None = None):
        self.classes, self.patience = classes, patience
        self.best: dict[str, tuple[int, float]] = {}
        self.waited = 0
        self._to_beat: dict[str, float] = {}

    def report(
        self, iteration: int, loss: float | None, iou: float | None, on_beat: bool = True, trained: float | None = None
    ) -> dict[str, tuple[int, float]]:
        """Take note of a validation; what belongs into `best`, once the weights are kept, comes back.

        loss, iou: None where nothing was scored, which is no best. trained: the loss that the net learns by, if it is another
        than `loss`, the cross entropy: "loss" goes by it. on_beat: False for a validation that a longer run would
        not have made (the one at the end): it may be the best, but patience does not see it, so that a run in two parts
        stops where it would have stopped in one. Patience goes by the scores alone, whether weights are kept or not.
        """
        found = {}
        if loss is not None and iou is not None:
            found = {name: value(loss, iou, self.classes) for name, value in CRITERIA.items()}
            found["loss"] = -(loss if trained is None else trained)
        better = {n: (iteration, v) for n, v in found.items() if n not in self.best or v > self.best[n][1]}
        if on_beat:
            risen = {n: v for n, v in found.items() if v > self._to_beat.get(n, -math.inf)}
            self._to_beat |= risen
            self.waited = 0 if risen else self.waited + 1
        return better

    def forget(self, gone: Collection[str]) -> None:
        """Leave the criteria without a best whose weights are gone."""
        self.best = {name: pair for name, pair in self.best.items() if name not in gone}

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What the next reports depend on."""
        best = {name: list(pair) for name, pair in self.best.items()}
        return {"best": best, "waited": self.waited, "to_beat": dict(self._to_beat)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.best = {name: (iteration, value) for name, (iteration, value) in state["best"].items()}
        self.waited, self._to_beat = state["waited"], dict(state["to_beat"])
