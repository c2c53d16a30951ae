"""The config's net: which one, and the weights that it begins with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.base.sections import Section, is_text, mapping, optional, setting


@dataclass(frozen=True, kw_only=True)
class NetSettings(Section):
    """The net and its initial weights. config.py says what each setting is for."""

    NET: str = setting(is_text, "the name of a net", "segnet")
    NET_OPTIONS: Mapping[str, Any] = setting(mapping(lambda _: True), "arguments of the net's function by name, or {}", {})
    INIT_MODEL: str | None = setting(optional(is_text), "the name or the file of initial weights, or None", None)

    @property
    def slug(self) -> str:
        """The net's name as it stands in the names of folders."""
        name = Path(self.NET).stem if self.NET.endswith(".prototxt") else self.NET
        return re.sub(r"[^\w.-]+", "_", name)
