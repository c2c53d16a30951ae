"""What a config's tiles hold: files, sizes, places and classes, and what extraction or training would refuse of them."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools.base.errors import UserError, listing
from tools.base.folders import read_details
from tools.data.dataset import SPLITS, TileId
from tools.data.settings import DataSettings, PatchSettings
from tools.geo.raster import Raster
from tools.labels.settings import ClassSettings
from tools.settings import Settings


@dataclass
class Page:
    """What is to be said: lines, notes, and faults, each of which ends the extraction or the training."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def say(self, subject: str, text: str) -> None:
        """Add a line."""
        self.lines.append((subject, text))

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """What is refused within this block becomes one of the faults."""
        try:
            yield
        except UserError as error:
            self.faults.append(str(error))

    def __str__(self) -> str:
        rows = [f"{subject:<10}{text}" for subject, text in self.lines]
        rows += [f"{'note':<10}{text.removeprefix('note: ')}" for text in self.notes]
        return "\n".join(rows + [f"{'FAULT':<10}{text}" for text in self.faults])


# ----------------------------------------------------------------------------------------------------------------- the tiles


def look_at_tiles(page: Page, settings: Settings) -> dict[str, list[Raster]] | None:
    """Read all tiles to the last pixel; their headers by split, or None where something is wrong with them."""
    data, classes = settings.data, settings.classes
    dataset, modalities, tiles = data.dataset, data.with_labels, data.all_ids
    about = None
    with page.collecting():
        about = dataset.check(modalities, tiles, classes.colours)
    if about is not None:
        _say_tiles(page, data, about)
    if dataset.found:
        wanted = [(m, split) for split in SPLITS for _ in data.ids(split) for m in modalities]
        labels = {split: np.zeros(256, np.int64) for split in SPLITS}
        for (modality, split), content in zip(wanted, dataset.found, strict=True):
            if modality == "labels":
                labels[split] += content.labels
        _say_classes(page, classes, labels, data)
        page.notes += dataset.notes(classes.colours)
    return about and {split: [about[tile] for tile in data.ids(split)] for split in SPLITS}


def _say_tiles(page: Page, data: DataSettings, about: Mapping[TileId, Raster]) -> None:
    """How many tiles there are, how large, and where; about: their headers."""
    counts = ", ".join(f"{len(data.ids(split))} {split}" for split in SPLITS)
    page.say("tiles", f"{counts}: all files of {listing(data.with_labels)} are there, whole, and fit each other")
    first = about[data.train_ids[0]]
    sizes = sorted(((a.height, a.width) for a in about.values()), key=lambda size: size[0] * size[1])
    most = f" to {sizes[-1][0]}x{sizes[-1][1]}" if sizes[-1] != sizes[0] else ""
    place = f"{sum(a.is_placed for a in about.values())} of {len(about)} with a place on Earth"
    page.say("images", f"{first.bands} band(s) of {first.dtype}, {sizes[0][0]}x{sizes[0][1]}{most} pixels, {place}")


def _say_classes(page: Page, classes: ClassSettings, labels: dict[str, np.ndarray], data: DataSettings) -> None:
    """A table of shares by split; what is missing in training."""
    names, own = classes.label_values, {split: labels[split] for split in SPLITS if data.ids(split)}
    width = max(map(len, [*names, "not scored"]))
    page.say("classes", f"{'share of the pixels':{width + 4}}" + "".join(f"{split:>9}" for split in own))
    for label, name in enumerate(names):
        shares = "".join(f"{count[label] / max(1, count.sum()):9.2%}" for count in own.values())
        page.say("", f"{label:2}  {name:{width}}{shares}" + ("  ignored" if label in classes.ignored else ""))
    rest = {split: count[len(names) :].sum() / max(1, count.sum()) for split, count in own.items()}
    if any(rest.values()):
        page.say("", f"    {'not scored':{width}}" + "".join(f"{share:9.2%}" for share in rest.values()))
    trained = labels["train"]
    if not trained[classes.scored].any():
        page.faults.append("no training tile has a pixel of a class that counts: look at the labels and at IGNORE_LABEL.")
    elif missing := [names[label] for label in classes.scored if not trained[label]]:
        page.notes.append(f"training has no pixel of {listing(missing)}: no map will show it; move a tile that has it there.")


# --------------------------------------------------------------------------------------------------------- patches and disk


def count_patches(page: Page, patches: PatchSettings, tiles: dict[str, list[Raster]], data: DataSettings) -> dict[str, int]:
    """How many patches there will be, or are in the database already."""
    lmdb = data.folder("lmdb")
    if lmdb.exists():
        with page.collecting():
            counts = {split: about["patches"] for split, about in read_details(lmdb)["splits"].items()}
            page.say("patches", f"{_counted(counts)} in {lmdb}")
            return counts
    cuttings = {split: patches.cutting(split) for split in SPLITS}
    counts = {split: sum(cuttings[split].count(a.height, a.width) for a in tiles[split]) for split in SPLITS}
    height, width = patches.patch_size
    todo = "create_db.py" if data.folder("patches").exists() else "extract_images.py and create_db.py"
    page.say("patches", f"{_counted(counts)} of {height}x{width} pixels, to be made by {todo}")
    return counts


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in counts.items())


def patches_to_write(data: DataSettings, patches: PatchSettings, counts: dict[str, int], pixel_bytes: int) -> int:
    """Bytes, at most, that the patches and databases take that are still to be made. pixel_bytes: of all modalities."""
    todo = sum(not data.folder(kind).exists() for kind in ("patches", "lmdb"))
    return todo * sum(counts.values()) * patches.patch_size[0] * patches.patch_size[1] * pixel_bytes


def say_disk(page: Page, base: Path, patches: int, snapshots: int) -> None:
    """What will be written, in bytes, beside what is free; too little is a fault."""
    there = next(folder for folder in [base.resolve(), *base.resolve().parents] if folder.exists())
    free = shutil.disk_usage(there).free
    page.say("disk", f"{in_words(patches)} of patches and databases at most, {in_words(snapshots)} of snapshots; "
                     f"{in_words(free)} are free at {there}")  # fmt: skip
    if patches + snapshots > free:
        page.faults.append(
            f"the disk at {there} has {in_words(free)} free, {in_words(patches + snapshots)} are needed: free some, set"
            " BASE_DIR to another disk, a larger step_size, or KEEP_SNAPSHOTS."
        )


def in_words(size: float) -> str:
    """Bytes as people say them: 1.5 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def pixel_bytes(types: Sequence[tuple[int, str]]) -> int:
    """Bytes of a pixel of all modalities, (bands, pixel type) each, and of its label."""
    return sum(bands * np.dtype(dtype).itemsize for bands, dtype in types) + 1
