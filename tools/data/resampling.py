"""Patches at another size: images bilinear, without mixing in what is no data; labels by nearest neighbour."""

import numpy as np
from PIL import Image


def nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (... x h x w) at another size (height, width): each takes the value of the pixel that its middle lies in."""
    rows, cols = ((np.arange(n) + 0.5) * have // n for n, have in zip(size, pixels.shape[-2:], strict=True))
    return np.ascontiguousarray(pixels[..., rows.astype(int)[:, None], cols.astype(int)])


def resample(pixels: np.ndarray, valid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (bands x h x w) at another size (height, width), bilinear, averaging where it shrinks; the pixel type stays.

    Only `valid` pixels (h x w, bool) count: beside a gap the others share its weight, and where no valid pixel is in reach,
    the nearest pixel's value stands. An image of that size already comes back as it is.
    """
    if pixels.shape[1:] == tuple(size):
        return pixels
    weights = _bilinear(valid, size)
    sums = np.stack([_bilinear(np.where(valid, band, 0), size) for band in pixels])
    reached = weights > 1e-6
    values = np.where(reached, sums / np.where(reached, weights, 1), nearest(pixels, size))
    return (np.rint(values) if pixels.dtype.kind in "iu" else values).astype(pixels.dtype)


def _bilinear(band: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By Pillow, whose filter widens with the factor by which a picture shrinks."""
    picture = Image.fromarray(band.astype(np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))
