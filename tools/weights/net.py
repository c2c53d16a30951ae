"""The config's net, built."""

from collections.abc import Iterable

from torch import nn

import nets
from tools.weights.settings import NetSettings


def build(net: NetSettings, inputs: Iterable, classes: int) -> nn.Module:
    """The net with fresh weights; inputs: each with a name and its channels.

    smp's `encoder_weights` are left to what begins a run, which fits them to the inputs; nothing is downloaded here.
    """
    options = {name: value for name, value in net.NET_OPTIONS.items() if name != "encoder_weights"}
    return nets.build(net.NET, {i.name: i.channels for i in inputs}, classes, **options)
