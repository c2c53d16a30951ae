"""Lists what NET can name in the config, with learnable values, or prints the table of one net.

python -m nets
python -m nets --libraries
python -m nets deeplabv3plus/vgg16
python -m nets smp:Unet/resnet34 --inputs irrg=3 --classes 6
"""

import argparse

import nets
from nets.net import count_parameters, without_values
from tools.base.errors import UserError, run

CLASSES = 6
ENCODER, VIT = "resnet34", "tu-vit_tiny_patch16_224"  # the encoders that stand for all in the list; DPT takes ViTs alone


def main():
    args = arguments()
    if args.net:
        print(nets.build(args.net, args.inputs or nets.example_inputs(args.net), args.classes))
        return
    print("Tables of this folder (3 channels per input, 6 classes), and Caffe's of any .prototxt:")
    for name in nets.names_with_backbones():
        print_line(name)
    if args.libraries:
        print_libraries()
    else:
        print("Nets of segmentation_models_pytorch (smp:Unet/resnet34) and torchvision: python -m nets --libraries")


def print_libraries() -> None:
    """The nets of the libraries, which take seconds to import."""
    from nets import libraries

    print("\ntorchvision's:")
    for name in libraries.torchvision_names():
        print_line(f"torchvision:{name}")
    print("\nsegmentation_models_pytorch's, as smp:ARCHITECTURE/ENCODER, for example:")
    for name in libraries.architectures():
        print_line(f"smp:{name}/{VIT if name == 'DPT' else ENCODER}")
    own = libraries.smp.encoders.get_encoder_names()
    print(f"with the encoders {', '.join(own)},\nand timm's {len(libraries.encoders()) - len(own)} (tu-NAME), such as"
          " tu-convnext_tiny, tu-efficientnet_b4, tu-hrnet_w18, tu-swin_tiny_patch4_window7_224.")  # fmt: skip


def print_line(name: str) -> None:
    """The name of a net and its learnable values."""
    inputs = nets.example_inputs(name)
    try:
        with without_values():  # counting needs none
            net = nets.build(name, inputs, CLASSES)
    except (RuntimeError, UserError):
        net = nets.build(name, inputs, CLASSES)
    print(f"  {name:44} {count_parameters(net):>12,}{'   two inputs' * (len(inputs) > 1)}")


def one_input(word: str) -> tuple[str, int]:
    """("irrg", 3) from "irrg=3"."""
    name, _, channels = word.partition("=")
    if not name.isidentifier() or not channels.isdigit() or not int(channels):
        raise argparse.ArgumentTypeError(f"'{word}' is not NAME=CHANNELS, such as irrg=3")
    return name, int(channels)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", nargs="?", help="the net to print")
    parser.add_argument("--libraries", action="store_true", help="list the nets of the libraries, too")
    parser.add_argument("--inputs", nargs="+", type=one_input, metavar="NAME=CHANNELS", help="default: 3 channels each")
    parser.add_argument("--classes", type=int, default=CLASSES, help="default: %(default)s")
    args = parser.parse_args()
    args.inputs = dict(args.inputs) if args.inputs else None
    return args


if __name__ == "__main__":
    run(main)
