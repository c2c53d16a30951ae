"""All that is to be known of a GPU in one go of under 9 minutes: the tests marked cuda, then tables of training and labelling.

    python -m benchmarks.gpu --out gpu.md                        # on the machine with the GPU; PyTorch has to be there
    python -m benchmarks.gpu --wheels wheels/ --out gpu.md       # what else is needed, as wheels, where there is no network
    python -m benchmarks.gpu --device cpu --quick                # whether the script works, on any machine

The wheels are made where there is a network:
pip download -r requirements.txt pytest hypothesis -d wheels/ --python-version 3.12 --only-binary=:all:

What does not fit into --seconds is named at the end. Shares of the peak are those of a bf16 product of two large matrices,
measured beforehand; additions and multiplications are counted by torch.utils.flop_counter. Busy is the share of the time in
which the GPU computes, by torch.profiler; "waits" is by how much a loop that reads its patches from a database takes longer
than the same steps on a batch in memory. --quick leaves out the tests and all that is compiled.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NETS = ("segnet", "deeplabv3plus/vgg16", "deeplabv3plus/resnet50", "unet_light/efficientnet_lite0")
PEER = "smp:Unet/resnet34"
BATCHES = {128: 128, 256: 48, 512: 12}  # images in a batch, by their side: about as many pixels in each
LABELLED = (4096, 4096)  # pixels of the image that is labelled


@dataclass
class Run:
    """What is measured with, and what came of it so far."""

    args: argparse.Namespace
    where: Any
    peak: float
    until: float
    lines: list[str]
    left: list[str]

    def say(self, line: str) -> None:
        """A line of the report, which is written anew."""
        self.lines.append(line)
        print(line, flush=True)
        if self.args.out:
            self.args.out.write_text("\n".join(self.lines) + "\n", encoding="utf-8")

    def row(self, name: str, measure: Callable[[], list[str]]) -> None:
        """A row of a table, unless the time is over; what fails is said in it."""
        if time.monotonic() > self.until:
            self.left.append(name)
            return
        try:
            cells = measure()
        except Exception as error:  # the other rows count all the same
            cells = [f"failed: {type(error).__name__}: {' '.join(str(error).split())[:120]}"]
        self.say(f"| {' | '.join([name, *cells])} |")


def main():
    args = arguments()
    until = time.monotonic() + args.seconds
    if args.wheels:
        words = ["--no-index", "--find-links", str(args.wheels), "-r", "requirements.txt", "pytest", "hypothesis"]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=True)
    if not args.quick:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests/test_gpu.py"], check=False)

    from benchmarks.measure import machine
    from tools.compute import device

    where = device.choose(args.device)
    run = Run(args, where, peak_of(where, args.quick), until, [], [])
    run.say(f"{machine()}, {where}; bf16 peak, measured: {run.peak / 1e12:.1f} TFLOP/s")
    training(run)
    loading(run)
    labelling(run)
    peers(run)
    if run.left:
        run.say(f"\nnot within {args.seconds} seconds: {', '.join(run.left)}")


def peak_of(where: Any, quick: bool) -> float:
    """Additions and multiplications a second of a bf16 product of two large matrices."""
    import torch

    from benchmarks.measure import seconds

    side = 512 if quick else 8192
    matrix = torch.randn(side, side, device=where.device).bfloat16()
    times = [seconds(lambda: matrix @ matrix) for _ in range(8)]
    return 2 * side**3 / statistics.median(times[3:])


def training(run: Run) -> None:
    """Steps of the zoo's nets, on a batch in memory."""
    run.say("\n| net, batch and side | images/s | share of the peak | compiled, images/s | share | peak memory, MB |")
    run.say("|---|---|---|---|---|---|")
    for side, count in sizes(run.args.quick):
        for net in NETS[-1:] if run.args.quick else NETS:
            run.row(f"{net}, {count} of {side}", lambda net=net, side=side, count=count: step_cells(run, net, side, count))


def sizes(quick: bool) -> list[tuple[int, int]]:
    """(side, images in a batch)."""
    return [(64, 2)] if quick else list(BATCHES.items())


def step_cells(run: Run, net: str, side: int, count: int) -> list[str]:
    """Images a second and share of the peak, as it is and compiled; the memory that the former takes at most."""
    from benchmarks.training import flops_of_a_step

    options, (images, labels) = options_of(net, side, count, run.args.quick), noise(side, count)
    flops, cells, peak = flops_of_a_step(options, images), [], None
    reset_memory(run.where)
    for compiled in (False, True):
        rate = 0 if compiled and run.args.quick else rate_of(run, options, ([images], labels), compiled)
        cells += [f"{rate:,.1f}", f"{flops / count * rate / run.peak:.0%}"] if rate else ["", ""]
        peak = memory(run.where) if peak is None else peak
    return [*cells, f"{peak:,.0f}"]


def options_of(net: str, side: int, count: int, quick: bool) -> SimpleNamespace:
    """What benchmarks/training.py wants to know."""
    return SimpleNamespace(net=net, patch=side, batch=count, iterations=2 if quick else 10)


def noise(side: int, count: int) -> tuple[Any, Any]:
    """Images and labels in memory."""
    import torch

    return torch.randint(0, 256, (count, 3, side, side)).byte(), torch.randint(0, 5, (count, side, side)).byte()


def rate_of(run: Run, options: SimpleNamespace, batch: tuple, compiled: bool) -> float:
    """Images a second of our step, the first calls left out."""
    from benchmarks.measure import seconds
    from benchmarks.training import make_trainer, steps

    work = steps(make_trainer(options, run.where, compiled), options, batch)
    work()
    return options.iterations * options.batch / statistics.median(seconds(work) for _ in range(3))


def reset_memory(where: Any) -> None:
    """Count the memory's peak anew."""
    import torch

    if where.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(where: Any) -> float:
    """Megabytes of the GPU that were taken at most."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e6 if where.device.type == "cuda" else 0.0


def loading(run: Run) -> None:
    """Whether the GPU waits for patches."""
    run.say("\n| net, batch and side | step in memory, images/s | from a database | waits |\n|---|---|---|---|")
    for side, count in sizes(run.args.quick):
        name = NETS[-1]
        run.row(f"{name}, {count} of {side}", lambda side=side, count=count, name=name: loading_cells(run, name, side, count))


def loading_cells(run: Run, net: str, side: int, count: int) -> list[str]:
    from benchmarks.measure import in_turn
    from benchmarks.training import made_patches, make_trainer, steps
    from tools.data.loader import BatchOrder, batches, workers_for

    options = options_of(net, side, count, run.args.quick)
    with tempfile.TemporaryDirectory() as folder:
        patches, trainer = made_patches(Path(folder), options), make_trainer(options, run.where)
        on_gpu = run.where.device.type == "cuda"
        feed = batches(patches, BatchOrder(len(patches), count, 1), workers_for(run.where.device, None), on_gpu)
        in_memory = steps(trainer, options, next(feed))

        def database() -> None:
            for batch in islice(feed, options.iterations):
                trainer.step(*batch)
            trainer.fetch_losses()

        rates = [options.iterations * count / statistics.median(t) for t in in_turn(in_memory, database, runs=3)]
    return [f"{rates[0]:,.1f}", f"{rates[1]:,.1f}", f"{max(0.0, 1 - rates[1] / rates[0]):.0%}"]


def labelling(run: Run) -> None:
    """A large image from its file to the label map."""
    run.say("\n| net | megapixels/s | busy | peak memory, MB |\n|---|---|---|---|")
    for net in NETS[-1:] if run.args.quick else NETS:
        run.row(net, lambda net=net: labelling_cells(run, net))


def labelling_cells(run: Run, net: str) -> list[str]:
    import nets
    from benchmarks.training import INPUTS
    from tools.inference.labeller import make_labeller, prepared
    from tools.inference.settings import AUTO, InferenceSettings

    shape = (256, 256) if run.args.quick else LABELLED
    chosen = InferenceSettings(test_patch_size=AUTO, test_step_size=AUTO)
    labeller = make_labeller(chosen, prepared(nets.build(net, {"irrg": 3}, 6), run.where), INPUTS, run.where, resize=None)
    with made_image(shape) as path:
        labeller.labels({"irrg": path})
        reset_memory(run.where)
        busy, taken = watched(lambda: labeller.labels({"irrg": path}), run.where)
    return [f"{shape[0] * shape[1] / 1e6 / taken:.2f}", f"{busy:.0%}" if busy else "", f"{memory(run.where):,.0f}"]


def made_image(shape: tuple[int, int]) -> Any:
    """A GeoTIFF of noise, for the block of a with."""
    import contextlib

    import numpy as np

    from tools.geo import raster

    @contextlib.contextmanager
    def made() -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image.tif"
            with raster.create(path, (3, *shape), np.uint8) as file:
                file.write(np.random.default_rng(1).integers(1, 255, (3, *shape), np.uint8))
            yield path

    return made()


def watched(work: Callable[[], object], where: Any) -> tuple[float, float]:
    """(share of the time in which the GPU computed, 0 elsewhere; seconds)."""
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.measure import seconds

    taken = seconds(work)
    if where.device.type != "cuda":
        return 0.0, taken
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        under_profile = seconds(work)
    kernels = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return kernels / under_profile, taken


def peers(run: Run) -> None:
    """The library's net in our step, and in a plain loop."""
    run.say(f"\n| {PEER} | images/s |\n|---|---|")
    side, count = sizes(run.args.quick)[-1 if run.args.quick else 1]
    for name, amp in (("plain loop, fp32", False), ("plain loop, bf16 autocast", True)):
        run.row(f"{name}, {count} of {side}", lambda amp=amp: [f"{plain_rate(run, side, count, amp):,.1f}"])
    options = options_of(PEER, side, count, run.args.quick)
    images, labels = noise(side, count)
    for compiled in (False,) if run.args.quick else (False, True):
        name = f"our step{', compiled' if compiled else ''}, {count} of {side}"
        run.row(name, lambda compiled=compiled: [f"{rate_of(run, options, ([images], labels), compiled):,.1f}"])


def plain_rate(run: Run, side: int, count: int, amp: bool) -> float:
    """Images a second of the loop that tutorials have."""
    import torch

    from benchmarks.measure import seconds
    from benchmarks.training import plain

    options, (images, labels) = options_of(PEER, side, count, run.args.quick), noise(side, count)
    loop = plain(options, run.where, images, labels)

    def work() -> None:
        with torch.autocast(run.where.device.type, torch.bfloat16, enabled=amp):
            loop()

    work()
    return options.iterations * count / statistics.median(seconds(work) for _ in range(3))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", metavar="NAME", help="default: the GPU")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no tests: whether the script works")
    parser.add_argument("--seconds", type=int, default=500, help="after which no further row begins (default: %(default)s)")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="packages that the machine lacks")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the report, in Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
