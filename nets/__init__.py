"""The networks: one file per net, a table of layers each. `build` finds a net by its name, `rebuild` by what `describe` wrote.

Whatever comes back is an nn.Module called with one N x C x H x W tensor per input, which returns N x classes x H x W logits
and says about itself: `inputs` (channels by input name, in order), `classes`, `multiple` (what height and width must be
multiples of).
"""

import importlib
import inspect
import json
from pathlib import Path

from torch import nn

from nets.net import Net
from tools.errors import UserError, listing, nearest

_NOT_NETS = {"__init__", "__main__", "layers", "net"}


def names() -> list[str]:
    """The nets of this folder, by file name."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in _NOT_NETS)


def build(name: str, inputs: dict[str, int], classes: int, **options) -> nn.Module:
    """The net called `name`, with fresh weights.

    name: a file of this folder without `.py`. inputs: channels of each input by name. classes: planes of the output.
    options: further arguments of the table's function. Raises UserError for an unknown name or option, or a wrong number
    of inputs.
    """
    if name not in names():
        raise UserError(f"there is no net called '{name}'.{nearest(name, names())} There are {listing(names(), 40)}.")
    table = getattr(importlib.import_module(f"nets.{name}"), name)
    wanted = inspect.signature(table).parameters
    for option in options:
        if option not in list(wanted)[2:]:
            raise UserError(
                f"the net {name} has no option '{option}'; its options: {listing(list(wanted)[2:]) or 'none'}."
            )
    if "inputs" in wanted:
        return Net(table(inputs, classes, **options))
    if len(inputs) != 1:
        raise UserError(
            f"the net {name} reads one input, but there are {len(inputs)} ({listing(inputs)}): join their bands into one"
            " input, or choose a net with two branches."
        )
    return Net(table(*inputs.values(), classes, **options))


def describe(net: nn.Module) -> str:
    """JSON text from which `rebuild` makes the same net, whatever becomes of the file that declared it."""
    return json.dumps({"table": json.loads(net.to_json())})


def rebuild(description: str) -> nn.Module:
    """The net that `describe` wrote down, with fresh weights."""
    return Net.from_json(json.dumps(json.loads(description)["table"]))
