"""Whose tensor is whose: the names of other libraries' nets matched with those of ours, and of the libraries' own.

Three ways, tried in this order:
- tables of names, for torchvision's VGG-16, ResNets and MobileNetV2 in our tables (timm calls its ResNets' layers alike);
- equal names, once what comes before them is left out on both sides: `module.`, `model.seg_model.`, `net.encoder.model.` ...;
- equal order: the same encoder under other names (EfficientNet-PyTorch's in timm's nets, timm's MobileNetV2 in our table)
  registers the same tensors in the same order. Every tensor must have the same kind and shape, up to what judges whole images.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from nets.net import Net
from tools.base.errors import UserError
from tools.weights.torchvision_names import LEFT_OUT, Layers, from_torchvision

_FIRST = ("features.0.weight", "features.0.0.weight", "layer1.0.conv1.weight")  # by which torchvision's nets are known
_ENCODERS = ("net.encoder.model.", "net.encoder.", "net.backbone.")  # of the libraries' nets
_STAGES = r"(layer\d_\d+_(conv\d|downsample)|block\d+_(expand|depthwise|project))$"  # layers that only encoders of tables have
_FEWEST = 10  # tensors in the same order that are no accident


@dataclass
class Match:
    """What a source has for a net. layers: values by the net's own layers. unused: names of the source that found no place.

    how: "table", "names" or "order". lacking: of the net's encoder, the layers that the source has not; extra: those of the
    source that the net has not. If there are any, the two are of different architectures. encoder: whether only an encoder was
    matched, and not a whole net.
    """

    layers: Layers
    how: str
    unused: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    encoder: bool = True


def match(net: nn.Module, tensors: Mapping[str, Tensor]) -> Match | None:
    """The source's tensors by the net's layers, or None where it has none for it.

    Raises UserError for names that are those of torchvision's nets in part only.
    """
    tensors = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    return _match_table(net, tensors) if isinstance(net, Net) else _match_library(net, tensors)


def own_layers(net: nn.Module, weights: Mapping[str, Tensor]) -> Layers:
    """Tensors grouped by the layer that they belong to: a row of a table, or a module of a library's net."""
    layers: Layers = {}
    for name, value in weights.items():
        layer, _, tensor = name.partition(".") if isinstance(net, Net) else name.rpartition(".")
        layers.setdefault(layer, {})[tensor] = value
    return layers


def is_segnet_of_the_notebook(tensors: Iterable[str]) -> bool:
    """Whether the names are those of DeepNetsForEO's SegNet for PyTorch, whose batch norms come after the ReLU."""
    names = set(tensors)
    return any(name.endswith("conv1_1_bn.weight") for name in names) and any(
        name.endswith("conv1_1_D.weight") for name in names
    )


# -------------------------------------------------------------------------------------------------------------- our tables


def _match_table(net: Net, tensors: Mapping[str, Tensor]) -> Match | None:
    if is_segnet_of_the_notebook(tensors):
        return _match_own(net, {name: v for name, v in tensors.items() if "_bn." not in name})
    fault = None
    for first in _FIRST:
        for name in (n for n in tensors if n.endswith(first) and n.removesuffix(first)[-1:] in ("", ".")):
            try:
                if found := _match_torchvision(net, under(tensors, name.removesuffix(first))):
                    return found
            except UserError as error:  # perhaps another net, whose names begin alike
                fault = error
    found = _match_own(net, tensors) or _match_order(own_encoders(net), tensors, net)
    if fault and not found:
        raise fault
    return found


def _match_torchvision(net: Net, tensors: Mapping[str, Tensor]) -> Match | None:
    layers = from_torchvision(tensors)
    takes = _encoders(net, layers)
    if len(set(takes.values())) < min(2, len(layers)):  # the first layer of many nets is called conv1
        return None
    unused = sorted({n.rpartition(".")[0] for n in tensors if re.match(LEFT_OUT, n)})
    extra = [name for name in layers if name not in takes.values()]
    own = set(own_layers(net, net.state_dict()))
    lacking = [name for name in own - set(takes) if re.search(_STAGES, name) and re.search(_STAGES, next(reversed(layers)))]
    by_layer = {layer: layers[name] for layer, name in takes.items()}
    return Match(by_layer, "table", unused, sorted(lacking), [n for n in extra if re.search(_STAGES, n)])


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _encoders(net: Net, layers: Layers) -> dict[str, str]:
    """Our layer: ImageNet's, in each encoder that begins at an input, whatever the prefix of its layers."""
    first = next(iter(layers))
    prefixes = [row.name.removesuffix(first) for row in readers(net) if row.name.endswith(first)]
    return {p + layer: layer for p in prefixes for layer in layers if hasattr(net, p + layer)}


def images(net: Net) -> dict[str, str]:
    """The input that a blob is: each input itself, and what a table enlarges before it looks at it."""
    found = {name: name for name in net.inputs}
    for row in net.rows:
        if row.kind == "enlarge" and row.reads[0] in found:
            found[row.name] = found[row.reads[0]]
    return found


def readers(net: nn.Module) -> list:
    """The rows of a table that read an input of the net, as it is or enlarged."""
    if not isinstance(net, Net):
        return []
    seen = images(net)
    return [row for row in net.rows if row.reads and row.reads[0] in seen and row.kind != "enlarge"]


def _match_own(net: Net, tensors: Mapping[str, Tensor]) -> Match | None:
    """By our layers' names, with or without their branch's prefix; a wrapping before all names of the source is left out."""
    own = own_layers(net, net.state_dict())
    prefixes = [f"{name}_" for name in net.inputs]
    wanted = {layer: [layer, *(layer.removeprefix(p) for p in prefixes if layer.startswith(p))] for layer in own}
    known = {name for names in wanted.values() for name in names}
    wraps = {
        ".".join(parts[:i]) + "." if i else "" for parts in (n.split(".") for n in tensors) for i in range(min(4, len(parts)))
    }
    wrapping = max(sorted(wraps, key=len), key=lambda w: sum(n.split(".")[0] in known for n in under(tensors, w)))
    given = own_layers(net, under(tensors, wrapping))
    takes = {layer: name for layer, names in wanted.items() if (name := next((n for n in names if n in given), None))}
    if not takes:
        return None
    unused = [name for name in given if name not in takes.values()]
    return Match({layer: given[name] for layer, name in takes.items()}, "names", unused, encoder=False)


# ---------------------------------------------------------------------------------------------------------- libraries' nets


def _match_library(net: nn.Module, tensors: Mapping[str, Tensor]) -> Match | None:
    own = {n: v for n, v in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    pairs = _best_names(own, tensors)
    ordered = None if _is_whole(pairs, own) else _match_order(own_encoders(net), tensors, net)
    if ordered and not ordered.extra and not ordered.lacking and len(pairs) < sum(map(len, ordered.layers.values())):
        return ordered
    if len(pairs) < 2:
        return ordered
    layers: Layers = {}
    for own_name, name in pairs.items():
        layer, _, tensor = own_name.rpartition(".")
        layers.setdefault(layer, {})[tensor] = tensors[name]
    t, p = (_common(names) for names in (pairs.keys(), pairs.values()))
    is_encoder = any(t.startswith(e) for e in _ENCODERS)
    used = set(pairs.values())
    beside = [n for n in tensors if n not in used]
    within = {n: tensors[n] for n in beside if n.startswith(p)}
    lacking = {n: v for n, v in own.items() if n.startswith(_encoder_of(t)) and n not in pairs} if is_encoder else {}
    return Match(
        layers, "names", _layer_names(beside),
        _layer_names(lacking) if not _is_head(lacking.values()) else [],
        _layer_names(within) if is_encoder and not _is_head(within.values()) else [], is_encoder,
    )  # fmt: skip


def _encoder_of(prefix: str) -> str:
    return next(e for e in _ENCODERS if prefix.startswith(e))


def _is_whole(pairs: Mapping[str, str], own: Mapping[str, Tensor]) -> bool:
    return len(pairs) == len(own)


def _layer_names(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _common(names: Iterable[str]) -> str:
    """The modules that all names lie in."""
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(f"{part}." for part in shared)


def _best_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """The net's name: the source's, for the two prefixes under which most names are equal and, of these, most shapes.

    Dots and underscores are taken as alike: timm's `features_only` nets call features.0 features_0.
    """
    best, found = (0, 0, 0), {}
    ours = {t: _suffixes(own, t) for t in _prefixes(own)}
    for p in _prefixes(given):
        theirs = _suffixes(given, p)
        for t, mine in ours.items():
            pairs = {mine[n]: theirs[n] for n in mine.keys() & theirs.keys()}
            fitting = sum(own[a].shape == given[b].shape for a, b in pairs.items())
            score = (fitting + (len(pairs) - fitting) * 0.4, fitting - len(pairs), -len(p) - len(t))
            if score > best:
                best, found = score, pairs
    return {name: found[name] for name in own if name in found}


def _prefixes(names: Iterable[str]) -> list[str]:
    """The modules, and their modules, that hold a tenth of all names at least; the shortest first."""
    counts: dict[str, int] = {}
    names = list(names)
    for name in names:
        parts = name.split(".")
        for i in range(min(5, len(parts))):
            prefix = "".join(f"{part}." for part in parts[:i])
            counts[prefix] = counts.get(prefix, 0) + 1
    return [prefix for prefix, count in sorted(counts.items(), key=lambda kv: len(kv[0])) if count * 10 >= len(names)]


def _suffixes(names: Iterable[str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix).replace(".", "_"): name for name in names if name.startswith(prefix)}


# ---------------------------------------------------------------------------------------------------------------- by order


def own_encoders(net: nn.Module) -> list[dict[str, Tensor]]:
    """The tensors, in their order, of each encoder of a net: of the library's, or from each row on that reads an input."""
    state = {n: v for n, v in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    if not isinstance(net, Net):
        prefix = next((e for e in _ENCODERS if any(n.startswith(e) for n in state)), None)
        return [{n: v for n, v in state.items() if n.startswith(prefix)}] if prefix else []
    encoders = []
    for row in readers(net):
        prefix = next((f"{name}_" for name in net.inputs if row.name.startswith(f"{name}_")), "")
        names = [n for n in state if n.startswith(prefix)]
        start = next((i for i, n in enumerate(names) if n.startswith(f"{row.name}.")), len(names))
        encoders.append({n: state[n] for n in names[start:]})
    return encoders


def _match_order(encoders: list[dict[str, Tensor]], tensors: Mapping[str, Tensor], net: nn.Module) -> Match | None:
    """The tensors of an encoder in the order of the net's, in each of its encoders."""
    layers: Layers = {}
    unused: list[str] = []
    extra: list[str] = []
    lacking: list[str] = []
    for encoder in encoders:
        start = _start(tensors)
        run = _run(encoder, {n: tensors[n] for n in list(tensors)[start:]})
        if len(run) < _FEWEST:
            continue
        for own_name, name in run.items():
            for layer, values in own_layers(net, {own_name: tensors[name]}).items():
                layers.setdefault(layer, {}).update(values)
        rest = {n: v for n, v in tensors.items() if n not in run.values()}
        unused = _layer_names(rest)
        if not _is_head(rest.values()):
            extra = unused
        left = {n: v for n, v in encoder.items() if n not in run}
        if not isinstance(net, Net) and not _is_head(left.values()):
            lacking += _layer_names(left)
    return Match(layers, "order", unused, lacking, extra) if layers else None


def _start(tensors: Mapping[str, Tensor]) -> int:
    """Where the first convolution stands."""
    return next((i for i, v in enumerate(tensors.values()) if v.dim() == 4), 0)


def _run(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """The net's name: the source's, as long as kinds and shapes are alike; the first layers may read other bands."""
    run = {}
    for i, ((own_name, mine), (name, theirs)) in enumerate(zip(own.items(), given.items(), strict=False)):
        kinds = own_name.rpartition(".")[2] == name.rpartition(".")[2]
        alike = mine.shape[:1] + mine.shape[2:] == theirs.shape[:1] + theirs.shape[2:] if i == 0 else mine.shape == theirs.shape
        if not (kinds and alike):
            break
        run[own_name] = name
    return run


def _is_head(rest: Iterable[Tensor]) -> bool:
    """Whether tensors are only what judges whole images, at an encoder's end: no convolution among them looks around itself."""
    return not any(v.dim() == 4 and max(v.shape[2:]) > 1 for v in rest)
