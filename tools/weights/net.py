"""The config's net, built."""

from collections.abc import Iterable

from torch import nn

import nets
from tools.weights.settings import NetSettings


def build(net: NetSettings, inputs: Iterable, classes: int) -> nn.Module:
    """The net with fresh weights; inputs: each with a name and its channels."""
    return nets.build(net.NET, {i.name: i.channels for i in inputs}, classes, **net.NET_OPTIONS)
