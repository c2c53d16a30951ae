"""Proves that EfficientNet-Lite is the published encoder (timm's features with timm's weights, its table of planes), and that
the light U-Net on top of it is fused, exported and refused to Caffe as it should be."""

import math

import pytest
import torch
from lively import lively, written
from torch import nn

import nets
from nets import efficientnet_lite
from nets.caffe.prototxt import read_prototxt
from nets.caffe.prototxt_write import write_prototxt
from nets.layers import conv, data, eltwise, enlarge, relu6
from nets.net import Net
from tools.base.errors import UserError
from tools.compute import torchvision_guard  # noqa: F401  (timm imports torchvision)
from tools.weights.first_layer import first_layers

TENSORS = ("weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def published(name, **options):
    """timm's encoder of that name, with random weights and statistics that are not 0 and 1."""
    import timm

    torch.manual_seed(7)
    return lively(timm.create_model(f"tf_{name}", features_only=True, pretrained=False, **options), 7)


def with_its_weights(rows, theirs):
    """Our encoder with the values of theirs, tensor after tensor in the order in which both have them."""
    net = Net([data("data", 3), *rows]).eval()
    state = net.state_dict()
    values = [v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")]
    names = [f"{layer}.{tensor}" for layer in efficientnet_lite.convolutions(rows) for tensor in TENSORS]
    with torch.no_grad():
        for name, value in zip(names, values, strict=True):
            assert state[name].shape == value.shape
            state[name].copy_(value)
    return net


def assert_alike(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("name", list(efficientnet_lite.MULTIPLIERS))
def test_the_features_of_all_sizes_are_timms_with_timms_weights(name):
    theirs = published(name)
    rows, blobs = efficientnet_lite.encoder(name, "data")
    ours = with_its_weights(rows, theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted = theirs(image)
    assert [w.shape[2] for w in wanted] == [32, 16, 8, 4, 2]
    assert_alike(written(ours, blobs, image), wanted)


@pytest.mark.parametrize("stride", [8, 16])
def test_the_dilated_encoder_of_deeplab_gives_timms_dilated_features(stride):
    theirs = published("efficientnet_lite0", output_stride=stride)
    rows, quarter, last = efficientnet_lite.BACKBONES["efficientnet_lite0"]("data", stride)
    ours = with_its_weights(rows, theirs)
    assert (ours.blobs[quarter].stride, ours.blobs[last].stride) == (4, stride)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs(image)
    assert_alike(written(ours, [quarter, last], image), [wanted[1], wanted[-1]])


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(16, 24), (15, 24), (15, 17), (1, 2)])
def test_padding_as_tensorflow_centres_the_windows_so_that_the_odd_pixel_is_below_and_right(kernel, size):
    net = Net([data("data", 2), conv("conv", "data", 3, kernel, stride=2, pad="tensorflow", norm=False, relu=False)])
    image, total = torch.randn(1, 2, *size), [max((math.ceil(n / 2) - 1) * 2 + kernel - n, 0) for n in size]
    padded = torch.zeros(1, 2, size[0] + total[0], size[1] + total[1])
    padded[:, :, total[0] // 2 : total[0] // 2 + size[0], total[1] // 2 : total[1] // 2 + size[1]] = image
    wanted = nn.functional.conv2d(padded, net.conv.weight, net.conv.bias, stride=2)
    assert wanted.shape[2:] == tuple(math.ceil(n / 2) for n in size)
    torch.testing.assert_close(net.conv(image), wanted)


@pytest.mark.parametrize("size", [(64, 96), (37, 50)])
def test_the_finer_net_is_the_plain_one_on_an_image_twice_as_large_whose_scores_it_has_before_they_are_enlarged(size):
    torch.manual_seed(4)
    plain, finer = (nets.build("unet_light/efficientnet_lite0", {"irrg": 3}, 4, finer=f).eval() for f in (False, True))
    finer.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, *size)
    twice = nn.functional.interpolate(image, (2 * size[0], 2 * size[1]), mode="bilinear", align_corners=False)
    with torch.no_grad():
        (wanted,) = written(plain, ["score_half"], twice)
        assert wanted.shape[2:] == size
        torch.testing.assert_close(finer(image), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
        torch.testing.assert_close(finer.fuse()(image), wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())


def test_weights_for_other_units_and_bands_are_folded_into_the_finer_nets_first_layer_too():
    plain, finer = (nets.build("unet_light/efficientnet_lite0", {"irrg": 3}, 4, finer=f) for f in (False, True))
    assert first_layers(finer) == first_layers(plain) != []


@pytest.mark.parametrize("finer", [1, "yes", None])
def test_the_net_is_finer_or_not(finer):
    with pytest.raises(UserError, match=r"finer = .*: it must be True or False"):
        nets.build("unet_light/efficientnet_lite0", {"irrg": 3}, 4, finer=finer)


@pytest.mark.parametrize("by", [0, 1.5, True, "2"])
def test_an_image_is_enlarged_by_whole_numbers_alone(by):
    with pytest.raises(UserError, match="whole number from 1 on"):
        Net([data("data", 3), enlarge("twice", "data", by=by), conv("conv1", "twice", 4)])


@pytest.mark.parametrize("name", ["unet_light/efficientnet_lite0", "deeplabv3plus/efficientnet_lite0"])
def test_fused_the_net_says_the_same(name):
    torch.manual_seed(3)
    net = nets.build(name, {"irrg": 3}, 4)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(2, 3, 64, 64))  # statistics that are not 0 and 1
    net.eval()
    fused, image = net.fuse(), torch.randn(1, 3, 64, 96)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.ReLU6) for module in fused.modules())
    with torch.no_grad():
        wanted = net(image)
        torch.testing.assert_close(fused(image), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_what_others_read_before_it_is_cut_off_stays():
    """A ReLU6 joins the convolution before it where nothing else reads that one; its own input is left as it was."""
    torch.manual_seed(3)
    rows = [data("x", 3), conv("a", "x", 4, relu=False), relu6("b", "a"), conv("c", "b", 4, relu=False), relu6("d", "c")]
    net = Net([*rows, eltwise("sum", "a", "d"), relu6("end", "sum")]).eval()
    fused, image = net.fuse(), 20 * torch.randn(1, 3, 8, 8)
    assert [row.name for row in fused.rows] == ["x", "a", "b", "c", "sum", "end"]
    with torch.no_grad():
        assert net(image).max() == 6
        torch.testing.assert_close(fused(image), net(image), rtol=0, atol=1e-4)
    assert Net.from_json(fused.to_json()).c.relu == 6
    with pytest.raises(UserError, match=r"layer 'c' cuts off what is above 6 \(ReLU6\)"):
        write_prototxt(Net([data("x", 3), conv("c", "x", 4, relu=6)]))


@pytest.mark.slow
def test_a_traced_program_of_the_light_net_takes_images_of_other_sizes():
    net = nets.build("unet_light/efficientnet_lite0", {"irrg": 3}, 4).eval()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(net, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(({0: auto, 2: auto, 3: auto},),)).module()
    for size in ((128, 64), (61, 75)):
        image = torch.randn(3, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program(image), net(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 32), (37, 53)])
def test_the_light_net_labels_images_of_any_size(size):
    net = nets.build("unet_light/efficientnet_lite0", {"irrg": 4}, 3).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 4, *size)).shape == (1, 3, *size)


def test_the_light_unet_refuses_a_backbone_that_it_has_not():
    with pytest.raises(UserError, match=r"no backbone 'vgg16'.*efficientnet_lite0"):
        nets.build("unet_light/vgg16", {"irrg": 3}, 4)


def test_lite_nets_widen_and_deepen_as_their_table_says():
    """Planes are multiples of 8 near 1.1 times lite0's; the first and the last stage keep their one block."""
    blocks = {}
    for name in efficientnet_lite.MULTIPLIERS:
        rows, _ = efficientnet_lite.encoder(name, "data")
        blocks[name] = [row.args["channels"] for row in rows if row.name.endswith("_project")]
    assert blocks["efficientnet_lite0"] == [16, *[24] * 2, *[40] * 2, *[80] * 3, *[112] * 3, *[192] * 4, 320]
    assert blocks["efficientnet_lite1"] == [16, *[24] * 3, *[40] * 3, *[80] * 4, *[112] * 4, *[192] * 5, 320]
    assert blocks["efficientnet_lite2"] == [16, *[24] * 3, *[48] * 3, *[88] * 4, *[120] * 4, *[208] * 5, 352]


def test_caffes_format_keeps_the_epsilon_and_refuses_what_caffe_cannot_pad(tmp_path):
    rows = [data("data", 3), conv("conv1", "data", 4, kernel=1, eps=1e-3)]
    path = tmp_path / "net.prototxt"
    path.write_text(write_prototxt(Net(rows)))
    assert [row.args["eps"] for row in read_prototxt(str(path), {"data": 3}).rows if "eps" in row.args] == [1e-3]
    with pytest.raises(UserError, match="'conv1' pads as TensorFlow does"):
        write_prototxt(Net([data("data", 3), *efficientnet_lite.encoder("efficientnet_lite0", "data")[0]]))
