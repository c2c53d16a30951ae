"""Where the pixels of blobs lie in the image: what Caffe's old CROP layers go by, which do not say where they cut."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from nets.layers import Row, pair, same_pad
from tools.base.errors import UserError


@dataclass(frozen=True)
class Place:
    """Along one axis: the middle of a blob's pixel i lies at `first + step i`, in pixels of the image."""

    step: Fraction = Fraction(1)
    first: Fraction = Fraction(0)

    def windows(self, stride: int, extent: int, pad: int) -> "Place":
        """The place of what a convolution or pooling writes whose windows reach over `extent` pixels."""
        return Place(self.step * stride, self.first + self.step * (Fraction(extent - 1, 2) - pad))

    def spread(self, stride: int, extent: int, pad: int) -> "Place":
        """The place of what a transposed convolution writes."""
        step = self.step / stride
        return Place(step, self.first - step * (Fraction(extent - 1, 2) - pad))

    def cut(self, offset: int) -> "Place":
        """The place of what is left when so many pixels are cut off at the beginning."""
        return Place(self.step, self.first + self.step * offset)


Places = dict[str, tuple[Place, Place]]  # blob -> place along height and width


def places_of(rows: Iterable[Row]) -> Places:
    """Where the blobs of a table's rows lie; what follows a resizing is left out, since it keeps corners and not places."""
    found: Places = {}
    for row in rows:
        place = _place(row, found)
        if place:
            found |= dict.fromkeys((row.name, row.name + "_mask"), place)
    return found


def _place(row: Row, known: Places) -> tuple[Place, Place] | None:
    if row.kind == "data":
        return Place(), Place()
    if row.reads[0] not in known or row.kind in ("interp", "resize", "flatten", "inner_product", "reshape"):
        return None
    return tuple(_along(row, axis, known[row.reads[0]][axis]) for axis in (0, 1))


def _along(row: Row, axis: int, place: Place) -> Place:
    args = row.args
    if row.kind in ("conv", "deconv", "pooling"):
        kernel, stride, dilation = (pair(args.get(k) or d) for k, d in (("kernel", 3), ("stride", 1), ("dilation", 1)))
        pad = args.get("pad", None if row.kind == "conv" else 0)
        pad = same_pad(kernel, dilation) if pad is None else pair(pad)
        extent = dilation[axis] * (kernel[axis] - 1) + 1
        return (place.spread if row.kind == "deconv" else place.windows)(stride[axis], extent, pad[axis])
    if row.kind == "crop" and args.get("axis", 2) == 2:
        return place.cut(pair(args.get("offset", 0))[axis])
    if row.kind in ("upsample", "unpool"):  # undoes a pooling by windows that do not overlap
        scale = pair(args.get("scale", 2))[axis]
        return place.spread(scale, scale, 0)
    return place.cut(-args.get("first", 0)) if row.kind == "padding" else place


def offset(places: Places, blob: str, like: str) -> tuple[int, int]:
    """From which row and column on a blob must be cut so that its pixels lie where those of another lie.

    Raises UserError where that is unknown, or no whole number of pixels from the blob's first one.
    """
    if blob not in places or like not in places:
        raise UserError(f"where '{blob if blob not in places else like}' lies in the image is unknown: say it by crop_param")
    found = []
    for own, other in zip(places[blob], places[like], strict=True):
        first = round((other.first - own.first) / own.step)
        if own.step != other.step or first < 0:
            raise UserError(f"'{blob}' cannot be cut to lie where '{like}' lies: say by crop_param where to cut")
        found.append(first)
    return tuple(found)
