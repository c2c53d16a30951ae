"""Fusion by residual correction (Audebert et al., arXiv 1609.06846, 1701.05818, 1711.08681): two SegNets and an arbiter.

Each input has a SegNet of its own. The last feature maps of both pass three convolutions, whose output corrects the mean of
the two scores. Layers of a SegNet stand under the name of its input (`irrg_conv1_1`); the papers train both alone first:
weights of a trained SegNet fit either branch, and the corrector starts from scratch.
At 3 + 3 channels and 6 classes: 59,007,378 learnable values, 21.97 G multiply-adds for 128x128 pixels.
"""

from nets import show
from nets.layers import branch, concat, conv, data, eltwise, mean, score
from nets.segnet import VGG16_PLANES, decoder, vgg16


def segnet_rc(inputs, classes, planes=VGG16_PLANES):
    (first, channels1), (second, channels2) = inputs.items()
    return [
        data(first, channels1),
        data(second, channels2),
        *branch(f"{first}_", _segnet(first, classes, planes)),
        *branch(f"{second}_", _segnet(second, classes, planes)),
        mean("mean_score", f"{first}_conv1_1_D", f"{second}_conv1_1_D"),
        concat("features", f"{first}_conv1_2_D", f"{second}_conv1_2_D"),
        conv("correction1", "features", planes[0]),
        conv("correction2", "correction1", planes[0]),
        score("correction3", "correction2", classes),
        eltwise("score", "mean_score", "correction3"),
    ]


def _segnet(x, classes, planes):
    return [*vgg16(x, planes), *decoder("pool5", planes), score("conv1_1_D", "conv1_2_D", classes)]


if __name__ == "__main__":
    show(segnet_rc)
