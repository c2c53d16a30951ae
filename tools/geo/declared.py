"""What a raster file can say beside its pixels, and what is done with it: in images, in masks (ground truth), in maps.

The table below is the one place where that is decided. tools/geo/views.py and gaps.py do it for the pixels, raster.py for the
place, place.py for pairs of files; tests/test_raster_table.py holds a test for every cell.

Where the right answer is open, this is why:

- Nodata of 0 (or 255, 65535): pictures hold these values too. Dark water is 0 in near infrared alone, and a saturated roof 255
  in red. GDAL's mask of a whole dataset spares such pixels, and so do we; no sensor gives the value in all bands at once. The
  other way is EMPTY_IF = {"modality": "any"}. Values that pictures do not hold (-9999, NaN) spoil a pixel in one band alone.
- EXIF: masks are drawn on the picture as viewers and programs for labelling show it, so it is read upright. A file that says
  where on Earth it lies means its pixels as they are stored, and GIS show them so: there EXIF does not count.
- Control points: points that lie on a plane (a scan, a map) are a transform that somebody wrote as points. Where they do not
  (radar, raw frames), a transform would put the map tens of metres off, and warping would change pixels: the map keeps the
  points, and has no areas.
- An alpha band is no channel: nets that were trained on R, G, B take orthophotos of drones, which have one. But GDAL itself
  calls the fourth of four bytes alpha if nobody says what it is: one that is seldom wholly opaque is near infrared.
- Scale and offset are applied in images: tiles that count in other steps mean the same. Masks hold classes: there they are not.
- Three bands that say blue, green, red are read as red, green, blue, as GIS show them. With four bands and more the file's
  order counts, since the config names them by that.
"""

from typing import NamedTuple


class Declared(NamedTuple):
    """What a file can declare, and what is done with it in each kind of file."""

    what: str
    images: str
    masks: str
    outputs: str


TABLE = [
    Declared(
        "nodata value of each band",
        "no label, no loss: values that pictures hold too (0, 255, 65535) in all bands that declare one, others in one band",
        "the same, so not scored; label arrays may not declare the number of a class",
        "labels: the label for not scored; per cent: 255; shares: NaN; colours: transparent",
    ),
    Declared(
        "mask of the file", "as nodata: inside the GeoTIFF or beside it (.msk); of several, what any band's masks out",
        "as nodata: not scored",
        "none: nodata says it, in colours alpha",
    ),
    Declared(
        "alpha band", "a mask and no channel; infrared that is called alpha stays a channel", "a mask: not scored where 0",
        "colours alone have one",
    ),
    Declared("transparent colour", "as nodata: of a palette, or PNG's one colour", "as nodata: not scored", "none"),
    Declared(
        "pixel type", "any real one; several types become the narrowest that holds all; complex numbers are refused",
        "class numbers in any real type, if they are whole; colours and label arrays are bytes", "uint8, or float32 on request",
    ),
    Declared(
        "scale and offset", "applied: floats in its unit; a scale of 0, or one that is no number, is refused",
        "not applied: classes are no measures", "0.01: per cent",
    ),
    Declared(
        "palette", "its colours: three bands, one if grey", "its colours (--from-color) or its numbers (--from-index)",
        "that of the config, in labels and errors",
    ),
    Declared(
        "band order", "three bands that say blue, green, red are read as red, green, blue", "the same",
        "colours are red, green, blue and say so",
    ),
    Declared(
        "colour space", "YCbCr and CMYK as red, green, blue where GDAL gives them so, else refused", "the same", "RGB"
    ),
    Declared(
        "side-car .aux.xml", "read: nodata, CRS, transform", "read; labels that are PNG keep their place in one",
        "written for the names of classes alone",
    ),
    Declared("world file", "read: .tfw, .pgw, .jgw; no CRS", "read", "none: GeoTIFFs hold their transform"),
    Declared("pages and subdatasets", "refused, and named", "refused, and named", "none"),
    Declared(
        "CRS", "its horizontal part counts, whatever its unit; areas are true to 1 % everywhere on Earth",
        "must place the mask where the image lies", "that of the image",
    ),
    Declared(
        "transform", "any that leaves an area: south-up, turned, sheared; NaN, no area or none at all: none, whatever the CRS",
        "must place the mask where the image lies; without a CRS, if its pixels are as large", "that of the image",
    ),
    Declared(
        "control points", "a transform if they lie on a plane to half a pixel",
        "the same; those that do not are compared with the image's place, too", "kept if they do not",
    ),
    Declared("RPC", "said to place the image, not used", "the same", "kept if there is no transform"),
    Declared("EXIF orientation", "turned upright, unless the file lies somewhere on Earth", "the same", "upright, without it"),
    Declared("overviews", "never read by a net", "never read", "by the most frequent class in cloud optimised labels"),
    Declared("tags", "ignored", "ignored", "those of the image, less those on its storage"),
]  # fmt: skip
