"""Changes patches at random while training: image and labels together, for any number of bands and any pixel type.

AUGMENTATION in the config names operations with their numbers, such as {"flip": {}, "rotate": {"degrees": 30}}; OPERATIONS
lists them. Whatever their order in the config, a sample goes through them in the order in which they stand there.

- All modalities of a sample have the same geometry. Flips, quarter turns and crops move pixels and change none. Rotation and
  scale resample once, together: images bilinear, labels by the nearest neighbour, so that no class appears that was not there.
- Where a rotation or a smaller scale shows what lies beyond the patch, labels are "not scored". Images are reflected there: a
  net with batch norm sees the statistics and the texture of a real place, not a wedge of one colour, and no loss asks about it.
- Photometric operations count in the units of each band (its mean, deviation and percentiles over the training tiles), so they
  mean the same for bytes, 16 bits, reflectances and heights. They change only the modalities that they name. Places without
  data stay so in floats (NaN) and lend nothing to their neighbours; in whole numbers they hold the mean, as a pixel may.
- What happens to a sample depends on the seed and on its position in the run, not on who computes it or when.

torchvision.transforms.v2 has the like for photographs, and is as quick: brightness and contrast of 1 or 3 bands, noise of bytes
only, white is the type's largest number, what lies beyond the border has one colour, and places without data are mixed with
their neighbours. So it serves the tests, which hold rotation and scale against it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from scipy.special import ndtri
from torch.nn.functional import grid_sample

from tools.data.inputs import Input, reorder
from tools.data.operations import sample_size
from tools.labels.class_weights import count_record

Pixels = tuple[dict[str, np.ndarray], np.ndarray]  # images by modality (bands x h x w, in the file's order), labels (h x w)


# -------------------------------------------------------------------------------------------------------------- a sample


class Bands(NamedTuple):
    """A modality's bands over the training tiles, each field bands x 1 x 1 float32, in the file's order.

    black, white: between which gamma bends. zero: what normalises to 0.
    """

    mean: np.ndarray
    deviation: np.ndarray
    black: np.ndarray
    white: np.ndarray
    zero: np.ndarray


def bands_of(about: Mapping[str, dict], inputs: Iterable[Input]) -> dict[str, Bands]:
    """The bands of each modality.

    about: what details.json says of the modalities. inputs: of the net, which know what normalises to 0.
    """

    def column(values: Sequence[float]) -> np.ndarray:
        return np.array(values, np.float32)[:, None, None]

    found = {}
    for modality, known in about.items():
        low, high = np.minimum(known["low"], 0), np.array(known["high"], float)
        white = np.where(high > low, high, low + 1)
        zero = _zeros(modality, known["mean"], inputs)
        found[modality] = Bands(*map(column, (known["mean"], known["deviation"], low, white, zero)))
    return found


def _zeros(modality: str, means: Sequence[float], inputs: Iterable[Input]) -> list[float]:
    """What each band of a modality holds where the net sees 0; the mean for bands that it does not see."""
    zeros = list(means)
    for spec in inputs:
        channels = iter(spec.mean)
        for i, (name, count) in enumerate(zip(spec.modalities, spec.bands, strict=True)):
            values = reorder(np.array([next(channels) for _ in range(count)]), spec.bgr)
            if name == modality:
                for band, value in zip(spec.picks[i] if spec.picks else range(count), values, strict=True):
                    zeros[band] = float(value)
    return zeros


class Augmentation:
    """A recipe, ready for the samples of a run.

    recipe: from `read_recipe`. bands: of each modality. no_label: what stands in labels that are not scored, above the classes.
    seed: of all that is random.
    """

    def __init__(self, recipe: Mapping[str, Mapping], bands: Mapping[str, Bands], no_label: int, seed: int):
        self.recipe, self.bands, self.no_label, self.seed = recipe, bands, no_label, seed
        tones = [(name, recipe[name]) for name in TONES if name in recipe]
        self._tones = {modality: [t for t in tones if modality in t[1]["modalities"]] for modality in bands}

    def __call__(self, read: Callable[[int], Pixels], records: int, record: int, position: int) -> Pixels:
        """The record as the sample at this position of the run: same modalities and pixel types, perhaps another size.

        read: gives the pixels of one of so many `records`, all of one size.
        """
        random = np.random.default_rng([self.seed, position, 1])  # the 1: other numbers than those that order the records
        images, labels = self._mix(read, records, record, random)
        kinds = {modality: image.dtype for modality, image in images.items()}
        images, labels = self._place(images, labels, random)
        steps = self._steps(random)
        labels = move(labels, *steps)
        images = {m: self._tone(m, move(image, *steps), kinds[m], random) for m, image in images.items()}
        return self._drop(images, random), labels

    def _happens(self, name: str, random: Generator) -> bool:
        return name in self.recipe and random.random() < self.recipe[name]["probability"]

    # ------------------------------------------------------------------------------------------------------------- mixing

    def _mix(self, read: Callable[[int], Pixels], records: int, record: int, random: Generator) -> Pixels:
        """The record, perhaps with parts of others in the same places."""
        sample = read(record)
        pasted: list[tuple[slice, slice]] = []
        if self._happens("mosaic", random):
            pasted += quadrants(sample[1].shape, random)
        if self._happens("cutmix", random):
            pasted.append(rectangle(sample[1].shape, self.recipe["cutmix"]["share"], random))
        if pasted:
            sample = {m: image.copy() for m, image in sample[0].items()}, sample[1].copy()
        for rows, columns in pasted:
            paste(sample, read(int(random.integers(records))), rows, columns)
        return sample

    # ----------------------------------------------------------------------------------------------------------- geometry

    def _place(self, images: dict[str, np.ndarray], labels: np.ndarray, random: Generator) -> Pixels:
        """The part of the record that the sample shows; images are float32, NaN where there is no data, if it is resampled."""
        zoom, degrees, numbers = 1.0, 0.0, self.recipe.get("scale")
        if self._happens("scale", random):
            zoom = float(np.exp(random.uniform(np.log(numbers["smallest"]), np.log(numbers["largest"]))))
        if self._happens("rotate", random):
            degrees = float(random.uniform(-1, 1) * self.recipe["rotate"]["degrees"])
        size = sample_size(self.recipe, labels.shape)
        if zoom == 1 and not degrees:
            rows, columns = (_anywhere(whole, part, random) for whole, part in zip(labels.shape, size, strict=True))
            return {m: image[:, rows, columns] for m, image in images.items()}, labels[rows, columns]
        view = View(tuple(_centre(w, p / zoom, random) for w, p in zip(labels.shape, size, strict=True)), size, degrees, zoom)
        places = view.places()
        images = {m: resample(image.astype(np.float32, copy=False), *places) for m, image in images.items()}
        return images, resample_labels(labels, *places, self.no_label)

    def _steps(self, random: Generator) -> tuple[bool, bool, int]:
        """Whether to mirror left and right, top and bottom, and how many quarter turns to make."""
        numbers = self.recipe.get("flip", {"left_right": 0, "top_bottom": 0})
        left_right, top_bottom = random.random() < numbers["left_right"], random.random() < numbers["top_bottom"]
        return left_right, top_bottom, int(random.integers(4)) if "turn" in self.recipe else 0

    # ---------------------------------------------------------------------------------------------------------- photometry

    def _tone(self, modality: str, image: np.ndarray, kind: np.dtype, random: Generator) -> np.ndarray:
        """The image in its own pixel type, with the photometric changes that fall to it."""
        bands, drawn = self.bands[modality], [n for n in self._tones[modality] if random.random() < n[1]["probability"]]
        if not drawn and image.dtype == kind:
            return image
        image = image.astype(np.float32, copy=False)
        for name, numbers in drawn:
            rest = {key: value for key, value in numbers.items() if key not in ("modalities", "probability")}
            image = TONES[name](image, bands, random, **rest)
        return to_kind(image, kind)

    def _drop(self, images: dict[str, np.ndarray], random: Generator) -> dict[str, np.ndarray]:
        """The images, perhaps one of them without content."""
        if not self._happens("dropout", random):
            return images
        modality = str(random.choice(self.recipe["dropout"]["modalities"] or list(images)))
        image = images[modality]
        zero = to_kind(self.bands[modality].zero, image.dtype)
        return images | {modality: np.full(image.shape, zero)}


# ---------------------------------------------------------------------------------------------------------------- mixing


def quadrants(shape: tuple[int, int], random: Generator) -> list[tuple[slice, slice]]:
    """Rows and columns of three of the four parts that meet at a point, which lies in the middle half of the patch."""
    row, column = (int(random.integers(n // 4, n - n // 4 + 1)) for n in shape)
    top, bottom, left, right = slice(0, row), slice(row, None), slice(0, column), slice(column, None)
    return [(top, right), (bottom, left), (bottom, right)]


def rectangle(shape: tuple[int, int], share: float, random: Generator) -> tuple[slice, slice]:
    """Rows and columns of a part anywhere in the patch, in its proportions, of up to this share of its area.

    CutMix: Yun et al., arXiv 1905.04899, for labels of pixels.
    """
    side = np.sqrt(random.uniform(0, share))
    return tuple(_anywhere(n, max(1, round(n * side)), random) for n in shape)


def paste(sample: Pixels, other: Pixels, rows: slice, columns: slice) -> None:
    """Put this part of another record into the sample, images and labels."""
    for modality, image in sample[0].items():
        image[:, rows, columns] = other[0][modality][:, rows, columns]
    sample[1][rows, columns] = other[1][rows, columns]


def _anywhere(whole: int, part: int, random: Generator) -> slice:
    """So many pixels of a row or column of so many, from anywhere; no number is drawn where there is no choice."""
    start = int(random.integers(whole - part + 1)) if part < whole else 0
    return slice(start, start + part)


def _centre(whole: int, part: float, random: Generator) -> float:
    """The middle of so many pixels within a row or column of so many, or of more, in which that lies whole."""
    return float((whole - 1) / 2 + random.uniform(-0.5, 0.5) * (whole - part))


# -------------------------------------------------------------------------------------------------------------- geometry


def move(pixels: np.ndarray, left_right: bool, top_bottom: bool, quarters: int) -> np.ndarray:
    """The pixels (... x h x w) mirrored, then turned counter-clockwise; a view, in which each pixel is as it was."""
    pixels = pixels[..., ::-1] if left_right else pixels
    pixels = pixels[..., ::-1, :] if top_bottom else pixels
    return np.rot90(pixels, quarters, (-2, -1)) if quarters else pixels


class View(NamedTuple):
    """The part of a patch that a sample shows, resampled.

    centre: row and column of the patch in the middle of the sample, whole numbers being middles of pixels. size: of the sample.
    degrees: counter-clockwise turn of what is shown. zoom: pixels of the sample per pixel of the patch.
    """

    centre: tuple[float, float]
    size: tuple[int, int]
    degrees: float = 0.0
    zoom: float = 1.0

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column (h x w, float32) of the patch that each pixel of the sample shows; they may lie beyond it."""
        cos, sin = (f(np.deg2rad(self.degrees)) / self.zoom for f in (np.cos, np.sin))
        down, right = (np.arange(n) - (n - 1) / 2 for n in self.size)
        down, right = down[:, None], right[None]
        rows, columns = self.centre[0] + cos * down + sin * right, self.centre[1] + cos * right - sin * down
        return rows.astype(np.float32), columns.astype(np.float32)


def resample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The image (bands x h x w, float32) at these places, bilinear, reflected beyond its borders; NaN where a neighbour is."""
    height, width = image.shape[1:]
    grid = np.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
    source = torch.from_numpy(image.copy())[None]  # a view in reversed order, as records are read, is none that torch knows
    return grid_sample(source, torch.from_numpy(grid)[None], padding_mode="reflection", align_corners=False)[0].numpy()


def resample_labels(labels: np.ndarray, rows: np.ndarray, columns: np.ndarray, no_label: int) -> np.ndarray:
    """The labels (h x w) at these places, each that of the nearest pixel; `no_label` beyond their borders."""
    height, width = labels.shape
    row, column = np.rint(rows).astype(np.int32), np.rint(columns).astype(np.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    found = labels.ravel().take(row * width + column, mode="clip")
    return np.where(inside, found, labels.dtype.type(no_label))


# ------------------------------------------------------------------------------------------------------------- photometry


def to_kind(image: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Back to the pixel type: whole numbers are rounded and held within its range."""
    if kind.kind == "f":
        return image.astype(kind, copy=False)
    limits = np.iinfo(kind)
    return np.clip(np.rint(image), limits.min, limits.max).astype(kind)


def brightness(image: np.ndarray, bands: Bands, random: Generator, deviations: float) -> np.ndarray:
    """All bands lighter or darker, by the same share of their deviations."""
    return image + np.float32(random.uniform(-deviations, deviations)) * bands.deviation


def contrast(image: np.ndarray, bands: Bands, random: Generator, factor: float) -> np.ndarray:
    """Distances from the mean, that of the band over the training tiles, multiplied."""
    times = _up_or_down(factor, random)
    return image * times + (1 - times) * bands.mean


def gamma(image: np.ndarray, bands: Bands, random: Generator, exponent: float) -> np.ndarray:
    """Values between black (0, or the 2nd percentile where that is below) and white (the 98th) bent; those stay."""
    room = bands.white - bands.black
    return bands.black + room * np.power(np.maximum((image - bands.black) / room, 0), _up_or_down(exponent, random))


def blur(image: np.ndarray, bands: Bands, random: Generator, pixels: float) -> np.ndarray:
    """Gaussian, of up to so many pixels standard deviation."""
    sigma = max(1e-3, random.uniform(0, pixels))
    known = np.isfinite(image)
    if known.all():
        return smooth(image, sigma)
    weight = smooth(known.astype(np.float32), sigma)  # at least that of the pixel itself where it is known
    return np.where(known, smooth(np.where(known, image, 0), sigma) / np.maximum(weight, 1e-6), np.float32(np.nan))


def noise(image: np.ndarray, bands: Bands, random: Generator, deviations: float) -> np.ndarray:
    """Each value of each band with its own error, normally distributed."""
    drawn = _NORMAL.take(random.integers(len(_NORMAL), size=image.shape, dtype=np.uint16))
    return image + drawn * (np.float32(random.uniform(0, deviations)) * bands.deviation)


TONES = {"brightness": brightness, "contrast": contrast, "gamma": gamma, "blur": blur, "noise": noise}

# The normal distribution as a table, from which 16 random bits choose: quicker by far than normal numbers one by one.
_NORMAL = ndtri((np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float32)


def _up_or_down(factor: float, random: Generator) -> np.float32:
    """A number between 1 / factor and factor, as likely above as below 1."""
    return np.float32(factor ** random.uniform(-1, 1))


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """The image (bands x h x w, float32) under a Gaussian, reflected beyond its borders."""
    weights = np.exp(-0.5 * (np.arange(np.ceil(3 * sigma) + 1) / sigma) ** 2)
    weights = (weights / (2 * weights.sum() - weights[0])).astype(np.float32)
    for _ in range(2):  # along the columns, then along the rows; numpy is slow where neighbours are far apart in memory
        image = np.ascontiguousarray(_smooth_columns(image, weights).transpose(0, 2, 1))
    return image


def _smooth_columns(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """weights: of the pixel itself, of both its neighbours above and below, and so on."""
    height, radius = image.shape[1], len(weights) - 1
    wide = np.pad(image, ((0, 0), (radius, radius), (0, 0)), mode="symmetric")
    total = image * weights[0]
    pair = np.empty_like(total)
    for by in range(1, radius + 1):
        np.add(wide[:, radius + by : radius + by + height], wide[:, radius - by : radius - by + height], out=pair)
        pair *= weights[by]
        total += pair
    return total


# ----------------------------------------------------------------------------------------------------------- oversampling

_LEAST_SHARE = 1 / 1000  # of a record's pixels, that a class must have to count as there


def record_weights(records: Iterable[np.ndarray], classes: int, ignored: Sequence[int], most: float) -> np.ndarray:
    """How often to draw each record (label records, any shape), in proportion: 1 to `most`.

    Repeat factors, Gupta et al., arXiv 1908.03195: the largest, over the classes that are in the record, of sqrt(t / share of
    the class), 1 at least. The share is that among all labelled pixels, t an even share: 1 / classes that occur.
    """
    counts, there = [], []
    for labels in records:
        counts.append(count_record(labels, classes, ignored))
        there.append(counts[-1] >= max(1, _LEAST_SHARE * labels.size))
    pixels = np.sum(counts, 0)
    occurs = pixels > 0
    factors = np.ones(classes)
    factors[occurs] = np.clip(np.sqrt(pixels.sum() / occurs.sum() / pixels[occurs]), 1, most)
    return np.where(there, factors, 1).max(1)
