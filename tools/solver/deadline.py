"""Training by the clock, for so many minutes instead of so many iterations."""

import time

from tools.base.errors import UserError
from tools.solver.schedules import Schedule

BY_THE_CLOCK = 500  # iterations between snapshots, and so validations, where the config does not say
STEPS = 100_000  # of a policy that goes by the clock, and ends where the config does not say


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

    def lead(self, schedule: Schedule, iteration: int, processes: int) -> None:
        """Have the learning rate of a fresh run go through its policy in this time, if the policy has an end.

        Raises UserError for a restored run, whose rate goes by its iterations, and for several processes, whose clocks and so
        rates would differ.
        """
        if self.minutes is None or schedule.last is None:
            return
        if iteration:
            raise UserError("--minutes: a restored run goes along its LR_POLICY by its iterations: give --niter instead.")
        if processes > 1:
            raise UserError("--minutes and an LR_POLICY that ends are for one process: give --niter under torchrun.")
        schedule.share = lambda: self.share
