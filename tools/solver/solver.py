"""Caffe's solver with today's manners: optimizers, multipliers, clipped gradients, layers that begin to learn later."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tools.base.choices import REQUIRED, numbers_of, read_choice
from tools.base.errors import UserError, listing, nearest
from tools.solver.caffe_solvers import AdaGrad, Adam, Nesterov, RMSProp
from tools.solver.frozen import Frozen, belongs
from tools.solver.schedules import Schedule
from tools.weights.caffe_batch_norm import use_caffe_average

# Multipliers of (weight, bias, gamma, beta): layers that come with weights learn at half the rate of fresh ones.
PRETRAINED = (1.0, 2.0, 1.0, 2.0)  # times this:
PRETRAINED_RATE = 0.5
FRESH = (1.0, 1.0, 1.0, 2.0)
NO_PARTS: Mapping[str, Sequence[str]] = MappingProxyType({})
NO_PATTERNS: Mapping[str, Mapping[str, float]] = MappingProxyType({})


class SGD(torch.optim.Optimizer):
    """Caffe's: h = momentum h + rate (gradient + decay w), w = w - h.

    In PyTorch's own SGD the rate is no part of h, so that a new rate also changes what earlier gradients do.
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for p in weights:
                if "history" not in self.state[p]:
                    self.state[p]["history"] = torch.zeros_like(p)
            history = [self.state[p]["history"] for p in weights]
            gradients = torch._foreach_add([p.grad for p in weights], weights, alpha=group["weight_decay"])
            torch._foreach_mul_(history, group["momentum"])
            torch._foreach_add_(history, gradients, alpha=group["lr"])
            torch._foreach_sub_(weights, history)


def adamw(groups: list[dict], lr: float, beta1: float = 0.9, beta2: float = 0.999) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101): the decay is taken off the weights themselves, times the rate."""
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), fused=fused)


SOLVERS: dict[str, tuple[Mapping[str, Any], Callable]] = {  # name -> (its numbers with defaults, what makes the optimizer)
    "sgd": (numbers_of(SGD, without=2), SGD),
    "caffe": (numbers_of(SGD, without=2), SGD),  # and Caffe's moving average in batch norms
    "nesterov": (numbers_of(Nesterov, without=2), Nesterov),
    "adam": (numbers_of(Adam, without=2), Adam),
    "adagrad": (numbers_of(AdaGrad, without=2), AdaGrad),
    "rmsprop": (numbers_of(RMSProp, without=2), RMSProp),
    "adamw": (numbers_of(adamw, without=2), adamw),
}
CAFFES = ("caffe", "nesterov", "adam", "adagrad", "rmsprop")  # whose batch norms average as Caffe's


class Solver:
    """An optimizer whose rate follows a policy, by iteration, and whose multipliers follow Caffe's.

    "sgd" and "caffe" update alike. CAFFES also have batch norms average over about a thousand batches, as Caffe does; the
    others keep PyTorch's momentum of 0.1. That is the default because a net that has trained for some hundred iterations, as
    in a first look at a dataset, would else label with the statistics of its own beginnings.

    net: whose parameters learn. base_lr: the rate before policy and multipliers. policy, solver: as in the config.
    pretrained: the layers that were initialised from other weights. patterns: the config's MULTIPLIERS. clip: the norm that all
    gradients together are cut down to, None for any. freeze_iterations: how many of the first iterations leave the pretrained
    layers as they are, None: all (see frozen.py). pretrained_rate: of those, as a share of the others'. Raises UserError for
    settings that do not fit.
    """

    def __init__(
        self,
        net: nn.Module,
        base_lr: float,
        policy: Mapping,
        solver: Mapping,
        pretrained: Collection[str] = (),
        patterns: Mapping[str, Mapping[str, float]] = NO_PATTERNS,
        clip: float | None = None,
        freeze_iterations: int | None = 0,
        pretrained_rate: float = PRETRAINED_RATE,
    ):
        self.schedule, self.pretrained, self.name = Schedule(base_lr, policy), pretrained, solver.get("name")
        numbers = read_choice("SOLVER", solver, {n: known | {"weight_decay": REQUIRED} for n, (known, _) in SOLVERS.items()})
        groups = parameter_groups(net, pretrained, numbers.pop("weight_decay"), patterns, pretrained_rate)
        self.optimizer = SOLVERS[self.name][1](groups, base_lr, **numbers)
        if self.name in CAFFES:
            use_caffe_average(net)
        self._parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self._momentum = _momentum_of(self.optimizer.param_groups[0])
        self.schedule.momentum(0, self._momentum)  # refuses a cycle that does not fit
        self._clip = clip
        self.frozen = Frozen(net, pretrained, freeze_iterations)

    def rate(self, iteration: int) -> float:
        """The learning rate at an iteration (the first is 0), before the multipliers."""
        return self.schedule.rate(iteration)

    def report(self, score: float) -> None:
        """Take note of a validation's score, of which more is better: the policy `plateau` goes by it."""
        self.schedule.report(score)

    def step(self, iteration: int) -> Tensor:
        """Update the parameters by their gradients, then forget those; their norm, before it was cut down, comes back."""
        norm = self._clipped_norm()
        rate, momentum = self.rate(iteration), self.schedule.momentum(iteration, self._momentum)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_mult"]
            group |= {"betas": (momentum, group["betas"][1])} if "betas" in group else {"momentum": momentum}
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _clipped_norm(self) -> Tensor:
        """The norm of all gradients together, which are cut down to the limit if there is one."""
        parameters = [p for p in self._parameters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if self._clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self._clip, norm)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """A copy of what the next update depends on beside weights and iteration; the optimizer's by parameter name."""
        states = {name: self.optimizer.state.get(p, {}) for name, p in self._parameters.items()}
        states = {name: {k: _copy(v) for k, v in values.items()} for name, values in states.items()}
        return {"optimizer": {"name": self.name, "state": states}, "policy": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, with rates, multipliers, decay and momentum as the config says.

        Raises UserError where the state is of another net or optimizer.
        """
        saved = state["optimizer"]
        self._check_state(saved)
        places = [p for group in self.optimizer.param_groups for p in group["params"]]
        names = {p: name for name, p in self._parameters.items()}
        own = self.optimizer.state_dict()
        own["state"] = {i: dict(v) for i, p in enumerate(places) if (v := saved["state"][names[p]])}
        self.optimizer.load_state_dict(own)
        for parameter, values in self.optimizer.state.items():
            values |= {k: _laid_out_as(parameter, v) for k, v in values.items()}
        self.schedule.load_state_dict(state["policy"])

    def _check_state(self, saved: Mapping[str, Any]) -> None:
        reason = f"it is of {saved.get('name')}, not of {self.name}" if saved.get("name") != self.name else ""
        if odd := sorted(map(str, saved["state"].keys() ^ self._parameters.keys())):
            reason = f"{listing(odd, 3)} {'is' if len(odd) == 1 else 'are'} in one of them alone"
        for name in saved["state"].keys() & self._parameters.keys():
            shapes = {tuple(v.shape) for v in saved["state"][name].values() if isinstance(v, Tensor) and v.dim()}
            if shapes - {tuple(self._parameters[name].shape)}:
                reason = f"'{name}' has the shape {shapes.pop()} there"
        if reason:
            raise UserError(f"the solverstate is of another net or solver ({reason}): restore the one that goes with it.")


def _momentum_of(group: Mapping[str, Any]) -> float:
    return group["betas"][0] if "betas" in group else group["momentum"]


def _copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def _laid_out_as(parameter: nn.Parameter, value: Any) -> Any:
    """A state of the parameter in the parameter's own memory format, without which fused optimizers mix up the values."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value) if value.shape == parameter.shape else value.clone()


def parameter_groups(
    net: nn.Module,
    pretrained: Collection[str],
    weight_decay: float,
    patterns: Mapping[str, Mapping[str, float]] = NO_PATTERNS,
    pretrained_rate: float = PRETRAINED_RATE,
) -> list[dict]:
    """The learnable parameters, grouped by their multipliers (`lr_mult`, and `weight_decay` with its own taken in)."""
    groups: dict[tuple[float, float], list] = {}
    for parameter, lr, decay in multipliers(net, pretrained, patterns, pretrained_rate):
        groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": parameters, "lr_mult": lr, "weight_decay": weight_decay * decay}
        for (lr, decay), parameters in groups.items()
    ]


def multipliers(
    net: nn.Module,
    pretrained: Collection[str],
    patterns: Mapping[str, Mapping[str, float]] = NO_PATTERNS,
    pretrained_rate: float = PRETRAINED_RATE,
) -> Iterator[tuple[nn.Parameter, float, float]]:
    """(parameter, learning-rate multiplier, decay multiplier) of each learnable parameter.

    What `patterns` say comes first, then a row's own multipliers, then the rule of PRETRAINED and FRESH; decay is 1 unless one
    of them says otherwise.
    """
    rows = {row.name: row for row in getattr(net, "rows", ())}
    modules = dict(net.named_modules())
    names = [name for name, _ in net.named_parameters()]
    asked = by_pattern(names, patterns, parts_of(names, pretrained))
    for name, parameter in net.named_parameters():
        owner, _, kind = name.rpartition(".")
        role = (kind == "bias") + 2 * isinstance(modules[owner], nn.modules.batchnorm._BatchNorm)
        row = rows.get(name.split(".")[0])
        rule = [pretrained_rate * m for m in PRETRAINED] if belongs(name, pretrained) else FRESH
        lr = row.lr_mult[role] if row and row.lr_mult else rule[role]
        decay = row.decay_mult[role] if row and row.decay_mult else 1.0
        if parameter.requires_grad:
            yield parameter, asked[name].get("lr", lr), asked[name].get("decay", decay)


def parts_of(names: Sequence[str], pretrained: Collection[str]) -> dict[str, list[str]]:
    """The parts of a net that MULTIPLIERS may name: its parameters that came with weights, and the others."""
    encoder = [name for name in names if belongs(name, pretrained)]
    return {"encoder": encoder, "head": [name for name in names if name not in set(encoder)]}


def by_pattern(
    names: list[str], patterns: Mapping[str, Mapping[str, float]], parts: Mapping[str, Sequence[str]] = NO_PARTS
) -> dict[str, dict[str, float]]:
    """The multipliers ("lr", "decay") that patterns such as "conv1_*" or "*.bias" give to parameters, by parameter name.

    A pattern is matched with the layer's name and with the parameter's (conv1_1 and conv1_1.bn.weight); of several that match,
    the last one counts. A name of `parts` that no layer has means all of its parameters. Raises UserError for a pattern that
    matches nothing, or multipliers that are none.
    """
    found = {name: {} for name in names}
    for pattern, numbers in patterns.items():
        for key, value in numbers.items():
            if key not in ("lr", "decay") or not 0 <= value < math.inf:
                raise UserError(f"MULTIPLIERS['{pattern}'] has {key!r}: {value!r}: it takes 'lr' and 'decay', each 0 or more.")
        matched = [name for name in names if any(fnmatchcase(n, pattern) for n in (*_layers(name), name))]
        matched = matched or list(parts.get(pattern, ()))
        if not matched and pattern in parts:
            which = "came with weights: name some in INIT_MODEL" if pattern == "encoder" else "began at random: name layers"
            raise UserError(f"MULTIPLIERS['{pattern}'] is for the layers that {which}, as there are none here.")
        if not matched:
            layers = list(dict.fromkeys(layer for name in names for layer in _layers(name)))
            raise UserError(
                f"MULTIPLIERS['{pattern}'] matches no layer that learns.{nearest(pattern, layers)} There are {listing(layers)}."
            )
        for name in matched:
            found[name] |= numbers
    return found


def _layers(name: str) -> list[str]:
    """The names of the modules that a parameter lies in, the outermost first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
