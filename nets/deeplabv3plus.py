"""DeepLabV3+ (Chen et al., arXiv 1802.02611) for images of any size: dilated encoder, pyramid of dilations, slim decoder.

Named in the config as deeplabv3plus/BACKBONE. output_stride: input pixels per pixel of the encoder's last map, 16 or 8; the
pyramid's dilations 6, 12 and 18 hold for 16 and double for 8. The pyramid's convolutions are plain ones, not separable.
corners: resize as Caffe's Interp does, so that corners stay corners, and not by the areas of pixels. multi_grid: such as
(1, 2, 4), what the dilations of the last stage of VGG-16 or a ResNet are multiplied by (arXiv 1706.05587). decoder_dropout: of
what each of the decoder's two convolutions writes, such as (0.5, 0.1).
At 3 channels, 6 classes and stride 16, for 128x128 pixels:
vgg16: 20,160,166 learnable values, 6.60 G multiply-adds
resnet50: 40,348,326 learnable values, 4.32 G multiply-adds
resnet101: 59,340,454 learnable values, 5.54 G multiply-adds
mobilenetv2: 5,812,198 learnable values, 1.64 G multiply-adds
efficientnet_lite0: 6,959,334 learnable values, 1.71 G multiply-adds
efficientnet_lite1: 7,724,006 learnable values, 1.78 G multiply-adds
efficientnet_lite2: 8,596,006 learnable values, 1.83 G multiply-adds
"""

from functools import partial

from nets import backbones, efficientnet_lite, show
from nets.layers import concat, conv, data, dropout, pooling, resize, score
from tools.base.errors import UserError, listing

BACKBONES = {
    "vgg16": backbones.vgg16,
    "resnet50": backbones.resnet50,
    "resnet101": backbones.resnet101,
    "mobilenetv2": backbones.mobilenetv2,
    **efficientnet_lite.BACKBONES,
}
WITH_GRID = ("vgg16", "resnet50", "resnet101")


def deeplabv3plus(
    channels, classes, backbone="resnet50", output_stride=16, corners=False, multi_grid=None, decoder_dropout=(0, 0)
):
    encoder, low, high = choose(backbone, output_stride, multi_grid)("data", output_stride)
    rate, (convolutions, last) = 16 // output_stride, decoder("joined", decoder_dropout)
    return [
        data("data", channels),
        *encoder,
        conv("aspp1", high, 256, kernel=1, bias=False),
        conv("aspp2", high, 256, dilation=6 * rate, bias=False),
        conv("aspp3", high, 256, dilation=12 * rate, bias=False),
        conv("aspp4", high, 256, dilation=18 * rate, bias=False),
        pooling("image_pool", high, method="ave"),
        conv("image_conv", "image_pool", 256, kernel=1, bias=False),
        resize("image", "image_conv", high, corners),
        concat("pyramid", "aspp1", "aspp2", "aspp3", "aspp4", "image"),
        conv("aspp", "pyramid", 256, kernel=1, bias=False),
        dropout("aspp_drop", "aspp", 0.5),
        resize("aspp_up", "aspp_drop", low, corners),
        conv("low", low, 48, kernel=1, bias=False),
        concat("joined", "aspp_up", "low"),
        *convolutions,
        score("score_low", last, classes, kernel=1),
        resize("score", "score_low", "data", corners),
    ]


def decoder(x, dropouts):
    """Two convolutions, each followed by its dropout if that is not 0: (rows, last blob). Raises UserError for other ratios."""
    rows = []
    if not (isinstance(dropouts, tuple | list) and len(dropouts) == 2 and all(map(_is_ratio, dropouts))):
        raise UserError(f"decoder_dropout = {dropouts!r}: it must be two shares from 0 to below 1, such as (0.5, 0.1).")
    for number, ratio in enumerate(dropouts, 1):
        rows.append(conv(f"decoder{number}", x, 256, bias=False))
        x = f"decoder{number}"
        if ratio:
            rows.append(dropout(f"{x}_drop", x, ratio))
            x = f"{x}_drop"
    return rows, x


def _is_ratio(v):
    return isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < 1


def choose(backbone, output_stride, grid=None):
    """The function that writes a backbone's rows. Raises UserError for a backbone, stride or grid that there is not."""
    if backbone not in BACKBONES:
        raise UserError(f"deeplabv3plus has no backbone '{backbone}'; it has {listing(BACKBONES)}.")
    if output_stride not in (8, 16):
        raise UserError(f"deeplabv3plus has an output_stride of 8 or 16, not {output_stride}.")
    if grid is None:
        return BACKBONES[backbone]
    if backbone not in WITH_GRID:
        raise UserError(f"multi_grid is for {listing(WITH_GRID)}, not for {backbone}: leave it out.")
    whole = isinstance(grid, tuple | list) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in grid)
    if not whole or len(grid) != 3:
        raise UserError(f"multi_grid = {grid!r}: it must be three whole numbers, 1 or more, such as (1, 2, 4).")
    return partial(BACKBONES[backbone], grid=grid)


if __name__ == "__main__":
    show(deeplabv3plus)
