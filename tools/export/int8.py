"""Convolutions in whole numbers of 8 bits, the ranges of what they read and write taken from training patches, or from images.

Some convolutions stay in float32, since they cost the most quality: the first, the last, and those whose maxima the finest two
poolings look for where unpooling wants the positions: in 8 bits too many values are equal. Measured in benchmarks/RESULTS.md:
wide nets lose 0.1 points of mean IoU and gain 1.9 (SegNet, onnxruntime) to 3.6 times the speed (DeepLabV3+, OpenVINO); the
light net loses more than it gains.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from tools.base.folders import read_details, require
from tools.data.loader import Patches
from tools.data.patches import reflect
from tools.export.end_to_end import Program, file_order

_CALIBRATE = 64  # patches that the ranges are taken from
_UNSEEN = 32  # further patches, which show what comes of it
WANTED = _CALIBRATE + _UNSEEN
_FINE_POOLINGS = 2  # from the image on


class Examples:
    """Pixels as a program wants them: per patch the raw pixels of each input, 1 x channels x h x w, float32.

    patches: gives the n-th of `count`, channels x h x w for each input. The ranges are taken from `calibrate`; others show
    what comes of it (`unseen`). Patches are cut, or continued by their mirror image, to a size that the program takes.
    """

    def __init__(self, program: Program, patches: Callable[[int], Sequence[np.ndarray]], count: int):
        self.program = program
        drawn = np.random.default_rng(1).permutation(count)[:WANTED]
        found = [tuple(map(self._fit, patches(int(i)))) for i in drawn]
        known = max(1, len(found) * _CALIBRATE // WANTED)
        self.calibrate, self.unseen = found[:known], found[known:] or found

    @classmethod
    def of_database(cls, folder: Path, program: Program) -> "Examples":
        """Training patches; folder: of the LMDBs. Raises UserError where they are not what the net was trained on."""
        require(read_details(folder), folder, "create_db.py", bgr=program.inputs[0].bgr)
        patches = Patches(folder, "train", program.inputs)

        def of_record(i: int) -> list[np.ndarray]:
            return [x[file_order(spec)].float().numpy() for x, spec in zip(patches[i][0], program.inputs, strict=True)]

        return cls(program, of_record, len(patches))

    def _fit(self, pixels: np.ndarray) -> Tensor:
        size = tuple(self.program.size or -(-n // self.program.multiple) * self.program.multiple for n in pixels.shape[1:])
        return torch.from_numpy(reflect(np.float32(pixels[:, : size[0], : size[1]]), size))[None]


class _Reader(CalibrationDataReader):
    def __init__(self, program: Program, patches: Sequence[tuple[Tensor, ...]]):
        names = [spec.name for spec in program.inputs]
        self._feeds = ({n: x.numpy() for n, x in zip(names, patch, strict=True)} for patch in patches)

    def get_next(self) -> dict | None:
        return next(self._feeds, None)


def quantise(model: onnx.ModelProto, examples: Examples) -> onnx.ModelProto:
    """The model with most convolutions in 8 bits: weights per channel, activations per blob; all else stays float32.

    A range is the mean of the patches' ranges, which spares steps, or the widest of all, which cuts nothing off: of both, what
    labels more pixels of the unseen patches as the model does.
    """
    with tempfile.TemporaryDirectory() as folder, _silence():
        plain, prepared = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared"))
        plain.write_bytes(model.SerializeToString())
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)  # folds batch norms that are left
        left = sensitive(onnx.load(prepared))
        tried = [_quantised(prepared, Path(folder) / f"{mean}.onnx", examples, left, mean) for mean in (True, False)]
    for one in tried:
        del one.graph.value_info[:]
        one.ir_version = model.ir_version
    wanted = _labels(model, examples)
    return max(tried, key=lambda one: int((_labels(one, examples) == wanted).sum()))


def _quantised(prepared: Path, done: Path, examples: Examples, left: list[str], mean: bool) -> onnx.ModelProto:
    """left: the convolutions that stay in float32. mean: whether a range is the mean of the patches' ranges, or the widest."""
    quantize_static(
        prepared, done, _Reader(examples.program, examples.calibrate), quant_format=QuantFormat.QDQ, per_channel=True,
        op_types_to_quantize=["Conv"], activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax, extra_options={"CalibMovingAverage": mean},
        nodes_to_exclude=left,
    )  # fmt: skip
    return onnx.load(done)


def _labels(model: onnx.ModelProto, examples: Examples) -> np.ndarray:
    """What the model calls the pixels of the unseen patches, one after another."""
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = iter(_Reader(examples.program, examples.unseen).get_next, None)
    return np.concatenate([session.run(None, feed)[0].argmax(1).ravel() for feed in feeds])


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
