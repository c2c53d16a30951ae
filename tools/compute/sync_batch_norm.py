"""Batch norm over the whole batch where several processes share it: the mean and variance of one process that has it all.

torch.nn.SyncBatchNorm works on CUDA only and is a class of its own; this works wherever torch.distributed does, and on the
batch norms that a net has, which keep their class, names and hooks.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tools.base.errors import UserError, listing


def synchronise(net: nn.Module) -> None:
    """Let every batch norm of a net take its statistics, while it trains, over the batches of all processes.

    Raises UserError where the net has some that compute in a way of their own.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    odd = sorted({type(norm).__name__ for norm in norms if type(norm).forward is not _BatchNorm.forward})
    if odd:
        raise UserError(f"SYNC_BATCH_NORM cannot synchronise this net's {listing(odd)}: set it to False, or take another net.")
    for norm in norms:
        norm.__class__ = type(f"Synchronised{type(norm).__name__}", (_Synchronised, type(norm)), {})


class _Synchronised:
    """What becomes of a batch norm's forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.is_meta:  # a trial of sizes (nets/net.py) is no batch
            return super().forward(x)
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / (count - 1), momentum)
        return y


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, by plane; with mean, variance and the values that they are of.

    Statistics, and the sums of the gradient, are added up over the processes in float32, of double in double. The variance is
    taken around the common mean, in a second sum, since a difference of squares would lose its digits.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float):
        sums = _by_plane(x)
        sums = _total(torch.cat([sums, sums.new_tensor([x.numel() / x.shape[1]])]))
        count, mean = sums[-1], sums[:-1] / sums[-1]
        variance = _total(_by_plane((x - _planes(mean, x)) ** 2)) / count
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, count

    @staticmethod
    def backward(ctx, dy: Tensor, *_):
        x, weight, mean, scale, count = ctx.saved_tensors
        normal = (x - _planes(mean, x)) * _planes(scale, x)
        d_bias, d_weight = _by_plane(dy), _by_plane(dy * normal)
        of_all = _total(torch.stack([d_bias, d_weight])) / count
        dx = dy - _planes(of_all[0], x) - normal * _planes(of_all[1], x)
        dx = dx * _planes(scale if weight is None else scale * weight, x)
        return dx.to(x.dtype), None if weight is None else d_weight, None if weight is None else d_bias, None


def _total(values: Tensor) -> Tensor:
    dist.all_reduce(values)
    return values


def _by_plane(x: Tensor) -> Tensor:
    """The sum of each plane, N x C x ... -> C, in float32 at least."""
    return x.sum([d for d in range(x.dim()) if d != 1], dtype=torch.promote_types(x.dtype, torch.float32))


def _planes(values: Tensor, x: Tensor) -> Tensor:
    """One number for each plane, in a shape that goes with x; float32, so that the result is, too."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
