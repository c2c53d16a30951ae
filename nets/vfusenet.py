"""V-FuseNet (Audebert et al., arXiv 1711.08681, figure 6b): a third, virtual encoder for what both inputs have in common.

Each input has a VGG-16 of its own, whose layers stand under the input's name (`irrg_conv1_1`). Each block of the virtual
encoder reads its own last pooling beside the maps of both, and what it writes is added to their mean, before its pooling.
SegNet's decoder unpools by the virtual encoder's indices. (The paper does not say how many convolutions a block has: these
are VGG-16's, as in nets/fusenet.py.)
At 3 + 3 channels and 6 classes: 69,876,486 learnable values, 25.18 G multiply-adds for 128x128 pixels.
"""

from nets import show
from nets.layers import branch, concat, conv, data, eltwise, mean, pool, score
from nets.segnet import VGG16_PLANES, decoder, vgg16


def vfusenet(inputs, classes, planes=VGG16_PLANES):
    (first, channels1), (second, channels2) = inputs.items()
    return [
        data(first, channels1),
        data(second, channels2),
        *branch(f"{first}_", vgg16(first, planes)[:-1]),  # without the last pooling, which nothing reads
        *branch(f"{second}_", vgg16(second, planes)[:-1]),
        *virtual(f"{first}_", f"{second}_", planes),
        *decoder("pool5", planes),
        score("conv1_1_D", "conv1_2_D", classes),
    ]


def virtual(p, q, planes):
    """The virtual encoder, between those under the prefixes p and q; ends in `pool5`."""
    a, b, c, d, e = planes
    return [
        concat("concat1", f"{p}conv1_2", f"{q}conv1_2"),
        conv("conv1_1", "concat1", a),
        conv("conv1_2", "conv1_1", a),
        mean("mean1", f"{p}conv1_2", f"{q}conv1_2"),
        eltwise("sum1", "conv1_2", "mean1"),
        pool("pool1", "sum1"),
        concat("concat2", "pool1", f"{p}conv2_2", f"{q}conv2_2"),
        conv("conv2_1", "concat2", b),
        conv("conv2_2", "conv2_1", b),
        mean("mean2", f"{p}conv2_2", f"{q}conv2_2"),
        eltwise("sum2", "conv2_2", "mean2"),
        pool("pool2", "sum2"),
        concat("concat3", "pool2", f"{p}conv3_3", f"{q}conv3_3"),
        conv("conv3_1", "concat3", c),
        conv("conv3_2", "conv3_1", c),
        conv("conv3_3", "conv3_2", c),
        mean("mean3", f"{p}conv3_3", f"{q}conv3_3"),
        eltwise("sum3", "conv3_3", "mean3"),
        pool("pool3", "sum3"),
        concat("concat4", "pool3", f"{p}conv4_3", f"{q}conv4_3"),
        conv("conv4_1", "concat4", d),
        conv("conv4_2", "conv4_1", d),
        conv("conv4_3", "conv4_2", d),
        mean("mean4", f"{p}conv4_3", f"{q}conv4_3"),
        eltwise("sum4", "conv4_3", "mean4"),
        pool("pool4", "sum4"),
        concat("concat5", "pool4", f"{p}conv5_3", f"{q}conv5_3"),
        conv("conv5_1", "concat5", e),
        conv("conv5_2", "conv5_1", e),
        conv("conv5_3", "conv5_2", e),
        mean("mean5", f"{p}conv5_3", f"{q}conv5_3"),
        eltwise("sum5", "conv5_3", "mean5"),
        pool("pool5", "sum5"),
    ]


if __name__ == "__main__":
    show(vfusenet)
