"""Settings that name a choice and its numbers, such as {"name": "step", "step_iterations": 25000, "gamma": 0.1}."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from tools.base.errors import UserError, listing, nearest

REQUIRED = inspect.Parameter.empty
Limits = Mapping[str, tuple[Callable[[Any], bool], str]]  # number -> (is it within its limits?, the limits in words)


def numbers_of(function: Callable, without: int = 1) -> dict[str, Any]:
    """The numbers that a choice reads, with their defaults (REQUIRED where there is none): a function's parameters.

    without: how many of its first parameters are none of them.
    """
    return {p.name: p.default for p in list(inspect.signature(function).parameters.values())[without:]}


def read_choice(
    setting: str, given: Mapping[str, Any], choices: Mapping[str, Mapping[str, Any]], limits: Limits | None = None
) -> dict[str, Any]:
    """The parameters that such a setting gives, defaults filled in.

    choices: name -> its numbers with their defaults, as `numbers_of` gives them. limits: of the numbers, LIMITS where none are
    given. Raises UserError unless it names one of them, gives all that are required and nothing else, each in its limits.
    """
    name = given.get("name")
    if not isinstance(name, str) or name not in choices:
        raise UserError(f"{setting} names '{name}', which there is not.{nearest(name, choices)} There is {listing(choices)}.")
    known = choices[name]
    for key in given:
        if key not in known and key != "name":
            raise UserError(
                f"{setting}: '{name}' does not read '{key}'; it reads {listing(known) or 'nothing'}.{nearest(key, known)}"
            )
    for key, default in known.items():
        if key in given or default is REQUIRED:
            _check(setting, name, key, given.get(key), LIMITS if limits is None else limits)
    return {key: value for key, value in given.items() if key != "name"}


def _check(setting: str, name: str, key: str, value: Any, limits: Limits) -> None:
    one_or_many, wish = (_numbers, "a list of numbers, 0 or more,") if key in LISTS else (_number, "a number, 0 or more,")
    if key in SIGNED:
        one_or_many, wish = _finite, "a number"
    if not one_or_many(value):
        raise UserError(f"{setting}: '{name}' needs {wish} for '{key}'; it is {value!r}.")
    rule, wish = limits.get(key, (lambda _: True, ""))
    if not rule(value):
        raise UserError(f"{setting}: {key} = {value!r}: it must be {wish}.")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> bool:
    return _finite(value) and value >= 0


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_number, value))


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: value >= least and value == int(value)


_COUNT = (_whole(1), "1 or more, a whole number")
_BELOW_1 = (lambda value: value < 1, "below 1")
LISTS = ("at_iterations",)
SIGNED = ("slope",)
LIMITS: Limits = {
    "step_iterations": _COUNT,
    "max_iterations": _COUNT,
    "warmup_iterations": (_whole(0), "a whole number"),
    "warmup_share": _BELOW_1,
    "patience_validations": (_whole(0), "a whole number"),
    "at_iterations": (lambda v: sorted(set(v)) == list(v) and v[0] >= 1, "iterations of 1 or more, each after the one before"),
    "rise_fraction": (lambda v: 0 < v < 1, "between 0 and 1"),
    "final_fraction": (lambda v: v <= 1, "1 or less"),
    "start_divisor": (lambda v: v >= 1, "1 or more"),
    "final_divisor": (lambda v: v >= 1, "1 or more"),
    "momentum": _BELOW_1, "rms_decay": _BELOW_1, "lowest_momentum": _BELOW_1, "beta1": _BELOW_1, "beta2": _BELOW_1,
}  # fmt: skip
