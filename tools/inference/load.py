"""Trained nets, loaded for inference: snapshots, weights of Caffe's, ONNX files; they must be for what the config says."""

from pathlib import Path

from torch import nn

import nets
from tools.base.errors import UserError, listing
from tools.data.inputs import Input, make_inputs, modalities_of
from tools.export import onnx_engine
from tools.geo import raster
from tools.inference.averages import Ensemble
from tools.inference.tile_list import Tile
from tools.settings import Settings
from tools.weights import snapshots
from tools.weights.caffe import is_caffemodel, load_caffemodel

OF_CONFIG = ("MEAN_PIXEL", "BGR")  # what weights of Caffe's do not know of their normalisation


def load_all(settings: Settings, weights: list[Path], tile: Tile, engine: str | None) -> tuple[nn.Module, dict]:
    """The net, or an ensemble of several, and what it is for; the inputs of several stand one net's after the other's."""
    loaded = [load(settings, path, tile, engine) for path in weights]
    for path, (_, about) in zip(weights, loaded, strict=True):
        check_agreement(settings, about, [Input.from_dict(i) for i in about["inputs"]], path, alone=len(weights) == 1)
    if len(weights) == 1:
        return loaded[0]
    members, abouts = zip(*loaded, strict=True)
    together = {key: ", ".join(str(about[key]) for about in abouts) for key in ("name", "iteration")}
    together["inputs"] = [spec for about in abouts for spec in about["inputs"]]
    of_config = {key: about[key] for about in abouts for key in OF_CONFIG if key in about}
    return Ensemble(members, [len(about["inputs"]) for about in abouts]), {**abouts[0], **together, **of_config}


def load(settings: Settings, weights: Path, tile: Tile, engine: str | None) -> tuple[nn.Module, dict]:
    """The net, in the engine that is to compute it, and what it is for."""
    if weights.suffix == ".onnx":
        if engine == "torch":
            raise UserError(f"{weights} is computed by onnxruntime: leave out --engine torch, or give a snapshot.")
        net = onnx_engine.OnnxNet(weights)
        return net, net.about
    net, about = load_torch(settings, weights, tile)
    if engine == "onnxruntime":
        net = onnx_engine.hosted(net, about)
        return net, net.about
    return net, about


def load_torch(settings: Settings, weights: Path, tile: Tile) -> tuple[nn.Module, dict]:
    """The net, and what it is for: a snapshot knows both; weights of Caffe's go into the net that the config names."""
    if not is_caffemodel(weights):
        return snapshots.load_net(weights)
    about = {m: {"bands": raster.inspect(path).bands} for m, path in tile.paths.items()}
    for modality in about:
        if settings.normalisation[modality] != "mean" or not settings.MEAN_PIXEL.get(modality):
            raise UserError(f"{weights} does not know which mean to take off: give the numbers in MEAN_PIXEL['{modality}'].")
    inputs = make_inputs(settings.parts, about, settings.MEAN_PIXEL, settings.normalisation, settings.BGR)
    net = nets.build(settings.NET, {i.name: i.channels for i in inputs}, len(settings.label_values), **settings.NET_OPTIONS)
    report = load_caffemodel(net, weights)
    if report.kept:
        raise UserError(
            f"{weights} lacks the layers {listing(report.kept)} of {settings.NET}, which would label at random: give"
            " weights that were trained with this net."
        )
    means = {m: settings.MEAN_PIXEL[m] for m in about}
    about = {"name": settings.NET, "iteration": "of Caffe's", **settings.about(), "inputs": [i.to_dict() for i in inputs]}
    return net, about | {"MEAN_PIXEL": means, "BGR": settings.BGR}


def check_agreement(settings: Settings, about: dict, inputs: list[Input], weights: Path, alone: bool = True) -> None:
    """Raise UserError where the config contradicts what the weights were trained for.

    alone: no other weights are used with them. The nets of an ensemble need not have the same inputs, but the tiles must.
    """
    wanted = {name: [m for m, _ in parts] for name, parts in settings.parts.items()}
    trained = {i.name: list(i.modalities) for i in inputs}
    if list(settings.label_values) != about["classes"]:
        raise UserError(
            f"{weights} knows {len(about['classes'])} classes ({', '.join(about['classes'])}), the config's label_values has"
            f" {len(settings.label_values)} ({', '.join(settings.label_values)}): use the config that it was trained with."
        )
    missing = [m for m in modalities_of(inputs) if m not in settings.modalities]
    if not alone and missing:
        raise UserError(f"{weights} reads {listing(missing)}, which the config's INPUTS lack: name what all the nets read.")
    if alone and (wanted != trained or list(wanted) != list(trained)):
        raise UserError(f"{weights} was trained with INPUTS = {trained}, the config says {wanted}: they must agree.")


def check_resampling(resample: bool, about: dict, weights: Path) -> None:
    """Raise UserError where tiles are to be read at the trained pixel size, but that is not known."""
    if resample and not about.get("pixel_size"):
        raise UserError(f"--resample: {weights} does not say which pixel size it was trained on: resample the tiles yourself.")
