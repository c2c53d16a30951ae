"""How QGIS is to draw labels: its style files (QML), for label rasters and for polygons with a class each."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tools.labels.palette import Colour, Palette

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_VERSION = "3.22"


def raster_style(palette: Palette) -> str:
    """The style of a label raster: an entry for each class, and no others; what has no label is not drawn."""
    root = Element("qgis", version=_VERSION)
    pipe = SubElement(root, "pipe")
    renderer = SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor="")
    entries = SubElement(renderer, "colorPalette")
    for label, name in enumerate(palette.names):
        SubElement(entries, "paletteEntry", value=str(label), label=name, color=_hex(palette.colours[label]), alpha="255")
    return _text(root)


def polygon_style(palette: Palette) -> str:
    """The style of polygons: filled in the colour of what their attribute "class" says, a legend entry for each class."""
    root = Element("qgis", version=_VERSION, styleCategories="Symbology")
    renderer = SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="class", enableorderby="0", forceraster="0", symbollevels="0"
    )
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for label, name in enumerate(palette.names):
        SubElement(categories, "category", value=name, label=name, symbol=str(label), render="true", type="string")
        symbol = SubElement(symbols, "symbol", type="fill", name=str(label), alpha="1", clip_to_extent="1", force_rhr="0")
        kind = {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
        _fill(SubElement(symbol, "layer", kind), palette.colours[label])
    return _text(root)


def _fill(layer: Element, colour: Colour) -> None:
    """A fill with a thin darker line around it."""
    line = tuple(c * 6 // 10 for c in colour)
    options = {
        "color": _rgba(colour), "style": "solid", "outline_color": _rgba(line), "outline_style": "solid",
        "outline_width": "0.1", "outline_width_unit": "MM", "joinstyle": "bevel",
    }  # fmt: skip
    as_map = SubElement(layer, "Option", type="Map")
    for name, value in options.items():
        SubElement(as_map, "Option", type="QString", name=name, value=value)
        SubElement(layer, "prop", k=name, v=value)  # as QGIS before 3.26 reads it


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _rgba(colour: Colour) -> str:
    return ",".join(map(str, (*colour, 255)))


def _text(root: Element) -> str:
    ElementTree.indent(root)
    return _HEAD + ElementTree.tostring(root, "unicode") + "\n"
