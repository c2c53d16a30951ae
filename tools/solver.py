"""Caffe's solver: learning-rate policies, multipliers per layer, SGD with momentum and weight decay."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tools.errors import UserError, listing, nearest

# Multipliers of (weight, bias, gamma, beta): layers that come with weights learn at half the rate of fresh ones.
PRETRAINED = (0.5, 1.0, 0.5, 1.0)
FRESH = (1.0, 1.0, 1.0, 2.0)


def fixed(iteration: int) -> float:
    """The base rate throughout."""
    return 1.0


def step(iteration: int, step_iterations: int, gamma: float) -> float:
    """The rate is multiplied by gamma every `step_iterations`."""
    return gamma ** (iteration // step_iterations)


POLICIES = {"fixed": (fixed, ()), "step": (step, ("step_iterations", "gamma"))}  # name -> (function, its settings)
SOLVERS = {"sgd": ("momentum", "weight_decay")}  # name -> its settings


def read_choice(setting: str, given: Mapping[str, Any], choices: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """The numbers of a setting such as {"name": "step", ...}. Raises UserError unless it names a choice and just its numbers."""
    name = given.get("name")
    if name not in choices:
        raise UserError(
            f"{setting} names '{name}', which there is not.{nearest(name, choices)} There is {listing(choices)}."
        )
    numbers = {k: v for k, v in given.items() if k != "name"}
    for key in {*numbers, *choices[name]}:
        if key not in choices[name]:
            raise UserError(f"{setting}: '{name}' does not read '{key}'; it reads {listing(choices[name]) or 'nothing'}.")
        if not isinstance(numbers.get(key), int | float) or numbers[key] < 0:
            raise UserError(f"{setting}: '{name}' needs a number, 0 or more, for '{key}'; it is {numbers.get(key)!r}.")
    return numbers


def read_policy(given: Mapping[str, Any]) -> tuple[Callable, dict[str, Any]]:
    """The function of a policy and its numbers. Raises UserError for a policy that there is not, or wrong numbers."""
    numbers = read_choice("LR_POLICY", given, {name: keys for name, (_, keys) in POLICIES.items()})
    if numbers.get("step_iterations", 1) < 1:
        raise UserError(f"LR_POLICY: step_iterations = {numbers['step_iterations']}: it must be 1 or more.")
    return POLICIES[given["name"]][0], numbers


class Solver:
    """An optimizer whose rate follows a policy, by iteration, and whose multipliers follow Caffe's.

    net: whose parameters learn. base_lr: the rate before policy and multipliers. policy, solver: as in the config.
    pretrained: the layers that were initialised from other weights. Raises UserError for settings that do not fit.
    """

    def __init__(self, net: nn.Module, base_lr: float, policy: Mapping, solver: Mapping, pretrained: Collection[str] = ()):
        self.base_lr, self.pretrained = base_lr, pretrained
        self._policy, self._policy_numbers = read_policy(policy)
        numbers = read_choice("SOLVER", solver, SOLVERS)
        groups = parameter_groups(net, pretrained, numbers.pop("weight_decay"))
        self.optimizer = torch.optim.SGD(groups, lr=base_lr, **numbers)

    def rate(self, iteration: int) -> float:
        """The learning rate at an iteration (the first is 0), before the multipliers."""
        return self.base_lr * self._policy(iteration, **self._policy_numbers)

    def step(self, iteration: int) -> None:
        """Update the parameters by their gradients, then forget the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(iteration) * group["lr_mult"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def parameter_groups(net: nn.Module, pretrained: Collection[str], weight_decay: float) -> list[dict]:
    """The learnable parameters, grouped by their multipliers (`lr_mult`, and `weight_decay` with its own taken in)."""
    groups: dict[tuple[float, float], list] = {}
    for parameter, lr, decay in multipliers(net, pretrained):
        groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": parameters, "lr_mult": lr, "weight_decay": weight_decay * decay}
        for (lr, decay), parameters in groups.items()
    ]


def multipliers(net: nn.Module, pretrained: Collection[str]) -> Iterator[tuple[nn.Parameter, float, float]]:
    """(parameter, learning-rate multiplier, decay multiplier) of each learnable parameter.

    A row's own multipliers come first, then the rule of PRETRAINED and FRESH; decay is 1 unless a row says otherwise.
    """
    rows = {row.name: row for row in getattr(net, "rows", ())}
    modules = dict(net.named_modules())
    for name, parameter in net.named_parameters():
        owner, _, kind = name.rpartition(".")
        role = (kind == "bias") + 2 * isinstance(modules[owner], nn.modules.batchnorm._BatchNorm)
        row = rows.get(name.split(".")[0])
        ready = any(name.startswith(layer + ".") for layer in pretrained)
        lr = row.lr_mult[role] if row and row.lr_mult else (PRETRAINED if ready else FRESH)[role]
        decay = row.decay_mult[role] if row and row.decay_mult else 1.0
        if parameter.requires_grad:
            yield parameter, lr, decay
