"""What pixels mean to weights from elsewhere: the scale, mean and deviation of each source, and which bands it reads.

A net that was trained elsewhere sees (pixel / scale - mean) / deviation of bands in an order of its own. UNITS is the table of
the sources that are known; what a file says of itself (timm's `pretrained_cfg`, which lies in config.json beside its weights,
or in timm for its nets) counts before it, and INIT_UNITS in the config before both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.base.errors import UserError, listing, nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of R, G, B between 0 and 1
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Units:
    """A net sees (pixel / scale - mean) / deviation, per band in the order of the first layer's planes.

    words: what they are called in a report. bgr: whether the bands stand in the order B, G, R.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    scale: float = 255.0
    bgr: bool = False
    words: str = "INIT_UNITS"

    @property
    def raw_mean(self) -> tuple[float, ...]:
        """The mean in the files' own pixel values."""
        return tuple(self.scale * m for m in self.mean)

    @property
    def raw_deviation(self) -> tuple[float, ...]:
        """The deviation in the files' own pixel values."""
        return tuple(self.scale * d for d in self.deviation)

    def __str__(self) -> str:
        numbers = [" ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.deviation)]
        return f"{self.words} (pixels / {self.scale:g}, less {numbers[0]}, by {numbers[1]})"


IMAGENET = Units(IMAGENET_MEAN, IMAGENET_DEVIATION, words="ImageNet's units")
UNITS: dict[str, Units] = {  # source -> its units
    # torchvision.transforms' presets of all its classifiers and segmentation nets
    "torchvision": IMAGENET,
    # the encoders that segmentation_models_pytorch keeps itself (its `get_preprocessing_params` says it of each)
    "smp": IMAGENET,
    # timm, where the file does not say which of its nets it is of; of most of them
    "timm": IMAGENET,
    # github.com/lukemelas/EfficientNet-PyTorch, README (its advprop weights alone want -1 to 1)
    "EfficientNet-PyTorch": IMAGENET,
    # The package names no units. Its weights are converted from github.com/tensorflow/tpu, models/official/efficientnet/lite,
    # whose preprocessing is (pixel - 127) / 128. Checked on photographs: with these the first convolution's outputs have the
    # running means of its batch norm best (0.31 deviations off on average; 0.62 with ImageNet's units), and a daisy, a palace,
    # an espresso and cats are named. timm gives 0.5 and 0.5 for the same tensors, which is the same to 0.4 %.
    "efficientnet-lite": Units((127 / 255,) * 3, (128 / 255,) * 3, words="EfficientNet-Lite's units"),
    # nshaud/DeepNetsForEO's notebook for PyTorch: pixels between 0 and 1, nothing else
    "DeepNetsForEO": Units((0.0,) * 3, (1.0,) * 3, words="the notebook's units"),
}


def of_timm(config: Mapping[str, Any], words: str) -> Units | None:
    """The units in one of timm's `pretrained_cfg`, or smp's settings; None where it has none."""
    if not config.get("mean") or not config.get("std"):
        return None
    scale = 255.0 / max(config.get("input_range") or (1.0,))
    return Units(tuple(config["mean"]), tuple(config["std"]), scale, config.get("input_space") == "BGR", words)


def from_config(given: Mapping[str, Any] | None, name: str = "INIT_UNITS") -> Units | None:
    """INIT_UNITS as units: {"mean": (...), "std": (...)}, in raw pixel values, or with "scale": 255 in pixels divided by it.

    name: what the user calls them. Raises UserError for other keys, numbers that do not fit together, and means of 0 to 1 that
    do not say their scale.
    """
    if not given:
        return None
    known = ("mean", "std", "scale")
    for key in given:
        if key not in known:
            raise UserError(f"{name} has no {key!r}; it takes {listing(known)}.{nearest(key, known)}")
    mean, deviation = (_numbers(given, key, name) for key in ("mean", "std"))
    if len(mean) != len(deviation) or not all(d > 0 for d in deviation):
        raise UserError(f"{name} = {dict(given)}: mean and std must be as many numbers, one a band, and std above 0.")
    if "scale" not in given and max(map(abs, mean)) <= 1 and max(deviation) <= 1:
        raise UserError(
            f"{name} = {dict(given)} looks like the units of pixels between 0 and 1: add 'scale': 255 if the net was"
            " trained on bytes divided by 255, or 'scale': 1 if the files' own values are as small."
        )
    scale = given.get("scale", 1)
    if not _is_number(scale) or not scale > 0:
        raise UserError(f"{name}['scale'] = {scale!r}: it must be a number above 0.")
    return Units(mean, deviation, float(scale))


def _numbers(given: Mapping[str, Any], key: str, name: str) -> tuple[float, ...]:
    values = given.get(key)
    if not isinstance(values, list | tuple) or not values or not all(map(_is_number, values)):
        raise UserError(f"{name}[{key!r}] = {values!r}: it must be a number per band, such as (123.7, 116.3, 103.5).")
    return tuple(map(float, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
