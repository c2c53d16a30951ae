"""Trains recipes side by side on datasets of a few labelled tiles, with the scripts that users run, and prints test scores.

    python -m benchmarks.few_tiles --dubai data/dubai --vaihingen data/vaihingen_small --demo data/demo
    python -m benchmarks.few_tiles --dubai data/dubai --recipes modern --seeds 1 2 3
    python -m benchmarks.few_tiles --dubai data/dubai --recipes modern --images 5 15 45
    python -m benchmarks.few_tiles --vaihingen data/vaihingen_small --recipes modern --split val    # to choose a recipe by
    python -m benchmarks.few_tiles --demo-osm data/demo --recipes modern fusenet --seeds 1 2 3      # what a map adds to IRRG

Each folder holds images and coloured ground truth as they were delivered; what is made of them goes below --out. Runs that are
there already are read, not repeated. The table has mean and spread over the seeds; a run's minutes are those of `training.py`,
validation included. The weights that label are those that users get: the best by the validation tiles where there are some,
else the newest. --curve draws the validation scores against minutes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine

ISPRS = {"classes": ["impervious surfaces", "building", "low vegetation", "tree", "car", "clutter"], "ignored": 5}
ISPRS_COLOURS = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (0, 0, 0)]


@dataclass(frozen=True)
class Tiles:
    """A dataset: files below its folder, classes with their colours (the last one is not scored), and its splits."""

    image: str
    truth: str
    label: str
    modality: str
    classes: list[str]
    colours: list[tuple[int, int, int]]
    splits: tuple[list, list, list]
    ignored: int | None = None
    second: str | None = None  # a further modality that the net reads
    files: dict[str, str] | None = None  # of the second modality, and of what it is made of
    made_by: tuple[str, ...] = ()  # the command that makes it, {} stands for the dataset's folder


DATASETS = {
    "dubai": Tiles(
        "images/tile{}_{:03d}.jpg", "masks", "tile{}_{:03d}.png", "rgb", ["building", "land", "road", "vegetation", "water"],
        [(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41), (155, 155, 155)],
        tuple([(t, part) for t in tiles for part in range(1, 10)] for tiles in (range(1, 6), [6], [7])),
    ),
    "vaihingen": Tiles(
        "top/top_mosaic_09cm_area{}.tif", "gts_for_participants", "top_mosaic_09cm_area{}.tif", "irrg",
        ISPRS["classes"], ISPRS_COLOURS, ([1, 2, 3, 4, 5, 6], [7], [10, 11, 12]), ISPRS["ignored"],
    ),
    "demo": Tiles(
        "top/top_mosaic_09cm_area{}.tif", "gts_for_participants", "top_mosaic_09cm_area{}.tif", "irrg",
        ISPRS["classes"], ISPRS_COLOURS, ([1, 3, 5, 7, 11, 13], [15], [32, 34]), ISPRS["ignored"],
    ),
}  # fmt: skip
HEIGHTS = {
    "dsm": "dsm/dsm_09cm_matching_area{}.tif",
    "ndsm": "ndsm/dsm_09cm_matching_area{}_normalized.jpg",
    "composite": "composite/composite_{}.tif",
}
MAP = {"osm": "osm/osm_{}.tif"}
BY_OSM = ("tools.osm", "{}/map/osm.geojson", "--form", "distance")
DATASETS["demo_heights"] = replace(DATASETS["demo"], second="composite", files=HEIGHTS, made_by=("tools.composite",))
DATASETS["demo_osm"] = replace(DATASETS["demo"], second="osm", files=MAP, made_by=BY_OSM)

RECIPES: dict[str, dict[str, Any]] = {  # what a config of the recipe says beside its data
    "modern": {"RECIPE": "modern"},
    "modern_plain": {"RECIPE": "modern", "NET_OPTIONS": {}},  # however few the pixels are, not the finer net
    "deeplabv3plus/vgg16": {
        "RECIPE": "modern", "NET": "deeplabv3plus/vgg16", "INIT_MODEL": "vgg16", "BASE_LR": 5e-4, "BATCH_SIZE": 4,
        "test_patch_size": (256, 256),
    },
    "segnet": {"RECIPE": "original", "NET": "segnet", "INIT_MODEL": "vgg16", "LR_POLICY": {"name": "fixed"}},
    "segnet_slim": {"RECIPE": "original", "NET": "segnet_slim", "BASE_LR": 0.05, "LR_POLICY": {"name": "fixed"}},
    "fusenet": {
        "RECIPE": "original", "NET": "fusenet", "NET_OPTIONS": {"planes": (16, 32, 64, 64, 64)}, "BASE_LR": 0.05,
        "LR_POLICY": {"name": "fixed"},
    },
}  # fmt: skip
TWO_INPUTS = ["fusenet"]  # the others read the second modality as further bands of the first input
ITERATIONS = {  # by dataset and recipe; about as many minutes
    "dubai": {"modern": 500, "modern_plain": 500, "deeplabv3plus/vgg16": 400, "segnet": 400, "segnet_slim": 2500},
    "vaihingen": {"modern": 400, "modern_plain": 400, "deeplabv3plus/vgg16": 400, "segnet": 500, "segnet_slim": 1500},
    "demo": {"modern": 800, "modern_plain": 800, "deeplabv3plus/vgg16": 400, "segnet": 500, "segnet_slim": 1500},
}
ITERATIONS |= {name: ITERATIONS["demo"] | {"fusenet": 1500} for name in ("demo_heights", "demo_osm")}


@dataclass(frozen=True)
class Run:
    """One training and what came of it."""

    dataset: str
    recipe: str
    images: int
    seed: int
    minutes: float
    cpu_minutes: float
    megabytes: float
    accuracy: float
    iou: float
    f1: dict[str, float]
    curve: list[tuple[float, float]]  # minutes, validation mean IoU


def main() -> None:
    args = arguments()
    runs = []
    for dataset in DATASETS:
        if source := getattr(args, dataset):
            make_labels(dataset, source, args.out)
            for recipe in args.recipes:
                for count in args.images or [len(DATASETS[dataset].splits[0])]:
                    runs += [one_run(args, dataset, source, recipe, count, seed) for seed in args.seeds]
                    print(f"\n{machine()}\n\n{table(runs)}\n", flush=True)
    if args.curve:
        draw(runs, args.curve)


def make_labels(dataset: str, source: Path, out: Path) -> None:
    """Label arrays from the coloured ground truth; colours that no class has are not scored."""
    target = out / dataset / "labels"
    if not target.exists():
        config = out / dataset / "config_labels.py"
        write_config(config, dataset, source, {}, DATASETS[dataset].splits[0], "test")
        masks = sorted(str(path) for path in (source / DATASETS[dataset].truth).iterdir())
        script("convert_gt.py", *masks, "--from-color", "--unknown", "ignore", "--out", target, "--config", config)
        second = DATASETS[dataset].second
        if second and not (source / second).exists():
            script("-m", *(word.format(source) for word in DATASETS[dataset].made_by), "--config", config)


def one_run(args: argparse.Namespace, dataset: str, source: Path, recipe: str, count: int, seed: int) -> Run:
    """Train and score once; a run that is there already is read."""
    iterations = args.niter or ITERATIONS[dataset][recipe]
    name, base = f"{recipe.replace('/', '_')}_{count}images", args.out / dataset
    folder = base / f"{name}_{iterations}_seed{seed}_{args.split}"
    done = folder / "run.json"
    if not done.exists():
        train_ids = DATASETS[dataset].splits[0]
        few = train_ids[:: len(train_ids) // count][:count]  # spread over the tiles
        settings = RECIPES[recipe] | {"SEED": seed, "FOLDER_SUFFIX": f"_{name}_{args.split}"}
        settings |= {
            "SNAPSHOT_EVERY": iterations,
            "VAL_EVERY": max(1, iterations // args.validations) if args.split == "test" else None,
        }
        config = base / f"config_{folder.name}.py"
        write_config(config, dataset, source, settings, few, args.split, recipe in TWO_INPUTS)
        if not (base / f"{dataset}_lmdb_{name}_{args.split}").exists():
            script("extract_images.py", "--config", config, "--overwrite")
            script("create_db.py", "--config", config, "--overwrite")
        spent = script("training.py", "--niter", iterations, "--config", config, "--snapshot", folder, "--overwrite")
        script("inference.py", "--config", config, "--weights", folder, "--dir", folder / "maps", "--overwrite")
        done.write_text(json.dumps(spent))
    return Run(dataset, recipe, count, seed, *json.loads(done.read_text()), *scores_of(folder))


def write_config(
    path: Path, dataset: str, source: Path, settings: dict, train_ids: list, split: str, two: bool = False
) -> None:
    """A config file of its own for the scripts, in the folder where all that is made of the dataset lies.

    two: whether the second modality is an input of its own.
    """
    tiles, base = DATASETS[dataset], path.parent.resolve()
    _, val_ids, test_ids = tiles.splits
    if split == "val":  # what is chosen by validation tiles has not seen the test tiles, not even by chance
        val_ids, test_ids = [], val_ids
    files = {tiles.modality: tiles.image, "labels": f"{base}/labels/{tiles.label}"} | (tiles.files or {})
    read = [tiles.modality, *([tiles.second] if tiles.second else [])]
    inputs = {name: [name] for name in read} if two else {tiles.modality: read}
    own = {
        "DATASET": dataset, "BASE_DIR": f"{base}/", "DATASET_DIR": f"{source.resolve()}/", "folders": files,
        "INPUTS": inputs, "MEAN_PIXEL": dict.fromkeys(read), "label_values": tiles.classes,
        "palette": dict(enumerate(tiles.colours)), "IGNORE_LABEL": tiles.ignored,
        "train_ids": train_ids, "val_ids": val_ids, "test_ids": test_ids,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in (own | settings).items()))


def script(*words) -> tuple[float, float, float]:
    """Run one of the scripts; minutes, minutes of processor time, and the most memory of any of them so far (MB)."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, *map(str, words)], check=True, env=environment, stdout=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (time.perf_counter() - start) / 60, cpu / 60, after.ru_maxrss / 1024


def scores_of(folder: Path) -> tuple[float, float, dict[str, float], list[tuple[float, float]]]:
    """Accuracy, mean IoU without ignored classes and F1 by class of the test tiles in per cent, and the validation curve."""
    found = json.loads((folder / "maps" / "scores.json").read_text())["labels"]["all"]
    history = json.loads((folder / "metrics.json").read_text())
    iterations, minutes = [0], [0.0]
    for step in history["training"]:
        images = (step["iteration"] - iterations[-1]) * history["settings"]["BATCH_SIZE"]
        iterations.append(step["iteration"])
        minutes.append(minutes[-1] + images / step["images_per_second"] / 60)
    validated = [(v["iteration"], 100 * v["mean_iou_without_ignored"]) for v in history["validation"]]
    curve = [(float(np.interp(iteration, iterations, minutes)), iou) for iteration, iou in validated]
    f1 = {name: 100 * value for name, value in found["f1"].items() if value is not None}
    return 100 * found["overall_accuracy"], 100 * found["mean_iou_without_ignored"], f1, curve


def table(runs: Sequence[Run]) -> str:
    """A Markdown table of the runs, those alike but for the seed in a row: mean (lowest to highest)."""
    rows = [
        "| dataset | recipe | images | seeds | minutes | CPU minutes | memory, MB | mean IoU | accuracy | F1 of the rarest |"
    ]
    rows.append("|" + "---|" * 10)
    for key in dict.fromkeys((r.dataset, r.recipe, r.images) for r in runs):
        alike = [r for r in runs if (r.dataset, r.recipe, r.images) == key]
        worst = min(alike[0].f1, key=lambda name: statistics.mean(r.f1[name] for r in alike))
        columns = [[r.minutes for r in alike], [r.cpu_minutes for r in alike], [r.megabytes for r in alike]]
        columns += [[r.iou for r in alike], [r.accuracy for r in alike], [r.f1[worst] for r in alike]]
        cells = [_mean(values) for values in columns]
        rows.append(f"| {' | '.join(map(str, key))} | {len(alike)} | {' | '.join(cells)} ({worst}) |")
    return "\n".join(rows)


def _mean(values: Sequence[float]) -> str:
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def draw(runs: Sequence[Run], path: Path) -> None:
    """The validation scores of each run against minutes: a panel for each dataset, a colour for recipe and images."""
    from matplotlib.figure import Figure

    datasets, kinds = list(dict.fromkeys(r.dataset for r in runs)), list(dict.fromkeys((r.recipe, r.images) for r in runs))
    figure = Figure((5 * len(datasets), 4), layout="constrained")
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        for r in (r for r in runs if r.dataset == dataset):
            colour = f"C{kinds.index((r.recipe, r.images)) % 10}"
            axes.plot(*zip((0, 0), *r.curve, strict=True), marker=".", color=colour, label=f"{r.recipe}, {r.images} images")
        axes.set(title=dataset, xlabel="minutes of training", ylabel="mean IoU, validation tiles, %")
        axes.grid(alpha=0.3)
        lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(lines.values(), lines.keys())
    figure.savefig(path, dpi=120)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in DATASETS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="FOLDER", help=f"where {name} lies")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["modern"], help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="default: %(default)s")
    parser.add_argument("--images", nargs="+", type=int, metavar="N", help="how many labelled images (default: all)")
    parser.add_argument("--niter", type=int, metavar="N", help="iterations (default: those of ITERATIONS)")
    parser.add_argument("--validations", type=int, default=4, metavar="N", help="while training (default: %(default)s)")
    parser.add_argument("--split", choices=["test", "val"], default="test", help="the tiles that are scored at the end")
    parser.add_argument("--out", type=Path, default=Path("data/few_tiles"), help="default: %(default)s")
    parser.add_argument("--curve", type=Path, metavar="PNG", help="draw validation scores against minutes")
    args = parser.parse_args()
    for dataset in (name for name in DATASETS if getattr(args, name)):
        if lacking := [recipe for recipe in args.recipes if recipe not in ITERATIONS[dataset]]:
            parser.error(f"{', '.join(lacking)} takes two inputs, and {dataset} has one: leave it out, or take --demo-osm")
    return args


if __name__ == "__main__":
    main()
