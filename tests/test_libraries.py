"""Proves that the libraries' nets stand behind our interface: any channels, classes and sizes, a step of training, a labelled
image, a snapshot that rebuilds itself, and a sentence for each name that there is not. Weights stay off; nothing is fetched."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import nets
from nets.folding import folded
from nets.libraries import architectures, encoders, pad, torchvision_names
from tools.base.errors import UserError
from tools.training.pretrained import initialise
from tools.weights.snapshots import load_net, save_net

SMALL = [f"smp:{name}/{'tu-vit_tiny_patch16_224' if name == 'DPT' else 'resnet18'}" for name in architectures()]
SMALL += ["smp:Unet/tu-convnext_atto", "smp:FPN/tu-swin_tiny_patch4_window7_224", "smp:Unet/mit_b0", "smp:Unet/mobilenet_v2"]
LARGE = [f"torchvision:{name}" for name in torchvision_names()]
ALL = SMALL + [pytest.param(name, marks=pytest.mark.slow) for name in LARGE]


@pytest.mark.parametrize("name", ALL)
def test_each_family_learns_in_a_step_and_labels_an_image_of_an_odd_size(name):
    torch.manual_seed(1)
    net = nets.build(name, {"irrg": 4}, 5)
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    image, labels = torch.randn(2, 4, 75, 50), torch.randint(0, 5, (2, 75, 50))
    assert (net.inputs, net.classes, net.multiple) == ({"irrg": 4}, 5, 1)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loss = nn.functional.cross_entropy(net(image), labels)
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and all(p.isfinite().all() for p in net.parameters())
    changed = sum(not torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert changed > len(before) / 2  # not all: PSPNet leaves the deepest maps unused
    with torch.no_grad():
        assert net.eval()(image).shape == (2, 5, 75, 50)


@pytest.mark.parametrize("name", ["smp:DeepLabV3Plus/resnet18", "torchvision:deeplabv3_mobilenet_v3_large"])
def test_a_batch_of_one_that_batch_norm_cannot_learn_from_is_said_and_is_labelled_all_the_same(name):
    net, image = nets.build(name, {"irrg": 3}, 4), torch.randn(1, 3, 32, 32)
    with pytest.raises(UserError, match="set BATCH_SIZE to 2 or more"):
        net.train()(image)
    assert net.train()(torch.cat([image, image])).shape == (2, 4, 32, 32)
    with torch.no_grad():
        assert net.eval()(image).shape == (1, 4, 32, 32)


@pytest.mark.parametrize(
    "name",
    [
        "smp:Unet/resnet18",
        pytest.param("smp:DPT/tu-vit_tiny_patch16_224", marks=pytest.mark.slow),
        "torchvision:lraspp_mobilenet_v3_large",
    ],
)
@torch.no_grad()
def test_a_snapshot_rebuilds_the_net_and_labels_alike(name, tmp_path):
    net = nets.build(name, {"irrg": 2}, 3).eval()
    save_net(tmp_path / "net.safetensors", net, {"name": name})
    again, about = load_net(tmp_path / "net.safetensors")
    image = torch.randn(1, 2, 64, 64)
    torch.testing.assert_close(again.eval()(image), net(image))
    assert about == {"name": name} and again.inputs == {"irrg": 2}
    assert name in repr(again) and "learnable values" in repr(again)


def test_options_reach_the_architecture_and_its_description_but_never_a_download():
    net = nets.build("smp:Unet/resnet18", {"irrg": 3}, 3, decoder_channels=[64, 32, 16, 8, 8])
    again = nets.rebuild(nets.describe(net))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    net.options["encoder_weights"] = "imagenet"
    assert "imagenet" not in nets.describe(net)


def test_weights_saved_by_the_library_itself_fit_by_name(tmp_path):
    net, other = (nets.build("smp:Unet/resnet18", {"irrg": 3}, 3) for _ in range(2))
    torch.save(other.net.state_dict(), tmp_path / "smp.pth")
    report = initialise(net, tmp_path / "smp.pth")
    assert report.random == []
    torch.testing.assert_close(net.net.encoder.conv1.weight, other.net.encoder.conv1.weight)


@pytest.mark.parametrize("size", [(75, 50), (5, 3), (64, 64), (1, 1)])
def test_images_are_padded_by_reflection_or_where_they_are_too_small_by_their_edge(size):
    image = torch.rand(1, 2, *size)
    padded = pad(image, 32)
    assert padded.shape[2] % 32 == 0 and padded.shape[3] % 32 == 0
    torch.testing.assert_close(padded[:, :, : size[0], : size[1]], image)
    if size == (75, 50):
        torch.testing.assert_close(padded[:, :, 75], padded[:, :, 73])
    if size == (5, 3):
        torch.testing.assert_close(padded[:, :, 9], padded[:, :, 4])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smp:Unet/resnet33", r"no encoder 'resnet33'.*Did you mean 'resnet34'"),
        ("smp:Unet/tu-convnext_atoo", r"no encoder.*Did you mean 'tu-convnext_atto"),
        ("smp:Umet/resnet34", r"no 'Umet'.*Did you mean 'Unet'"),
        ("smp:Unet", r"needs an encoder: write smp:Unet/resnet34"),
        ("smp:DPT/resnet18", r"smp:DPT cannot have the encoder 'resnet18'"),
        ("smp:Unet/tu-vit_tiny_patch16_224", r"smp:Unet cannot have the encoder 'tu-vit_tiny_patch16_224'"),
        ("torchvision:deeplabv3_resnet5", r"no 'deeplabv3_resnet5'.*Did you mean 'deeplabv3_resnet50'"),
        ("timm:resnet50", r"no library 'timm'.*smp, torchvision"),
    ],
)
def test_a_name_that_there_is_not_is_said_with_the_nearest_known(name, words):
    with pytest.raises(UserError, match=words):
        nets.build(name, {"irrg": 3}, 6)


def test_options_and_inputs_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"no option 'colour'.*decoder_channels"):
        nets.build("smp:Unet/resnet18", {"irrg": 3}, 6, colour=1)
    with pytest.raises(UserError, match="reads one input, but there are 2"):
        nets.build("smp:Unet/resnet18", {"irrg": 3, "dsm": 1}, 6)
    with pytest.raises(UserError, match="has no options, but colour is given"):
        nets.build("torchvision:fcn_resnet50", {"irrg": 3}, 6, colour=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoder", [name for name in encoders() if not name.startswith("tu-")])
def test_every_encoder_of_smp_builds_and_labels(encoder):
    with torch.device("cpu" if encoder.startswith("mit") else "meta"), torch.no_grad():  # mit draws lots while it is built
        net = nets.build(f"smp:Unet/{encoder}", {"irrg": 5}, 6).eval()
        assert net(torch.empty(1, 5, 70, 90)).shape == (1, 6, 70, 90)


TWICE = """
import torch, warnings
from tools.compute.torchvision_guard import torchvision, import_torchvision
assert import_torchvision() is torchvision
import timm, segmentation_models_pytorch
print(torchvision.models.resnet18(weights=None)(torch.zeros(2, 3, 32, 32)).shape)
"""


def test_the_guard_lets_torchvision_timm_and_smp_be_imported_in_a_fresh_process():
    ran = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "torch.Size([2, 1000])"), ran.stderr


def test_the_guard_hides_no_other_failure(monkeypatch):
    from tools.compute import torchvision_guard

    def broken(name):
        raise RuntimeError("something else is wrong")

    monkeypatch.setattr(torchvision_guard.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_guard.import_torchvision()


# ------------------------------------------------------------------------------------------------- batch norm for labelling


def stirred(net):
    """The net with statistics and factors of its batch norms that are those of no fresh net, as after training."""
    random = torch.Generator().manual_seed(2)
    for norm in norms(net):
        norm.running_mean.normal_(0, 0.3, generator=random)
        norm.running_var.uniform_(0.5, 2, generator=random)
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5, generator=random)
            norm.bias.normal_(0, 0.2, generator=random)
    return net


def norms(net):
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    "name", ["smp:Unet/resnet18", "smp:Unet/tu-tf_efficientnet_lite0", "torchvision:lraspp_mobilenet_v3_large"]
)
def test_a_net_without_its_batch_norms_labels_as_before_and_the_net_itself_stays(name):
    torch.manual_seed(1)
    net = stirred(nets.build(name, {"irrg": 4}, 5))
    before, count = {k: v.clone() for k, v in net.state_dict().items()}, len(norms(net))
    less, image = net.fuse(), torch.randn(2, 4, 75, 50)
    assert count > 10 and not norms(less)
    assert net.training and not less.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    with torch.no_grad():
        expected = net.eval()(image)
        assert (less(image) - expected).abs().max() <= 1e-5 * expected.abs().max()


class Twice(nn.Module):
    """What its convolution writes is read by more than a norm, or its norm runs twice."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.norm, self.way = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), way

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y if self.way == "read" else self.norm(self.norm(y))


@pytest.mark.parametrize("way", ["read", "run"])
def test_a_norm_that_cannot_be_folded_stays(way):
    net = stirred(Twice(way))
    assert norms(folded(net, torch.randn(1, 1, 8, 8))) != []


def test_a_librarys_net_is_drawn_by_stage_with_what_each_reads():
    """smp's U-Net: each block of the decoder reads the one before it and the encoder's map of its size."""
    net = nets.build("smp:Unet/resnet18", {"irrg": 3}, 6).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = {box.name: box for box in net.boxes()}
    assert list(found) == [
        "irrg", "encoder.conv1", "encoder.maxpool", *(f"encoder.layer{i}" for i in (1, 2, 3, 4)),
        *(f"decoder.blocks.{i}" for i in range(5)), "segmentation_head.0",
    ]  # fmt: skip
    assert found["encoder.conv1"].reads == ("irrg",) and found["encoder.layer1"].reads == ("encoder.maxpool",)
    assert found["decoder.blocks.0"].reads == ("encoder.layer4", "encoder.layer3")
    assert found["decoder.blocks.3"].reads == ("decoder.blocks.2", "encoder.conv1")
    assert found["decoder.blocks.4"].reads == ("decoder.blocks.3",)
    assert (found["encoder.layer4"].size, found["segmentation_head.0"].size) == ((512, 4, 4), (6, 128, 128))
    assert found["encoder.layer4"].learnable == sum(p.numel() for p in net.net.encoder.layer4.parameters())
    assert all(module.training for module in net.modules())  # as it was
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", ["torchvision:deeplabv3_resnet50", "smp:UPerNet/tu-convnext_atto"])
def test_stages_of_other_libraries_form_one_graph(name):
    with torch.device("cpu"):
        boxes = nets.build(name, {"irrg": 3}, 6).boxes()
    names = [box.name for box in boxes]
    assert len(names) > 8 and all(box.reads and set(box.reads) <= set(names[:i]) for i, box in enumerate(boxes) if i)
    assert set(names[:-1]) - {read for box in boxes for read in box.reads} <= {"aux_classifier.4"}
