"""Several nets that label together: the mean of their probabilities."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Ensemble(nn.Module):
    """Nets whose probabilities are averaged: called as one net is, it gives the logarithm of the mean probabilities.

    nets: of the same classes in the same order. reads: how many inputs each of them has. The ensemble is called with the
    inputs of all, one net's after the other's: each may want other modalities, or the same ones normalised in another way.
    """

    def __init__(self, nets: Sequence[nn.Module], reads: Sequence[int]):
        super().__init__()
        self.nets, self.reads = nn.ModuleList(nets), list(reads)
        self.classes = nets[0].classes
        self.multiple = math.lcm(*(net.multiple for net in nets))

    def fuse(self) -> "Ensemble":
        """The same of the nets with batch norm folded into their convolutions."""
        return Ensemble([net.fuse() for net in self.nets], self.reads)

    def forward(self, *images: Tensor) -> Tensor:
        total, given = 0, iter(images)
        for net, count in zip(self.nets, self.reads, strict=True):
            total = total + net(*[next(given) for _ in range(count)]).float().softmax(1)
        return (total / len(self.nets)).log()
