"""Test-time augmentation: a net looks at each window several times, turned or resized, and its probabilities are averaged."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.base.errors import UserError, listing, nearest
from tools.inference import settings

SCALES = (0.75, 1.0, 1.25)
SAMPLES = "dropout"  # the looks that are passes with dropout on
NONE = "none"  # one look, whatever the config says

Change = Callable[[Tensor], Tensor]  # of N x channels x h x w
Look = tuple[Change, Change]  # what is done to images, and undone to probabilities


class Augmented(nn.Module):
    """A net that looks several times: called as the net itself is, it gives the logarithm of the mean probabilities.

    kind: "flips" (as it is, mirrored left to right, upside down, and both: 4 passes), "d4" (these, and all turned by 90
    degrees: 8 passes) or "scales" (SCALES, the sizes rounded to what the net can take: 3 passes). Flips and turns move pixels
    and are undone exactly; other sizes are interpolated bilinearly, there and back.
    """

    def __init__(self, net: nn.Module, kind: str):
        super().__init__()
        self.net, self.kind = net, kind
        self.classes, self.multiple = net.classes, net.multiple

    def forward(self, *images: Tensor) -> Tensor:
        looks = LOOKS[self.kind](tuple(images[0].shape[2:]), self.multiple)
        total = 0
        for do, undo in looks:
            total = total + undo(self.net(*map(do, images)).float().softmax(1))
        return (total / len(looks)).log()


class Sampled(nn.Module):
    """A net that looks several times with its dropout on (Bayesian SegNet, arXiv 1511.02680; Gal and Ghahramani, 1506.02142).

    Called as the net itself is, it gives `planes` planes: the mean probability of each class, and how much the passes differ:
    the variance of each class's probability, averaged over the classes, 0 to 0.25. samples: passes. What samples is the dropout
    that a prototxt marks (sample_weights_test), or all there is if none is marked. Raises UserError for a net without any.
    """

    def __init__(self, net: nn.Module, samples: int):
        super().__init__()
        self.net, self.samples = net, samples
        self.classes, self.multiple, self.planes = net.classes, net.multiple, net.classes + 1
        every = [m for m in net.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        self._dropout = [m for m in every if getattr(m, "sample", False)] or every
        if not self._dropout:
            raise UserError("--tta dropout: this net has no dropout that could sample; choose other looks, or leave it out.")

    def train(self, mode: bool = True) -> "Sampled":
        """As always, but that dropout stays on."""
        super().train(mode)
        for module in self._dropout:
            module.train()
        return self

    def forward(self, *images: Tensor) -> Tensor:
        total, squares = 0, 0
        for _ in range(self.samples):
            probabilities = self.net(*images).float().softmax(1)
            total, squares = total + probabilities, squares + probabilities.square()
        mean = total / self.samples
        variance = (squares / self.samples - mean.square()).clamp(min=0)
        return torch.cat([mean, variance.mean(1, keepdim=True)], 1)


def read_looks(words: Sequence[str]) -> tuple[str | None, int, list[str]]:
    """(kind, passes, words that are left) of what stands behind --tta: passes belong to "dropout" alone, else they are 0.

    kind: None for one look. Raises UserError for looks that there are not.
    """
    kind, *rest = words
    if kind == SAMPLES:
        if not rest or not rest[0].isdigit() or int(rest[0]) < 2:
            raise UserError("--tta dropout N: say how many passes are averaged, 2 or more, such as --tta dropout 40.")
        return kind, int(rest[0]), rest[1:]
    if kind == NONE:
        return None, 0, rest
    if kind not in LOOKS:
        known = [*LOOKS, SAMPLES, NONE]
        raise UserError(f"--tta {kind}: there are no such looks.{nearest(kind, known)} There is {listing(known)}.")
    return kind, 0, rest


def check(kind: str, size: tuple[int, int], multiple: int) -> None:
    """Raise UserError for looks that a net of this multiple cannot take at windows of this size."""
    if kind == "scales" and len(_sizes(size, multiple)) < len(SCALES):
        raise UserError(
            f"--tta scales makes windows of {size[0]}x{size[1]} pixels a quarter larger and smaller, but the net takes only"
            f" multiples of {multiple}: use windows of {4 * multiple}x{4 * multiple} or more."
        )


def _sizes(size: tuple[int, int], multiple: int) -> list[tuple[int, int]]:
    """The sizes in which windows are looked at, each once."""
    scaled = (tuple(max(multiple, round(n * scale / multiple) * multiple) for n in size) for scale in SCALES)
    return list(dict.fromkeys(scaled))


def _same(x: Tensor) -> Tensor:
    return x


def _flip(axes: tuple[int, ...], x: Tensor) -> Tensor:
    return x.flip(axes)


_FLIPS: list[Change] = [_same, partial(_flip, (3,)), partial(_flip, (2,)), partial(_flip, (2, 3))]


def _flips(*_) -> list[Look]:
    return [(flip, flip) for flip in _FLIPS]


def _d4(*_) -> list[Look]:
    return [*_flips(), *((partial(_transpose, flip), partial(_transpose_back, flip)) for flip in _FLIPS)]


def _transpose(flip: Change, x: Tensor) -> Tensor:
    turned = flip(x.mT)
    # Transposing leaves memory in an order that is neither of those in which convolutions are fast.
    return turned.contiguous(memory_format=torch.channels_last) if _is_channels_last(x) else turned.contiguous()


def _transpose_back(flip: Change, x: Tensor) -> Tensor:
    return flip(x).mT


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _scales(size: tuple[int, int], multiple: int) -> list[Look]:
    return [(partial(_resize, scaled), partial(_resize, size)) for scaled in _sizes(size, multiple)]


def _resize(size: tuple[int, int], x: Tensor) -> Tensor:
    same = tuple(x.shape[2:]) == size
    return x if same else F.interpolate(x, size, mode="bilinear", align_corners=False)


LOOKS: dict[str, Callable[[tuple[int, int], int], list[Look]]] = dict(zip(settings.LOOKS, (_flips, _d4, _scales), strict=True))


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
