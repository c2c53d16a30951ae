"""Caffe's solver.prototxt as settings of this project: what SOLVER = "solver.prototxt" in a config means."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tools.base.errors import UserError, listing, nearest

TYPES = ("SGD", "NESTEROV", "ADAGRAD", "RMSPROP", "ADADELTA", "ADAM")  # by the numbers that old files may give
# What is of no consequence for the weights, or said elsewhere here: places, displays, tests, devices.
NO_MATTER = {
    "net", "train_net", "test_net", "net_param", "train_net_param", "test_net_param", "train_state", "test_state", "test_iter",
    "test_interval", "test_compute_loss", "test_initialization", "display", "average_loss", "snapshot_prefix", "snapshot_diff",
    "snapshot_format", "snapshot_after_train", "solver_mode", "device_id", "random_seed", "debug_info", "layer_wise_reduce",
    "weights",
}  # fmt: skip


class Solver(NamedTuple):
    """settings: of the config, by name. left_out: fields of the file that have no part in them."""

    settings: dict[str, Any]
    left_out: list[str]


class Fields:
    """The fields of a solver's message; whoever asks for one knows it."""

    def __init__(self, path: str | Path):
        from nets.caffe.prototxt_text import read  # only here: a config without such a file need not wait for it

        self.path, self.message, self.known = path, read(path), set(NO_MATTER)

    def one(self, name: str, default: Any = None) -> Any:
        """A field that is given once, or its default. Raises UserError if it has none and is missing."""
        self.known.add(name)
        value = self.message.last(name, default)
        if value is None:
            raise UserError(f"{self.path} has no {name}: is it the prototxt of a solver?")
        return value

    def all(self, name: str) -> list:
        self.known.add(name)
        return self.message.all(name)

    def given(self, name: str) -> bool:
        self.known.add(name)
        return name in self.message.fields


def read_solver(path: str | Path) -> Solver:
    """The settings that a solver.prototxt means. Raises UserError that names what is not supported."""
    fields = Fields(path)
    settings = {"BASE_LR": float(fields.one("base_lr")), "LR_POLICY": _policy(fields), "SOLVER": _solver(fields)}
    if fields.given("iter_size"):
        settings["ITER_SIZE"] = fields.one("iter_size")
    if fields.given("clip_gradients") and fields.one("clip_gradients") > 0:
        settings["GRADIENT_CLIP"] = float(fields.one("clip_gradients"))
    if fields.given("snapshot") and fields.one("snapshot") > 0:
        settings["SNAPSHOT_EVERY"] = fields.one("snapshot")
    if fields.given("max_iter"):
        settings["NITER"] = fields.one("max_iter")
    if str(fields.one("regularization_type", "L2")) != "L2":
        raise UserError(f"{path} has regularization_type: {fields.one('regularization_type')}, which is not supported: L2 is.")
    for name in fields.message.fields:
        if name not in fields.known:
            raise UserError(f"{path} has the field {name}, which is not supported.{nearest(name, fields.known)}")
    return Solver(settings, [name for name in fields.message.fields if name in NO_MATTER])


POLICIES: dict[str, Callable[[Fields], dict[str, Any]]] = {  # Caffe's lr_policy -> the numbers of our policy of that name
    "fixed": lambda f: {},
    "step": lambda f: {"step_iterations": f.one("stepsize"), "gamma": float(f.one("gamma"))},
    "exp": lambda f: {"gamma": float(f.one("gamma"))},
    "inv": lambda f: {"gamma": float(f.one("gamma")), "power": float(f.one("power"))},
    "multistep": lambda f: {"at_iterations": f.all("stepvalue"), "gamma": float(f.one("gamma"))},
    "poly": lambda f: {"max_iterations": f.one("max_iter"), "power": float(f.one("power"))},
    "sigmoid": lambda f: {"step_iterations": f.one("stepsize"), "slope": float(f.one("gamma"))},
}


def _policy(fields: Fields) -> dict[str, Any]:
    name = str(fields.one("lr_policy"))
    if name not in POLICIES:
        raise UserError(f"{fields.path} has lr_policy: {name}, which is not supported; {listing(POLICIES)} are.")
    fields.known |= {"gamma", "power", "stepsize", "stepvalue"}  # Caffe ignores those of other policies
    return {"name": name} | POLICIES[name](fields)


def _solver(fields: Fields) -> dict[str, Any]:
    """SOLVER: an optimizer of this project with its numbers; what the file does not say is Caffe's default."""
    kind = fields.one("type", "") or fields.one("solver_type", "SGD")
    fields.known |= {"type", "solver_type", "momentum", "momentum2", "delta", "rms_decay"}
    kind = TYPES[kind] if isinstance(kind, int) and 0 <= kind < len(TYPES) else str(kind).upper()
    momentum, delta = float(fields.one("momentum", 0.0)), {"delta": float(fields.one("delta", 1e-8))}
    numbers = {
        "SGD": {"name": "caffe", "momentum": momentum},
        "NESTEROV": {"name": "nesterov", "momentum": momentum},
        "ADAM": {"name": "adam", "beta1": momentum, "beta2": float(fields.one("momentum2", 0.999)), **delta},
        "ADAGRAD": {"name": "adagrad", **delta},
        "RMSPROP": {"name": "rmsprop", "rms_decay": float(fields.one("rms_decay", 0.99)), **delta},
    }
    if kind not in numbers:
        raise UserError(f"{fields.path} has the solver type {kind}, which is not supported; {listing(numbers)} are.")
    return numbers[kind] | {"weight_decay": float(fields.one("weight_decay", 0.0))}
