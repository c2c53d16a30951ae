"""The training loop: steps, and at their time validations, best weights, snapshots and records."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tools.compute.signals import Signals
from tools.record import earlier
from tools.record.history import Validation
from tools.record.recorder import Recorder
from tools.record.selection import Selection
from tools.solver.deadline import Deadline
from tools.training.progress import Progress
from tools.training.settings import TrainingSettings
from tools.training.trainer import Trainer
from tools.weights import snapshots
from tools.weights.caffe import write_caffemodel

CAFFE = "caffemodel"  # of SNAPSHOT_FORMATS


@dataclass(frozen=True)
class Loop:
    """Trains to iteration `niter` (None: to no iteration in particular) or to the deadline.

    training: the config's section. validate: scores the net as it stands; None if there are no validation tiles. selection: the
    best weights so far. recorder: of how the run goes. about: what a weights file says of the net. made_with: what makes the
    run the run that it is.
    """

    trainer: Trainer
    training: TrainingSettings
    niter: int | None
    deadline: Deadline
    validate: Callable[[Trainer], Validation] | None
    selection: Selection
    recorder: Recorder
    about: Mapping[str, Any]
    made_with: Mapping[str, Any]

    def run(self, feed: Iterable, progress: Progress, signals: Signals) -> None:
        """Take batches (images, labels) from `feed` until the last iteration, a signal, or the end of patience."""
        for images, labels in feed:
            self.trainer.step(images, labels)
            signals.stop |= self.deadline.passed
            self.trainer.ranks.agree(signals)
            if seen := progress.show():
                self.recorder.add(seen)
            with progress.paused():
                self._pause(signals)
            if signals.stop:
                break

    def _pause(self, signals: Signals) -> None:
        """What is due after an iteration.

        Before the end that a signal or the deadline asks for there is a validation too, but first a snapshot, should there be
        no time for it.
        """
        if signals.stop and self.validate is not None and not self._validation_is_due():
            self._snapshot()
            self._validate()
        if validated := self._validation_is_due():
            self._validate()
            signals.stop |= self._is_enough()
        if self._snapshot_is_due(signals):
            self._snapshot()
        elif validated:
            self.recorder.write(self.trainer.losses, self.selection.best, self.selection.exhausted)

    def _on_beat(self) -> bool:
        """Whether a run of any length is validated at this iteration."""
        return self.trainer.iteration % self.training.validate_every == 0

    def _validation_is_due(self) -> bool:
        """At every VAL_EVERY iterations, and at the end."""
        return self.validate is not None and (self._on_beat() or self.trainer.iteration == self.niter)

    def _snapshot_is_due(self, signals: Signals) -> bool:
        """At every SNAPSHOT_EVERY iterations, at the end, and when a signal asks for it."""
        asked, signals.snapshot = signals.snapshot or signals.stop, False
        at_its_time = self.trainer.iteration % self.training.SNAPSHOT_EVERY == 0 or self.trainer.iteration == self.niter
        return asked or at_its_time

    def _validate(self) -> None:
        """Score the validation tiles as inference would label them by one look; keep the weights if they are the best yet."""
        self.trainer.check_finite()  # a net whose loss or weights are no numbers is not worth a look
        with self.trainer.averaged():
            self.trainer.ranks.adopt(self.trainer.net)
            found = self.validate(self.trainer)
            better = self.selection.report(self.trainer.iteration, found.loss, found.iou, self._on_beat(), found.trained_loss)
            self.recorder.add_validation(self.trainer.iteration, found, list(better))
            for criterion, best in better.items():
                self._keep_best(criterion, best, found)
        self.trainer.net.train()
        if self._on_beat():  # else the rate would depend on how long the run was meant to be
            self.trainer.solver.report(found.iou or 0.0)

    def _keep_best(self, criterion: str, best: tuple[int, float], found: Validation) -> None:
        about = {**self.about, "scores": found.scores}
        with self.recorder.log.training_goes_on(f"net_best_{criterion}.safetensors"):
            if self.trainer.ranks.writer:
                snapshots.save_best(self.recorder.folder, criterion, self.trainer.iteration, self.trainer.net, about)
            self.selection.best[criterion] = best  # now that its file is there

    def _is_enough(self) -> bool:
        """Whether PATIENCE is at its end, which is then logged."""
        if self.selection.exhausted:
            best = ", ".join(f"{name} at iteration {iteration}" for name, (iteration, _) in self.selection.best.items())
            waited = self.selection.waited
            self.recorder.log.say(f"stopped early: {waited} validations without a better one (best {best or 'none'}); PATIENCE")
        return self.selection.exhausted

    def _snapshot(self) -> None:
        """Bring the records up to date, write the snapshot, remove the oldest if KEEP_SNAPSHOTS says so."""
        trainer, folder = self.trainer, self.recorder.folder
        state = trainer.state() | {"selection": self.selection.state_dict(), "made_with": dict(self.made_with)}
        if not trainer.ranks.writer:
            return
        # First the records: a run that is restored from here finds its history.
        self.recorder.write(trainer.losses, self.selection.best, self.selection.exhausted)
        with self.recorder.log.training_goes_on(f"the snapshot of iteration {trainer.iteration}"):
            with trainer.averaged():
                path = snapshots.save(folder, trainer.iteration, trainer.net, self.about, state)
                if CAFFE in self.training.SNAPSHOT_FORMATS:
                    write_caffemodel(trainer.net, path.with_suffix(".caffemodel"))
            earlier.forget(folder)
            self.recorder.log.note(f"snapshot: {path}")
            if self.training.KEEP_SNAPSHOTS:
                snapshots.prune(folder, self.training.KEEP_SNAPSHOTS, trainer.iteration)

    def check_end(self) -> None:
        """Log the newest snapshot. Raises UserError if the last one is not there."""
        if self.trainer.ranks.writer:
            folder = self.recorder.folder
            snapshots.check_end(folder, self.trainer.iteration)
            self.recorder.log.say(f"newest snapshot: {snapshots.newest(folder)}")
