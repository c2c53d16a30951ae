"""Packs the folders of patches into LMDBs of Caffe Datum records, one for each folder, shuffled alike.

    python create_db.py
    python create_db.py --overwrite --config my_config.py

The databases appear under their name when all of them are whole, with a details.json and, for each split, a list of the
patches in the order of their keys. A patch of which no pixel is scored (no label, or an ignored class) is left out and
counted.
"""

import tools  # noqa: F401 (first of all: Ctrl-C while the others load is one word)

# isort: split
import argparse
import hashlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tools.base import commands
from tools.base.errors import UserError, run
from tools.base.folders import refuse_existing, require, whole_folder, write_details
from tools.data import sources
from tools.data.database import Database, name_tag, pack, pair, shuffled
from tools.data.dataset import SPLITS, tile_name
from tools.data.patches import patch_files, read_about, read_patch
from tools.settings import Settings, read_settings

MADE_BY = "create_db.py"


def main():
    args = arguments()
    pack_databases(read_settings(args.config, args.set), args)


def pack_databases(settings: Settings, args: argparse.Namespace) -> None:
    """Make the databases of all patches, as the config and the command line (what `arguments` gives) say."""
    patches, out = settings.data.folder("patches"), settings.data.folder("lmdb")
    refuse_existing(out, args.overwrite, MADE_BY, [patches, args.config])
    details = check_patches(settings, patches)
    modalities = settings.data.with_labels
    splits = [split for split in SPLITS if details["splits"][split]["patches"]]
    paired = {split: pair([patches / f"{m}_{split}" for m in modalities]) for split in splits}
    names = {split: scored(settings, patches / f"labels_{split}", paired[split]) for split in splits}
    left_out = {split: len(paired[split]) - len(names[split]) for split in splits}
    for split in splits:
        details["splits"][split] |= {"patches": len(names[split]), "without labels": left_out[split]}
    with whole_folder(out, args.overwrite, MADE_BY) as folder:
        for split in splits:
            found = pack_split(settings, patches, folder, split, shuffled(names[split], settings.data.SEED))
            details["splits"][split]["fingerprint"] = found
        write_details(folder, **details, **{"made by": MADE_BY, "bgr": settings.data.BGR, "seed": settings.data.SEED})
    for split in splits:
        if left_out[split]:
            print(f"note: {left_out[split]} of {len(paired[split])} {split} patches have no scored pixel and were left out.")
    print(f"{', '.join(f'{len(names[s])} {s}' for s in splits)} records of {', '.join(modalities)} in {out}")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = commands.parser(__doc__)
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args(argv)


def check_patches(settings: Settings, patches: Path) -> dict:
    """The details of the patches, once they are what the config asks for."""
    if not patches.exists():
        raise UserError(f"{patches} does not exist: make it with extract_images.py.")
    details, cut, data = read_about(patches), settings.patches, settings.data
    require(
        details | {"train_ids": details["splits"]["train"]["tiles"]}, patches, "extract_images.py",
        dataset=data.DATASET, patch_size=list(cut.patch_size),
        step_size=None if details.get("grid") else list(cut.step),  # the cells of a grid have no step
        rotations=list(cut.rotations), flips=list(cut.flips), classes=list(settings.classes.label_values),
        train_ids=list(map(tile_name, data.train_ids)),
    )  # fmt: skip
    missing = [m for m in data.modalities if m not in details["modalities"]]
    if missing:
        raise UserError(f"{patches} has no patches of {', '.join(missing)}: extract them with extract_images.py --overwrite.")
    sources.check(details.get("sources"), data, settings.classes, patches)
    for note in sources.notes(details.get("sources"), data, patches):
        print(f"warning: {note}", file=sys.stderr)
    return {name: value for name, value in details.items() if name not in ("made", "made by", "contents")}


def scored(settings: Settings, folder: Path, names: list[str]) -> list[str]:
    """The names whose label patch has a pixel that gives a loss. Raises UserError where none has."""
    counts = settings.classes.scored
    files = patch_files(folder)

    def any_scored(name: str) -> bool:
        return bool(np.isin(read_patch(files[name]), counts).any())

    with ThreadPoolExecutor() as pool:
        kept = [name for name, good in zip(names, pool.map(any_scored, names), strict=True) if good]
    if not kept:
        raise UserError(
            f"none of the {len(names)} patches in {folder} has a pixel that is scored: check the labels and IGNORE_LABEL"
            f" ({settings.classes.IGNORE_LABEL})."
        )
    return kept


def pack_split(settings: Settings, patches: Path, folder: Path, split: str, names: list[str]) -> str:
    """Pack all modalities of one split in one order, then read them back to verify that each key pairs one patch.

    The fingerprint of all that they hold comes back.
    """
    modalities = settings.data.with_labels
    for modality in modalities:
        files = patch_files(patches / f"{modality}_{split}")
        pack(folder / f"{modality}_{split}", [files[name] for name in names], settings.data.BGR, f"packing {modality}_{split}")
    (folder / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return verify([Database(folder / f"{modality}_{split}") for modality in modalities], names)


def verify(databases: list[Database], names: list[str]) -> str:
    """Raise UserError unless record i of each database is patch names[i]; a hash of names and pixels comes back."""
    fingerprint = hashlib.sha256("\n".join(names).encode())
    for database in databases:
        tags = []
        for pixels, tag in database:
            tags.append(tag)
            fingerprint.update(pixels)
        if tags != [name_tag(name) for name in names]:
            raise UserError(f"{database.folder} does not pair with the others: the disk may be failing; make it again.")
    return fingerprint.hexdigest()[:16]


if __name__ == "__main__":
    run(main)
