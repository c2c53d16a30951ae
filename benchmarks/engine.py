"""The engine's tricks in one run: fused, bf16 and channels_last against plain fp32; torch.compile; blobs freed and kept.

python -m benchmarks.engine [--net segnet] [--batch 10] [--size 128] [--runs 7] [--memory 1024] [--no-compile]
"""

import argparse
import multiprocessing
from pathlib import Path

import torch

import nets
from benchmarks.measure import HEADER, in_turn, machine, row
from nets.net import Net


def main():
    args = arguments()
    torch.manual_seed(1)
    images = torch.randn(args.batch, 3, args.size, args.size)
    plain = nets.build(args.net, {"irrg": 3}, 6).eval()
    works = {"plain fp32": inference(plain, images), **tricks(plain, images)}
    if args.compile:
        works["fused, torch.compile, fp32"] = inference(torch.compile(plain.fuse(), fullgraph=True), images)
    times = in_turn(*works.values(), runs=args.runs)
    print(f"{machine()}; {args.net}, {args.batch} images of {args.size}x{args.size} pixels\n\n{HEADER}")
    for name, found in zip(works, times, strict=True):
        print(row(name, found, times[0], args.batch, "images/s"))
    print(f"\npeak memory of labelling one image of {args.memory}x{args.memory} in fp32, beyond net and image:\n")
    print("| what | MB |\n|---|---|")
    for name, keep in (("blobs freed after their last reader", False), ("blobs kept", True)):
        print(f"| {name} | {in_a_process(args.net, args.memory, keep):,.0f} |")


def tricks(plain: Net, images: torch.Tensor) -> dict:
    """What to measure beside the plain net, by name."""
    last = images.contiguous(memory_format=torch.channels_last)
    return {
        "fused": inference(plain.fuse(), images),
        "fused, channels_last": inference(plain.fuse().to(memory_format=torch.channels_last), last),
        "bf16, channels_last": inference(nets_like(plain).to(memory_format=torch.channels_last), last, bf16=True),
        "fused, bf16, channels_last": inference(plain.fuse().to(memory_format=torch.channels_last), last, bf16=True),
    }


def nets_like(net: Net) -> Net:
    """A copy, since to change the memory format changes a net in place."""
    again = nets.rebuild(nets.describe(net)).eval()
    again.load_state_dict(net.state_dict())
    return again


def inference(net, images: torch.Tensor, bf16: bool = False):
    """A call that labels the images once."""

    @torch.inference_mode()
    def work():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            net(images)

    return work


def in_a_process(name: str, size: int, keep: bool) -> float:
    """Peak memory in MB, in a fresh process, where nothing else has raised the peak before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_memory, (name, size, keep))


@torch.inference_mode()
def peak_memory(name: str, size: int, keep: bool) -> float:
    """How far one image raises the process's peak memory, in MB (Linux)."""
    net, image = nets.build(name, {"irrg": 3}, 6).eval(), torch.randn(1, 3, size, size)
    if keep:
        net._frees = {layer: [] for layer in net._frees}
    net(image[:, :, :64, :64])  # libraries set up what they keep
    before = peak()
    net(image)
    return peak() - before


def peak() -> float:
    """The process's peak memory so far, in MB. (getrusage's would begin at the peak of the process that started this one.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="segnet")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--memory", type=int, default=1024)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    return parser.parse_args()


if __name__ == "__main__":
    main()
