"""The line that a person watches while a net trains."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from tools.record.history import Interval
from tools.training.trainer import Trainer


class Progress:
    """A progress bar with loss, learning rate, images per second and time left; use it in a `with`.

    trainer: whose progress it is. niter: the last iteration, None if it is not known. batch: images in an iteration. every:
    iterations between looks.
    """

    def __init__(self, trainer: Trainer, niter: int | None, batch: int, every: int):
        self.trainer, self.batch, self.every = trainer, batch, every
        silent = not trainer.ranks.writer
        self._bar = tqdm(
            total=niter, initial=trainer.iteration, desc="training", unit="it", mininterval=0, disable=silent
        )  # fmt: skip
        self._shown = trainer.iteration
        self._since = time.monotonic()
        self._seen = False  # whether anything was shown

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def show(self) -> Interval | None:
        """Show and give how the last iterations went, if it is time to."""
        trainer = self.trainer
        if trainer.iteration % self.every and trainer.iteration != self._bar.total:
            return self._first()
        trainer.fetch_losses()
        done = trainer.iteration - self._shown
        self._shown = trainer.iteration
        now = time.monotonic()
        beat = (trainer.iteration - 1) // self.every * self.every  # not where we began: a restored run's history is the same
        recent = trainer.losses[beat:]
        found = Interval(
            trainer.iteration, sum(recent) / len(recent), trainer.solver.rate(trainer.iteration - 1),
            done * self.batch / (now - self._since), trainer.fetch_iou(),
        )  # fmt: skip
        self._bar.set_postfix_str(str(found), refresh=False)
        self._bar.update(done)
        self._since = now
        return found

    def _first(self) -> None:
        """Show the loss of the very first iteration, so that a person sees soon that something happens."""
        if self._bar.n == self.trainer.iteration - 1 and not self._seen:
            self.trainer.fetch_losses()
            self._bar.set_postfix_str(f"loss {self.trainer.losses[-1]:.4f}")
        self._seen = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this block time does not count for images per second."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start
