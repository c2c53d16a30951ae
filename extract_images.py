"""Makes patches from the config's tiles by a sliding window: one folder per modality and split (irrg_train/, labels_val/ ...).

    python extract_images.py
    python extract_images.py --overwrite --config my_config.py

Training and validation tiles are cut patch_size by step_size, test tiles without overlap. Training patches are also turned
(ROTATIONS) and mirrored (FLIPS). The folder appears under its name when all patches are in it, with a details.json.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tools import commands, raster
from tools.dataset import Dataset, TileId, tile_name
from tools.errors import run
from tools.folders import refuse_existing, whole_folder, write_details
from tools.palette import Palette
from tools.patches import Cutting, patch_suffix, write_patch
from tools.settings import SPLITS, Settings, read_settings
from tools.statistics import Moments


def main():
    args = arguments()
    settings = read_settings(args.config)
    out = settings.folder("patches")
    refuse_existing(out, args.overwrite)
    dataset = Dataset(settings.DATASET_DIR, settings.folders)
    tiles = {split: list(getattr(settings, f"{split}_ids")) for split in SPLITS}
    palette = Palette(settings.label_values, settings.palette)
    about = dataset.check([*settings.modalities, "labels"], [t for split in SPLITS for t in tiles[split]], palette)
    cuttings = {split: cutting(settings, split) for split in SPLITS}
    counts = {s: sum(cuttings[s].count(about[t].height, about[t].width) for t in tiles[s]) for s in SPLITS}
    with whole_folder(out, args.overwrite) as folder:
        moments = extract(settings, dataset, tiles, cuttings, folder)
        write_details(folder, **details(settings, dataset, tiles, counts, moments))
    print(f"{', '.join(f'{n} {split}' for split, n in counts.items())} patches in {out}")


def arguments():
    parser = commands.parser(__doc__)
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args()


def cutting(settings: Settings, split: str) -> Cutting:
    """How the tiles of a split are cut."""
    size, step = tuple(settings.patch_size), tuple(settings.step_size)
    if split == "train":
        return Cutting(size, step, tuple(settings.ROTATIONS), tuple(settings.FLIPS))
    return Cutting(size, size if split == "test" else step)


def extract(settings: Settings, dataset: Dataset, tiles: dict, cuttings: dict, folder: Path) -> dict[str, Moments]:
    """Cut all tiles, on all cores; the moments of the training tiles by modality come back."""
    jobs = [(modality, split, t) for split in SPLITS for t in tiles[split] for modality in [*settings.modalities, "labels"]]
    for modality, split, _ in jobs:
        (folder / f"{modality}_{split}").mkdir(exist_ok=True)
    work = partial(cut_tile, dataset, cuttings, folder)
    moments: dict[str, Moments] = {}
    with ProcessPoolExecutor() as pool:
        results = tqdm(pool.map(work, jobs), "extracting", len(jobs), unit="tile")
        for (modality, split, _), found in zip(jobs, results, strict=True):
            if split == "train" and modality != "labels":
                moments[modality] = moments[modality] + found if modality in moments else found
    return moments


def cut_tile(dataset: Dataset, cuttings: dict, folder: Path, job: tuple[str, str, TileId]) -> Moments | None:
    """Write the patches of one modality of one tile; its moments come back, for labels None."""
    modality, split, tile = job
    path = dataset.path(modality, tile)
    pixels = raster.read_labels(path)[None] if modality == "labels" else raster.read(path)
    suffix = patch_suffix(len(pixels), pixels.dtype.name)
    for name, patch in cuttings[split].patches(pixels):
        write_patch(folder / f"{modality}_{split}" / f"{tile_name(tile)}_{name}{suffix}", patch)
    return Moments.of(pixels) if modality != "labels" else None


def details(settings: Settings, dataset: Dataset, tiles: dict, counts: dict, moments: dict[str, Moments]) -> dict:
    """What create_db.py and the curious need to know of the patches."""
    first = {m: raster.inspect(dataset.path(m, tiles["train"][0])) for m in settings.modalities}
    return {
        "made by": "extract_images.py",
        "dataset": settings.DATASET,
        "modalities": {
            m: {"bands": r.bands, "dtype": r.dtype, "mean": moments[m].mean, "deviation": moments[m].deviation}
            for m, r in first.items()
        },
        "patch_size": settings.patch_size,
        "step_size": settings.step_size,
        "rotations": settings.ROTATIONS,
        "flips": settings.FLIPS,
        "classes": settings.label_values,
        "palette": settings.palette,
        "splits": {s: {"tiles": list(map(tile_name, tiles[s])), "patches": counts[s]} for s in SPLITS},
        "files": {m: settings.folders[m] for m in [*settings.modalities, "labels"]},
    }


if __name__ == "__main__":
    run(main)
