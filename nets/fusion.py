"""Batch norm folded into the convolution before it: the same outputs in inference, at less than half the memory traffic."""

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from nets.layers import Row, Unit
from nets.net import Net


def fuse(net: Net) -> Net:
    """A copy of the net for inference, in which no batch norm is left that follows a convolution.

    Its table says so, so that it can be kept as any other net; to train it would be to train another net.
    """
    modules = {row.name: copy.deepcopy(getattr(net, row.name)) for row in net.rows}
    rows: dict[str, Row] = {}
    instead: dict[str, str] = {}  # batch norm that is gone -> the convolution that does its work
    for row in net.rows:
        row = replace(row, reads=tuple(instead.get(name, name) for name in row.reads))
        module = modules[row.name]
        source = row.reads[0] if row.kind == "batch_norm" and row.name != net.output else ""
        if source in rows and _is_bare(rows[source], modules[source]) and _readers(net, source) == 1:
            instead[row.name] = source
            rows[source] = _folded(rows[source], modules[source], module)
        elif isinstance(module, Unit) and module.bn is not None:
            rows[row.name] = _folded(row, module, module.bn)
            module.bn = None
        else:
            rows[row.name] = row
    with torch.device("meta"):  # no weights are drawn
        fused = Net(rows.values())
    for name in rows:
        setattr(fused, name, modules[name])
    return fused.eval()


def _is_bare(row: Row, module: nn.Module) -> bool:
    return isinstance(module, Unit) and module.bn is None and not module.relu


def _readers(net: Net, blob: str) -> int:
    return sum(row.reads.count(blob) for row in net.rows)


def _folded(row: Row, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Row:
    """Change the weights of a convolution to what it gives after a batch norm; its row, without one, comes back."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )  # fmt: skip
    return replace(row, args={**row.args, "norm": False, "bias": True})
