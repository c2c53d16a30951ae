"""The page of tools.export in Chromium against inference.py on the same tile: seconds and thousands of pixels a second.

python -m benchmarks.page WEIGHTS [--image FILE] [--runs 3] [--threads 2] [--config config.py]

The page labels with as many workers as the machine has cores, inference.py with as many threads. Without --image a tile of 1024
x 1024 pixels is made: noise around what the net was trained on, for nets of one modality. Reading the file is counted on both
sides, loading the net on none.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

from benchmarks import measure
from tools.compute.device import Device
from tools.data.inputs import Input, modalities_of
from tools.export import onnx_file
from tools.export.end_to_end import Program, trace
from tools.export.onnx_engine import Processor, hosted
from tools.geo import raster
from tools.inference.labeller import make_labeller, prepared
from tools.inference.settings import InferenceSettings
from tools.page import assemble
from tools.settings import read_settings
from tools.weights import snapshots

SIDE = 1024  # pixels of the made tile
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
_PATIENCE = 1800  # seconds for one tile


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    settings = read_settings(args.config).inference
    net, about = snapshots.load_net(args.weights)
    program = trace(net, about)
    with TemporaryDirectory() as folder:
        image = args.image or made_image(Path(folder) / "tile.tif", program)
        model = onnx_file.convert(program)
        assemble.write(Path(folder) / "map.html", model, assemble.facts_of(program, model, about, settings, args.weights))
        with opened(Path(folder) / "map.html") as shown:
            works = {"the page": lambda: label_in_page(shown, image), **labellers(args.weights, settings, image)}
            times = measure.in_turn(*works.values(), runs=args.runs)
    size = raster.inspect(image)
    print(f"{measure.machine()}; {about['name']}, {size.height}x{size.width} pixels, windows of {settings.test_patch_size}"
          f"\n\n{measure.HEADER}")  # fmt: skip
    for name, found in zip(works, times, strict=True):
        print(measure.row(name, found, times[0], size.height * size.width / 1e3, "kilopixels/s"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--config", default="config.py")
    return parser.parse_args()


def made_image(path: Path, program: Program) -> Path:
    """Noise that the net could have been trained on, in its pixel type."""
    (spec,) = program.inputs
    pixels = program.noise((1, SIDE, SIDE))[0][0].numpy()
    kind = np.dtype((spec.dtypes or ("uint8",))[0])
    limits = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.kind in "iu" else (-np.inf, np.inf)
    raster.write(path, np.clip(pixels, *limits).astype(kind))
    return path


@contextmanager
def opened(path: Path) -> Iterator[Page]:
    """The page in a browser, ready."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        shown = browser.new_page()
        shown.goto(path.absolute().as_uri())
        shown.wait_for_selector("body[data-ready]", timeout=120_000)
        yield shown
        browser.close()


def label_in_page(shown: Page, image: Path) -> None:
    """From the file to the last pixel of its map."""
    shown.evaluate("() => { document.getElementById('status').textContent = ''; }")
    shown.set_input_files("#files", str(image))
    end = time.monotonic() + _PATIENCE
    while "finished" not in shown.inner_text("#status"):
        assert time.monotonic() < end and not shown.inner_text("#faults"), shown.inner_text("#faults")
        shown.wait_for_timeout(50)


def labellers(weights: Path, settings: InferenceSettings, image: Path) -> dict[str, Callable[[], object]]:
    """What inference.py does with a tile, by engine."""
    found = {}
    for name, device in {"fp32": Device(torch.device("cpu"), False), "bf16": Device(torch.device("cpu"), True)}.items():
        net, about = snapshots.load_net(weights)
        found[f"inference.py, PyTorch, {name}"] = labeller(settings, prepared(net, device), about, device, image)
    net, about = snapshots.load_net(weights)
    net = hosted(net, about)
    found["inference.py, onnxruntime"] = labeller(settings, net, net.about, Processor(torch.device("cpu"), False), image)
    return found


def labeller(settings: InferenceSettings, net, about: dict, device: Device, image: Path) -> Callable[[], object]:
    inputs = [Input.from_dict(i) for i in about["inputs"]]
    made = make_labeller(settings, net, inputs, device, resize=None)
    paths = dict.fromkeys(modalities_of(inputs), image)
    return lambda: made.labels(paths)


if __name__ == "__main__":
    main()
