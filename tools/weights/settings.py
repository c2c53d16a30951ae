"""The config's net: which one, and the weights that it begins with."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.base.errors import UserError, listing
from tools.base.sections import Section, is_flag, is_text, mapping, optional, setting
from tools.weights.units import from_config

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class NetSettings(Section):
    """The net and its initial weights. config.py says what each setting is for."""

    NET: str = setting(is_text, "the name of a net", "segnet")
    NET_OPTIONS: Mapping[str, Any] = setting(mapping(lambda _: True), "arguments of the net's function by name, or {}", {})
    INIT_MODEL: str | Mapping[str, str] | None = setting(
        optional(lambda v: is_text(v) or mapping(is_text, empty=False)(v)),
        "the name or the file of initial weights, {input: file} to join trained nets, or None", None,
    )  # fmt: skip

    INIT_PARTIAL: bool = setting(is_flag, "True or False", False)
    INIT_UNITS: Mapping[str, Any] | None = setting(
        optional(lambda v: isinstance(v, Mapping) and bool(v)),
        "{'mean': a number per band, 'std': the same}, in pixel values, or with 'scale': 255, or None", None,
    )  # fmt: skip

    def check(self) -> None:
        """Raise UserError if INIT_UNITS or the initial weights contradict themselves."""
        from_config(self.INIT_UNITS)
        if self.INIT_MODEL and self.NET_OPTIONS.get("encoder_weights"):
            raise UserError(
                f"INIT_MODEL = {self.INIT_MODEL!r} and NET_OPTIONS' encoder_weights ="
                f" {self.NET_OPTIONS['encoder_weights']!r}: one of them, both are initial weights."
            )

    def build(self, inputs: Iterable, classes: int) -> "nn.Module":
        """The net with fresh weights; inputs: each with a name and its channels.

        smp's `encoder_weights` are left to what begins a run, which fits them to the inputs; nothing is downloaded here.
        """
        import nets  # PyTorch loads when a net is built, not when a config is read

        options = {name: value for name, value in self.NET_OPTIONS.items() if name != "encoder_weights"}
        if taken := sorted({"name", "inputs", "classes"} & set(options)):
            raise UserError(
                f"NET_OPTIONS gives {listing(taken)}, which the settings NET, INPUTS and label_values say: leave it out."
            )
        return nets.build(self.NET, {i.name: i.channels for i in inputs}, classes, **options)

    @property
    def slug(self) -> str:
        """The net's name as it stands in the names of folders."""
        name = Path(self.NET).stem if self.NET.endswith(".prototxt") else self.NET
        return re.sub(r"[^\w.-]+", "_", name)
