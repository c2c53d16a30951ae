"""FuseNet for aerial images (Audebert et al., arXiv 1711.08681), as in its authors' Caffe model: three encoders, a decoder.

Each input has a VGG-16 of its own, whose layers stand under the input's name (`irrg_conv1_1`). A third one, without prefix,
begins at the first block's maps of both; before each of its poolings the maps of all three are added. SegNet's decoder
unpools by its indices. So neither input is the master. (nets/fusenet_sum.py is the FuseNet of Hazirbas et al., with two
encoders; nets/vfusenet.py shows the third encoder both inputs at every block.)
At 3 + 3 channels and 6 classes: 58,964,742 learnable values, 21.25 G multiply-adds for 128x128 pixels.
"""

from nets import show
from nets.layers import branch, concat, conv, data, eltwise, pool, score
from nets.segnet import VGG16_PLANES, decoder, vgg16


def fusenet(inputs, classes, planes=VGG16_PLANES):
    (first, channels1), (second, channels2) = inputs.items()
    return [
        data(first, channels1),
        data(second, channels2),
        *branch(f"{first}_", vgg16(first, planes)[:-1]),  # without the last pooling, which nothing reads
        *branch(f"{second}_", vgg16(second, planes)[:-1]),
        *fused(f"{first}_", f"{second}_", planes),
        *decoder("pool5", planes),
        score("conv1_1_D", "conv1_2_D", classes),
    ]


def fused(p, q, planes):
    """The third encoder, between those under the prefixes p and q; ends in `pool5`."""
    a, b, c, d, e = planes
    return [
        concat("concat1", f"{p}conv1_2", f"{q}conv1_2"),
        conv("conv1_1", "concat1", a),
        conv("conv1_2", "conv1_1", a),
        eltwise("sum1", "conv1_2", f"{p}conv1_2", f"{q}conv1_2"),
        pool("pool1", "sum1"),
        conv("conv2_1", "pool1", b),
        conv("conv2_2", "conv2_1", b),
        eltwise("sum2", "conv2_2", f"{p}conv2_2", f"{q}conv2_2"),
        pool("pool2", "sum2"),
        conv("conv3_1", "pool2", c),
        conv("conv3_2", "conv3_1", c),
        conv("conv3_3", "conv3_2", c),
        eltwise("sum3", "conv3_3", f"{p}conv3_3", f"{q}conv3_3"),
        pool("pool3", "sum3"),
        conv("conv4_1", "pool3", d),
        conv("conv4_2", "conv4_1", d),
        conv("conv4_3", "conv4_2", d),
        eltwise("sum4", "conv4_3", f"{p}conv4_3", f"{q}conv4_3"),
        pool("pool4", "sum4"),
        conv("conv5_1", "pool4", e),
        conv("conv5_2", "conv5_1", e),
        conv("conv5_3", "conv5_2", e),
        eltwise("sum5", "conv5_3", f"{p}conv5_3", f"{q}conv5_3"),
        pool("pool5", "sum5"),
    ]


if __name__ == "__main__":
    show(fusenet)
