"""The training step: forward, loss, backward, update; and the state from which a run goes on as if never stopped."""

import contextlib
import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.base.errors import UserError
from tools.compute.device import Device, memory_suffices
from tools.compute.distributed import ALONE, Ranks
from tools.compute.frozen_batch_norm import frozen_norms
from tools.data.inputs import Input
from tools.labels.scores import iou
from tools.solver.ema import Average, copy_of
from tools.solver.losses import NO_LOSS, Loss
from tools.solver.solver import Solver
from tools.training.batch_scores import RunningScores


class NotFiniteError(UserError):
    """Training came to numbers that are not finite. iteration: at which one, the first being 1."""

    def __init__(self, what: str, iteration: int, rate: float):
        super().__init__(
            f"{what}: training stops, earlier snapshots are as they were; lower BASE_LR (the rate was {rate:g}) or look at the"
            " data."
        )
        self.iteration = iteration


def at_size(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (N x h x w) for scores of another size: of the nearest pixels, as Caffe's users shrink them."""
    if tuple(target.shape[1:]) == tuple(size):
        return target
    return F.interpolate(target[:, None].float(), size, mode="nearest-exact")[:, 0].long()


class Trainer:
    """A net in training.

    net: on its device. inputs: what it reads. ignored: classes that give no loss; labels beyond the classes give none
    either. loss: what is to be small; None for cross entropy. iter_size: parts that a batch goes through the net in, one after
    the other, with gradients averaged. ema_decay: of the moving average of the weights, None for none (see `averaged`).
    ranks: the processes that train this net together, each on its share of every batch. forward: what computes the net where
    that is not the net itself: its compiled or its distributed form. iteration: how many are done. losses: of each of them.
    running: scores of the batches, see `fetch_iou`.
    """

    def __init__(
        self,
        net: nn.Module,
        solver: Solver,
        inputs: list[Input],
        ignored: Collection[int],
        device: Device,
        loss: Loss | None = None,
        iter_size: int = 1,
        ema_decay: float | None = None,
        ranks: Ranks = ALONE,
        forward: nn.Module | None = None,
    ):
        self.net, self.solver, self.inputs, self.device = net.train(), solver, inputs, device
        self.loss, self.iter_size, self.ranks = loss or Loss(), iter_size, ranks
        self._forward = net if forward is None else forward
        self.average = None if ema_decay is None else Average(net, ema_decay)
        self.iteration = 0
        self.losses: list[float] = []
        self.running = RunningScores(net.classes, device.device)
        self._scored = [c for c in range(net.classes) if c not in ignored]
        self._pending: list[tuple[Tensor, Tensor]] = []  # loss and norm of gradients, on the device: to fetch makes a GPU wait
        targets = torch.full((256,), NO_LOSS)
        targets[: net.classes] = torch.arange(net.classes)
        targets[list(ignored)] = NO_LOSS
        self._targets = targets.to(device.device)

    def step(self, images: list[Tensor], labels: Tensor) -> None:
        """One iteration on a batch: N x channels x h x w per input, N x h x w labels, as they come from the database.

        With an `iter_size`, N is that many times what goes through the net at once. Each part counts by its share of all
        labelled pixels, so that cross entropy and focal loss have the gradients of the undivided batch, up to rounding and to
        batch norm, whose statistics are each part's own; losses of regions (Dice ...) are averages over the parts. The same is
        true of the shares of several processes (of which batch norm may have common statistics: sync_batch_norm.py).
        """
        if self.solver.frozen.at(self.iteration) and self.ranks.count > 1:  # other gradients are exchanged from now on
            self._forward = self.ranks.parallel(self.net, self._forward.module, self.device.device)
        with memory_suffices(self._when_memory_does_not(len(labels))), told_if_too_few():
            self._pending.append(self._learn(images, labels))
        self.iteration += 1

    def _learn(self, images: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Forward, backward, update; the loss and the norm of its gradients come back."""
        target = self._targets[self.device.send(labels).long()]
        whole = self.ranks.mean(self.loss.amount(target)).clamp(min=torch.finfo(torch.float32).tiny)
        loss = 0
        for part in torch.arange(len(labels)).chunk(self.iter_size):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            share = self.loss.amount(target[rows]) / whole
            with contextlib.nullcontext() if rows.stop == len(labels) else self._without_exchange():
                loss = loss + self._backward([x[rows] for x in images], target[rows], share)
        norm = self.solver.step(self.iteration)
        if self.average:
            self.average.update(self.net, self.iteration)
        return loss, norm

    def _without_exchange(self) -> contextlib.AbstractContextManager:
        """For all parts of a batch but the last: the processes exchange their gradients once."""
        return self._forward.no_sync() if self.ranks.count > 1 else contextlib.nullcontext()

    def _backward(self, images: list[Tensor], target: Tensor, share: Tensor) -> Tensor:
        """Add the gradients of a part of the batch, which counts `share`; what it adds to the loss comes back."""
        pixels = [i.normalise(self.device.send(x)) for i, x in zip(self.inputs, images, strict=True)]
        with self.device.autocast():
            written = self._forward(*[p.contiguous(memory_format=self.device.memory_format) for p in pixels])
        logits, *further = written if isinstance(written, tuple) else (written,)
        self.running.add(logits, target)
        loss = self.loss(logits.float(), target)
        for scores, weight in zip(further, getattr(self.net, "auxiliary", {}).values(), strict=False):
            loss = loss + weight * self.loss(scores.float(), at_size(target, scores.shape[2:]))
        loss = loss * share
        loss.backward()
        return loss.detach()

    def _when_memory_does_not(self, patches: int) -> str:
        """What to say where a batch of so many patches, ours alone, is too large for the memory."""
        part, count = patches // self.iter_size, self.ranks.count
        fewer = next((n for n in range(2, part + 1) if part % n == 0), None)
        way = (
            f"set BATCH_SIZE = {part * count // fewer} and ITER_SIZE = {self.iter_size * fewer}, which learn from as many"
            " patches in an iteration"
            if fewer
            else "take smaller patches or a smaller net"
        )
        return f"the memory of {self.device.device} is too small for BATCH_SIZE = {part * count}: {way}."

    def fetch_iou(self) -> float | None:
        """The mean IoU, without ignored classes, of the batches since the last call, by what the net said as it learned.

        All processes call it together.
        """
        found = iou(self.ranks.total(self.running.fetch()).cpu().numpy())[self._scored]
        return None if np.isnan(found).all() else float(np.nanmean(found))

    def averaged(self) -> contextlib.AbstractContextManager:
        """The context in which the net has the averaged weights, which are for use: for scores, snapshots and inference.

        Without an average it has its own there as well.
        """
        return self.average.used_by(self.net) if self.average else contextlib.nullcontext()

    def fetch_losses(self) -> None:
        """Bring `losses` up to date; all processes do it at the same iterations.

        Raises NotFiniteError where a loss, or a gradient that came of it, is not a finite number.
        """
        if not self._pending:
            return
        losses, norms = (torch.stack(values) for values in zip(*self._pending, strict=True))
        losses, norms = self.ranks.mean(losses).tolist(), norms.tolist()
        first = self.iteration - len(losses) + 1
        self._pending = []
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True), first):
            if not math.isfinite(loss):
                self._stop(f"the loss is {loss} at iteration {i}", i)
            if not math.isfinite(norm):
                self._stop(f"the gradients are not finite at iteration {i} (the loss is {loss:.4g})", i)
        self.losses += losses

    def check_finite(self) -> None:
        """Raise NotFiniteError where losses, gradients or weights are not finite; brings `losses` up to date.

        The update itself may have spoilt the weights, which no loss has shown as yet. All processes call it together.
        """
        self.fetch_losses()
        floats = [v for v in self.net.state_dict().values() if v.is_floating_point()]
        if not math.isfinite(nn.utils.get_total_norm(floats, norm_type=math.inf)):
            self._stop(f"the weights are not finite after iteration {self.iteration}", self.iteration)

    def _stop(self, what: str, iteration: int) -> None:
        raise NotFiniteError(what, iteration, self.solver.rate(iteration - 1))

    def state(self) -> dict[str, Any]:
        """All that the next iteration depends on but the weights that the net has while `averaged`. Call it outside of that.

        All processes call it together, and get the same. Raises NotFiniteError where the weights are not.
        """
        self.check_finite()
        state = {
            "iteration": self.iteration,
            **self.solver.state_dict(),
            **self._random_state(),
            "pretrained": list(self.solver.pretrained),
            "frozen_norms": frozen_norms(self.net),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        if self.average:
            state["own_weights"] = copy_of(self.net)
        return state

    def _random_state(self) -> dict[str, Any]:
        """The random states: of the first process by itself, as a run of one process has them, and of the others in a list."""
        states = {"random": torch.get_rng_state()}
        if self.device.device.type == "cuda":
            states["random_cuda"] = torch.cuda.get_rng_state(self.device.device)
        all_of_them = {name: self.ranks.gather(state) for name, state in states.items()}
        others = {f"{name}_others": found[1:] for name, found in all_of_them.items() if len(found) > 1}
        return {name: found[0] for name, found in all_of_them.items()} | others

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; the net has the weights that it had while `averaged`, from the weights file.

        Raises UserError where the state is of another net or solver.
        """
        try:
            self.solver.load_state_dict(state)
            if "own_weights" in state:
                if self.average:
                    self.average.values = copy_of(self.net)
                self.net.load_state_dict(state["own_weights"])
            self.iteration = state["iteration"]
            self.losses = list(map(float, state["losses"]))
            self._restore_random_state(state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise UserError(
                f"the solverstate is damaged, or of another net or solver ({reason}): restore another one."
            ) from None

    def _restore_random_state(self, state: dict[str, Any]) -> None:
        """Exact with as many processes as before; further ones go on with random numbers of their own."""
        if (own := self._own(state, "random")) is not None:
            torch.set_rng_state(own)
        if self.device.device.type == "cuda" and (own := self._own(state, "random_cuda")) is not None:
            torch.cuda.set_rng_state(own, self.device.device)

    def _own(self, state: dict[str, Any], name: str) -> Tensor | None:
        """This process's random state of a kind, None where there is none."""
        states = [state[name], *state.get(f"{name}_others", [])] if name in state else []
        return states[self.ranks.rank] if self.ranks.rank < len(states) else None


@contextlib.contextmanager
def told_if_too_few() -> Iterator[None]:
    """Within this block batch norm is not left without anything to measure. Raises UserError if it is."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch norm cannot learn from one value per channel, as this net comes down to one pixel: set BATCH_SIZE to 2 or"
            " more for each process and part of the batch (ITER_SIZE), or take larger patches."
        ) from None
