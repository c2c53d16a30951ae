"""Forms that JSON values of ours have: what a file says is checked against one before anything is made of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.base.errors import UserError

Form = Any
"""A type; `object` for anything, `float` for any number, None for null; (form, form) if one of them must fit; [form] for a
list of that; {str: form} for an object of that; {"name": form, "other?": form} for an object with such entries, of which the
latter may be missing, and any others."""
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object", list: "a list"}


def fault(value: Any, form: Form, name: str = "it") -> str | None:
    """What is wrong with a value, in words; None if it fits."""
    if isinstance(form, tuple):
        found = [fault(value, one, name) for one in form]
        return None if None in found else found[0]
    if isinstance(form, list):
        if not isinstance(value, list):
            return _wrong(name, list)
        return _first(value, [form[0]] * len(value), name, range(len(value)))
    if isinstance(form, Mapping):
        return _object(value, form, name)
    if form is None:
        return None if value is None else f"{name} is not null"
    return None if _is(value, form) else _wrong(name, form)


def _object(value: Any, form: Mapping, name: str) -> str | None:
    if not isinstance(value, dict):
        return _wrong(name, dict)
    if str in form:
        return _first(value.values(), [form[str]] * len(value), name, value)
    missing = [key for key in form if not key.endswith("?") and key not in value]
    if missing:
        return f"{name} has no '{missing[0]}'"
    asked = {key.rstrip("?"): part for key, part in form.items()}
    there = [key for key in asked if key in value]
    return _first([value[key] for key in there], [asked[key] for key in there], name, there)


def _first(values: Any, parts: list, name: str, keys: Any) -> str | None:
    prefix = "" if name == "it" else f"{name}."
    found = (fault(value, part, f"{prefix}{key}") for value, part, key in zip(values, parts, keys, strict=True))
    return next((wrong for wrong in found if wrong), None)


def _is(value: Any, form: type) -> bool:
    if form is object:
        return True
    if isinstance(value, bool):
        return form is bool
    return isinstance(value, int | float) if form is float else isinstance(value, form)


def _wrong(name: str, form: type) -> str:
    return f"{name} is not {_WORDS.get(form) or form.__name__}"


def parse(text: str | bytes, form: Form = object) -> Any:
    """The value that a JSON text holds. Raises ValueError, with the reason, if it is no JSON or not of the form."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if wrong := fault(value, form):
        raise ValueError(wrong)
    return value


def read_json(path: Path, form: Form, advice: str) -> Any:
    """The content of a JSON file of ours. Raises UserError, ending in the advice, if it is missing or of another form."""
    if not path.is_file():  # a folder; a pipe, on which reading would wait for ever
        raise UserError(f"{path} is no file: {advice}.")
    try:
        return parse(path.read_text(encoding="utf-8"), form)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): {advice}.") from None
