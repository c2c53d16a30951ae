"""The drawing board of the made-up town: a fine grid to paint on, what surfaces look like, and the camera above it.

Lengths are metres. `x` runs east, `y` runs SOUTH (as image rows do), (0, 0) is the middle of the tile. Colours are
reflectances in the bands infrared, red, green.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft, ndimage

PIXEL_METRES = 0.25  # a pixel of the finished tile
FINER = 2  # the board has this many cells per pixel and direction, so that edges come out smooth
CELL_METRES = PIXEL_METRES / FINER
MARGIN_PIXELS = 80  # drawn around the tile, so that shadows and crowns also come in from outside

IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE, CAR, CLUTTER = range(6)

SUN_AZIMUTH_DEGREES = 142.0  # from north over east: late morning, shadows fall to the north-west
SUN_ELEVATION_DEGREES = 49.0
SKY_LIGHT = np.array([0.12, 0.16, 0.19], np.float32)  # of full light, what a shadow still gets: the sky is blue
EXPOSURE = np.array([1.07, 1.0, 1.0])[:, None, None]  # the infrared channel is set a little brighter
TALLEST_METRES = 18.0  # nothing is higher, so shadows need not be followed further

# Reflectance in (infrared, red, green), then how strongly fine / middle / broad noise changes it.
SURFACES = {
    "asphalt": ((0.300, 0.270, 0.265), (0.05, 0.05, 0.08)),
    "dark asphalt": ((0.225, 0.210, 0.210), (0.06, 0.05, 0.07)),
    "concrete": ((0.43, 0.395, 0.38), (0.04, 0.06, 0.08)),
    "gravel": ((0.34, 0.30, 0.29), (0.10, 0.07, 0.10)),
    "paving": ((0.365, 0.315, 0.30), (0.08, 0.06, 0.08)),
    "pavement": ((0.345, 0.310, 0.305), (0.06, 0.05, 0.06)),
    "soil": ((0.37, 0.27, 0.24), (0.09, 0.10, 0.10)),
    "lawn": ((0.54, 0.145, 0.160), (0.13, 0.13, 0.13)),
    "leaves": ((0.70, 0.130, 0.152), (0.12, 0.06, 0.06)),
    "needles": ((0.46, 0.110, 0.130), (0.12, 0.06, 0.06)),
    "yellow tiles": ((0.56, 0.48, 0.33), (0.09, 0.08, 0.08)),
    "red tiles": ((0.46, 0.36, 0.25), (0.09, 0.08, 0.08)),
    "brown tiles": ((0.37, 0.29, 0.24), (0.09, 0.08, 0.08)),
    "old tiles": ((0.31, 0.26, 0.23), (0.09, 0.08, 0.08)),
    "slate": ((0.25, 0.24, 0.25), (0.05, 0.05, 0.06)),
    "water": ((0.03, 0.07, 0.10), (0.03, 0.05, 0.10)),
    "clay": ((0.44, 0.36, 0.20), (0.03, 0.04, 0.05)),
    "rubble": ((0.40, 0.35, 0.32), (0.25, 0.20, 0.10)),
}
MOSS = np.array([0.42, 0.20, 0.19], np.float32)[:, None, None]


@dataclass(frozen=True)
class Pose:
    """A place (x, y in metres) and a direction (radians, from east towards south)."""

    x: float
    y: float
    angle: float

    def moved(self, along: float, across: float, turn: float = 0.0) -> Pose:
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y = self.x + along * cos - across * sin, self.y + along * sin + across * cos
        return Pose(x, y, self.angle + turn)


@dataclass(frozen=True)
class Outline:
    """The rectangle that a thing stands on: its middle and direction, and metres along and across it."""

    pose: Pose
    length: float
    width: float


class Scene:
    """Everything that is known of the town, cell by cell; painting keeps whatever is higher.

    colour (3, n, n) reflectance; height (n, n) metres above ground; slope (2, n, n) rise per metre towards
    east and south; label (n, n) class ids. roofs, basins: what was drawn, for a map of the town.
    """

    def __init__(self, size: int, rng: np.random.Generator):
        n = (size + 2 * MARGIN_PIXELS) * FINER
        self.cells, self.size, self.rng = n, size, rng
        self.colour = np.zeros((3, n, n), np.float32)
        self.height = np.zeros((n, n), np.float32)
        self.slope = np.zeros((2, n, n), np.float32)
        self.label = np.full((n, n), LOW_VEGETATION, np.uint8)
        self.noise = {name: fractal_noise(rng, n, power) for name, power in NOISE_POWERS.items()}
        self.foliage = foliage_texture(rng)
        self.roofs: list[Outline] = []
        self.basins: list[Outline] = []

    @property
    def half_metres(self) -> float:
        return self.cells * CELL_METRES / 2

    def everywhere(self) -> Patch:
        return Patch(self, slice(0, self.cells), slice(0, self.cells), Pose(0.0, 0.0, 0.0))

    def around(self, pose: Pose, radius: float) -> Patch:
        """The square within `radius` metres of a pose, cut at the border (it may be empty)."""
        spans = []
        for middle in (pose.y, pose.x):
            cell = (middle + self.half_metres) / CELL_METRES
            reach = radius / CELL_METRES + 2
            start, stop = (int(np.clip(c, 0, self.cells)) for c in (cell - reach, cell + reach))
            spans.append(slice(start, stop))
        return Patch(self, *spans, pose)

    def at(self, field: np.ndarray, x: float, y: float):
        """The value of one of the fields at a place (the nearest cell's, the border's outside)."""
        row, col = (int(np.clip((p + self.half_metres) / CELL_METRES, 0, self.cells - 1)) for p in (y, x))
        return field[row, col]

    def inside_tile(self, field: np.ndarray) -> np.ndarray:
        """The part of a field (..., n, n) that the finished tile shows."""
        inner = slice(MARGIN_PIXELS * FINER, self.cells - MARGIN_PIXELS * FINER)
        return field[..., inner, inner]

    def share(self, label: int) -> float:
        return float(np.mean(self.inside_tile(self.label) == label))


class Patch:
    """A window of the scene with its own axes: `along` and `across` the pose's direction, in metres."""

    def __init__(self, scene: Scene, rows: slice, cols: slice, pose: Pose):
        self.scene, self.window, self.pose = scene, (rows, cols), pose

    @property
    def empty(self) -> bool:
        return any(span.stop <= span.start for span in self.window)

    @cached_property
    def along(self) -> np.ndarray:
        x, y = self.from_pose
        return np.float32(np.cos(self.pose.angle)) * x + np.float32(np.sin(self.pose.angle)) * y

    @cached_property
    def across(self) -> np.ndarray:
        x, y = self.from_pose
        return np.float32(np.cos(self.pose.angle)) * y - np.float32(np.sin(self.pose.angle)) * x

    @property
    def from_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """x (1, w) and y (h, 1) of the cells, metres from the pose."""
        rows, cols = (np.arange(span.start, span.stop, dtype=np.float32) + 0.5 for span in self.window)
        corner = self.scene.half_metres
        return cols[None] * CELL_METRES - (corner + self.pose.x), rows[:, None] * CELL_METRES - (corner + self.pose.y)

    def noise(self, name: str) -> np.ndarray:
        return self.scene.noise[name][self.window]

    def surface(self, name: str, tone: float = 1.0) -> np.ndarray:
        """(3, h, w) reflectance of a surface with its texture; `tone` makes this one lighter or darker."""
        spectrum, amounts = SURFACES[name]
        texture = sum(a * self.noise(n) for a, n in zip(amounts, ("fine", "middle", "broad"), strict=True))
        return np.array(spectrum, np.float32)[:, None, None] * (np.float32(tone) * np.maximum(1 + texture, 0.2))

    def paint(self, where, colour, label=None, height=0.0, slope=None) -> None:
        """Paint the cells of `where` that nothing higher covers. `slope`: (along, across), rise per metre."""
        rows, cols = self.window
        seen = where & (height >= self.scene.height[rows, cols])
        view = self.scene.colour[:, rows, cols]
        view[:, seen] = np.broadcast_to(np.asarray(colour, np.float32), view.shape)[:, seen]
        self.scene.height[rows, cols][seen] = np.broadcast_to(height, seen.shape)[seen]
        self._tilt(seen, slope)
        if label is not None:
            self.scene.label[rows, cols][seen] = label

    def _tilt(self, seen, slope) -> None:
        rows, cols = self.window
        along, across = (0.0, 0.0) if slope is None else slope
        cos, sin = float(np.cos(self.pose.angle)), float(np.sin(self.pose.angle))
        for axis, rise in enumerate((along * cos - across * sin, along * sin + across * cos)):
            self.scene.slope[axis][rows, cols][seen] = np.broadcast_to(rise, seen.shape)[seen]


def flat(*spectrum: float) -> np.ndarray:
    """One plain colour, ready for `paint`."""
    return np.array(spectrum, np.float32)[:, None, None]


NOISE_POWERS = {"fine": 0.5, "middle": 1.15, "broad": 1.9, "grain": 0.0, "clumps": 1.5}


def fractal_noise(rng: np.random.Generator, n: int, power: float) -> np.ndarray:
    """(n, n) noise of mean 0 and deviation 1 whose amplitude falls with frequency to the given power."""
    m = fft.next_fast_len(n + 40, real=True)
    spectrum = fft.rfft2(rng.standard_normal((m, m), dtype=np.float32))
    frequency = np.hypot(fft.fftfreq(m)[:, None], fft.rfftfreq(m)[None, :])
    frequency[0, 0] = np.inf
    # Below one turn in about 40 m the spectrum is level: no single blob may colour the whole tile.
    scale = np.maximum(frequency, CELL_METRES / 40) ** -power
    field = fft.irfft2((spectrum * scale).astype(np.complex64), s=(m, m))[:n, :n]
    return ((field - field.mean()) / field.std()).astype(np.float32)


FOLIAGE_CELLS = 400  # 50 m of foliage, of which each crown takes another piece
PUFF_METRES = (1.5, 0.75)  # spacing of the large and of the small puffs that a crown is made of


def foliage_texture(rng: np.random.Generator) -> np.ndarray:
    """(FOLIAGE_CELLS, FOLIAGE_CELLS) in 0..1: round puffs of leaves, 1 on their tops, 0 in the gaps between them."""
    texture = np.zeros((FOLIAGE_CELLS, FOLIAGE_CELLS), np.float32)
    for spacing, weight in zip(PUFF_METRES, (0.6, 0.4), strict=True):
        middles = np.ones(texture.shape, bool)
        number = int((FOLIAGE_CELLS * CELL_METRES / spacing) ** 2)
        middles[tuple(rng.integers(0, FOLIAGE_CELLS, (2, number)))] = False
        away = ndimage.distance_transform_edt(middles) * CELL_METRES / (0.75 * spacing)
        texture += np.float32(weight) * np.sqrt(np.maximum(1 - away**2, 0))
    return texture


def sun_vector() -> np.ndarray:
    """Unit vector towards the sun: east, south, up."""
    azimuth, elevation = np.radians([SUN_AZIMUTH_DEGREES, SUN_ELEVATION_DEGREES])
    return np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])


def sunlit(surface: np.ndarray) -> np.ndarray:
    """(n, n) part of the sun that reaches each cell: rays are marched over the surface (n, n, metres)."""
    east, south, up = sun_vector()
    flat_length = np.hypot(east, south)
    drop = CELL_METRES * up / flat_length  # metres a ray falls per cell
    horizon = np.full_like(surface, -np.inf)
    for step in range(1, int(TALLEST_METRES / drop) + 1):
        dy, dx = round(step * south / flat_length), round(step * east / flat_length)
        here = horizon[: -dy or None, : -dx or None]
        np.maximum(here, surface[dy:, dx:] - np.float32(step * drop), out=here)
    return np.clip(1 - (horizon - surface - 0.08) / 0.25, 0, 1)  # a soft edge: the sun is not a point


def light(scene: Scene, terrain: np.ndarray) -> np.ndarray:
    """(3, n, n) light on each cell; 1 is level ground in the sun."""
    east, south, up = map(float, sun_vector())
    along_east, along_south = scene.slope
    facing = (up - along_east * east - along_south * south) / np.sqrt(1 + along_east**2 + along_south**2)
    sun = np.maximum(facing / up, 0) * sunlit(scene.height + terrain)
    openness = 1 / (1 + 0.25 * np.hypot(along_east, along_south))  # steep cells see less sky
    return sun * (1 - SKY_LIGHT[:, None, None]) + SKY_LIGHT[:, None, None] * openness


def halved(field: np.ndarray) -> np.ndarray:
    """Mean over the FINER x FINER cells of each pixel: (..., n, n) -> (..., n / FINER, n / FINER)."""
    *lead, n, m = field.shape
    return field.reshape(*lead, n // FINER, FINER, m // FINER, FINER).mean(axis=(-3, -1))


def photograph(scene: Scene, terrain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3, size, size) uint8: what the camera saw, with this flight line's exposure, haze, blur and noise."""
    bands = halved(scene.inside_tile(scene.colour * light(scene, terrain)))
    blur = rng.uniform(0.35, 0.6)  # pixels
    bands = np.stack([ndimage.gaussian_filter(b, blur) for b in bands])
    gain = 255 * rng.uniform(1.06, 1.24) * rng.uniform(0.97, 1.03, (3, 1, 1)) * EXPOSURE
    haze = rng.uniform(23, 31) + rng.uniform(-2, 2, (3, 1, 1)) + np.array([-2.0, 4.0, 3.0])[:, None, None]
    veil = 2 * halved(scene.inside_tile(scene.noise["broad"]))
    numbers = 280 * np.tanh(bands * gain / 280) + haze + veil  # a shoulder, so that white roofs keep some structure
    numbers += rng.normal(0, 1.6, numbers.shape) * np.sqrt(numbers / 80).clip(0.6, 2)
    return np.clip(np.rint(numbers), 0, 255).astype(np.uint8)
