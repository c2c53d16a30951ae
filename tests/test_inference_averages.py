"""Proves that inference averages several looks and several nets as hands would, and takes larger windows where asked."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import NAMES, call, pixels, refused, write_raster
from test_inference import BOTH, infer, two_modalities

import nets
from tools.weights import snapshots


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch):
    """Rounding to bf16 moves maxima of nets that know nothing."""
    monkeypatch.setattr("tools.compute.device._cpu_has_bf16", lambda: False)


@pytest.fixture
def own(tiles, tmp_path):
    """A town without training: its nets are made here."""
    return tiles.copy(tmp_path / "own")


def made_weights(town, name, seed, mean=100.0, deviation=None, classes=NAMES, **more):
    """A snapshot of a net that knows nothing, with its own normalisation."""
    torch.manual_seed(seed)
    net = nets.build("segnet_slim", {"irrg": 3}, len(classes))
    spec = {"name": "irrg", "modalities": ["irrg"], "bands": [3], "bgr": True, "mean": [mean] * 3}
    spec |= {"deviation": [deviation] * 3} if deviation else {}
    colours = {str(i): [i, 0, 0] for i in range(len(classes) + 1)}
    about = {"name": "segnet_slim", "dataset": "vaihingen", "inputs": [spec], "classes": classes, "ignored": [5],
             "iteration": seed, "palette": colours, "patch_size": [32, 32], **more}  # fmt: skip
    snapshots.save_net(town.base / name, net, about)
    return town.base / name


def shares(town, *words, **changes):
    """Class probabilities of tile 32, as --probabilities writes them."""
    ran = infer(town, 32, "--probabilities", "float32", "--dir", town.base / "out", "--overwrite", *words, **changes)
    assert ran.code == 0, ran.err
    return pixels(town.base / "out/32_probabilities.tif").astype(float)


def test_several_weights_are_averaged_each_with_its_own_normalisation(own):
    first, second = made_weights(own, "a.safetensors", 1), made_weights(own, "b.safetensors", 2, 80.0, 50.0)
    apart = [shares(own, "--weights", path) for path in (first, second)]
    assert np.abs(apart[0] - apart[1]).max() > 0.1
    together = shares(own, "--weights", first, second)
    np.testing.assert_allclose(together, (apart[0] + apart[1]) / 2, atol=1e-5)
    details = json.loads((own.base / "out/details.json").read_text())
    assert details["weights"] == [str(first), str(second)]
    assert len(set(details["weights_sha256"])) == 2


def test_what_several_weights_were_trained_on_counts_for_all_of_them(own):
    known = {"mean": [100.0] * 3, "deviation": [40.0] * 3, "low": [10.0] * 3, "high": [200.0] * 3}
    first = made_weights(own, "a.safetensors", 1, trained_on=["1"], pixel_size=0.1, statistics={"irrg": known})
    second = made_weights(own, "b.safetensors", 2, trained_on=["1", "32"], pixel_size=0.5)
    assert infer(own, 32, "--weights", first, "--dir", own.base / "one").code == 0
    assert infer(own, 32, "--weights", first, second, "--dir", own.base / "two").code == 0
    seen = [json.loads((own.base / f"{name}/scores.json").read_text())["labels"]["seen"] for name in ("one", "two")]
    assert seen == [[], ["32"]]
    refused(infer(own, 32, "--weights", first, second, "--resample"), "--resample", "pixel size")


def test_nets_of_other_modalities_label_together(own):
    first = made_weights(own, "a.safetensors", 1)
    changes = {"MEAN_PIXEL": BOTH["MEAN_PIXEL"], "INPUTS": {"both": ["irrg", "dsm"]}}
    both = two_modalities(own)
    apart = [shares(own, "--weights", first), shares(own, "--weights", both, **changes)]
    together = shares(own, "--weights", first, both, **changes)
    np.testing.assert_allclose(together, (apart[0] + apart[1]) / 2, atol=1e-5)
    refused(infer(own, 32, "--weights", first, both), both, "reads dsm", "INPUTS lack")


def test_weights_of_other_classes_do_not_go_together(own):
    first = made_weights(own, "a.safetensors", 1)
    other = made_weights(own, "b.safetensors", 2, classes=[*NAMES[:5], "water"])
    refused(infer(own, 32, "--weights", first, other), other, "knows 6 classes", "water")


def test_looks_are_averaged_over_the_whole_map(own):
    """With one window over the tile, mirroring the tile is mirroring the window."""
    path = made_weights(own, "a.safetensors", 1)
    one = {"test_patch_size": (96, 96), "test_step_size": (96, 96), "BLEND": "flat"}
    found = shares(own, "--weights", path, "--tta", "flips", **one)
    net, _ = snapshots.load_net(path)
    image = np.pad(pixels(own.path("irrg", 32))[::-1] - 100.0, ((0, 0), (0, 24), (0, 6)), mode="reflect")
    views = []
    with torch.inference_mode():
        for down in (1, -1):
            for across in (1, -1):
                seen = torch.from_numpy(image[None, :, ::down, ::across].astype(np.float32))
                views.append(net.eval()(seen)[0].softmax(0).numpy()[:, ::down, ::across])
    np.testing.assert_allclose(found, np.mean(views, 0)[:, :72, :90], atol=1e-4)
    assert json.loads((own.base / "out/details.json").read_text())["tta"] == "flips"


def test_the_config_says_which_looks_and_the_command_line_wins(own):
    path = made_weights(own, "a.safetensors", 1)
    asked = {word: shares(own, "--weights", path, "--tta", word) for word in ("flips", "d4")}
    one = shares(own, "--weights", path)
    assert min(np.abs(found - one).max() for found in asked.values()) > 1e-3
    np.testing.assert_array_equal(shares(own, "--weights", path, TTA="flips"), asked["flips"])
    np.testing.assert_array_equal(shares(own, "--weights", path, "--tta", "d4", TTA="flips"), asked["d4"])
    np.testing.assert_array_equal(shares(own, "--weights", path, "--tta", "none", TTA="flips"), one)
    refused(infer(own, 32, "--weights", path, TTA="spin"), "TTA = 'spin': it must be one of flips, d4, scales, or None")


def test_sizes_that_the_net_cannot_take_are_refused(own):
    refused(infer(own, 32, "--weights", made_weights(own, "a.safetensors", 1), "--tta", "scales"), "windows of 128x128 or more")
    assert call("inference", 32, "--tta", "spin", "--config", own.config()).code == 2


def test_windows_that_suit_each_tile_are_no_larger_than_it_and_stand_in_the_details(own):
    path = made_weights(own, "a.safetensors", 1)
    for words, most in ((("--window", 1024), 1024), (("--window", "auto"), 512)):
        ran = infer(own, 32, "--weights", path, "--dir", own.base / "out", "--overwrite", *words)
        assert ran.code == 0, ran.err
        assert f"windows of up to {most}x{most} pixels that suit each tile" in ran.out
        details = json.loads((own.base / "out/details.json").read_text())
        assert (details["window"], details["fitted"]["grid"], details["fitted"]["multiple"]) == ([most, most], 32, 32)
        assert details["windows"] == {"32": [[96, 96], [32, 32]]}
    refused(infer(own, 32, "--weights", path, "--overwrite", "--window", 20), "up to 20 pixels are too small", "32 at least")


def test_openvino_labels_as_pytorch_does_and_says_that_it_did(own):
    pytest.importorskip("openvino")
    path = made_weights(own, "a.safetensors", 1)
    expected = shares(own, "--weights", path)
    np.testing.assert_allclose(shares(own, "--weights", path, "--engine", "openvino"), expected, atol=1e-4)
    details = json.loads((own.base / "out/details.json").read_text())
    assert details["engine"] == "openvino"
    assert "by OpenVINO" in details["device"]
    refused(infer(own, 32, "--weights", path, "--engine", "openvino", "--precision", "bf16"), "are for PyTorch")


def test_an_engine_that_is_not_installed_is_a_sentence(own, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    path = made_weights(own, "a.safetensors", 1)
    refused(infer(own, 32, "--weights", path, "--engine", "openvino"), "pip install openvino")


def test_the_config_s_own_auto_gives_the_map_of_the_option_and_so_does_onnxruntime(own):
    path = made_weights(own, "a.safetensors", 1)
    by_option = shares(own, "--weights", path, "--window", "auto")
    auto = {"test_patch_size": "auto", "test_step_size": "auto"}
    assert np.array_equal(shares(own, "--weights", path, **auto), by_option)
    np.testing.assert_allclose(shares(own, "--weights", path, "--engine", "onnxruntime", **auto), by_option, atol=1e-4)
    assert json.loads((own.base / "out/details.json").read_text())["windows"] == {"32": [[96, 96], [32, 32]]}


def test_a_share_of_the_window_is_a_step(own):
    path = made_weights(own, "a.safetensors", 1)
    by_share = shares(own, "--weights", path, test_step_size=0.5)
    assert np.array_equal(by_share, shares(own, "--weights", path, test_step_size=(16, 16)))
    refused(infer(own, 32, test_step_size=1.5), "test_step_size = 1.5")


def test_a_wide_tile_is_labelled_in_strips_as_if_it_were_whole(own):
    path = made_weights(own, "a.safetensors", 1)
    image = np.tile(pixels(own.path("irrg", 32)), (1, 1, 8))
    for file in ("irrg", "labels", "labels_eroded"):
        own.path(file, 32).unlink()
    write_raster(own.path("irrg", 32), image, 32)
    words = ("--weights", path)
    windows = {"test_patch_size": (128, 128), "test_step_size": 0.5}
    strips = shares(own, *words, MEMORY_MB=1, **windows)  # 341 columns of 128 rows and 6 classes
    assert strips.shape == (6, 72, 720)
    np.testing.assert_allclose(strips, shares(own, *words, **windows), atol=1e-5)
