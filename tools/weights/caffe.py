"""Caffe's weights: .caffemodel files (V1, V2, HDF5) read into a net by layer name, and written."""

import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from nets.caffe.prototxt_write import CaffeLayer, caffe_layers, caffe_name, scale_name
from nets.net import Net
from tools.base.errors import UserError, listing
from tools.base.folders import whole_file
from tools.weights.caffe_batch_norm import FRACTION, batches_of
from tools.weights.caffe_proto import BlobProto, NetParameter, RawBlob, SolverState

Blobs = dict[str, list[np.ndarray]]  # layer -> its blobs
_MOST_VALUES = 1 << 31  # of a blob; a file of a few bytes may say that it holds any number of them
_HDF5 = b"\x89HDF\r\n\x1a\n"


# --------------------------------------------------------------------------------------------------------------- reading


def is_caffemodel(path: str | Path) -> bool:
    """Whether a file is called as Caffe's weights are: .caffemodel, or .h5 for those in HDF5."""
    return str(path).endswith((".caffemodel", ".h5"))


def read_caffemodel(path: str | Path) -> Blobs:
    """The blobs of each layer that has any, float32, from a .caffemodel (old or new) or .caffemodel.h5.

    Blobs keep the shape that the file gives: 1 x 1 x 1 x N for the biases of old files. Raises UserError where the file is
    missing, broken off, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    with path.open("rb") as file:
        start = file.read(len(_HDF5))
    try:
        blobs = _read_hdf5(path) if start == _HDF5 else _read_protobuf(path)
    except UserError:
        raise
    except (DecodeError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError):
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no whole .caffemodel: it breaks off, or is a file of another kind; copy"
            " it again, or name another one."
        ) from None
    if not blobs:
        raise UserError(f"{path} holds no weights of Caffe: a .caffemodel or .caffemodel.h5 is wanted.")
    return blobs


def _read_protobuf(path: Path) -> Blobs:
    message = NetParameter.FromString(path.read_bytes())
    return {x.name: [_array(b) for b in x.blobs] for x in [*message.layer, *message.layers] if x.blobs}


def _array(blob: BlobProto) -> np.ndarray:
    values = blob.data or blob.double_data
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    return np.fromiter(values, np.float32, len(values)).reshape(shape)


def _read_hdf5(path: Path) -> Blobs:
    import h5py  # only here: few files are of this kind

    found: Blobs = {}

    def visit(name: str, item) -> None:
        layer, _, index = name.rpartition("/")
        if isinstance(item, h5py.Dataset) and index.isdigit():
            if item.external or item.is_virtual:
                raise UserError(f"{path}: '{name}' lies in another file, which is not read: copy the weights into this one.")
            if item.size > _MOST_VALUES:
                raise UserError(f"{path}: '{name}' says that it has {item.size:,} values, which no layer has.")
            found.setdefault(layer, {})[int(index)] = np.asarray(item, np.float32)

    with h5py.File(path, "r") as file:
        if not isinstance(file.get("data", getlink=True), h5py.HardLink | type(None)):
            raise UserError(f"{path}: its weights lie in another file, which is not read: copy them into this one.")
        file["data"].visititems(visit)
    return {layer: [blobs[i] for i in range(len(blobs))] for layer, blobs in found.items()}


# --------------------------------------------------------------------------------------------------- a net's own layers


@dataclass
class Report:
    """What came of loading weights into a net.

    loaded: rows of the table that got weights. ignored: layers of the file that the net lacks. kept: layers of the net that
    the file lacks, whose values stay as they were.
    """

    path: Path
    loaded: list[str]
    ignored: list[str]
    kept: list[str]

    def __str__(self) -> str:
        lines = [f"{self.path}: weights of {len(self.loaded)} layers loaded ({listing(self.loaded)})"]
        lines += [f"not in the file, left as they were: {listing(self.kept)}"] if self.kept else []
        lines += [f"in the file only, ignored: {listing(self.ignored)}"] if self.ignored else []
        return "\n".join(lines)


@dataclass
class Slot:
    """Where one layer of Caffe keeps its blobs in a net.

    row: of the table. tensors: the blobs, or none where `norm` is a batch norm whose three blobs have their own form. bn: the
    layer, where it is one that Caffe's forks call BN, whose blobs are 1 x C x 1 x 1.
    """

    row: str
    tensors: list[Tensor]
    norm: nn.BatchNorm2d | None = None
    bn: nn.Module | None = None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the blobs that Caffe has for this layer."""
        if self.bn is not None:
            return [(1, len(t), 1, 1) for t in self.tensors]
        if self.norm is None:
            return [tuple(t.shape) for t in self.tensors]
        return [(self.norm.num_features,), (self.norm.num_features,), (1,)]

    @torch.no_grad()
    def fill(self, blobs: list[np.ndarray]) -> None:
        """Take over blobs of these shapes."""
        if self.norm is None:
            for tensor, blob in zip(self.tensors, blobs, strict=True):
                tensor.copy_(torch.from_numpy(blob.reshape(tuple(tensor.shape))))
            if len(self.tensors) == 4:
                self.bn.num_batches_tracked.fill_(1)  # it has statistics
            return
        mean, variance, factor = (torch.from_numpy(b.reshape(-1).copy()) for b in blobs)
        factor = factor.item()
        self.norm.running_mean.copy_(mean / factor if factor else torch.zeros_like(mean))
        self.norm.running_var.copy_(variance / factor if factor else torch.zeros_like(variance))
        fraction = getattr(self.norm, "fraction", FRACTION)
        self.norm.num_batches_tracked.fill_(batches_of(factor, fraction))

    def blobs(self) -> list[np.ndarray]:
        """What Caffe would hold here; the factor of batch norms is 1."""
        tensors = self.tensors
        if self.norm is not None:
            tensors = [self.norm.running_mean, self.norm.running_var, torch.ones(1)]
        elif getattr(self.bn, "counted", False):
            tensors = _with_statistics(self.bn)
        arrays = [t.detach().cpu().float().numpy() for t in tensors]
        return arrays if self.bn is None else [a.reshape(1, -1, 1, 1) for a in arrays]


def _with_statistics(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift that do the work of a batch norm by its statistics, as SegNet's compute_bn_statistics.py finds them."""
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    return scale, bn.bias.double() - scale * bn.running_mean.double()


def slots(net: Net) -> dict[str, Slot]:
    """Where each layer of Caffe that has weights keeps them in a net, by Caffe's name of the layer."""
    found = {}
    for row in net.rows:
        module, name = net.get_submodule(row.name), caffe_name(row.name)
        norm = module if row.kind == "batch_norm" else getattr(module, "bn", None)
        if row.kind == "batch_norm":
            found[name] = Slot(row.name, [], norm)
        elif row.kind in ("bn_learn", "bn_inference", "bn_moving"):
            statistics = [module.running_mean, module.running_var] if row.kind == "bn_moving" else []
            found[name] = Slot(row.name, [module.weight, module.bias, *statistics], bn=module)
        elif row.kind == "bias":
            found[name] = Slot(row.name, [module.bias])
        elif isinstance(getattr(module, "weight", None), Tensor):
            found[name] = Slot(row.name, _weight_and_bias(module))
            if norm is not None:
                found[name + "_bn"] = Slot(row.name, [], norm)
        if norm is not None and norm.affine:
            scale = caffe_name(scale_name(row)) if row.kind == "batch_norm" else name + "_scale"
            found[scale] = Slot(row.name, _weight_and_bias(norm))
    return found


def _weight_and_bias(module: nn.Module) -> list[Tensor]:
    return [t for t in (module.weight, getattr(module, "bias", None)) if t is not None]


def table_net(net: nn.Module) -> Net:
    """The net, if it is a table. Raises UserError for a library's."""
    if not isinstance(net, Net):
        raise UserError(f"this net ({type(net).__name__}) is no table of layers, so Caffe's files cannot hold it.")
    return net


def load_caffemodel(net: nn.Module, path: str | Path) -> Report:
    """Fill the layers of a net that a .caffemodel has under the same name; batch norms take BatchNorm and Scale.

    Raises UserError, and changes nothing, where a layer's blobs have other shapes, or no layer has a namesake.
    """
    wanted, given = slots(table_net(net)), read_caffemodel(path)
    common = [name for name in given if name in wanted]
    if not common:
        raise UserError(
            f"{path} has no layer of this net: it has {listing(given)}; the net has {listing(wanted)}. Weights go by name:"
            " rename the layers."
        )
    for name in common:
        _check(path, name, [b.shape for b in given[name]], wanted[name].shapes)
    for name in common:
        wanted[name].fill(given[name])
    return Report(
        Path(path),
        loaded=list(dict.fromkeys(wanted[name].row for name in common)),
        ignored=[name for name in given if name not in wanted],
        kept=[name for name, slot in wanted.items() if name not in given and slot.row in net.needed],
    )


def _check(path: str | Path, name: str, given: list[tuple], wanted: list[tuple]) -> None:
    if len(given) == len(wanted) and all(_same(g, w) for g, w in zip(given, wanted, strict=True)):
        return
    if {len(given), len(wanted)} == {2, 4} and all(_bare(g) == _bare(wanted[0]) for g in given):
        what = "PSPNet's BN, with statistics" if len(given) == 4 else "SegNet's BN, without statistics"
        say = "slope_filler { }" if len(given) == 4 else "bn_mode: INFERENCE"
        raise UserError(f"layer '{name}' in {path} is {what}, but the prototxt means the other: write bn_param {{ {say} }}.")
    raise UserError(
        f"layer '{name}' has the shape {_shapes(given)} in {path}, but {_shapes(wanted)} in the net: rename the layer to train"
        " it from scratch."
    )


def _same(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a blob can fill another: of the same shape but for axes of 1, or fully connected weights for a convolution.

    Those are the same numbers in the same order, when the convolution reads what the fully connected layer read (VGG's fc6).
    """
    given, wanted = _bare(given), _bare(wanted)
    return given == wanted or (len(given) == 2 < len(wanted) and given == (wanted[0], math.prod(wanted[1:])))


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its axes of 1."""
    return tuple(n for n in shape if n != 1)


def _shapes(shapes: Iterable[tuple]) -> str:
    return " and ".join("x".join(map(str, s)) or "one value" for s in shapes) or "none"


def refuse_solverstate(path: str | Path) -> None:
    """Raise UserError if a file is a .solverstate of Caffe; ours are zip files."""
    path = Path(path)
    if path.is_file() and not zipfile.is_zipfile(path) and _is_caffe_state(path):
        raise UserError(
            f"{path} is a .solverstate of Caffe, which is not read: begin a new run with the weights that belong to it, by"
            f" --init {path.with_suffix('.caffemodel').name}."
        )


def _is_caffe_state(path: Path) -> bool:
    data = path.read_bytes()
    if data.startswith(_HDF5):
        return True
    try:
        state = SolverState.FromString(data)
    except DecodeError:
        return False
    return state.HasField("iter") and bool(state.history or state.HasField("learned_net"))


# --------------------------------------------------------------------------------------------------------------- writing


def write_caffemodel(net: nn.Module, path: str | Path, size: tuple[int, int] | None = None, by_corners: bool = False) -> None:
    """Write the weights of a table net as a .caffemodel of Caffe's new format; `load_caffemodel` gives them back exactly.

    size, by_corners: as in `nets.caffe.prototxt_write.caffe_layers`. Raises UserError, naming layer and kind, for tables with
    layers that Caffe lacks.
    """
    layers, held = caffe_layers(table_net(net), size, by_corners), slots(net)
    message = NetParameter(name=Path(path).stem)
    for layer in layers:
        _add(message, layer, held[layer.name].blobs() if layer.name in held else [])
    with whole_file(path) as temporary:
        temporary.write_bytes(message.SerializeToString())


def _add(message: NetParameter, layer: CaffeLayer, blobs: list[np.ndarray]) -> None:
    entry = message.layer.add(name=layer.name, type=layer.type, bottom=layer.bottoms, top=layer.tops)
    for values in blobs:
        blob = entry.blobs.add()
        blob.shape.dim.extend(values.shape)
        blob.MergeFromString(RawBlob(data=values.astype("<f4").tobytes()).SerializeToString())
