"""Writes a trained net for others: as ONNX (onnxruntime, QGIS's Deepness), PyTorch's exported program, or a page for browsers.

    python -m tools.export data/demo_snapshots_segnet_slim/net_iter_1500.safetensors --onnx net.onnx
    python -m tools.export net_iter_1500.safetensors --onnx net.onnx --size 512 --resolution 9     # for Deepness
    python -m tools.export net_iter_1500.safetensors --onnx net.onnx --size 512 --shares           # for GeoDeep (bytes only)
    python -m tools.export net_iter_1500.safetensors --onnx net.onnx --int8                        # faster on processors
    python -m tools.export adopted.safetensors --onnx net.onnx --int8 --images city.tif            # by what it is to label
    python -m tools.export net_iter_1500.safetensors --torch net.pt2                               # for torch.export.load
    python -m tools.export net_iter_1500.safetensors --page map.html                               # labels images in a browser

What is written takes pixels as the rasters hold them (float32, N x bands x height x width, the bands in the files' order) and
gives the classes' probabilities (N x classes x height x width): the order of the bands that the net was trained on, its
normalisation and the softmax are inside. Batch, height and width stay open, within the multiple that the net needs; --size
fixes height and width, as Deepness wants them. --int8 is calibrated on patches of the config's training database, or on places
in --images, such as those that are to be labelled (a net of tools.adopt has no database). Before a file gets its name it is
loaded and run against the net. --page makes one HTML file that opens by a double click and labels images as inference.py --tta
none does with the config's windows; nothing is installed there or uploaded. Making it takes node.
"""

import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import whole_file
from tools.base.locks import locked
from tools.export import int8, onnx_file
from tools.export.end_to_end import Program, quiet, raw, trace
from tools.export.onnx_engine import OnnxNet
from tools.geo.views import Resized, Size
from tools.geo.windows import Window
from tools.inference.labeller import TileReader
from tools.inference.tile_list import given_tiles
from tools.page import assemble
from tools.settings import read_settings
from tools.weights import snapshots

SIDE = 256  # pixels, of patches cut out of --images
AGREEMENT = 0.99  # of the pixels of noise must get the net's labels; trained nets reach 1, those with random weights less


def main():
    args = arguments()
    check_arguments(args)
    net, about = snapshots.load_labeller(args.weights)
    program = trace(net, about, args.size)
    if args.onnx:
        write_onnx(args, program, about)
    if args.torch:
        write_torch(args.torch, program, about)
    if args.page:
        write_page(args, program, about)


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="a snapshot, net_iter_N.safetensors")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="write ONNX, FILE.onnx")
    parser.add_argument("--torch", type=Path, metavar="FILE", help="write a program for torch.export.load, FILE.pt2")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page that labels images, FILE.html")
    parser.add_argument("--size", type=commands.whole_number(1), metavar="PIXELS", help="fixed height and width")
    parser.add_argument("--int8", action="store_true", help="convolve in whole numbers of 8 bits (ONNX)")
    parser.add_argument("--images", nargs="+", metavar="FILE",
                        help="for --int8: take these, named as for inference.py, not the training database")  # fmt: skip
    parser.add_argument("--shares", action="store_true",
                        help="take pixels divided by 255, as GeoDeep has them, or Deepness without settings")  # fmt: skip
    parser.add_argument("--resolution", type=commands.number(0), metavar="CM",
                        help="pixel size in centimetres, which Deepness scales to (ONNX; default: the snapshot's)")  # fmt: skip
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args()


def check_arguments(args) -> None:
    """Raise UserError where there is nothing to write, options do not go together, or files are there already."""
    if not (args.onnx or args.torch or args.page):
        raise UserError("nothing to write: name a file with --onnx, --torch or --page.")
    of_onnx = [f"--{name}" for name in ("int8", "resolution", "shares") if getattr(args, name)]
    if not args.onnx and of_onnx:
        raise UserError(f"{of_onnx[0]} is for ONNX alone: add --onnx FILE.onnx.")
    if args.images and not args.int8:
        raise UserError("--images are for --int8, which is calibrated on them: add --int8, or leave them out.")
    files = (("--onnx", args.onnx, ".onnx"), ("--torch", args.torch, ".pt2"), ("--page", args.page, ".html"))
    for option, path, suffix in files:
        if path and path.suffix != suffix:
            raise UserError(f"{option} {path}: give it a name that ends in {suffix}.")
        if path and path.exists() and not args.overwrite:
            raise UserError(f"{path} exists already: choose another name, or add --overwrite.")
        if path and not can_be_written_to(path.parent):
            raise UserError(f"{option} {path}: {path.parent} is no folder that can be made or written to; write elsewhere.")


def can_be_written_to(folder: Path) -> bool:
    """Whether files can be put into a folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def write_onnx(args, program: Program, about: dict) -> None:
    """Write the ONNX file, once onnxruntime gives what the net gives."""
    examples = examples_for(args, program) if args.int8 else None
    model = onnx_file.convert(program)
    if examples:
        model = int8.quantise(model, examples)
    if args.shares:
        onnx_file.take_shares(model)
    onnx_file.describe(model, program, about, args.resolution, args.shares)
    with locked(args.onnx), whole_file(args.onnx) as temporary:
        onnx_file.save(model, temporary)
        engine = OnnxNet(temporary)
        likeness = Likeness.of(program, engine.probabilities, examples.unseen if examples else noise(program))
        if not examples:
            likeness.check(args.onnx)
        megabytes = temporary.stat().st_size / 1e6
    kind = f"ONNX, opset {onnx_file.OPSET}, {'int8' if examples else 'fp32'}"
    print(f"{args.onnx}: {kind}, {megabytes:.1f} MB, {program}\n{likeness} {'unseen patches' if examples else 'noise'}")
    if not args.size and len(program.inputs) == 1:
        print("note: the QGIS plugin Deepness wants one size: add --size 512, or another, for it.")


def examples_for(args, program: Program) -> int8.Examples:
    """What --int8 is calibrated on."""
    data = read_settings(args.config, args.set).data
    if args.images:
        return examples_of_images(args.images, program, data.RESIZE)
    return int8.Examples.of_database(data.folder("lmdb"), program)


def examples_of_images(words: Sequence[str], program: Program, resize: Size | None) -> int8.Examples:
    """Places in images that the words of --images name, drawn by chance, those without data left out.

    resize: the size that they are read at. Raises UserError where they are not what the net reads, or hold nothing.
    """
    modalities = dict.fromkeys(modality for spec in program.inputs for modality in spec.modalities)
    side = program.size or -(-SIDE // program.multiple) * program.multiple
    found, pixels, readers = [], [], []
    for tile in given_tiles(words, list(modalities)):
        paths = {m: path if resize is None else Resized(path, resize) for m, path in tile.paths.items()}
        readers.append(TileReader([raw(spec) for spec in program.inputs], paths))
        with readers[-1] as reader:
            pixels.append(math.prod(reader.shape))
    for reader, share in zip(readers, pixels, strict=True):
        with reader:
            found += _places(reader, side, -(-2 * int8.WANTED * share // sum(pixels)))  # twice, as some may be without data
    if not found:
        raise UserError(f"{listing(words)}: no pixel there has data in all that the net reads: name other images.")
    return int8.Examples(program, found.__getitem__, len(found))


def _places(reader: TileReader, side: int, count: int) -> list[list[np.ndarray]]:
    """So many windows of an image, drawn by chance, those without any data left out."""
    random, (height, width) = np.random.default_rng(1), reader.shape
    windows = [
        Window(int(random.integers(max(1, height - side + 1))), int(random.integers(max(1, width - side + 1))),
               min(side, height), min(side, width)) for _ in range(count)
    ]  # fmt: skip
    valid = {window: reader.valid(window) for window in dict.fromkeys(windows)}
    return [reader.read(window) for window, mask in valid.items() if mask is None or mask.any()]


def write_torch(path: Path, program: Program, about: dict) -> None:
    """Write the exported program, once it gives what the net gives."""
    with locked(path), whole_file(path) as temporary, quiet():
        written = io.BytesIO()  # PyTorch's own writer aborts the process on a full disk
        torch.export.save(program.traced, written, extra_files={onnx_file.KEY: json.dumps(onnx_file.own(program, about))})
        temporary.write_bytes(written.getbuffer())
        likeness = Likeness.of(program, torch.export.load(temporary).module(), noise(program))
        likeness.check(path)
        megabytes = temporary.stat().st_size / 1e6
    least = (
        "" if program.size else f", {2 * program.multiple} at least"
    )  # PyTorch assumes that no blob is one pixel high or wide
    print(f"{path}: program of PyTorch {torch.__version__}, {megabytes:.1f} MB, {program}{least}\n{likeness} noise")


def write_page(args, program: Program, about: dict) -> None:
    """Write the page, once the net in it gives what the net gives."""
    settings = read_settings(args.config, args.set)
    assemble.check(program, about, settings.classes.label_values, settings.inference)
    model = onnx_file.convert(program)
    onnx_file.describe(model, program, about, args.resolution)
    with tempfile.TemporaryDirectory() as folder:
        onnx_file.save(model, Path(folder) / "net.onnx")
        likeness = Likeness.of(program, OnnxNet(Path(folder) / "net.onnx").probabilities, noise(program))
    likeness.check(args.page)
    assemble.write(args.page, model, assemble.facts_of(program, model, about, settings.inference, args.weights))
    print(f"{args.page}: a page of {args.page.stat().st_size / 1e6:.1f} MB, {program}\n{likeness} noise")


def noise(program: Program) -> list[tuple[Tensor, ...]]:
    """Batches of several numbers and sizes."""
    return [program.noise(shape) for shape in program.shapes()]


@dataclass(frozen=True)
class Likeness:
    """How near an exported net comes to the net: images, pixels, largest difference of a probability, share of equal labels."""

    shapes: list[str]
    difference: float
    agreement: float

    @classmethod
    def of(cls, program: Program, exported: Callable[..., Tensor], batches: list[tuple[Tensor, ...]]) -> "Likeness":
        """exported: from raw pixels per input to probabilities, as the net itself."""
        difference, same, pixels = 0.0, 0, 0
        with torch.inference_mode():
            for images in batches:
                wanted, found = program.net(*images), exported(*images)
                difference = max(difference, float((wanted - found).abs().max()))
                same += int((wanted.argmax(1) == found.argmax(1)).sum())
                pixels += wanted[:, 0].numel()
        shapes = dict.fromkeys(" x ".join(map(str, (len(i[0]), *i[0].shape[2:]))) for i in batches)
        return cls(list(shapes), difference, same / pixels)

    def check(self, path: Path) -> None:
        """Raise UserError where the labels are not those of the net."""
        if not self.agreement >= AGREEMENT:
            raise UserError(
                f"{path} is not written: it would label {100 * self.agreement:.2f} % of the pixels as the net does, not"
                f" {100 * AGREEMENT:g} % or more; try one size (--size), or choose another net."
            )

    def __str__(self) -> str:
        return (
            f"against the net: largest difference of a probability {self.difference:.1e}, the same label on"
            f" {100 * self.agreement:.3f} % of the pixels; tried on {', '.join(self.shapes)} pixels of"
        )


if __name__ == "__main__":
    run(main)
