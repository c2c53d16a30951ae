"""A U-Net for laptops: an encoder of which ImageNet's weights exist, and a decoder of one slim convolution a level.

Named in the config as unet_light/BACKBONE, for images of any size. The encoder's last map goes up by two four times, each time
joined with the map that the encoder had at that size; the scores are interpolated from half the size to the whole. finer: the
image is made twice as large first, for objects of a few pixels; this takes four times the multiply-adds.
At 3 channels and 6 classes, for 128x128 pixels:
efficientnet_lite0: 3,469,094 learnable values, 0.28 G multiply-adds
efficientnet_lite1: 4,233,766 learnable values, 0.32 G multiply-adds
efficientnet_lite2: 4,907,366 learnable values, 0.35 G multiply-adds
"""

from nets import efficientnet_lite, show
from nets.layers import concat, conv, data, enlarge, resize, score
from tools.base.errors import UserError, listing

BACKBONES = efficientnet_lite.PYRAMIDS


def unet_light(channels, classes, backbone="efficientnet_lite0", planes=(96, 64, 48, 32), finer=False):
    if not isinstance(finer, bool):
        raise UserError(f"finer = {finer!r}: it must be True or False.")
    image = "twice" if finer else "data"
    encoder, (half, quarter, eighth, sixteenth, last) = choose(backbone)(image)
    a, b, c, d = planes
    return [
        data("data", channels),
        *([enlarge("twice", "data", by=2)] if finer else []),
        *encoder,
        resize("up4", last, sixteenth),
        concat("skip4", "up4", sixteenth),
        conv("conv4_D", "skip4", a, bias=False),
        resize("up3", "conv4_D", eighth),
        concat("skip3", "up3", eighth),
        conv("conv3_D", "skip3", b, bias=False),
        resize("up2", "conv3_D", quarter),
        concat("skip2", "up2", quarter),
        conv("conv2_D", "skip2", c, bias=False),
        resize("up1", "conv2_D", half),
        concat("skip1", "up1", half),
        conv("conv1_D", "skip1", d, bias=False),
        score("score_half", "conv1_D", classes),
        resize("score", "score_half", "data"),
    ]


def choose(backbone):
    """The function that writes a backbone's rows. Raises UserError for one that there is not."""
    if backbone not in BACKBONES:
        raise UserError(f"unet_light has no backbone '{backbone}'; it has {listing(BACKBONES)}.")
    return BACKBONES[backbone]


if __name__ == "__main__":
    show(unet_light)
