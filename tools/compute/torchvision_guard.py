"""Imports torchvision where its compiled part does not fit the torch in use, as with PyPI's torchvision beside a CPU torch.

There, `import torchvision` ends in "RuntimeError: operator torchvision::nms does not exist": it describes two operators that
its compiled library was to declare. Declaring both, without code behind them, lets the import pass. Nothing here or in the
libraries of nets calls them (they belong to detection); whoever does is told that the operator has no code for the CPU.

Use `from tools.compute.torchvision_guard import torchvision` instead of `import torchvision`; and import this module before
timm or segmentation_models_pytorch, which import torchvision themselves. Where torchvision works, nothing else is done.
"""

import importlib
import sys
from types import ModuleType

import torch

# The operators that torchvision registers shapes for even when its compiled library is not there; the others it skips then.
_MISSING = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a declaration lasts as long as its Library


def import_torchvision() -> ModuleType:
    """torchvision, with the missing operators declared if it needs that. Raises what the import raises otherwise."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _forget()
        _declare()
        return importlib.import_module("torchvision")


def _forget() -> None:
    """Drop what the failed import has left behind, so that the next one begins afresh."""
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]


def _declare() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _MISSING.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)


torchvision = import_torchvision()
