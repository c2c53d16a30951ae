"""Caffe's further solvers, by its arithmetic: where PyTorch has one of the same name, its numbers differ.

In all of them weight decay is part of the gradient, as in Caffe (src/caffe/solvers).
"""

import math

import torch
from torch import Tensor


class CaffeSolver(torch.optim.Optimizer):
    """What Caffe's solvers share: histories by parameter, decay in the gradient, an update that is taken off the weights."""

    def __init__(self, groups: list[dict], lr: float, momentum: float = 0.0, **numbers: float):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, **numbers})

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state |= self.histories(parameter)
                    gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                    parameter.sub_(self.update(group, gradient, **state))

    def histories(self, parameter: Tensor) -> dict[str, Tensor]:
        """What is kept of a parameter, as it begins."""
        return {"history": torch.zeros_like(parameter)}

    def update(self, group: dict, gradient: Tensor, **state: Tensor) -> Tensor:
        """What is taken off a parameter; brings its histories up to date."""
        raise NotImplementedError


class Nesterov(CaffeSolver):
    """Nesterov's momentum: h = momentum h + rate g, and (1 + momentum) h less momentum times the h before."""

    def __init__(self, groups: list[dict], lr: float, momentum: float):
        super().__init__(groups, lr, momentum)

    def update(self, group: dict, gradient: Tensor, history: Tensor) -> Tensor:
        before = history.clone()
        history.mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
        return history.mul(1 + group["momentum"]).sub_(before, alpha=group["momentum"])


class AdaGrad(CaffeSolver):
    """The rate over the root of the sum of all squared gradients (Duchi et al., 2011)."""

    def __init__(self, groups: list[dict], lr: float, delta: float = 1e-8):
        super().__init__(groups, lr, delta=delta)

    def update(self, group: dict, gradient: Tensor, history: Tensor) -> Tensor:
        history.addcmul_(gradient, gradient)
        return gradient.div(history.sqrt().add_(group["delta"])).mul_(group["lr"])


class RMSProp(CaffeSolver):
    """The rate over the root of a moving average of squared gradients, which keeps `rms_decay` of itself."""

    def __init__(self, groups: list[dict], lr: float, rms_decay: float = 0.99, delta: float = 1e-8):
        super().__init__(groups, lr, rms_decay=rms_decay, delta=delta)

    def update(self, group: dict, gradient: Tensor, history: Tensor) -> Tensor:
        history.mul_(group["rms_decay"]).addcmul_(gradient, gradient, value=1 - group["rms_decay"])
        return gradient.div(history.sqrt().add_(group["delta"])).mul_(group["lr"])


class Adam(CaffeSolver):
    """Adam (Kingma and Ba, arXiv 1412.6980), `delta` added to the root before its bias is corrected, as in Caffe."""

    def __init__(self, groups: list[dict], lr: float, beta1: float = 0.9, beta2: float = 0.999, delta: float = 1e-8):
        super().__init__(groups, lr, betas=(beta1, beta2), delta=delta)
        for group in self.param_groups:
            del group["momentum"]  # its place is taken by the first beta
        del self.defaults["momentum"]

    def histories(self, parameter: Tensor) -> dict[str, Tensor]:
        return {"first": torch.zeros_like(parameter), "second": torch.zeros_like(parameter), "step": torch.tensor(0.0)}

    def update(self, group: dict, gradient: Tensor, first: Tensor, second: Tensor, step: Tensor) -> Tensor:
        beta1, beta2 = group["betas"]
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step += 1
        correction = math.sqrt(1 - beta2 ** step.item()) / (1 - beta1 ** step.item())
        return first.div(second.sqrt().add_(group["delta"])).mul_(group["lr"] * correction)
