"""The training step: forward, loss, backward, update; and the state from which a run goes on as if never stopped."""

import contextlib
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from tools.averaging import Average, copy_of
from tools.device import Device
from tools.errors import UserError
from tools.inputs import Input
from tools.losses import NO_LOSS, Loss
from tools.losses import masked_cross_entropy as masked_cross_entropy  # the default loss, by its name of old
from tools.solver import Solver


class Trainer:
    """A net in training.

    net: on its device. inputs: what it reads. ignored: classes that give no loss; labels beyond the classes give none
    either. loss: what is to be small; None for cross entropy. iter_size: parts that a batch goes through the net in, one after
    the other, with gradients averaged. ema_decay: of the moving average of the weights, None for none (see `averaged`).
    iteration: how many are done. losses: of each of them. scores: mean IoU on the validation tiles by iteration.
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
    ):
        self.net, self.solver, self.inputs, self.device = net.train(), solver, inputs, device
        self.loss, self.iter_size = loss or Loss(), iter_size
        self.average = None if ema_decay is None else Average(net, ema_decay)
        self.iteration = 0
        self.losses: list[float] = []
        self.scores: dict[int, float] = {}
        self._pending: list[Tensor] = []  # losses still on the device: to fetch each one at once would make a GPU wait
        targets = torch.full((256,), NO_LOSS)
        targets[: net.classes] = torch.arange(net.classes)
        targets[list(ignored)] = NO_LOSS
        self._targets = targets.to(device.device)

    def step(self, images: list[Tensor], labels: Tensor) -> None:
        """One iteration on a batch: N x channels x h x w per input, N x h x w labels, as they come from the database.

        With an `iter_size`, N is that many times what goes through the net at once. Each part counts by its share of all
        labelled pixels, so that cross entropy and focal loss have the gradients of the undivided batch, up to rounding and to
        batch norm, whose statistics are each part's own; losses of regions (Dice ...) are averages over the parts.
        """
        target = self._targets[self.device.send(labels).long()]
        whole = self.loss.amount(target).clamp(min=torch.finfo(torch.float32).tiny)
        loss = 0
        for part in torch.arange(len(labels)).chunk(self.iter_size):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            share = self.loss.amount(target[rows]) / whole
            loss = loss + self._backward([x[rows] for x in images], target[rows], share)
        self.solver.step(self.iteration)
        if self.average:
            self.average.update(self.net, self.iteration)
        self.iteration += 1
        self._pending.append(loss)

    def _backward(self, images: list[Tensor], target: Tensor, share: Tensor) -> Tensor:
        """Add the gradients of a part of the batch, which counts `share`; what it adds to the loss comes back."""
        pixels = [i.normalise(self.device.send(x)) for i, x in zip(self.inputs, images, strict=True)]
        with self.device.autocast():
            logits = self.net(*[p.contiguous(memory_format=self.device.memory_format) for p in pixels])
        loss = self.loss(logits.float(), target) * share
        loss.backward()
        return loss.detach()

    def averaged(self) -> contextlib.AbstractContextManager:
        """The context in which the net has the averaged weights, which are for use: for scores, snapshots and inference.

        Without an average it has its own there as well.
        """
        return self.average.used_by(self.net) if self.average else contextlib.nullcontext()

    def fetch_losses(self) -> None:
        """Bring `losses` up to date. Raises UserError where a loss is not a finite number."""
        values = torch.stack(self._pending).tolist() if self._pending else []
        first = self.iteration - len(values) + 1
        self._pending = []
        for i, value in enumerate(values, first):
            if not math.isfinite(value):
                raise UserError(
                    f"the loss is {value} at iteration {i}: training stops, earlier snapshots are as they were; lower BASE_LR"
                    f" (the rate was {self.solver.rate(i - 1):g}) or look at the data."
                )
        self.losses += values

    def state(self) -> dict[str, Any]:
        """All that the next iteration depends on but the weights that the net has while `averaged`. Call it outside of that."""
        self.fetch_losses()
        state = {
            "iteration": self.iteration,
            **self.solver.state_dict(),
            "random": torch.get_rng_state(),
            "pretrained": list(self.solver.pretrained),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "scores": dict(self.scores),
        }
        if self.average:
            state["own_weights"] = copy_of(self.net)
        if self.device.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device.device)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; the net has the weights that it had while `averaged`, from the weights file.

        Raises UserError where the state is of another net or solver.
        """
        self.solver.load_state_dict(state)
        if "own_weights" in state:
            if self.average:
                self.average.values = copy_of(self.net)
            self.net.load_state_dict(state["own_weights"])
        self.iteration, self.scores = state["iteration"], dict(state["scores"])
        self.losses = state["losses"].tolist()
        torch.set_rng_state(state["random"])
        if "random_cuda" in state and self.device.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device.device)
