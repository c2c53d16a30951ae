"""What goes into a net: which modalities make up each input, in which order of bands, and how it is centred."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from tools.errors import UserError


@dataclass(frozen=True)
class Input:
    """One input of a net.

    name: of the input. modalities: whose bands it stacks, in this order. bands: how many each has. bgr: whether the bands of
    each modality stand in reversed order, as Caffe has them. mean: per channel, in the net's order and in raw units, taken
    off before the net sees the image (Caffe's manner: no scaling).
    """

    name: str
    modalities: tuple[str, ...]
    bands: tuple[int, ...]
    bgr: bool
    mean: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Channels that the net reads."""
        return sum(self.bands)

    def stack(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """Channels x h x w, from the files' pixels (bands x h x w) by modality."""
        for modality, bands in zip(self.modalities, self.bands, strict=True):
            if len(images[modality]) != bands:
                raise UserError(f"{modality} has {len(images[modality])} bands, but the net was trained on {bands}.")
        return np.concatenate([reorder(images[m], self.bgr) for m in self.modalities])

    def centre(self, pixels: Tensor) -> Tensor:
        """What the net sees: N x channels x h x w of any number type, as float32 less the mean."""
        mean = torch.tensor(self.mean, dtype=torch.float32, device=pixels.device)
        return pixels.float() - mean.view(1, -1, 1, 1)

    def to_dict(self) -> dict:
        """For JSON; `Input.from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Input":
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def reorder(pixels: np.ndarray, bgr: bool) -> np.ndarray:
    """The bands (bands x h x w) in the order that records and nets have: reversed when `bgr`."""
    return pixels[::-1] if bgr else pixels


def make_inputs(
    wanted: Mapping[str, Sequence[str]], about: Mapping[str, dict], means: Mapping[str, Sequence[float] | None], bgr: bool
) -> list[Input]:
    """The inputs of a config.

    wanted: modalities by input. about: {modality: {"bands": n, "mean": measured}}. means: given ones by modality, in the
    file's band order; where there is none, the measured one counts.
    """
    inputs = []
    for name, modalities in wanted.items():
        mean: list[float] = []
        for modality in modalities:
            given = means.get(modality) or about[modality]["mean"]
            if len(given) != about[modality]["bands"]:
                raise UserError(
                    f"MEAN_PIXEL['{modality}'] has {len(given)} numbers, but {modality} has {about[modality]['bands']} bands."
                )
            mean += reversed(given) if bgr else given
        bands = tuple(about[m]["bands"] for m in modalities)
        inputs.append(Input(name, tuple(modalities), bands, bgr, tuple(map(float, mean))))
    return inputs
