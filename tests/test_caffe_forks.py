"""Proves that the layers of Caffe's forks compute what their sources compute, forwards and backwards: both layers called BN,
LRN, PReLU, FuseNet's Unpooling and the rest; that the losses of a prototxt mean what they meant; and that old CROPs cut where
Caffe cut. Values come from loops and formulas after the layers' sources, or from numbers that their authors published."""

import numpy as np
import pytest
import torch
from test_caffe import parameters, shake, write_v1, write_v2
from torch import nn

import nets
from nets import layers
from nets.caffe import layers as caffe
from nets.caffe import norms, pointwise
from nets.caffe.prototxt import inputs_of, read_prototxt, write_prototxt
from nets.layers import Blob, auxiliary, conv, data
from nets.net import Net, check_windows
from tools.base.errors import UserError
from tools.compute import device
from tools.data.inputs import Input
from tools.solver.solver import Solver
from tools.training.trainer import Trainer
from tools.weights.caffe import load_caffemodel, write_caffemodel
from tools.weights.caffe_batch_norm import use_caffe_average

DATA = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'
CONV = """layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s"
  convolution_param { num_output: %d kernel_size: 3 pad: 1 } }
"""


def image(channels=3, height=7, width=5, n=2, seed=0):
    return np.random.default_rng(seed).standard_normal((n, channels, height, width)).astype(np.float32)


def planes(*values):
    """Numbers, one per plane, in a shape that goes with images."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def net_of(tmp_path, text, **options):
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    return Net(read_prototxt(path, **options).rows)


def built(tmp_path, text, inputs=None, classes=4, **options):
    """The net as the scripts build it."""
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    return nets.build(str(path), inputs or {"irrg": 3}, classes, **options)


def one(tmp_path, layer, x):
    """A net of one layer called `l` that reads x, in use; and what it writes."""
    shape = " ".join(f"dim: {n}" for n in x.shape)
    net = net_of(tmp_path, f'input: "x" input_shape {{ {shape} }} layer {{ name: "l" bottom: "x" top: "l" {layer} }}').eval()
    with torch.no_grad():
        return net, net(torch.from_numpy(x)).numpy()


def set_to(module, **values):
    with torch.no_grad():
        for name, numbers in values.items():
            getattr(module, name).copy_(torch.tensor(numbers))


def gradients(net, x, upstream):
    """Gradients of the input and of the weights (by name) for a gradient of what the net writes."""
    x = torch.from_numpy(x).requires_grad_()
    net(x).backward(torch.from_numpy(upstream))
    return x.grad.numpy(), {name: p.grad.numpy() for name, p in net.named_parameters() if p.grad is not None}


# -------------------------------------------------------------------------------------------------------- SegNet's BN

LEARN = 'type: "BN" bn_param { scale_filler { type: "constant" value: 1 } shift_filler { type: "constant" value: 0.001 } }'
INFERENCE = 'type: "BN" bn_param { bn_mode: INFERENCE scale_filler { type: "constant" value: 1 } }'


def segnet_bn(x, scale, shift):
    """Mean and variance over batch and pixels, the variance as E(x^2) - E(x)^2, and 1e-9: caffe-segnet's bn_layer.cpp."""
    mean = x.mean((0, 2, 3), keepdims=True)
    variance = (x * x).mean((0, 2, 3), keepdims=True) - mean**2
    normal = (x - mean) / np.sqrt(variance + 1e-9)
    return normal * scale + shift, normal, np.sqrt(variance + 1e-9)


def test_segnets_bn_goes_by_the_batch_when_it_learns_and_with_weights_that_know_no_statistics(tmp_path):
    x = image()
    net, _used = one(tmp_path, LEARN, x)
    assert [row.kind for row in net.rows] == ["data", "bn_learn"]
    set_to(net.l, weight=[1.0, 2.0, -0.5], bias=[0.0, 1.0, 3.0])
    wanted = segnet_bn(x, planes(1, 2, -0.5), planes(0, 1, 3))[0]
    with torch.no_grad():
        np.testing.assert_allclose(net(torch.from_numpy(x)), wanted, atol=1e-5)
        np.testing.assert_allclose(net.train()(torch.from_numpy(x)), wanted, atol=1e-5)


def test_segnets_bn_learns_by_the_gradients_of_its_source(tmp_path):
    x, upstream = image(), image(seed=1)
    net, _ = one(tmp_path, LEARN, x)
    set_to(net.l, weight=[1.0, 2.0, -0.5], bias=[0.0, 1.0, 3.0])
    for mode in (True, False):
        net.train(mode)
        net.l.counted = False
        net.zero_grad()
        back, learned = gradients(net, x, upstream)
        _, normal, deviation = segnet_bn(x, 1, 0)
        np.testing.assert_allclose(learned["l.weight"], (normal * upstream).sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(learned["l.bias"], upstream.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
        scaled = upstream * planes(1, 2, -0.5)
        count = x.size / x.shape[1]
        through = normal * (normal * scaled).sum((0, 2, 3), keepdims=True) + scaled.sum((0, 2, 3), keepdims=True)
        np.testing.assert_allclose(back, (scaled - through / count) / deviation, atol=1e-5)


def test_segnets_bn_for_inference_is_a_scale_and_a_shift(tmp_path):
    x, upstream = image(), image(seed=1)
    net, _ = one(tmp_path, INFERENCE, x)
    assert [row.kind for row in net.rows] == ["data", "bn_inference"]
    set_to(net.l, weight=[1.0, 2.0, -0.5], bias=[0.0, 1.0, 3.0])
    scale = planes(1, 2, -0.5)
    np.testing.assert_allclose(net(torch.from_numpy(x)).detach(), x * scale + planes(0, 1, 3), atol=1e-6)
    back, learned = gradients(net, x, upstream)
    np.testing.assert_allclose(back, upstream * scale, atol=1e-6)
    np.testing.assert_allclose(learned["l.weight"], (x * upstream).sum((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_training_here_gathers_the_statistics_that_segnet_is_then_used_with(tmp_path):
    net = net_of(tmp_path, DATA + CONV % ("a", "data", "a", 4) + 'layer { name: "b" type: "BN" bottom: "a" top: "b" }')
    use_caffe_average(net)
    net.train()
    batches = [torch.rand(2, 3, 8, 8) * (i + 1) for i in range(3)]
    with torch.no_grad():
        seen = [net.a(x) for x in batches]
        for x in batches:
            net(x)
        alone = net.eval()(batches[0][:1])
    weights = np.array([0.999**2, 0.999, 1.0])
    means = np.array([a.mean((0, 2, 3)).numpy() for a in seen])
    variances = np.array([a.var((0, 2, 3), unbiased=True).numpy() for a in seen])
    mean, variance = ((weights[:, None] * values).sum(0) / weights.sum() for values in (means, variances))
    wanted = (seen[0][:1].numpy() - planes(*mean)) / np.sqrt(planes(*variance) + 1e-9)
    np.testing.assert_allclose(alone, wanted, atol=2e-5)


def test_a_trained_segnet_is_written_with_its_statistics_taken_in(tmp_path):
    text = (
        DATA + CONV % ("a", "data", "a", 4) + 'layer { name: "b" type: "BN" bottom: "a" top: "b" }' + CONV % ("c", "b", "c", 2)
    )
    net = net_of(tmp_path, text)
    net.train()(torch.rand(4, 3, 8, 8))
    net.eval()
    assert net.b.counted
    (tmp_path / "n.prototxt").write_text(write_prototxt(net))
    write_caffemodel(net, tmp_path / "n.caffemodel")
    assert "bn_mode: INFERENCE" in (tmp_path / "n.prototxt").read_text()
    again = Net(read_prototxt(tmp_path / "n.prototxt").rows).eval()
    assert not load_caffemodel(again, tmp_path / "n.caffemodel").kept
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        np.testing.assert_allclose(again(x), net(x), atol=1e-5)
        np.testing.assert_allclose(again.fuse()(x), net(x), atol=1e-5)
        np.testing.assert_allclose(net.fuse()(x), net(x), atol=1e-5)
    assert [row.kind for row in again.fuse().rows] == ["data", "conv", "conv"]


def test_a_snapshot_of_a_segnet_keeps_its_statistics(tmp_path):
    text = DATA + CONV % ("a", "data", "a", 4) + 'layer { name: "b" type: "BN" bottom: "a" top: "b" }'
    net = net_of(tmp_path, text)
    net.train()(torch.rand(4, 3, 8, 8))
    again = nets.rebuild(nets.describe(net))
    again.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(again.eval()(x), net.eval()(x))


# -------------------------------------------------------------------------------------------------------- PSPNet's BN

PSP = """type: "BN" param { lr_mult: 1 } param { lr_mult: 1 } param { lr_mult: 0 } param { lr_mult: 0 }
  bn_param { slope_filler { value: 1 } bias_filler { value: 0 } momentum: 0.95 eps: 0.01 %s }"""


def test_pspnets_bn_goes_by_its_moving_averages(tmp_path):
    x = image()
    net, _ = one(tmp_path, PSP % "", x)
    assert (net.rows[1].kind, net.rows[1].args) == ("bn_moving", {"momentum": 0.95, "eps": 0.01})
    mean, variance = planes(1, 2, 3), planes(0.5, 1, 2)
    set_to(net.l, running_mean=mean.ravel().tolist(), running_var=variance.ravel().tolist(), weight=[1.0, 2.0, 3.0])
    wanted = (x - mean) / np.sqrt(variance + 0.01) * planes(1, 2, 3)
    np.testing.assert_allclose(net(torch.from_numpy(x)).detach(), wanted, atol=1e-5)


def test_pspnets_averages_keep_their_momentum_and_take_the_batchs_own_variance(tmp_path):
    """Its source divides by the number of values, not one less, and begins at 0; Caffe's solver leaves that alone."""
    x = image()
    net, _ = one(tmp_path, PSP % "", x)
    use_caffe_average(net)
    net.train()
    with torch.no_grad():
        written = net(torch.from_numpy(x))
        net(torch.from_numpy(2 * x))
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    np.testing.assert_allclose(net.l.running_mean, 0.05 * (0.95 * mean + 2 * mean), atol=1e-6)
    np.testing.assert_allclose(net.l.running_var, 0.05 * (0.95 * variance + 4 * variance), rtol=1e-5)
    normal = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 0.01)
    np.testing.assert_allclose(written, normal, atol=1e-5)


def test_pspnets_bn_learns_by_the_gradients_of_its_source(tmp_path):
    x, upstream = image(), image(seed=1)
    net, _ = one(tmp_path, PSP % "", x)
    set_to(net.l, weight=[1.0, 2.0, -0.5])
    back, learned = gradients(net.train(), x, upstream)
    deviation = np.sqrt(x.var((0, 2, 3), keepdims=True) + 0.01)
    normal, scaled = (x - x.mean((0, 2, 3), keepdims=True)) / deviation, upstream * planes(1, 2, -0.5)
    through = normal * (normal * scaled).sum((0, 2, 3), keepdims=True) + scaled.sum((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(back, (scaled - through * 3 / x.size) / deviation, atol=1e-5)
    np.testing.assert_allclose(learned["l.weight"], (normal * upstream).sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(learned["l.bias"], upstream.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_a_frozen_bn_of_pspnet_does_not_learn_but_lets_gradients_through(tmp_path):
    x, upstream = image(), image(seed=1)
    net, _ = one(tmp_path, PSP % "frozen: true", x)
    set_to(net.l, running_var=[0.24, 0.99, 3.99], weight=[1.0, 2.0, 3.0])
    back, learned = gradients(net.train(), x, upstream)
    assert not learned
    assert net.l.running_mean.tolist() == [0, 0, 0]
    np.testing.assert_allclose(back, upstream * planes(1 / 0.5, 2 / 1, 3 / 2), rtol=1e-5)


@pytest.mark.parametrize("write", [write_v1, write_v2])
def test_both_kinds_of_bn_take_their_blobs_and_say_when_they_are_the_others(tmp_path, write):
    two = [image(4, 1, 1, 1, seed=i) for i in range(2)]
    four = [*two, image(4, 1, 1, 1, seed=2), abs(image(4, 1, 1, 1, seed=3))]
    text = DATA + CONV % ("a", "data", "a", 4) + 'layer { name: "b" type: "BN" bottom: "a" top: "b" bn_param { %s } }'
    for said, blobs, others in (("bn_mode: INFERENCE", two, four), ("", two, four), ("eps: 1e-5", four, two)):
        net = net_of(tmp_path, text % said)
        load_caffemodel(net, write(tmp_path / "w.caffemodel", {"b": blobs}))
        for i, blob in enumerate(blobs):
            np.testing.assert_array_equal(parameters(net)[f"b/{i}"], blob)
        with pytest.raises(UserError, match=r"layer 'b' in .* is .*, but the prototxt means the other: write bn_param"):
            load_caffemodel(net, write(tmp_path / "w.caffemodel", {"b": others}))


def test_both_kinds_of_bn_come_back_from_what_is_written(tmp_path):
    text = DATA + CONV % ("a", "data", "a", 4)
    for i, said in enumerate(("", "bn_mode: INFERENCE", "slope_filler { } momentum: 0.5", "eps: 1e-3 frozen: true")):
        text += f'layer {{ name: "b{i}" type: "BN" bottom: "a" top: "a" param {{ lr_mult: 3 }} bn_param {{ {said} }} }}\n'
    net = shake(net_of(tmp_path, text))
    again = net_of(tmp_path, write_prototxt(net)).eval()
    assert [r.kind for r in again.rows] == [r.kind for r in net.rows]
    assert [r.lr_mult for r in again.rows] == [r.lr_mult for r in net.rows]
    write_caffemodel(net, tmp_path / "n.caffemodel")
    load_caffemodel(again, tmp_path / "n.caffemodel")
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(x), net(x))


# ------------------------------------------------------------------------------------------------------ other layers


def test_lrn_across_channels(tmp_path):
    """Each value over (k + alpha / size times the sum of squares of `size` neighbouring planes) ** beta."""
    x = image(7)
    got = one(tmp_path, 'type: "LRN" lrn_param { local_size: 5 alpha: 0.3 beta: 0.6 k: 2 }', x)[1]
    for c in range(7):
        total = (x[:, max(0, c - 2) : c + 3] ** 2).sum(1)
        np.testing.assert_allclose(got[:, c], x[:, c] / (2 + 0.3 / 5 * total) ** 0.6, rtol=1e-5)


def test_lrn_within_a_channel(tmp_path):
    x = image()
    text = 'type: "LRN" lrn_param { local_size: 3 alpha: 0.3 beta: 0.6 norm_region: WITHIN_CHANNEL }'
    got = one(tmp_path, text, x)[1]
    for i, j in np.ndindex(7, 5):
        total = (x[:, :, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] ** 2).sum((2, 3))
        np.testing.assert_allclose(got[:, :, i, j], x[:, :, i, j] * (1 + 0.3 / 9 * total) ** -0.6, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ('type: "ELU" elu_param { alpha: 0.5 }', lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1))),
        ('type: "Sigmoid"', lambda x: 1 / (1 + np.exp(-x))),
        ('type: "TanH"', np.tanh),
        ('type: "PReLU"', lambda x: np.where(x > 0, x, 0.25 * x)),
        ('type: "Tile" tile_param { tiles: 2 }', lambda x: np.tile(x, (1, 2, 1, 1))),
        ('type: "Tile" tile_param { tiles: 3 axis: 3 }', lambda x: np.tile(x, (1, 1, 1, 3))),
        ('type: "Padding" padding_param { pad_beg: 2 pad_end: 1 }', lambda x: np.pad(x, ((0, 0), (0, 0), (2, 1), (2, 1)))),
        ('type: "Padding" padding_param { pad_beg: -1 pad_end: -2 }', lambda x: x[:, :, 1:-2, 1:-2]),
        ('type: "Reshape" reshape_param { shape { dim: 0 dim: -1 dim: 1 dim: 5 } }', lambda x: x.reshape(2, 21, 1, 5)),
        ('type: "Reshape" reshape_param { shape { dim: 0 dim: 0 dim: 5 dim: 7 } }', lambda x: x.reshape(2, 3, 5, 7)),
    ],
)
def test_layers_that_learn_nothing(tmp_path, text, function):
    x = image()
    net, got = one(tmp_path, text, x)
    np.testing.assert_allclose(got, function(x), rtol=2e-6, atol=1e-6)
    assert net.blobs["l"].channels == got.shape[1]


def test_prelu_learns_a_slope_for_each_plane_or_one_for_all(tmp_path):
    x, upstream = image(), image(seed=1)
    net, _ = one(tmp_path, 'type: "PReLU" param { lr_mult: 3 }', x)
    assert (net.l.weight.shape, net.rows[1].lr_mult) == ((3,), (3.0,))
    back, learned = gradients(net, x, upstream)
    np.testing.assert_allclose(learned["l.weight"], (np.minimum(x, 0) * upstream).sum((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(back, upstream * np.where(x > 0, 1, 0.25), atol=1e-6)
    assert one(tmp_path, 'type: "PReLU" prelu_param { channel_shared: true }', x)[0].l.weight.shape == (1,)


def test_a_bias_learns_the_sum_of_its_gradients(tmp_path):
    x, upstream = image(), image(seed=1)
    net, _ = one(tmp_path, 'type: "Bias" param { lr_mult: 2 decay_mult: 0 }', x)
    set_to(net.l, bias=[1.0, 2.0, 3.0])
    np.testing.assert_allclose(net(torch.from_numpy(x)).detach(), x + planes(1, 2, 3))
    np.testing.assert_allclose(gradients(net, x, upstream)[1]["l.bias"], upstream.sum((0, 2, 3)), rtol=1e-4, atol=1e-5)
    load_caffemodel(net, write_v2(tmp_path / "w.caffemodel", {"l": [np.float32([4, 5, 6])]}))
    assert net.l.bias.tolist() == [4, 5, 6]


POOL = """layer { name: "p" type: "Pooling" bottom: "x" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "u" type: "Unpooling" bottom: "p" bottom: "m" top: "u" unpooling_param { %s } }"""


@pytest.mark.parametrize(("said", "size"), [("scale: 2", (6, 8)), ("output_h: 7 output_w: 9 scale: 2", (7, 9))])
def test_fusenets_unpooling_puts_each_value_where_it_was_and_a_size_comes_before_a_scale(tmp_path, said, size):
    x = image(2, 6, 8)
    net = net_of(tmp_path, 'input: "x" input_shape { dim: 1 dim: 2 dim: 6 dim: 8 }' + POOL % said)
    given = torch.from_numpy(x).requires_grad_()
    got = net(given)
    wanted, through = np.zeros((2, 2, *size), np.float32), np.zeros_like(x)
    upstream = image(2, *size, seed=1)
    for n, c, i, j in np.ndindex(2, 2, 3, 4):
        window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        a, b = divmod(window.argmax(), 2)
        index = (2 * i + a) * 8 + 2 * j + b  # the mask's: in the plane that was pooled
        wanted[n, c].flat[index] = window.max()
        through[n, c, 2 * i + a, 2 * j + b] = upstream[n, c].flat[index]
    np.testing.assert_array_equal(got.detach(), wanted)
    got.backward(torch.from_numpy(upstream))
    np.testing.assert_array_equal(given.grad, through)


def test_dropout_that_samples_when_testing_is_marked_and_silent_until_somebody_asks(tmp_path):
    net, got = one(tmp_path, 'type: "Dropout" dropout_param { sample_weights_test: true }', image())
    np.testing.assert_array_equal(got, image())
    assert net.l.sample
    assert "sample_weights_test: true" in write_prototxt(net)
    assert "label with `--tta dropout 40`" in read_prototxt(tmp_path / "net.prototxt").notes[0]


ENET = """type: "Python" python_param { module: "spatial_dropout" layer: "%s"
  param_str: "{\\'phase\\': \\'TRAIN\\', \\'p\\': \\'0.25\\'}" }"""


def test_enets_dropout_drops_whole_planes_in_training_and_does_nothing_in_use(tmp_path):
    net, got = one(tmp_path, ENET % "SpatialDropoutLayer", image())
    np.testing.assert_array_equal(got, image())
    written = net.train()(torch.ones(1000, 3, 2, 2))
    assert written.std((2, 3)).max() == 0
    assert written.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert written.mean().item() == pytest.approx(1, abs=0.04)
    with pytest.raises(UserError, match=r"layer 'l' \(Python\): its Python code \(spatial_dropout.Wavelets\) is not run"):
        one(tmp_path, ENET % "Wavelets", image())


def test_deeplabs_hole_is_a_dilation(tmp_path):
    text = 'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" strict_dim: false convolution_param {'
    net = net_of(tmp_path, DATA + text + " num_output: 2 kernel_size: 3 pad: 4 hole: 4 } }")
    assert (net.c.dilation, net(torch.zeros(1, 3, 8, 8)).shape) == ((4, 4), (1, 2, 8, 8))


def test_fully_connected_weights_fill_a_convolution_of_as_many(tmp_path):
    """VGG's fc6 becomes a convolution in DeepLab (strict_dim: false) and in every FCN."""
    text = DATA + 'layer { name: "fc6" type: "Convolution" bottom: "data" top: "fc6" convolution_param { num_output: 5 '
    net = net_of(tmp_path, text + "kernel_size: 7 bias_term: true } }")
    weight, bias = image(1, 5, 147, 1)[0], image(1, 1, 5, 1)[0, 0]
    load_caffemodel(net, write_v1(tmp_path / "w.caffemodel", {"fc6": [weight[0], bias[0]]}))
    np.testing.assert_array_equal(net.fc6.weight.detach(), weight.reshape(5, 3, 7, 7))
    with pytest.raises(UserError, match="shape"):
        load_caffemodel(net, write_v1(tmp_path / "w.caffemodel", {"fc6": [weight[0].reshape(3, 245), bias[0]]}))


def test_a_fully_connected_layer_after_a_reshape_knows_its_sizes(tmp_path):
    text = DATA + 'layer { name: "r" type: "Reshape" bottom: "data" top: "r" reshape_param { shape { dim: 0 dim: -1 } } }'
    text += 'layer { name: "f" type: "InnerProduct" bottom: "r" top: "f" inner_product_param { num_output: 64 } }'
    text += 'layer { name: "b" type: "Reshape" bottom: "f" top: "b" reshape_param { shape { dim: 0 dim: 4 dim: 4 dim: 4 } } }'
    net = net_of(tmp_path, text)
    assert (net.f.in_features, net.blobs["b"].channels, net.blobs["b"].stride) == (192, 4, 2)
    x = torch.rand(2, 3, 8, 8)
    wanted = nn.functional.linear(x.flatten(1), net.f.weight, net.f.bias).view(2, 4, 4, 4)
    assert torch.equal(net(x), wanted)
    assert Net.from_json(net.to_json()).blobs["b"] == Blob(4, net.blobs["b"].stride)


def test_what_ends_in_labels_gives_the_scores_that_they_are_made_from(tmp_path):
    text = DATA + CONV % ("a", "data", "a", 4)
    end = 'layer { name: "%s" type: "ArgMax" bottom: "a" top: "%s" argmax_param { axis: 1 } }'
    net = built(tmp_path, text + end % ("argmax", "argmax"))
    assert (net.output, net.classes) == ("a", 4)
    assert net.notes == ["left out, since its scores do not depend on them: argmax."]
    with pytest.raises(UserError, match=r"layer 'l' \(ArgMax\): it is known only as the last layer"):
        net_of(tmp_path, text + end % ("l", "l") + CONV % ("b", "l", "b", 4))
    with pytest.raises(UserError, match="only an ArgMax over the planes"):
        net_of(tmp_path, text + 'layer { name: "l" type: "ArgMax" bottom: "a" top: "l" }')


def test_new_kinds_are_written_and_read_as_they_were(tmp_path):
    text = DATA + CONV % ("a", "data", "a", 6)
    for i, kind in enumerate(
        ['"LRN" lrn_param { local_size: 3 alpha: 0.1 }', '"LRN" lrn_param { norm_region: WITHIN_CHANNEL }', '"PReLU"',
         '"ELU" elu_param { alpha: 2 }', '"Sigmoid"', '"TanH"', '"Bias" param { lr_mult: 2 }', ENET[6:] % "SpatialDropoutLayer",
         '"Tile" tile_param { tiles: 2 }', '"Padding" padding_param { pad_beg: 1 pad_end: 0 }',
         '"Reshape" reshape_param { shape { dim: 0 dim: 12 dim: 9 dim: 9 } }', '"PReLU" prelu_param { channel_shared: true }']
    ):  # fmt: skip
        text += f'layer {{ name: "l{i}" bottom: "a" top: "a" type: {kind} }}\n'
    net = shake(net_of(tmp_path, text))
    again = net_of(tmp_path, write_prototxt(net, size=(8, 8))).eval()
    assert [str(r) for r in again.rows] == [str(r) for r in net.rows]
    write_caffemodel(net, tmp_path / "n.caffemodel", (8, 8))
    load_caffemodel(again, tmp_path / "n.caffemodel")
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(x), net(x))


@pytest.mark.slow
def test_the_new_kinds_compile_export_with_any_size_and_fold_into_convolutions():
    bare = {"pad": 0, "norm": False, "relu": False}
    rows = [data("x", 3), layers.surround("sx", "x", 2), conv("a", "sx", 4, **bare), norms.bn_inference("b", "a")]
    rows += [pointwise.prelu("p", "b"), conv("c", "p", 4, **bare), norms.bn_moving("d", "c"), norms.lrn("l", "d", 3)]
    rows += [norms.lrn("w", "l", 3, within=True), layers.pooling("q", "w", 3, 2, 2), pointwise.elu("e", "q")]
    rows += [layers.resize("r", "e", "x", True), caffe.padding("f", "r", -1, -1), norms.bn_learn("g", "f"), conv("out", "g", 2)]
    net = Net(rows)
    net.train()(torch.rand(2, 3, 16, 16))
    x, other = torch.rand(2, 3, 16, 16), torch.rand(3, 3, 20, 24)
    size = {0: torch.export.Dim("n"), 2: 2 * torch.export.Dim("h", min=4), 3: 2 * torch.export.Dim("w", min=4)}
    exported = torch.export.export(net.eval(), (x,), dynamic_shapes=((size,),)).module()
    with torch.no_grad():
        assert torch.allclose(exported(other), net(other), atol=1e-6)
        assert torch.allclose(torch.compile(net, fullgraph=True, backend="eager")(x), net(x), atol=1e-6)
        assert torch.allclose(net.fuse()(x), net(x), atol=1e-5)
    assert not {"bn_inference", "bn_moving"} & {row.kind for row in net.fuse().rows}


# --------------------------------------------------------------------------------------------------- whole files


def old_fcn(strides):
    """An FCN of the time before crops had offsets: VGG's poolings, padded by 100, and scores joined from these strides up."""
    text, top = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 40 input_dim: 50\n', "data"

    def add(kind, name, bottoms, param=""):
        nonlocal text
        reads = " ".join(f'bottom: "{b}"' for b in bottoms)
        text += f'layers {{ name: "{name}" type: {kind} {reads} top: "{name}" {param} }}\n'
        return name

    for level in range(1, 6):
        pad = 100 if level == 1 else 1
        param = f"convolution_param {{ num_output: 2 kernel_size: 3 pad: {pad} }}"
        top = add("CONVOLUTION", f"conv{level}", [top], param)
        top = add("POOLING", f"pool{level}", [top], "pooling_param { kernel_size: 2 stride: 2 }")
    top = add("CONVOLUTION", "fc6", [top], "convolution_param { num_output: 2 kernel_size: 7 }")
    for stride in strides:  # that of the scores which are enlarged, 2 times but the last
        last = stride == strides[-1]
        factor = stride if last else 2
        param = f"convolution_param {{ num_output: 2 kernel_size: {2 * factor} stride: {factor} bias_term: false }}"
        up = add("DECONVOLUTION", f"up{stride}", [top], param)
        if last:
            return text + "" if not add("CROP", "score", [up, "data"]) else text
        level = {32: 4, 16: 3}[stride]
        skip = add("CONVOLUTION", f"score{level}", [f"pool{level}"], "convolution_param { num_output: 2 kernel_size: 1 }")
        cut = add("CROP", f"crop{level}", [skip, up])
        top = add("ELTWISE", f"fuse{level}", [up, cut])


@pytest.mark.parametrize(
    ("strides", "offsets"), [([32], [19]), ([32, 16], [5, 27]), ([32, 16, 8], [5, 9, 31])], ids=["fcn32s", "fcn16s", "fcn8s"]
)
def test_old_crops_cut_where_the_published_offsets_say(tmp_path, strides, offsets):
    """fcn.berkeleyvision.org publishes the same nets with crop offsets: 19; 5 and 27; 5, 9 and 31."""
    net = net_of(tmp_path, old_fcn(strides))
    crops = [row.args["offset"] for row in net.rows if row.kind == "crop"]
    assert crops == [(n, n) for n in offsets]
    assert net(torch.zeros(1, 3, 40, 50)).shape == (1, 2, 40, 50)


def test_an_old_crop_that_cannot_know_where_is_refused(tmp_path):
    text = (
        DATA
        + """
    layers { name: "c" type: CONVOLUTION bottom: "data" top: "c"
      convolution_param { num_output: 2 kernel_size: 3 pad: 1 stride: 2 } }
    layers { name: "i" type: INTERP bottom: "c" top: "i" interp_param { zoom_factor: 2 } }
    layers { name: "k" type: CROP bottom: "i" bottom: "data" top: "k" }"""
    )
    with pytest.raises(UserError, match=r"layer 'k' \(Crop\): where 'i' lies in the image is unknown: say it by crop_param"):
        net_of(tmp_path, text)


TEMPLATE = """name: "${NET_ID}"
layer { name: "data" type: "ImageSegData" top: "data" top: "label" top: "data_dim" image_data_param { source: "${EXP}/x.txt" }
        transform_param { crop_size: 17 } }
layer { name: "fc8_${EXP}" type: "Convolution" bottom: "data" top: "fc8"
        convolution_param { num_output: ${NUM_LABELS} kernel_size: 3 pad: 1 stride: 8 } }
layer { name: "shrink" type: "Interp" bottom: "label" top: "shrink" interp_param { shrink_factor: 8 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "shrink" include { phase: TRAIN }
        loss_param { ignore_label: 255 } }
layer { name: "acc" type: "SegAccuracy" bottom: "fc8" bottom: "shrink" top: "acc" }
layer { name: "mat" type: "MatWrite" bottom: "fc8" include { phase: TEST } mat_write_param { prefix: "${DIR}" } }
"""


def test_deeplabs_templates_are_filled_from_the_classes_and_net_options(tmp_path):
    net = built(tmp_path, TEMPLATE, classes=5, EXP="voc12")
    assert net.classes == 5
    assert [row.name for row in net.rows] == ["data", "fc8_voc12", "fc8_voc12_full"]
    assert net.eval()(torch.rand(2, 3, 17, 17)).shape == (2, 5, 17, 17)
    assert net.made_for == (17, 17)
    assert "mat (MatWrite)" in net.notes[0]
    assert net.notes[1] == "its scores are of every 8th pixel: they are enlarged bilinearly."
    assert built(tmp_path, TEMPLATE, classes=5).rows[1].name == "fc8_${EXP}"
    with pytest.raises(UserError, match=r"has no place \$\{EXPP\} for NET_OPTIONS\['EXPP'\]"):
        built(tmp_path, TEMPLATE, EXPP="voc12")
    text = TEMPLATE.replace("kernel_size: 3", "kernel_size: ${K}")
    with pytest.raises(UserError, match=r"line 5 leaves \$\{K\} open: give it in NET_OPTIONS = \{'K': \.\.\.\}"):
        built(tmp_path, text)
    assert built(tmp_path, text, K=3).classes == 4
    with pytest.raises(UserError, match="does not exist"):
        nets.build(str(tmp_path / "no.prototxt"), {"irrg": 3}, 4, K=3)


def test_scores_of_every_8th_pixel_are_enlarged_by_corners_as_deeplab_does(tmp_path):
    """17 pixels give 3 scores, whose first and last lie on the first and last pixel: interpolation between these."""
    net = built(tmp_path, TEMPLATE).eval()
    x = torch.rand(1, 3, 17, 17)
    with torch.no_grad():
        scores, full = net.get_submodule(net.rows[1].name)(x), net(x)
    np.testing.assert_allclose(full[0, 0, ::8, ::8], scores[0, 0], atol=1e-6)
    np.testing.assert_allclose(full[0, 1, 4, 0], (scores[0, 1, 0, 0] + scores[0, 1, 1, 0]) / 2, atol=1e-6)


def test_a_net_that_scores_no_margins_has_its_images_mirrored_around(tmp_path):
    """As Yu and Koltun do by hand for their dilated nets, whose convolutions are not padded."""
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 20 dim: 24 }' + CONV.replace(" pad: 1", "") % ("a", "data", "a", 4)
    text += CONV.replace(" pad: 1", "") % ("b", "a", "b", 4)
    net = built(tmp_path, text).eval()
    assert [row.name for row in net.rows] == ["data", "data_surround", "a", "b"]
    assert (net.made_for, net.multiple) == ((16, 20), 1)
    assert net.notes == ["its scores leave out the 2 outermost pixels: the image is mirrored around by as many."]
    x = torch.rand(1, 3, 16, 20)
    around = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect"))
    with torch.no_grad():
        assert torch.equal(net(x), net.b(net.a(around)))


def test_the_parts_that_a_slice_cuts_from_a_data_layer_are_inputs(tmp_path):
    """FuseNet's training file brings colours, depth and labels in one blob of five planes."""
    text = 'layer { name: "data" type: "Data" top: "data" }'
    text += 'layer { name: "s" type: "Slice" bottom: "data" top: "rgb" top: "depth" top: "label" slice_param {'
    text += " slice_point: 3 slice_point: 4 } }" + CONV % ("a", "rgb", "a", 4) + CONV % ("b", "depth", "b", 4)
    text += 'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "e" }'
    text += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "e" bottom: "label" }'
    assert inputs_of_text(tmp_path, text) == {"rgb": 3, "depth": 1}
    net = built(tmp_path, text, {"irrg": 3, "dsm": 1})
    assert net(torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 8)).shape == (1, 4, 8, 8)


def inputs_of_text(tmp_path, text):
    (tmp_path / "net.prototxt").write_text(text)
    return inputs_of(tmp_path / "net.prototxt")


@pytest.mark.parametrize(
    "kind", ["layer { type: 'MultiStageMeanfield'", "layers { type: MULTI_STAGE_MEANFIELD", "layers { type: DENSE_CRF"]
)
def test_mean_fields_are_refused_by_name(tmp_path, kind):
    head = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n'
    with pytest.raises(UserError, match=r"layer 'inference1' \(.*\): a conditional random field that is solved by mean field"):
        net_of(tmp_path, f"{head} {kind} name: 'inference1' bottom: 'data' top: 'pred' }}")


# -------------------------------------------------------------------------------------------------- fixed sizes


def fixed_segnet(unpool):
    """One level of a SegNet whose unpooling is written for images of one size."""
    pool = 'layer { name: "p" type: "Pooling" bottom: "a" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } }'
    up = f'layer {{ name: "u" type: "Upsample" bottom: "p" bottom: "m" top: "u" upsample_param {{ {unpool} }} }}'
    return CONV % ("a", "data", "a", 4) + pool + up + CONV % ("b", "u", "b", 4)


@pytest.mark.parametrize(
    ("head", "unpool", "good"),
    [
        ('input: "data" input_shape { dim: 1 dim: 3 dim: 45 dim: 60 }', "upsample_h: 45 upsample_w: 60", "45x60"),
        ('layer { name: "data" type: "DenseImageData" top: "data" }', "upsample_h: 45 upsample_w: 60", "45x60"),
        ('layer { name: "data" type: "DenseImageData" top: "data" }', "scale: 2 pad_out_h: true pad_out_w: true", "65x65"),
    ],
)
def test_windows_that_contradict_fixed_sizes_are_refused_with_a_size_that_works(tmp_path, head, unpool, good):
    net = built(tmp_path, head + fixed_segnet(unpool))
    with pytest.raises(UserError, match=rf"cannot label windows of 64x64 pixels, since .*: take windows of {good}\.$"):
        check_windows(net, 64, 64)
    height, width = map(int, good.split("x"))
    check_windows(net, height, width)
    assert net.eval()(torch.rand(1, 3, height, width)).shape == (1, 4, height, width)


# --------------------------------------------------------------------------------------------------- several losses

LOSS = 'layer { name: "%s" type: "SoftmaxWithLoss" bottom: "%s" bottom: "%s" %s }\n'
TWO = (
    'layer { name: "data" type: "Data" top: "data" top: "label" top: "other" }\n'
    + CONV % ("a", "data", "a", 4)
    + CONV % ("far", "a", "far", 4)
    + CONV % ("near", "a", "near", 4)
)


def test_the_greatest_weight_decides_the_output_and_the_others_train_with_theirs(tmp_path):
    text = TWO + LOSS % ("main", "far", "label", "loss_weight: 2") + LOSS % ("aux", "near", "label", "loss_weight: 0.8")
    net = built(tmp_path, text)
    assert (net.output, net.auxiliary) == ("far", {"aux": 0.4})
    assert net.notes == [
        "the net's scores are those of the loss 'main' (loss_weight 2); 'aux' (loss_weight 0.8) train with it."
    ]
    x = torch.rand(2, 3, 8, 8)
    main, further = net.train()(x)
    assert torch.equal(further, net.near(net.a(x)))
    assert torch.equal(net.eval()(x), main)
    again = Net.from_json(net.to_json())
    assert (again.output, again.auxiliary) == ("far", {"aux": 0.4})
    assert 'name: "near"' not in write_prototxt(net)
    assert [row.name for row in net.fuse().rows] == ["data", "a", "far"]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (LOSS % ("geo", "near", "other", ""), "the loss 'geo' of 'near' is left out: it compares with other labels ('other')"),
        (LOSS % ("off", "near", "label", "loss_weight: 0"), "the loss 'off' is left out: its loss_weight is 0."),
        (CONV % ("late", "far", "late", 4) + LOSS % ("l", "late", "label", "loss_weight: 0.5"), "made from those of 'main'"),
    ],
)
def test_a_loss_that_cannot_train_with_the_main_one_is_left_out_and_said(tmp_path, text, note):
    net = built(tmp_path, TWO + LOSS % ("main", "far", "label", "") + text)
    assert (net.output, net.auxiliary) == ("far", {})
    assert note in net.notes[0]


def test_of_equal_losses_the_first_one_decides(tmp_path):
    assert built(tmp_path, TWO + LOSS % ("one", "near", "label", "") + LOSS % ("two", "far", "label", "")).output == "near"


def test_what_a_loss_weighs_and_sums_is_said(tmp_path):
    weighs = "weight_by_label_freqs: true class_weighting: 0.5 class_weighting: 2 normalize: false ignore_label: 1"
    notes = built(tmp_path, TWO + LOSS % ("main", "far", "label", f"loss_param {{ {weighs} }}")).notes
    assert "set CLASS_WEIGHTS = (0.5, 2)." in notes[0]
    assert notes[1] == "its loss ignores the label 1; to train so, set IGNORE_LABEL = 1."
    assert "is a sum over pixels, training.py's is a mean" in notes[2]


def test_a_loss_of_the_other_phase_tells_what_the_scores_are(tmp_path):
    text = TWO + LOSS % ("main", "far", "label", "include { phase: TRAIN } loss_param { ignore_label: 3 }")
    text += 'layer { name: "shrink" type: "Interp" bottom: "label" top: "shrink" interp_param { shrink_factor: 8 } }'
    text += LOSS % ("aux", "near", "label", "include { phase: TRAIN } loss_weight: 0.4")
    net = built(tmp_path, text)
    assert (net.output, net.auxiliary) == ("far", {"aux": 0.4})
    assert read_prototxt(tmp_path / "net.prototxt", {"data": 3}).ignore_label == 3


def test_an_auxiliary_loss_adds_its_weight_times_its_gradients():
    """One step of gradient descent, against the same loss written out: main + 0.4 of the smaller scores, labels shrunk."""
    bare = {"norm": False, "relu": False}
    rows = [data("x", 2), conv("a", "x", 3, **bare), conv("small", "a", 3, stride=2, **bare), conv("out", "a", 3, **bare)]
    net, own = (Net([*rows, auxiliary("side", "small", 0.4)]) for _ in range(2))
    own.load_state_dict(net.state_dict())
    images, labels = torch.randint(0, 255, (2, 2, 8, 8)).byte(), torch.randint(0, 3, (2, 8, 8)).byte()
    solver = Solver(net, 0.001, {"name": "fixed"}, {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0})
    spec = Input("x", ("m",), (2,), False, (100.0, 100.0))
    trainer = Trainer(net, solver, [spec], [], device.choose("cpu", "fp32"))
    trainer.step([images], labels)
    main, side = own.train()(images.float() - 100)
    shrunk = labels[:, 1::2, 1::2].long()  # of the four nearest pixels the last, as rounding goes
    loss = nn.functional.cross_entropy(main, labels.long()) + 0.4 * nn.functional.cross_entropy(side, shrunk)
    loss.backward()
    for name, parameter in own.named_parameters():
        stepped = (parameter - 0.001 * parameter.grad).detach()
        np.testing.assert_allclose(net.get_parameter(name).detach(), stepped, atol=1e-5, rtol=1e-4)
    trainer.fetch_losses()
    assert trainer.losses == pytest.approx([loss.item()], rel=1e-5)


def test_weights_of_a_deploy_net_lack_nothing_that_labelling_needs(tmp_path):
    text = TWO + LOSS % ("main", "far", "label", "") + LOSS % ("aux", "near", "label", "loss_weight: 0.4")
    net = built(tmp_path, text)
    write_caffemodel(net, tmp_path / "w.caffemodel")
    report = load_caffemodel(net, tmp_path / "w.caffemodel")
    assert (report.loaded, report.kept, report.ignored) == (["a", "far"], [], [])
