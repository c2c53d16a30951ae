"""Multi-kernel SegNet (Audebert et al., arXiv 1609.06846): the last convolution looks at three scales at once.

SegNet, whose last layer stands there three times, with kernels of 3, 5 and 7 pixels; the scores are averaged. `conv1_1_D` is
SegNet's own, so that a trained SegNet's weights fit as they are.
At 3 channels and 6 classes: 29,474,898 learnable values, 10.52 G multiply-adds for 128x128 pixels.
"""

from nets import show
from nets.layers import data, mean, score
from nets.segnet import VGG16_PLANES, decoder, vgg16


def segnet_multikernel(channels, classes, planes=VGG16_PLANES):
    return [
        data("data", channels),
        *vgg16("data", planes),
        *decoder("pool5", planes),
        score("conv1_1_D", "conv1_2_D", classes, kernel=3),
        score("conv1_1_D_5", "conv1_2_D", classes, kernel=5),
        score("conv1_1_D_7", "conv1_2_D", classes, kernel=7),
        mean("score", "conv1_1_D", "conv1_1_D_5", "conv1_1_D_7"),
    ]


if __name__ == "__main__":
    show(segnet_multikernel)
