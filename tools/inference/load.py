"""Trained nets, loaded for inference: snapshots, weights of Caffe's, ONNX files; they must be for what the config says."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from tools.base.errors import UserError, listing
from tools.base.folders import plain
from tools.data.inputs import Input, modalities_of
from tools.data.settings import DataSettings
from tools.export import onnx_engine
from tools.geo import raster
from tools.inference.averages import Ensemble
from tools.inference.tile_list import Tile
from tools.labels.settings import ClassSettings
from tools.weights import snapshots
from tools.weights.caffe import is_caffemodel, load_caffemodel
from tools.weights.settings import NetSettings

OF_CONFIG = ("MEAN_PIXEL", "BGR")  # what weights of Caffe's do not know of their normalisation


class Asked(NamedTuple):
    """What the config asks for, which the weights must be for."""

    data: DataSettings
    classes: ClassSettings
    net: NetSettings


def load_all(asked: Asked, weights: list[Path], tile: Tile, engine: str | None) -> tuple[nn.Module, dict]:
    """The net, or an ensemble of several, and what it is for; the inputs of several stand one net's after the other's."""
    loaded = [load(asked, path, tile, engine) for path in weights]
    for path, (_, about) in zip(weights, loaded, strict=True):
        check_agreement(asked, about, [Input.from_dict(i) for i in about["inputs"]], path, alone=len(weights) == 1)
    if len(weights) == 1:
        return loaded[0]
    members, abouts = zip(*loaded, strict=True)
    together = {key: ", ".join(str(about[key]) for about in abouts) for key in ("name", "iteration")}
    together["inputs"] = [spec for about in abouts for spec in about["inputs"]]
    together["trained_on"] = list(dict.fromkeys(tile for about in abouts for tile in about.get("trained_on", [])))
    for key in ("statistics", "folders"):  # of a modality, those of the first net that reads it
        together[key] = {m: values for about in reversed(abouts) for m, values in about.get(key, {}).items()}
    sizes = {about.get("pixel_size") for about in abouts}
    together["pixel_size"] = sizes.pop() if len(sizes) == 1 else None
    of_config = {key: about[key] for about in abouts for key in OF_CONFIG if key in about}
    return Ensemble(members, [len(about["inputs"]) for about in abouts]), {**abouts[0], **together, **of_config}


def load(asked: Asked, weights: Path, tile: Tile, engine: str | None) -> tuple[nn.Module, dict]:
    """The net, in the engine that is to compute it, and what it is for."""
    if weights.suffix == ".onnx":
        if engine == "torch":
            raise UserError(f"{weights} is computed by onnxruntime: leave out --engine torch, or give a snapshot.")
        net = onnx_engine.kind_of(engine)(weights)
        return net, net.about
    net, about = load_torch(asked, weights, tile)
    if engine in ("onnxruntime", onnx_engine.OPENVINO):
        net = onnx_engine.hosted(net, about, engine)
        return net, net.about
    return net, about


def load_torch(asked: Asked, weights: Path, tile: Tile) -> tuple[nn.Module, dict]:
    """The net, and what it is for: a snapshot knows both, and so does one that a file of Caffe's lies beside; other weights of
    Caffe's go into the net that the config names.
    """
    sibling = weights.with_suffix(".safetensors")
    if sibling != weights and not weights.exists() and sibling.is_file():
        raise UserError(f"{weights} does not exist, but {sibling.name} lies there: give that, or train with SNAPSHOT_FORMATS.")
    if not is_caffemodel(weights):
        return snapshots.load_labeller(weights)
    if sibling.is_file():
        net, about = snapshots.load_labeller(sibling)
        load_caffemodel(net, weights)
        return net, about
    about = {m: {"bands": raster.inspect(path).bands} for m, path in tile.paths.items()}
    for modality in about:
        if asked.data.normalisation[modality] != "mean" or not asked.data.MEAN_PIXEL.get(modality):
            raise UserError(f"{weights} does not know which mean to take off: give the numbers in MEAN_PIXEL['{modality}'].")
    inputs = asked.data.inputs(about)
    net = asked.net.build(inputs, len(asked.classes.label_values))
    report = load_caffemodel(net, weights)
    if report.kept:
        raise UserError(
            f"{weights} lacks the layers {listing(report.kept)} of {asked.net.NET}, which would label at random: give"
            " weights that were trained with this net."
        )
    means = {m: asked.data.MEAN_PIXEL[m] for m in about}
    of_config = {"MEAN_PIXEL": means, "BGR": asked.data.BGR, "inputs": [i.to_dict() for i in inputs]}
    about = {"name": asked.net.NET, "iteration": "of Caffe's", "dataset": asked.data.DATASET, "notes": list(net.notes)}
    about["resize"] = plain(asked.data.RESIZE)  # whatever it was trained with
    return net, about | asked.classes.about() | of_config


def check_agreement(asked: Asked, about: dict, inputs: list[Input], weights: Path, alone: bool = True) -> None:
    """Raise UserError where the config contradicts what the weights were trained for.

    alone: no other weights are used with them. The nets of an ensemble need not have the same inputs, but the tiles must.
    """
    wanted = {name: [m for m, _ in parts] for name, parts in asked.data.parts.items()}
    trained = {i.name: list(i.modalities) for i in inputs}
    classes = list(asked.classes.label_values)
    if classes != about["classes"]:
        raise UserError(
            f"{weights} knows {len(about['classes'])} classes ({', '.join(about['classes'])}), the config's label_values has"
            f" {len(classes)} ({', '.join(classes)}): use the config that it was trained with."
        )
    if about.get("resize") != plain(asked.data.RESIZE):
        raise UserError(
            f"{weights} was trained with RESIZE = {about.get('resize')}, the config says {asked.data.RESIZE}: set it so, or"
            " train again."
        )
    missing = [m for m in modalities_of(inputs) if m not in asked.data.modalities]
    if not alone and missing:
        raise UserError(f"{weights} reads {listing(missing)}, which the config's INPUTS lack: name what all the nets read.")
    if alone and (wanted != trained or list(wanted) != list(trained)):
        raise UserError(f"{weights} was trained with INPUTS = {trained}, the config says {wanted}: they must agree.")


def check_resampling(resample: bool, about: dict, weights: Path) -> None:
    """Raise UserError where tiles are to be read at the trained pixel size, but that is not known, or RESIZE has its own."""
    if resample and about.get("resize"):
        raise UserError(f"--resample: {weights} was trained with RESIZE, which gives tiles their size: leave --resample out.")
    if resample and not about.get("pixel_size"):
        raise UserError(f"--resample: {weights} does not say which pixel size it was trained on: resample the tiles yourself.")
