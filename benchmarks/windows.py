"""What larger windows and wider steps cost and bring: scores of the test tiles against seconds and multiply-adds.

python -m benchmarks.windows --config config.py --weights net_iter_1500.safetensors --out windows
    [--windows 128 256 512] [--shares 0.25 0.5 0.75 1] [--tiles 32 34]

Writes windows.md, a table, and windows.png, a curve, anew after each way, the cheapest first. A window that is larger than a
tile takes it whole, padded. The step that goes with each window, by how far the net looks, stands in the table as
well, with a *: what --window of inference.py takes, which may also make the window smaller to suit each tile; a line
with the window "auto" shows what that gives.
"""

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from benchmarks.measure import machine
from nets.receptive import reach
from tools.compute import device
from tools.data.dataset import tile_id, tile_name
from tools.data.inputs import Input
from tools.geo import raster
from tools.inference.labeller import Labeller
from tools.inference.settings import InferenceSettings
from tools.inference.window_size import HALO, MOST, Windows, windows_for
from tools.labels import scores
from tools.settings import read_settings
from tools.weights import snapshots


@dataclass(frozen=True)
class Measured:
    """One way of labelling: window and step in pixels, per cent, seconds a megapixel, 1000 multiply-adds a pixel.

    The multiply-adds are those of a large raster; at the borders of small tiles, windows are pushed inward and overlap more.
    The seconds are the processor's, of all threads together, which other work beside it hardly changes; on a GPU the clock's.
    """

    window: int
    step: int
    accuracy: float
    iou: float
    seconds: float
    adds: float
    chosen: bool  # whether this step goes with how far the net looks
    fitted: bool  # whether windows are as much smaller as suits each tile


def main():
    args = arguments()
    settings, where = read_settings(args.config), device.choose(args.device)
    net, about = snapshots.load_net(args.weights)
    inputs, net = [Input.from_dict(i) for i in about["inputs"]], where.place(net.fuse()).eval()
    dataset = settings.data.dataset
    tiles = [tile_id(word, list(settings.data.test_ids)) for word in args.tiles] if args.tiles else list(settings.data.test_ids)
    paths = [{m: dataset.path(m, t) for m in settings.data.modalities} for t in tiles]
    truths = [raster.read_labels(dataset.path("labels", t)) for t in tiles]
    looks = reach(net)
    size = min(min(t.shape) for t in truths)
    windows = [w for w in args.windows if w % net.multiple == 0]
    names = ", ".join(map(tile_name, tiles))
    head = f"{machine()}; {about['name']}, iteration {about['iteration']}, {settings.data.DATASET}, tiles {names}"
    head = f"{head}; it looks {looks or 'an unknown number of'} pixels far, blend {settings.inference.BLEND}"
    found = []
    halo = min(looks or HALO, HALO)
    for given, chosen in tqdm(ways(windows, args.shares, halo, net, size), "windows and steps"):
        labeller = Labeller(net, inputs, given, None, where, settings.inference.THRESHOLD, settings.inference.BLEND)
        found = sorted([*found, measure(labeller, paths, truths, about, chosen)], key=lambda m: (m.fitted, m.window, m.step))
        args.out.with_suffix(".md").write_text(f"{head}\n\n{as_table(found)}\n", encoding="utf-8")
        draw(args.out.with_suffix(".png"), found, f"{about['name']} on {settings.data.DATASET}")
    print(args.out.with_suffix(".md").read_text(encoding="utf-8"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="config.py")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("windows"), help="name of the table and the curve, without suffix")
    parser.add_argument("--windows", type=int, nargs="+", default=[128, 256, 512, 1024, 2048], help="pixels")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75, 1.0], help="steps, as shares of the window"
    )
    parser.add_argument("--tiles", nargs="+", help="ids (default: all test tiles)")
    parser.add_argument("--device")
    return parser.parse_args()


def ways(windows: list[int], shares: list[float], halo: int, net: nn.Module, size: int) -> list[tuple[Windows, bool]]:
    """(windows, whether the step goes with how far the net looks) of all ways on tiles of this size, the cheapest first."""
    found = []
    for window in windows:
        _, (chosen, _) = Windows((window, window), None, halo, net.multiple).on((size, size))
        steps = {chosen, *(max(1, round(share * window)) for share in shares)} if window < size else {window}
        found += [(Windows((window, window), (step, step)), step == chosen) for step in steps]
    auto = windows_for(InferenceSettings(), net, MOST)
    return [(auto, True), *sorted(found, key=lambda way: (way[0].size[0] / way[0].step[0], way[0].size[0]))]


def measure(labeller: Labeller, paths: list[dict], truths: list, about: dict, chosen: bool) -> Measured:
    """Label and score the tiles."""
    clock = time.process_time if labeller.device.device.type == "cpu" else time.perf_counter
    start, matrix = clock(), 0
    for path, truth in zip(paths, truths, strict=True):
        matrix = matrix + labeller.confusion(path, truth)
    seconds = clock() - start
    report = scores.report(matrix, about["classes"], about["ignored"])
    (window, _), (step, _) = labeller.windows.to_dict()["window"], labeller.windows.to_dict()["step"]
    pixels = sum(t.size for t in truths)
    adds, fitted = multiply_adds(labeller) / step**2, bool(labeller.windows.grid)
    iou = report["mean_iou_without_ignored"]
    return Measured(
        window,
        step,
        100 * report["overall_accuracy"],
        100 * iou,
        1e6 * seconds / pixels,
        adds / 1e3,
        chosen,
        fitted,
    )


def multiply_adds(labeller: Labeller) -> float:
    """Of one window's pass."""
    images = [torch.zeros(1, i.channels, *labeller.windows.size, device=labeller.device.device) for i in labeller.inputs]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        labeller.net(*images)
    return counter.get_total_flops() / 2


def as_table(found: list[Measured]) -> str:
    """A Markdown table; * marks what --window takes."""
    lines = ["| window | step | overall accuracy, % | mean IoU, % | 1000 multiply-adds a pixel | seconds a megapixel |"]
    lines += ["|---|---|---|---|---|---|"]
    for m in found:
        mark, window = " *" if m.chosen else "", f"auto, up to {m.window}" if m.fitted else m.window
        lines.append(f"| {window} | {m.step}{mark} | {m.accuracy:.2f} | {m.iou:.2f} | {m.adds:.1f} | {m.seconds:.2f} |")
    return "\n".join(lines)


def draw(path: Path, found: list[Measured], title: str) -> None:
    """Mean IoU against multiply-adds, a line for each window; a ring marks the step that goes with how far the net looks."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for window, group in itertools.groupby(found, lambda m: f"auto, {m.window}" if m.fitted else m.window):
        some = list(group)
        (line,) = axes.plot([m.adds for m in some], [m.iou for m in some], "o-", label=f"window {window}")
        for m in some:
            axes.annotate(
                str(m.step), (m.adds, m.iou), (4, -10), textcoords="offset points", fontsize=7, color=line.get_color()
            )
            if m.chosen:
                axes.plot(m.adds, m.iou, "o", markersize=13, fillstyle="none", color=line.get_color())
    axes.set(
        xscale="log", xlabel="1000 multiply-adds a pixel", ylabel="mean IoU, %", title=f"{title}: windows and steps (pixels)"
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
