"""The things that stand in the made-up town, each drawn on a Scene: roofs, crowns, cars, courts, basins, rubble."""

from __future__ import annotations

import numpy as np

from tools.demo.scene import (
    BUILDING,
    CAR,
    CELL_METRES,
    CLUTTER,
    FOLIAGE_CELLS,
    IMPERVIOUS,
    LOW_VEGETATION,
    MOSS,
    TREE,
    Outline,
    Pose,
    Scene,
    flat,
)

GABLE_ROOFS = ["yellow tiles", "yellow tiles", "red tiles", "red tiles", "brown tiles", "old tiles", "slate"]
# The spectra of the ground, on purpose: only height, shadows and surroundings tell a flat roof from a road.
FLAT_ROOFS = ["asphalt", "dark asphalt", "concrete", "gravel", "gravel", "paving"]
CAR_PAINTS = [  # reflectance in infrared, red, green; greys are by far the most common
    (0.75, 0.75, 0.74), (0.72, 0.73, 0.72), (0.48, 0.48, 0.49), (0.45, 0.46, 0.47),
    (0.30, 0.30, 0.31), (0.22, 0.22, 0.23), (0.07, 0.07, 0.08), (0.05, 0.05, 0.05),
    (0.20, 0.06, 0.10), (0.58, 0.47, 0.09), (0.15, 0.10, 0.28), (0.40, 0.13, 0.24),
    (0.70, 0.70, 0.69), (0.38, 0.38, 0.39), (0.10, 0.10, 0.11), (0.16, 0.16, 0.17),
]  # fmt: skip
GLASS = (0.05, 0.06, 0.08)


# ------------------------------------------------------------------------------------------- buildings


def draw_house(scene: Scene, pose: Pose, length: float, width: float, ridge_along: bool) -> None:
    """A house of 1 to 2 storeys, sometimes with a wing."""
    rng = scene.rng
    if not ridge_along:
        pose, length, width = pose.moved(0, 0, np.pi / 2), width, length
    eaves, surface, tone = rng.uniform(3.2, 6.2), rng.choice(GABLE_ROOFS), rng.uniform(0.85, 1.12)
    if rng.random() < 0.1:
        return flat_roof(scene, pose, length, width, eaves)
    pitch = np.radians(rng.uniform(27, 42))
    gable_roof(scene, pose, length, width, eaves, pitch, surface, tone, hip=rng.random() < 0.2)
    if rng.random() < 0.3:
        wing = pose.moved(rng.uniform(-0.2, 0.2) * length, rng.choice([-1, 1]) * width * 0.35, np.pi / 2)
        gable_roof(scene, wing, width * 0.75, length * 0.4, eaves - 0.2, pitch, surface, tone)


def gable_roof(scene, pose, length, width, eaves, pitch, surface, tone=1.0, hip=False) -> None:
    """A roof of two slopes (four if hipped) with its ridge along the pose; eaves in metres, pitch in radians."""
    scene.roofs.append(Outline(pose, length, width))
    patch = scene.around(pose, np.hypot(length, width) / 2)
    if patch.empty:
        return
    rise = np.float32(np.tan(pitch))
    from_eaves, from_gable = width / 2 - np.abs(patch.across), length / 2 - np.abs(patch.along)
    inside = (from_eaves > 0) & (from_gable > 0)
    ends = from_gable < from_eaves if hip else np.zeros_like(inside)
    climb = np.where(ends, from_gable, from_eaves)
    slope = (-np.sign(patch.along) * rise * ends, -np.sign(patch.across) * rise * ~ends)
    colour = patch.surface(surface, tone) * tile_courses(scene, climb)
    colour *= np.where(climb < 0.3, 0.72, 1) * np.where(np.abs(patch.across) < 0.18, 1.12, 1)  # gutter, ridge
    patch.paint(inside, colour.astype(np.float32), BUILDING, (eaves + climb * rise).astype(np.float32), slope)
    draw_roof_details(scene, pose, length, width, eaves, rise, surface)


def tile_courses(scene: Scene, climb) -> np.ndarray:
    """Brightness of the rows of tiles, by metres above the eaves."""
    rows = scene.rng.normal(1, 0.05, 64).astype(np.float32)
    return rows[np.clip(climb / 0.35, 0, 63).astype(int)]


def draw_roof_details(scene, pose, length, width, eaves, rise, surface) -> None:
    """Chimneys, roof windows, dormers, sometimes solar panels."""
    rng = scene.rng
    for _ in range(rng.integers(1, 3)):
        along, across = rng.uniform(-0.35, 0.35) * length, rng.uniform(-0.12, 0.12) * width
        top = eaves + rise * (width / 2 - abs(across)) + rng.uniform(0.6, 1.2)
        box(scene, pose.moved(along, across), 0.8, 0.7, top, flat(0.33, 0.27, 0.24), BUILDING)
    kind = rng.random()
    side = rng.choice([-1, 1])
    if kind < 0.35:
        for along in np.arange(-length / 2 + 2, length / 2 - 1.5, rng.uniform(2.2, 3.5)):
            roof_panel(scene, pose, along, side * width * 0.25, 0.8, 1.2, eaves, rise, width, GLASS)
    elif kind < 0.55:
        for along in np.arange(-length / 2 + 2.2, length / 2 - 2, rng.uniform(3.2, 4.5)):
            dormer = pose.moved(along, side * width * 0.3, np.pi / 2)
            gable_dormer(scene, dormer, eaves + rise * width * 0.2 + 0.8, surface)
    elif kind < 0.68:
        wide, deep = length * rng.uniform(0.3, 0.8), width * rng.uniform(0.2, 0.32)
        roof_panel(scene, pose, 0, side * width * 0.25, wide, deep, eaves, rise, width, (0.10, 0.10, 0.14))


def roof_panel(scene, pose, along, across, wide, deep, eaves, rise, width, colour) -> None:
    """A window or solar panel lying in a roof's slope."""
    patch = scene.around(pose.moved(along, across), wide + deep)
    inside = (np.abs(patch.along) < wide / 2) & (np.abs(patch.across) < deep / 2)
    height = eaves + rise * (width / 2 - np.abs(patch.across + across)) + 0.1
    patch.paint(inside, flat(*colour), BUILDING, height, (0.0, -np.sign(across) * rise * 0.8))


def gable_dormer(scene, pose, top, surface) -> None:
    """A small gable across a roof's slope; `top`: height of its eaves in metres."""
    patch = scene.around(pose, 2.2)
    inside = (np.abs(patch.along) < 1.5) & (np.abs(patch.across) < 0.9)
    slope = (0.0, -np.sign(patch.across) * 0.6)
    height = top + 0.6 * (0.9 - np.abs(patch.across))
    patch.paint(inside, patch.surface(surface, 0.95), BUILDING, height, slope)


def draw_slab(scene: Scene, pose: Pose, length: float, width: float) -> None:
    """A block of flats of 3 to 4 storeys."""
    rng = scene.rng
    height = rng.uniform(8, 12)
    if rng.random() < 0.5:
        flat_roof(scene, pose, length, width, height + 1.5)
    else:
        surface = rng.choice(GABLE_ROOFS)
        gable_roof(scene, pose, length, width, height, np.radians(rng.uniform(24, 32)), surface, hip=rng.random() < 0.4)


def flat_roof(scene, pose, length, width, height, plain=False) -> None:
    """A flat roof: the spectra of asphalt, concrete and gravel, so only height and context tell it from the ground."""
    scene.roofs.append(Outline(pose, length, width))
    rng = scene.rng
    patch = scene.around(pose, np.hypot(length, width) / 2)
    if patch.empty:
        return
    edge = np.minimum(length / 2 - np.abs(patch.along), width / 2 - np.abs(patch.across))
    surface, tone = rng.choice(FLAT_ROOFS), rng.uniform(0.85, 1.15)
    colour = patch.surface(surface, tone)
    if surface == "gravel" or rng.random() < 0.2:
        moss = np.clip(0.7 * patch.noise("clumps") + 0.3 * patch.noise("fine") - 0.3, 0, 0.8)
        colour = colour * (1 - moss) + MOSS * moss
    colour = colour * (1 - 0.12 * ((patch.along % 3.1 < 0.15) & (not plain)))  # seams of the sheets
    patch.paint(edge > 0, colour, BUILDING, height)
    rim = (edge > 0) & (edge < (0.2 if plain else 0.35))
    patch.paint(rim, patch.surface(rng.choice(["concrete", "slate"])), BUILDING, height + (0.05 if plain else 0.4))
    if not plain:
        draw_roof_units(scene, pose, length, width, height)


def draw_roof_units(scene, pose, length, width, height) -> None:
    """Skylights, air conditioning, lift heads."""
    rng = scene.rng
    for _ in range(int(length * width / 45)):
        there = pose.moved(rng.uniform(-0.4, 0.4) * length, rng.uniform(-0.38, 0.38) * width)
        colour = flat(*[rng.choice([0.15, 0.4, 0.6])] * 3)
        size = rng.uniform(0.8, 2.6), rng.uniform(0.8, 1.8), height + rng.uniform(0.3, 1.4)
        box(scene, there, *size, colour, BUILDING)


def box(scene, pose, length, width, height, colour, label, slope=None) -> None:
    """A block with a level top; `colour` (3, 1, 1) or the name of a surface."""
    patch = scene.around(pose, np.hypot(length, width) / 2)
    inside = (np.abs(patch.along) < length / 2) & (np.abs(patch.across) < width / 2)
    colour = patch.surface(colour) if isinstance(colour, str) else colour
    patch.paint(inside, colour, label, height, slope)


# ---------------------------------------------------------------------------------------------- plants


def grow(scene: Scene, x: float, y: float, radius: float) -> None:
    """A tree, now and then a conifer, as high as its crown is wide or a little less."""
    rng = scene.rng
    conifer = rng.random() < 0.12
    top = float(np.clip(radius * rng.uniform(1.7, 2.6) + (3 if conifer else 1.5), 3, 16))
    crown(scene, x, y, radius * (0.75 if conifer else 1), top, "needles" if conifer else "leaves")


def crown(scene, x, y, radius, top, surface, label=TREE) -> None:
    """A lopsided dome of puffs, `top` metres high; its own relief shades it, the gaps between puffs stay dark."""
    rng = scene.rng
    patch = scene.around(Pose(x, y, 0.0), radius * 1.35)
    shape = patch.along.shape
    if min(shape) < 3:
        return
    row, col = rng.integers(0, FOLIAGE_CELLS - np.array(shape))
    puffs = scene.foliage[row : row + shape[0], col : col + shape[1]]
    reach = np.hypot(patch.along, patch.across) / (radius * lopsided(rng, np.arctan2(patch.across, patch.along)))
    where = reach < 0.78 + 0.32 * puffs
    low = max(top - 1.3 * radius, 0.25 * top)
    dome = np.sqrt(np.maximum(1.1 - reach**2, 0))
    height = low + (top - low) * (0.72 * dome + 0.28 * puffs * np.minimum(2 * dome, 1))
    height = (height + 0.06 * patch.noise("fine") + 0.03 * patch.noise("grain")).astype(np.float32)
    slope = tuple(np.clip(g, -1.1, 1.1) for g in relief(height, patch.pose))
    tint = np.array([rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.3), rng.uniform(0.9, 1.2)], np.float32)
    colour = patch.surface(surface, rng.uniform(0.85, 1.15)) * tint[:, None, None] * (0.6 + 0.5 * puffs)
    patch.paint(where, colour, label, height, slope)


def lopsided(rng: np.random.Generator, angle) -> np.ndarray:
    """Relative radius of an irregular outline, at each angle."""
    outline = np.ones_like(angle)
    for turns, most in ((1, 0.08), (2, 0.14), (3, 0.10), (5, 0.05)):
        outline += np.float32(rng.uniform(0, most)) * np.cos(turns * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    return outline


def draw_shrub(scene: Scene, x: float, y: float, radius: float) -> None:
    """A tree in small, too low to be one."""
    crown(scene, x, y, radius, radius * 1.1, "leaves", LOW_VEGETATION)


def relief(height: np.ndarray, pose: Pose):
    """Slope of a height field along and across a pose, rise per metre."""
    if min(height.shape) < 2:
        return np.zeros_like(height), np.zeros_like(height)
    south, east = np.gradient(height, CELL_METRES)
    cos, sin = float(np.cos(pose.angle)), float(np.sin(pose.angle))
    return east * cos + south * sin, south * cos - east * sin


# ------------------------------------------------------------------------------------ cars and clutter


def draw_car(scene: Scene, pose: Pose) -> None:
    """A car of about 4.5 x 1.8 m; bonnet at the positive end, dark windscreens, a lighter roof."""
    rng = scene.rng
    van = rng.random() < 0.1
    length, width, top = (5.3, 2.0, 2.2) if van else (rng.uniform(3.9, 4.8), rng.uniform(1.7, 1.85), 1.45)
    patch = scene.around(pose, 3.2)
    if patch.empty or scene.at(scene.label, pose.x, pose.y) != IMPERVIOUS:
        return
    a, b = patch.along / (length / 2), patch.across / (width / 2)
    body = np.abs(a) ** 6 + np.abs(b) ** 5 < 1
    paint = flat(*CAR_PAINTS[0 if van else rng.integers(len(CAR_PAINTS))]) * np.float32(rng.uniform(0.85, 1.1))
    shade = np.where(np.abs(b) > 0.8, 0.8, 1.0).astype(np.float32)  # sides fall away
    patch.paint(body, paint * shade, CAR, 0.8)
    cabin = body & (a < (0.75 if van else 0.35)) & (a > -0.85) & (np.abs(b) < 0.86)
    glass = cabin & ((a > (0.5 if van else 0.02)) | (a < -0.6) | (np.abs(b) > 0.74))
    patch.paint(cabin, paint * 1.05, CAR, top)
    patch.paint(glass, flat(*GLASS), CAR, top)


def tennis_court(scene: Scene, pose: Pose) -> None:
    """A clay court with its lines."""
    patch = scene.around(pose, 20)
    a, b = np.abs(patch.along), np.abs(patch.across)
    patch.paint((a < 16) & (b < 8), patch.surface("clay"), CLUTTER)
    lines = (np.abs(a - 11.9) < 0.08) | (np.abs(b - 5.5) < 0.08) | (np.abs(b - 4.1) < 0.08) | (np.abs(a - 6.4) < 0.08)
    patch.paint(lines & (a < 12) & (b < 5.6), flat(0.6, 0.6, 0.6), CLUTTER)


def basin(scene: Scene, pose: Pose, length: float, width: float) -> None:
    """Water in an oval concrete rim."""
    scene.basins.append(Outline(pose, length, width))
    patch = scene.around(pose, np.hypot(length, width) / 2 + 2)
    reach = np.hypot(patch.along / (length / 2), patch.across / (width / 2)) + 0.04 * patch.noise("middle")
    patch.paint(reach < 1.15, patch.surface("concrete"), IMPERVIOUS)
    patch.paint(reach < 1.0, patch.surface("water"), CLUTTER)


def containers(scene: Scene, pose: Pose) -> None:
    """A few freight containers side by side."""
    rng = scene.rng
    for i in range(rng.integers(2, 5)):
        colour = flat(*(rng.uniform(0.15, 0.5) * rng.uniform(0.75, 1.25, 3)))
        there = pose.moved(rng.uniform(-0.6, 0.6), 2.8 * (i - 1), rng.normal(0, 0.06))
        box(scene, there, 6.0, 2.45, 2.6, colour, CLUTTER)


def rubble(scene: Scene, pose: Pose, radius: float) -> None:
    """A heap of rubble, at most `radius` metres to each side."""
    patch = scene.around(pose, radius * 1.5)
    cone = 0.45 * (radius - np.hypot(patch.along, patch.across))
    height = np.maximum(cone + 0.25 * patch.noise("middle"), 0)
    where = height > 0.25
    patch.paint(where, patch.surface("rubble"), CLUTTER, height, tuple(np.clip(g, -1, 1) for g in relief(height, pose)))
