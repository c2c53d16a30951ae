"""Sections of the config: frozen dataclasses whose fields carry the rule that their values keep.

A wing has its section in its settings.py. A setting stands there once: its name, type, rule, the rule in words, its default,
and whether a run with another value is another run.
"""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from tools.base.errors import UserError

Rule = Callable[[Any], bool]


def setting(rule: Rule, wish: str, default: Any = MISSING, *, effect: bool = True) -> Any:
    """A field of a section.

    rule: whether a value is of the right form; wish: the right form in words. default: the value when neither the config nor
    its recipe gives one; without a default the config must. effect: False if a run with another value is still the same run
    (places, speed, what is kept).
    """
    about = {"rule": rule, "wish": wish, "effect": effect}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True)
class Section:
    """Settings that belong together. Raises UserError that names every value of a wrong form, then what contradicts."""

    def __post_init__(self):
        faults = [
            f"{f.name} = {value!r}: it must be {f.metadata['wish']}."
            for f in fields(self)
            if not _keeps(f.metadata["rule"], value := getattr(self, f.name))
        ]
        if faults:
            raise UserError(" ".join(faults))
        self.check()

    def check(self) -> None:
        """Raise UserError if settings of this section contradict each other."""

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def _keeps(rule: Rule, value: Any) -> bool:
    try:
        return bool(rule(value))
    except (TypeError, ValueError, RecursionError, OverflowError):  # such as a list that holds itself, a number past floats
        return False


# ----------------------------------------------------------------------------------------------------------------- rules


def whole(least: int) -> Rule:
    """A whole number of at least so much; True and False are none."""
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v < 1 << 53


def is_number(v: Any) -> bool:
    """A finite number."""
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


def within(low: float, high: float) -> Rule:
    """A number strictly between two others."""
    return lambda v: is_number(v) and low < v < high


def is_flag(v: Any) -> bool:
    """True or False."""
    return isinstance(v, bool)


def is_text(v: Any) -> bool:
    """Text that is not empty."""
    return isinstance(v, str) and bool(v) and "\0" not in v


def is_sequence(v: Any) -> bool:
    """A list or a tuple."""
    return isinstance(v, list | tuple)


def is_size(v: Any) -> bool:
    """Height and width in pixels."""
    return is_sequence(v) and len(v) == 2 and all(map(whole(1), v))


def are_texts(v: Any) -> bool:
    """A list of texts that is not empty."""
    return is_sequence(v) and bool(v) and all(map(is_text, v))


def some_of(*choices: Any) -> Rule:
    """A list of some of these values, each once, one at least."""
    return lambda v: is_sequence(v) and all(one in choices for one in v) and len(set(v)) == len(v) > 0


def mapping(value: Rule, key: Rule = is_text, *, empty: bool = True) -> Rule:
    """A mapping whose values and keys keep these rules."""
    return lambda v: isinstance(v, Mapping) and (empty or bool(v)) and all(map(key, v)) and all(map(value, v.values()))


def optional(rule: Rule) -> Rule:
    """None, or what the rule says."""
    return lambda v: v is None or rule(v)


def is_choice(v: Any) -> bool:
    """A choice with its numbers, {"name": ..., ...}."""
    return isinstance(v, Mapping) and is_text(v.get("name"))


SIZE_WISH = "two whole numbers of pixels, height and width"
