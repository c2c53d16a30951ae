"""A training step and the cutting of patches: geoai-py, smp in a plain loop, and us, on one raster with labels.

    python -m venv peers && peers/bin/pip install geoai-py==0.40.1 segmentation-models-pytorch
    python -m benchmarks.peers_training --peers peers/bin/python --image city.tif --runs 3

Run by our own environment; the peers have theirs. The labels are five shades of the raster's surroundings. Patches are of
256x256, 128 apart. Cutting is a process of its own, from the raster to what a training reads: geoai's `export_geotiff_tiles`;
extract_images.py and create_db.py. A step learns from 8 patches with smp's U-Net on a ResNet-34 with random weights: what a
process with --many steps takes longer than one with --few, by the number of steps between, so that reading and augmenting
count, as users have them by default, and start-up does not. geoai's epochs hold its validation too, of an eighth of the
patches.
"""

import argparse
import importlib
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from scipy.ndimage import uniform_filter

from benchmarks.peers_labelling import CLASSES, ENCODER, Cost, measured

PATCH, STEP, BATCH = 256, 128, 8
THIS = "benchmarks.peers_training"
CONFIG = """
DATASET = "city"
RECIPE = "original"
BASE_DIR = {home!r}
DATASET_DIR = {home!r}
folders = {{"rgb": "images/{{}}.tif", "labels": "labels/{{}}.tif"}}
INPUTS = {{"rgb": ["rgb"]}}
MEAN_PIXEL = {{"rgb": None}}
label_values = {classes!r}
palette = {palette!r}
IGNORE_LABEL = None
train_ids, val_ids, test_ids = ["city"], [], []
patch_size, step_size, ROTATIONS, FLIPS = ({patch}, {patch}), ({step}, {step}), [0], [False]
NET, BATCH_SIZE, SOLVER, BASE_LR = "smp:Unet/{encoder}", {batch}, {{"name": "adam", "weight_decay": 0}}, 1e-3
INIT_MODEL = None
LR_POLICY = {{"name": "fixed"}}
SNAPSHOT_EVERY = None
"""


def main() -> None:
    args = arguments()
    if args.one:
        importlib.import_module("tools.compute.torchvision_guard")  # before the peers import torchvision
        PEERS[args.one](args)
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        config = prepare(args.image, home)
        own = ["--config", config, "--overwrite"]
        peer = [args.peers, "-m", THIS, "--home", home, "--one"]
        cutting = {
            "geoai": [[*peer, "cut"]],
            "ours": [[sys.executable, "extract_images.py", *own], [sys.executable, "create_db.py", *own]],
        }
        training = {
            "geoai": lambda steps: [*peer, "geoai", "--steps", steps],
            "smp in a loop": lambda steps: [*peer, "smp", "--steps", steps],
            "ours": lambda steps: [sys.executable, "training.py", "--niter", steps, "--snapshot", home / "run", *own],
        }
        cut, step = {name: [] for name in cutting}, {name: [] for name in training}
        for _ in range(args.runs):
            for name, commands in cutting.items():
                cut[name].append(total([measured(words) for words in commands]))
            for name, command in training.items():
                few, many = (measured(command(count)) for count in (args.few, args.many))
                step[name].append(per_step(few, many, args.many - args.few))
    print(table(f"cutting, patches of {PATCH}x{PATCH} every {STEP}", cut, args.runs))
    print(table(f"a step of {BATCH} patches, smp:Unet/{ENCODER}", step, args.runs))


def prepare(image: Path, home: Path) -> Path:
    """The raster, its labels and our config below `home`."""
    for kind in ("images", "labels"):
        (home / kind).mkdir()
    with rasterio.open(image) as file:
        pixels, profile = file.read([1, 2, 3]), file.profile | {"driver": "GTiff"}
    shades = uniform_filter(pixels.mean(0), 15)
    labels = np.digitize(shades, np.quantile(shades, np.arange(1, CLASSES) / CLASSES)).astype(np.uint8)
    for kind, array in (("images", pixels), ("labels", labels[None])):
        with rasterio.open(home / kind / "city.tif", "w", **profile | {"count": len(array), "dtype": "uint8"}) as file:
            file.write(array)
    palette = {i: (40 * i, 255 - 40 * i, 0) for i in range(CLASSES)}
    names = [f"class{i}" for i in range(CLASSES)]
    config = home / "config.py"
    values = {"home": f"{home}/", "classes": names, "palette": palette, "patch": PATCH, "step": STEP, "batch": BATCH}
    config.write_text(CONFIG.format(**values, encoder=ENCODER))
    return config


def total(costs: list[Cost]) -> Cost:
    """Of processes one after another."""
    return Cost(sum(c.wall for c in costs), sum(c.cpu for c in costs), max(c.megabytes for c in costs))


def per_step(few: Cost, many: Cost, steps: int) -> Cost:
    """What one of the further steps took; the memory is that of the longer process."""
    return Cost((many.wall - few.wall) / steps, (many.cpu - few.cpu) / steps, many.megabytes)


def table(what: str, costs: dict[str, list[Cost]], runs: int) -> str:
    """A row for each way: medians, and ratios to geoai's run by run."""
    rows = [f"\n| {what}; medians of {runs} | seconds | processor seconds | memory, MB | times faster than geoai |"]
    rows += ["|" + "---|" * 5]
    for name, found in costs.items():
        wall, cpu, memory = (statistics.median(getattr(c, key) for c in found) for key in ("wall", "cpu", "megabytes"))
        ratio = statistics.median(b.wall / c.wall for b, c in zip(costs["geoai"], found, strict=True))
        rows.append(f"| {name} | {wall:.2f} | {cpu:.2f} | {memory:,.0f} | {ratio:.2f} |")
    return "\n".join(rows)


# ------------------------------------------------------------------------------------------ what runs in the peers' environment


def cut_by_geoai(args: argparse.Namespace) -> None:
    """As geoai documents it."""
    import geoai as library

    images, labels = (str(args.home / kind / "city.tif") for kind in ("images", "labels"))
    library.export_geotiff_tiles(
        in_raster=images, out_folder=str(args.home / "tiles"), in_class_data=labels, tile_size=PATCH, stride=STEP, quiet=True
    )


def train_by_geoai(args: argparse.Namespace) -> None:
    """As geoai documents it, on as many of its tiles as make so many steps in one epoch."""
    import geoai as library

    home = args.home / f"some{args.steps}"
    for kind in ("images", "labels"):
        (home / kind).mkdir(parents=True, exist_ok=True)
        for path in sorted((args.home / "tiles" / kind).glob("*.tif"))[: BATCH * args.steps * 8 // 7]:
            (home / kind / path.name).unlink(missing_ok=True)
            (home / kind / path.name).symlink_to(path)
    library.train_segmentation_model(
        str(home / "images"), str(home / "labels"), str(home / "out"), architecture="unet", encoder_name=ENCODER,
        encoder_weights=None, num_channels=3, num_classes=CLASSES, batch_size=BATCH, num_epochs=1, val_split=1 / 8,
        target_size=(PATCH, PATCH), seed=1, num_workers=0,
    )  # fmt: skip


def train_by_smp(args: argparse.Namespace) -> None:
    """Crops of the raster in memory, Adam, cross entropy, as the library's examples have it."""
    import segmentation_models_pytorch as smp
    import torch
    from torch.nn import functional as F

    torch.manual_seed(1)
    net, random = smp.Unet(ENCODER, encoder_weights=None, classes=CLASSES).train(), np.random.default_rng(1)
    arrays = [rasterio.open(args.home / kind / "city.tif").read() for kind in ("images", "labels")]
    pixels, labels = torch.from_numpy(arrays[0]).float() / 255, torch.from_numpy(arrays[1][0]).long()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(args.steps):
        corners = [[random.integers(n - PATCH + 1) for n in labels.shape] for _ in range(BATCH)]
        places = [(slice(row, row + PATCH), slice(column, column + PATCH)) for row, column in corners]
        patches = torch.stack([pixels[:, rows, columns] for rows, columns in places])
        loss = F.cross_entropy(net(patches), torch.stack([labels[place] for place in places]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


PEERS = {"cut": cut_by_geoai, "geoai": train_by_geoai, "smp": train_by_smp}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="of the environment that has the peers")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a GeoTIFF of three bands of bytes, in metres")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--few", type=int, default=4, help="steps")
    parser.add_argument("--many", type=int, default=20, help="steps")
    parser.add_argument("--one", choices=PEERS, help="what a process of the benchmark itself does")
    parser.add_argument("--home", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
