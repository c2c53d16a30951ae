"""Caffe's kinds of layers that work value by value, or plane by plane: activations, dropout of planes, a learned bias."""

import torch
from torch import Tensor, nn

from nets.layers import Blob, layer


@layer
def prelu(x: Blob, shared=False):
    """max(x, 0) + slope min(x, 0), with a learned slope for each plane, or one for all where `shared`; it begins at 0.25."""
    return nn.PReLU(1 if shared else x.channels), x


@layer
def elu(x: Blob, alpha: float = 1.0):
    """x where that is positive, else alpha (exp(x) - 1)."""
    return nn.ELU(alpha), x


@layer
def sigmoid(x: Blob):
    """1 / (1 + exp(-x))."""
    return nn.Sigmoid(), x


@layer
def tanh(x: Blob):
    """The hyperbolic tangent."""
    return nn.Tanh(), x


class ChannelBias(nn.Module):
    """Each plane plus its bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]


@layer
def bias(x: Blob):
    """Each plane plus a learned number."""
    return ChannelBias(x.channels), x


@layer
def spatial_dropout(x: Blob, ratio: float = 0.5):
    """In training, whole planes are zeroed with this probability and the others grow accordingly (ENet's Python layer)."""
    return nn.Dropout2d(ratio), x


@layer
def softmax(x: Blob):
    """Probabilities over the planes."""
    return nn.Softmax(1), x


class Power(nn.Module):
    """(shift + scale x) ** power."""

    def __init__(self, power: float, scale: float, shift: float):
        super().__init__()
        self.power, self.scale, self.shift = power, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.scale == 1 else x * self.scale
        x = x if self.shift == 0 else x + self.shift
        return x if self.power == 1 else x**self.power


@layer
def power(x: Blob, power: float = 1.0, scale: float = 1.0, shift: float = 0.0):
    """(shift + scale x) ** power."""
    return Power(power, scale, shift), x
