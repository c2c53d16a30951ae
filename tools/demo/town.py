"""Draws a made-up German town on a Scene: streets, blocks, houses, gardens, trees, cars."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from tools.demo.plan import Block, Street, Town, plan
from tools.demo.scene import CAR, CLUTTER, IMPERVIOUS, LOW_VEGETATION, PIXEL_METRES, TREE, Patch, Pose, Scene
from tools.demo.things import (
    GABLE_ROOFS,
    basin,
    containers,
    draw_car,
    draw_house,
    draw_shrub,
    draw_slab,
    flat_roof,
    gable_roof,
    grow,
    relief,
    rubble,
    tennis_court,
)

CROWN_METRES = [1.0, 1.4, 1.4, 1.9, 1.9, 2.5, 2.5, 3.2, 4.0, 4.9]  # radii
FAR_METRES = 1000.0  # from any street
KERB_METRES = 0.3


class Area(Patch):
    """A patch whose axes are the street coordinates: u0 <= u <= u1, v0 <= v <= v1, and a little around it."""

    def __init__(self, scene: Scene, town: Town, u0: float, u1: float, v0: float, v1: float):
        middle = town.pose((u0 + u1) / 2, (v0 + v1) / 2)
        radius = np.hypot(u1 - u0, v1 - v0) / 2 * 1.15 + 1  # the bends stretch a rectangle
        super().__init__(scene, *scene.around(middle, radius).window, middle)
        self.u, self.v, self.box = town.u[self.window], town.v[self.window], (u0, u1, v0, v1)

    @cached_property
    def inside(self) -> np.ndarray:
        """How far each cell lies within the rectangle (h, w), metres; negative outside."""
        u0, u1, v0, v1 = (float(b) for b in self.box)
        return np.minimum(np.minimum(self.u - u0, u1 - self.u), np.minimum(self.v - v0, v1 - self.v))


def draw_town(scene: Scene) -> Town:
    """Fill a scene with a town; everything comes from the scene's own random generator."""
    town = plan(scene.rng, scene.half_metres * np.sqrt(2))
    town.lay_out(scene)
    draw_ground(scene)
    draw_streets(scene, town)
    for block in town.blocks:
        draw_block(scene, town, block)
    leave_clutter(scene, town)
    plant_trees(scene, town)
    draw_cars(scene, town)
    return town


# ---------------------------------------------------------------------------------------- ground and streets


def draw_ground(scene: Scene) -> None:
    """Grass everywhere, to be built on."""
    patch = scene.everywhere()
    patch.paint(np.ones((scene.cells, scene.cells), bool), grass(patch), LOW_VEGETATION)


def grass(patch: Patch, tone: float = 1.0, dryness: float = 0.0) -> np.ndarray:
    """Lawn that shades into bare soil where it is dry."""
    dry = np.clip(0.22 + dryness + 0.24 * patch.noise("clumps") + 0.11 * patch.noise("fine"), 0, 1)
    return patch.surface("lawn", tone) * (1 - dry) + patch.surface("soil", tone * 0.95) * dry


def draw_streets(scene: Scene, town: Town) -> None:
    """Asphalt, kerbs and pavements of all streets at once, so that their corners run into each other."""
    rng, patch = scene.rng, scene.everywhere()
    asphalt, pavement = (np.full((scene.cells, scene.cells), FAR_METRES, np.float32) for _ in range(2))
    areas = [(street, area) for street in town.streets if not (area := street_area(scene, town, street)).empty]
    for street, area in areas:
        distance = street_distance(street, area.u, area.v)
        for edge, reach, corner in ((asphalt, street.width / 2, 4.0), (pavement, street.edge, 3.0)):
            edge[area.window] = blend_minimum(edge[area.window], distance - reach, corner)
    tone = rng.uniform(0.9, 1.12)
    patches = (1 + 0.05 * np.tanh(2 * patch.noise("clumps"))).astype(np.float32)
    patch.paint(pavement < 0, patch.surface("pavement", tone * rng.uniform(0.95, 1.15)), IMPERVIOUS)
    patch.paint(asphalt < 0, patch.surface("asphalt", tone) * patches, IMPERVIOUS)
    patch.paint(np.abs(asphalt) < KERB_METRES / 2, patch.surface("concrete"), IMPERVIOUS)
    for street, area in areas:
        draw_street_details(area, street, asphalt[area.window])


def street_area(scene: Scene, town: Town, street: Street) -> Area:
    """The part of the scene that a street may reach, its rounded corners included."""
    reach, ends = street.edge + 6, scene.half_metres * 1.5
    us, vs = (street.place - reach, street.place + reach), (max(street.start, -ends) - 6, min(street.stop, ends) + 6)
    return Area(scene, town, *us, *vs) if street.crossing else Area(scene, town, *vs, *us)


def street_distance(street: Street, u, v):
    """Metres from a street's middle line, growing beyond its ends."""
    if not street.crossing:
        return np.abs(v - street.place)
    return np.maximum(np.abs(u - street.place), np.maximum(street.start - v, v - street.stop))


def blend_minimum(a, b, radius: float):
    """The smaller of two distances, with the corner between them rounded by about `radius` metres."""
    overlap = np.maximum(radius - np.abs(a - b), 0)
    return np.minimum(a, b) - overlap**2 / (4 * radius)


def draw_street_details(area: Area, street: Street, edge) -> None:
    """Wheel tracks, repairs and, on main streets, lines. `edge` (h, w): metres outside the asphalt, negative on it."""
    rng, colour = area.scene.rng, area.scene.colour[(slice(None), *area.window)]
    distance, along = street_distance(street, area.u, area.v), area.v if street.crossing else area.u
    on = (edge < -0.3) & (distance < street.width / 2)
    tracks = 1 - 0.06 * np.exp(-(((distance - street.width / 4) / 0.5) ** 2))
    colour *= np.where(on, tracks, 1)
    for _ in range(5):
        start, length = rng.uniform(along.min(), along.max()), rng.uniform(2, 14)
        low, high = np.sort(rng.uniform(0, street.width / 2, 2))
        repair = on & (along > start) & (along < start + length) & (distance > low) & (distance < high)
        colour[:, repair] *= np.float32(rng.choice([0.78, 0.85, 1.12]))
    if street.main:
        worn = area.noise("fine") > -1.2
        dashes = (distance < 0.10) & (along % 7.0 < 3.0)
        sides = np.abs(distance - street.width / 2 + 0.35) < 0.07
        zebra = (np.abs((along + 9) % 71 - 2) < 1.6) & (distance % 1.0 < 0.5) & (distance < street.width / 2 - 0.4)
        area.paint(on & worn & (dashes | sides | zebra), area.surface("concrete", 1.3), IMPERVIOUS)


# ---------------------------------------------------------------------------------------------------- blocks


def draw_block(scene: Scene, town: Town, block: Block) -> None:
    """Build on a block, in a manner drawn from the town's mixture."""
    kinds = [draw_villas, draw_old_town, draw_apartments, draw_commerce, draw_park]
    if block.u0 < 0 < block.u1 and block.v0 < 0 < block.v1:
        kinds[1:] = [draw_villas] * 4  # the middle of a tile always has gardens, so all classes are there
    kinds[scene.rng.choice(len(kinds), p=town.mixture)](scene, town, block)


def sides(block: Block):
    """The two long sides of a block: v of the edge, direction inwards, and how deep a plot is there."""
    depth = (block.v1 - block.v0) / 2
    return [(block.v0, 1.0, depth), (block.v1, -1.0, depth)]


def draw_villas(scene: Scene, town: Town, block: Block) -> None:
    """Detached houses in gardens, along both long sides."""
    rng = scene.rng
    for edge, inward, depth in sides(block):
        u = block.u0
        setback, ridge_along = rng.uniform(2.5, 5.0), rng.random() < 0.6
        while block.u1 - u > 12:
            width = min(rng.uniform(12.5, 17.5), block.u1 - u)
            if block.u1 - u - width < 9:
                width = block.u1 - u
            draw_plot(scene, town, (u, u + width), edge, inward, depth, setback + rng.uniform(-0.6, 0.8), ridge_along)
            u += width


def draw_plot(scene, town, span, edge, inward, depth, setback, ridge_along) -> None:
    """One garden with a house, a drive with a garage, a terrace, hedges and beds."""
    rng = scene.rng
    u0, u1 = span
    v0, v1 = sorted((edge, edge + inward * depth))
    area = Area(scene, town, u0, u1, v0, v1)
    if area.empty:
        return
    dryness = float(rng.choice([-0.15, -0.1, 0.0, 0.3]))
    area.paint(area.inside > 0, grass(area, rng.uniform(0.8, 1.15), dryness), LOW_VEGETATION)
    length, width = min(rng.uniform(10, 15.5), u1 - u0 - 3.4), rng.uniform(9.5, 13)
    side = rng.choice([-1, 1])
    middle = (u0 + u1) / 2 + side * min(1.5, (u1 - u0 - length) / 2 - 0.6)
    house = town.pose(middle, edge + inward * (setback + width / 2), rng.normal(0, 0.02))
    draw_yard(scene, town, middle, side, edge, inward, setback, length, width, (u0, u1))
    for _ in range(rng.integers(1, 5)):
        draw_bed(scene, town, rng.uniform(u0, u1), edge + inward * rng.uniform(1, depth))
    if rng.random() < 0.65:
        draw_hedge(scene, town, (u0, u1), (v0, v1))
    draw_house(scene, house, length, width, ridge_along if rng.random() < 0.85 else not ridge_along)
    if rng.random() < 0.35:
        shed = town.pose(rng.uniform(u0 + 2, u1 - 2), edge + inward * (depth - rng.uniform(1.6, 3)))
        flat_roof(scene, shed, rng.uniform(2.5, 4), rng.uniform(2, 3), rng.uniform(2.2, 2.7), plain=True)


def draw_yard(scene, town, middle, side, edge, inward, setback, length, width, span) -> None:
    """The paved parts of a plot: path, drive with garage, terrace."""
    rng = scene.rng
    surface = rng.choice(["paving", "pavement", "concrete", "gravel"])
    drive_u = middle - side * (length / 2 + 1.6)
    drive_length = setback + rng.uniform(2, 7)
    if span[0] + 1.2 < drive_u < span[1] - 1.2:
        pave(scene, town, (drive_u - 1.6, drive_u + 1.6), edge, inward, (-0.3, drive_length + 6.2), surface)
        garage = town.pose(drive_u, edge + inward * (drive_length + 3), np.pi / 2)
        if rng.random() < 0.75:
            flat_roof(scene, garage, 6.0, 3.0, rng.uniform(2.5, 2.9), plain=True)
        town.slots.append((town.pose(drive_u, edge + inward * (drive_length - 2.7), np.pi / 2), 0.6))
    door = middle + rng.uniform(-3, 3)
    pave(scene, town, (door - 0.7, door + 0.7), edge, inward, (-0.3, setback + 0.5), surface)
    back = setback + width
    wide = rng.uniform(2, length / 2)
    pave(scene, town, (middle - wide, middle + wide), edge, inward, (back - 0.5, back + rng.uniform(1.5, 4)), surface)
    if rng.random() < 0.3:  # the whole front is paved
        pave(scene, town, (span[0] + 0.5, span[1] - 0.5), edge, inward, (-0.3, setback + 1), surface)


def pave(scene, town, span, edge, inward, depth, surface, tone=None) -> None:
    """Pave u in `span`, from `depth[0]` to `depth[1]` metres inwards of a block's edge."""
    v0, v1 = sorted((edge + inward * depth[0], edge + inward * depth[1]))
    area = Area(scene, town, *span, v0, v1)
    tone = scene.rng.uniform(0.8, 1.15) if tone is None else tone
    area.paint(area.inside + 0.12 * area.noise("middle") > 0, area.surface(surface, tone), IMPERVIOUS)


def draw_bed(scene: Scene, town: Town, u: float, v: float) -> None:
    """A flower or vegetable bed, or shrubs: low vegetation of any colour."""
    rng = scene.rng
    if rng.random() < 0.55:
        return draw_shrub(scene, *town.place(u, v), rng.uniform(0.6, 1.5))
    area = Area(scene, town, u - rng.uniform(1, 3), u + rng.uniform(1, 3), v - 1.2, v + 1.2)
    rows = 1 + 0.12 * np.sin(area.v * 2 * np.pi / 0.8)
    where = (area.inside + 0.4 * area.noise("middle") > 0) & (area_label(area) == LOW_VEGETATION)
    area.paint(where, area.surface("soil", rng.uniform(0.5, 1.0)) * rows.astype(np.float32), LOW_VEGETATION)


def area_label(patch: Patch) -> np.ndarray:
    """The classes that a patch shows now, (h, w)."""
    return patch.scene.label[patch.window]


def draw_hedge(scene: Scene, town: Town, us, vs) -> None:
    """A clipped hedge around a plot, broken by what is paved; it stays below 1.6 m and counts as low vegetation."""
    area = Area(scene, town, *us, *vs)
    wobble = 0.2 * area.noise("middle")
    hedge = (area.inside > 0.1) & (area.inside < 0.9 + wobble) & (area_label(area) == LOW_VEGETATION)
    height = np.float32(scene.rng.uniform(0.8, 1.4)) + 0.15 * area.noise("fine")
    tone = scene.rng.uniform(0.75, 1.1)
    bumps = tuple(np.clip(g, -1.0, 1.0) for g in relief(height, area.pose))
    area.paint(hedge, area.surface("leaves", tone), LOW_VEGETATION, np.maximum(height, 0.3), bumps)


def draw_old_town(scene: Scene, town: Town, block: Block) -> None:
    """Closed rows of tall narrow houses on the street, with yards behind."""
    rng = scene.rng
    span, depth = (block.u0 - 0.3, block.u1 + 0.3), (-0.3, block.v1 - block.v0 + 0.3)
    pave(scene, town, span, block.v0, 1.0, depth, rng.choice(["paving", "asphalt"]))
    for edge, inward, depth in sides(block):
        u = block.u0
        while block.u1 - u > 7:
            width = min(rng.uniform(8, 17), block.u1 - u)
            draw_row_house(scene, town, (u, u + width), edge, inward, depth)
            u += width


def draw_row_house(scene: Scene, town: Town, us, edge: float, inward: float, depth: float) -> None:
    """A house of 2 to 3 storeys that fills its plot's width, with a yard and perhaps a low building behind."""
    rng = scene.rng
    u, width, deep = sum(us) / 2, us[1] - us[0], min(rng.uniform(10, 15), depth - 2)
    draw_back_yard(scene, town, us, edge, inward, (deep, depth))
    if rng.random() < 0.55 and depth - deep > 5:
        size = rng.uniform(5, max(5.1, width)), rng.uniform(4, 6), rng.uniform(2.8, 5)
        flat_roof(scene, town.pose(u, edge + inward * (deep + 2.5)), *size, plain=True)
    town.slots.append((town.pose(u, edge + inward * (depth - 2), rng.choice([0, np.pi / 2])), 0.3))
    pose = town.pose(u, edge + inward * (deep / 2 + rng.choice([0.0, 0.0, 0.5])), rng.normal(0, 0.015))
    length = width - rng.choice([0.0, 0.0, 0.6, 2.5])  # most touch their neighbour
    if rng.random() < 0.35:  # gable to the street
        pose, length, deep = pose.moved(0, 0, np.pi / 2), deep, length
    pitch = np.radians(rng.uniform(34, 45 if deep < 11 else 38))
    eaves, surface, tone = rng.uniform(5.5, 9), rng.choice(GABLE_ROOFS), rng.uniform(0.85, 1.12)
    gable_roof(scene, pose, length, deep, eaves, pitch, surface, tone, hip=rng.random() < 0.08)


def draw_back_yard(scene: Scene, town: Town, us, edge: float, inward: float, depth) -> None:
    """Behind a house of the old town: grass, another paving, or the common yard as it is."""
    rng = scene.rng
    v0, v1 = sorted((edge + inward * depth[0], edge + inward * depth[1]))
    area = Area(scene, town, *us, v0, v1)
    where = area.inside + 0.25 * area.noise("middle") > 0.3
    kind = rng.random()
    if kind < 0.6:
        area.paint(where, grass(area, rng.uniform(0.8, 1.1), float(rng.choice([-0.1, 0.0, 0.2]))), LOW_VEGETATION)
    elif kind < 0.8:
        surface = rng.choice(["gravel", "paving", "concrete"])
        area.paint(where, area.surface(surface, rng.uniform(0.75, 1.1)), IMPERVIOUS)


def draw_apartments(scene: Scene, town: Town, block: Block) -> None:
    """Blocks of flats in lawns with a car park."""
    rng = scene.rng
    area = Area(scene, town, block.u0, block.u1, block.v0, block.v1)
    area.paint(area.inside > 0, grass(area, rng.uniform(0.85, 1.1)), LOW_VEGETATION)
    depth, u = block.v1 - block.v0, block.u0 + 3
    lot = rng.random() < 0.7
    if lot:
        car_park(scene, town, (block.u1 - 18, block.u1 - 1), (block.v0 - 0.3, block.v1 - 1))
    across = rng.random() < 0.5
    while u < block.u1 - (30 if lot else 14):
        length = min(rng.uniform(20, 32), depth - 5 if across else block.u1 - u - (20 if lot else 3))
        step = 12 if across else length
        for place in [0.5] if across else [0.22, 0.78]:
            pose = town.pose(u + step / 2, block.v0 + place * depth, np.pi / 2 if across else 0.0)
            draw_slab(scene, pose, length, rng.uniform(10.5, 12.5))
        pave(scene, town, (u - 2.6, u - 1.2), block.v0, 1.0, (0, depth), "paving")
        u += step + rng.uniform(8, 12)


def car_park(scene: Scene, town: Town, us, vs) -> None:
    """Asphalt with marked bays in rows, some of them taken."""
    rng = scene.rng
    area = Area(scene, town, *us, *vs)
    if area.empty:
        return
    surface = rng.choice(["asphalt", "dark asphalt", "paving"])
    area.paint(area.inside > 0, area.surface(surface, rng.uniform(0.9, 1.2)), IMPERVIOUS)
    for u in (us[0] + 2.7, us[1] - 2.7):
        lines = (np.abs(area.u - u) < 2.4) & ((area.v - vs[0]) % 2.6 < 0.12) & (area.inside > 0.3)
        area.paint(lines, area.surface("concrete", 1.2), IMPERVIOUS)
        for v in np.arange(vs[0] + 1.4, vs[1] - 1.2, 2.6):
            town.slots.append((town.pose(u, v, rng.choice([0, np.pi])), 0.6))
    for v in vs:
        if rng.random() < 0.7:
            town.tree_spots.append((*town.place((us[0] + us[1]) / 2 + rng.uniform(-4, 4), v), rng.uniform(2, 3.2)))


def draw_commerce(scene: Scene, town: Town, block: Block) -> None:
    """A big flat building with a yard and a car park."""
    rng = scene.rng
    depth = block.v1 - block.v0
    surface = rng.choice(["asphalt", "concrete", "dark asphalt"])
    pave(scene, town, (block.u0, block.u1), block.v0, 1.0, (0, depth * rng.uniform(0.6, 1.0)), surface)
    u = block.u0 + 2.5
    while block.u1 - u > 24:
        length = min(rng.uniform(24, 44), block.u1 - u - 3)
        deep = min(depth - 6, rng.uniform(22, 36))
        v = block.v0 + rng.uniform(2 + deep / 2, depth - 2 - deep / 2)
        height = rng.uniform(4.5, 9)
        pose = town.pose(u + length / 2, v)
        flat_roof(scene, pose, length, deep, height)
        if rng.random() < 0.6:
            flat_roof(scene, pose.moved(length * 0.2, deep * 0.1), length * 0.4, deep * 0.6, height + rng.uniform(2, 4))
        u += length + 3
        if block.u1 - u > 17:
            car_park(scene, town, (u, u + 16), (block.v0 + 2, block.v1 - 2))
            u += 18
    for v0 in (block.v0, block.v1 - 1.8):
        draw_green_strip(scene, town, (block.u0, block.u1), (v0, v0 + 1.8))
    if rng.random() < 0.8:
        containers(scene, town.pose(block.u1 - 7, block.v0 + rng.uniform(5, depth - 5), rng.uniform(-0.2, 0.2)))


def draw_green_strip(scene: Scene, town: Town, us, vs) -> None:
    """Grass along the street, with gaps to drive in."""
    rng = scene.rng
    area = Area(scene, town, *us, *vs)
    where = (area.inside + 0.15 * area.noise("middle") > 0) & (area.u % 31 > 6)
    area.paint(where, grass(area, rng.uniform(0.8, 1.1), 0.1), LOW_VEGETATION)


def draw_park(scene: Scene, town: Town, block: Block) -> None:
    """A green with paths, and a tennis court or a basin."""
    town.parks.append(block)
    rng = scene.rng
    area = Area(scene, town, block.u0, block.u1, block.v0, block.v1)
    area.paint(area.inside > 0, grass(area, rng.uniform(0.8, 1.1), float(rng.choice([0.0, 0.15]))), LOW_VEGETATION)
    middle = (block.v0 + block.v1) / 2
    swing = middle + 6 * np.sin(area.u / rng.uniform(7, 12))
    where = (np.abs(area.v - swing) < 1.2) & (area.inside > -0.3)
    area.paint(where, area.surface(rng.choice(["gravel", "paving"])), IMPERVIOUS)
    u = (block.u0 + block.u1) / 2
    pose = town.pose(u + rng.uniform(-8, 8), middle + rng.uniform(-5, 5))
    if rng.random() < 0.5:
        tennis_court(scene, pose)
    elif rng.random() < 0.6:
        basin(scene, pose, rng.uniform(8, 14), rng.uniform(5, 9))
    draw_slab(scene, town.pose(block.u0 + 11, block.v0 + 8), 16, 10)


# ----------------------------------------------------------------------------------------------------- what comes last


def leave_clutter(scene: Scene, town: Town) -> None:
    """Rubble heaps, containers and pools on free green places, until the tile has its share."""
    rng = scene.rng
    reach, goal = scene.size * PIXEL_METRES / 2, rng.uniform(0.005, 0.011)
    for _ in range(int(0.02 * (2 * reach) ** 2)):
        if scene.share(CLUTTER) > goal:
            break
        x, y = rng.uniform(-reach, reach, 2)
        patch = scene.around(Pose(x, y, 0), 2.2)
        if scene.at(scene.label, x, y) != LOW_VEGETATION or patch.empty or scene.height[patch.window].max() > 0.5:
            continue
        pose, kind = Pose(x, y, town.angle + rng.choice([0, np.pi / 2])), rng.integers(0, 3)
        if kind == 0:
            rubble(scene, pose, rng.uniform(2, 4))
        elif kind == 1:
            basin(scene, pose, rng.uniform(6, 9), rng.uniform(3.5, 5))
        else:
            containers(scene, pose)


def plant_trees(scene: Scene, town: Town) -> None:
    """Street trees, then trees in clumps on the green, until the tile has its share."""
    rng = scene.rng
    for street in town.streets:
        if rng.random() < 0.45:
            town.tree_spots += street_trees(scene, town, street)
    for x, y, radius in town.tree_spots:
        if scene.at(scene.height, x, y) < 2:
            grow(scene, x, y, radius)
    goal, reach = rng.uniform(0.17, 0.27), scene.half_metres
    attempts = int(0.09 * (2 * reach) ** 2)
    for attempt in range(attempts):
        if attempt % (attempts // 100 + 1) == 0 and scene.share(TREE) > goal:
            break
        x, y = rng.uniform(-reach, reach, 2)
        clumped = scene.at(scene.noise["clumps"], x, y) > rng.normal(-0.3, 0.8)
        if clumped and scene.at(scene.label, x, y) in (LOW_VEGETATION, TREE):
            grow(scene, x, y, float(rng.choice(CROWN_METRES)) * rng.uniform(0.85, 1.15))


def street_trees(scene: Scene, town: Town, street: Street):
    """Places (x, y) and radii of trees along one kerb."""
    rng = scene.rng
    reach = scene.half_metres * 1.42
    gap, side = rng.uniform(9, 15), rng.choice([-1, 1])
    start, stop = max(street.start + 6, -reach), min(street.stop - 6, reach)
    for along in np.arange(start, stop, gap):
        if rng.random() < 0.75:
            across = street.place + side * (street.edge - 0.3)
            u, v = (across, along) if street.crossing else (along, across)
            yield (*town.place(u, v), rng.uniform(1.7, 2.9))


def draw_cars(scene: Scene, town: Town) -> None:
    """Cars in drives, bays, along the kerb and moving, until the tile has its share."""
    rng = scene.rng
    slots = town.slots + [s for street in town.streets for s in kerb_slots(scene, town, street)]
    goal = rng.uniform(0.010, 0.015)
    for i, index in enumerate(rng.permutation(len(slots))):
        if i % (len(slots) // 60 + 1) == 0 and scene.share(CAR) > goal:
            break
        pose, chance = slots[index]
        if rng.random() < chance and max(abs(pose.x), abs(pose.y)) < scene.half_metres:
            draw_car(scene, pose.moved(rng.normal(0, 0.25), rng.normal(0, 0.1), rng.normal(0, 0.03)))


def kerb_slots(scene: Scene, town: Town, street: Street):
    """Places for cars on a street, most at the kerb and some in a lane, and how likely each is taken."""
    rng = scene.rng
    reach = scene.half_metres * 1.42
    start, stop = max(street.start + 9, -reach), min(street.stop - 9, reach)
    for along in np.arange(start, stop, 6.0):
        for side in (-1, 1):
            parked = rng.random() < 0.8
            across = street.place + side * (street.width / 2 - 1.05 if parked else street.width / 4)
            u, v = (across, along) if street.crossing else (along, across)
            turn = (np.pi / 2 if street.crossing else 0.0) + rng.choice([0, np.pi])
            yield town.pose(u, v, turn), 0.8 if parked else 0.4
