"""The normalisations of Caffe and its forks: BatchNorm, the two that are called BN, and local response normalisation.

The arithmetic of both BN is that of their sources: bn_layer.cpp of alexgkendall/caffe-segnet and of hszhao/PSPNet.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.layers import Blob, layer
from tools.base.errors import UserError


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that can be kept at its running statistics while the rest of the net trains."""

    def __init__(self, channels: int, eps: float, affine: bool, frozen: bool):
        super().__init__(channels, eps=eps, affine=affine)
        self.frozen = frozen

    def train(self, mode: bool = True):
        return super().train(mode and not self.frozen)


@layer
def batch_norm(x: Blob, affine=True, scale: str = "", eps: float = 1e-5, fraction: float = 0.999, frozen=False):
    """Caffe's BatchNorm, and where `affine` the Scale after it.

    scale: name of that Scale layer in Caffe's files (NAME_scale where empty). fraction: what a step keeps of the running
    sums, under Caffe's solver. frozen: the running statistics are used in training too (use_global_stats).
    """
    module = BatchNorm(x.channels, eps, affine, frozen)
    module.fraction = fraction
    return module, x


class ChannelScale(nn.Module):
    """Each plane times its weight, plus its bias."""

    def __init__(self, channels: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight[:, None, None]
        return x if self.bias is None else x + self.bias[:, None, None]

    def as_norm(self) -> nn.BatchNorm2d:
        """A batch norm of mean 0 and variance 1 that does the same in use."""
        norm = nn.BatchNorm2d(len(self.weight), eps=0.0).to(self.weight)
        with torch.no_grad():
            norm.weight.copy_(self.weight)
            if self.bias is not None:
                norm.bias.copy_(self.bias)
        return norm


@layer
def scale(x: Blob, bias=True):
    """Each plane times a learned number, plus another one where `bias`."""
    return ChannelScale(x.channels, bias), x


class BatchBN(nn.BatchNorm2d):
    """SegNet's BN: see `bn_learn`."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-9)
        self.counted = False  # whether there are statistics from training here

    def train(self, mode: bool = True):
        """Also finds out whether there are statistics: here, since to ask for them in every pass would make a GPU wait."""
        if not self.num_batches_tracked.is_meta:
            self.counted = bool(self.num_batches_tracked > 0)
        return super().train(mode)

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.counted:
            return super().forward(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    def as_norm(self) -> nn.BatchNorm2d | None:
        """Itself, where it has statistics to go by."""
        return self if self.counted else None


@layer
def bn_learn(x: Blob):
    """SegNet's BN with bn_mode LEARN: normalised by the batch's own mean and variance, then scale and shift.

    In use it goes by the statistics that training here has gathered, which is what SegNet's compute_bn_statistics.py does
    afterwards. Weights of Caffe's have none of these: then the batch's own are used, as Caffe does.
    """
    return BatchBN(x.channels), x


@layer
def bn_inference(x: Blob):
    """SegNet's BN with bn_mode INFERENCE: scale x + shift, the statistics of training being taken in."""
    return ChannelScale(x.channels, True), x


class MovingBN(nn.BatchNorm2d):
    """PSPNet's BN: see `bn_moving`."""

    own_average = True  # which Caffe's solver leaves alone

    def __init__(self, channels: int, momentum: float, eps: float, frozen: bool):
        super().__init__(channels, eps=eps)
        self.keeps, self.frozen = momentum, frozen
        if frozen:
            self.weight.requires_grad_(False)
            self.bias.requires_grad_(False)
        else:
            self.running_var.zero_()  # as Caffe begins

    def train(self, mode: bool = True):
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.numel() / x.shape[1]
        if count < 2 and not torch.compiler.is_compiling():
            raise UserError("batch norm cannot learn from one value per plane: train on 2 or more images at a time.")
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        written = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        with torch.no_grad():
            self.running_mean.lerp_(mean, 1 - self.keeps)
            self.running_var.lerp_(variance * ((count - 1) / count), 1 - self.keeps)  # the batch's own, not the unbiased one
            self.num_batches_tracked.add_(1)
        return written


@layer
def bn_moving(x: Blob, momentum: float = 0.9, eps: float = 1e-5, frozen=False):
    """PSPNet's BN: slope, bias, and moving averages of mean and variance, of which a training step keeps `momentum`.

    frozen: the averages are used in training too, and neither slope nor bias learns.
    """
    return MovingBN(x.channels, momentum, eps, frozen), x


class LocalResponse(nn.Module):
    """Local response normalisation: see `lrn`."""

    def __init__(self, size: int, alpha: float, beta: float, k: float, within: bool):
        super().__init__()
        self.size, self.alpha, self.beta, self.k, self.within = size, alpha, beta, k, within

    def forward(self, x: Tensor) -> Tensor:
        if not self.within:
            return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
        mean = F.avg_pool2d(x * x, self.size, 1, self.size // 2, count_include_pad=True)
        return x * (1 + self.alpha * mean) ** -self.beta


@layer
def lrn(x: Blob, size: int = 5, alpha: float = 1.0, beta: float = 0.75, k: float = 1.0, within=False):
    """x / (k + alpha mean(x^2)) ** beta over `size` neighbouring planes, or size x size pixels of a plane where `within`.

    Beyond the borders there are zeros, which count in the mean. Within planes k is 1, as in Caffe.
    """
    if size % 2 == 0:
        raise UserError(f"its local_size is {size}: it must be odd")
    return LocalResponse(size, alpha, beta, k, within), x
