"""Scores of the batches that a net learns from, as it learns: gathered on the device, fetched now and then."""

import torch
from torch import Tensor

from tools.solver.losses import NO_LOSS

EVERY = 4  # rows and columns: one pixel in 16 says enough, and costs nothing that a clock would show


class RunningScores:
    """A confusion matrix of all batches since it was last fetched.

    classes: of the net. device: where its outputs are.
    """

    def __init__(self, classes: int, device: torch.device):
        self.classes = classes
        self._counts = torch.zeros(classes * classes + 1, dtype=torch.int64, device=device)  # the last: no loss

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits N x classes x h x w, target N x h x w with NO_LOSS where a pixel does not count."""
        target = target[:, ::EVERY, ::EVERY].flatten()
        predicted = logits[:, :, ::EVERY, ::EVERY].argmax(1).flatten()
        cell = torch.where(target == NO_LOSS, len(self._counts) - 1, target * self.classes + predicted)
        self._counts.scatter_add_(0, cell, torch.ones_like(cell))  # bincount would make a GPU wait

    def fetch(self) -> Tensor:
        """The matrix (rows are the truth) on its device, after which counting begins anew."""
        counts, self._counts = self._counts, torch.zeros_like(self._counts)
        return counts[:-1].reshape(self.classes, self.classes)
