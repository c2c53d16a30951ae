"""What goes into a net: which bands of which modalities make up each input, in which order, and how they are normalised."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.base.errors import UserError, listing, nearest
from tools.geo.raster import fill_gaps
from tools.weights.about import check_input
from tools.weights.units import IMAGENET_DEVIATION, IMAGENET_MEAN

if TYPE_CHECKING:  # torch takes seconds to import, and the config's reader needs none of it
    from torch import Tensor

Part = tuple[str, tuple[int, ...] | None]  # a modality and which of its bands (from 0, in the file's order); None for all


@dataclass(frozen=True)
class Input:
    """One input of a net.

    name: of the input. modalities: whose bands it stacks, in this order. bands: how many of each it takes. bgr: whether the
    bands of each modality stand in reversed order, as Caffe has them. mean, deviation: per channel, in the net's order and in
    raw units; a net sees (value - mean) / deviation. clip: per channel, whether that is held between 0 and 1 (percentiles).
    picks: which bands it takes of each modality (from 0, in the file's order), file_bands: how many the file has; None where
    it takes all. raw: True where the net normalises by itself, as exported ones do. dtypes: the pixel type that each modality
    had in training. fill: per channel, what stood in the integers of the patches where there was no data; None where it is the
    mean. any_band: whether a pixel of each modality is empty if one band has its value for no data; None: for none. Weights of
    earlier versions know none of the three, and are none the worse for it.
    """

    name: str
    modalities: tuple[str, ...]
    bands: tuple[int, ...]
    bgr: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...] | None = None
    clip: tuple[bool, ...] | None = None
    picks: tuple[tuple[int, ...], ...] | None = None
    file_bands: tuple[int, ...] | None = None
    raw: bool | None = None
    dtypes: tuple[str, ...] | None = field(default=None, compare=False)
    fill: tuple[float, ...] | None = field(default=None, compare=False)
    any_band: tuple[bool, ...] | None = None

    @property
    def channels(self) -> int:
        """Channels that the net reads."""
        return sum(self.bands)

    def stack(self, images: Mapping[str, np.ndarray], gaps: Mapping[str, np.ndarray | None] | None = None) -> np.ndarray:
        """Channels x h x w, from the files' pixels (bands x h x w) by modality. Raises UserError for other band counts.

        gaps: by modality, where it has no data (h x w, bool); these pixels become neutral: `fill`, or NaN in floats.
        """
        planes, filling = [], iter(self.fill or self.mean)
        for i, modality in enumerate(self.modalities):
            image, wanted = images[modality], (self.file_bands or self.bands)[i]
            if len(image) != wanted:
                raise UserError(f"{modality} has {len(image)} bands, but the net was trained on {wanted}.")
            plane = reorder(image[list(self.picks[i])] if self.picks else image, self.bgr)
            values = [next(filling) for _ in plane]
            planes.append(fill_gaps(plane, gaps.get(modality) if gaps else None, values))
        return np.concatenate(planes)

    def type_fault(self, modality: str, dtype: str) -> str | None:
        """The error text if a file's pixel type cannot be what the net was trained on, or None.

        Bytes go with bytes, wider whole numbers with each other, floats with floats. A single band may also be heights in
        metres, which are stored as signed whole numbers or as floats; but not where floats between -1 and 1 were trained on.
        """
        i = self.modalities.index(modality)
        if not self.dtypes or _alike(self.dtypes[i], dtype, self._may_be_heights(i)):
            return None
        return (
            f"holds {dtype} values, but the net was trained on {self.dtypes[i]} of {modality}: convert it to {self.dtypes[i]},"
            " with the range that the training tiles have."
        )

    def _may_be_heights(self, i: int) -> bool:
        first = sum(self.bands[:i])
        is_share = self.dtypes[i].startswith("float") and abs((self.fill or self.mean)[first]) <= 1
        return (self.file_bands or self.bands)[i] == 1 and not is_share

    def one_band_is_enough(self, modality: str) -> bool:
        """Whether a pixel of a modality is empty if one band has its value for no data (see `raster.open_image`)."""
        return bool(self.any_band) and modality in self.modalities and self.any_band[self.modalities.index(modality)]

    @property
    def of_integers(self) -> bool:
        """Whether it was trained on whole numbers alone, as far as is known: no pixel is NaN or infinite then."""
        return bool(self.dtypes) and not any(dtype.startswith("float") for dtype in self.dtypes)

    def normalise(self, pixels: "Tensor", finite: bool = False) -> "Tensor":
        """What the net sees, float32, of N x channels x h x w raw pixels of any number type; no data (NaN, inf) becomes 0.

        finite: there are no such pixels, as in whole numbers.
        """
        import torch

        def per_channel(values: Sequence) -> "Tensor":
            return torch.tensor(values, device=pixels.device).view(1, -1, 1, 1)

        if self.raw:
            return pixels.float()
        seen = pixels.float() - per_channel(self.mean)
        if self.deviation:
            seen = seen / per_channel(self.deviation)
        if self.clip:
            seen = torch.where(per_channel(self.clip), seen.clamp(0, 1), seen)
        if finite or not pixels.is_floating_point():
            return seen
        return torch.nan_to_num(seen, posinf=0.0, neginf=0.0)  # the largest numbers would spoil the whole window

    def to_dict(self) -> dict:
        """For JSON; `Input.from_dict` reads it."""
        return {k: _lists(v) for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, values: dict) -> "Input":
        """What `to_dict` gave. Raises ValueError, with the reason, if it is none, or does not hold together."""
        check_input(values)
        return cls(**{k: _tuples(v) for k, v in values.items()})


_WHOLE = {"uint16", "int16", "uint32", "int32", "uint64", "int64"}
_FLOATS = {"float16", "float32", "float64"}
_HEIGHTS = {"int16", "int32", *_FLOATS}


def _alike(trained: str, given: str, heights: bool) -> bool:
    """Whether two pixel types are close enough that a net trained on one can read the other."""
    kinds = [_WHOLE, _FLOATS, _HEIGHTS] if heights else [_WHOLE, _FLOATS]
    return trained == given or any({trained, given} <= kind for kind in kinds)


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def reorder(pixels: np.ndarray, bgr: bool) -> np.ndarray:
    """The bands (bands x h x w) in the order that records and nets have: reversed when `bgr`; or back from there."""
    return pixels[::-1] if bgr else pixels


def modalities_of(inputs: Iterable[Input]) -> list[str]:
    """The modalities that the inputs are made of, each once."""
    return list(dict.fromkeys(m for spec in inputs for m in spec.modalities))


# --------------------------------------------------------------------------------------------- from the config to inputs


def find_parts(words: Iterable[str], modalities: Sequence[str], bands: Mapping[str, Sequence[str]]) -> list[Part]:
    """What the words of a config's input mean: a modality (all its bands), a band's name, or "modality.band".

    modalities: those of the dataset. bands: the names of the bands, by modality, where they have names. Bands of one modality
    that stand side by side make one part. Raises UserError for a word that means nothing, or two things.
    """
    parts: list[Part] = []
    for word in words:
        modality, picks = _find(word, modalities, bands)
        if parts and picks and parts[-1][0] == modality and parts[-1][1]:
            picks = parts.pop()[1] + picks
        parts.append((modality, picks))
    return parts


def _find(word: str, modalities: Sequence[str], bands: Mapping[str, Sequence[str]]) -> Part:
    if word in modalities:
        return word, None
    homes = [m for m, names in bands.items() if word in names or word in [f"{m}.{n}" for n in names]]
    if len(homes) == 1:
        return homes[0], (list(bands[homes[0]]).index(word.rpartition(".")[2]),)
    if homes:
        raise UserError(f"the band '{word}' is in {' and in '.join(homes)}: write '{homes[0]}.{word}' or the other.")
    known = [*modalities, *(n for names in bands.values() for n in names)]
    raise UserError(f"there is no modality and no band '{word}'.{nearest(word, known)} There is {listing(known, 20)}.")


def make_inputs(
    wanted: Mapping[str, Sequence[Part]],
    about: Mapping[str, dict],
    means: Mapping[str, Sequence[float] | None],
    normalisation: Mapping[str, str | Mapping],
    bgr: bool,
) -> list[Input]:
    """The inputs of a config, normalised.

    wanted: parts by input. about: what details.json says of each modality: bands, pixel type, and per band mean, deviation, low
    and high percentile of the training tiles; bands alone where nothing else is known; "fill" where patches hold another value
    than the mean without data. means: given ones by modality, in the file's band order; where there is none, the measured one
    counts. normalisation: one of NORMALISATIONS by modality.
    """
    return [_make_input(name, parts, about, means, normalisation, bgr) for name, parts in wanted.items()]


def _make_input(name, parts: Sequence[Part], about, means, normalisation, bgr: bool) -> Input:
    columns: list[tuple[float, float, bool, float]] = []  # mean, deviation, clip, fill of each channel
    chosen = []
    for modality, picks in parts:
        count = about[modality]["bands"]
        values = normalised(normalisation[modality], modality, about[modality], means.get(modality))
        filling = about[modality].get("fill") or about[modality].get("mean") or [mean for mean, *_ in values]
        picks = tuple(range(count)) if picks is None else picks
        if max(picks) >= count:
            raise UserError(f"bands['{modality}'] names more bands than the {count} that its files have.")
        chosen.append(picks)
        columns += [(*values[i], filling[i]) for i in (reversed(picks) if bgr else picks)]
    mean, deviation, clip, fill = (tuple(column) for column in zip(*columns, strict=True))
    counts = tuple(about[m]["bands"] for m, _ in parts)
    whole = all(picks == tuple(range(n)) for picks, n in zip(chosen, counts, strict=True))
    return Input(
        name, tuple(m for m, _ in parts), tuple(map(len, chosen)), bgr, tuple(map(float, mean)),
        None if set(deviation) == {1.0} else tuple(map(float, deviation)), clip if any(clip) else None,
        None if whole else tuple(chosen), None if whole else counts,
        dtypes=tuple(dtypes) if all(dtypes := [about[m].get("dtype") for m, _ in parts]) else None,
        fill=None if fill == mean else tuple(map(float, fill)),
        any_band=tuple(any_band) if any(any_band := [bool(about[m].get("any_band")) for m, _ in parts]) else None,
    )  # fmt: skip


def _mean(modality: str, about: dict, given: Sequence[float] | None) -> list[tuple]:
    """Caffe's manner: the mean is taken off, units stay as they are."""
    if given and len(given) != about["bands"]:
        raise UserError(f"MEAN_PIXEL['{modality}'] has {len(given)} numbers, but {modality} has {about['bands']} bands.")
    return [(mean, 1.0, False) for mean in given or about["mean"]]


def _standard(modality: str, about: dict, given: Sequence[float] | None) -> list[tuple]:
    """Mean 0 and deviation 1 over the training tiles."""
    return [(m, d or 1.0, False) for m, d in zip(about["mean"], about["deviation"], strict=True)]


def _percentile(modality: str, about: dict, given: Sequence[float] | None) -> list[tuple]:
    """0 and 1 at the 2nd and 98th percentile of the training tiles, what lies beyond is clipped."""
    return [(low, (high - low) or 1.0, True) for low, high in zip(about["low"], about["high"], strict=True)]


def is_normalisation(v: Any) -> bool:
    """Whether a value is one of NORMALISATIONS, or percentiles with numbers of their own."""
    if isinstance(v, str):
        return v in NORMALISATIONS
    low, high = v.get("low", 2), v.get("high", 98)
    return set(v) <= {"name", "low", "high"} and v.get("name") == "percentile" and 0 <= low < high <= 100


def normalised(how: str | Mapping, modality: str, about: Mapping[str, Any], given: Sequence[float] | None) -> list[tuple]:
    """(mean, deviation, clip) of each band of a modality; how: as `is_normalisation` has it."""
    if isinstance(how, str):
        return NORMALISATIONS[how](modality, about, given)
    if "percentiles" not in about:
        raise UserError(f"NORMALISATION['{modality}']: this database has no other percentiles than 2 and 98: make it again.")
    levels, values = about["percentiles"]["levels"], np.transpose(about["percentiles"]["values"])
    low, high = ([float(np.interp(how.get(end, level), levels, band)) for band in values] for end, level in _ENDS.items())
    return _percentile(modality, {"low": low, "high": high}, given)


_ENDS = {"low": 2, "high": 98}


def _imagenet(modality: str, about: dict, given: Sequence[float] | None) -> list[tuple]:
    """As ImageNet's nets want bytes in the order R, G, B."""
    if about["bands"] != 3 or about["dtype"] != "uint8":
        raise UserError(
            f"NORMALISATION['{modality}'] = 'imagenet' is for three bands of uint8, {modality} has {about['bands']} of"
            f" {about['dtype']}: choose 'standard'."
        )
    return [(255 * m, 255 * d, False) for m, d in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)]


NORMALISATIONS = {"mean": _mean, "standard": _standard, "percentile": _percentile, "imagenet": _imagenet}
