"""Begin with weights from elsewhere: ImageNet's, a snapshot's or Caffe's, matched by layer name, as in Caffe.

**What an ImageNet filter sees.** torchvision's filters expect R, G, B between 0 and 1, less ImageNet's mean, divided by its
deviation. Our nets read bytes less the mean of their own bands, or as NORMALISATION has it. The difference is folded into the
weights and the bias of each first layer, so that it answers a pixel just as torchvision's net does (at the image's edge the
two differ, unless the means agree: there zeros are padded, and zero is the mean). Band 1 of an input takes the place of R,
band 2 of G, band 3 of B, in the order of the files, however the bands are stored: of an IRRG tile, IR is seen as red, R as
green, G as blue.

**Other than 3 bands.** More: the first three bands take R, G, B, each further one the mean of the three filters, and all are
multiplied by 3 / bands. Fewer: each takes the mean, multiplied by 3 / bands. So a picture whose bands are all alike is
answered as a grey picture was, whatever the number of bands, and what follows finds the magnitudes that it is used to; the
mean filter knows no colour, as a height or an NDVI has none.

**Batch norm.** The plain VGG-16 has none, our nets normalise after each convolution. The convolutions are loaded, gamma
begins at 1 and beta at 0, as in the original. That trains well: in training, batch norm divides each plane by its own
deviation, so that the scale of the weights (and of raw units) has no effect and what is kept is what each filter looks for;
the thresholds that VGG-16 had in its biases are lost, and beta learns new ones within tens of iterations. Running statistics
begin at 0 and 1 and follow the data: a net must have been trained for some tens of iterations before it labels anything.
VGG-16-BN brings its gammas, betas and running statistics with it.
Measured: SegNet on eight tiles of vaihingen_small, 200 iterations of 4 patches of 128x128, rate 0.01, two seeds. Training loss
(mean of the last 20) 1.01 and 1.10 with VGG-16, 1.05 and 1.16 without; on two held-out tiles 1.01 and 1.03 against 1.04 and
1.12. So early the gain is small: the decoder, which is random in both, is what has most to learn.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from nets.net import Net
from tools.base.errors import UserError, listing, nearest
from tools.data.inputs import IMAGENET_DEVIATION, IMAGENET_MEAN, Input
from tools.weights.caffe import is_caffemodel, load_caffemodel
from tools.weights.snapshots import read_weights, reason

# Our layer: the number of its convolution among torchvision's `features`, in vgg16 and in vgg16_bn. In the latter, the batch
# norm has the number after it.
VGG16 = {
    "conv1_1": (0, 0),
    "conv1_2": (2, 3),
    "conv2_1": (5, 7),
    "conv2_2": (7, 10),
    "conv3_1": (10, 14),
    "conv3_2": (12, 17),
    "conv3_3": (14, 20),
    "conv4_1": (17, 24),
    "conv4_2": (19, 27),
    "conv4_3": (21, 30),
    "conv5_1": (24, 34),
    "conv5_2": (26, 37),
    "conv5_3": (28, 40),
}
# torchvision's names in resnet50, resnet101: our layer, and "bn." where it is that layer's batch norm
RESNET = (
    (r"conv1\.", "conv1", ""),
    (r"bn1\.", "conv1", "bn."),
    (r"(layer\d)\.(\d+)\.conv(\d)\.", r"\1_\2_conv\3", ""),
    (r"(layer\d)\.(\d+)\.bn(\d)\.", r"\1_\2_conv\3", "bn."),
    (r"(layer\d)\.(\d+)\.downsample\.0\.", r"\1_\2_downsample", ""),
    (r"(layer\d)\.(\d+)\.downsample\.1\.", r"\1_\2_downsample", "bn."),
)
# the same for mobilenet_v2, whose first block expands nothing
MOBILENET = (
    (r"features\.0\.0\.", "conv1", ""),
    (r"features\.0\.1\.", "conv1", "bn."),
    (r"features\.1\.conv\.0\.0\.", "block1_depthwise", ""),
    (r"features\.1\.conv\.0\.1\.", "block1_depthwise", "bn."),
    (r"features\.1\.conv\.1\.", "block1_project", ""),
    (r"features\.1\.conv\.2\.", "block1_project", "bn."),
    (r"features\.(\d+)\.conv\.0\.0\.", r"block\1_expand", ""),
    (r"features\.(\d+)\.conv\.0\.1\.", r"block\1_expand", "bn."),
    (r"features\.(\d+)\.conv\.1\.0\.", r"block\1_depthwise", ""),
    (r"features\.(\d+)\.conv\.1\.1\.", r"block\1_depthwise", "bn."),
    (r"features\.(\d+)\.conv\.2\.", r"block\1_project", ""),
    (r"features\.(\d+)\.conv\.3\.", r"block\1_project", "bn."),
)
_LEFT_OUT = r"(classifier|fc)\.|features\.18\.\d"  # of torchvision's nets: what judges whole images
DOWNLOADS = ("vgg16", "vgg16_bn", "resnet50", "resnet101", "mobilenet_v2")

_MEAN, _DEVIATION = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))

Layers = dict[str, dict[str, Tensor]]  # layer -> name of the tensor inside it ("weight", "bn.bias") -> values


@dataclass
class Report:
    """What an initialisation did, by layer; `print` says it in a few lines.

    loaded: layers that begin with these weights (they learn at half the rate). adapted: what was changed on the way, by
    layer. anew: loaded layers whose batch norm begins at gamma 1, beta 0. random: layers left as they were. unused: what the
    source has beyond the net.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    anew: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} layers begin with its weights: {listing(self.loaded, 6)}"]
        lines += [f"  adapted: {layer}: {what}" for layer, what in self.adapted.items()]
        if self.anew:
            lines.append(f"  batch norm begins anew (gamma 1, beta 0) in {len(self.anew)} of them: the source has none")
        lines.append(
            f"  left random: {len(self.random)} layers: {listing(self.random, 6)}" if self.random else "  left random: none"
        )
        if self.unused:
            lines.append(f"  not in the net, so not used: {listing(self.unused, 6)}")
        return "\n".join(lines)


def initialise(net: nn.Module, source: str | Path, inputs: Iterable[Input] = ()) -> Report:
    """Fill the layers of `net` that `source` has weights of; the others stay as they are.

    source: "vgg16", "vgg16_bn", "resnet50", "resnet101", "mobilenet_v2" (torchvision's, downloaded once), a .pth or
    .safetensors file with torchvision's names or with ours (a snapshot), or a .caffemodel. In nets with branches, each branch
    that begins at an input gets the weights. inputs: what the net reads, in its order, for ImageNet's weights to be fitted to;
    where it is not said, R, G, B less ImageNet's mean.

    Raises UserError where the source cannot be had, is damaged, has nothing for this net, or does not fit. Then the net is
    as it was.
    """
    source = str(source)
    if is_caffemodel(source):
        return load_caffemodel(net, source)
    weights = read(source)
    imagenet = from_torchvision(weights)
    layers = imagenet or own_layers(net, weights)
    takes = _encoders(net, layers) if imagenet else _namesakes(net, layers)
    if not takes:
        raise UserError(
            f"{source} has no weights of any layer of the net: it has {listing(layers, 4)}, the net"
            f" {listing(own_layers(net, net.state_dict()), 4)}."
        )
    filling = {layer: layers[name] for layer, name in takes.items()}
    report = Report(source)
    if imagenet:
        filling |= _first_layers(net, takes, layers, list(inputs), report)
        report.unused = sorted({n.rpartition(".")[0] for n in weights if re.match(_LEFT_OUT, n)})
    fill(net, filling, report)
    report.unused += [n for n in layers if n not in takes.values()]
    return report


# ------------------------------------------------------------------------------------------------------ reading weights


def read(source: str) -> dict[str, Tensor]:
    """Tensors by name, downloaded or from a file. Raises UserError where that fails."""
    if source in DOWNLOADS:
        return download(source)
    path = Path(source)
    if not path.is_file():
        raise UserError(
            f"there are no weights '{source}': it is no file, and of those that can be downloaded there are"
            f" {listing(DOWNLOADS)}.{nearest(source, DOWNLOADS)}"
        )
    if path.suffix == ".safetensors":
        return read_weights(path)[0]
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the damage makes PyTorch stumble over
        raise UserError(
            f"{path} is damaged, or holds more than weights ({reason(error)}): give a .pth or .safetensors file."
        ) from None
    for wrapper in ("state_dict", "model"):
        weights = weights.get(wrapper, weights) if isinstance(weights, Mapping) else weights
    if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(f"{path} holds no weights by name: save `net.state_dict()` in it.")
    return dict(weights)


def download(name: str) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights of one of DOWNLOADS, kept in PyTorch's cache. Raises UserError without a network."""
    from tools.compute.torchvision_guard import torchvision  # takes seconds to import

    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum is a RuntimeError
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"the weights '{name}' could not be downloaded ({reason}): fetch {weights.url} elsewhere and name the file instead."
        ) from None


# ---------------------------------------------------------------------------------------------------------- names to layers


def from_torchvision(weights: Mapping[str, Tensor]) -> Layers:
    """The layers of one of torchvision's nets under our names; empty where the names are not torchvision's.

    Raises UserError for names that are torchvision's in part only.
    """
    if "features.0.weight" in weights:
        names = vgg16_names(with_batch_norm=weights.get("features.1.weight", torch.empty(0, 0)).dim() == 1)
    elif "features.0.0.weight" in weights:
        names = _renamed(weights, MOBILENET)
    elif "layer1.0.conv1.weight" in weights:
        names = _renamed(weights, RESNET)
    else:
        return {}
    unknown = [n for n in weights if n not in names and not re.match(_LEFT_OUT, n) and not n.endswith("num_batches_tracked")]
    if unknown:
        raise UserError(f"these weights are of no net that is known here: what is '{listing(unknown, 4)}'?")
    layers: Layers = {}
    for name in names:
        if name in weights:
            layer, tensor = names[name]
            layers.setdefault(layer, {})[tensor] = weights[name]
    return layers


def vgg16_names(with_batch_norm: bool) -> dict[str, tuple[str, str]]:
    """torchvision's name -> (our layer, tensor inside it), for vgg16 or vgg16_bn."""
    names = {}
    for layer, numbers in VGG16.items():
        number = numbers[with_batch_norm]
        names |= {f"features.{number}.{t}": (layer, t) for t in ("weight", "bias")}
        if with_batch_norm:
            tensors = ("weight", "bias", "running_mean", "running_var")
            names |= {f"features.{number + 1}.{t}": (layer, f"bn.{t}") for t in tensors}
    return names


def _renamed(weights: Iterable[str], table: Iterable[tuple[str, str, str]]) -> dict[str, tuple[str, str]]:
    """torchvision's name -> (our layer, tensor inside it), by the first pattern of the table that fits."""
    names = {}
    for name in weights:
        found = next(((m, layer, norm) for pattern, layer, norm in table if (m := re.match(pattern, name))), None)
        if found and not name.endswith("num_batches_tracked"):
            match, layer, norm = found
            names[name] = (match.expand(layer), norm + name[match.end() :])
    return names


def own_layers(net: nn.Module, weights: Mapping[str, Tensor]) -> Layers:
    """Tensors grouped by the layer that they belong to: a row of a table, or a module of a library's net."""
    layers: Layers = {}
    for name, value in weights.items():
        layer, _, tensor = name.partition(".") if isinstance(net, Net) else name.rpartition(".")
        layers.setdefault(layer, {})[tensor] = value
    return layers


# ------------------------------------------------------------------------------------------------------ layers to the net


def _namesakes(net: nn.Module, layers: Layers) -> dict[str, str]:
    """For each layer of the net that takes weights, the source's: that of its name, with or without its branch's prefix."""
    prefixes = [*(f"{name}_" for name in getattr(net, "inputs", ())), "net."]  # net.: before all names of a library's net
    takes = {}
    for layer in own_layers(net, net.state_dict()):
        names = [layer, *(layer.removeprefix(p) for p in prefixes if layer.startswith(p))]
        found = next((n for n in names if n in layers), None)
        if found:
            takes[layer] = found
    return takes


def _encoders(net: nn.Module, layers: Layers) -> dict[str, str]:
    """The same for ImageNet's layers: those of each encoder that begins at an input, whatever the prefix of its layers."""
    first = next(iter(layers))
    prefixes = [r.name.removesuffix(first) for r in _readers(net) if r.name.endswith(first)]
    return {p + layer: layer for p in prefixes for layer in layers if hasattr(net, p + layer)}


def _readers(net: nn.Module) -> list:
    """The rows that read an input of the net."""
    return [row for row in getattr(net, "rows", ()) if row.reads and row.reads[0] in net.inputs]


def _first_layers(net: nn.Module, takes: Mapping[str, str], layers: Layers, inputs: list[Input], report: Report) -> Layers:
    """The layers that read an input, fitted to it."""
    given = dict(zip(net.inputs, inputs, strict=False))
    fitted = {}
    for row in _readers(net):
        if row.name in takes:
            seen = given.get(row.reads[0]) or _as_imagenet(row.reads[0], net.inputs[row.reads[0]])
            fitted[row.name] = fold(layers[takes[row.name]], seen)
            report.adapted[row.name] = _fold_in_words(seen)
    return fitted


def _as_imagenet(name: str, channels: int) -> Input:
    mean = (255 * _MEAN).tolist() if channels == 3 else [255 * _MEAN.mean().item()] * channels
    return Input(name, (name,), (channels,), False, tuple(mean))


def _fold_in_words(seen: Input) -> str:
    bands = f"{seen.name} has {seen.channels} band{'s' * (seen.channels != 1)}"
    if seen.channels == 3:
        return f"{bands}, seen as R, G, B; raw units and mean folded into the weights"
    kept = "the first three seen as R, G, B, the others by the mean filter" if seen.channels > 3 else "seen by the mean filter"
    return f"{bands}, not 3: {kept}, all times 3/{seen.channels}; raw units and mean folded in"


def fold(tensors: Mapping[str, Tensor], seen: Input) -> dict[str, Tensor]:
    """ImageNet's first layer (weights N x 3 x k x k for normalised R, G, B), made for the bands of an input in raw units.

    A layer without bias but with batch norm takes the constant into its running mean.
    """
    weight = tensors["weight"].double()
    raw = weight / (255 * _DEVIATION).view(1, 3, 1, 1)  # answers pixels between 0 and 255
    constant = -(weight.sum((2, 3)) @ (_MEAN / _DEVIATION))
    raw = spread(raw, seen.channels)[:, _stored_order(seen)]
    mean = torch.tensor(seen.mean, dtype=torch.float64)
    deviation = torch.tensor(seen.deviation or [1.0] * seen.channels, dtype=torch.float64)
    constant += raw.sum((2, 3)) @ mean
    folded = dict(tensors) | {"weight": (raw * deviation.view(1, -1, 1, 1)).float()}
    if "bias" in tensors:
        folded["bias"] = (tensors["bias"].double() + constant).float()
    elif "bn.running_mean" in tensors:
        folded["bn.running_mean"] = (tensors["bn.running_mean"].double() - constant).float()
    return folded


def spread(weight: Tensor, bands: int) -> Tensor:
    """Filters for three planes made into filters for `bands`, whose sum over the bands is the same (see the module's text)."""
    if bands == 3:
        return weight
    mean = weight.mean(1, keepdim=True)
    planes = [weight, mean.expand(-1, bands - 3, -1, -1)] if bands > 3 else [mean.expand(-1, bands, -1, -1)]
    return torch.cat(planes, 1) * 3 / bands


def _stored_order(seen: Input) -> list[int]:
    """For each channel that the net reads, the number of its band in the order of the files."""
    order: list[int] = []
    for bands in seen.bands:
        numbers = range(len(order), len(order) + bands)
        order += reversed(numbers) if seen.bgr else numbers
    return order


def fill(net: nn.Module, filling: Layers, report: Report) -> None:
    """Copy the tensors into the layers and note it in the report. Raises UserError, before any change, where one misfits."""
    own = own_layers(net, net.state_dict())
    for layer, tensors in filling.items():
        check_fit(layer, tensors, own[layer])
    with torch.no_grad():
        for layer, tensors in filling.items():
            for name, value in tensors.items():
                own[layer][name].copy_(value)
    report.loaded += list(filling)
    report.anew += [n for n, tensors in filling.items() if "bn.weight" in own[n] and "bn.weight" not in tensors]
    report.random += [n for n, tensors in own.items() if n not in filling and tensors]


def check_fit(layer: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise UserError unless the source's tensors of a layer are those of the net, but for a batch norm that it lacks."""
    for name in tensors:
        if name not in own:
            what = "batch norm" if name.startswith("bn.") else f"'{name}'"
            raise UserError(f"layer '{layer}' has no {what}, but the weights have it: give weights of a net without it.")
    for name in (n for n in own if n in tensors):
        value = tensors[name]
        if value.shape != own[name].shape:
            raise UserError(
                f"layer '{layer}' has a {name} of {_shape(own[name])}, the weights have {_shape(value)}: rename the layer to"
                " train it from scratch, or give weights that fit."
            )
    missing = [n for n in own if n not in tensors and not n.startswith("bn.")]
    if missing:
        raise UserError(f"the weights of layer '{layer}' lack its {listing(missing)}: they are of another net.")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one value"
