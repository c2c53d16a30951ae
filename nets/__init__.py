"""The networks: one file per net, a table of layers each. `build` finds a net by its name, `rebuild` by what `describe` wrote.

Whatever comes back is an nn.Module called with one N x C x H x W tensor per input, which returns N x classes x H x W logits
and says about itself: `inputs` (channels by input name, in order), `classes`, `multiple` (what height and width must be
multiples of).
"""

import contextlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import nets.caffe.layers
import nets.caffe.norms
import nets.caffe.pointwise  # noqa: F401
from nets import layers
from nets.layers import Row
from nets.net import Net, trial
from tools.base.errors import UserError, listing, nearest, run
from tools.base.forms import parse

_ROW = {"kind": str, "name": str, "reads?": [str], "args?": {str: object}, "lr_mult?": [float], "decay_mult?": [float]}


def names() -> list[str]:
    """The nets of this folder: the files that have a function of their own name."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(p.stem for p in files if f"\ndef {p.stem}(" in p.read_text(encoding="utf-8"))


def names_with_backbones() -> list[str]:
    """The same, once per backbone where a net has several, as the config names them."""
    found = []
    for name in names():
        backbones = getattr(importlib.import_module(f"nets.{name}"), "BACKBONES", {})
        found += [f"{name}/{backbone}" for backbone in backbones] or [name]
    return found


def example_inputs(name: str) -> dict[str, int]:
    """Inputs of 3 channels each, as many as the net called `name` reads."""
    name = str(name).partition("/")[0]
    two = name in names() and "inputs" in inspect.signature(_table(name)).parameters
    return {"irrg": 3, "composite": 3} if two else {"irrg": 3}


def _table(name: str) -> Callable:
    """The function that declares a net of this folder."""
    return getattr(importlib.import_module(f"nets.{name}"), name)


def build(name: str, inputs: dict[str, int], classes: int, **options) -> nn.Module:
    """The net called `name`, with fresh weights.

    name: a file of this folder without `.py` (with "/BACKBONE" where it has several), the path of a `.prototxt`, or a net of
    a library, such as "smp:Unet/resnet34" or "torchvision:deeplabv3_resnet50". inputs: channels of each input by name.
    classes: planes of the output. options: further arguments of the table's function. Raises UserError for an unknown name
    or option, or a wrong number of inputs.
    """
    with told_if_values_are_wrong(f"the net {name}", options):
        return _build(name, inputs, classes, options)


def _build(name: str, inputs: dict[str, int], classes: int, options: dict) -> nn.Module:
    if ":" in str(name) and not str(name).endswith(".prototxt"):
        from nets.libraries import LibraryNet  # the libraries take seconds to import

        return LibraryNet(name, inputs, classes, **options)
    if str(name).endswith(".prototxt"):
        return _build_prototxt(name, inputs, classes, options)
    name, _, backbone = str(name).partition("/")
    options = options | ({"backbone": backbone} if backbone else {})
    if name not in names():
        raise UserError(f"there is no net called '{name}'.{nearest(name, names())} There are {listing(names(), 40)}.")
    table = _table(name)
    wanted = inspect.signature(table).parameters
    for option in options:
        if option not in list(wanted)[2:]:
            raise UserError(f"the net {name} has no option '{option}'; its options: {listing(list(wanted)[2:]) or 'none'}.")
    if "inputs" in wanted:
        if len(inputs) != 2:
            raise UserError(
                f"the net {name} reads two inputs, but there is {listing(inputs)}: name two of them, the images first."
            )
        return Net(table(inputs, classes, **options))
    if len(inputs) != 1:
        raise UserError(
            f"the net {name} reads one input, but there are {len(inputs)} ({listing(inputs)}): join their bands into one"
            " input, or choose a net with two branches."
        )
    return Net(table(*inputs.values(), classes, **options))


def _build_prototxt(path: str, inputs: dict[str, int], classes: int, options: dict) -> Net:
    """The net of a prototxt. options: what stands for ${NAME} in it; NUM_LABELS is the number of classes."""
    from nets.caffe.prototxt import read_prototxt

    table = read_prototxt(path, inputs, values={"NUM_LABELS": classes} | options)
    for name in options:
        if f"${{{name}}}" not in Path(path).read_text(encoding="utf-8", errors="replace"):
            raise UserError(f"{path} has no place ${{{name}}} for NET_OPTIONS['{name}']: leave that out.")
    with torch.device("meta"):  # weights are drawn once it is known which rows there are
        net = Net(table.rows)
    if net.classes != classes:
        raise UserError(
            f"{path} writes {net.classes} planes in '{net.output}', but there are {classes} classes: they must be as many."
        )
    size = next((table.sizes[name] for name in net.inputs if name in table.sizes), None)
    rows, notes = _scores_of_pixels(net, size)
    net = Net(rows)
    if size and (around := next((row.args["margin"] for row in rows if row.kind == "surround"), 0)):
        size = tuple(n - 2 * around for n in size)
    net.notes, net.made_for = [*table.notes, *notes], size
    return net


def _scores_of_pixels(net: Net, size: tuple[int, int] | None) -> tuple[list[Row], list[str]]:
    """The rows of a prototxt's net as the scripts want it, which label every pixel; and what is to be said of them.

    A softmax at the end goes, since loss and blending take it themselves. Scores of a part of the pixels are enlarged, and an
    image whose margins get no scores is mirrored around first, as the authors of such nets do by hand.
    """
    rows, stride, notes = list(net.rows), net.blobs[net.output].stride, []
    last = next(i for i, row in enumerate(rows) if row.name == net.output)
    if stride > 32:
        return rows, notes  # one answer for the whole image
    if rows[last].kind == "softmax":
        rows = [row for i, row in enumerate(rows) if i != last]
        with torch.device("meta"):
            net = Net(rows)
    written = trial(net, dict.fromkeys(net.inputs, size)).shape[2:] if size else ()
    margins = [int(n - m * stride) // 2 for n, m in zip(size, written, strict=True)] if size else [0]
    if min(margins) > stride and max(margins) - min(margins) < stride:
        rows = _surrounded(rows, max(margins))
        notes.append(f"its scores leave out the {max(margins)} outermost pixels: the image is mirrored around by as many.")
    if stride > 1 and tuple(written) != size:
        corners = bool(size) and all((m - 1) * stride + 1 == n for n, m in zip(size, written, strict=True))
        image = next(row.name for row in rows if row.kind == "data")
        place = next(i for i, row in enumerate(rows) if row.name == net.output) + 1
        rows.insert(place, layers.resize(f"{net.output}_full", net.output, image, **({"corners": True} if corners else {})))
        notes.append(f"its scores are of every {stride}th pixel: they are enlarged bilinearly.")
    return rows, notes


def _surrounded(rows: list[Row], margin: int) -> list[Row]:
    """The rows, reading images with a margin."""
    images = [row.name for row in rows if row.kind == "data"]
    around = [layers.surround(f"{name}_surround", name, margin) for name in images]
    others = [row for row in rows if row.kind != "data"]
    renamed = [replace(r, reads=tuple(f"{n}_surround" if n in images else n for n in r.reads)) for r in others]
    return [*(row for row in rows if row.kind == "data"), *around, *renamed]


def describe(net: nn.Module) -> str:
    """JSON text from which `rebuild` makes the same net, whatever becomes of the file that declared it."""
    if isinstance(net, Net):
        return json.dumps({"table": json.loads(net.to_json())})
    return json.dumps({"library": net.settings()})


def rebuild(description: str) -> nn.Module:
    """The net that `describe` wrote down, with fresh weights."""
    what = parse(description, {"library?": {"name": str, "inputs": {str: int}, "classes": int}, "table?": [_ROW]})
    if "library" in what:
        from nets.libraries import LibraryNet

        with told_if_values_are_wrong("the net", what["library"]):
            return LibraryNet(**what["library"])
    if "table" not in what:
        raise ValueError("it is neither a table of layers nor a library's net")
    return Net.from_json(json.dumps(what["table"]))


@contextlib.contextmanager
def told_if_values_are_wrong(what: str, values: Mapping) -> Iterator[None]:
    """Within this block, what Python or PyTorch stumble over is taken for wrong values. Raises UserError that names them."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not values:
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise UserError(f"{what} cannot be made with {dict(values)} ({reason}): correct these values.") from None


def show(table: Callable) -> None:
    """Print the net that a table's function declares, for 3 channels per input and 6 classes: `python -m nets.segnet`."""
    two = "inputs" in inspect.signature(table).parameters
    run(lambda: print(Net(table({"irrg": 3, "composite": 3} if two else 3, 6))))
