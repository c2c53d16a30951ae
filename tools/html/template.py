"""Pages made of Jinja templates: one look for all, and numbers in the form that people read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

LOOK = Path(__file__).parent  # of look.css, which templates include


def render(template: Path, **values: Any) -> str:
    """A page: the template filled with values, in which nothing is taken for HTML."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, LOOK]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "count": count, "decimals": decimals, "css": css}
    return environment.get_template(template.name).render(values)


def percent(share: float | None, digits: int = 1) -> str:
    """0.8375 as 83.8; a dash where there is no number."""
    return decimals(None if share is None else 100 * share, digits)


def decimals(value: float | None, digits: int = 1) -> str:
    """1234.56 as 1,234.6; a dash where there is no number."""
    return "–" if value is None else f"{value:,.{digits}f}"


def count(pixels: int | None) -> str:
    """12345 as 12,345; a dash where there is no number."""
    return "–" if pixels is None else f"{int(pixels):,}"


def css(colour: Sequence[int]) -> str:
    """(255, 0, 0) as #ff0000."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
