"""Proves that weights from elsewhere arrive: an ImageNet filter sees just what it saw in torchvision's own net, whatever the
order, the mean and the number of bands; layers are matched by name; what does not fit is said, and then nothing changes."""

import urllib.error
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lively import lively, written
from safetensors.torch import save_file
from torch import nn

import nets
from nets.layers import conv, data, score
from nets.net import Net
from nets.segnet import vgg16
from tools.base.errors import UserError
from tools.compute.torchvision_guard import torchvision
from tools.data.inputs import IMAGENET_DEVIATION, IMAGENET_MEAN, Input
from tools.training.pretrained import initialise
from tools.weights.first_layer import spread
from tools.weights.torchvision_names import VGG16

MEAN = [255 * m for m in IMAGENET_MEAN]
OTHER_MEAN = [120.9, 81.9, 81.3]
PLANES = (8, 16, 16, 32, 32)


def seen(bgr=False, mean=MEAN, bands=(3,), name="irrg"):
    """An input whose mean is given in the order of the files."""
    stored, start = [], 0
    for count in bands:
        part = list(mean[start : start + count])
        stored += part[::-1] if bgr else part
        start += count
    return Input(name, tuple("abc"[: len(bands)]), tuple(bands), bgr, tuple(stored))


def torchvision_vgg(batch_norm=False, planes=PLANES):
    """torchvision's own VGG-16 without its classifier, slimmer, with running statistics that are not 0 and 1."""
    torch.manual_seed(1)
    a, b, c, d, e = planes
    features = torchvision.models.vgg.make_layers([a, a, "M", b, b, "M", c, c, c, "M", d, d, d, "M", e, e, e, "M"], batch_norm)
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, 0, 0.1)
    return lively(features)


def file_of(path, features):
    """The weights of `features` under torchvision's names."""
    save_file({f"features.{k}": v for k, v in features.state_dict().items()}, path)
    return path


def encoder(norm, channels=3):
    """Our VGG-16 alone, with or without batch norm."""
    rows = [data("irrg", channels), *vgg16("irrg", PLANES)]
    for row in rows:
        if row.kind == "conv":
            row.args["norm"] = norm
    return Net([*rows, conv("end", "pool5", 1, kernel=1)]).eval()


def maps(net, layer, image):
    """What a layer writes for an image."""
    (found,) = written(net, [layer], image)
    return found[0] if isinstance(found, tuple) else found


def as_torchvision_wants_it(pixels):
    """R, G, B between 0 and 1, less ImageNet's mean, by its deviation: torchvision's own transform."""
    return torchvision.transforms.functional.normalize(pixels / 255, IMAGENET_MEAN, IMAGENET_DEVIATION)


def as_net_wants_it(pixels, given):
    """Raw units less the mean, bands in the order of the databases, by tools/data/inputs.py."""
    stored = given.stack(dict(zip(given.modalities, [b.numpy() for b in pixels[0].split(list(given.bands))], strict=True)))
    return given.normalise(torch.from_numpy(stored.copy())[None])


PIXELS = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(2)).float()


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_with_imagenets_mean_our_encoder_gives_torchvisions_outputs_everywhere(tmp_path, bgr, batch_norm):
    theirs = torchvision_vgg(batch_norm)
    ours, given = encoder(norm=batch_norm), seen(bgr)
    initialise(ours, file_of(tmp_path / "vgg.safetensors", theirs), [given])
    with torch.no_grad():
        wanted = theirs(as_torchvision_wants_it(PIXELS))
    torch.testing.assert_close(maps(ours, "pool5", as_net_wants_it(PIXELS, given)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bgr", [False, True])
def test_with_another_mean_the_first_layer_agrees_but_for_the_padded_border(tmp_path, bgr):
    theirs = torchvision_vgg()
    ours, given = encoder(norm=False), seen(bgr, OTHER_MEAN)
    initialise(ours, file_of(tmp_path / "vgg.safetensors", theirs), [given])
    with torch.no_grad():
        wanted = theirs[:2](as_torchvision_wants_it(PIXELS))
    found = maps(ours, "conv1_1", as_net_wants_it(PIXELS, given))
    torch.testing.assert_close(found[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[..., 0, :], wanted[..., 0, :], atol=1e-2)


def test_inputs_divided_by_their_deviation_are_answered_alike(tmp_path):
    theirs = torchvision_vgg()
    given = replace(seen(True, OTHER_MEAN), deviation=(40.0, 50.0, 60.0))
    ours = encoder(norm=False)
    initialise(ours, file_of(tmp_path / "vgg.safetensors", theirs), [given])
    with torch.no_grad():
        wanted = theirs[:2](as_torchvision_wants_it(PIXELS))
    found = maps(ours, "conv1_1", as_net_wants_it(PIXELS, given))
    torch.testing.assert_close(found[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)


def test_band_one_takes_the_red_filter_however_the_bands_are_stored(tmp_path):
    theirs = torchvision_vgg()
    path = file_of(tmp_path / "vgg.safetensors", theirs)
    plain, turned = encoder(norm=False), encoder(norm=False)
    initialise(plain, path, [seen(bgr=False)])
    initialise(turned, path, [seen(bgr=True)])
    red = theirs[0].weight[:, 0] / (255 * 0.229)
    torch.testing.assert_close(plain.conv1_1.weight[:, 0], red)
    torch.testing.assert_close(turned.conv1_1.weight[:, 2], red)


@pytest.mark.parametrize(("bands", "bgr"), [((1,), False), ((2,), False), ((4,), True), ((3, 1), True), ((3, 3, 1), True)])
def test_a_picture_whose_bands_are_alike_is_answered_as_a_grey_one_whatever_their_number(tmp_path, bands, bgr):
    theirs = torchvision_vgg()
    given = seen(bgr, [100.0] * sum(bands), bands)
    ours = encoder(norm=False, channels=sum(bands))
    report = initialise(ours, file_of(tmp_path / "vgg.safetensors", theirs), [given])
    grey = PIXELS[:, :1]
    with torch.no_grad():
        wanted = theirs[:2](as_torchvision_wants_it(grey.expand(-1, 3, -1, -1)))
    found = maps(ours, "conv1_1", as_net_wants_it(grey.expand(-1, sum(bands), -1, -1), given))
    torch.testing.assert_close(found[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert f"{sum(bands)} band" in str(report) and f"3/{sum(bands)}" in str(report)


@given(st.integers(1, 12))
@settings(max_examples=12)
def test_the_filters_of_all_bands_add_up_to_the_filters_of_red_green_and_blue(bands):
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(bands))
    torch.testing.assert_close(spread(weight, bands).sum(1), weight.sum(1))


def test_four_bands_stored_in_two_modalities_put_the_fourth_behind_the_reversed_three(tmp_path):
    ours = encoder(norm=False, channels=4)
    initialise(ours, file_of(tmp_path / "vgg.safetensors", torchvision_vgg()), [seen(True, [1, 2, 3, 4], (3, 1))])
    filters = torchvision_vgg()[0].weight / (255 * torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1))
    torch.testing.assert_close(ours.conv1_1.weight[:, [2, 1, 0]], filters * 0.75)
    torch.testing.assert_close(ours.conv1_1.weight[:, 3], filters.mean(1) * 0.75)


def test_a_pth_with_the_classifier_is_read_and_the_classifier_named_as_not_used(tmp_path):
    weights = {f"features.{k}": v for k, v in torchvision_vgg().state_dict().items()}
    torch.save(weights | {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}, tmp_path / "vgg.pth")
    report = initialise(encoder(norm=True), tmp_path / "vgg.pth", [seen()])
    assert report.loaded == list(VGG16) == report.anew
    assert report.random == ["end"]
    assert "classifier.0" in str(report)


def test_vgg16_loads_at_full_size_under_the_names_of_torchvision():
    shapes = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], False).state_dict()
    assert [n for pair in [(f"{plain}.weight", f"{plain}.bias") for plain, _ in VGG16.values()] for n in pair] == list(shapes)
    net = nets.build("segnet", {"irrg": 3}, 6)
    for layer, (number, _) in VGG16.items():
        assert getattr(net, layer).weight.shape == shapes[f"{number}.weight"].shape


def test_both_encoders_that_begin_at_an_input_get_the_weights_and_the_fused_one_stays_random(tmp_path):
    torch.manual_seed(3)
    net = nets.build("fusenet", {"irrg": 3, "dsm": 1}, 6, planes=PLANES)
    before = net.conv3_1.weight.clone()
    report = initialise(net, file_of(tmp_path / "vgg.safetensors", torchvision_vgg()), [seen(), seen(False, [9], (1,), "dsm")])
    assert set(report.loaded) == {p + layer for p in ("irrg_", "dsm_") for layer in VGG16}
    assert set(report.adapted) == {"irrg_conv1_1", "dsm_conv1_1"}
    torch.testing.assert_close(net.irrg_conv3_1.weight, net.dsm_conv3_1.weight)
    torch.testing.assert_close(net.conv3_1.weight, before)
    assert "conv1_1" in report.random


def test_the_input_of_a_net_with_one_is_fitted_whatever_the_table_calls_it(tmp_path):
    path = file_of(tmp_path / "vgg.safetensors", torchvision_vgg())
    net, named = nets.build("segnet", {"irrg": 3}, 6, planes=PLANES), encoder(norm=True)
    initialise(net, path, [seen(True, OTHER_MEAN)])
    initialise(named, path, [seen(True, OTHER_MEAN)])
    torch.testing.assert_close(net.conv1_1.weight, named.conv1_1.weight)


def test_batch_norm_begins_at_one_and_zero_where_the_source_has_none_and_comes_along_where_it_has(tmp_path):
    with_norm = torchvision_vgg(batch_norm=True)
    net = encoder(norm=True)
    assert initialise(net, file_of(tmp_path / "bn.safetensors", with_norm), [seen()]).anew == []
    torch.testing.assert_close(net.conv1_2.bn.weight, with_norm[4].weight)
    torch.testing.assert_close(net.conv1_2.bn.running_var, with_norm[4].running_var)
    net = encoder(norm=True)
    initialise(net, file_of(tmp_path / "plain.safetensors", torchvision_vgg()), [seen()])
    assert net.conv1_2.bn.weight.eq(1).all() and net.conv1_2.bn.bias.eq(0).all()


def small(classes, last="last", channels=3):
    return Net([data("data", channels), conv("first", "data", 4), score(last, "first", classes)])


def test_a_snapshot_fills_layers_of_the_same_name_and_lists_the_others(tmp_path):
    source = small(6, "old_last")
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    net = small(4)
    report = initialise(net, tmp_path / "net.safetensors")
    assert (report.loaded, report.random, report.unused) == (["first"], ["last"], ["old_last"])
    torch.testing.assert_close(net.first.weight, source.first.weight)


def test_a_trained_segnet_fills_each_branch_of_a_net_with_branches(tmp_path):
    source = nets.build("segnet", {"irrg": 3}, 6, planes=PLANES)
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    net = nets.build("segnet_rc", {"irrg": 3, "composite": 3}, 6, planes=PLANES)
    report = initialise(net, tmp_path / "net.safetensors")
    assert report.random == ["correction1", "correction2", "correction3"]
    torch.testing.assert_close(net.composite_conv5_1_D.weight, source.conv5_1_D.weight)


def two(planes=4, classes=6):
    return Net([data("data", 3), conv("first", "data", planes), conv("second", "first", 5), score("last", "second", classes)])


def test_another_number_of_classes_leaves_the_last_layer_random_and_says_so(tmp_path):
    save_file(two(classes=6).state_dict(), tmp_path / "net.safetensors")
    net = two(classes=4)
    before = net.last.weight.clone()
    report = initialise(net, tmp_path / "net.safetensors")
    assert (report.loaded, report.random) == (["first", "second"], ["last"])
    assert "'last' is for 4 classes here" in str(report) and torch.equal(net.last.weight, before)


def test_another_shape_elsewhere_names_all_layers_shapes_and_remedy_and_changes_nothing(tmp_path):
    save_file(two(planes=7, classes=9).state_dict(), tmp_path / "net.safetensors")
    net = two()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    words = r"'first'.*4 x 3 x 3 x 3.*7 x 3 x 3 x 3.*'second'.*rename the layer to train it from scratch.*INIT_PARTIAL = True"
    with pytest.raises(UserError, match=words):
        initialise(net, tmp_path / "net.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_does_not_fit_stays_random_where_the_user_wants_it(tmp_path):
    source = two(planes=4)
    weights = source.state_dict() | {"second.weight": torch.zeros(9, 4, 3, 3)}
    save_file(weights, tmp_path / "net.safetensors")
    net = two()
    report = initialise(net, tmp_path / "net.safetensors", partial=True)
    assert (report.loaded, report.random) == (["first", "last"], ["second"]) and "second" in report.notes[0]
    torch.testing.assert_close(net.first.weight, source.first.weight)


def test_weights_without_any_layer_of_the_net_are_refused(tmp_path):
    save_file({"other.weight": torch.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"no weights of any layer.*other.*first"):
        initialise(small(4), tmp_path / "net.safetensors")


def test_weights_with_unknown_names_among_torchvisions_are_refused(tmp_path):
    weights = {f"features.{k}": v for k, v in torchvision_vgg().state_dict().items()} | {"features.99.weight": torch.zeros(1)}
    save_file(weights, tmp_path / "vgg.safetensors")
    with pytest.raises(UserError, match=r"features\.99\.weight"):
        initialise(encoder(norm=True), tmp_path / "vgg.safetensors")


class Bomb:
    def __reduce__(self):
        return (print, ("code from a weights file ran",))


def test_a_pth_that_would_run_code_is_refused_and_does_not(tmp_path, capsys):
    torch.save({"features.0.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match=r"bomb\.pth"):
        initialise(small(4), tmp_path / "bomb.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no weights at all"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_named(tmp_path, content, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        initialise(small(4), path)


def test_an_unknown_name_of_weights_is_said_with_the_nearest_known():
    with pytest.raises(UserError, match=r"'vgg15'.*Did you mean 'vgg16'"):
        initialise(small(4), "vgg15")


def test_without_a_network_one_sentence_says_what_to_fetch(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(UserError, match=r"'vgg16' could not be downloaded .*https://download\.pytorch\.org/.*name the file"):
        initialise(small(4), "vgg16")


def test_the_download_is_of_torchvisions_first_weights(monkeypatch):
    asked = []

    def fetch(url, *args, **kwargs):
        asked.append(url)
        return {f"features.{k}": v for k, v in torchvision_vgg().state_dict().items()}

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetch)
    report = initialise(encoder(norm=True), "vgg16", [seen()])
    assert "vgg16-397923af.pth" in asked[0] and len(report.loaded) == 13
