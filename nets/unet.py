"""U-Net (Ronneberger et al., arXiv 1505.04597) with dropout at the end of the way down, as in its authors' model.

Here every 3x3 convolution keeps the size of its map (the paper's lose the border) and is followed by batch norm and ReLU.
At 3 channels and 6 classes: 31,043,846 learnable values, 12.05 G multiply-adds for 128x128 pixels.
"""

from nets import show
from nets.layers import concat, conv, data, deconv, dropout, pool, score


def unet(channels, classes, planes=(64, 128, 256, 512, 1024), ratio=0.5):
    a, b, c, d, e = planes
    return [
        data("data", channels),
        conv("conv1_1", "data", a),
        conv("conv1_2", "conv1_1", a),
        pool("pool1", "conv1_2"),
        conv("conv2_1", "pool1", b),
        conv("conv2_2", "conv2_1", b),
        pool("pool2", "conv2_2"),
        conv("conv3_1", "pool2", c),
        conv("conv3_2", "conv3_1", c),
        pool("pool3", "conv3_2"),
        conv("conv4_1", "pool3", d),
        conv("conv4_2", "conv4_1", d),
        dropout("drop4", "conv4_2", ratio),
        pool("pool4", "drop4"),
        conv("conv5_1", "pool4", e),
        conv("conv5_2", "conv5_1", e),
        dropout("drop5", "conv5_2", ratio),
        deconv("up4", "drop5", d, kernel=2, stride=2),
        concat("skip4", "drop4", "up4"),
        conv("conv4_2_D", "skip4", d),
        conv("conv4_1_D", "conv4_2_D", d),
        deconv("up3", "conv4_1_D", c, kernel=2, stride=2),
        concat("skip3", "conv3_2", "up3"),
        conv("conv3_2_D", "skip3", c),
        conv("conv3_1_D", "conv3_2_D", c),
        deconv("up2", "conv3_1_D", b, kernel=2, stride=2),
        concat("skip2", "conv2_2", "up2"),
        conv("conv2_2_D", "skip2", b),
        conv("conv2_1_D", "conv2_2_D", b),
        deconv("up1", "conv2_1_D", a, kernel=2, stride=2),
        concat("skip1", "conv1_2", "up1"),
        conv("conv1_2_D", "skip1", a),
        conv("conv1_1_D", "conv1_2_D", a),
        score("score", "conv1_1_D", classes, kernel=1),
    ]


if __name__ == "__main__":
    show(unet)
