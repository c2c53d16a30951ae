"""A table as Caffe's prototxt: what nets/caffe/prototxt.py reads, the other way round."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch

from nets.caffe.prototxt_text import Field, Word, write
from nets.layers import SIX, Row, pair, same_pad
from nets.net import Net, trial
from tools.base.errors import UserError, listing

STAND_IN = "·"  # in the name of a row: for a dot, and at the end where Net uses the name itself


@dataclass
class CaffeLayer:
    """One layer as Caffe has it: what it reads and writes, and further fields of the prototxt."""

    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    fields: list[Field] = field(default_factory=list)

    def message(self) -> list[Field]:
        """The fields of its message, in the order in which Caffe writes them."""
        blobs = [("bottom", b) for b in self.bottoms] + [("top", t) for t in self.tops]
        return [("name", self.name), ("type", self.type), *blobs, *self.fields]


@dataclass(frozen=True)
class Writing:
    """A table net that is being written. size: (height, width) of the images. by_corners: see `caffe_layers`."""

    net: Net
    size: tuple[int, int]
    by_corners: bool

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(height, width) of what each row writes for images of this size."""
        found = {}
        for name in self.net.needed:
            self.net.get_submodule(name).register_forward_hook(partial(_keep_shape, found, name))
        with torch.device("meta"):
            trial(self.net, dict.fromkeys(self.net.inputs, self.size))
        return found | dict.fromkeys(self.net.inputs, self.size)


def _keep_shape(found: dict, name: str, module, given, written) -> None:
    found[name] = tuple((written[0] if isinstance(written, tuple) else written).shape[2:])


def write_prototxt(
    net: Net, name: str = "net", size: tuple[int, int] | None = None, comments: Iterable[str] = (), by_corners: bool = False
) -> str:
    """The deploy prototxt of a table net, with comment lines before it; the rest as in `caffe_layers`."""
    head = "".join(f"# {line}\n" for line in comments)
    layers = caffe_layers(net, size, by_corners)
    return head + write([("name", name), *(("layer", layer.message()) for layer in layers)])


def caffe_layers(net: Net, size: tuple[int, int] | None = None, by_corners: bool = False) -> list[CaffeLayer]:
    """Caffe's layers for a table, in its order; what training alone needs is left out.

    size: (height, width) that is declared of the images (None: `usual_size`), which Interp layers write for. by_corners:
    whether resizing by the areas of pixels may be written as Interp, which goes by corners, so that scores differ. Raises
    UserError, naming layer and kind, where Caffe has no such layer.
    """
    writing = Writing(copy.deepcopy(net).eval(), size or usual_size(net), by_corners)
    return [layer for row in net.rows if row.name in net.needed for layer in _layers(row, writing)]


def usual_size(net: Net) -> tuple[int, int]:
    """The size of images that is declared where nobody says one: what the net was made for, or 128x128 or a little more."""
    side = -(-128 // net.multiple) * net.multiple
    return net.made_for or (side, side)


def caffe_name(name: str) -> str:
    """The name of a row's layer in Caffe's files; `nets.caffe.prototxt.row_name` is the way back."""
    return name.rstrip(STAND_IN).replace(STAND_IN, ".")


def scale_name(row: Row) -> str:
    """The name of the Scale layer that holds gamma and beta of a `batch_norm` row."""
    return row.args.get("scale") or row.name + "_scale"


def _layers(row: Row, writing: Writing) -> list[CaffeLayer]:
    if row.kind not in _KINDS:
        raise UserError(
            f"layer '{row.name}' is of the kind '{row.kind}', which Caffe does not have: only tables of"
            f" {listing(sorted(_KINDS), 40)} can be written for Caffe."
        )
    return _KINDS[row.kind](row, writing)


def _one(
    kind: str, param: str = "", arguments: Callable[[Row], Iterable[Field]] = lambda row: (), which: slice | None = None
) -> Callable:
    """The writer of a kind that is one layer of Caffe, with one param. which: of a row's multipliers are its own."""

    def layers(row: Row, writing: Writing) -> list[CaffeLayer]:
        fields = [f for f in arguments(row) if f[1] not in (None, [])]
        tops = [caffe_name(blob) for blob in writing.net.writes[row.name]]
        bottoms = [caffe_name(blob) for blob in row.reads]
        specs = _specs(row, which) if which else []
        return [CaffeLayer(caffe_name(row.name), kind, bottoms, tops, [*specs, *([(param, fields)] if fields else [])])]

    return layers


def _specs(row: Row, which: slice) -> list[Field]:
    """The `param` messages with the multipliers of a row's weights, those that differ from Caffe's 1 or precede such."""
    ones = (1,) * (which.stop - which.start)
    rates, decays = [m[which] if m else ones for m in (row.lr_mult, row.decay_mult)]
    specs = [[("lr_mult", r), ("decay_mult", d)] for r, d in zip(rates, decays, strict=True)]
    return [("param", s) for s in specs] if row.lr_mult or row.decay_mult else []


def _size(name: str, value, usual=None) -> list[Field]:
    """A size once where height and width are equal, else as _h and _w; nothing where it is the usual one."""
    height, width = pair(value)
    short = name.removesuffix("_size")
    if height == width:
        return [(name, height)] if height != usual else []
    return [(f"{short}_h", height), (f"{short}_w", width)]


def _data(row: Row, writing: Writing) -> list[CaffeLayer]:
    dims = [("dim", n) for n in (1, writing.net.inputs[row.name], *writing.size)]
    name = caffe_name(row.name)
    return [CaffeLayer(name, "Input", [], [name], [("input_param", [("shape", dims)])])]


def _window(row: Row, kernel, pad) -> list[Field]:
    args = row.args
    fields = [("num_output", args["channels"])]
    fields += [] if args.get("bias", True) else [("bias_term", False)]
    fields += _size("pad", pad, 0) + _size("kernel_size", kernel) + _size("stride", args.get("stride", 1), 1)
    fields += [("group", args["groups"])] if args.get("groups", 1) != 1 else []
    height, width = pair(args.get("dilation", 1))
    return fields + (
        [("dilation", n) for n in ((height,) if height == width else (height, width))] if (height, width) != (1, 1) else []
    )


def _conv(row: Row, writing: Writing) -> list[CaffeLayer]:
    args, name = row.args, caffe_name(row.name)
    if args.get("pad") == "tensorflow":
        raise UserError(f"layer '{row.name}' pads as TensorFlow does, below and to the right more: Caffe's layers cannot.")
    if args.get("relu") == SIX:
        raise UserError(f"layer '{row.name}' cuts off what is above 6 (ReLU6): Caffe's layers cannot.")
    kernel, dilation = pair(args.get("kernel", 3)), pair(args.get("dilation", 1))
    pad = same_pad(kernel, dilation) if args.get("pad") is None else args["pad"]
    filler = [("weight_filler", [("type", "msra")])]
    param = ("convolution_param", [*_window(row, kernel, pad), *filler])
    layers = [CaffeLayer(name, "Convolution", [caffe_name(b) for b in row.reads], [name], [*_specs(row, slice(0, 2)), param])]
    if args.get("norm", True):
        eps = [("batch_norm_param", [("eps", args["eps"])])] if "eps" in args else []
        layers.append(CaffeLayer(name + "_bn", "BatchNorm", [name], [name], eps))
        bias = ("scale_param", [("bias_term", True)])
        layers.append(CaffeLayer(name + "_scale", "Scale", [name], [name], [*_specs(row, slice(2, 4)), bias]))
    if args.get("relu", True):
        layers.append(CaffeLayer(name + "_relu", "ReLU", [name], [name]))
    return layers


def _batch_norm(row: Row, writing: Writing) -> list[CaffeLayer]:
    args, name = row.args, caffe_name(row.name)
    fields = [("use_global_stats", True)] if args.get("frozen") else []
    fields += [("eps", args["eps"])] if "eps" in args else []
    fields += [("moving_average_fraction", args["fraction"])] if "fraction" in args else []
    param = [("batch_norm_param", fields)] if fields else []
    layers = [CaffeLayer(name, "BatchNorm", [caffe_name(b) for b in row.reads], [name], param)]
    if args.get("affine", True):
        bias = ("scale_param", [("bias_term", True)])
        fields = [*_specs(row, slice(2, 4)), bias]
        layers.append(CaffeLayer(caffe_name(scale_name(row)), "Scale", [name], [name], fields))
    return layers


def _bn_learn(row: Row, writing: Writing) -> list[CaffeLayer]:
    """With statistics from training, as SegNet's authors publish it: the statistics taken in, INFERENCE. Else as it is."""
    mode = "INFERENCE" if writing.net.get_submodule(row.name).counted else "LEARN"
    return _one("BN", "bn_param", lambda row: [("bn_mode", Word(mode))], slice(2, 4))(row, writing)


def _bn_moving_fields(row: Row) -> list[Field]:
    args = row.args
    frozen = [("frozen", True)] if args.get("frozen") else []
    return [("momentum", args.get("momentum", 0.9)), ("eps", args.get("eps", 1e-5)), *frozen]


def _lrn_fields(row: Row) -> list[Field]:
    args = row.args
    region = [("norm_region", Word("WITHIN_CHANNEL"))] if args.get("within") else []
    size = [("local_size", args["size"])] if "size" in args else []
    return [*size, *((name, args[name]) for name in ("alpha", "beta", "k") if name in args), *region]


def _spatial_dropout_fields(row: Row) -> list[Field]:
    """For ENet's code, in a net that is used and not trained."""
    said = f"{{'phase': 'TEST', 'p': '{row.args.get('ratio', 0.5)}'}}"
    return [("module", "spatial_dropout"), ("layer", "SpatialDropoutLayer"), ("param_str", said)]


def _resize(row: Row, writing: Writing) -> list[CaffeLayer]:
    """An Interp to the size that the other blob has; from one value to many, both ways of resizing are the same."""
    height, width = writing.shapes[row.reads[1]]
    alike = writing.shapes[row.reads[0]] in ((1, 1), (height, width))
    if not (row.args.get("corners") or alike or writing.by_corners):
        raise UserError(
            f"layer '{row.name}' resizes by the areas of pixels, Caffe's Interp by corners: add --interp to write it as that,"
            " with scores that differ a little."
        )
    param = ("interp_param", [("height", height), ("width", width)])
    return [CaffeLayer(caffe_name(row.name), "Interp", [caffe_name(row.reads[0])], [caffe_name(row.name)], [param])]


def _pool(row: Row, writing: Writing) -> list[CaffeLayer]:
    return _pooling(Row("pooling", row.name, row.reads, {"kernel": 2, "stride": 2, "mask": True}), writing)


def _pooling_fields(row: Row) -> list[Field]:
    args = row.args
    fields = [("pool", Word(args.get("method", "max").upper()))]
    if not args.get("kernel"):
        return [*fields, ("global_pooling", True)]
    fields += (
        _size("kernel_size", args["kernel"]) + _size("stride", args.get("stride", 1), 1) + _size("pad", args.get("pad", 0), 0)
    )
    return fields + ([] if args.get("ceil", True) else [("round_mode", Word("FLOOR"))])


_pooling = _one("Pooling", "pooling_param", _pooling_fields)


def _upsample_fields(row: Row) -> list[Field]:
    args = row.args
    if args.get("size"):
        return [("upsample_h", args["size"][0]), ("upsample_w", args["size"][1])]
    pad_h, pad_w = pair(args.get("pad_out", False))
    return _size("scale", args.get("scale", 2)) + [("pad_out_h", True)] * pad_h + [("pad_out_w", True)] * pad_w


def _eltwise_fields(row: Row) -> list[Field]:
    coeff = [("coeff", k) for k in row.args.get("coeff") or ()]
    return [("operation", Word(row.args.get("operation", "sum").upper())), *coeff]


def _slice_fields(row: Row) -> list[Field]:
    cuts = row.args["cuts"]
    points = [] if isinstance(cuts, int) else [("slice_point", n) for n in cuts]
    return [("axis", row.args.get("axis", 1)), *points]


def _crop_fields(row: Row) -> list[Field]:
    offset = row.args.get("offset", 0)
    return [("axis", row.args.get("axis", 2)), *(("offset", n) for n in ((offset,) if isinstance(offset, int) else offset))]


def _interp_fields(row: Row) -> list[Field]:
    args = row.args
    if args.get("size"):
        fields = [("height", args["size"][0]), ("width", args["size"][1])]
    else:
        fields = [("zoom_factor", args.get("zoom", 1)), ("shrink_factor", args.get("shrink", 1))]
    first, last = args.get("margins", (0, 0))
    return fields + [("pad_beg", -first)] * bool(first) + [("pad_end", -last)] * bool(last)


def _deconv_fields(row: Row) -> list[Field]:
    filler = [("weight_filler", [("type", "bilinear")])] if row.args.get("bilinear") else []
    return [*_window(row, row.args["kernel"], row.args.get("pad", 0)), *filler]


def _arguments(**fields: str) -> Callable[[Row], list[Field]]:
    """The fields of a param that are arguments of a row: Caffe's name = ours. What a row does not say is Caffe's default."""
    return lambda row: [(caffe, row.args[ours]) for caffe, ours in fields.items() if ours in row.args]


_KINDS: dict[str, Callable[[Row, Net], list[CaffeLayer]]] = {
    "data": _data,
    "conv": _conv,
    "batch_norm": _batch_norm,
    "pool": _pool,
    "pooling": _pooling,
    "unpool": _one("Upsample", "upsample_param", lambda row: [("scale", 2)]),
    "upsample": _one("Upsample", "upsample_param", _upsample_fields),
    "deconv": _one("Deconvolution", "convolution_param", _deconv_fields, slice(0, 2)),
    "scale": _one("Scale", "scale_param", lambda row: [("bias_term", row.args.get("bias", True))], slice(0, 2)),
    "relu": _one("ReLU", "relu_param", _arguments(negative_slope="negative_slope")),
    "eltwise": _one("Eltwise", "eltwise_param", _eltwise_fields),
    "concat": _one("Concat", "concat_param", _arguments(axis="axis")),
    "slice_blob": _one("Slice", "slice_param", _slice_fields),
    "crop": _one("Crop", "crop_param", _crop_fields),
    "interp": _one("Interp", "interp_param", _interp_fields),
    "dropout": _one("Dropout", "dropout_param", _arguments(dropout_ratio="ratio", sample_weights_test="sample")),
    "softmax": _one("Softmax"),
    "flatten": _one("Flatten"),
    "power": _one("Power", "power_param", _arguments(power="power", scale="scale", shift="shift")),
    "inner_product": _one(
        "InnerProduct", "inner_product_param", _arguments(num_output="channels", bias_term="bias"), slice(0, 2)
    ),
    "bn_learn": _bn_learn,
    "bn_inference": _one("BN", "bn_param", lambda row: [("bn_mode", Word("INFERENCE"))], slice(0, 2)),
    "bn_moving": _one("BN", "bn_param", _bn_moving_fields, slice(2, 4)),
    "lrn": _one("LRN", "lrn_param", _lrn_fields),
    "prelu": _one("PReLU", "prelu_param", _arguments(channel_shared="shared"), slice(0, 1)),
    "elu": _one("ELU", "elu_param", _arguments(alpha="alpha")),
    "sigmoid": _one("Sigmoid"),
    "tanh": _one("TanH"),
    "bias": _one("Bias", which=slice(1, 2)),
    "spatial_dropout": _one("Python", "python_param", _spatial_dropout_fields),
    "tile": _one("Tile", "tile_param", _arguments(axis="axis", tiles="tiles")),
    "reshape": _one("Reshape", "reshape_param", lambda row: [("shape", [("dim", n) for n in row.args["shape"]])]),
    "padding": _one("Padding", "padding_param", _arguments(pad_beg="first", pad_end="last")),
    "resize": _resize,
}
