"""Encoders for images of any size whose last blocks are dilated: VGG-16, ResNet-50 and -101, MobileNetV2.

Each function writes the rows of an encoder that reads `x`, and says which blobs a decoder may use: (rows, blob at a quarter
of the size, last blob). output_stride: input pixels per pixel of the last blob, 8 or 16. Where a stage would go below that, it
keeps its size, and the convolutions after its first one are dilated instead, so that they see as far as they were trained to.
grid: of VGG-16 and ResNets, what the dilations of the last stage's three 3x3 convolutions are multiplied by (the multi-grid of
DeepLabV3, arXiv 1706.05587); None: as they are.
The convolutions are torchvision's: tools/weights/torchvision_names.py has the names of both.
"""

from nets.layers import conv, eltwise, pooling, relu, relu6

MOBILENET_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def vgg16(x, output_stride, grid=None):
    """VGG-16 (arXiv 1409.1556). Without its fifth pooling; conv5 is dilated in its place, as in DeepLab (arXiv 1412.7062)."""
    rates = [32 // output_stride * times for times in grid or (1, 1, 1)]
    rows = [
        conv("conv1_1", x, 64),
        conv("conv1_2", "conv1_1", 64),
        pooling("pool1", "conv1_2", kernel=2, stride=2),
        conv("conv2_1", "pool1", 128),
        conv("conv2_2", "conv2_1", 128),
        pooling("pool2", "conv2_2", kernel=2, stride=2),
        conv("conv3_1", "pool2", 256),
        conv("conv3_2", "conv3_1", 256),
        conv("conv3_3", "conv3_2", 256),
        pooling("pool3", "conv3_3", kernel=2, stride=2),
        conv("conv4_1", "pool3", 512),
        conv("conv4_2", "conv4_1", 512),
        conv("conv4_3", "conv4_2", 512),
        pooling("pool4", "conv4_3", kernel=3, stride=output_stride // 8, pad=1, ceil=False),
        conv("conv5_1", "pool4", 512, dilation=rates[0]),
        conv("conv5_2", "conv5_1", 512, dilation=rates[1]),
        conv("conv5_3", "conv5_2", 512, dilation=rates[2]),
    ]
    return rows, "conv3_3", "conv5_3"


def resnet50(x, output_stride, grid=None):
    """ResNet-50 (arXiv 1512.03385), the stride in the 3x3 convolutions."""
    return resnet(x, (3, 4, 6, 3), output_stride, grid)


def resnet101(x, output_stride, grid=None):
    """ResNet-101 (arXiv 1512.03385), the stride in the 3x3 convolutions."""
    return resnet(x, (3, 4, 23, 3), output_stride, grid)


def resnet(x, blocks, output_stride, grid=None):
    """A ResNet of bottlenecks; blocks: how many each of the four stages has."""
    rows = [
        conv("conv1", x, 64, kernel=7, stride=2, bias=False),
        pooling("pool1", "conv1", kernel=3, stride=2, pad=1, ceil=False),
    ]
    last, shortcut = "pool1", "pool1"
    for stage, (count, (stride, first, rest)) in enumerate(
        zip(blocks, dilated((1, 2, 2, 2), 4, output_stride), strict=True), 1
    ):
        rates = [first, *[rest] * (count - 1)] if stage < 4 or grid is None else [rest * times for times in grid]
        for i in range(count):
            name = f"layer{stage}_{i}"
            if i == 0:
                shortcut = f"{name}_downsample"
                rows.append(conv(shortcut, last, 256 * 2 ** (stage - 1), 1, stride=stride, bias=False, relu=False))
            rows += bottleneck(name, last, shortcut, 64 * 2 ** (stage - 1), 1 if i else stride, rates[i])
            last = shortcut = name
    return rows, f"layer1_{blocks[0] - 1}", last


def bottleneck(name, x, shortcut, planes, stride, dilation):
    """A residual block of a ResNet: down to `planes`, 3x3, up to four times as many, added to the shortcut."""
    return [
        conv(f"{name}_conv1", x, planes, kernel=1, bias=False),
        conv(f"{name}_conv2", f"{name}_conv1", planes, stride=stride, dilation=dilation, bias=False),
        conv(f"{name}_conv3", f"{name}_conv2", 4 * planes, kernel=1, bias=False, relu=False),
        eltwise(f"{name}_sum", f"{name}_conv3", shortcut),
        relu(name, f"{name}_sum"),
    ]


def mobilenetv2(x, output_stride):
    """MobileNetV2 (arXiv 1801.04381) up to its last block of 320 planes."""
    rows = [conv("conv1", x, 32, stride=2, bias=False, relu=False), relu6("conv1_relu", "conv1")]
    last, planes, number = "conv1_relu", 32, 1
    strides = [stride for *_, stride in MOBILENET_STAGES]
    for (expansion, width, count, _), (stride, first, rest) in zip(
        MOBILENET_STAGES, dilated(strides, 2, output_stride), strict=True
    ):
        for i in range(count):
            block, last = inverted(f"block{number}", last, planes, expansion, width, 1 if i else stride, rest if i else first)
            rows += block
            planes, number = width, number + 1
    return rows, "block3", last


def inverted(name, x, planes, expansion, width, stride, dilation):
    """A block of MobileNetV2: up to `expansion` times the planes, 3x3 on each plane, down to `width`; and its last blob."""
    inner = planes * expansion
    up = [conv(f"{name}_expand", x, inner, kernel=1, bias=False, relu=False), relu6(f"{name}_expand_relu", f"{name}_expand")]
    reads = f"{name}_expand_relu" if expansion > 1 else x
    rows = [
        *(up if expansion > 1 else []),
        conv(f"{name}_depthwise", reads, inner, stride=stride, dilation=dilation, groups=inner, bias=False, relu=False),
        relu6(f"{name}_depthwise_relu", f"{name}_depthwise"),
        conv(f"{name}_project", f"{name}_depthwise_relu", width, kernel=1, bias=False, relu=False),
    ]
    if width == planes and stride == 1:
        return [*rows, eltwise(name, x, f"{name}_project")], name
    return rows, f"{name}_project"


def dilated(strides, reached, output_stride):
    """(stride, dilation of the first block, dilation of the others) of each stage, from stride `reached` on."""
    stages, dilation = [], 1
    for stride in strides:
        before = dilation
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        stages.append((stride, before, dilation))
    return stages
