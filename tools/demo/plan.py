"""The plan of the made-up town: bent streets and the blocks between them, in street coordinates (u, v) in metres."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tools.demo.scene import Pose, Scene

BLOCK_MIXTURE = [0.48, 0.27, 0.15, 0.06, 0.04]  # villas, old town, apartments, commerce, park


@dataclass(frozen=True)
class Street:
    """A line of constant v (or of constant u, from v `start` to `stop`), with its paved width in metres."""

    place: float
    width: float
    pavement: float
    start: float = -np.inf
    stop: float = np.inf
    crossing: bool = False  # runs along v
    main: bool = False

    @property
    def edge(self) -> float:
        return self.width / 2 + self.pavement


@dataclass(frozen=True)
class Block:
    """What lies between streets: u0 <= u <= u1, v0 <= v <= v1, in metres, without the pavements."""

    u0: float
    u1: float
    v0: float
    v1: float


@dataclass
class Town:
    """Bent street coordinates (u, v) in metres, and what stands along them.

    u, v: of each cell of the scene, once `lay_out` was called.
    """

    angle: float
    bends: np.ndarray  # (2, 3): metres, radians per metre, phase; for u and for v
    mixture: np.ndarray  # how likely each kind of block is
    streets: list[Street] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    slots: list[tuple[Pose, float]] = field(default_factory=list)  # where cars may stand, and how likely
    tree_spots: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, radius in metres
    parks: list[Block] = field(default_factory=list)

    u: np.ndarray | None = None
    v: np.ndarray | None = None

    def lay_out(self, scene: Scene) -> None:
        """Work out the street coordinates of a scene's cells."""
        self.u, self.v = self.coordinates(*scene.everywhere().from_pose)

    def coordinates(self, x, y):
        """(u, v) of places (x, y)."""
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))  # plain, so that arrays stay float32
        along, across = x * cos + y * sin, y * cos - x * sin
        return along + self._bend(0, across), across + self._bend(1, along)

    def _bend(self, axis: int, distance):
        size, turn, phase = (float(b) for b in self.bends[axis])
        return size * np.sin(turn * distance + phase)

    def place(self, u: float, v: float) -> tuple[float, float]:
        """(x, y) of street coordinates: `coordinates` solved by repeated substitution (the bends are slight)."""
        along, across = u, v
        for _ in range(12):
            along, across = u - self._bend(0, across), v - self._bend(1, along)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return along * cos - across * sin, along * sin + across * cos

    def pose(self, u: float, v: float, turn: float = 0.0) -> Pose:
        """The place (u, v), facing along the street (increasing u), plus `turn` radians."""
        x, y = self.place(u, v)
        (x0, y0), (x1, y1) = self.place(u - 0.5, v), self.place(u + 0.5, v)
        return Pose(x, y, float(np.arctan2(y1 - y0, x1 - x0)) + turn)


def plan(rng: np.random.Generator, reach: float) -> Town:
    """Streets and blocks out to `reach` metres from the middle."""
    bends = [(rng.uniform(2, 7), 2 * np.pi / rng.uniform(130, 220), rng.uniform(0, 2 * np.pi)) for _ in range(2)]
    town = Town(rng.uniform(-np.pi / 2, np.pi / 2), np.array(bends), rng.dirichlet(np.array(BLOCK_MIXTURE) * 18))
    main = rng.integers(0, 3)
    lines = [Street(v, *street_widths(rng, i == main), main=i == main) for i, v in enumerate(spread(rng, reach, 46, 66, 14))]
    town.streets += lines
    for low, high in pairwise(lines):
        cross = [
            Street(u, *street_widths(rng, False), start=low.place, stop=high.place, crossing=True)
            for u in spread(rng, reach, 62, 110, 40)
        ]
        town.streets += cross
        v0, v1 = low.place + low.edge, high.place - high.edge
        town.blocks += [Block(a.place + a.edge, b.place - b.edge, v0, v1) for a, b in pairwise(cross)]
    return town


def street_widths(rng: np.random.Generator, main: bool) -> tuple[float, float]:
    """(carriageway, pavement) in metres."""
    return (rng.uniform(6.5, 8.0), rng.uniform(1.4, 2.0)) if main else (rng.uniform(4.4, 5.6), rng.uniform(0.7, 1.3))


def spread(rng: np.random.Generator, reach: float, least: float, most: float, first: float) -> list[float]:
    """Places from -reach to reach, `least` to `most` apart, one of them within `first` of 0."""
    places = [rng.uniform(-first, first)]
    while places[-1] < reach:
        places.append(places[-1] + rng.uniform(least, most))
    while places[0] > -reach:
        places.insert(0, places[0] - rng.uniform(least, most))
    return places
