"""What one layer of a prototxt says, old format or new; `prototxt_kinds` makes rows of it."""

from nets.caffe.prototxt_text import Message
from tools.base.errors import UserError, nearest

# What Caffe calls layers since 2014, by the names that it had for them before ("layers" instead of "layer").
V1_TYPES = {
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BN": "BN",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "CROP": "Crop",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DENSE_CRF": "DenseCRF",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HINGE_LOSS": "HingeLoss",
    "IMAGE_DATA": "ImageData",
    "IMAGE_SEG_DATA": "ImageSegData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "INTERP": "Interp",
    "LRN": "LRN",
    "MAT_WRITE": "MatWrite",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield",
    "PADDING": "Padding",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SEG_ACCURACY": "SegAccuracy",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "UPSAMPLE": "Upsample",
    "WINDOW_DATA": "WindowData",
}
SOURCES = {
    "Input", "Data", "ImageData", "ImageSegData", "DenseImageData", "MemoryData", "DummyData", "HDF5Data", "WindowData",
}  # fmt: skip
LOSS = "SoftmaxWithLoss"
OTHER_LOSSES = {
    "ContrastiveLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss",
}  # fmt: skip
NOT_THE_NET = {LOSS, *OTHER_LOSSES, "Accuracy", "SegAccuracy", "MatWrite", "HDF5Output", "Silence"}
# What is refused by name, and why.
REFUSED = dict.fromkeys(
    ("MultiStageMeanfield", "DenseCRF"),
    "a conditional random field that is solved by mean field (CRF-RNN, DenseCRF) is not supported: take it out, so that the net"
    " ends in the scores that it reads",
)
# How to start, which code to run: of no consequence for what a layer computes. Weights begin as the kinds of this project do.
_NO_MATTER = {
    "weight_filler", "bias_filler", "filler", "scale_filler", "shift_filler", "slope_filler", "engine", "force_nd_im2col",
    "stable_prod_grad",
}  # fmt: skip
# What any layer may have besides its own param; from `device` on, additions of well-known forks. DeepLab's `strict_dim` is
# about reading weights: false lets fully connected layers fill convolutions, which they always may here.
_FIELDS = {
    "name", "type", "bottom", "top", "phase", "loss_weight", "param", "blobs", "include", "exclude", "propagate_down",
    "blobs_lr", "weight_decay", "blob_share_mode", "device", "buffer", "forward_type", "backward_type", "forward_math",
    "backward_math", "debug", "strict_dim",
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
