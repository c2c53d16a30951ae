"""Caffe's prototxt as rows: layers of any Caffe since 2014 become the table that Caffe would run.

What is not part of the net falls away: losses and accuracies (they tell the ignore label), labels, data sources (they become
inputs), layers of the other phase, and whatever leads neither to the loss nor, without one, to the last layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nets import layers
from nets.caffe.prototxt_layers import HAVE_WEIGHTS, NOT_THE_NET, SOURCES, TYPES, Layer
from nets.caffe.prototxt_text import Message, read
from nets.caffe.prototxt_write import STAND_IN, caffe_name, write_prototxt
from nets.layers import Row
from nets.net import Net, trial
from tools.base.errors import UserError, listing, nearest

__all__ = ["Table", "read_prototxt", "write_prototxt"]


@dataclass
class Table:
    """What a prototxt declares.

    rows: the net. ignore_label: of the loss, None without one. sizes: (height, width) of each input, where the file says so.
    left_out: layers that were dropped because the output does not depend on them.
    """

    rows: list[Row]
    ignore_label: int | None = None
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def read_prototxt(path: str | Path, inputs: Mapping[str, int] | None = None, phase: str | None = None) -> Table:
    """The table that a prototxt declares.

    inputs: channels by input, for files whose inputs are data layers, which do not say them; matched by name, else by order.
    phase: TEST or TRAIN, which `include` and `exclude` refer to; None for TEST, unless only TRAIN has inputs. Raises
    UserError, naming layer and type, for what is not known here.
    """
    try:
        return _Reader(read(path), phase, dict(inputs or {})).table()
    except UserError as error:
        prefix = "" if str(error).startswith(str(path)) else f"{path}: "
        raise UserError(f"{prefix}{error}") from None


def row_name(name: str) -> str:
    """The name of a row for a layer of this name: without what a module cannot be called. `caffe_name` is the way back."""
    name = name.replace(".", STAND_IN)
    return name + STAND_IN if name in _TAKEN else name


_TAKEN = {*dir(Net([layers.data("data", 1)]))} - {"data"}


# ------------------------------------------------------------------------------------------------------- the whole net


class _Reader:
    """From the layers of a file to rows. Blobs that are written in place get a new name each time: that of the layer."""

    def __init__(self, message: Message, phase: str | None, inputs: dict[str, int]):
        if message.all("layer") and message.all("layers"):
            raise UserError("it mixes 'layer' and 'layers': Caffe reads one or the other, so make them alike.")
        if not message.all("layer") and not message.all("layers"):
            raise UserError("it declares no layers: name the prototxt of a net (a solver names it after 'net:').")
        self.layers = _of_phase(message, phase)
        self.message, self.inputs = message, inputs
        self.rows: list[Row] = []
        self.blobs: dict[str, str] = {}  # Caffe's blob -> the blob of the row that wrote it last
        self.channels: dict[str, int | None] = {}  # of the inputs
        self.sizes: dict[str, tuple[int, int]] = {}
        self.ignore_label: int | None = None
        self.scored: str | None = None  # the blob that the loss reads
        self.sharers: dict[str, str] = {}  # name of shared weights -> layer

    def table(self) -> Table:
        self._old_inputs()
        for layer in self.layers:
            self._add(layer)
        every = [row.name for row in self.rows]
        rows = fuse(_leading_to(self.scored or self._last(), self.rows))
        rows = _sized(self._with_channels(rows), self.sizes)
        kept = {name for row in rows for name in _names(row)}
        sizes = {row.name: self.sizes[row.name] for row in rows if row.name in self.sizes}
        return Table(rows, self.ignore_label, sizes, [caffe_name(n) for n in every if n not in kept])

    def _last(self) -> str:
        """The blob that the net gives where no loss says which."""
        if not self.rows or self.rows[-1].kind == "data":
            raise UserError("it has no layer that computes anything in this phase.")
        if self.rows[-1].kind == "slice_blob":
            raise UserError(f"its last layer '{self.rows[-1].name}' writes several blobs: a net must end in one.")
        return self.rows[-1].name

    def _old_inputs(self) -> None:
        """Inputs in the manner of 2014: `input: "data"` with four `input_dim` each, or an `input_shape`."""
        names, dims = [str(n) for n in self.message.all("input")], self.message.all("input_dim")
        shapes = [s.all("dim") for s in self.message.all("input_shape")] or [dims[i : i + 4] for i in range(0, len(dims), 4)]
        for i, name in enumerate(names):
            self._input(name, shapes[i] if i < len(shapes) else [])

    def _input(self, top: str, shape: list[int]) -> None:
        name = self._free_name(top)
        self.blobs[top] = name
        self.channels[name] = shape[1] if len(shape) > 1 else None
        if len(shape) == 4:
            self.sizes[name] = (shape[2], shape[3])
        self.rows.append(Row("data", name, ()))

    def _free_name(self, name: str) -> str:
        taken = {row.name for row in self.rows}
        free, i = row_name(name), 2
        while free in taken:
            free, i = f"{row_name(name)}_{i}", i + 1
        return free

    def _add(self, layer: Layer) -> None:
        if "layer" in layer.message.fields:
            raise UserError("its layers are of the format before 2014: run Caffe's upgrade_net_proto_text on it first.")
        if layer.is_source:
            return self._add_source(layer)
        known = sorted({*TYPES, *SOURCES, *NOT_THE_NET, "Split"})
        if layer.type not in known:
            layer.refuse(f"layers of this type are unknown here.{nearest(layer.type, known)} Known are {listing(known, 40)}.")
        reads = [self._find(layer, b) for b in layer.bottoms]
        if layer.type in NOT_THE_NET:
            return self._add_loss(layer, reads)
        if layer.type == "Split":
            self.blobs |= dict.fromkeys(layer.tops, reads[0])
            return None
        if self._repeated_relu(layer, reads):
            return None
        self._add_row(layer, reads)

    def _add_row(self, layer: Layer, reads: list[str]) -> None:
        most = {"Concat": len(reads), "Eltwise": len(reads), "Crop": 2, "Upsample": 2}.get(layer.type, 1)
        if not 0 < len(reads) <= most or not layer.tops:
            layer.refuse(f"it reads {len(reads)} blobs (bottom) and writes {len(layer.tops)} (top), which is not supported")
        name = self._free_name(layer.name or layer.tops[0])
        if layer.type in HAVE_WEIGHTS:
            self._check_weights(layer, name)
        row = TYPES[layer.type](layer, reads, name)
        layer.close()
        suffixes = {"pooling": ["", "_mask"], "slice_blob": [f"_{i}" for i in range(len(layer.tops))]}.get(row.kind, [""])
        if len(layer.tops) > len(suffixes):
            layer.refuse(f"it has {len(layer.tops)} tops, but writes {len(suffixes)}")
        self.rows.append(row)
        self.blobs |= {top: name + suffix for top, suffix in zip(layer.tops, suffixes, strict=False)}

    def _check_weights(self, layer: Layer, name: str) -> None:
        if name != row_name(layer.name):
            layer.refuse("another layer with weights has the same name: rename one of them")
        for shared in layer.shared():
            if self.sharers.setdefault(shared, layer.name) != layer.name:
                layer.refuse(f"it shares the weights '{shared}' with '{self.sharers[shared]}', which is not supported")

    def _find(self, layer: Layer, bottom: str) -> str:
        if bottom not in self.blobs:
            layer.refuse(
                f"it reads '{bottom}', but no layer above it writes '{bottom}'.{nearest(bottom, self.blobs)}"
                f" Blobs so far: {listing(self.blobs, 60) or 'none'}."
            )
        return self.blobs[bottom]

    def _repeated_relu(self, layer: Layer, reads: list[str]) -> bool:
        """Whether a layer is an in-place ReLU once more: a published FuseNet lists one twice, which changes nothing."""
        last = next((row for row in reversed(self.rows) if row.name in reads), None)
        return (
            layer.type == "ReLU" and last is not None and last.kind == "relu" and not last.args
            and layer.bottoms == layer.tops and last.name == row_name(layer.name)
        )  # fmt: skip

    def _add_source(self, layer: Layer) -> None:
        shapes = _source_shapes(layer)
        for i, top in enumerate(layer.tops):
            self._input(top, shapes[min(i, len(shapes) - 1)] if shapes else [])
            crop = layer.message.last("transform_param", Message()).last("crop_size")
            if crop and i == 0:
                self.sizes.setdefault(self.blobs[top], (crop, crop))

    def _add_loss(self, layer: Layer, reads: list[str]) -> None:
        if layer.type != "SoftmaxWithLoss":
            return
        p = layer.message.last("loss_param", Message())
        self.ignore_label = p.last("ignore_label", self.ignore_label)
        self.scored = reads[0]

    def _with_channels(self, rows: list[Row]) -> list[Row]:
        """The rows, with the channels of the inputs: the file's, or where it does not tell, the ones that were asked for."""
        names = [row.name for row in rows if row.kind == "data"]
        wanted = self.inputs
        if wanted and len(wanted) != len(names):
            raise UserError(
                f"the net reads {len(names)} inputs ({', '.join(names)}), but there are {len(wanted)}"
                f" ({', '.join(wanted)}): the config's INPUTS must be as many."
            )
        order = list(wanted) if set(wanted) == set(names) else names
        channels = {}
        for name, (given, count) in zip(order, wanted.items() or [(n, None) for n in names], strict=True):
            channels[name] = self.channels[name] or count
            if channels[name] is None:
                raise UserError(f"it does not say how many channels its input '{name}' has: say so in `inputs`.")
            if count is not None and channels[name] != count:
                raise UserError(
                    f"its input '{name}' has {channels[name]} channels, but '{given}' has {count}: they must agree."
                )
        data = [layers.data(name, channels[name]) for name in order]
        return [*data, *(row for row in rows if row.kind != "data")]


def _of_phase(message: Message, phase: str | None) -> list[Layer]:
    """The layers that a phase includes: TEST's where none is asked for, unless only TRAIN brings data."""
    state, old = message.last("state", Message()), bool(message.all("layers"))
    found = {}
    for name in (phase,) if phase else ("TEST", "TRAIN"):
        layers = [Layer(m, old, name) for m in message.all("layer") or message.all("layers")]
        found[name] = [layer for layer in layers if layer.included(state)]
        if message.all("input") or any(layer.is_source for layer in found[name]):
            return found[name]
    return found[phase or "TEST"]


def _source_shapes(layer: Layer) -> list[list[int]]:
    """N x C x H x W of each top of a layer that brings data, as far as it says."""
    p = layer.message.last("input_param") or layer.message.last("dummy_data_param") or Message()
    if p.all("shape"):
        return [s.all("dim") for s in p.all("shape")]
    if p.all("channels"):  # the old DummyData
        return [list(four) for four in zip(*(p.all(k) for k in ("num", "channels", "height", "width")), strict=False)]
    p = layer.message.last("memory_data_param", Message())
    return [[p.last(k) for k in ("batch_size", "channels", "height", "width")], []] if p.fields else []


def _names(row: Row) -> list[str]:
    """The layers of Caffe that a row stands for, by the names of their rows."""
    if row.kind == "conv":
        return [row.name, *(row.name + s for s in ("_bn", "_scale", "_relu"))]
    return [row.name, row.args["scale"]] if row.args.get("scale") and row.kind == "batch_norm" else [row.name]


def _leading_to(blob: str, rows: list[Row]) -> list[Row]:
    """The rows on which a blob depends."""
    wanted, kept = {blob}, []
    for row in reversed(rows):
        if any(written in wanted for written in _written(row)):
            wanted |= set(row.reads)
            kept.append(row)
    return kept[::-1]


def _written(row: Row) -> list[str]:
    if row.kind == "pooling":
        return [row.name, row.name + "_mask"]
    if row.kind == "slice_blob":
        cuts = row.args["cuts"]
        return [f"{row.name}_{i}" for i in range(cuts if isinstance(cuts, int) else len(cuts) + 1)]
    return [row.name]


def fuse(rows: list[Row]) -> list[Row]:
    """Convolution X and, where nothing else reads what lies between, X_bn, X_scale and X_relu as one row `conv("X", ...)`.

    BatchNorm and Scale under other names become one row `batch_norm` that knows the name of the Scale layer.
    """
    rows = _merge(rows, "batch_norm", "scale", _with_scale)
    rows = _merge(rows, "conv", "batch_norm", _with_norm)
    return _merge(rows, "conv", "relu", _with_relu)


def _merge(rows: list[Row], first: str, second: str, join: Callable[[Row, Row], Row | None]) -> list[Row]:
    """The rows, with each one of the kind `first` joined with the `second` that alone reads it, where `join` says how."""
    readers: dict[str, list[Row]] = {}
    for row in rows:
        for name in row.reads:
            readers.setdefault(name, []).append(row)
    joined, renamed = {}, {}
    for row in rows:
        follower = readers.get(row.name, [])
        if row.kind == first and len(follower) == 1 and follower[0].kind == second:
            both = join(row, follower[0])
            if both:
                joined[row.name], renamed[follower[0].name] = both, both.name
    kept = [joined.get(row.name, row) for row in rows if row.name not in renamed]
    return [replace(row, reads=tuple(renamed.get(n, n) for n in row.reads)) for row in kept]


def _with_scale(norm: Row, scale: Row) -> Row | None:
    if norm.args.get("affine", True) or scale.args.get("bias") is False:
        return None
    args = {"scale": scale.name} | {k: v for k, v in norm.args.items() if k != "affine"}
    return replace(norm, args=args, lr_mult=(1.0, 1.0, *scale.lr_mult), decay_mult=(1.0, 1.0, *scale.decay_mult))


def _with_norm(conv: Row, norm: Row) -> Row | None:
    usual = norm.name == conv.name + "_bn" and norm.args == {"scale": conv.name + "_scale"}
    if not usual or conv.args["relu"]:
        return None
    lr, decay = conv.lr_mult + norm.lr_mult[2:], conv.decay_mult + norm.decay_mult[2:]
    return replace(conv, args=conv.args | {"norm": True}, lr_mult=lr, decay_mult=decay)


def _with_relu(conv: Row, relu: Row) -> Row | None:
    if relu.name != conv.name + "_relu" or relu.args:
        return None
    args = {k: v for k, v in conv.args.items() if k not in ("norm", "relu")}
    return replace(conv, args=args if conv.args["norm"] else args | {"norm": False})


def _sized(rows: list[Row], sizes: dict[str, tuple[int, int]]) -> list[Row]:
    """The rows, with the number of values that fully connected and flattening layers read, which Caffe finds by running."""
    done = []
    for row in rows:
        if row.kind in ("inner_product", "flatten"):
            row = _with_values(row, done, sizes)
        done.append(row)
    return done


def _with_values(row: Row, above: list[Row], sizes: dict[str, tuple[int, int]]) -> Row:
    above = _leading_to(row.reads[0], above)
    missing = [r.name for r in above if r.kind == "data" and r.name not in sizes]
    if missing:
        raise UserError(
            f"layer '{row.name}' needs to know the size of the images, but the file does not say that of '{missing[0]}': give"
            " it an input_shape (or Input layer) with four dims."
        )
    try:
        with torch.device("meta"):  # without memory for weights: those of fc6 alone are 400 MB
            net = Net(above)
        shape = trial(net, sizes).shape
    except RuntimeError as error:
        raise UserError(f"layer '{row.name}' cannot follow images of these sizes: {error}") from None
    return replace(row, args=row.args | {"values": shape[1:].numel()})
