"""ONNX files: the net from end to end, and what onnxruntime, the QGIS plugin Deepness and our own engine want to know of it.

Deepness (github.com/PUTvision/qgis-plugin-deepness) reads one input of fixed, equal height and width, class probabilities, and
metadata in JSON: model_type, class_names, tile_size (tiles_size in its manual), tiles_overlap, resolution, seg_thresh and
standardization_mean and _std, which it applies after dividing pixels by 255; ours undo that division.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxscript
import torch

from nets.receptive import reach
from tools.base.errors import UserError
from tools.export.end_to_end import Program, first_line, quiet, raw

KEY = "orthonets"  # of our own metadata
SHARES_OF = 255  # what other programs divide pixels by
OPSET = 18  # onnxruntime 1.14 and all later ones read it
_IR_VERSION = 8  # the form of the file that goes with it; the exporter writes newer ones, which older programs refuse
_OVERLAP = 25  # percent of a tile, told to Deepness: it cuts off half of that on each side
_LARGEST = 2_000_000_000  # bytes of one file


def convert(program: Program) -> onnx.ModelProto:
    """The program in ONNX, without metadata. Raises UserError where the exporter cannot."""
    names = [spec.name for spec in program.inputs]
    try:
        with quiet():
            model = torch.onnx.export(
                program.traced, dynamo=True, opset_version=OPSET, input_names=names, output_names=["probabilities"],
                custom_translation_table={torch.ops.aten.max_pool2d_with_indices.default: _max_pool}, verbose=False,
            ).model_proto  # fmt: skip
    except Exception as error:  # of its own kinds, without a common one
        raise UserError(f"{program.name} cannot be written as ONNX: {first_line(error)}; choose another net.") from None
    if model.ByteSize() > _LARGEST:
        raise UserError(f"{program.name} has {model.ByteSize():,} bytes, and one ONNX file has room for {_LARGEST:,}.")
    _tidy(model, program.size)
    return model


_op = getattr(onnxscript, f"opset{OPSET}")


def _max_pool(x, kernel_size, stride=(), padding=(0, 0), dilation=(1, 1), ceil_mode=False):
    """Max pooling with indices in each plane. PyTorch's own translation pools twice to get at the beginnings of the planes."""
    values, indices = _op.MaxPool(
        x, kernel_shape=kernel_size, strides=stride or kernel_size, pads=[*padding, *padding], dilations=dilation,
        ceil_mode=ceil_mode,
    )  # fmt: skip
    plane = _op.ReduceProd(_op.Slice(_op.Shape(x), [2], [4]))
    return values, _op.Mod(indices, plane)


def _tidy(model: onnx.ModelProto, size: int | None) -> None:
    """Give the open axes names, leave out notes on the code (with paths of this machine), take the oldest form that fits."""
    for value in [*model.graph.input, *model.graph.output]:
        for axis, name in zip(value.type.tensor_type.shape.dim, ("batch", None, "height", "width"), strict=True):
            if name == "batch" or (name and not size):
                axis.dim_param = name
    if size:
        for axis in list(model.graph.output[0].type.tensor_type.shape.dim)[2:]:
            axis.dim_value = size
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    parts = [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer, *model.functions]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    model.ir_version, model.producer_name = _IR_VERSION, KEY


def take_shares(model: onnx.ModelProto) -> None:
    """Make a model take pixels divided by SHARES_OF, as GeoDeep gives them, and Deepness unless it is told otherwise."""
    nodes = []
    for value in model.graph.input:
        name, shares = f"{value.name}_raw", value.name
        for node in model.graph.node:
            node.input[:] = [name if given == shares else given for given in node.input]
        nodes.append(onnx.helper.make_node("Mul", [shares, "shares_of"], [name]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(SHARES_OF), "shares_of"))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def describe(
    model: onnx.ModelProto, program: Program, about: dict, resolution: float | None = None, shares: bool = False
) -> None:
    """Write the metadata: ours and Deepness's, which GeoDeep reads as well.

    about: what the snapshot says. resolution: cm per pixel; None: as it says. shares: whether the model takes shares.
    """
    metadata = {KEY: own(program, about) | ({"shares_of": SHARES_OF} if shares else {})}
    metadata |= for_deepness(program, about, resolution, shares)
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    model.doc_string = (
        f"{about['name']}: raw pixels in the files' order of bands to probabilities of {len(about['classes'])} classes"
    )


def own(program: Program, about: dict) -> dict:
    """What our engine reads, as JSON values: what the snapshot says, its inputs now raw, and the sizes that the net takes."""
    about = about | {"inputs": [raw(spec).to_dict() for spec in program.inputs]}
    return {"about": about, "multiple": program.multiple, "size": program.size, "reach": reach(program.net.net)}


def for_deepness(program: Program, about: dict, resolution: float | None, shares: bool = False) -> dict:
    """What Deepness reads, as JSON values by key; it cannot use nets of several inputs, so there it is nothing."""
    if len(program.inputs) > 1:
        return {}
    channels, tile = program.inputs[0].channels, program.size or max(about["patch_size"])
    metres = about.get("pixel_size")
    resolution = resolution or (metres and round(100 * metres, 3))
    return {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(about["classes"])),
        "tile_size": tile,
        "tiles_size": tile,
        "tiles_overlap": _OVERLAP,
        "standardization_mean": [0.0] * channels,
        "standardization_std": [1.0 if shares else 1 / SHARES_OF] * channels,
        "seg_thresh": 0.0,  # else less likely pixels become class 0
        "seg_small_segment": 0,
    } | ({"resolution": resolution} if resolution else {})


def save(model: onnx.ModelProto, path: Path) -> None:
    """Check a model against the standard and write it."""
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
