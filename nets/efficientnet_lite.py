"""EfficientNet-Lite, an encoder for small computers: blocks as MobileNetV2's, some with 5x5 convolutions.

Source: github.com/tensorflow/tpu, models/official/efficientnet/lite. Convolutions of stride 2 pad as TensorFlow does, batch
norm has TensorFlow's epsilon, so that features equal timm's tf_efficientnet_lite0 to lite2. Its weights, and those of
EfficientNet-PyTorch's lite models, hold the same tensors in the order of the convolutions here: `convolutions`.
"""

import math
from functools import partial

from nets.backbones import dilated
from nets.layers import Row, conv, eltwise, relu6

STAGES = (  # of lite0: expansion, planes, blocks, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
MULTIPLIERS = {  # of planes and blocks
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
EPS = 1e-3  # of TensorFlow's batch norm


def encoder(name, x, output_stride=32):
    """(rows, last blob of each stride: 2, 4, 8, 16 and, where the output stride is 32, 32).

    name: of MULTIPLIERS. output_stride: 8, 16 or 32; stages that would go beyond are dilated instead, see nets/backbones.py.
    """
    width, depth = MULTIPLIERS[name]
    rows = unit("conv1", x, 32, kernel=3, stride=2)
    last, planes, number, reached, blobs = "conv1_relu", 32, 1, 2, {}
    strides = [stage[3] for stage in STAGES]
    for i, (stride, first, rest) in enumerate(dilated(strides, 2, output_stride)):
        expansion, own, count, _, kernel = STAGES[i]
        own, count = rounded(own * width), count if i in (0, len(STAGES) - 1) else math.ceil(count * depth)
        for j in range(count):
            block, last = inverted(
                f"block{number}", last, planes, (expansion, own, kernel), 1 if j else stride, rest if j else first
            )
            rows += block
            planes, number = own, number + 1
        reached *= stride
        blobs[reached] = last
    return rows, tuple(blobs.values())


def backbone(name):
    """What writes this encoder as nets/backbones.py has them: (rows, blob at a quarter of the size, last blob)."""

    def write(x, output_stride):
        rows, (_, quarter, *_, last) = encoder(name, x, output_stride)
        return rows, quarter, last

    return write


BACKBONES = {name: backbone(name) for name in MULTIPLIERS}
PYRAMIDS = {name: partial(encoder, name) for name in MULTIPLIERS}  # the same for decoders that read all sizes


def inverted(name, x, planes, shape, stride, dilation):
    """A block: up to `expansion` times the planes, a convolution of each plane, down to its own; and its last blob.

    shape: expansion, planes that it writes, size of its kernel.
    """
    expansion, own, kernel = shape
    inner = planes * expansion
    up = unit(f"{name}_expand", x, inner, kernel=1) if expansion > 1 else []
    reads = up[-1].name if up else x
    rows = [
        *up,
        *unit(f"{name}_depthwise", reads, inner, kernel=kernel, stride=stride, dilation=dilation, groups=inner),
        conv(f"{name}_project", f"{name}_depthwise_relu", own, kernel=1, bias=False, relu=False, eps=EPS),
    ]
    if own == planes and stride == 1:
        return [*rows, eltwise(name, x, f"{name}_project")], name
    return rows, f"{name}_project"


def unit(name, x, planes, **options):
    """A convolution with batch norm, and ReLU6 under NAME_relu."""
    pad = {"pad": "tensorflow"} if options.get("stride", 1) > 1 else {}
    return [conv(name, x, planes, bias=False, relu=False, eps=EPS, **options, **pad), relu6(f"{name}_relu", name)]


def rounded(planes):
    """Planes as a multiple of 8, by no more than a tenth less."""
    near = max(8, int(planes + 4) // 8 * 8)
    return near + 8 if near < 0.9 * planes else near


def convolutions(rows: list[Row]) -> list[str]:
    """The encoder's layers that have weights, in their order in timm's and in EfficientNet-PyTorch's files.

    Each holds weight, bn.weight, bn.bias, bn.running_mean and bn.running_var, in this order there too.
    """
    return [row.name for row in rows if row.kind == "conv"]
