"""A net from end to end, from the pixels of rasters to probabilities, traced by torch.export: what exports are made of."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import lcm

import torch
from torch import Tensor, nn

from tools.base.errors import UserError
from tools.data.inputs import Input

_SIDE = 128  # pixels, at least, of the images that a net is traced and checked with


class EndToEnd(nn.Module):
    """A net that takes raw pixels, the bands in the files' order, and gives probabilities, N x classes x H x W.

    net: ours, for inference. inputs: what it was trained on; their order of bands and their normalisation become its own.
    """

    def __init__(self, net: nn.Module, inputs: Sequence[Input]):
        super().__init__()
        self.net, self.inputs = net, list(inputs)
        for spec in inputs:
            self.register_buffer(f"order_{spec.name}", torch.tensor(file_order(spec)))

    def forward(self, *images: Tensor) -> Tensor:
        """images: per input N x channels x H x W, float32."""
        return self.net(*map(self._seen, self.inputs, images)).softmax(1)

    def _seen(self, spec: Input, image: Tensor) -> Tensor:
        # Rasters of whole numbers cannot hold NaN, and OpenCV 4 refuses files that ask for it (IsNaN, IsInf).
        return spec.normalise(image.index_select(1, self.get_buffer(f"order_{spec.name}")), finite=spec.of_integers)


def file_order(spec: Input) -> list[int]:
    """Where the net's channels stand in the files' order, and the other way round: each modality is reversed, or none is."""
    order: list[int] = []
    for bands in spec.bands:
        block = range(len(order), len(order) + bands)
        order += reversed(block) if spec.bgr else block
    return order


def raw(spec: Input) -> Input:
    """The input as such a net reads it, which orders and normalises by itself."""
    fill = tuple((spec.fill or spec.mean)[i] for i in file_order(spec))
    return replace(spec, bgr=False, mean=(0.0,) * spec.channels, deviation=None, clip=None, raw=True, fill=fill)


@dataclass(frozen=True)
class Program:
    """A net from end to end, and what torch.export made of it.

    name: for people. multiple: what height and width must be multiples of. size: the only height and width, where it has one.
    """

    name: str
    net: EndToEnd
    traced: torch.export.ExportedProgram
    multiple: int
    size: int | None

    @property
    def inputs(self) -> list[Input]:
        """What the net was trained on."""
        return self.net.inputs

    def __str__(self) -> str:
        bands = " and ".join(f"{spec.channels} bands of {spec.name}" for spec in self.inputs)
        open_sizes = f"any multiple of {self.multiple}" if self.multiple > 1 else "any number of"
        return f"reads {bands}, {f'{self.size} x {self.size}' if self.size else open_sizes} pixels"

    def noise(self, shape: tuple[int, int, int]) -> tuple[Tensor, ...]:
        """Raw pixels that the net could have been trained on, by their mean and deviation: N x channels x H x W per input."""
        return _noise(self.inputs, shape)

    def shapes(self) -> list[tuple[int, int, int]]:
        """Batches, N x H x W, that show whether the file is as open as it says."""
        side = self.size or _side(self.multiple, self.net.net)
        more = 0 if self.size else _odd(self.multiple)
        return [(1, side, side), (2, side + more, side), (3, side, side + 3 * more)]


def _side(multiple: int, net: nn.Module) -> int:
    least = max(_SIDE, getattr(net, "least", 0))
    return -(-least // multiple) * multiple


def _odd(multiple: int) -> int:
    return multiple if multiple > 1 else 3


def trace(net: nn.Module, about: dict, size: int | None = None) -> Program:
    """The net of a snapshot from end to end, for batches of any number and images of any size, or of one.

    about: what the snapshot says of itself. size: height and width in pixels. Raises UserError where the net does not take that
    size, or where PyTorch cannot trace it.
    """
    name, inputs = about["name"], [Input.from_dict(i) for i in about["inputs"]]
    net = net.eval().fuse().eval()
    multiple = lcm(net.multiple, getattr(net, "pad_to", 1))  # nets of libraries pad by themselves, which cannot be traced
    if size and (size % multiple or size < getattr(net, "least", 0)):
        raise UserError(f"--size {size}: {name} takes multiples of {multiple}, such as {_side(multiple, net)}.")
    whole = EndToEnd(net, inputs).eval()
    side = size or _side(multiple, net)
    example = _noise(inputs, (2, side, size or side + max(multiple, 32)))
    any_number = torch.export.Dim.AUTO
    axes = {0: any_number} if size else dict.fromkeys((0, 2, 3), any_number)
    with quiet(), torch.no_grad():
        try:
            traced = torch.export.export(whole, example, dynamic_shapes=(tuple(axes for _ in inputs),))
        except Exception as error:  # whatever a library's net makes PyTorch raise
            raise UserError(_cannot(name, size, first_line(error))) from None
    if any(shape[axis].isdigit() for shape in _shapes(traced) for axis in axes):
        raise UserError(_cannot(name, size, "it does something else for other batches or sizes"))
    return Program(name, whole, traced, multiple, size)


def _shapes(traced: torch.export.ExportedProgram) -> list[list[str]]:
    """The shapes of a program's inputs: numbers, or symbols where they are open."""
    names = traced.graph_signature.user_inputs
    return [[str(n) for n in node.meta["val"].shape] for node in traced.graph.nodes if node.name in names]


def _cannot(name: str, size: int | None, reason: str) -> str:
    if size:
        return f"{name} cannot be exported: {reason}; choose another net."
    return f"{name} cannot be exported for open sizes: {reason}; name the one that you need with --size."


def _noise(inputs: Sequence[Input], shape: tuple[int, int, int]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    images = []
    for spec in inputs:
        mean, deviation = torch.tensor(spec.mean), torch.tensor(spec.deviation or (50.0,) * spec.channels)
        pixels = mean.view(-1, 1, 1) + deviation.view(-1, 1, 1) * torch.randn(
            shape[0], spec.channels, *shape[1:], generator=generator
        )
        images.append(pixels[:, file_order(spec)])
    return tuple(images)


def first_line(error: Exception) -> str:
    """What an error says, without what follows in the lines below."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(" .:;")


@contextmanager
def quiet() -> Iterator[None]:
    """Within this block no warnings: those of PyTorch's exporters are about PyTorch's own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
