"""Which of the prototxt files below some folders build and run here, and why the others are refused.

python -m benchmarks.caffe_zoo FOLDER... [--skip examples] [--dry]

Each FOLDER is a checkout of a repository that publishes networks for Caffe; it is a line of the table. Files without layers
(solvers) are no networks and left out, and so is what lies in folders of a name that is skipped. To run is to label one image
of random pixels with random weights: at 128x128 pixels, or the size that the file fixes. Places ${NUM_LABELS} are filled by 21.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import nets
from benchmarks.measure import machine, seconds
from nets.caffe.prototxt import inputs_of, read_prototxt
from nets.caffe.prototxt_text import read
from nets.layers import NO_PIXELS
from nets.net import Net, good_size
from tools.base.errors import UserError, run

SIDE, LABELS, CHANNELS = 128, 21, 3


@dataclass(frozen=True)
class Tried:
    """What came of one file.

    fault: why it was refused, "" if it was not. size: of the image that was labelled. of_pixels: False for a net that
    classifies whole images.
    """

    path: Path
    builds: bool
    fault: str = ""
    size: tuple[int, int] | None = None
    seconds: float = 0.0
    of_pixels: bool = True

    @property
    def runs(self) -> bool:
        """Whether it labelled an image."""
        return self.builds and not self.fault


def main():
    args = arguments()
    found = {folder: list(prototxts(folder, args.skip)) for folder in args.folders}
    shown = tqdm(total=sum(map(len, found.values())), unit="net")
    tried = {}
    for folder, paths in found.items():
        tried[folder] = []
        for path in paths:
            tried[folder].append(try_net(path, args.dry))
            shown.update()
    shown.close()
    print(f"{machine()}\n\n{as_text(tried)}")


def prototxts(folder: Path, skip: list[str]) -> Iterator[Path]:
    """The networks below a folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name checkouts of repositories.")
    for path in sorted(folder.rglob("*.prototxt")):
        if path.is_file() and not set(path.relative_to(folder).parts[:-1]) & set(skip) and is_net(path):
            yield path


def is_net(path: Path) -> bool:
    """Whether a file declares layers; one that cannot be read is to be said, too."""
    try:
        message = read(path, {"NUM_LABELS": LABELS})
    except UserError:
        return True
    return any(message.all(name) for name in ("layer", "layers"))


def try_net(path: Path, dry: bool = False) -> Tried:
    """Build a net as the scripts do, and label an image with it. dry: only the shapes of that."""
    try:
        inputs = {name: channels or CHANNELS for name, channels in inputs_of(path).items()}
        with torch.device("meta"):
            classes = Net(read_prototxt(path, inputs, values={"NUM_LABELS": LABELS}).rows).classes
            net = nets.build(str(path), inputs, classes)
    except UserError as error:
        return Tried(path, False, str(error).removeprefix(f"{path}: "))
    if net.blobs[net.output].stride >= NO_PIXELS:
        return Tried(path, True, of_pixels=False)
    size = good_size(net, (math.ceil(SIDE / net.multiple) * net.multiple,) * 2)
    if size is None:
        return Tried(path, True, "no size of images was found that it labels in full")
    if dry:
        return Tried(path, True, "", size)
    net = nets.build(str(path), inputs, classes).eval()
    images = [50 * torch.randn(1, channels, *size) for channels in net.inputs.values()]
    with torch.inference_mode():
        took = seconds(lambda: images.append(net(*images)))
    written = images[-1]
    whole = written.shape == (1, classes, *size) and bool(written.isfinite().all())
    return Tried(path, True, "" if whole else "its scores are not finite, or not of every pixel", size, took)


def as_text(tried: dict[Path, list[Tried]]) -> str:
    """A table with a line for each folder, then what was refused and why, then the sizes that files fix."""
    lines = ["| folder | networks | build | run | sizes of their own |", "|---|---|---|---|---|"]
    for folder, results in tried.items():
        fixed = sorted({f"{t.size[0]}x{t.size[1]}" for t in results if t.size and t.size != (SIDE, SIDE)})
        lines.append(f"| {folder.name} | {_counts(results)} | {', '.join(fixed)} |")
    lines.append(f"| all | {_counts([t for results in tried.values() for t in results])} | |")
    faults = [f"- {t.path.relative_to(folder)}: {t.fault}" for folder, ts in tried.items() for t in ts if t.fault]
    others = sum(not t.of_pixels for ts in tried.values() for t in ts)
    lines += ["", f"{others} further files classify whole images; they are not counted."] if others else []
    return "\n".join([*lines, "", "Refused:" if faults else "None is refused.", "", *faults]).rstrip()


def _counts(results: list[Tried]) -> str:
    results = [t for t in results if t.of_pixels]
    return f"{len(results)} | {sum(t.builds for t in results)} | {sum(t.runs for t in results)}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a checkout of a repository")
    parser.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="folders of these names are left out")
    parser.add_argument("--dry", action="store_true", help="try shapes alone, without values: much quicker")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
