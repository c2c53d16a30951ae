"""ES modules inside a page, as they stand: an import map of data URIs, so that no bundler is needed."""

import base64
import re
from pathlib import Path

_TOOLS = Path(__file__).parent.parent
_IMPORT = re.compile(r'(?<=from ")\.[^"]+(?=")')


def modules(entry: Path) -> dict[str, str]:
    """The data URI of a module and of all that it imports, by what the import map calls them; the module itself is the last.

    A module inside a data URI has no folder, so relative imports become names of the map: the files' paths below tools/.
    """
    found: dict[str, str] = {}
    text = entry.read_text(encoding="utf-8")
    for other in dict.fromkeys(_IMPORT.findall(text)):
        found |= modules((entry.parent / other).resolve())
    text = _IMPORT.sub(lambda other: _name((entry.parent / other[0]).resolve()), text)
    return found | {_name(entry): "data:text/javascript;base64," + base64.b64encode(text.encode()).decode()}


def _name(file: Path) -> str:
    return file.relative_to(_TOOLS).as_posix()
