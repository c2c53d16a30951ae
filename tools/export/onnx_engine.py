"""Nets that onnxruntime computes, on the processor, standing in for PyTorch's where tiles are labelled."""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from tools.base.errors import UserError
from tools.base.forms import parse
from tools.compute.device import Device
from tools.weights.about import check_about

_FORM = {"about": {}, "multiple": int, "size": (int, None), "reach?": (int, None)}
OPENVINO = "openvino"  # the engine's name on the command line
_KEY = "orthonets"  # of the metadata that says what our files are for


class OnnxNet(nn.Module):
    """A net from end to end in an ONNX file: called as our nets are, with raw pixels, it returns log probabilities.

    about: what its snapshot said, with inputs that are left as they are (`Input.raw`). inputs, classes, multiple: as nets have
    them. size: the only height and width, or None. reach: how far the net looks, in pixels, None if the file does not say.
    Raises UserError where the file is none that tools.export wrote.
    """

    engine = "onnxruntime"

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)
        self.session = _session(self.path)
        own = _read_metadata(self.session, self.path)
        self.about, self.multiple, self.size = own["about"], own["multiple"], own["size"]
        self.shares_of, self.reach = own.get("shares_of"), own.get("reach")
        self.inputs = {value.name: value.shape[1] for value in self.session.get_inputs()}
        self.classes = len(self.about["classes"])

    def forward(self, *images: Tensor) -> Tensor:
        """N x classes x H x W; its softmax gives the file's probabilities back."""
        return self.probabilities(*images).clamp_min(torch.finfo(torch.float32).tiny).log()

    def probabilities(self, *images: Tensor) -> Tensor:
        """What the file gives for raw pixels (N x channels x H x W per input): N x classes x H x W.

        Raises UserError where the engine cannot compute images of their size.
        """
        images = [image.float() / self.shares_of for image in images] if self.shares_of else images
        pixels = {name: image.cpu().contiguous().numpy() for name, image in zip(self.inputs, images, strict=True)}
        try:
            found = self._compute(pixels)
        except Exception as error:  # the engines' own, without a common kind
            size = "x".join(map(str, images[0].shape[2:]))
            reason = (str(error).splitlines() or [""])[0][:300].rstrip(".")
            raise UserError(
                f"{self.engine} cannot compute {self.about['name']} on images of {size} pixels ({reason}): export the net with"
                " --size, for the one size that you need, or use another engine."
            ) from None
        return torch.from_numpy(found).to(images[0].device)

    def _compute(self, pixels: dict[str, np.ndarray]) -> np.ndarray:
        """The file's one output for its inputs."""
        return self.session.run(None, pixels)[0]

    def fuse(self) -> "OnnxNet":
        """As it is: batch norm was folded when it was exported."""
        return self

    def check_window(self, size: tuple[int, int]) -> None:
        """Raise UserError where the file takes no images of a height and width (pixels)."""
        if self.size and tuple(size) != (self.size, self.size):
            raise UserError(
                f"{self.path} was exported with --size {self.size}: it takes no windows of {size[0]}x{size[1]} pixels, as"
                f" another net here does; export both for one size, or without --size."
            )


def check_windows(net: nn.Module, size: tuple[int, int]) -> None:
    """Raise UserError where some part of a net that onnxruntime computes takes no windows of this size (pixels)."""
    for part in net.modules():
        if isinstance(part, OnnxNet):
            part.check_window(size)


def fixed_size(net: nn.Module) -> int | None:
    """The only height and width (pixels) that some part of a net takes which onnxruntime computes; None if it takes any."""
    sizes = [part.size for part in net.modules() if isinstance(part, OnnxNet) and part.size]
    return sizes[0] if sizes else None


@dataclass(frozen=True)
class Processor(Device):
    """The processor, where another engine than PyTorch computes."""

    engine: str = f"onnxruntime {onnxruntime.__version__}"

    def __str__(self) -> str:
        return f"the processor, by {self.engine}"


def processor(name: str | None = None, engine: str | None = None) -> Processor:
    """The processor, for `--device` None or "cpu". Raises UserError for another name, or for an engine that is not there."""
    engine = f"OpenVINO {_openvino().library().__version__.partition('-')[0]}" if engine == OPENVINO else Processor.engine
    if name not in (None, "cpu"):
        raise UserError(
            f"--device {name}: {engine.split()[0]} computes on the processor here; leave it out, or take --engine torch."
        )
    return Processor(torch.device("cpu"), bf16=False, engine=engine)


def kind_of(engine: str | None) -> type[OnnxNet]:
    """What computes ONNX files."""
    return _openvino().OpenVinoNet if engine == OPENVINO else OnnxNet


def _openvino() -> ModuleType:
    return importlib.import_module("tools.export.openvino_engine")  # which builds on this module, and on an optional package


def _session(path: Path) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, without a common kind
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise UserError(f"{path} is no whole ONNX file that onnxruntime can read ({reason}).") from None


def _read_metadata(session: onnxruntime.InferenceSession, path: Path) -> dict:
    """What a file of ours says: about, multiple, size, reach, and shares_of, what pixels are to be divided by, if they are."""
    try:
        own = parse(session.get_modelmeta().custom_metadata_map[_KEY], _FORM)
        check_about(own["about"])
        if {value.name for value in session.get_inputs()} != {given["name"] for given in own["about"]["inputs"]}:
            raise ValueError("its inputs are not those of the net")
        return own
    except (KeyError, ValueError, IndexError) as error:
        reason = "" if isinstance(error, KeyError) else f": {error}"
        raise UserError(
            f"{path} does not say what it is for (metadata '{_KEY}'{reason}): export the net's snapshot with python -m"
            " tools.export."
        ) from None


def hosted(net: nn.Module, about: dict, engine: str | None = None) -> OnnxNet:
    """A snapshot's net for another engine, by way of a temporary file. Raises UserError where it cannot be exported."""
    from tools.export import onnx_file  # seconds to import, and needed for this alone
    from tools.export.end_to_end import trace

    program = trace(net, about)
    model = onnx_file.convert(program)
    onnx_file.describe(model, program, about)
    with tempfile.TemporaryDirectory() as folder:
        onnx_file.save(model, Path(folder) / "net.onnx")
        return kind_of(engine)(Path(folder) / "net.onnx")
