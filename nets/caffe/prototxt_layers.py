"""One layer of a prototxt as one row: which fields each type of Caffe's layers has, and which arguments they become."""

from collections.abc import Callable
from functools import partial

from nets import layers
from nets.caffe import layers as caffe
from nets.caffe.prototxt_text import Message
from nets.layers import Row
from tools.base.errors import UserError, nearest

# What Caffe calls layers since 2014, by the names that it had for them before ("layers" instead of "layer").
V1_TYPES = {
    "ACCURACY": "Accuracy",
    "CONCAT": "Concat",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "IMAGE_DATA": "ImageData",
    "INNER_PRODUCT": "InnerProduct",
    "MEMORY_DATA": "MemoryData",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "UPSAMPLE": "Upsample",
    "WINDOW_DATA": "WindowData",
}
SOURCES = {"Input", "Data", "ImageData", "DenseImageData", "MemoryData", "DummyData", "HDF5Data", "WindowData"}
NOT_THE_NET = {"SoftmaxWithLoss", "Accuracy", "Silence"}
# How to start, which code to run: of no consequence for what a layer computes. Weights begin as the kinds of this project do.
_NO_MATTER = {"weight_filler", "bias_filler", "filler", "engine", "force_nd_im2col", "stable_prod_grad"}
# What any layer may have besides its own param; from `device` on, additions of well-known forks.
_FIELDS = {
    "name", "type", "bottom", "top", "phase", "loss_weight", "param", "blobs", "include", "exclude", "propagate_down",
    "blobs_lr", "weight_decay", "blob_share_mode", "device", "buffer", "forward_type", "backward_type", "forward_math",
    "backward_math", "debug",
}  # fmt: skip
# ----------------------------------------------------------------------------------------------------- what a layer says


class Param:
    """The fields of one `..._param` of a layer. Whoever asks for a field knows it; fields that nobody knows are refused."""

    def __init__(self, layer: "Layer", name: str):
        self.layer, self.name, self.known = layer, name, set(_NO_MATTER)
        self.message = layer.message.last(name, Message())

    def all(self, name: str) -> list:
        self.known.add(name)
        return self.message.all(name)

    def one(self, name: str, default=None):
        return (self.all(name) or [default])[-1]

    def flag(self, name: str, default: bool) -> bool:
        return str(self.one(name, default)).lower() in ("true", "t", "1")

    def word(self, name: str, words: tuple[str, ...], default: str) -> str:
        """An enum's value: by name, or by number as its place in `words`."""
        value = self.one(name, default)
        value = words[value] if isinstance(value, int) and 0 <= value < len(words) else value
        if value not in words:
            self.layer.refuse(f"its {self.name} has {name}: {value}, which is unknown here")
        return value

    def pair(self, names: str, default: int | None = None):
        """A size: `name` once or twice, or `name_h` and `name_w`; one number where both are equal."""
        name, short = names.split("/") if "/" in names else (names, names)
        values, high, wide = self.all(name), self.one(f"{short}_h"), self.one(f"{short}_w")
        if high is not None or wide is not None:
            values = [high or 0, wide or 0]
        if not values:
            values = [default]
        if len(values) > 2 or values[0] is None:
            self.layer.refuse(f"its {self.name} needs {name}, once or for height and width")
        return values[0] if len(set(values)) == 1 else (values[0], values[1])

    def only(self, name: str, *allowed) -> None:
        """Refuse any other value of a field than these."""
        value = self.one(name, allowed[0])
        if value not in allowed:
            self.layer.refuse(f"its {self.name} has {name}: {value}, which is not supported")

    def close(self) -> None:
        """Refuse fields that nobody asked for."""
        for name in self.message.fields:
            if name not in self.known:
                self.layer.refuse(f"its {self.name} has the field {name}, which is unknown here.{nearest(name, self.known)}")


class Layer:
    """One layer of a prototxt, old or new."""

    def __init__(self, message: Message, old: bool, phase: str):
        self.message, self.old, self.phase = message, old, phase
        self.name = str(message.last("name", ""))
        kind = str(message.last("type", ""))
        self.type = V1_TYPES.get(kind, kind) if old else kind
        self.bottoms, self.tops = [str(b) for b in message.all("bottom")], [str(t) for t in message.all("top")]
        self._params: list[Param] = []

    @property
    def is_source(self) -> bool:
        """Whether it brings data: one of Caffe's own data layers, or one in Python that reads nothing."""
        return self.type in SOURCES or (self.type == "Python" and not self.bottoms)

    def refuse(self, why: str):
        raise UserError(f"layer '{self.name}' ({self.type}): {why}{'' if why.endswith(('.', '?')) else '.'}")

    def param(self, name: str) -> Param:
        self._params.append(Param(self, name))
        return self._params[-1]

    def close(self) -> None:
        """Refuse what nobody has asked for. Params of other types are left alone, as Caffe leaves them."""
        for name in self.message.fields:
            if name not in _FIELDS and not name.endswith("_param"):
                self.refuse(f"it has the field {name}, which is unknown here.{nearest(name, _FIELDS)}")
        for param in self._params:
            param.close()

    def multipliers(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(learning-rate, decay) multipliers of the first `count` blobs; what is not said is 1."""
        if self.old:
            rates, decays = self.message.all("blobs_lr"), self.message.all("weight_decay")
        else:
            specs = self.message.all("param")
            rates, decays = [[s.last(k, 1) for s in specs] for k in ("lr_mult", "decay_mult")]
        return tuple(_first(rates, count)), tuple(_first(decays, count))

    def shared(self) -> list[str]:
        """Names under which its weights are shared with other layers."""
        specs = self.message.all("param")
        names = [s.last("name", "") if isinstance(s, Message) else s for s in specs]  # V1 has the names alone
        return [str(name) for name in names if name]

    def included(self, state: Message) -> bool:
        """Caffe's rule: any `include` that holds, or no `exclude` that does."""
        include, exclude = self.message.all("include"), self.message.all("exclude")
        if include:
            return any(_holds(rule, self.phase, state) for rule in include)
        return not any(_holds(rule, self.phase, state) for rule in exclude)


def _first(values: list, count: int) -> list[float]:
    return [float(v) for v in [*values, *[1] * count][:count]]


def _holds(rule: Message, phase: str, state: Message) -> bool:
    level, stages = state.last("level", 0), set(state.all("stage"))
    if rule.last("phase", phase) not in (phase, ("TRAIN", "TEST").index(phase)):
        return False
    if not rule.last("min_level", level) <= level <= rule.last("max_level", level):
        return False
    return set(rule.all("stage")) <= stages and not set(rule.all("not_stage")) & stages


# ------------------------------------------------------------------------------------------------- layers that compute


def _said(given: dict, usual: dict) -> dict:
    """The arguments that differ from the usual ones: a table shows what is particular about a row."""
    return {k: v for k, v in given.items() if k not in usual or v != usual[k]}


def _convolution(layer: Layer, reads: list[str], name: str, deconv: bool = False) -> Row:
    p = layer.param("convolution_param")
    p.only("axis", 1)
    given = {
        "kernel": p.pair("kernel_size/kernel"),
        "stride": p.pair("stride", 1),
        "dilation": p.pair("dilation", 1),
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
    return caffe.batch_norm(name, *reads, affine=False, **_said(given, usual))


def _scale(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("scale_param")
    p.only("axis", 1, -3)
    p.only("num_axes", 1)
    lr, decay = layer.multipliers(2)
    args = {} if p.flag("bias_term", False) else {"bias": False}
    return caffe.scale(name, *reads, **args, lr_mult=lr, decay_mult=decay)


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
        "ceil": p.word("round_mode", ("CEIL", "FLOOR"), "CEIL") == "CEIL",
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
    return layers.dropout(name, *reads, **({} if ratio == 0.5 else {"ratio": ratio}))


def _softmax(layer: Layer, reads: list[str], name: str) -> Row:
    layer.param("softmax_param").only("axis", 1)
    return caffe.softmax(name, *reads)


def _power(layer: Layer, reads: list[str], name: str) -> Row:
    p = layer.param("power_param")
    given = {"power": float(p.one("power", 1)), "scale": float(p.one("scale", 1)), "shift": float(p.one("shift", 0))}
    return caffe.power(name, *reads, **_said(given, {"power": 1.0, "scale": 1.0, "shift": 0.0}))


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


TYPES: dict[str, Callable[[Layer, list[str], str], Row]] = {
    "BatchNorm": _batch_norm,
    "Concat": _concat,
    "Convolution": _convolution,
    "Crop": _crop,
    "Deconvolution": partial(_convolution, deconv=True),
    "Dropout": _dropout,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "InnerProduct": _inner_product,
    "Interp": _interp,
    "Pooling": _pooling,
    "Power": _power,
    "ReLU": _relu,
    "Scale": _scale,
    "Slice": _slice,
    "Softmax": _softmax,
    "Upsample": _upsample,
}
HAVE_WEIGHTS = {"BatchNorm", "Convolution", "Deconvolution", "InnerProduct", "Scale"}
