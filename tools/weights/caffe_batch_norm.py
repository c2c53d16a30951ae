"""The moving average that Caffe's BatchNorm keeps of means and variances, in PyTorch's batch norm."""

import math

from torch import nn

FRACTION = 0.999  # what each training step keeps of BatchNorm's sums (moving_average_fraction)


def use_caffe_average(net: nn.Module) -> None:
    """Let every batch norm of a net keep its running statistics as Caffe's BatchNorm does.

    Caffe adds up means, variances (m / (m - 1) times the batch's) and a factor, keeps 0.999 of each per step, and divides by
    the factor when the net is used. In other words the running mean moves by 1 / factor of the way to the batch's. That is
    PyTorch's batch norm with this number as its momentum, so that running_mean and running_var are ordinary ones. The factor
    follows from how many batches there were, which `num_batches_tracked` counts: a snapshot needs nothing else to go on.
    Call it after the net has its weights.
    """
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not getattr(module, "own_average", False):
            module.register_forward_pre_hook(_Average(module))


class _Average:
    """Sets the momentum of a batch norm before each training step."""

    def __init__(self, norm: nn.Module):
        self.fraction = getattr(norm, "fraction", FRACTION)
        self.batches = int(norm.num_batches_tracked)  # once: asking the GPU in every step would make it wait

    def __call__(self, norm: nn.Module, args: tuple) -> None:
        if norm.training and not args[0].is_meta:  # a trial of sizes (nets/net.py) is no batch
            self.batches += 1
            norm.momentum = 1 / factor(self.batches, self.fraction)


def factor(batches: int, fraction: float = FRACTION) -> float:
    """Caffe's third BatchNorm blob after so many training steps: 1 + fraction + fraction**2 + ..."""
    return float(batches) if fraction == 1 else (1 - fraction**batches) / (1 - fraction)


def batches_of(factor: float, fraction: float = FRACTION) -> int:
    """How many training steps give this third BatchNorm blob. Beyond what float32 can tell apart, many."""
    if fraction == 1:
        return round(factor)
    left = 1 - (1 - fraction) * factor
    return round(math.log(left) / math.log(fraction)) if left > 1e-6 else round(math.log(1e-6) / math.log(fraction))
