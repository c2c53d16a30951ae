"""Training by the clock, for so many minutes instead of so many iterations."""

import time

from tools.base.errors import UserError
from tools.training.trainer import Trainer


class Deadline:
    """The end of a run by the clock. minutes: from now until then; None: it never comes."""

    def __init__(self, minutes: float | None):
        self.minutes, self._start = minutes, time.monotonic()

    @property
    def share(self) -> float:
        """How much of the time has passed, 0 to 1; 0 if there is no end."""
        return 0.0 if self.minutes is None else min((time.monotonic() - self._start) / (60 * self.minutes), 1.0)

    @property
    def passed(self) -> bool:
        """Whether it is time to stop."""
        return self.share >= 1

    def lead(self, trainer: Trainer) -> None:
        """Have the learning rate of a fresh run go through its policy in this time, if the policy has an end.

        A restored run keeps to its iterations. Raises UserError for several processes, whose clocks and so rates would differ.
        """
        schedule = trainer.solver.schedule
        if self.minutes is None or schedule.last is None or trainer.iteration:
            return
        if trainer.ranks.count > 1:
            raise UserError("--minutes and an LR_POLICY with max_iterations are for one process: give --niter under torchrun.")
        schedule.share = lambda: self.share
