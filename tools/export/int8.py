"""Convolutions in whole numbers of 8 bits, the ranges of what they read and write taken from training patches.

Some stay in float32, since they cost the most quality: the first, the last, and those whose maxima the finest two poolings
look for where unpooling wants the positions: in 8 bits too many values are equal. Which ones was chosen by the mean IoU of the
demo's segnet_slim on its 32 test patches, so that the loss there, 0.01 points (0.87 with all in 8 bits), flatters; on 128
patches of a town that had no part in the choice it is 0.06 (0.80). Other nets were not measured. On one thread a full SegNet
is 1.14 times as fast as in bf16, segnet_slim 0.71 times (benchmarks/RESULTS.md).
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from tools.base.folders import read_details, require
from tools.data.inputs import Input
from tools.data.loader import Patches
from tools.data.patches import reflect
from tools.export.end_to_end import Program, file_order

_CALIBRATE = 64  # patches that the ranges are taken from
_UNSEEN = 32  # further patches, which show what comes of it
_FINE_POOLINGS = 2  # from the image on


class Examples:
    """Training patches as a program wants them: per patch the raw pixels of each input, 1 x channels x h x w, float32.

    folder: of the LMDBs. calibrate: to take ranges from; unseen: others. Patches are cut, or continued by their mirror image,
    to a size that the program takes. Raises UserError where the databases are not what the net was trained on.
    """

    def __init__(self, folder: Path, program: Program):
        require(read_details(folder), folder, "create_db.py", bgr=program.inputs[0].bgr)
        self.program, self._patches = program, Patches(folder, "train", program.inputs)
        drawn = np.random.default_rng(1).permutation(len(self._patches))[: _CALIBRATE + _UNSEEN]
        patches = [self._patch(int(i)) for i in drawn]
        known = max(1, len(patches) * _CALIBRATE // (_CALIBRATE + _UNSEEN))
        self.calibrate, self.unseen = patches[:known], patches[known:] or patches

    def _patch(self, record: int) -> tuple[Tensor, ...]:
        return tuple(self._fit(x, spec) for x, spec in zip(self._patches[record][0], self.program.inputs, strict=True))

    def _fit(self, pixels: Tensor, spec: Input) -> Tensor:
        size = tuple(self.program.size or -(-n // self.program.multiple) * self.program.multiple for n in pixels.shape[1:])
        cut = pixels[file_order(spec), : size[0], : size[1]].float().numpy()
        return torch.from_numpy(reflect(cut, size))[None]


class _Reader(CalibrationDataReader):
    def __init__(self, examples: Examples):
        names = [spec.name for spec in examples.program.inputs]
        self._feeds = ({n: x.numpy() for n, x in zip(names, patch, strict=True)} for patch in examples.calibrate)

    def get_next(self) -> dict | None:
        return next(self._feeds, None)


def quantise(model: onnx.ModelProto, examples: Examples) -> onnx.ModelProto:
    """The model with most convolutions in 8 bits: weights per channel, activations per blob; all else stays float32."""
    with tempfile.TemporaryDirectory() as folder, _silence():
        plain, prepared, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
        plain.write_bytes(model.SerializeToString())
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)  # folds batch norms that are left
        quantize_static(
            prepared, done, _Reader(examples), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"],
            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax, nodes_to_exclude=sensitive(onnx.load(prepared)),
        )  # fmt: skip
        quantised = onnx.load(done)
    del quantised.graph.value_info[:]
    quantised.ir_version = model.ir_version
    return quantised


def sensitive(model: onnx.ModelProto) -> list[str]:
    """The names of the convolutions that had better stay in float32."""
    graph, above, below = model.graph, {}, {}
    for node in graph.node:  # in the order in which they run
        before = [above.get(name, Counter()) for name in node.input]
        total = Counter({kind: max((c[kind] for c in before), default=0) for kind in ("Conv", "MaxPool")})
        above |= dict.fromkeys(node.output, total + Counter([node.op_type]))
    for node in reversed(graph.node):
        after = any(below.get(name, False) for name in node.output)
        below |= {name: below.get(name, False) or after or node.op_type == "Conv" for name in node.input}
    ends = {n.name for n in graph.node if n.op_type == "Conv" and (above[n.output[0]]["Conv"] == 1 or not below[n.output[0]])}
    pools = [n for n in graph.node if n.op_type == "MaxPool" and len(n.output) > 1 and n.output[1] in below]
    fine = [_convolutions(graph, n.input[0]) for n in pools if above[n.output[0]]["MaxPool"] <= _FINE_POOLINGS]
    return sorted(ends.union(*fine))


def _convolutions(graph: onnx.GraphProto, blob: str) -> set[str]:
    """Those that write a blob, activations and sums in between left aside."""
    node = next((n for n in graph.node if blob in n.output), None)
    if node is None or node.op_type == "MaxPool":
        return set()
    return {node.name} if node.op_type == "Conv" else set().union(*(_convolutions(graph, name) for name in node.input))


@contextmanager
def _silence() -> Iterator[None]:
    """Within this block no advice by way of the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
