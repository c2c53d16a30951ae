"""The learning rate by iteration: Caffe's policies, today's, a warm-up before each; and one cycle's swing of the momentum.

Every policy but `plateau` depends on the iteration and the config alone: a run that is restored with a larger --niter goes
on along the same curve. Policies that end do so at `max_iterations`; if the config leaves that out, at --niter (`ending`): a
run that is restored with a larger --niter then goes on along a longer curve.
"""

import bisect
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from tools.base.choices import numbers_of, read_choice
from tools.base.errors import UserError


def fixed(iteration: int) -> float:
    """The base rate throughout."""
    return 1.0


def step(iteration: int, step_iterations: int, gamma: float) -> float:
    """The rate is multiplied by gamma every `step_iterations`."""
    return gamma ** (iteration // step_iterations)


def multistep(iteration: int, at_iterations: list[int], gamma: float) -> float:
    """The rate is multiplied by gamma at each of these iterations."""
    return gamma ** bisect.bisect_right(at_iterations, iteration)


def exp(iteration: int, gamma: float) -> float:
    """The rate is multiplied by gamma in every iteration: Caffe's exp."""
    return gamma**iteration


def inv(iteration: int, gamma: float, power: float) -> float:
    """(1 + gamma x iteration)^-power: Caffe's inv."""
    return (1 + gamma * iteration) ** -power


def sigmoid(iteration: int, step_iterations: int, slope: float) -> float:
    """1 / (1 + exp(-slope (iteration - step_iterations))): Caffe's sigmoid, whose gamma is the slope; it falls below 0."""
    away = slope * (iteration - step_iterations)
    return 1 / (1 + math.exp(-away)) if away > -700 else 0.0


def poly(iteration: int, max_iterations: int, power: float) -> float:
    """Falls to 0 at max_iterations, as (1 - iteration / max_iterations)^power; DeepLab's power is 0.9."""
    return max(0.0, 1 - iteration / max_iterations) ** power


def cosine(iteration: int, max_iterations: int, final_fraction: float = 0.0) -> float:
    """Falls along half a cosine to `final_fraction` of the rate at max_iterations (Loshchilov, arXiv 1608.03983)."""
    return _half_cosine(1.0, final_fraction, iteration / max_iterations)


def one_cycle(
    iteration: int,
    max_iterations: int,
    rise_fraction: float = 0.3,
    start_divisor: float = 25.0,
    final_divisor: float = 1e4,
) -> float:
    """Up from 1 / start_divisor to the base rate and down to 1 / (start_divisor final_divisor), both along half a cosine.

    The top is at iteration rise_fraction x max_iterations - 1, the end at max_iterations - 1 (Smith, arXiv 1708.07120; the
    numbers are those of PyTorch's OneCycleLR). With `lowest_momentum` in the policy, the momentum swings the other way.
    """
    start = 1 / start_divisor
    return _cycle(iteration, max_iterations, rise_fraction, (start, 1.0, start / final_divisor))


def one_cycle_momentum(
    iteration: int, highest: float, lowest_momentum: float, max_iterations: int, rise_fraction: float = 0.3
) -> float:
    """The momentum beside one cycle of the rate: down from `highest` while that rises, then up (Smith, arXiv 1803.09820)."""
    return _cycle(iteration, max_iterations, rise_fraction, (highest, lowest_momentum, highest))


def _cycle(iteration: int, max_iterations: int, rise_fraction: float, values: tuple[float, float, float]) -> float:
    """From the first value to the second, at iteration rise_fraction x max_iterations - 1, and to the third at the last one."""
    (start, middle, end), top, last = values, rise_fraction * max_iterations - 1, max_iterations - 1
    if iteration <= top:
        return _half_cosine(start, middle, iteration / top if top else 1.0)
    return _half_cosine(middle, end, (iteration - top) / (last - top))


def _half_cosine(start: float, end: float, share: float) -> float:
    """From start (at share 0) to end (at share 1, and beyond)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


class Plateau:
    """The rate is multiplied by gamma when the validation score has stopped rising.

    That is after `patience_validations` + 1 validations in a row of which none beat the best one by more than
    `least_improvement`, in points of the score (0.01: one per cent of IoU); then counting begins anew.
    """

    def __init__(self, gamma: float, patience_validations: int, least_improvement: float = 0.0):
        self.gamma, self.patience, self.least = gamma, patience_validations, least_improvement
        self.best, self.waited, self.drops = -math.inf, 0, 0

    def __call__(self, iteration: int) -> float:
        return self.gamma**self.drops

    def report(self, score: float) -> None:
        """Take note of a validation's score, of which more is better."""
        if score > self.best + self.least:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.drops, self.waited = self.drops + 1, 0


POLICIES: dict[str, Callable] = {  # name -> function of the iteration and the policy's numbers, or what holds the numbers
    "fixed": fixed, "step": step, "multistep": multistep, "exp": exp, "inv": inv, "sigmoid": sigmoid, "poly": poly,
    "cosine": cosine, "one_cycle": one_cycle, "plateau": Plateau,
}  # fmt: skip


def ending(policy: Mapping[str, Any], niter: int) -> dict[str, Any]:
    """The policy with its end: the last iteration, if it is one that ends and the config does not say where."""
    make = POLICIES.get(policy.get("name")) if isinstance(policy.get("name"), str) else None
    ends = make is not None and "max_iterations" in numbers_of(make, 0)
    return {**policy, "max_iterations": niter} if ends and policy.get("max_iterations") is None else dict(policy)


class Schedule:
    """The learning rate of each iteration, before the multipliers.

    base_lr: the rate before the policy. policy: as in the config; its `warmup_iterations` multiply the rate of iteration i
    (the first is 0) by (i + 1) / warmup_iterations, until that is 1, or its `warmup_share` does, of max_iterations; one_cycle's
    `lowest_momentum` is where the momentum goes while the rate rises, from SOLVER's (adamw's beta1) and back (left out: it
    stays). last: how many iterations the policy is made for, None for any number. waits_for_scores: whether it needs `report`.
    Raises UserError for a rate or numbers that make no sense.
    """

    def __init__(self, base_lr: float, policy: Mapping[str, Any]):
        if not 0 < base_lr < math.inf:
            raise UserError(f"BASE_LR = {base_lr}: the learning rate must be a number above 0.")
        numbers = read_choice("LR_POLICY", policy, {name: numbers_of_policy(name) for name in POLICIES})
        share = numbers.pop("warmup_share", 0)
        if share and not numbers.get("max_iterations"):
            raise UserError(f"LR_POLICY: '{policy['name']}' has no end to take a warmup_share of: give warmup_iterations.")
        warmup = round(share * numbers["max_iterations"]) if share else 0
        self.base_lr, self._warmup = base_lr, numbers.pop("warmup_iterations", 0) or warmup
        self._warms_by_share = bool(share)
        self._lowest_momentum = numbers.pop("lowest_momentum", None)
        self._cycle = {key: numbers[key] for key in ("max_iterations", "rise_fraction") if key in numbers}
        self.last = numbers.get("max_iterations")
        self.waits_for_scores = policy["name"] == "plateau"
        self.share: Callable[[], float] | None = None  # of the policy that has passed by the clock, instead of by iterations
        make = POLICIES[policy["name"]]
        self._policy = make(**numbers) if self.waits_for_scores else functools.partial(make, **numbers)

    def rate(self, iteration: int) -> float:
        """The learning rate at an iteration; the first is 0."""
        since = self._place(iteration) if self._warms_by_share else iteration
        warm = min(1.0, (since + 1) / self._warmup) if self._warmup else 1.0
        return self.base_lr * warm * self._policy(self._place(iteration))

    def _place(self, iteration: int) -> int:
        """The iteration of the policy that counts: this one, or the one that the clock has come to."""
        return iteration if self.share is None else min(int(self.share() * self.last), self.last - 1)

    def momentum(self, iteration: int, own: float) -> float:
        """The momentum at an iteration: the solver's own, or what one cycle makes of it. Raises UserError where it is lower."""
        if self._lowest_momentum is None:
            return own
        if self._lowest_momentum > own:
            raise UserError(
                f"LR_POLICY: lowest_momentum = {self._lowest_momentum:g} is above the {own:g} of SOLVER, from which the cycle"
                " goes down: say 0.85 here, and 0.95 there."
            )
        return one_cycle_momentum(self._place(iteration), own, self._lowest_momentum, **self._cycle)

    def report(self, score: float) -> None:
        """Take note of the score of a validation; more is better."""
        if self.waits_for_scores:
            self._policy.report(score)

    def check(self, iterations: int) -> None:
        """Raise UserError where a run of so many iterations goes on beyond the policy's end."""
        if self.last is not None and iterations > self.last:
            raise UserError(
                f"--niter {iterations}: LR_POLICY ends at max_iterations = {self.last}, beyond which the rate would be 0 or"
                " next to it: train for less, or give it a larger number."
            )

    def state_dict(self) -> dict[str, float]:
        """What the next rate depends on beside the iteration."""
        names = ("best", "waited", "drops") if self.waits_for_scores else ()
        return {name: getattr(self._policy, name) for name in names}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` gave; a policy that the run did not have before begins afresh."""
        for name in self.state_dict():
            setattr(self._policy, name, state.get(name, getattr(self._policy, name)))


def numbers_of_policy(name: str) -> dict[str, Any]:
    """The numbers that a policy reads, with their defaults."""
    without = 0 if name == "plateau" else 1  # of a function, the iteration
    more = {"lowest_momentum": None} if name == "one_cycle" else {}
    return numbers_of(POLICIES[name], without) | {"warmup_iterations": 0, "warmup_share": 0} | more
