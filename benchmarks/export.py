"""Engines side by side on windows: PyTorch in fp32 and bf16, onnxruntime and OpenVINO in fp32 and int8; with weights, the mean
IoU of each.

python -m benchmarks.export [WEIGHTS] [--net segnet] [--batch 10] [--size 128] [--runs 5] [--threads 2] [--processor-time]

OpenVINO has rows where it is installed, bf16 where the processor has it. Without weights: --net with random ones. int8 is
calibrated on the training patches of --config. The mean IoU, without the ignored classes, is that of the config's test patches,
each labelled by itself.
--processor-time, with --threads 1, counts what this process alone has computed, where other work makes wall time worthless.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import nets
from benchmarks import measure
from tools.base.folders import read_details
from tools.compute.device import Device, choose
from tools.data.loader import Patches
from tools.export import int8, onnx_file
from tools.export.end_to_end import Program, file_order, trace
from tools.export.onnx_engine import OPENVINO, kind_of
from tools.labels import scores
from tools.settings import Settings, read_settings
from tools.weights import snapshots

Engine = Callable[..., Tensor]  # from raw pixels per input to probabilities


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    settings = read_settings(args.config)
    net, about = snapshots.load_net(args.weights) if args.weights else random_net(args.net, settings)
    program = trace(net, about)
    with TemporaryDirectory() as folder:
        engines = of_torch(program) | of_onnx(program, about, settings.data.folder("lmdb"), Path(folder))
    images = program.noise((args.batch, args.size, args.size))
    clock = time.process_time if args.processor_time else time.perf_counter
    times = measure.in_turn(*[lambda e=e: e(*images) for e in engines.values()], runs=args.runs, clock=clock)
    print(f"{measure.machine()}; {about['name']}, {args.batch} images of {args.size}x{args.size} pixels,"
          f" {'processor' if args.processor_time else 'wall'} time\n\n{measure.HEADER}")  # fmt: skip
    for name, found in zip(engines, times, strict=True):
        print(measure.row(name, found, times[0], args.batch, "images/s"))
    if args.weights:
        print("\n| what | mean IoU | overall accuracy | labels as in fp32 |\n|---|---|---|---|")
        for line in quality(engines, program, about, settings):
            print(line)


def random_net(name: str, settings: Settings) -> tuple[torch.nn.Module, dict]:
    """A net without training, for the config's inputs and classes."""
    details = read_details(settings.data.folder("lmdb"))
    inputs = settings.data.inputs(details["modalities"])
    torch.manual_seed(1)
    net = nets.build(name, {i.name: i.channels for i in inputs}, len(settings.classes.label_values))
    return net, settings.about() | {"name": name, "inputs": [i.to_dict() for i in inputs], "iteration": 0}


def of_torch(program: Program) -> dict[str, Engine]:
    """PyTorch as inference.py uses it: batch norm folded, channels_last."""
    net = program.net.to(memory_format=torch.channels_last)

    def engine(bf16: bool) -> Engine:
        device = Device(torch.device("cpu"), bf16)

        @torch.inference_mode()
        def work(*images: Tensor) -> Tensor:
            with device.autocast():
                return net(*[x.contiguous(memory_format=torch.channels_last) for x in images]).float()

        return work

    found = {"PyTorch, fp32": engine(False)}
    return found | ({"PyTorch, bf16": engine(True)} if choose("cpu").bf16 else {})


def of_onnx(program: Program, about: dict, lmdb: Path, folder: Path) -> dict[str, Engine]:
    """Both engines of ONNX files as inference.py uses them, with what `tools.export` makes, and `tools.export --int8`."""
    plain, found = onnx_file.convert(program), {}
    files = {"fp32": plain, "int8": int8.quantise(plain, int8.Examples.of_database(lmdb, program))}
    for kind, model in files.items():
        onnx_file.describe(model, program, about)
        onnx_file.save(model, folder / f"{kind}.onnx")
    for engine in ["onnxruntime", *([OPENVINO] if find_spec("openvino") else [])]:
        for kind in files:
            net = kind_of(engine)(folder / f"{kind}.onnx")
            found[f"{net.engine}, {kind}"] = net.probabilities
    return found


def quality(engines: dict[str, Engine], program: Program, about: dict, settings: Settings) -> Iterator[str]:
    """A line of a Markdown table per engine; the first engine is the one that the others are compared with."""
    patches = Patches(settings.data.folder("lmdb"), "test", program.inputs)
    items = [patches[i] for i in range(len(patches))]
    truth = torch.stack([labels for _, labels in items]).numpy()
    inputs = [
        torch.stack([images[i] for images, _ in items])[:, file_order(spec)].float() for i, spec in enumerate(program.inputs)
    ]
    plain = None
    for name, engine in engines.items():
        parts = zip(*[x.split(8) for x in inputs], strict=True)
        labels = torch.cat([engine(*part).argmax(1) for part in parts]).numpy()
        plain = labels if plain is None else plain
        report = scores.report(scores.confusion(truth, labels, len(about["classes"])), about["classes"], about["ignored"])
        values = (report["mean_iou_without_ignored"], report["overall_accuracy"], (labels == plain).mean())
        yield f"| {name} | {' | '.join(f'{100 * value:.2f} %' for value in values)} |"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--net", default="segnet")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--config", default="config.py")
    return parser.parse_args()


if __name__ == "__main__":
    main()
