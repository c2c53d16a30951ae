"""SegNet (Badrinarayanan et al., arXiv 1511.00561), as used for aerial images by Audebert et al. (arXiv 1609.06846).

VGG-16 without its classifier encodes, a mirrored decoder unpools by the indices that the encoder's poolings kept, and every
convolution but the last is followed by batch norm and ReLU. Decoder names run backwards, so that `conv5_3_D` undoes `conv5_3`.
At 3 channels and 6 classes: 29,446,470 learnable values, 10.05 G multiply-adds for 128x128 pixels.
"""

from nets import show
from nets.layers import conv, data, pool, score, unpool

VGG16_PLANES = (64, 128, 256, 512, 512)  # of the five blocks


def vgg16(x, planes=VGG16_PLANES):
    """The thirteen convolutions of VGG-16 (arXiv 1409.1556) under its own names, five poolings; ends in `pool5`."""
    a, b, c, d, e = planes
    return [
        conv("conv1_1", x, a),
        conv("conv1_2", "conv1_1", a),
        pool("pool1", "conv1_2"),
        conv("conv2_1", "pool1", b),
        conv("conv2_2", "conv2_1", b),
        pool("pool2", "conv2_2"),
        conv("conv3_1", "pool2", c),
        conv("conv3_2", "conv3_1", c),
        conv("conv3_3", "conv3_2", c),
        pool("pool3", "conv3_3"),
        conv("conv4_1", "pool3", d),
        conv("conv4_2", "conv4_1", d),
        conv("conv4_3", "conv4_2", d),
        pool("pool4", "conv4_3"),
        conv("conv5_1", "pool4", e),
        conv("conv5_2", "conv5_1", e),
        conv("conv5_3", "conv5_2", e),
        pool("pool5", "conv5_3"),
    ]


def decoder(x, planes=VGG16_PLANES):
    """The mirror of `vgg16`, from `x` at 1/32 of the size to `conv1_2_D` at full size."""
    a, b, c, d, e = planes
    return [
        unpool("upsample5", x, "pool5_mask"),
        conv("conv5_3_D", "upsample5", e),
        conv("conv5_2_D", "conv5_3_D", e),
        conv("conv5_1_D", "conv5_2_D", d),
        unpool("upsample4", "conv5_1_D", "pool4_mask"),
        conv("conv4_3_D", "upsample4", d),
        conv("conv4_2_D", "conv4_3_D", d),
        conv("conv4_1_D", "conv4_2_D", c),
        unpool("upsample3", "conv4_1_D", "pool3_mask"),
        conv("conv3_3_D", "upsample3", c),
        conv("conv3_2_D", "conv3_3_D", c),
        conv("conv3_1_D", "conv3_2_D", b),
        unpool("upsample2", "conv3_1_D", "pool2_mask"),
        conv("conv2_2_D", "upsample2", b),
        conv("conv2_1_D", "conv2_2_D", a),
        unpool("upsample1", "conv2_1_D", "pool1_mask"),
        conv("conv1_2_D", "upsample1", a),
    ]


def segnet(channels, classes, planes=VGG16_PLANES):
    return [
        data("data", channels),
        *vgg16("data", planes),
        *decoder("pool5", planes),
        score("conv1_1_D", "conv1_2_D", classes),
    ]


if __name__ == "__main__":
    show(segnet)
