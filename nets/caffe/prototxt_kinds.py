"""One layer of a prototxt as one row: which fields each type of Caffe's layers has, and which arguments they become."""

import ast
from collections.abc import Callable
from functools import partial

from nets import layers
from nets.caffe import layers as caffe
from nets.caffe import norms, pointwise
from nets.caffe.prototxt_layers import Layer, Param
from nets.caffe.prototxt_text import Message
from nets.layers import Row


def _said(given: dict, usual: dict) -> dict:
    """The arguments that differ from the usual ones: a table shows what is particular about a row."""
    return {k: v for k, v in given.items() if k not in usual or v != usual[k]}


def _convolution(layer: Layer, reads: list[str], name: str, deconv: bool = False) -> Row:
    p = layer.param("convolution_param")
    p.only("axis", 1)
    given = {
        "kernel": p.pair("kernel_size/kernel"),
        "stride": p.pair("stride", 1),
        "dilation": p.pair("hole" if p.message.all("hole") or p.message.all("hole_h") else "dilation", 1),  # as DeepLab says
        "groups": p.one("group", 1),
        "bias": p.flag("bias_term", True),
        "pad": p.pair("pad", 0),
    }
    channels = p.one("num_output")
    if not isinstance(channels, int):
        layer.refuse("its convolution_param needs num_output")
    lr, decay = layer.multipliers(2)
    if deconv:
        given["bilinear"] = p.message.last("weight_filler", Message()).last("type") == "bilinear"
        args = _said(given, {"stride": 1, "dilation": 1, "groups": 1, "bias": True, "pad": 0, "bilinear": False})
        return layers.deconv(name, *reads, channels, **args, lr_mult=lr, decay_mult=decay)
    kernel, dilation = layers.pair(given["kernel"]), layers.pair(given["dilation"])
    if layers.pair(given["pad"]) == layers.same_pad(kernel, dilation):
        given["pad"] = None
    args = _said(given, {"kernel": 3, "stride": 1, "dilation": 1, "groups": 1, "bias": True, "pad": None})
    return layers.conv(name, *reads, channels, **args, norm=False, relu=False, lr_mult=lr, decay_mult=decay)


def _batch_norm(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("batch_norm_param")
    # In the test phase global statistics are the rule, so that saying so means nothing for training.
    frozen = p.flag("use_global_stats", False) and layer.phase == "TRAIN"
    given = {"eps": p.one("eps", 1e-5), "fraction": p.one("moving_average_fraction", 0.999), "frozen": frozen}
    usual = {"eps": 1e-5, "fraction": 0.999, "frozen": False}
    return norms.batch_norm(name, *reads, affine=False, **_said(given, usual))


def _scale(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("scale_param")
    p.only("axis", 1, -3)
    p.only("num_axes", 1)
    lr, decay = layer.multipliers(2)
    args = {} if p.flag("bias_term", False) else {"bias": False}
    return norms.scale(name, *reads, **args, lr_mult=lr, decay_mult=decay)


def _bn(layer: Layer, reads: list[str], name: str) -> Row:
    """The two layers of this name: SegNet's has two blobs and a mode, PSPNet's four blobs and no mode."""
    if len(layer.tops) > 1:
        layer.refuse("its statistics as further blobs (top) are not supported")
    said = layer.message.last("bn_param", Message())
    telling = {"slope_filler", "bias_filler", "momentum", "eps", "frozen"}
    p = layer.param("bn_param")
    if "bn_mode" not in said.fields and (telling & said.fields.keys() or len(layer.message.all("param")) == 4):
        return _bn_moving(layer, p, reads, name)
    lr, decay = layer.multipliers(2)
    if p.word("bn_mode", ("LEARN", "INFERENCE"), "LEARN") == "INFERENCE":
        return norms.bn_inference(name, *reads, lr_mult=lr, decay_mult=decay)
    return norms.bn_learn(name, *reads, lr_mult=(1.0, 1.0, *lr), decay_mult=(1.0, 1.0, *decay))


def _bn_moving(layer: Layer, p: Param, reads: list[str], name: str) -> Row:
    lr, decay = layer.multipliers(2)
    given = {"momentum": float(p.one("momentum", 0.9)), "eps": p.one("eps", 1e-5), "frozen": p.flag("frozen", False)}
    args = _said(given, {"momentum": 0.9, "eps": 1e-5, "frozen": False})
    return norms.bn_moving(name, *reads, **args, lr_mult=(1.0, 1.0, *lr), decay_mult=(1.0, 1.0, *decay))


def _lrn(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("lrn_param")
    region = p.word("norm_region", ("ACROSS_CHANNELS", "WITHIN_CHANNEL"), "ACROSS_CHANNELS")
    given = {"size": p.one("local_size", 5), "within": region == "WITHIN_CHANNEL"}
    given |= {k: float(p.one(k, usual)) for k, usual in (("alpha", 1.0), ("beta", 0.75), ("k", 1.0))}
    return norms.lrn(name, *reads, **_said(given, {"size": 5, "within": False, "alpha": 1.0, "beta": 0.75, "k": 1.0}))


def _relu(layer: Layer, reads: list[str], name: str) -> Row:
    slope = float(layer.param("relu_param").one("negative_slope", 0))
    return layers.relu(name, *reads, **({"negative_slope": slope} if slope else {}))


def _pooling(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("pooling_param")
    method = p.word("pool", ("MAX", "AVE", "STOCHASTIC"), "MAX")
    if method == "STOCHASTIC":
        layer.refuse("STOCHASTIC pooling is not supported, MAX and AVE are")
    p.only("dilation", 1)
    p.only("axis", 1)
    whole = p.flag("global_pooling", False)
    if whole and (p.all("kernel_size") or p.one("kernel_h") or p.one("kernel_w")):
        layer.refuse("with global_pooling it cannot have a kernel size")
    given = {
        "kernel": None if whole else p.pair("kernel_size/kernel"),
        "stride": p.pair("stride", 1),
        "pad": p.pair("pad", 0),
        "method": method.lower(),
        "mask": len(layer.tops) > 1,
        "ceil": p.word("round_mode", ("CEIL", "FLOOR"), "CEIL") == "CEIL" and p.flag("ceil_mode", True),  # as OpenCV says
    }
    usual = {"kernel": None, "stride": 1, "pad": 0, "method": "max", "mask": False, "ceil": True}
    return layers.pooling(name, *reads, **_said(given, usual))


def _upsample(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("upsample_param")
    if len(reads) != 2:
        layer.refuse("it must read a blob and a mask")
    height, width = p.one("upsample_h", 0), p.one("upsample_w", 0)
    if bool(height) != bool(width):
        layer.refuse("upsample_h and upsample_w go together")
    given = {
        "scale": p.pair("scale", 2),
        "size": (height, width) if height else None,
        "pad_out": (p.flag("pad_out_h", False), p.flag("pad_out_w", False)),
    }
    return caffe.upsample(name, *reads, **_said(given, {"scale": 2, "size": None, "pad_out": (False, False)}))


def _unpooling(layer: Layer, reads: list[str], name: str) -> Row:
    """FuseNet's: a size that is given comes before a scale."""
    p = layer.param("unpooling_param")
    height, width, times = p.one("output_h"), p.one("output_w"), p.one("scale")
    if len(reads) != 2:
        layer.refuse("it must read a blob and a mask")
    if not ((height and width) or times):
        layer.refuse("its unpooling_param needs output_h and output_w, or scale")
    given = {"scale": times or 2, "size": (height, width) if height and width else None}
    return caffe.upsample(name, *reads, **_said(given, {"scale": 2, "size": None}))


def _eltwise(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("eltwise_param")
    operation = p.word("operation", ("PROD", "SUM", "MAX"), "SUM")
    coeff = tuple(float(k) for k in p.all("coeff"))
    given = {"operation": operation.lower(), "coeff": coeff}
    return layers.eltwise(name, *reads, **_said(given, {"operation": "sum", "coeff": ()}))


def _axis(p: Param, old_name: str) -> int:
    axis = p.one("axis", p.one(old_name, 1))
    axis = axis + 4 if axis < 0 else axis
    if not 0 <= axis < 4:
        p.layer.refuse(f"its axis {axis} is beyond those of a blob, 0 to 3")
    return axis


def _concat(layer: Layer, reads: list[str], name: str) -> Row:
    axis = _axis(layer.param("concat_param"), "concat_dim")
    return layers.concat(name, *reads, **({} if axis == 1 else {"axis": axis}))


def _slice(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("slice_param")
    axis, points = _axis(p, "slice_dim"), tuple(p.all("slice_point"))
    if points and len(points) != len(layer.tops) - 1:
        layer.refuse(f"{len(points)} slice points make {len(points) + 1} blobs, but it has {len(layer.tops)} tops")
    return caffe.slice_blob(name, *reads, points or len(layer.tops), **({} if axis == 1 else {"axis": axis}))


def _crop(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("crop_param")
    if len(reads) != 2:
        layer.refuse("it must read two blobs")
    axis, offset = p.one("axis", 2), tuple(p.all("offset"))
    axis = axis + 4 if axis < 0 else axis
    offset = offset[0] if len(offset) == 1 else offset or 0
    return caffe.crop(name, *reads, **_said({"axis": axis, "offset": offset}, {"axis": 2, "offset": 0}))


def _interp(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("interp_param")
    height, width = p.one("height"), p.one("width")
    zoom, shrink = p.one("zoom_factor"), p.one("shrink_factor")
    margins = (-p.one("pad_beg", 0), -p.one("pad_end", 0))
    if min(margins) < 0:
        layer.refuse("pad_beg and pad_end must be 0 or negative (Caffe's Interp only crops)")
    # Caffe's order: a factor alone comes before height and width, both factors after them.
    size = (height, width) if height and width and bool(zoom) == bool(shrink) else None
    if not (size or zoom or shrink):
        layer.refuse("its interp_param needs height and width, zoom_factor, or shrink_factor")
    given = {"size": size, "zoom": 1 if size else zoom or 1, "shrink": 1 if size else shrink or 1, "margins": margins}
    return caffe.interp(name, *reads, **_said(given, {"size": None, "zoom": 1, "shrink": 1, "margins": (0, 0)}))


def _dropout(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("dropout_param")
    ratio = float(p.one("dropout_ratio", 0.5))
    if not p.flag("scale_train", True):
        layer.refuse("scale_train: false is not supported")
    given = {"ratio": ratio, "sample": p.flag("sample_weights_test", False)}
    return layers.dropout(name, *reads, **_said(given, {"ratio": 0.5, "sample": False}))


def _softmax(layer: Layer, reads: list[str], name: str) -> Row:
    layer.param("softmax_param").only("axis", 1)
    return pointwise.softmax(name, *reads)


def _power(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("power_param")
    given = {"power": float(p.one("power", 1)), "scale": float(p.one("scale", 1)), "shift": float(p.one("shift", 0))}
    return pointwise.power(name, *reads, **_said(given, {"power": 1.0, "scale": 1.0, "shift": 0.0}))


def _flatten(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("flatten_param")
    p.only("axis", 1)
    p.only("end_axis", -1, 3)
    return caffe.flatten(name, *reads)


def _inner_product(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("inner_product_param")
    p.only("axis", 1)
    if p.flag("transpose", False):
        layer.refuse("a transposed InnerProduct is not supported")
    lr, decay = layer.multipliers(2)
    args = {} if p.flag("bias_term", True) else {"bias": False}
    return caffe.inner_product(name, *reads, p.one("num_output"), **args, lr_mult=lr, decay_mult=decay)


def _prelu(layer: Layer, reads: list[str], name: str) -> Row:
    shared = layer.param("prelu_param").flag("channel_shared", False)
    lr, decay = layer.multipliers(1)
    return pointwise.prelu(name, *reads, **({"shared": True} if shared else {}), lr_mult=lr, decay_mult=decay)


def _elu(layer: Layer, reads: list[str], name: str) -> Row:
    alpha = float(layer.param("elu_param").one("alpha", 1))
    return pointwise.elu(name, *reads, **({} if alpha == 1 else {"alpha": alpha}))


def _sigmoid(layer: Layer, reads: list[str], name: str) -> Row:
    layer.param("sigmoid_param")
    return pointwise.sigmoid(name, *reads)


def _tanh(layer: Layer, reads: list[str], name: str) -> Row:
    layer.param("tanh_param")
    return pointwise.tanh(name, *reads)


def _bias(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("bias_param")
    p.only("axis", 1, -3)
    p.only("num_axes", 1)
    (lr,), (decay,) = layer.multipliers(1)
    return pointwise.bias(name, *reads, lr_mult=(1.0, lr), decay_mult=(1.0, decay))


def _tile(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("tile_param")
    axis = _axis(p, "axis")
    return caffe.tile(name, *reads, p.one("tiles"), **({} if axis == 1 else {"axis": axis}))


def _reshape(layer: Layer, reads: list[str], name: str) -> Row:
    """What it writes (channels, stride) is found where the sizes of the images are known."""
    p = layer.param("reshape_param")
    p.only("axis", 0)
    p.only("num_axes", -1)
    shape = (p.one("shape") or Message()).all("dim")
    if len(shape) not in (2, 4) or shape[0] not in (0, -1) or shape.count(-1) > 1:
        layer.refuse("its shape must have 2 or 4 dims, the first of which is 0 (one image stays one image)")
    return caffe.reshape(name, *reads, tuple(shape), 0)


def _padding(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("padding_param")
    first, last = p.one("pad_beg", 0), p.one("pad_end", 0)
    if first * last < 0:
        layer.refuse("pad_beg and pad_end must both add or both cut off")
    return caffe.padding(name, *reads, first, last)


def _python(layer: Layer, reads: list[str], name: str) -> Row:
    """Layers in Python are known one by one: ENet's dropout of planes."""
    p = layer.param("python_param")
    kind, said = str(p.one("layer", "")), str(p.one("param_str", "{}"))
    p.known |= {"module"}
    if kind != "SpatialDropoutLayer":
        layer.refuse(f"its Python code ({p.one('module')}.{kind}) is not run; of such layers SpatialDropoutLayer is known")
    try:
        ratio = float(ast.literal_eval(said)["p"])
    except (ValueError, SyntaxError, KeyError, TypeError):
        layer.refuse(f"its param_str {said!r} does not say p, the share of the planes to drop")
    return pointwise.spatial_dropout(name, *reads, ratio)


def _arg_max(layer: Layer, reads: list[str], name: str) -> Row:
    """The largest plane's number: only as the end of a net, where the reader leaves it out (see `prototxt`)."""
    p = layer.param("argmax_param")
    p.only("top_k", 1)
    if p.flag("out_max_val", False) or p.one("axis") not in (1, -3):
        layer.refuse("only an ArgMax over the planes (axis: 1) that writes labels is supported")
    return Row("argmax", name, tuple(reads))


TYPES: dict[str, Callable[[Layer, list[str], str], Row]] = {
    "ArgMax": _arg_max,
    "BN": _bn,
    "BatchNorm": _batch_norm,
    "Bias": _bias,
    "Concat": _concat,
    "Convolution": _convolution,
    "Crop": _crop,
    "Deconvolution": partial(_convolution, deconv=True),
    "Dropout": _dropout,
    "ELU": _elu,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "InnerProduct": _inner_product,
    "Interp": _interp,
    "LRN": _lrn,
    "PReLU": _prelu,
    "Padding": _padding,
    "Pooling": _pooling,
    "Power": _power,
    "Python": _python,
    "ReLU": _relu,
    "Reshape": _reshape,
    "Scale": _scale,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "TanH": _tanh,
    "Tile": _tile,
    "Unpooling": _unpooling,
    "Upsample": _upsample,
}
HAVE_WEIGHTS = {"BN", "BatchNorm", "Bias", "Convolution", "Deconvolution", "InnerProduct", "PReLU", "Scale"}
READS = {"Crop": 2, "Unpooling": 2, "Upsample": 2}  # how many blobs at most; others read one, Concat and Eltwise any number
