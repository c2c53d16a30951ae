"""Nets that OpenVINO computes, on the processor: an optional engine beside onnxruntime, for the same files."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from tools.base.errors import UserError
from tools.export.onnx_engine import OnnxNet


class OpenVinoNet(OnnxNet):
    """As OnnxNet, computed by OpenVINO in fp32; it compiles the net for each size of window, any number of them at once."""

    engine = "OpenVINO"

    def __init__(self, path: str | Path):
        openvino = library()
        super().__init__(path)
        self.session = None  # it has said what the file is for
        self._core = openvino.Core()
        self._model = self._core.read_model(self.path)
        self._compiled: dict[tuple, object] = {}

    def _compute(self, pixels: dict[str, np.ndarray]) -> np.ndarray:
        sizes = tuple(values.shape[1:] for values in pixels.values())
        if sizes not in self._compiled:
            self._compiled[sizes] = self._compile(pixels)
        return self._compiled[sizes](pixels)[0]

    def _compile(self, pixels: dict[str, np.ndarray]) -> object:
        model = self._model.clone()
        model.reshape({name: [-1, *values.shape[1:]] for name, values in pixels.items()})
        how = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        return self._core.compile_model(model, "CPU", how | {"INFERENCE_PRECISION_HINT": "f32"})


def library() -> ModuleType:
    """The package. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise UserError(
            f"--engine openvino needs a package that does not come by itself ({error}): pip install openvino."
        ) from None
