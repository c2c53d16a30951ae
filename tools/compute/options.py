"""The options of command lines that say what computes; light, so that --help need not wait for PyTorch."""

import argparse

PRECISIONS = ("auto", "bf16", "tf32", "fp32")


def add_device(arguments: argparse.ArgumentParser) -> None:
    """The --device option."""
    arguments.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps ... (default: the GPU if there is one)")


def add_precision(arguments: argparse.ArgumentParser) -> None:
    """The --precision option."""
    what = "of the arithmetic (default: bf16 if the device is made for it, else fp32; tf32 is for CUDA)"
    arguments.add_argument("--precision", choices=PRECISIONS, default="auto", help=what)
