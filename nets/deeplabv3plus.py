"""DeepLabV3+ (Chen et al., arXiv 1802.02611) for images of any size: dilated encoder, pyramid of dilations, slim decoder.

Named in the config as deeplabv3plus/BACKBONE. output_stride: input pixels per pixel of the encoder's last map, 16 or 8; the
pyramid's dilations 6, 12 and 18 hold for 16 and double for 8. The pyramid's convolutions are plain ones, not separable.
corners: resize as Caffe's Interp does, so that corners stay corners, and not by the areas of pixels.
At 3 channels, 6 classes and stride 16, for 128x128 pixels:
vgg16: 20,160,166 learnable values, 6.60 G multiply-adds
resnet50: 40,348,326 learnable values, 4.32 G multiply-adds
resnet101: 59,340,454 learnable values, 5.54 G multiply-adds
mobilenetv2: 5,812,198 learnable values, 1.64 G multiply-adds
efficientnet_lite0: 6,959,334 learnable values, 1.71 G multiply-adds
efficientnet_lite1: 7,724,006 learnable values, 1.78 G multiply-adds
efficientnet_lite2: 8,596,006 learnable values, 1.83 G multiply-adds
"""

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


def deeplabv3plus(channels, classes, backbone="resnet50", output_stride=16, corners=False):
    encoder, low, high = choose(backbone, output_stride)("data", output_stride)
    rate = 16 // output_stride
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
        conv("decoder1", "joined", 256, bias=False),
        conv("decoder2", "decoder1", 256, bias=False),
        score("score_low", "decoder2", classes, kernel=1),
        resize("score", "score_low", "data", corners),
    ]


def choose(backbone, output_stride):
    """The function that writes a backbone's rows. Raises UserError for a backbone or stride that there is not."""
    if backbone not in BACKBONES:
        raise UserError(f"deeplabv3plus has no backbone '{backbone}'; it has {listing(BACKBONES)}.")
    if output_stride not in (8, 16):
        raise UserError(f"deeplabv3plus has an output_stride of 8 or 16, not {output_stride}.")
    return BACKBONES[backbone]


if __name__ == "__main__":
    show(deeplabv3plus)
