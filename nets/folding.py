"""Batch norm folded into convolutions in nets that are no tables: which norm follows which convolution, a pass shows."""

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_EQUAL = 1e-5  # of the largest output


def folded(net: nn.Module, image: Tensor) -> nn.Module:
    """A copy of a net for inference, without the batch norms that read what a convolution writes: the same outputs, sooner.

    net: called with an N x C x H x W image, such as `image`. A pass does not show whether something but a norm reads what a
    convolution writes, so outputs are compared: if they differ by more than 1e-5 of the largest one, the net itself comes back.
    """
    less = copy.deepcopy(net).eval()
    with torch.no_grad():
        expected = less(image)
        for conv, name, norm in _pairs(less, image):
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )  # fmt: skip
            less.set_submodule(name, _what_else(norm))
        found = less(image)
    return less if (found - expected).abs().max() <= _EQUAL * expected.abs().max() else net


def _what_else(norm: nn.BatchNorm2d) -> nn.Module:
    """What a batch norm does beside: timm's have an activation."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


def _pairs(net: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, str, nn.BatchNorm2d]]:
    """(convolution, name of the norm that reads it, the norm), of those that run once."""
    written: list[tuple[Tensor, nn.Conv2d]] = []  # it keeps the tensors, so that no other has the same identity
    read: list[tuple[Tensor, str, nn.BatchNorm2d]] = []
    hooks = []
    for name, part in net.named_modules():
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(lambda conv, _, out: written.append((out, conv))))
        elif isinstance(part, nn.BatchNorm2d) and part.track_running_stats:
            hooks.append(part.register_forward_pre_hook(lambda norm, given, name=name: read.append((given[0], name, norm))))
    net(image)
    for hook in hooks:
        hook.remove()
    runs = Counter(id(part) for _, *_, part in [*written, *read])
    by_output = {id(out): conv for out, conv in written}
    pairs = [(by_output[id(given)], name, norm) for given, name, norm in read if id(given) in by_output]
    reads = Counter(id(conv) for conv, *_ in pairs)
    return [(c, name, norm) for c, name, norm in pairs if runs[id(c)] == runs[id(norm)] == reads[id(c)] == 1]
