"""The networks of segmentation_models_pytorch and torchvision, behind the interface of our own.

    smp:Unet/resnet34               architecture / encoder; every encoder of smp, and timm's as tu-NAME
    torchvision:deeplabv3_resnet50  and its siblings

Weights begin random; smp's option encoder_weights="imagenet" downloads its encoder's. Those expect other units than ours:
`pretrained_encoder` gives them with their units, and training.py folds these in (tools/training/pretrained.py).
"""

import importlib
import inspect
import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets import drawing
from nets.folding import folded
from nets.layers import ONE_VALUE
from nets.net import Box, count_parameters
from tools.base.errors import UserError, listing, nearest
from tools.compute.torchvision_guard import torchvision

timm = importlib.import_module("timm")  # after the guard, as is the next one
smp = importlib.import_module("segmentation_models_pytorch")

LIBRARIES = ("smp", "torchvision")
_TRIAL = 96  # pixels, about, of the noise by which a net with folded norms is compared with the net
_OURS = {"self", "kwargs", "encoder_name", "in_channels", "classes", "activation", "aux_params"}  # not left to options
# What timm's encoders may need in order to take images of any size; which of these they know is found by trying.
_ANY_SIZE = ({}, {"strict_img_size": False}, {"dynamic_img_size": True})


class LibraryNet(nn.Module):
    """A net of a library that is called as ours are: N x C x H x W in, N x classes x H x W logits out, for any H and W.

    name: LIBRARY:NET, see above. inputs: channels of the one input, by name. classes: planes of the output. options: further
    arguments of smp's architecture. Sizes that the net cannot take are padded by reflection to the right and below, to
    multiples of `pad_to` and at least `least`, and cut off again. Raises UserError for names, options or inputs that there are
    not.
    """

    def __init__(self, name: str, inputs: Mapping[str, int], classes: int, **options):
        super().__init__()
        library, _, net = name.partition(":")
        if library not in LIBRARIES:
            raise UserError(f"there is no library '{library}' to take '{name}' from: there are {listing(LIBRARIES)}.")
        if len(inputs) != 1:
            raise UserError(
                f"{name} reads one input, but there are {len(inputs)} ({listing(inputs)}): join their bands into one input, or"
                " choose a net with two branches."
            )
        self.name, self.inputs, self.classes, self.options = name, dict(inputs), classes, options
        make = {"smp": _smp, "torchvision": _torchvision}[library]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that the libraries gave up: the names work
            self.net, self.pad_to, self.least = make(net, *inputs.values(), classes, options)
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.register_forward_pre_hook(_refuse_one_value)
        self.multiple = 1

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        written = self.net(pad(image, self.pad_to, self.least))
        if isinstance(written, dict):
            written = written["out"]
        return written[:, :, :height, :width]

    def fuse(self) -> "LibraryNet":
        """A copy for inference whose batch norms are folded into convolutions; if that cannot be done, the net as it is."""
        weight = next(self.parameters())
        side = max(self.least, _TRIAL // self.pad_to * self.pad_to, self.pad_to)
        noise = torch.randn(1, *self.inputs.values(), side, side, generator=torch.Generator().manual_seed(1))
        return folded(self, noise.to(weight))

    def settings(self) -> dict:
        """The arguments that make the same net again (with fresh weights, so that nothing is downloaded)."""
        options = {k: v for k, v in self.options.items() if k != "encoder_weights"}
        return {"name": self.name, "inputs": self.inputs, "classes": self.classes} | options

    def boxes(self) -> list[Box]:
        """The input and the net's stages, for pictures."""
        return drawing.boxes(self, self.net)

    def __repr__(self) -> str:
        parts = [f"{name} {count_parameters(part):,}" for name, part in self.net.named_children()]
        (name, channels), classes = *self.inputs.items(), self.classes
        return (
            f"{self.name}: reads {name} ({channels} channels), writes {classes} classes\n{count_parameters(self):,} learnable"
            f" values ({', '.join(parts)}), any size"
        )


def _refuse_one_value(module: nn.Module, given: tuple[Tensor]) -> None:
    """Behind the pooling of a whole image, one image gives one value a plane, and PyTorch a traceback."""
    if module.training and not torch.compiler.is_compiling() and given[0].numel() == given[0].shape[1]:
        raise UserError(ONE_VALUE)


def pad(image: Tensor, multiple: int, least: int = 0) -> Tensor:
    """The image, made larger to the right and below to multiples of `multiple`, and at least `least`, by reflection.

    Images too small to be reflected that far repeat their last row and column.
    """
    height, width = image.shape[2:]
    below, right = (max(least, math.ceil(n / multiple) * multiple) - n for n in (height, width))
    if not (below or right):
        return image
    return F.pad(image, (0, right, 0, below), mode="reflect" if below < height and right < width else "replicate")


# ------------------------------------------------------------------------------------------------ segmentation_models_pytorch


def architectures() -> list[str]:
    """smp's architectures."""
    return sorted(cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values())


def encoders() -> list[str]:
    """smp's own encoders and timm's."""
    return [*smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]


def pretrained_encoder(name: str, weights: str | bool, depth: int = 5) -> tuple[dict[str, Tensor], dict]:
    """The weights that smp or timm download for the encoder of a net smp:ARCHITECTURE/ENCODER, for R, G and B, and their units.

    The units are smp's: mean, std, input_space, input_range. Raises UserError if the weights cannot be had.
    """
    encoder = name.partition("/")[2]
    if not name.startswith("smp:") or not encoder:
        raise UserError(f"encoder_weights = {weights!r} is for nets of smp with an encoder, not for {name}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = smp.encoders.get_encoder(encoder, in_channels=3, depth=depth, weights=weights)
            return found.state_dict(), smp.encoders.get_preprocessing_params(encoder, weights)
    except Exception as error:  # the libraries raise whatever occurs to them
        reason = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
        raise UserError(
            f"encoder_weights = {weights!r} of {encoder} cannot be had ({reason}): fetch its weights elsewhere and name"
            " the file in INIT_MODEL."
        ) from None


def _smp(name: str, channels: int, classes: int, options: dict) -> tuple[nn.Module, int, int]:
    """An architecture with an encoder, the number that height and width must be multiples of, and their least size."""
    architecture, _, encoder = name.partition("/")
    if architecture not in architectures():
        raise UserError(
            f"segmentation_models_pytorch has no '{architecture}'.{nearest(architecture, architectures())} It has"
            f" {listing(architectures(), 20)}."
        )
    if not encoder:
        raise UserError(f"smp:{architecture} needs an encoder: write smp:{architecture}/resnet34, for example.")
    if encoder.split(".")[0] not in encoders():  # timm's names may end in .TAG_OF_WEIGHTS
        raise UserError(f"there is no encoder '{encoder}'.{nearest(encoder, encoders())} `python -m nets` lists them.")
    cls = getattr(smp, architecture)
    known = [p for p in inspect.signature(cls.__init__).parameters if p not in _OURS]
    for option in options:
        if option not in known:
            raise UserError(f"smp:{architecture} has no option '{option}'; its options: {listing(known, 20)}.")
    arguments = {"encoder_weights": None} | options | {"in_channels": channels, "classes": classes}
    net, multiple = _any_size(cls, encoder, arguments)
    return net, multiple, 128 if architecture == "PAN" else 0  # PAN halves its deepest maps three times more


def _any_size(cls: type, encoder: str, arguments: dict) -> tuple[nn.Module, int]:
    """The net in a form that takes many sizes, and what they must be multiples of. Raises UserError where there is none."""
    of_timm = encoder.startswith("tu-")
    reasons = []
    for way in _ANY_SIZE if of_timm else _ANY_SIZE[:1]:
        try:
            net = cls(encoder, **arguments, **way)
            stride = net.encoder.output_stride
            usual = math.lcm(32, stride) if 32 % stride == 0 else 2 * stride
            return net, _multiple(net, arguments["in_channels"], usual) if of_timm else usual
        except Exception as error:  # the libraries raise whatever occurs to them
            reasons.append(str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__)
    raise UserError(f"smp:{cls.__name__} cannot have the encoder '{encoder}' ({reasons[0]}): choose another one.")


def _multiple(net: nn.Module, channels: int, usual: int) -> int:
    """The usual multiple, or one that suits encoders which look through windows. Raises what the net raises for the usual."""
    faults = []
    for multiple in (usual, 224, 256):
        try:
            _try(net, channels, multiple)
            return multiple
        except Exception as error:
            faults.append(error)
    raise faults[0]


@torch.no_grad()
def _try(net: nn.Module, channels: int, multiple: int) -> None:
    """Label an image that is not square and of a size that no model is made for. Raises whatever the net raises."""
    height, width = (times * multiple for times in ((1, 2) if multiple > 64 else (3, 2)))
    written = net.eval()(torch.zeros(1, channels, height, width))
    if written.shape[2:] != (height, width):
        raise ValueError(f"it writes {tuple(written.shape[2:])} for {(height, width)}")
    net.train()


# ------------------------------------------------------------------------------------------------------------- torchvision


def torchvision_names() -> list[str]:
    """torchvision's networks that label pixels."""
    return torchvision.models.list_models(module=torchvision.models.segmentation)


def _torchvision(name: str, channels: int, classes: int, options: dict) -> tuple[nn.Module, int, int]:
    """One of torchvision's networks, whose first convolution reads as many channels as are wanted; it takes any size."""
    if name not in torchvision_names():
        raise UserError(
            f"torchvision has no '{name}'.{nearest(name, torchvision_names())} It has {listing(torchvision_names())}."
        )
    if options:
        raise UserError(f"torchvision:{name} has no options, but {listing(options)} is given.")
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    if channels != 3:
        _read(net, channels)
    return net, 1, 0


def _read(net: nn.Module, channels: int) -> None:
    """Give the net a first convolution for this many channels."""
    name, old = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, old.groups, old.bias is not None
    )  # fmt: skip
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    owner, _, last = name.rpartition(".")
    setattr(net.get_submodule(owner), last, new)
