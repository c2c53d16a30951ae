"""Takes on a net that somebody else has trained: makes a weights file of ours of it, which inference.py labels with.

    python -m tools.adopt FLAIR-INC_rgbie_12cl_resnet34-unet_weights.pth --net smp:Unet/resnet34 --bands R G B NIR height \\
        --mean 105.08 110.87 101.82 106.38 53.26 --std 52.17 45.38 44 39.69 79.3 --classes classes.csv \\
        --window 512 --pixel-size 0.2 --out weights/flair.safetensors
    python inference.py --config weights/flair.py --images tiles/ --dir maps/ --weights weights/flair.safetensors

writes weights/flair.safetensors and weights/flair.py, a config for it. The net is one that `python -m nets` lists; the file may
be wrapped as INIT_MODEL's may. classes.csv names the classes, a line each: name,r,g,b (or name,colour and #rrggbb), with a
column number if planes of the net are left out. Mean and deviation are in pixel values, or in pixels / --scale.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import whole_file
from tools.data.inputs import Input
from tools.labels.class_table import ClassRow, read_classes
from tools.labels.palette import Palette
from tools.weights.units import Units, from_config

if TYPE_CHECKING:  # PyTorch loads when work begins, not for --help
    from torch import nn

    from tools.weights.sources import Source
    from tools.weights.torchvision_names import Layers


def main():
    args = arguments()
    out = args.out or Path("weights") / f"{args.file.stem}.safetensors"
    check_out(out, args.overwrite)
    classes = read_classes(args.classes)
    palette = Palette([c.name for c in classes], {i: c.colour for i, c in enumerate(classes)})

    import nets
    from tools.weights import snapshots, sources

    source = sources.read(str(args.file))
    seen = make_input(args.bands, units_of(args, source))
    net = nets.build(args.net, {seen.name: seen.channels}, len(classes))
    notes = fill_whole(net, source, classes)
    about = {
        "name": args.net, "iteration": f"adopted from {args.file.name}", "dataset": out.stem, "classes": palette.names,
        "palette": {str(label): list(colour) for label, colour in palette.colours.items()}, "ignored": [],
        "patch_size": [args.window, args.window], "pixel_size": args.pixel_size, "inputs": [seen.to_dict()],
    }  # fmt: skip
    snapshots.save_net(out, net, about)
    config = out.with_suffix(".py")
    with whole_file(config) as temporary:
        temporary.write_text(config_of(out, seen, palette, args.window), encoding="utf-8")
    print("\n".join([f"{out}: {args.net}, {seen.channels} bands, {len(classes)} classes", *notes]))
    print(f"label with it: python inference.py --config {config} --images FILES --dir maps/ --weights {out}")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="weights (.pth, .safetensors), or a folder of save_pretrained")
    parser.add_argument("--net", required=True, metavar="NAME", help="the net they are of, such as smp:Unet/resnet34")
    parser.add_argument("--bands", required=True, nargs="+", metavar="NAME",
                        help="the bands of an image file that the net reads, in this order, '-' for one that it does not read;"
                             " of several files: rgbi=R,G,B,NIR dsm=height")  # fmt: skip
    parser.add_argument("--mean", nargs="+", type=float, metavar="X", help="of each band, taken off")
    parser.add_argument("--std", nargs="+", type=float, metavar="X", help="deviation of each band, divided by")
    parser.add_argument("--scale", type=commands.number(0), metavar="X", help="255 if both are of pixels divided by 255")
    parser.add_argument("--classes", required=True, type=Path, metavar="CSV", help="names and colours of the classes")
    parser.add_argument("--window", type=commands.whole_number(1), default=512, metavar="PIXELS",
                        help="the sides of the images that it was trained on (default: 512)")  # fmt: skip
    parser.add_argument("--pixel-size", type=commands.number(0), metavar="METRES", help="of those images, for --resample")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the weights file (default: weights/NAME.safetensors)")
    commands.add_overwrite(parser)
    return parser.parse_args()


def check_out(out: Path, overwrite: bool) -> None:
    """Raise UserError if the files that are to be written may not be."""
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: our weights are safetensors, name it {out.with_suffix('.safetensors')}.")
    existing = [str(path) for path in (out, out.with_suffix(".py")) if path.exists()]
    if existing and not overwrite:
        raise UserError(f"{' and '.join(existing)} exists already: choose another --out, or add --overwrite.")


def units_of(args, source: "Source") -> Units:
    """Mean and deviation as the command line says, else as the source says of itself. Raises UserError if neither does."""
    if args.mean is None and args.std is None and source.units:
        return source.units
    if args.mean is None or args.std is None:
        raise UserError(
            f"{args.file} does not say in which units its net sees pixels: give --mean and --std, a number per band (0 and 1 if"
            " pixels go in as they are)."
        )
    given = {"mean": args.mean, "std": args.std} | ({"scale": args.scale} if args.scale else {})
    return from_config(given, "--mean and --std")


def make_input(words: list[str], units: Units) -> Input:
    """The net's one input, of the bands that --bands names."""
    files = [word.partition("=") for word in words] if any("=" in word for word in words) else [("image", "=", ",".join(words))]
    bands = {name: names.split(",") for name, sign, names in files if sign}
    if len(bands) < len(files) or not all(name.isidentifier() and all(names) for name, names in bands.items()):
        raise UserError(f"--bands {' '.join(words)}: name the bands of one file, or all of several, rgbi=R,G,B,NIR dsm=height.")
    picks = tuple(tuple(i for i, band in enumerate(names) if band != "-") for names in bands.values())
    counts, whole = tuple(map(len, picks)), tuple(map(len, bands.values()))
    if sum(counts) != len(units.mean) or not all(counts):
        raise UserError(
            f"--bands names {sum(counts)} bands that the net reads, but there are {len(units.mean)} means: as many."
        )
    odd = {} if counts == whole else {"picks": picks, "file_bands": whole}
    name = next(iter(bands))
    return Input(name, tuple(bands), counts, False, units.raw_mean, units.raw_deviation, **odd)


def fill_whole(net: "nn.Module", source: "Source", classes: list[ClassRow]) -> list[str]:
    """Fill all layers of a net; what there is to say of it. Raises UserError if one would stay random, or does not fit."""
    from tools.weights.fit import fill, misfit, of_other_classes
    from tools.weights.names import match, own_layers

    found, own = match(net, source.tensors), own_layers(net, net.state_dict())
    if not found:
        raise UserError(f"{source.name} has no layer of this net: it has {listing(source.tensors, 4)}; see `python -m nets`.")
    layers = {layer: dict(tensors) for layer, tensors in found.layers.items()}
    last = [layer for layer, tensors in own.items() if tensors][-1]
    misfits = [layer for layer in layers if misfit(layer, layers[layer], own[layer])]
    others = of_other_classes(net, misfits, layers, own) or [last]
    notes = [note for layer in others if layer in layers and (note := choose_planes(layers, layer, classes))]
    wrong = [why for layer in layers if (why := misfit(layer, layers[layer], own[layer]))]
    wrong += [f"it lacks '{n}' of the net" for n, tensors in own.items() if tensors and n not in layers]
    if wrong:
        raise UserError(f"{source.name} is not of this net: {listing(wrong, 3)}; see --net, --bands and `python -m nets`.")
    fill(net, layers)
    return notes + ([f"not used of the file: {listing(found.unused)}"] if found.unused else [])


def choose_planes(layers: "Layers", layer: str, classes: list[ClassRow]) -> str:
    """Keep, of a layer that writes a plane for each class of the source, those of our classes; what was done, or "".

    A single plane, which is the logit of a second class, becomes two: 0 and itself, of which the softmax is its sigmoid.
    """
    import torch

    tensors, wanted = layers[layer], [c.number for c in classes]
    count = len(tensors["weight"])
    if count == 1 and len(wanted) == 2:
        layers[layer] = {name: torch.cat([torch.zeros_like(value), value]) for name, value in tensors.items()}
        return f"one plane: its logit is that of '{classes[1].name}' against '{classes[0].name}'"
    if max(wanted) >= count:
        raise UserError(
            f"--classes has {len(wanted)} classes, up to number {max(wanted)}, but the net tells {count} apart, 0 to"
            f" {count - 1}: name those."
        )
    layers[layer] = {name: value[wanted] for name, value in tensors.items()}
    return f"{count - len(wanted)} of its {count} planes are left out, as --classes does not name them" * (count > len(wanted))


def config_of(weights: Path, seen: Input, palette: Palette, window: int) -> str:
    """The text of a config with which the weights label files."""
    folders = {m: m + "/{}.tif" for m in seen.modalities} | {"labels": "gts_numpy/{}.tif"}
    values = {
        "DATASET": weights.stem, "DATASET_DIR": f"data/{weights.stem}/", "folders": folders,
        "INPUTS": {seen.name: list(seen.modalities)}, "label_values": palette.names, "palette": palette.colours,
        "train_ids": ["none"], "test_patch_size": (window, window), "TTA": None,  # one look, as at home
    }  # fmt: skip
    lines = "".join(f"{name} = {json.dumps(v) if isinstance(v, str) else repr(v)}\n" for name, v in values.items())
    return f'"""Labels with {weights.name}, which tools.adopt made; --images names the files."""\n\n{lines}'


if __name__ == "__main__":
    run(main)
