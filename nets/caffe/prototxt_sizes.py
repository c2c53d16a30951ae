"""Rows whose form depends on the size of the images, which Caffe finds by running: fully connected, flattening, reshaping."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import torch

from nets.layers import NO_PIXELS, Row
from nets.net import Net, trial
from tools.base.errors import UserError

Sizes = Mapping[str, tuple[int, int]]  # (height, width) of the inputs


def sized(rows: list[Row], sizes: Sizes) -> list[Row]:
    """The rows, with how many values the layers read that need to know: of an image of the size that the file declares."""
    done: list[Row] = []
    for row in rows:
        if row.kind in ("inner_product", "flatten"):
            row = replace(row, args=row.args | {"values": _shape(row, done, sizes)[1:].numel()})
        elif row.kind == "reshape":
            row = _reshaped(row, done, sizes)
        done.append(row)
    return done


def _shape(row: Row, above: list[Row], sizes: Sizes) -> torch.Size:
    """The shape of the blob that a row reads."""
    above = _leading_to(row.reads[0], above)
    missing = [r.name for r in above if r.kind == "data" and r.name not in sizes]
    if missing:
        raise UserError(
            f"layer '{row.name}' needs to know the size of the images, but the file does not say that of '{missing[0]}': give"
            " it an input_shape (or Input layer) with four dims."
        )
    try:
        with torch.device("meta"):  # without memory for weights: those of fc6 alone are 400 MB
            net = Net(above)
        return trial(net, {name: sizes[name] for name in net.inputs}).shape
    except RuntimeError as error:
        raise UserError(f"layer '{row.name}' cannot follow images of these sizes: {error}") from None


def _reshaped(row: Row, above: list[Row], sizes: Sizes) -> Row:
    from nets.caffe.layers import Reshape

    shape = (2, *row.args["shape"][1:])  # the trial is with two images, and images are not to be mixed
    try:
        written = Reshape(shape)(torch.empty(_shape(row, above, sizes), device="meta")).shape
    except UserError as error:
        raise UserError(f"layer '{row.name}': {error}") from None
    height = sizes[next(r.name for r in _leading_to(row.reads[0], above) if r.kind == "data")][0]
    stride = Fraction(height, written[2]) if len(written) == 4 and written[2] > 1 else NO_PIXELS
    return replace(row, args={"shape": (0, *shape[1:]), "channels": written[1], "stride": str(stride)})


def leading_to(blobs: set[str], rows: list[Row]) -> list[Row]:
    """The rows on which blobs depend."""
    wanted, kept = set(blobs), []
    for row in reversed(rows):
        if any(blob in wanted for blob in written(row)):
            wanted |= set(row.reads)
            kept.append(row)
    return kept[::-1]


def _leading_to(blob: str, rows: list[Row]) -> list[Row]:
    return leading_to({blob}, rows)


def written(row: Row) -> list[str]:
    """The blobs that a row writes."""
    if row.kind == "pooling":
        return [row.name, row.name + "_mask"]
    if row.kind == "slice_blob":
        cuts = row.args["cuts"]
        return [f"{row.name}_{i}" for i in range(cuts if isinstance(cuts, int) else len(cuts) + 1)]
    return [row.name]
