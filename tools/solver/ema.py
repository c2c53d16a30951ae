"""A moving average of a net's weights (EMA), which often scores better than the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """The exponential moving average of all that a net has learned: weights, and the running statistics of batch norm.

    net: whose weights it begins with. decay: how much of the average each iteration keeps, such as 0.999; never more than
    (1 + i) / (10 + i) at iteration i (from 0), so that the first weights, which are random, are soon forgotten (as in
    TensorFlow's ExponentialMovingAverage). Counters (num_batches_tracked) are taken over as they are.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, iteration: int) -> None:
        """Take in the weights after an iteration."""
        now = net.state_dict()
        learned = [name for name, value in now.items() if value.is_floating_point()]
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        get_ema_multi_avg_fn(decay)([self.values[n] for n in learned], [now[n] for n in learned], None)
        for name in now.keys() - set(learned):
            self.values[name].copy_(now[name])

    @contextmanager
    def used_by(self, net: nn.Module) -> Iterator[None]:
        """Within this block the net has the average; afterwards it has its own weights again."""
        own = copy_of(net)
        net.load_state_dict(self.values)
        try:
            yield
        finally:
            net.load_state_dict(own)


def copy_of(net: nn.Module) -> dict[str, Tensor]:
    """The weights of a net as they are now, whatever becomes of them."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}
