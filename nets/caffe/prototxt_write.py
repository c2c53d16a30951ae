"""A table as Caffe's prototxt: what nets/caffe/prototxt.py reads, the other way round."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nets.caffe.prototxt_text import Field, Word, write
from nets.layers import Row, pair, same_pad
from nets.net import Net
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


def write_prototxt(net: Net, name: str = "net") -> str:
    """The deploy prototxt of a table net. Raises UserError, naming layer and kind, where Caffe has no such layer."""
    return write([("name", name), *(("layer", layer.message()) for layer in caffe_layers(net))])


def caffe_layers(net: Net) -> list[CaffeLayer]:
    """Caffe's layers for a table, in its order."""
    return [layer for row in net.rows for layer in _layers(row, net)]


def caffe_name(name: str) -> str:
    """The name of a row's layer in Caffe's files; `nets.caffe.prototxt.row_name` is the way back."""
    return name.rstrip(STAND_IN).replace(STAND_IN, ".")


def scale_name(row: Row) -> str:
    """The name of the Scale layer that holds gamma and beta of a `batch_norm` row."""
    return row.args.get("scale") or row.name + "_scale"


def _layers(row: Row, net: Net) -> list[CaffeLayer]:
    if row.kind not in _KINDS:
        raise UserError(
            f"layer '{row.name}' is of the kind '{row.kind}', which Caffe does not have: only tables of"
            f" {listing(sorted(_KINDS), 40)} can be written for Caffe."
        )
    return _KINDS[row.kind](row, net)


def _one(kind: str, param: str = "", arguments: Callable[[Row], Iterable[Field]] = lambda row: ()) -> Callable:
    """The writer of a kind that is one layer of Caffe, with one param."""

    def layers(row: Row, net: Net) -> list[CaffeLayer]:
        fields = [f for f in arguments(row) if f[1] not in (None, [])]
        tops = [caffe_name(blob) for blob in net.writes[row.name]]
        bottoms = [caffe_name(blob) for blob in row.reads]
        specs = _specs(row, slice(0, 2)) if kind in ("Scale", "Deconvolution", "InnerProduct") else []
        return [CaffeLayer(caffe_name(row.name), kind, bottoms, tops, [*specs, *([(param, fields)] if fields else [])])]

    return layers


def _specs(row: Row, which: slice) -> list[Field]:
    """The `param` messages with the multipliers of a row's weights, those that differ from Caffe's 1 or precede such."""
    rates, decays = [m[which] if m else (1, 1) for m in (row.lr_mult, row.decay_mult)]
    specs = [[("lr_mult", r), ("decay_mult", d)] for r, d in zip(rates, decays, strict=True)]
    return [("param", s) for s in specs] if row.lr_mult or row.decay_mult else []


def _size(name: str, value, usual=None) -> list[Field]:
    """A size once where height and width are equal, else as _h and _w; nothing where it is the usual one."""
    height, width = pair(value)
    short = name.removesuffix("_size")
    if height == width:
        return [(name, height)] if height != usual else []
    return [(f"{short}_h", height), (f"{short}_w", width)]


def _data(row: Row, net: Net) -> list[CaffeLayer]:
    side = -(-128 // net.multiple) * net.multiple
    dims = [("dim", n) for n in (1, net.inputs[row.name], side, side)]
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


def _conv(row: Row, net: Net) -> list[CaffeLayer]:
    args, name = row.args, caffe_name(row.name)
    if args.get("pad") == "tensorflow":
        raise UserError(f"layer '{row.name}' pads as TensorFlow does, below and to the right more: Caffe's layers cannot.")
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


def _batch_norm(row: Row, net: Net) -> list[CaffeLayer]:
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


def _pool(row: Row, net: Net) -> list[CaffeLayer]:
    return _pooling(Row("pooling", row.name, row.reads, {"kernel": 2, "stride": 2, "mask": True}), net)


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
    "deconv": _one("Deconvolution", "convolution_param", _deconv_fields),
    "scale": _one("Scale", "scale_param", lambda row: [("bias_term", row.args.get("bias", True))]),
    "relu": _one("ReLU", "relu_param", _arguments(negative_slope="negative_slope")),
    "eltwise": _one("Eltwise", "eltwise_param", _eltwise_fields),
    "concat": _one("Concat", "concat_param", _arguments(axis="axis")),
    "slice_blob": _one("Slice", "slice_param", _slice_fields),
    "crop": _one("Crop", "crop_param", _crop_fields),
    "interp": _one("Interp", "interp_param", _interp_fields),
    "dropout": _one("Dropout", "dropout_param", _arguments(dropout_ratio="ratio")),
    "softmax": _one("Softmax"),
    "flatten": _one("Flatten"),
    "power": _one("Power", "power_param", _arguments(power="power", scale="scale", shift="shift")),
    "inner_product": _one("InnerProduct", "inner_product_param", _arguments(num_output="channels", bias_term="bias")),
}
