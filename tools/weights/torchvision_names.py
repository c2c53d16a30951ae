"""torchvision's names of the layers of VGG-16, ResNets and MobileNetV2, and ours for them; timm's ResNets are called alike."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from tools.base.errors import UserError, listing

Layers = dict[str, dict[str, Tensor]]  # layer -> name of the tensor inside it ("weight", "bn.bias") -> values

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
LEFT_OUT = r"(classifier|fc)\.|features\.18\.\d"  # of torchvision's nets: what judges whole images


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
    unknown = [n for n in weights if n not in names and not re.match(LEFT_OUT, n) and not n.endswith("num_batches_tracked")]
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
