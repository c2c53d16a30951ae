"""Proves that Caffe's kinds of layers compute what Caffe computes: against loops written from Caffe's description of each
layer, and against what a real Caffe wrote (pool_odd.npz in tests/data/caffe)."""

import math

import numpy as np
import pytest
import torch
from conftest import caffes

from nets import layers
from nets.caffe import layers as caffe
from nets.caffe.prototxt import read_prototxt
from nets.layers import Blob, conv, data
from nets.net import Net
from tools.base.errors import UserError


def image(channels=3, height=7, width=5, n=2):
    return np.random.default_rng(channels * height).normal(size=(n, channels, height, width)).astype(np.float32)


def run(kind, *images, **args):
    """What one row of a kind writes: an array, or several."""
    names = [f"x{i}" for i in range(len(images))]
    module = kind("layer", *names, **args).build([Blob(x.shape[1]) for x in images])[0]
    with torch.no_grad():
        written = module(*map(torch.from_numpy, images))
    return written.numpy() if isinstance(written, torch.Tensor) else [w.numpy() for w in written]


def layer_of(tmp_path, text, *images):
    """What the net writes whose inputs are x0, x1 ... and whose last layers are `text`."""
    path = tmp_path / "net.prototxt"
    shapes = "".join(f"input_shape {{ {' '.join(f'dim: {n}' for n in x.shape)} }}\n" for x in images)
    path.write_text("".join(f'input: "x{i}"\n' for i in range(len(images))) + shapes + text)
    net = Net(read_prototxt(path).rows).eval()
    with torch.no_grad():
        return net, net(*map(torch.from_numpy, images)).numpy()


# ------------------------------------------------------------------------------------------------------------- pooling


def caffe_pool(x, kernel, stride, pad, method):
    """Caffe's pooling_layer.cpp, window by window."""
    n, c, height, width = x.shape
    size = []
    for length in (height, width):
        out = math.ceil((length + 2 * pad - kernel) / stride) + 1
        size.append(out - 1 if pad and (out - 1) * stride >= length + pad else out)
    pooled, mask = np.zeros((n, c, *size), np.float32), np.zeros((n, c, *size), int)
    for i, j in np.ndindex(*size):
        top, left = i * stride - pad, j * stride - pad
        bottom, right = min(top + kernel, height + pad), min(left + kernel, width + pad)
        area = (bottom - top) * (right - left)
        top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
        window = x[:, :, top:bottom, left:right]
        if method == "ave":
            pooled[:, :, i, j] = window.sum((2, 3)) / area
        else:
            pooled[:, :, i, j] = window.max((2, 3))
            best = window.reshape(n, c, -1).argmax(2)
            mask[:, :, i, j] = (top + best // (right - left)) * width + left + best % (right - left)
    return pooled, mask


@pytest.mark.parametrize(
    ("kernel", "stride", "pad"),
    [(2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 2, 1), (3, 3, 1), (5, 1, 2), (3, 1, 0), (3, 2, 2), (4, 3, 3), (5, 1, 4)],
)
@pytest.mark.parametrize("size", [(7, 5), (6, 9), (8, 8), (4, 4)])
def test_pooling_has_caffes_sizes_values_and_masks(kernel, stride, pad, size):
    x = image(3, *size)
    pooled, mask = caffe_pool(x, kernel, stride, pad, "max")
    values, indices = run(layers.pooling, x, kernel=kernel, stride=stride, pad=pad, mask=True)
    np.testing.assert_array_equal(values, pooled)
    np.testing.assert_array_equal(indices, mask)
    average = run(layers.pooling, x, kernel=kernel, stride=stride, pad=pad, method="ave")
    np.testing.assert_allclose(average, caffe_pool(x, kernel, stride, pad, "ave")[0], atol=1e-6)


def test_an_average_by_hand():
    """3x3 windows every 2 on 4x4 with padding 1: the first window has 4 of its 9 pixels, the last is cut at image + padding."""
    x = np.ones((1, 1, 4, 4), np.float32)
    row = [4 / 9, 6 / 9, 2 / 6]
    np.testing.assert_allclose(run(layers.pooling, x, kernel=3, stride=2, pad=1, method="ave")[0, 0, 0], row, rtol=1e-6)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_first_of_equal_values_wins(memory):
    module = layers.pooling("p", "x", 2, 2, mask=True).build([Blob(8)])[0]
    _, mask = module(torch.zeros(1, 8, 4, 4).contiguous(memory_format=memory))
    assert mask[0, 5].tolist() == [[0, 2], [8, 10]]


@pytest.mark.parametrize(("method", "function"), [("max", np.max), ("ave", np.mean)])
def test_global_pooling_takes_the_whole_image(tmp_path, method, function):
    text = f"pool: {method.upper()} global_pooling: true"
    text = f'layer {{ name: "p" type: "Pooling" bottom: "x0" top: "p" pooling_param {{ {text} }} }}'
    x = image()
    np.testing.assert_allclose(layer_of(tmp_path, text, x)[1], function(x, (2, 3), keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "args"), [("up_exact", {"size": (7, 5)}), ("up_pad", {"pad_out": True}), ("up_scale2", {"scale": 2})]
)
def test_odd_sizes_are_pooled_and_unpooled_as_caffe_does(name, args):
    reference = np.load(caffes("pool_odd.npz"))
    values, mask = run(layers.pooling, reference["data"], kernel=2, stride=2, mask=True)
    np.testing.assert_array_equal(values, reference["pool"])
    np.testing.assert_array_equal(mask, reference["mask"])
    np.testing.assert_array_equal(run(caffe.upsample, values, mask, **args), reference[name])


def test_a_mask_that_points_outside_is_said():
    with pytest.raises(UserError, match="outside of 4x4 pixels"):
        run(caffe.upsample, np.ones((1, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), 16))


# ------------------------------------------------------------------------------------------------------- with weights


def test_convolutions_with_all_that_caffe_can_say(tmp_path):
    text = """layer { name: "c" type: "Convolution" bottom: "x0" top: "c"
      convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 pad_h: 2 pad_w: 1 stride_h: 1 stride_w: 2
                          group: 2 dilation: 2 } }"""
    x = image(6, 9, 8)
    net, got = layer_of(tmp_path, text, x)
    weight = net.c.weight.detach().numpy()
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (1, 1)))
    wanted = np.zeros(got.shape)
    for o in range(4):
        group = padded[:, 3 * (o // 2) : 3 * (o // 2) + 3]
        for i, j in np.ndindex(*got.shape[2:]):
            wanted[:, o, i, j] = (group[:, :, i : i + 5 : 2, 2 * j : 2 * j + 3 : 2] * weight[o]).sum((1, 2, 3))
    assert got.shape == (2, 4, 9 + 4 - 4, (8 + 2 - 2 - 1) // 2 + 1)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_deconvolution_spreads_each_value_over_its_window(tmp_path):
    text = """layer { name: "d" type: "Deconvolution" bottom: "x0" top: "d"
      convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 bias_term: true } }"""
    x = image(2, 4, 3)
    net, got = layer_of(tmp_path, text, x)
    weight = net.d.weight.detach().numpy()
    assert weight.shape == (2, 4, 3, 3)  # Caffe's order: inputs first
    full = np.zeros((2, 4, 2 * 3 + 3, 2 * 2 + 3))
    for i, j in np.ndindex(4, 3):
        full[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += np.einsum("nc,cohw->nohw", x[:, :, i, j], weight)
    np.testing.assert_allclose(got, full[:, :, 1:-1, 1:-1], atol=1e-5)


def test_a_bilinear_deconvolution_begins_as_an_interpolation(tmp_path):
    text = """layer { name: "d" type: "Deconvolution" bottom: "x0" top: "d" convolution_param {
      num_output: 1 kernel_size: 4 stride: 2 pad: 1 bias_term: false weight_filler { type: "bilinear" } } }"""
    x = np.array([[[[0, 4, 8]] * 3]], np.float32)
    assert layer_of(tmp_path, text, x)[1][0, 0, 2].tolist() == [0, 1, 3, 5, 7, 6]  # the last fades into the padding


def test_scale_and_batch_norm_by_the_running_statistics(tmp_path):
    text = 'layer { name: "n" type: "BatchNorm" bottom: "x0" top: "n" batch_norm_param { eps: 0.1 } }'
    text += 'layer { name: "s" type: "Scale" bottom: "n" top: "s" scale_param { bias_term: true } }'
    net, _ = layer_of(tmp_path, text, image())
    mean, variance, gamma, beta = np.random.default_rng(0).uniform(1, 2, (4, 3)).astype(np.float32)
    with torch.no_grad():
        for tensor, values in zip(
            (net.n.running_mean, net.n.running_var, net.n.weight, net.n.bias), (mean, variance, gamma, beta), strict=True
        ):
            tensor.copy_(torch.from_numpy(values))
    mean, variance, gamma, beta = (v[:, None, None] for v in (mean, variance, gamma, beta))
    wanted = (image() - mean) / np.sqrt(variance + 0.1) * gamma + beta
    np.testing.assert_allclose(net(torch.from_numpy(image())).detach(), wanted, atol=1e-5)


def test_a_scale_alone_has_a_number_per_plane(tmp_path):
    net, _ = layer_of(tmp_path, 'layer { name: "s" type: "Scale" bottom: "x0" top: "s" }', image())
    assert [n for n, _ in net.named_parameters()] == ["s.weight"]
    with torch.no_grad():
        net.s.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(net(torch.from_numpy(image())).detach(), image() * np.float32([1, 2, 3])[:, None, None])


def test_statistics_stay_frozen_in_a_training_net_that_says_so(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text("""input: "x" input_shape { dim: 1 dim: 2 dim: 4 dim: 4 }
      layer { name: "n" type: "BatchNorm" bottom: "x" top: "n" batch_norm_param { use_global_stats: true } }""")
    for phase, moves in (("TRAIN", False), ("TEST", True)):
        net = Net(read_prototxt(path, phase=phase).rows).train()
        net(torch.rand(2, 2, 4, 4))
        assert bool(net.n.running_mean.abs().sum() > 0) is moves


# ------------------------------------------------------------------------------------------------------- value by value


@pytest.mark.parametrize(
    ("param", "function"),
    [
        ("", lambda a, b: a + b),
        ("operation: SUM coeff: 2 coeff: -0.5", lambda a, b: 2 * a - b / 2),
        ("operation: PROD", lambda a, b: a * b),
        ("operation: 0", lambda a, b: a * b),  # by number, as protobuf allows
        ("operation: MAX", np.maximum),
    ],
)
def test_eltwise(tmp_path, param, function):
    a, b = image(), image()[::-1].copy()
    text = f'layer {{ name: "e" type: "Eltwise" bottom: "x0" bottom: "x1" top: "e" eltwise_param {{ {param} }} }}'
    np.testing.assert_allclose(layer_of(tmp_path, text, a, b)[1], function(a, b), atol=1e-6)


def test_eltwise_of_different_sizes_is_said(tmp_path):
    text = 'layer { name: "e" type: "Eltwise" bottom: "x0" bottom: "x1" top: "e" }'
    with pytest.raises(UserError, match="blobs of 7x5 and 6x5 pixels cannot be joined"):
        layer_of(tmp_path, text, image(), image(3, 6, 5))


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ('type: "ReLU" relu_param { negative_slope: 0.1 }', lambda x: np.where(x > 0, x, 0.1 * x)),
        ('type: "ReLU"', lambda x: np.maximum(x, 0)),
        ('type: "Power" power_param { power: 3 scale: 2 shift: -1 }', lambda x: (2 * x - 1) ** 3),
        ('type: "Power" power_param { scale: 0.5 }', lambda x: x / 2),
        ('type: "Dropout"', lambda x: x),
        ('type: "Softmax"', lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
        ('type: "Flatten"', lambda x: x.reshape(2, -1)),
        ('type: "Concat"', lambda x: x),
    ],
)
def test_layers_of_one_blob(tmp_path, text, function):
    x = image()
    net, got = layer_of(tmp_path, f'layer {{ name: "a" bottom: "x0" top: "a" {text} }}', x)
    np.testing.assert_allclose(got, function(x), rtol=2e-5, atol=1e-6)
    assert net.blobs["a"].channels == got.shape[1]


def test_dropout_drops_while_training_and_keeps_the_mean():
    layer = layers.dropout("d", "x", 0.25).build([Blob(1)])[0].train()
    x = layer(torch.ones(1, 1, 200, 200))
    assert set(np.unique(x.numpy()).tolist()) == {0.0, np.float32(1 / 0.75).item()}
    assert x.mean().item() == pytest.approx(1, abs=0.03)


# -------------------------------------------------------------------------------------------- cutting, joining, resizing


@pytest.mark.parametrize(
    ("param", "parts"), [("", [2, 2, 2]), ("slice_point: 1 slice_point: 5", [1, 4, 1]), ("axis: -3", [2, 2, 2])]
)
def test_slices_come_out_in_order(tmp_path, param, parts):
    text = f'layer {{ name: "s" type: "Slice" bottom: "x0" top: "a" top: "b" top: "c" slice_param {{ {param} }} }}'
    text += 'layer { name: "back" type: "Concat" bottom: "c" bottom: "a" bottom: "b" top: "back" }'
    x = image(6)
    net, got = layer_of(tmp_path, text, x)
    a, b, c = np.split(x, np.cumsum(parts)[:2], 1)
    np.testing.assert_array_equal(got, np.concatenate([c, a, b], 1))
    assert [net.blobs[f"s_{i}"].channels for i in range(3)] == parts


def test_slices_along_rows():
    top, bottom = run(caffe.slice_blob, image(3, 8, 5), cuts=[3], axis=2)
    np.testing.assert_array_equal(top, image(3, 8, 5)[:, :, :3])
    np.testing.assert_array_equal(bottom, image(3, 8, 5)[:, :, 3:])


@pytest.mark.parametrize(
    ("param", "rows", "columns"),
    [("offset: 2", (2, 6), (2, 5)), ("", (0, 4), (0, 3)), ("axis: 2 offset: 3 offset: 1", (3, 7), (1, 4))],
)
def test_crop_takes_the_size_of_its_second_blob(tmp_path, param, rows, columns):
    x, like = image(3, 9, 6), image(2, 4, 3)
    text = f'layer {{ name: "c" type: "Crop" bottom: "x0" bottom: "x1" top: "c" crop_param {{ {param} }} }}'
    np.testing.assert_array_equal(layer_of(tmp_path, text, x, like)[1], x[:, :, slice(*rows), slice(*columns)])


def test_a_crop_beyond_the_blob_is_said(tmp_path):
    text = 'layer { name: "c" type: "Crop" bottom: "x0" bottom: "x1" top: "c" crop_param { offset: 4 } }'
    with pytest.raises(UserError, match="cannot cut 7 rows, columns or planes from 4 on out of 7"):
        layer_of(tmp_path, text, image(), image())


def bilinear(x, height, width):
    """Interpolation that keeps the corners, pixel by pixel."""
    out = np.zeros((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        y = i * (x.shape[2] - 1) / (height - 1) if height > 1 else 0
        z = j * (x.shape[3] - 1) / (width - 1) if width > 1 else 0
        y0, z0 = int(y), int(z)
        y1, z1 = min(y0 + 1, x.shape[2] - 1), min(z0 + 1, x.shape[3] - 1)
        a, b = y - y0, z - z0
        upper = (1 - b) * x[:, :, y0, z0] + b * x[:, :, y0, z1]
        lower = (1 - b) * x[:, :, y1, z0] + b * x[:, :, y1, z1]
        out[:, :, i, j] = (1 - a) * upper + a * lower
    return out


@pytest.mark.parametrize(
    ("param", "size", "cut"),
    [
        ("height: 11 width: 4", (11, 4), 0),
        ("zoom_factor: 4", (25, 17), 0),  # 7 + 6 * 3, 5 + 4 * 3
        ("shrink_factor: 2", (4, 3), 0),
        ("shrink_factor: 2 zoom_factor: 3", (10, 7), 0),
        ("height: 11 width: 4 zoom_factor: 4", (25, 17), 0),  # a factor alone comes first
        ("zoom_factor: 2 pad_beg: -1", (11, 7), 1),
    ],
)
def test_interp_has_caffes_sizes_and_keeps_corners(tmp_path, param, size, cut):
    x = image()
    got = layer_of(tmp_path, f'layer {{ name: "i" type: "Interp" bottom: "x0" top: "i" interp_param {{ {param} }} }}', x)[1]
    assert got.shape[2:] == size
    np.testing.assert_allclose(got, bilinear(x[:, :, cut:, cut:], *size), atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- nets


@pytest.mark.slow
def test_caffes_kinds_compile_and_export_with_any_size():
    rows = [data("x", 3), conv("a", "x", 4), layers.pooling("p", "a", 2, 2, mask=True), conv("b", "p", 4)]
    rows += [
        caffe.upsample("u", "b", "p_mask"),
        caffe.crop("c", "u", "x"),
        layers.eltwise("e", "c", "a"),
        layers.relu("r", "e"),
    ]
    net = Net(rows).eval()
    x = torch.rand(2, 3, 16, 16)
    size = {0: torch.export.Dim("n"), 2: 2 * torch.export.Dim("h", min=2), 3: 2 * torch.export.Dim("w", min=2)}
    exported = torch.export.export(net, (x,), dynamic_shapes=((size,),)).module()
    other = torch.rand(3, 3, 10, 24)
    with torch.no_grad():
        assert torch.allclose(exported(other), net(other), atol=1e-6)
        assert torch.allclose(torch.compile(net, fullgraph=True, backend="eager")(x), net(x), atol=1e-6)
