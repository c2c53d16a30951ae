"""The line that a person watches while a net trains."""

import time

from tqdm import tqdm

from tools.trainer import Trainer


class Progress:
    """A progress bar with loss, learning rate, images per second and time left; use it in a `with`.

    trainer: whose progress it is. niter: the last iteration. batch: images in an iteration. every: iterations between looks.
    """

    def __init__(self, trainer: Trainer, niter: int, batch: int, every: int):
        self.trainer, self.batch, self.every = trainer, batch, every
        self._bar = tqdm(total=niter, initial=trainer.iteration, desc="training", unit="it", mininterval=0)
        self._since = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def show(self) -> None:
        """Say how the last iterations went, if it is time to."""
        trainer = self.trainer
        if trainer.iteration % self.every and trainer.iteration < self._bar.total:
            return
        trainer.fetch_losses()
        done = trainer.iteration - self._bar.n
        now = time.monotonic()
        recent = trainer.losses[-done:] or [float("nan")]
        self._bar.set_postfix_str(
            f"loss {sum(recent) / len(recent):.4f}, rate {trainer.solver.rate(trainer.iteration - 1):g},"
            f" {done * self.batch / (now - self._since):.1f} images/s",
            refresh=False,
        )
        self._bar.update(done)
        self._since = now

    def pause(self) -> None:
        """Call after work that is not training, so that images/s does not count it."""
        self._since = time.monotonic()
