"""Caffe's weights: reads .caffemodel files of any age into a net, and writes a net for Caffe.

    python -m tools.caffe data/demo_snapshots_segnet/net_iter_1500.safetensors --out segnet

writes segnet.prototxt and segnet.caffemodel from a snapshot. Reading goes by name, as in Caffe:
`python training.py --init old.caffemodel`, `python inference.py --weights old.caffemodel`.
"""

from pathlib import Path

from nets.caffe.prototxt_write import caffe_layers, write_prototxt
from tools.base import commands
from tools.base.errors import UserError, run
from tools.base.folders import whole_file
from tools.base.locks import locked
from tools.weights import snapshots
from tools.weights.caffe import table_net, write_caffemodel


def main():
    parser = commands.parser(__doc__)
    parser.add_argument("weights", type=Path, metavar="SNAPSHOT", help="net_iter_N.safetensors")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME", help="writes NAME.prototxt and NAME.caffemodel")
    commands.add_overwrite(parser)
    args = parser.parse_args()
    files = [args.out.with_name(args.out.name + suffix) for suffix in (".prototxt", ".caffemodel")]
    existing = [str(f) for f in files if f.exists()]
    if existing and not args.overwrite:
        raise UserError(f"{' and '.join(existing)} exists already: choose another name, or add --overwrite.")
    net, _ = snapshots.load_net(args.weights)
    text = write_prototxt(table_net(net), args.out.name)
    with locked(files[0]):
        with whole_file(files[0]) as temporary:
            temporary.write_text(text, encoding="utf-8")
        write_caffemodel(net, files[1])
    print(f"{files[0]} and {files[1]}: {len(caffe_layers(net))} layers")


if __name__ == "__main__":
    run(main)
