"""Caffe's prototxt as rows: layers of any Caffe since 2014 become the table that Caffe would run.

What is not part of the net falls away: accuracies, labels, data sources (they become inputs), layers of the other phase, an
ArgMax at the end, and whatever leads neither to a loss nor, without one, to the last layer. The scores of the loss that
weighs most are the net's; those of others become `auxiliary` rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nets import layers
from nets.caffe import coordinates, prototxt_losses
from nets.caffe.prototxt_fuse import fuse, names
from nets.caffe.prototxt_kinds import HAVE_WEIGHTS, READS, TYPES
from nets.caffe.prototxt_layers import NOT_THE_NET, OTHER_LOSSES, REFUSED, SOURCES, Layer
from nets.caffe.prototxt_losses import Loss
from nets.caffe.prototxt_sizes import leading_to, sized
from nets.caffe.prototxt_text import Message, read
from nets.caffe.prototxt_write import STAND_IN, caffe_name, write_prototxt
from nets.layers import Row
from nets.net import Net
from tools.base.errors import UserError, listing, nearest

__all__ = ["Table", "read_prototxt", "write_prototxt"]


@dataclass
class Table:
    """What a prototxt declares.

    rows: the net. ignore_label: of the loss, None without one. sizes: (height, width) of each input, where the file says so.
    left_out: layers that were dropped because the output does not depend on them. notes: what whoever uses the net should
    know, in sentences.
    """

    rows: list[Row]
    ignore_label: int | None = None
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_prototxt(
    path: str | Path,
    inputs: Mapping[str, int] | None = None,
    phase: str | None = None,
    values: Mapping[str, str | int] | None = None,
) -> Table:
    """The table that a prototxt declares.

    inputs: channels by input, for files whose inputs are data layers, which do not say them; matched by name, else by order.
    phase: TEST or TRAIN, which `include` and `exclude` refer to; None for TEST, unless only TRAIN has inputs. values: what
    stands for ${NAME} in templates such as DeepLab's. Raises UserError, naming layer and type, for what is not known here.
    """
    try:
        return _Reader(read(path, values), phase, dict(inputs or {})).table()
    except UserError as error:
        prefix = "" if str(error).startswith(str(path)) else f"{path}: "
        raise UserError(f"{prefix}{error}") from None


def inputs_of(path: str | Path) -> dict[str, int | None]:
    """The inputs of a prototxt's net: name -> channels, None where the file does not say them."""
    reader = _Reader(read(path, {"NUM_LABELS": 1}), None, {})
    rows = reader.whole()
    return {row.name: reader.channels[row.name] for row in rows if row.kind == "data"}


def row_name(name: str) -> str:
    """The name of a row for a layer of this name: without what a module cannot be called. `caffe_name` is the way back."""
    name = name.replace(".", STAND_IN)
    return name + STAND_IN if name in _TAKEN else name


_TAKEN = {*dir(Net([layers.data("data", 1)]))} - {"data"}


# ------------------------------------------------------------------------------------------------------- the whole net


class _Reader:
    """From the layers of a file to rows. Blobs that are written in place get a new name each time: that of the layer."""

    def __init__(self, message: Message, phase: str | None, inputs: dict[str, int]):
        if message.all("layer") and message.all("layers"):
            raise UserError("it mixes 'layer' and 'layers': Caffe reads one or the other, so make them alike.")
        if not message.all("layer") and not message.all("layers"):
            raise UserError("it declares no layers: name the prototxt of a net (a solver names it after 'net:').")
        self.layers, self.other = _of_phase(message, phase)
        self.message, self.inputs = message, inputs
        self.rows: list[Row] = []
        self.blobs: dict[str, str] = {}  # Caffe's blob -> the blob of the row that wrote it last
        self.channels: dict[str, int | None] = {}  # of the inputs
        self.sizes: dict[str, tuple[int, int]] = {}
        self.losses: list[Loss] = []
        self.loss: Loss | None = None  # whose scores the net is for
        self.notes: list[str] = []
        self.left_out: list[str] = []  # layers that are of no use here, by name and type
        self.sharers: dict[str, str] = {}  # name of shared weights -> layer

    def table(self) -> Table:
        rows = sized(self._with_channels(self.whole()), self.sizes)
        every, loss = [row for row in self.rows if row.kind != "auxiliary"], self.loss
        kept = {name for row in rows for name in names(row)}
        sizes = {row.name: self.sizes[row.name] for row in rows if row.name in self.sizes}
        left_out = [caffe_name(row.name) for row in every if row.name not in kept and not self._of_labels(row, kept)]
        notes = [*self.notes, *self._notes(rows, left_out)]
        return Table(rows, loss.ignore_label if loss else None, sizes, left_out, notes)

    def whole(self) -> list[Row]:
        """The rows of the net, the channels of its inputs as yet unknown."""
        self._old_inputs()
        for layer in self.layers:
            self._add(layer)
        self.losses = self.losses or self._losses_elsewhere()
        self.loss = prototxt_losses.main_loss(self.losses)
        output = self.loss.scores if self.loss else self._last()
        self.notes = self._train_with(self.loss) if self.loss else []
        return fuse(self._leading_to(output))

    def _leading_to(self, output: str) -> list[Row]:
        """The rows of the net, the one that writes its output last but for losses."""
        further = [row for row in self.rows if row.kind == "auxiliary"]
        rows = leading_to({output, *(row.name for row in further)}, self.rows)
        for row in rows:
            if row.kind == "argmax":
                raise UserError(f"layer '{row.name}' (ArgMax): it is known only as the last layer, where it falls away.")
        main = [row for row in leading_to({output}, self.rows) if row.kind != "data"]
        ahead = [row for row in rows if row not in main and row not in further]
        return [*(row for row in rows if row in ahead or row in main[:-1]), *main[-1:], *further]

    def _train_with(self, main: Loss) -> list[str]:
        """Add a row for each further loss that can train with the main one; what is to be said of the losses."""
        labels = {loss.label: next((r.name for r in leading_to({loss.label}, self.rows)), "") for loss in self.losses}
        further, notes = prototxt_losses.sorted_out(self.losses, main, labels)
        for loss in list(further):
            if main.scores in {row.name for row in leading_to({loss.scores}, self.rows)}:
                notes.append(f"the loss '{loss.name}' is left out: its scores are made from those of '{main.name}'.")
                further.remove(loss)
            else:
                self.rows.append(layers.auxiliary(self._free_name(loss.name), loss.scores, loss.weight / main.weight))
        return [*notes, *prototxt_losses.notes_on(main, further)]

    def _losses_elsewhere(self) -> list[Loss]:
        """The losses of the other phase, which tell what the scores are in this one, too."""
        known = [layer for layer in self.other if all(b in self.blobs for b in layer.bottoms)]
        return [Loss.of(layer, [self.blobs[b] for b in layer.bottoms]) for layer in known if prototxt_losses.is_loss(layer)]

    def _of_labels(self, row: Row, kept: set[str]) -> bool:
        """Whether a row is made from inputs alone that the net does not read: from labels, as a loss wants them."""
        return not kept.intersection(r.name for r in leading_to({row.name}, self.rows) if r.kind == "data")

    def _notes(self, rows: list[Row], left_out: list[str]) -> list[str]:
        """What is to be said of the net itself."""
        notes = []
        if left_out or self.left_out:
            notes.append(f"left out, since its scores do not depend on them: {listing([*left_out, *self.left_out], 6)}.")
        if any(row.kind == "dropout" and row.args.get("sample") for row in rows):
            notes.append("its dropout samples when testing, too (sample_weights_test): label with `--tta dropout 40` for that.")
        if frozen := [row.name for row in rows if row.kind == "bn_moving" and row.args.get("frozen")]:
            notes.append(f"its {len(frozen)} BN layers are frozen: their weights and statistics do not learn.")
        if learning := [row.name for row in rows if row.kind == "bn_learn"]:
            notes.append(
                f"its {len(learning)} BN layers learn (bn_mode: LEARN): weights that Caffe trained have no statistics for them,"
                " so that each batch of windows is labelled by its own; training.py gathers them."
            )
        return notes

    def _last(self) -> str:
        """The blob that the net gives where no loss says which."""
        if not self.rows or self.rows[-1].kind == "data":
            raise UserError("it has no layer that computes anything in this phase.")
        if self.rows[-1].kind == "argmax":
            return self.rows[-1].reads[0]
        if self.rows[-1].kind == "slice_blob":
            raise UserError(f"its last layer '{self.rows[-1].name}' writes several blobs: a net must end in one.")
        return self.rows[-1].name

    def _old_inputs(self) -> None:
        """Inputs in the manner of 2014: `input: "data"` with four `input_dim` each, or an `input_shape`."""
        names, dims = [str(n) for n in self.message.all("input")], self.message.all("input_dim")
        shapes = [s.all("dim") for s in self.message.all("input_shape")] or [dims[i : i + 4] for i in range(0, len(dims), 4)]
        for i, name in enumerate(names):
            self._input(name, shapes[i] if i < len(shapes) else [])

    def _input(self, top: str, shape: list[int]) -> None:
        name = self._free_name(top)
        self.blobs[top] = name
        self.channels[name] = shape[1] if len(shape) > 1 else None
        if len(shape) == 4:
            self.sizes[name] = (shape[2], shape[3])
        self.rows.append(Row("data", name, ()))

    def _free_name(self, name: str) -> str:
        taken = {row.name for row in self.rows}
        free, i = row_name(name), 2
        while free in taken:
            free, i = f"{row_name(name)}_{i}", i + 1
        return free

    def _add(self, layer: Layer) -> None:
        if "layer" in layer.message.fields:
            raise UserError("its layers are of the format before 2014: run Caffe's upgrade_net_proto_text on it first.")
        if layer.is_source:
            return self._add_source(layer)
        if layer.type in REFUSED:
            layer.refuse(REFUSED[layer.type])
        known = sorted({*TYPES, *SOURCES, *NOT_THE_NET, "Split"})
        if layer.type not in known:
            layer.refuse(f"layers of this type are unknown here.{nearest(layer.type, known)} Known are {listing(known, 40)}.")
        reads = [self._find(layer, b) for b in layer.bottoms]
        if layer.type in NOT_THE_NET:
            return self._add_loss(layer, reads)
        if layer.type == "Split":
            self.blobs |= dict.fromkeys(layer.tops, reads[0])
            return None
        if self._repeated_relu(layer, reads):
            return None
        self._add_row(layer, reads)

    def _add_row(self, layer: Layer, reads: list[str]) -> None:
        most = len(reads) if layer.type in ("Concat", "Eltwise") else READS.get(layer.type, 1)
        if not 0 < len(reads) <= most or not layer.tops:
            layer.refuse(f"it reads {len(reads)} blobs (bottom) and writes {len(layer.tops)} (top), which is not supported")
        if layer.type == "Slice" and self._cut_input(layer, reads[0]):
            return
        name = self._free_name(layer.name or layer.tops[0])
        if layer.type in HAVE_WEIGHTS:
            self._check_weights(layer, name)
        row = TYPES[layer.type](layer, reads, name)
        if row.kind == "crop" and layer.old and not layer.message.all("crop_param"):
            row = self._cut_by_place(layer, row)
        layer.close()
        suffixes = {"pooling": ["", "_mask"], "slice_blob": [f"_{i}" for i in range(len(layer.tops))]}.get(row.kind, [""])
        if len(layer.tops) > len(suffixes):
            layer.refuse(f"it has {len(layer.tops)} tops, but writes {len(suffixes)}")
        self.rows.append(row)
        self.blobs |= {top: name + suffix for top, suffix in zip(layer.tops, suffixes, strict=False)}

    def _cut_input(self, layer: Layer, read: str) -> bool:
        """Whether a Slice cuts what a data layer brings into pictures and labels, as FuseNet's: then its parts are inputs."""
        points = layer.message.last("slice_param", Message()).all("slice_point")
        if self.channels.get(read, 0) is not None or len(points) != len(layer.tops) - 1:
            return False
        for top, first, last in zip(layer.tops, [0, *points], [*points, None], strict=True):
            size = self.sizes.get(read, ())
            self._input(top, [1, None if last is None else last - first, *size])
        return True

    def _cut_by_place(self, layer: Layer, row: Row) -> Row:
        """The row of an old CROP, which finds out by itself where to cut."""
        try:
            return replace(row, args={"offset": coordinates.offset(coordinates.places_of(self.rows), *row.reads)})
        except UserError as error:
            layer.refuse(str(error))

    def _check_weights(self, layer: Layer, name: str) -> None:
        if name != row_name(layer.name):
            layer.refuse("another layer with weights has the same name: rename one of them")
        for shared in layer.shared():
            if self.sharers.setdefault(shared, layer.name) != layer.name:
                layer.refuse(f"it shares the weights '{shared}' with '{self.sharers[shared]}', which is not supported")

    def _find(self, layer: Layer, bottom: str) -> str:
        if bottom not in self.blobs:
            layer.refuse(
                f"it reads '{bottom}', but no layer above it writes '{bottom}'.{nearest(bottom, self.blobs)}"
                f" Blobs so far: {listing(self.blobs, 60) or 'none'}."
            )
        return self.blobs[bottom]

    def _repeated_relu(self, layer: Layer, reads: list[str]) -> bool:
        """Whether a layer is an in-place ReLU once more: a published FuseNet lists one twice, which changes nothing."""
        last = next((row for row in reversed(self.rows) if row.name in reads), None)
        return (
            layer.type == "ReLU" and last is not None and last.kind == "relu" and not last.args
            and layer.bottoms == layer.tops and last.name == row_name(layer.name)
        )  # fmt: skip

    def _add_source(self, layer: Layer) -> None:
        shapes = _source_shapes(layer)
        for i, top in enumerate(layer.tops):
            self._input(top, shapes[min(i, len(shapes) - 1)] if shapes else [])
            crop = layer.message.last("transform_param", Message()).last("crop_size")
            dense = layer.message.last("dense_image_data_param", Message())
            size = (crop, crop) if crop else (dense.last("new_height"), dense.last("new_width"))
            if all(size) and i == 0:
                self.sizes.setdefault(self.blobs[top], size)

    def _add_loss(self, layer: Layer, reads: list[str]) -> None:
        if prototxt_losses.is_loss(layer):
            self.losses.append(Loss.of(layer, reads))
        elif layer.type in OTHER_LOSSES or layer.type in ("MatWrite", "HDF5Output"):
            self.left_out.append(f"{layer.name} ({layer.type})")

    def _with_channels(self, rows: list[Row]) -> list[Row]:
        """The rows, with the channels of the inputs: the file's, or where it does not tell, the ones that were asked for."""
        names = [row.name for row in rows if row.kind == "data"]
        wanted = self.inputs
        if wanted and len(wanted) != len(names):
            raise UserError(
                f"the net reads {len(names)} inputs ({', '.join(names)}), but there are {len(wanted)}"
                f" ({', '.join(wanted)}): the config's INPUTS must be as many."
            )
        order = list(wanted) if set(wanted) == set(names) else names
        channels = {}
        for name, (given, count) in zip(order, wanted.items() or [(n, None) for n in names], strict=True):
            channels[name] = self.channels[name] or count
            if channels[name] is None:
                raise UserError(f"it does not say how many channels its input '{name}' has: say so in `inputs`.")
            if count is not None and channels[name] != count:
                raise UserError(
                    f"its input '{name}' has {channels[name]} channels, but '{given}' has {count}: they must agree."
                )
        data = [layers.data(name, channels[name]) for name in order]
        return [*data, *(row for row in rows if row.kind != "data")]


def _of_phase(message: Message, phase: str | None) -> tuple[list[Layer], list[Layer]]:
    """The layers that a phase includes, TEST's where none is asked for, unless only TRAIN brings data; those of the other."""
    state, old = message.last("state", Message()), bool(message.all("layers"))
    found = {}
    for name in ("TEST", "TRAIN"):
        layers = [Layer(m, old, name) for m in message.all("layer") or message.all("layers")]
        found[name] = [layer for layer in layers if layer.included(state)]
    brings = {name: bool(message.all("input")) or any(x.is_source for x in layers) for name, layers in found.items()}
    phase = phase or ("TRAIN" if brings["TRAIN"] and not brings["TEST"] else "TEST")
    return found.pop(phase), next(iter(found.values()))


def _source_shapes(layer: Layer) -> list[list[int]]:
    """N x C x H x W of each top of a layer that brings data, as far as it says."""
    p = layer.message.last("input_param") or layer.message.last("dummy_data_param") or Message()
    if p.all("shape"):
        return [s.all("dim") for s in p.all("shape")]
    if p.all("channels"):  # the old DummyData
        return [list(four) for four in zip(*(p.all(k) for k in ("num", "channels", "height", "width")), strict=False)]
    p = layer.message.last("memory_data_param", Message())
    return [[p.last(k) for k in ("batch_size", "channels", "height", "width")], []] if p.fields else []
