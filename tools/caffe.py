"""Writes a snapshot for Caffe: the net as .prototxt, its weights as .caffemodel.

    python -m tools.caffe data/demo_snapshots_segnet/net_iter_1500.safetensors --out segnet

writes segnet.prototxt and segnet.caffemodel from a snapshot, and prints which layer holds what. The prototxt begins with what
a program must know that feeds it: band order, units, mean, classes. Caffe's own
files, of any age, are read by the scripts themselves, by name as in Caffe: `python training.py --init old.caffemodel`,
`python inference.py --weights old.caffemodel`.
"""

from pathlib import Path
from typing import Any

from nets.caffe.prototxt_write import caffe_layers, usual_size, write_prototxt
from nets.net import check_windows
from tools.base import commands
from tools.base.errors import UserError, run
from tools.base.folders import whole_file
from tools.base.locks import locked
from tools.data.inputs import Input
from tools.weights import snapshots
from tools.weights.caffe import slots, table_net, write_caffemodel


def main():
    parser = commands.parser(__doc__)
    parser.add_argument("weights", type=Path, metavar="SNAPSHOT", help="net_iter_N.safetensors")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME", help="writes NAME.prototxt and NAME.caffemodel")
    parser.add_argument("--size", type=commands.whole_number(1), nargs=2, metavar=("H", "W"),
                        help="of the images that the prototxt declares (default: the patches of training)")  # fmt: skip
    parser.add_argument("--interp", action="store_true",
                        help="write resizing by areas as Interp, which goes by corners: scores differ a little")  # fmt: skip
    commands.add_overwrite(parser)
    args = parser.parse_args()
    files = [args.out.with_name(args.out.name + suffix) for suffix in (".prototxt", ".caffemodel")]
    existing = [str(f) for f in files if f.exists()]
    if existing and not args.overwrite:
        raise UserError(f"{' and '.join(existing)} exists already: choose another name, or add --overwrite.")
    net, about = snapshots.load_net(args.weights)
    size = tuple(args.size or about.get("patch_size") or usual_size(table_net(net)))
    check_windows(table_net(net), *size)
    text = write_prototxt(net, args.out.name, size, comments(args.weights, about, size), args.interp)
    with locked(files[0]):
        with whole_file(files[0]) as temporary:
            temporary.write_text(text, encoding="utf-8")
        write_caffemodel(net, files[1], size, args.interp)
    held, layers = slots(net), caffe_layers(net, size, args.interp)
    for layer in layers:
        blobs = [" x ".join(map(str, shape)) for shape in held[layer.name].shapes] if layer.name in held else []
        print(f"{layer.name:24} {layer.type:14} {', '.join(blobs)}".rstrip())
    print(f"{files[0]} and {files[1]}: {len(layers)} layers")


def comments(weights: Path, about: dict[str, Any], size: tuple[int, int]) -> list[str]:
    """Lines for the head of a prototxt: what whoever feeds the net must know. about: what the weights say of themselves."""
    lines = [f"Written by orthonets from {weights.name}.", f"input size: {size[0]} x {size[1]} pixels (height x width)"]
    for spec in map(Input.from_dict, about.get("inputs", [])):
        lines += _of_input(spec)
    if "classes" in about:
        lines.append("classes: " + ", ".join(f"{i} {name}" for i, name in enumerate(about["classes"])))
    ignored = about.get("ignored") or []
    return [*lines, f"not learned: {', '.join(map(str, ignored))}"] if ignored else lines


def _of_input(spec: Input) -> list[str]:
    """What an input is made of, and what is taken off its pixels."""
    bands = []
    for i, modality in enumerate(spec.modalities):
        numbers = [n + 1 for n in (spec.picks[i] if spec.picks else range(spec.bands[i]))]
        bands.append(f"{modality} bands {' '.join(map(str, numbers[::-1] if spec.bgr else numbers))}")
    kinds = f" ({', '.join(spec.dtypes)})" if spec.dtypes else ""
    lines = [f"input '{spec.name}': channels in this order: {', '.join(bands)} of the file; units: as in the file{kinds}"]
    if spec.raw:
        return [*lines, "  its pixels go in as they are"]
    lines.append(f"  mean to take off: {' '.join(f'{m:g}' for m in spec.mean)}")
    if spec.deviation:
        lines.append(f"  then divide by: {' '.join(f'{d:g}' for d in spec.deviation)}")
    if spec.clip and any(spec.clip):
        lines.append(f"  then hold between 0 and 1: channels {' '.join(str(i) for i, c in enumerate(spec.clip, 1) if c)}")
    return lines


if __name__ == "__main__":
    run(main)
