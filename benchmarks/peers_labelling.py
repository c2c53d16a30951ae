"""Labelling of one large raster by the same net: geoai-py's semantic_segmentation, TorchGeo's grid, smp in a loop, and us.

    python -m venv peers && peers/bin/pip install geoai-py==0.40.1 torchgeo segmentation-models-pytorch
    python -m benchmarks.peers_labelling --peers peers/bin/python --image city.tif --runs 3

Run by our own environment; the peers have theirs. The net is smp's U-Net on a ResNet-34 that has learnt for a minute to tell
five shades apart, the same file for all; windows of 512x512 that overlap by half (geoai's default), pixels divided by 255 as
geoai has it. Each run is a process of its own, start-up included: wall and processor seconds, the most memory, and the share
of pixels with the same label as geoai's. "own windows" are what our recipe does, `--window auto`: they overlap by as far as the
net looks, not by half. "int8": what `tools.export --int8 --images` makes of the net, once, which is not part of the time.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

CLASSES, WINDOW, STEP, BATCH, ENCODER = 5, 512, 256, 4, "resnet34"
THIS = "benchmarks.peers_labelling"
OURS = {  # what inference.py is told beside the net
    "ours": ["--set", f"test_step_size={STEP / WINDOW}"],
    "ours, own windows": ["--window", "auto"],
    "ours, OpenVINO": ["--set", f"test_step_size={STEP / WINDOW}", "--engine", "openvino"],
    "ours, own windows, OpenVINO": ["--window", "auto", "--engine", "openvino"],
    "ours, OpenVINO in int8": ["--set", f"test_step_size={STEP / WINDOW}", "--engine", "openvino"],
    "ours, own windows, OpenVINO in int8": ["--window", "auto", "--engine", "openvino"],
}


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    wall: float
    cpu: float
    megabytes: float


def main() -> None:
    args = arguments()
    if args.one:
        importlib.import_module("tools.compute.torchvision_guard")  # before the peers import torchvision
        PEERS[args.one](args.image, args.weights, args.out)
        return
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        weights, ours = home / "net.pth", home / "net.safetensors"
        measured([args.peers, "-m", THIS, "--one", "weights", "--image", args.image, "--weights", weights])
        rows = [f"class{i},{40 * i},{255 - 40 * i},0" for i in range(CLASSES)]
        (home / "classes.csv").write_text("\n".join(["name,r,g,b", *rows]))
        net = ["--net", f"smp:Unet/{ENCODER}", "--bands", *"RGB", "--mean", 0, 0, 0, "--std", 255, 255, 255, "--window", WINDOW]
        measured([sys.executable, "-m", "tools.adopt", weights, *net, "--classes", home / "classes.csv", "--out", ours])
        if any("int8" in name for name in args.ways):
            measured([sys.executable, "-m", "tools.export", ours, "--onnx", ours.with_suffix(".onnx"), "--int8", "--config",
                      ours.with_suffix(".py"), "--images", args.image])  # fmt: skip
        for _ in range(args.runs):
            for name in args.ways:
                words = command(name, args, weights, ours, home / name)
                costs.setdefault(name, []).append(measured(words))
        labels = {name: read(home / name, args.image) for name in args.ways}
    print(table(args, costs, labels))


def command(name: str, args: argparse.Namespace, weights: Path, ours: Path, out: Path) -> list:
    """The words of one way's process."""
    if name in PEERS:
        files = ["--image", args.image, "--weights", weights, "--out", out.with_suffix(".tif")]
        return [args.peers, "-m", THIS, "--one", name, *files]
    weights = ours.with_suffix(".onnx") if "int8" in name else ours
    words = ["inference.py", "--config", ours.with_suffix(".py"), "--images", args.image, "--weights", weights, "--dir", out]
    return [sys.executable, *words, "--overwrite", *OURS[name]]


def measured(words: list) -> Cost:
    """Run a process to its end."""
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    noise = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, words))}\n{noise[-3000:]}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def read(out: Path, image: Path) -> np.ndarray:
    """A way's labels, h x w."""
    path = out.with_suffix(".tif") if out.with_suffix(".tif").exists() else next(out.glob(f"*{image.stem}*label*.tif"))
    with rasterio.open(path) as file:
        return file.read(1)


def table(args: argparse.Namespace, costs: dict[str, list[Cost]], labels: dict[str, np.ndarray]) -> str:
    """A row for each way: medians, and ratios run by run."""
    with rasterio.open(args.image) as file:
        size = f"{file.width} x {file.height}"
    base = args.ways[0]
    rows = [f"{size} pixels, smp:Unet/{ENCODER}, windows of {WINDOW} every {STEP}; medians of {args.runs}, in turn\n"]
    rows += [f"| way | seconds | processor seconds | memory, MB | times faster than {base} | same labels |", "|" + "---|" * 6]
    for name, found in costs.items():
        wall, cpu, memory = (statistics.median(getattr(c, what) for c in found) for what in ("wall", "cpu", "megabytes"))
        ratio = statistics.median(b.wall / c.wall for b, c in zip(costs[base], found, strict=True))
        same = np.mean(labels[name] == labels[base])
        rows.append(f"| {name} | {wall:.1f} | {cpu:.1f} | {memory:,.0f} | {ratio:.2f} | {same:.1%} |")
    return "\n".join(rows)


# ------------------------------------------------------------------------------------------ what runs in the peers' environment


def library_net(weights: Path):
    """smp's net for labelling, with the weights of the file where there is one."""
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(1)
    net = smp.Unet(ENCODER, encoder_weights=None, classes=CLASSES).eval()
    if weights.exists():
        net.load_state_dict(torch.load(weights, weights_only=True))
    return net


def write_weights(image: Path, weights: Path, out: Path) -> None:
    """Weights of a net that has learnt to tell five shades of its surroundings apart, so that labels are more than chance."""
    import torch
    from torch.nn import functional as F

    net = library_net(weights).train()
    with rasterio.open(image) as file:
        pixels = torch.from_numpy(file.read([1, 2, 3])).float()[None] / 255
    shades = F.avg_pool2d(pixels.mean(1, keepdim=True), 15, 1, 7)[0, 0]
    borders = torch.from_numpy(np.quantile(shades.numpy()[::4, ::4], np.arange(1, CLASSES) / CLASSES)).float()
    labels = torch.bucketize(shades, borders)
    optimizer, random = torch.optim.Adam(net.parameters(), 1e-3), np.random.default_rng(1)
    for _ in range(60):
        corners = [[random.integers(n - 128) for n in shades.shape] for _ in range(8)]
        places = [(slice(row, row + 128), slice(column, column + 128)) for row, column in corners]
        patches = torch.cat([pixels[:, :, rows, columns] for rows, columns in places])
        loss = F.cross_entropy(net(patches), torch.stack([labels[place] for place in places]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), weights)


def geoai(image: Path, weights: Path, out: Path) -> None:
    """As geoai documents it, with its defaults."""
    import geoai as library

    net = {"architecture": "unet", "encoder_name": ENCODER, "num_channels": 3, "num_classes": CLASSES}
    windows = {"window_size": WINDOW, "overlap": WINDOW - STEP, "batch_size": BATCH}
    library.semantic_segmentation(str(image), str(out), str(weights), **net, **windows, quiet=True)


def torchgeo(image: Path, weights: Path, out: Path) -> None:
    """TorchGeo's RasterDataset and GridGeoSampler, a label where the last window says so."""
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    net, data = library_net(weights), RasterDataset(str(image))
    loader = DataLoader(data, BATCH, sampler=GridGeoSampler(data, WINDOW, STEP), collate_fn=stack_samples)
    with rasterio.open(image) as file:
        profile = file.profile | {"count": 1, "dtype": "uint8"}
        labels = np.zeros((file.height, file.width), np.uint8)
        places = ~file.transform
    with torch.inference_mode():
        for batch in loader:
            found = net(batch["image"][:, :3].float() / 255).argmax(1).to(torch.uint8).numpy()
            for one, (xs, ys, _) in zip(found, batch["bounds"], strict=True):
                column, row = (round(n) for n in places * (xs.start, ys.stop))
                one = one[max(0, -row) :, max(0, -column) :]  # windows may reach beyond the raster
                part = labels[max(0, row) :, max(0, column) :][: one.shape[0], : one.shape[1]]
                part[:] = one[: part.shape[0], : part.shape[1]]
    with rasterio.open(out, "w", **profile) as file:
        file.write(labels, 1)


def plain(image: Path, weights: Path, out: Path) -> None:
    """The whole raster in memory, windows one after another, votes summed."""
    import torch

    net = library_net(weights)
    with rasterio.open(image) as file:
        pixels, profile = torch.from_numpy(file.read([1, 2, 3])).float() / 255, file.profile | {"count": 1, "dtype": "uint8"}
    _, height, width = pixels.shape
    votes = torch.zeros(CLASSES, height, width)
    starts = [sorted({*range(0, n - WINDOW, STEP), n - WINDOW}) for n in (height, width)]
    with torch.inference_mode():
        for row in starts[0]:
            for column in starts[1]:
                place = (slice(None), slice(row, row + WINDOW), slice(column, column + WINDOW))
                votes[place] += net(pixels[place][None])[0].softmax(0)
    with rasterio.open(out, "w", **profile) as file:
        file.write(votes.argmax(0).to(torch.uint8).numpy(), 1)


PEERS = {"weights": write_weights, "geoai": geoai, "torchgeo": torchgeo, "smp in a loop": plain}
WAYS = ["geoai", "torchgeo", "smp in a loop", *OURS]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="of the environment that has the peers")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a GeoTIFF of three bands, in metres")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="the first is what the others are compared with")
    parser.add_argument("--one", choices=PEERS, help="what a process of the benchmark itself does")
    parser.add_argument("--weights", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
