"""Caffe's layers that belong together, as one row: a convolution with its batch norm and ReLU, BatchNorm with its Scale."""

from collections.abc import Callable
from dataclasses import replace

from nets.layers import Row


def fuse(rows: list[Row]) -> list[Row]:
    """Convolution X and, where nothing else reads what lies between, X_bn, X_scale and X_relu as one row `conv("X", ...)`.

    BatchNorm and Scale under other names become one row `batch_norm` that knows the name of the Scale layer.
    """
    rows = _merge(rows, "batch_norm", "scale", _with_scale)
    rows = _merge(rows, "conv", "batch_norm", _with_norm)
    return _merge(rows, "conv", "relu", _with_relu)


def _merge(rows: list[Row], first: str, second: str, join: Callable[[Row, Row], Row | None]) -> list[Row]:
    """The rows, with each one of the kind `first` joined with the `second` that alone reads it, where `join` says how."""
    readers: dict[str, list[Row]] = {}
    for row in rows:
        for name in row.reads:
            readers.setdefault(name, []).append(row)
    joined, renamed = {}, {}
    for row in rows:
        follower = readers.get(row.name, [])
        if row.kind == first and len(follower) == 1 and follower[0].kind == second:
            both = join(row, follower[0])
            if both:
                joined[row.name], renamed[follower[0].name] = both, both.name
    kept = [joined.get(row.name, row) for row in rows if row.name not in renamed]
    return [replace(row, reads=tuple(renamed.get(n, n) for n in row.reads)) for row in kept]


def _with_scale(norm: Row, scale: Row) -> Row | None:
    if norm.args.get("affine", True) or scale.args.get("bias") is False:
        return None
    args = {"scale": scale.name} | {k: v for k, v in norm.args.items() if k != "affine"}
    return replace(norm, args=args, lr_mult=(1.0, 1.0, *scale.lr_mult), decay_mult=(1.0, 1.0, *scale.decay_mult))


def _with_norm(conv: Row, norm: Row) -> Row | None:
    usual = norm.name == conv.name + "_bn" and norm.args == {"scale": conv.name + "_scale"}
    if not usual or conv.args["relu"]:
        return None
    lr, decay = conv.lr_mult + norm.lr_mult[2:], conv.decay_mult + norm.decay_mult[2:]
    return replace(conv, args=conv.args | {"norm": True}, lr_mult=lr, decay_mult=decay)


def _with_relu(conv: Row, relu: Row) -> Row | None:
    if relu.name != conv.name + "_relu" or relu.args:
        return None
    args = {k: v for k, v in conv.args.items() if k not in ("norm", "relu")}
    return replace(conv, args=args if conv.args["norm"] else args | {"norm": False})


def names(row: Row) -> list[str]:
    """The layers of Caffe that a row stands for, by the names of their rows."""
    if row.kind == "conv":
        return [row.name, *(row.name + s for s in ("_bn", "_scale", "_relu"))]
    return [row.name, row.args["scale"]] if row.args.get("scale") and row.kind == "batch_norm" else [row.name]
