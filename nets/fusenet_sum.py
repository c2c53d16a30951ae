"""FuseNet with two encoders (Hazirbas et al., ACCV 2016; arXiv 1711.08681, figure 6a): the second is added to the first.

The first input's VGG-16 has no prefix and takes in the second's maps (`dsm_conv1_2`) before each pooling; the decoder unpools
by its indices. So the first input is the master: put the images first, the heights second.
At 3 + 3 channels and 6 classes: 44,169,606 learnable values, 15.06 G multiply-adds for 128x128 pixels.
"""

from nets import show
from nets.layers import branch, conv, data, eltwise, pool, score
from nets.segnet import VGG16_PLANES, decoder, vgg16


def fusenet_sum(inputs, classes, planes=VGG16_PLANES):
    (first, channels1), (second, channels2) = inputs.items()
    return [
        data(first, channels1),
        data(second, channels2),
        *branch(f"{second}_", vgg16(second, planes)[:-1]),  # without the last pooling, which nothing reads
        *master(first, f"{second}_", planes),
        *decoder("pool5", planes),
        score("conv1_1_D", "conv1_2_D", classes),
    ]


def master(x, q, planes):
    """VGG-16 from `x`, which the encoder under the prefix q is added to; ends in `pool5`."""
    a, b, c, d, e = planes
    return [
        conv("conv1_1", x, a),
        conv("conv1_2", "conv1_1", a),
        eltwise("sum1", "conv1_2", f"{q}conv1_2"),
        pool("pool1", "sum1"),
        conv("conv2_1", "pool1", b),
        conv("conv2_2", "conv2_1", b),
        eltwise("sum2", "conv2_2", f"{q}conv2_2"),
        pool("pool2", "sum2"),
        conv("conv3_1", "pool2", c),
        conv("conv3_2", "conv3_1", c),
        conv("conv3_3", "conv3_2", c),
        eltwise("sum3", "conv3_3", f"{q}conv3_3"),
        pool("pool3", "sum3"),
        conv("conv4_1", "pool3", d),
        conv("conv4_2", "conv4_1", d),
        conv("conv4_3", "conv4_2", d),
        eltwise("sum4", "conv4_3", f"{q}conv4_3"),
        pool("pool4", "sum4"),
        conv("conv5_1", "pool4", e),
        conv("conv5_2", "conv5_1", e),
        conv("conv5_3", "conv5_2", e),
        eltwise("sum5", "conv5_3", f"{q}conv5_3"),
        pool("pool5", "sum5"),
    ]


if __name__ == "__main__":
    show(fusenet_sum)
