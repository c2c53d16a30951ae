"""Proves that each table declares the network that its docstring claims: learnable values and multiply-adds counted in two
ways that do not use our code, the backbones value by value against torchvision's, and every net trains and labels."""

import importlib
import re

import pytest
import torch
from lively import lively, written
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nets
from nets import backbones
from nets.net import Net
from tools.base.errors import UserError
from tools.compute.torchvision_guard import torchvision
from tools.weights.torchvision_names import from_torchvision

NAMES = nets.names_with_backbones()
PLANES = (8, 8, 16, 16, 16)
VGG16 = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 2, (256, 512), *[(512, 512)] * 5]
DECODER = [*[(512, 512)] * 5, (512, 256), *[(256, 256)] * 2, (256, 128), (128, 128), (128, 64), (64, 64)]


def values(convs, kernel=3):
    """Learnable values of convolutions (channels read, channels written) with bias, gamma and beta."""
    return sum(i * o * kernel**2 + 3 * o for i, o in convs)


def score_values(i, o, kernel=3):
    return i * o * kernel**2 + o


def on_meta(name, inputs=None, classes=6, **options):
    with torch.device("meta"):
        return nets.build(name, inputs or nets.example_inputs(name), classes, **options).eval()


def claims(name):
    """(learnable values, G multiply-adds) in the docstring of a net's file; the backbone's own line where there are several."""
    stem, _, backbone = name.partition("/")
    text = importlib.import_module(f"nets.{stem}").__doc__.replace("\n", " ")
    text = text[text.index(f"{backbone}:") :] if backbone else text
    found = re.search(r"([\d,]+) learnable values, ([\d.]+) G multiply-adds", text)
    return int(found[1].replace(",", "")), float(found[2])


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_learnable_values_and_the_multiply_adds(name):
    net = on_meta(name)
    images = [torch.empty(1, 3, 128, 128, device="meta") for _ in net.inputs]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = net(*images)
    learnable, multiply_adds = claims(name)
    assert logits.shape == (1, 6, 128, 128)
    assert sum(p.numel() for p in net.parameters()) == learnable
    assert round(counter.get_total_flops() / 2e9, 2) == multiply_adds


SEGNET = values(VGG16) + values(DECODER) + score_values(64, 6)
FUSED = [(128, 64), *VGG16[1:]]  # an encoder that begins at the first maps of two others
VIRTUAL = [(128, 64), (64, 64), (320, 128), (128, 128), (640, 256), *[(256, 256)] * 2, (1280, 512), *[(512, 512)] * 2]
VIRTUAL += [(1536, 512), *[(512, 512)] * 2]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("segnet", SEGNET),
        ("segnet_multikernel", SEGNET + score_values(64, 6, 5) + score_values(64, 6, 7)),
        ("segnet_rc", 2 * SEGNET + values([(128, 64), (64, 64)]) + score_values(64, 6)),
        ("fusenet_sum", SEGNET + values(VGG16)),
        ("fusenet", SEGNET + values(VGG16) + values(FUSED)),
        ("vfusenet", SEGNET + values(VGG16) + values(VIRTUAL)),
    ],
)
def test_the_learnable_values_are_those_of_the_papers_layers(name, wanted):
    assert claims(name)[0] == wanted


def test_fusenet_has_the_learnable_values_of_its_authors_caffe_model():
    assert claims("fusenet")[0] == 58_964_742


def test_unet_has_the_values_of_its_paper_with_batch_norm_and_padding():
    down = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 1024), (1024, 1024)]
    up = [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    transposed = sum(i * o * 4 + o for i, o in [(1024, 512), (512, 256), (256, 128), (128, 64)])
    assert claims("unet")[0] == values(down) + values(up) + transposed + score_values(64, 6, 1)


@pytest.mark.parametrize("name", NAMES)
def test_multiply_adds_agree_with_a_count_over_the_convolutions_alone(name):
    net, found = on_meta(name), []

    def count(module, args, out):
        taps = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight[:, 0].numel()
        pixels = out.shape[2] * out.shape[3] if isinstance(module, nn.Conv2d) else args[0].shape[2] * args[0].shape[3]
        found.append(taps * pixels * out.shape[1] if isinstance(module, nn.Conv2d) else module.weight.numel() * pixels)

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(*[torch.empty(1, 3, 128, 128, device="meta") for _ in net.inputs])
    assert round(sum(found) / 1e9, 2) == claims(name)[1]


# ----------------------------------------------------------------------------------------------------------- the backbones


def backbone_net(write, output_stride):
    """A backbone alone, whose last row is a stand-in for a decoder; and the names of the blobs that decoders use."""
    rows, low, high = write("data", output_stride)
    return Net([nets.layers.data("data", 3), *rows]).eval(), low, high


def load(ours, theirs):
    """torchvision's values into our layers, by the table of names; nothing may be left over on our side."""
    layers = from_torchvision(theirs.state_dict())
    with torch.no_grad():
        state = ours.state_dict()
        own = {name for name in state if not name.endswith("num_batches_tracked")}
        given = {f"{layer}.{tensor}": v for layer, tensors in layers.items() for tensor, v in tensors.items()}
        assert own == set(given)
        for name in own:
            state[name].copy_(given[name])


@pytest.mark.parametrize(
    ("name", "stride"), [("resnet50", 16), ("resnet50", 8), pytest.param("resnet101", 16, marks=pytest.mark.slow)]
)
def test_resnets_give_torchvisions_features(name, stride):
    dilate = [False, stride == 8, True]
    theirs = lively(getattr(torchvision.models, name)(weights=None, replace_stride_with_dilation=dilate))
    ours, low, high = backbone_net(getattr(backbones, name), stride)
    load(ours, theirs)
    head = sum(p.numel() for p in theirs.fc.parameters())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - head
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        wanted_low = theirs.layer1(x)
        wanted = theirs.layer4(theirs.layer3(theirs.layer2(wanted_low)))
    check_maps(ours, image, {low: wanted_low, high: wanted})


def test_mobilenetv2_gives_torchvisions_features_once_those_are_dilated():
    theirs = lively(torchvision.models.mobilenet_v2(weights=None))
    ours, low, high = backbone_net(backbones.mobilenetv2, 16)
    load(ours, theirs)
    features = theirs.features[:18]
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in features.parameters())
    for number in range(14, 18):  # the stage of stride 32: its first 3x3 keeps the size, the others look twice as far
        three = next(m for m in features[number].modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
        three.stride = (1, 1)
        if number > 14:
            three.dilation = three.padding = (2, 2)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        check_maps(ours, image, {low: features[:4](image), high: features(image)})


def check_maps(net, image, wanted):
    """The blobs that a net writes for an image are these."""
    for found, blob in zip(written(net, wanted, image), wanted.values(), strict=True):
        torch.testing.assert_close(found, blob, rtol=1e-3, atol=1e-4 * blob.abs().max().item())


@pytest.mark.parametrize("backbone", ["vgg16", "resnet50", "resnet101", "mobilenetv2"])
@pytest.mark.parametrize("stride", [8, 16])
def test_the_last_map_of_a_backbone_has_the_output_stride_that_is_asked_for(backbone, stride):
    with torch.device("meta"):
        net, low, high = backbone_net(getattr(backbones, backbone), stride)
    assert (net.blobs[low].stride, net.blobs[high].stride) == (4, stride)


@pytest.mark.parametrize("stride", [8, 16])
def test_the_pyramid_of_deeplab_looks_as_far_in_the_image_whatever_the_stride(stride):
    net = on_meta("deeplabv3plus/mobilenetv2", output_stride=stride)
    assert [getattr(net, f"aspp{i}").dilation[0] * stride for i in (2, 3, 4)] == [96, 192, 288]


def test_deeplab_refuses_backbones_and_strides_that_there_are_not():
    with pytest.raises(UserError, match=r"no backbone 'resnet18'.*vgg16"):
        on_meta("deeplabv3plus/resnet18")
    with pytest.raises(UserError, match="8 or 16, not 32"):
        on_meta("deeplabv3plus", output_stride=32)


@pytest.mark.parametrize(("stride", "rates"), [(16, [2, 4, 8]), (8, [4, 8, 16])])
@pytest.mark.parametrize(("backbone", "last"), [("resnet101", "layer4_{}_conv2"), ("vgg16", "conv5_{}")])
def test_multi_grid_multiplies_the_dilations_of_the_last_stage_alone(stride, rates, backbone, last):
    """DeepLabV3's rates: 2 x (1, 2, 4) at stride 16 (arXiv 1706.05587, 3.3)."""
    nets_ = [on_meta(f"deeplabv3plus/{backbone}", output_stride=stride, multi_grid=grid) for grid in (None, (1, 2, 4))]
    plain, net = (dict(n.named_modules()) for n in nets_)
    names = [last.format(i + (backbone == "vgg16")) for i in range(3)]
    assert [net[name].dilation[0] for name in names] == rates
    others = [n for n, m in plain.items() if isinstance(m, nn.Conv2d) and n.removesuffix(".conv") not in names]
    assert len(others) > 12 and all(plain[n].dilation == net[n].dilation for n in others)
    assert [(n, p.shape) for n, p in nets_[0].named_parameters()] == [(n, p.shape) for n, p in nets_[1].named_parameters()]


def test_the_decoder_of_deeplab_drops_values_in_training_alone():
    net = nets.build("deeplabv3plus/mobilenetv2", {"irrg": 3}, 6, decoder_dropout=(0.5, 0.1))
    assert [net.decoder1_drop.p, net.decoder2_drop.p] == [0.5, 0.1]
    assert [row.reads for row in net.rows if row.name in ("decoder2", "score_low")] == [("decoder1_drop",), ("decoder2_drop",)]
    image = torch.randn(1, 3, 64, 64)
    for module in net.modules():
        module.training = isinstance(module, nn.Dropout) and module is not net.aspp_drop  # nothing else is drawn or averaged
    with torch.no_grad():
        assert not torch.equal(net(image), net(image))
        assert torch.equal(net.eval()(image), net(image))
    assert not any("decoder" in row.name and row.kind == "dropout" for row in on_meta("deeplabv3plus/mobilenetv2").rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"multi_grid": (1, 2)}, r"multi_grid = \(1, 2\): it must be three whole numbers"),
        ({"multi_grid": (1, 2, 0)}, "three whole numbers"),
        ({"multi_grid": 2}, "three whole numbers"),
        (
            {"multi_grid": (1, 2, 4), "backbone": "mobilenetv2"},
            "multi_grid is for vgg16, resnet50, resnet101, not for mobilenetv2",
        ),
        ({"decoder_dropout": 0.5}, r"decoder_dropout = 0.5: it must be two shares"),
        ({"decoder_dropout": (0.5, 1)}, "two shares"),
    ],
)
def test_other_grids_and_dropouts_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        on_meta(f"deeplabv3plus/{options.pop('backbone', 'resnet50')}", **options)


# ---------------------------------------------------------------------------------------------------- all nets of the folder


def narrow(name):
    """Options that make a net small enough to be trained here, where it has any."""
    return {} if any(word in name for word in ("deeplab", "slim", "light")) else {"planes": PLANES}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if "resnet50" in n else ()) for n in NAMES if "resnet101" not in n]
)
def test_each_net_learns_in_a_step_and_labels_an_image(name):
    torch.manual_seed(5)
    inputs = dict(zip(nets.example_inputs(name), (4, 1), strict=False))
    net = nets.build(name, inputs, 5, **narrow(name))
    images = [torch.randn(2, channels, 64, 32) for channels in inputs.values()]
    labels = torch.randint(0, 5, (2, 64, 32))
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(net(*images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
    assert all(p.grad is not None for p in net.parameters())
    with torch.no_grad():
        assert net.eval()(*images).argmax(1).shape == (2, 64, 32)


@pytest.mark.parametrize("name", [n for n in NAMES if "deeplab" in n and "resnet101" not in n])
@pytest.mark.parametrize("size", [(37, 53), (64, 1)])
def test_deeplab_takes_images_of_any_size(name, size):
    net = nets.build(name, {"irrg": 3}, 4).eval()
    assert net.multiple == 1
    with torch.no_grad():
        assert net(torch.randn(1, 3, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize(
    ("name", "multiple"), [("segnet", 32), ("segnet_rc", 32), ("fusenet", 32), ("vfusenet", 32), ("unet", 16)]
)
def test_nets_with_poolings_say_which_sizes_they_take(name, multiple):
    inputs = nets.example_inputs(name)
    net = nets.build(name, inputs, 4, planes=PLANES).eval()
    assert net.multiple == multiple
    with pytest.raises(UserError, match=rf"50x{multiple} pixels.*multiples of {multiple} \(the nearest: \d+x{multiple}\)"):
        net(*[torch.randn(1, 3, 50, multiple) for _ in inputs])


@pytest.mark.parametrize("name", NAMES)
def test_each_net_is_printed_and_rebuilt_from_its_description(name):
    with torch.device("meta"):
        net = nets.build(name, nets.example_inputs(name), 6)
        again = nets.rebuild(nets.describe(net))
    assert repr(again) == repr(net) and "learnable values" in repr(net)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}


def test_a_branch_of_residual_correction_is_a_segnet():
    net = nets.build("segnet_rc", {"irrg": 3, "dsm": 3}, 4, planes=PLANES).eval()
    alone = nets.build("segnet", {"irrg": 3}, 4, planes=PLANES).eval()
    alone.load_state_dict({k.removeprefix("dsm_"): v for k, v in net.state_dict().items() if k.startswith("dsm_")})
    nn.init.zeros_(net.irrg_conv1_1_D.weight)
    nn.init.zeros_(net.correction3.weight)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(torch.randn(1, 3, 32, 32), image), alone(image) / 2)


@pytest.mark.parametrize("name", ["fusenet", "vfusenet", "segnet_rc"])
def test_the_symmetrical_nets_do_not_mind_which_input_is_named_first(name):
    torch.manual_seed(6)
    net = nets.build(name, {"a": 3, "b": 3}, 4, planes=PLANES).eval()
    turned = nets.build(name, {"b": 3, "a": 3}, 4, planes=PLANES).eval()
    state = net.state_dict()
    joined = "correction1.weight" if name == "segnet_rc" else "conv1_1.weight"
    swap = {joined: torch.cat(state[joined].chunk(2, 1)[::-1], 1)}
    if name == "vfusenet":  # the later blocks read their own pooling before both maps
        for block, own in zip((2, 3, 4, 5), PLANES[:4], strict=True):
            first = f"conv{block}_1.weight"
            head, tail = state[first][:, :own], state[first][:, own:]
            swap[first] = torch.cat([head, *tail.chunk(2, 1)[::-1]], 1)
    turned.load_state_dict(state | swap)
    a, b = torch.randn(2, 1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(turned(b, a), net(a, b))


def test_a_net_with_two_branches_wants_two_inputs_and_a_plain_one_wants_one():
    with pytest.raises(UserError, match="fusenet reads two inputs, but there is irrg"):
        nets.build("fusenet", {"irrg": 3}, 6)
    with pytest.raises(UserError, match="unet reads one input, but there are 2"):
        nets.build("unet", {"irrg": 3, "dsm": 1}, 6)
    with pytest.raises(UserError, match="no option 'backbone'"):
        nets.build("unet/resnet50", {"irrg": 3}, 6)
    with pytest.raises(UserError, match=r"no net called 'segnt'.*Did you mean 'segnet'"):
        nets.build("segnt", {"irrg": 3}, 6)
