"""Losses over the labelled pixels: cross entropy, focal, Dice, Jaccard, Tversky, Lovasz, and weighted sums of them.

All take logits, N x C x h x w in float32, and a target, N x h x w class numbers with NO_LOSS where a pixel gives no loss; a
batch without labelled pixels gives 0 with gradients of 0.

Tversky's family and Lovasz are segmentation_models_pytorch's, checked against numpy, with one thing mended each:
- DiceLoss and its kin divide by all classes, so that a class that the batch does not have (an ignored one never is there)
  counts as labelled without fault and makes the gradients smaller. Here the mean is over the classes that are there. Dice and
  Jaccard are taken from TverskyLoss, which computes both and has known pixels without loss in more of its releases.
- LovaszLoss returns an empty tensor instead of 0 where no pixel is labelled.
Cross entropy and focal loss are our own: SoftCrossEntropyLoss has no class weights and divides by all pixels, labelled or
not; FocalLoss takes the sigmoid of each plane (one class against the rest) where these nets take a softmax over the
planes, and is not a number where no pixel is labelled.
"""

import functools
import importlib
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.base.choices import numbers_of, read_choice
from tools.base.errors import UserError, listing, nearest

NO_LOSS = 255  # the target of a pixel that gives no loss
FOCUS = 2.0  # gamma of the focal loss, as in its paper
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7  # Tversky's weights of them, the best of its paper: missed pixels cost more


def masked_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Softmax cross entropy, averaged over the pixels that count, as Caffe's SoftmaxWithLoss does; 0 where none does.

    logits: N x classes x h x w. target: N x h x w class numbers, NO_LOSS where a pixel gives no loss. weights: one for each
    class, with which the average is a weighted one.
    """
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"  # CUDA's own sum has no fixed order
    total = F.cross_entropy(logits, target, weights, ignore_index=NO_LOSS, reduction=reduction).sum()
    return total / _no_zero(amount(target, weights))


def focal(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, gamma: float = FOCUS, alpha: float | None = None
) -> Tensor:
    """Cross entropy of which each pixel counts (1 - probability of its class)^gamma times (Lin et al., arXiv 1708.02002).

    Averaged as the cross entropy is: over the labelled pixels, weighted by class where there are weights. alpha: of two
    classes, what the second counts, the first 1 - alpha, as in the paper; of more, what all count. None: they count 1.
    """
    each = F.cross_entropy(logits, target, ignore_index=NO_LOSS, reduction="none")
    each = (1 - torch.exp(-each)) ** gamma * each
    if alpha is not None:
        each = each * (torch.where(target == 1, alpha, 1 - alpha) if logits.shape[1] == 2 else alpha)
    if weights is not None:
        each = each * _of_pixels(weights, target)
    return each.sum() / _no_zero(amount(target, weights))


def dice(logits: Tensor, target: Tensor, _=None) -> Tensor:
    """1 - 2 |P and Y| / (|P| + |Y|), |.| being sums over the batch's labelled pixels; mean over the classes that are there."""
    return _tversky(logits, target, 0.5, 0.5)


def jaccard(logits: Tensor, target: Tensor, _=None) -> Tensor:
    """1 - |P and Y| / |P or Y|, as `dice`."""
    return _tversky(logits, target, 1.0, 1.0)


def tversky(logits: Tensor, target: Tensor, _=None, alpha: float = FALSE_POSITIVES, beta: float = FALSE_NEGATIVES) -> Tensor:
    """1 - TP / (TP + alpha FP + beta FN), as `dice` (Salehi et al., arXiv 1706.05721)."""
    return _tversky(logits, target, alpha, beta)


def lovasz(logits: Tensor, target: Tensor, _=None) -> Tensor:
    """The Lovasz extension of 1 - IoU over the batch, mean over the classes that are there (Berman et al., 1705.08790)."""
    loss = _library("LovaszLoss")(logits, target)
    return loss if loss.numel() else logits.sum() * 0


def _tversky(logits: Tensor, target: Tensor, false_positives: float, false_negatives: float) -> Tensor:
    classes = logits.shape[1]
    there = torch.stack([(target == c).any() for c in range(classes)]).sum()
    loss = _library("TverskyLoss", alpha=false_positives, beta=false_negatives)(logits, target)
    return loss * classes / there.clamp(min=1)


@functools.cache
def _library(name: str, **numbers) -> nn.Module:
    """A loss of segmentation_models_pytorch, which is imported when a config asks for one: it takes seconds."""
    importlib.import_module("tools.compute.torchvision_guard")  # first: the library imports torchvision
    losses = importlib.import_module("segmentation_models_pytorch.losses")
    return getattr(losses, name)("multiclass", ignore_index=NO_LOSS, **numbers)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "ce": masked_cross_entropy, "focal": focal, "dice": dice, "jaccard": jaccard, "tversky": tversky, "lovasz": lovasz,
}  # fmt: skip
WEIGHTED = ("ce", "focal")  # the ones that class weights apply to


class Loss:
    """A weighted sum of losses.

    text: such as "ce + 0.5 dice" or "focal(gamma=2, alpha=0.25)". weights: of the classes, for the losses in WEIGHTED. Raises
    UserError where the text is not numbers and names of LOSSES with their own numbers, joined by "+", or where there are
    weights that no loss of it reads.
    """

    def __init__(self, text: str = "ce", weights: Sequence[float] | None = None):
        self.terms = read_loss(text)
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float32)
        if weights is not None and not any(name in WEIGHTED for _, name, _ in self.terms):
            raise UserError(f"CLASS_WEIGHTS are for {' and '.join(WEIGHTED)}, LOSS = {text!r} has neither: set 'none'.")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar, of logits (N x C x h x w) for a target (N x h x w)."""
        weights = self._weights(logits.device)
        parts = [LOSSES[name](logits, target, weights, **numbers) for _, name, numbers in self.terms]
        factors = [factor for factor, _, _ in self.terms]
        return sum(part if f == 1 else f * part for f, part in zip(factors, parts, strict=True))

    @property
    def is_cross_entropy(self) -> bool:
        """Whether it is cross entropy, without factor and class weights."""
        return self.weights is None and self.terms == [(1.0, "ce", {})]

    def amount(self, target: Tensor) -> Tensor:
        """What a batch weighs beside others: its labelled pixels, or the sum of their class weights."""
        return amount(target, self._weights(target.device))

    def _weights(self, device: torch.device) -> Tensor | None:
        if self.weights is not None and self.weights.device != device:
            self.weights = self.weights.to(device)
        return self.weights


def read_loss(text: str) -> list[tuple[float, str, dict[str, float]]]:
    """[(factor, name, numbers), ...] of a text such as "ce + 0.5 focal(gamma=2)". Raises UserError for anything else."""
    terms = []
    for word in re.split(r"\+(?![^(]*\))", text):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)?\s*([A-Za-z]\w*)\s*(?:\(([^()]*)\))?\s*", word)
        if not found:
            raise UserError(f"LOSS = {text!r}: {word.strip()!r} is not a loss; write names and factors, as 'ce + 0.5 dice'.")
        factor, name = float(found[1] or 1), found[2]
        if name not in LOSSES:
            raise UserError(f"LOSS = {text!r}: there is no loss '{name}'.{nearest(name, LOSSES)} There is {listing(LOSSES)}.")
        if factor == 0 or name in [n for _, n, _ in terms]:
            raise UserError(
                f"LOSS = {text!r}: '{name}' {'counts nothing' if not factor else 'stands there twice'}: leave it out."
            )
        terms.append((factor, name, _read_numbers(text, name, found[3] or "")))
    return terms


def _read_numbers(text: str, name: str, words: str) -> dict[str, float]:
    """The numbers of a loss, of "gamma=2, alpha=0.25"."""
    try:
        pairs = [word.split("=") for word in words.split(",") if word.strip()]
        given = {key.strip(): float(value) for key, value in pairs}
    except ValueError:
        raise UserError(
            f"LOSS = {text!r}: '{words}' are no numbers of '{name}': write them as 'gamma=2, alpha=0.25'."
        ) from None
    choices = {name: numbers_of(loss, without=3) for name, loss in LOSSES.items()}
    return read_choice(f"LOSS = {text!r}", {"name": name, **given}, choices)


def amount(target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The labelled pixels of a target, or the sum of the class weights of its pixels."""
    return (target != NO_LOSS).sum() if weights is None else _of_pixels(weights, target).sum()


def _of_pixels(weights: Tensor, target: Tensor) -> Tensor:
    """The weight of each pixel's class; 0 where there is no loss."""
    return F.pad(weights, (0, 1))[target.clamp(max=len(weights))]


def _no_zero(number: Tensor) -> Tensor:
    """A divisor, 1 in place of 0."""
    return torch.where(number > 0, number, 1)
