"""From a table of layers to a network: names are checked, channels are tracked, rows run in order, blobs are freed."""

import contextlib
import copy
import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from nets.layers import ANY_SIZE, KINDS, SIX, Blob, Row, Unit, size_multiple
from tools.base.errors import UserError, listing, nearest

_LARGE = 4096  # channels, or another number of a layer, from which on it is tried without memory first


class Box(NamedTuple):
    """A box of a picture of a net: a layer or stage, its kind, the boxes that it reads, the size of what it writes (C x H x W,
    or () if not known), learnable values."""

    name: str
    kind: str
    reads: tuple[str, ...]
    size: tuple[int, ...]
    learnable: int


class Net(nn.Module):
    """A table of layers as a module.

    Call it with one tensor per `data` row, each N x channels x H x W, in the order of the table; it returns what the last
    row writes (for a labelling net, N x classes x H x W logits). Weights are named after their layer: `conv1_1.weight`.
    Where the table has `auxiliary` rows, it returns while training a tuple: the same, and what each of these reads.

    rows: the table. inputs: channels of each `data` row by name. blobs: what is known of every blob. multiple: what height
    and width must be a multiple of. auxiliary: the weights of further losses, by row. notes: what whoever uses the net should
    know of it, in sentences. made_for: (height, width) that the file it came from declares. Raises UserError where the table
    does not hold together.
    """

    notes: Sequence[str] = ()
    made_for: tuple[int, int] | None = None

    def __init__(self, rows: Iterable[Row]):
        super().__init__()
        self.rows = list(rows)
        self.blobs: dict[str, Blob] = {}
        self.writes: dict[str, list[str]] = {}  # layer -> the blobs that it writes
        for row in self.rows:
            self._add(row)
        self.inputs = {row.name: self.blobs[row.name].channels for row in self.rows if row.kind == "data"}
        if not self.inputs:
            raise UserError("the table has no input: begin it with data('data', channels).")
        self.auxiliary = {row.name: row.args["weight"] for row in self.rows if row.kind == "auxiliary"}
        self.output = next((row.name for row in reversed(self.rows) if row.name not in self.auxiliary), "")
        self.classes = self.blobs[self.output].channels
        self.needed = {row.name for row in leading_to(self.output, self.rows, self.writes)}  # the rows that run in use
        self._frees = self._last_uses()
        self._sizes: dict[tuple, bool] = {}  # sizes of images -> whether they pass, where that has to be tried
        self._any_size = any(row.kind in ANY_SIZE for row in self.rows)

    @cached_property
    def multiple(self) -> int:
        """What height and width of images must be a multiple of; found when it is asked for, since it may take trying."""
        return _smallest_multiple(self) if self._any_size else size_multiple(self.blobs.values())

    def _add(self, row: Row) -> None:
        if row.name in self.writes:
            raise UserError(f"layer '{row.name}' stands in the table twice: give one of them another name.")
        if hasattr(self, row.name) or "." in row.name:
            raise UserError(f"a layer cannot be called '{row.name}': choose a name without dots that PyTorch does not use.")
        for name in row.reads:
            if name not in self.blobs:
                raise UserError(
                    f"layer '{row.name}' reads '{name}', but no layer above it writes '{name}'."
                    f"{nearest(name, self.blobs)} Blobs so far: {listing(self.blobs, 60) or 'none'}."
                )
        try:
            module, written = _built(row, [self.blobs[name] for name in row.reads])
        except UserError as error:
            raise UserError(f"layer '{row.name}': {error}") from None
        self.add_module(row.name, module)
        self.writes[row.name] = list(written)
        self.blobs |= written

    def _last_uses(self) -> dict[str, list[str]]:
        """For each layer, the blobs that nothing needs once it has run."""
        last = {}
        for row in self.rows:
            last |= dict.fromkeys([*row.reads, *self.writes[row.name]], row.name)
        for kept in (self.output, *self.auxiliary):
            last.pop(kept)
        return {row.name: [blob for blob, user in last.items() if user == row.name] for row in self.rows}

    def forward(self, *images: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not torch.compiler.is_compiling() and not images[0].is_meta:  # a trial on the meta device checks by itself
            self._check(images)
        blobs = dict(zip(self.inputs, images, strict=True))
        for row in self.rows:
            if row.kind != "data" and (self.training or row.name in self.needed):
                blobs |= self._run(row, blobs)
            for name in self._frees[row.name]:
                blobs.pop(name, None)
        if self.training and self.auxiliary:
            return blobs[self.output], *(blobs[name] for name in self.auxiliary)
        return blobs[self.output]

    def _run(self, row: Row, blobs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The blobs that a layer writes. (A function, so that no local variable outlives the layer and keeps them.)"""
        written, names = getattr(self, row.name)(*[blobs[name] for name in row.reads]), self.writes[row.name]
        return dict(zip(names, written, strict=True)) if len(names) > 1 else {names[0]: written}

    def _check(self, images: tuple[Tensor, ...]) -> None:
        if len(images) != len(self.inputs):
            raise UserError(f"the net reads {len(self.inputs)} inputs ({', '.join(self.inputs)}), not {len(images)}.")
        for (name, channels), image in zip(self.inputs.items(), images, strict=True):
            if image.shape[1] != channels:
                raise UserError(f"input '{name}' has {image.shape[1]} channels, the net reads {channels}.")
        if not self._any_size or not self._fits({n: tuple(i.shape[2:]) for n, i in zip(self.inputs, images, strict=True)}):
            check_size(*images[0].shape[2:], self.multiple)

    def _fits(self, sizes: dict[str, tuple[int, int]]) -> bool:
        """Whether images of these sizes pass a net that may round sizes: found by trying, once."""
        key = tuple(sizes.values())
        if key not in self._sizes:
            try:
                trial(self, sizes)
                self._sizes[key] = True
            except (RuntimeError, UserError):
                self._sizes[key] = False
        return self._sizes[key]

    def labels_in_full(self, size: tuple[int, int]) -> bool:
        """Whether images of this size (height, width) pass, and come out as large: found by trying shapes, without values."""
        if not self._any_size:
            return size[0] % self.multiple == size[1] % self.multiple == 0
        try:
            return tuple(trial(self, dict.fromkeys(self.inputs, size)).shape[2:]) == tuple(size)
        except (RuntimeError, UserError):
            return False

    def table(self, height: int | None = None, width: int | None = None) -> list[tuple[str, str, str, tuple, int]]:
        """(layer, kind, reads, size of its blob as C x H x W, learnable values) per row, for an image of this size."""
        height, width = height or max(128, self.multiple), width or max(128, self.multiple)
        rows = []
        for row in self.rows:
            blob = self.blobs[row.name]
            size = (blob.channels, max(1, int(height / blob.stride)), max(1, int(width / blob.stride)))
            rows.append((row.name, row.kind, ", ".join(row.reads), size, count_parameters(getattr(self, row.name))))
        return rows

    def boxes(self) -> list[Box]:
        """A box of a picture for each row."""
        writer = {blob: name for name, blobs in self.writes.items() for blob in blobs}
        reads = {row.name: tuple(writer[blob] for blob in row.reads) for row in self.rows}
        return [Box(name, kind, reads[name], size, learnable) for name, kind, _, size, learnable in self.table()]

    def __repr__(self) -> str:
        rows = [("layer", "kind", "reads", "writes", "learnable")]
        rows += [(n, k, r, " x ".join(map(str, s)), f"{p:,}" if p else "") for n, k, r, s, p in self.table()]
        sizes = f"sizes multiples of {self.multiple}" if self.multiple > 1 else "any size"
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(word.ljust(w) for word, w in zip(row, widths, strict=False)) + f"  {row[4]:>11}" for row in rows]
        return "\n".join([*lines, f"{count_parameters(self):,} learnable values, {sizes}"])

    def fuse(self) -> "Net":
        """A copy for inference with batch norms folded into the convolutions: the same outputs (to 1e-5), faster."""
        return fuse(self)

    def to_json(self) -> str:
        """The table as text, enough to build the same net again with `from_json`."""
        return json.dumps([{k: v for k, v in vars(row).items() if v not in (None, {})} for row in self.rows])

    @classmethod
    def from_json(cls, text: str) -> "Net":
        """The net that `to_json` wrote down. Raises UserError where a row is of no kind that we know."""
        return cls(_read_row(row) for row in json.loads(text))


def _built(row: Row, blobs: list[Blob]) -> tuple[nn.Module, dict[str, Blob]]:
    """The module of a row, and what it writes. Raises UserError for values that make none, or one too large for the memory."""
    numbers = [value for value in row.args.values() if isinstance(value, int)] + [blob.channels for blob in blobs]
    try:
        if max(numbers, default=0) > _LARGE:
            with without_values():
                _check_memory(row.build(blobs)[0])
        return row.build(blobs)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, IndexError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{row.kind} with {row.args} cannot be made ({reason}): correct its values.") from None


def _check_memory(module: nn.Module) -> None:
    """Raise UserError if the weights of a module are larger than the machine's memory."""
    needed = sum(p.numel() * p.element_size() for p in module.parameters())
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > there:
        raise UserError(
            f"its weights take {needed / 1e9:,.0f} GB, this machine has {there / 1e9:,.0f}: give it fewer channels."
        )


def _read_row(row: dict) -> Row:
    kind, args = row.get("kind"), row.get("args", {})
    if kind not in KINDS:
        raise UserError(
            f"layer '{row.get('name')}' is of the unknown kind '{kind}': it needs a newer version of this software."
        )
    unknown = set(args) - set(inspect.signature(KINDS[kind]).parameters)
    if unknown:
        raise UserError(f"layer '{row['name']}' has options that its kind {kind} lacks: {listing(unknown)}.")
    multipliers = {k: tuple(row[k]) for k in ("lr_mult", "decay_mult") if k in row}
    return Row(kind, row["name"], tuple(row.get("reads", ())), args, **multipliers)


class _ShapesAlone(TorchFunctionMode):
    """Leaves out what changes no shape. The meta device would compute nothing either, but import PyTorch's compiler for it."""

    _DRAWS = frozenset({"uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "erfinv_"})
    _KEEPS = frozenset({"batch_norm", "relu", "dropout", "hardtanh", "elu", "prelu", "sigmoid", "tanh", "relu6", "relu6_"})
    _PAIRS = frozenset({"add", "sub", "mul", "maximum"})

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in self._DRAWS | self._KEEPS:
            return args[0] if args else kwargs["tensor"]
        if name in self._PAIRS and all(isinstance(a, Tensor) and a.shape == args[0].shape for a in args):
            return args[0]
        if name == "mean" and args[1:] == ((2, 3),):
            return args[0][:, :, :1, :1]  # of all pixels
        if name == "interpolate" and kwargs.get("size") is not None:
            return args[0].new_empty((*args[0].shape[:2], *kwargs["size"]))
        if name == "cat":
            return _joined(*args)
        return function(*args, **kwargs or {})


def _joined(blobs: Sequence[Tensor], axis: int) -> Tensor:
    """A tensor of the shape that `torch.cat` would give. Raises RuntimeError if the others' sizes differ."""
    sizes = [(*blob.shape[:axis], *blob.shape[axis + 1 :]) for blob in blobs]
    if len(set(sizes)) > 1:
        raise RuntimeError(f"blobs of different sizes cannot be joined: {listing(sizes)}")
    shape = list(blobs[0].shape)
    shape[axis] = sum(blob.shape[axis] for blob in blobs)
    return blobs[0].new_empty(shape)


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Within this block nets are built on the meta device: shapes alone, no values, in no time."""
    with torch.device("meta"), _ShapesAlone():
        yield


def trial(net: Net, sizes: dict[str, tuple[int, int]]) -> Tensor:
    """What the net would write for one image per input of these sizes (height, width): a tensor without values.

    Nothing is computed, only shapes. Raises RuntimeError or UserError where they do not fit together.
    """
    state = {name: value.to("meta") for name, value in net.state_dict().items()}
    images = [torch.empty(2, net.inputs[name], *sizes[name], device="meta") for name in net.inputs]
    with torch.no_grad(), _ShapesAlone():
        written = torch.func.functional_call(net, state, tuple(images))
    return written[0] if isinstance(written, tuple) else written


def _smallest_multiple(net: Net) -> int:
    """The smallest power of two such that images whose sizes are multiples of it pass the net and keep their size.

    Found by trying, since layers that round sizes up can do without it where a crop or a resize evens things out. 1 where
    no size passes, as for a net with fully connected layers.
    """
    for multiple in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        odd = 256 // multiple + 1
        size = (odd * multiple, (odd + 2) * multiple)
        try:
            written = trial(net, dict.fromkeys(net.inputs, size))
        except (RuntimeError, UserError):
            continue
        if net.blobs[net.output].stride != 1 or tuple(written.shape[2:]) == size:
            return multiple
    return 1


def leading_to(blob: str, rows: Iterable[Row], writes: Mapping[str, Iterable[str]]) -> list[Row]:
    """The rows on which a blob depends, in their order. writes: the blobs that each row writes."""
    wanted, kept = {blob}, []
    for row in reversed(list(rows)):
        if not wanted.isdisjoint(writes[row.name]):
            wanted |= set(row.reads)
            kept.append(row)
    return kept[::-1]


def count_parameters(module: nn.Module) -> int:
    """Learnable values of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def check_size(height: int, width: int, multiple: int) -> None:
    """Raise UserError, with the nearest good size, unless both are multiples of `multiple`."""
    if height % multiple or width % multiple:
        good = [max(multiple, round(n / multiple) * multiple) for n in (height, width)]
        raise UserError(
            f"this net cannot take images of {height}x{width} pixels: height and width must be multiples of {multiple}"
            f" (the nearest: {good[0]}x{good[1]})."
        )


def check_windows(net: nn.Module, height: int, width: int) -> None:
    """Raise UserError, with a size that works, unless the net can label windows of this size in full.

    For nets with sizes of their own (a fixed unpooling, a crop) that is found by a trial of shapes.
    """
    check_size(height, width, net.multiple)
    if not isinstance(net, Net) or (good := good_size(net, (height, width))) == (height, width):
        return
    way = f"take windows of {good[0]}x{good[1]}" if good else "none of about this size pass; take the one that it was made for"
    raise UserError(
        f"this net cannot label windows of {height}x{width} pixels, since its layers have sizes of their own: {way}."
    )


def good_size(net: Net, size: tuple[int, int]) -> tuple[int, int] | None:
    """A size (height, width) of images that the net labels in full: this one if it does, or the one that it was made for, or
    one near; None where none was found.
    """
    height, width = size
    near = [(height + d, width + d) for d in (*range(1, 33), *range(-1, -33, -1))]
    near += [(height + 8 * i, width + 8 * j) for i in range(5) for j in range(5)]  # paddings that suit one parity each
    known = [size, net.made_for, *_implied_sizes(net), *near]
    return next((one for one in known if one and min(one) > 0 and net.labels_in_full(one)), None)


def _implied_sizes(net: Net) -> list[tuple[int, int]]:
    """The sizes of images that unpoolings to a fixed size can be meant for."""
    fixed = [row for row in net.rows if row.kind == "upsample" and row.args.get("size")]
    return [tuple(int(n * net.blobs[row.name].stride) for n in row.args["size"]) for row in fixed]


def fuse(net: Net) -> Net:
    """A copy of the net for inference, in which no batch norm is left that follows a convolution.

    Its table says so, so that it can be kept as any other net; to train it would be to train another net.
    """
    modules = {row.name: copy.deepcopy(getattr(net, row.name)) for row in net.rows if row.name in net.needed}
    rows: dict[str, Row] = {}
    instead: dict[str, str] = {}  # batch norm or ReLU6 that is gone -> the convolution that does its work
    for row in [row for row in net.rows if row.name in net.needed]:
        alone = len(row.reads) == 1 and _readers(net, row.reads[0]) == 1
        row = replace(row, reads=tuple(instead.get(name, name) for name in row.reads))
        module = modules[row.name]
        norm = _as_norm(module) if row.name != net.output else None
        source = row.reads[0] if norm is not None else ""
        if source in rows and _is_bare(rows[source], modules[source]) and _readers(net, source) == 1:
            instead[row.name] = source
            rows[source] = _folded(rows[source], modules[source], norm)
        elif row.kind == "relu6" and alone and row.name != net.output and _can_cut_off(rows, modules, row.reads[0]):
            instead[row.name] = row.reads[0]
            rows[row.reads[0]] = _cut_off(rows[row.reads[0]], modules[row.reads[0]])
        elif isinstance(module, Unit) and module.bn is not None:
            rows[row.name] = _folded(row, module, module.bn)
            module.bn = None
        else:
            rows[row.name] = row
    with without_values():
        fused = Net(rows.values())
    for name in rows:
        setattr(fused, name, modules[name])
    return fused.eval()


def _as_norm(module: nn.Module) -> nn.BatchNorm2d | None:
    """The layer as a batch norm by fixed statistics, None if it is none; of its own kinds nets/caffe/norms.py says that."""
    if hasattr(module, "as_norm"):
        return module.as_norm()
    return module if isinstance(module, nn.BatchNorm2d) else None


def _is_bare(row: Row, module: nn.Module) -> bool:
    return isinstance(module, Unit) and module.bn is None and not module.relu


def _can_cut_off(rows: Mapping[str, Row], modules: Mapping[str, nn.Module], source: str) -> bool:
    return source in rows and _is_bare(rows[source], modules[source])


def _cut_off(row: Row, conv: Unit) -> Row:
    """Have a convolution end in a ReLU6, in place: memory of its own would take a sixth of the time of the light net."""
    conv.relu = SIX
    return replace(row, args={**row.args, "relu": SIX})


def _readers(net: Net, blob: str) -> int:
    return sum(row.reads.count(blob) for row in net.rows)


def _folded(row: Row, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Row:
    """Change the weights of a convolution to what it gives after a batch norm; its row, without one, comes back."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )  # fmt: skip
    return replace(row, args={**row.args, "norm": False, "bias": True})
