"""The training step: forward, loss, backward, update; and the state from which a run goes on as if never stopped."""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.device import Device
from tools.errors import UserError
from tools.inputs import Input
from tools.solver import Solver

NO_LOSS = 255  # the target of a pixel that gives no loss


class Trainer:
    """A net in training.

    net: on its device. inputs: what it reads. ignored: classes that give no loss; labels beyond the classes give none
    either. iteration: how many are done. losses: of each of them. scores: mean IoU on the validation tiles by iteration.
    """

    def __init__(self, net: nn.Module, solver: Solver, inputs: list[Input], ignored: Collection[int], device: Device):
        self.net, self.solver, self.inputs, self.device = net.train(), solver, inputs, device
        self.iteration = 0
        self.losses: list[float] = []
        self.scores: dict[int, float] = {}
        self._pending: list[Tensor] = []  # losses still on the device: to fetch each one at once would make a GPU wait
        targets = torch.full((256,), NO_LOSS)
        targets[: net.classes] = torch.arange(net.classes)
        targets[list(ignored)] = NO_LOSS
        self._targets = targets.to(device.device)

    def step(self, images: list[Tensor], labels: Tensor) -> None:
        """One iteration on a batch: N x channels x h x w per input, N x h x w labels, as they come from the database."""
        target = self._targets[self.device.send(labels).long()]
        pixels = [i.normalise(self.device.send(x)) for i, x in zip(self.inputs, images, strict=True)]
        with self.device.autocast():
            logits = self.net(*[p.contiguous(memory_format=self.device.memory_format) for p in pixels])
        loss = masked_cross_entropy(logits.float(), target)
        loss.backward()
        self.solver.step(self.iteration)
        self.iteration += 1
        self._pending.append(loss.detach())

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
        """All but the weights that the next iteration depends on."""
        self.fetch_losses()
        state = {
            "iteration": self.iteration,
            "optimizer": self.solver.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "pretrained": list(self.solver.pretrained),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "scores": dict(self.scores),
        }
        if self.device.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device.device)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave. Raises UserError where it is of another net."""
        try:
            self.solver.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(
                f"the solverstate is of another net or solver ({error}): restore the one that goes with it."
            ) from None
        self.iteration, self.scores = state["iteration"], dict(state["scores"])
        self.losses = state["losses"].tolist()
        torch.set_rng_state(state["random"])
        if "random_cuda" in state and self.device.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device.device)


def masked_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Softmax cross entropy, averaged over the pixels that count, as Caffe's SoftmaxWithLoss does; 0 where none does.

    logits: N x classes x h x w. target: N x h x w class numbers, NO_LOSS where a pixel gives no loss.
    """
    total = F.cross_entropy(logits, target, ignore_index=NO_LOSS, reduction="sum")
    return total / (target != NO_LOSS).sum().clamp(min=1)
