"""The classes in each zone of an area of interest: pixels and square metres, tile by tile, and of all tiles together."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.base.folders import whole_file
from tools.geo.area import PlacedArea
from tools.geo.windows import Window


class ZoneStatistics:
    """Added up piece by piece. area: on the map's pixels. names: of the classes. areas: square metres of a pixel by row."""

    def __init__(self, area: PlacedArea, names: Sequence[str], areas: np.ndarray | None):
        self.area, self.names, self.areas = area, list(names), areas
        self.pixels = np.zeros((len(area.zones), len(names)), np.int64)
        self.square_metres = np.zeros((len(area.zones), len(names)))

    def add(self, window: Window, labels: np.ndarray) -> None:
        """Add the labels (h x w) of a window of the map; what is no class does not count. Zones may overlap."""
        classes = len(self.names)
        for zone, inside in self.area.by_zone(window):
            rows, cols = np.nonzero(inside & (labels < classes))
            found = labels[rows, cols]
            self.pixels[zone] += np.bincount(found, minlength=classes)
            if self.areas is not None:
                self.square_metres[zone] += np.bincount(found, self.areas[window.row + rows], classes)

    def to_list(self) -> list[dict[str, Any]]:
        """For the tile's record: the zones that have any pixel."""
        known = self.areas is not None
        return [
            {
                "number": int(zone), "zone": self.area.names[zone], "pixels": self.pixels[zone].tolist(),
                "area_m2": self.square_metres[zone].tolist() if known else None,
            }
            for zone in np.flatnonzero(self.pixels.any(1))
        ]  # fmt: skip


def together(tiles: Iterable[Sequence[Mapping[str, Any]]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The zones of several tiles as one list, in their order; the area is known where it is known of all of them."""
    sums: dict[int, dict[str, Any]] = {}
    for zone in (zone for zones in tiles for zone in zones):
        areas = None if zone["area_m2"] is None else np.array(zone["area_m2"])
        if zone["number"] not in sums:
            sums[zone["number"]] = {"zone": zone["zone"], "pixels": np.array(zone["pixels"]), "area_m2": areas}
            continue
        before = sums[zone["number"]]
        known = areas is not None and before["area_m2"] is not None
        before["pixels"] = before["pixels"] + zone["pixels"]
        before["area_m2"] = before["area_m2"] + areas if known else None
    return [
        {
            "number": number, "zone": found["zone"],
            "pixels": dict(zip(classes, found["pixels"].tolist(), strict=True)),
            "area_m2": None if found["area_m2"] is None else dict(zip(classes, found["area_m2"].tolist(), strict=True)),
        }
        for number, found in sorted(sums.items())
    ]  # fmt: skip


def write_csv(path: Path, zones: Sequence[Mapping[str, Any]]) -> None:
    """A row for each zone: its number in the file, its name, and the square metres (or pixels) of each class."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    known = all(zone["area_m2"] is not None for zone in zones)
    unit, kind = ("m2", "area_m2") if known else ("pixels", "pixels")
    classes = list(zones[0]["pixels"]) if zones else []
    rows.writerow(["number", "zone", f"all {unit}", *(f"{name} {unit}" for name in classes)])
    for zone in zones:
        values = [round(value, 2) for value in zone[kind].values()]
        rows.writerow([zone["number"], zone["zone"], round(sum(zone[kind].values()), 2), *values])
    with whole_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def as_text(zones: Sequence[Mapping[str, Any]], most: int = 20) -> str:
    """For the terminal: the zones, and what each holds most of."""
    lines = []
    for zone in zones[:most]:
        values, unit = (zone["area_m2"], " m2") if zone["area_m2"] else (zone["pixels"], " px")
        parts = sorted(((v, name) for name, v in values.items() if v), reverse=True)[:3]
        lines.append(f"{zone['zone']}: " + ", ".join(f"{name} {value:,.0f}{unit}" for value, name in parts))
    more = [f"(+{len(zones) - most} more in zones.csv)"] if len(zones) > most else []
    return "\n".join(lines + more)
