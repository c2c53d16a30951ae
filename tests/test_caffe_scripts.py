"""Proves that whoever names a prototxt and a caffemodel of Caffe's time gets a map: in fp32, with windows of the size that the
file fixes, with what has to be known of the net in print; that passes with dropout give mean and variance; that what is written
for Caffe says how to feed it; and, slow, that OpenCV computes the same from the files that are written."""

import numpy as np
import pytest
import torch
from conftest import NAMES, call, done, pixels, read_json, refused
from test_caffe import shake

import nets
from nets.caffe.prototxt import read_prototxt, write_prototxt
from nets.net import Net
from nets.segnet import segnet
from tools.base.errors import UserError
from tools.inference import averages
from tools.labels.class_weights import class_weights
from tools.weights import snapshots
from tools.weights.caffe import load_caffemodel, write_caffemodel

MEAN = {"irrg": (120.0, 82.0, 81.0)}
BN = 'bn_param { bn_mode: INFERENCE scale_filler { type: "constant" value: 1 } }'
# One level of a Bayesian SegNet as its author published it, for images of 45 x 60 pixels.
SEGNET = f"""
input: "data" input_dim: 1 input_dim: 3 input_dim: 45 input_dim: 60
layer {{ name: "norm" type: "LRN" bottom: "data" top: "norm" lrn_param {{ local_size: 5 alpha: 0.0001 beta: 0.75 }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "norm" top: "conv1"
        convolution_param {{ num_output: 8 kernel_size: 7 pad: 3 }} }}
layer {{ name: "conv1_bn" type: "BN" bottom: "conv1" top: "conv1" {BN} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" top: "pool1_mask"
        pooling_param {{ pool: MAX kernel_size: 2 stride: 2 }} }}
layer {{ name: "drop1" type: "Dropout" bottom: "pool1" top: "pool1" dropout_param {{ sample_weights_test: true }} }}
layer {{ name: "up1" type: "Upsample" bottom: "pool1" bottom: "pool1_mask" top: "up1"
        upsample_param {{ scale: 2 upsample_h: 45 upsample_w: 60 }} }}
layer {{ name: "dense_softmax_inner_prod" type: "Convolution" bottom: "up1" top: "scores"
        convolution_param {{ num_output: 6 kernel_size: 1 }} }}
layer {{ name: "argmax" type: "ArgMax" bottom: "scores" top: "argmax" argmax_param {{ axis: 1 }} }}
"""
WINDOWS = {"test_patch_size": (45, 60), "test_step_size": (40, 40), "BLEND": "flat"}


@pytest.fixture
def own(tiles, tmp_path):
    """A town without training."""
    return tiles.copy(tmp_path / "own")


@pytest.fixture
def caffe_files(own):
    """(prototxt, caffemodel) of a small Bayesian SegNet."""
    prototxt, weights = own.base / "segnet.prototxt", own.base / "segnet.caffemodel"
    prototxt.write_text(SEGNET)
    write_caffemodel(shake(nets.build(str(prototxt), {"irrg": 3}, 6)), weights, (45, 60))
    return prototxt, weights


def label(own, files, *words, **changes):
    prototxt, weights = files
    changes = {"NET": str(prototxt), "MEAN_PIXEL": MEAN, **WINDOWS, **changes}
    out = ("--dir", own.base / "out", "--overwrite", "--device", "cpu")
    return call("inference", 32, "--weights", weights, *out, *words, "--config", own.config(**changes))


def test_a_prototxt_and_a_caffemodel_make_the_map_that_the_net_computes(own, caffe_files):
    ran = done(label(own, caffe_files, "--probabilities", "float32", test_step_size=(45, 60)))
    assert "its dropout samples when testing, too (sample_weights_test): label with `--tta dropout 40`" in ran.out
    assert "left out, since its scores do not depend on them: argmax." in ran.out
    net = nets.build(str(caffe_files[0]), {"irrg": 3}, 6).eval()
    load_caffemodel(net, caffe_files[1])
    image = pixels(own.path("irrg", 32))[::-1].astype(np.float32) - np.float32(MEAN["irrg"])[::-1][:, None, None]
    with torch.no_grad():
        corner = net(torch.from_numpy(np.ascontiguousarray(image[None, :, :45, :60])))[0]
    found = pixels(own.base / "out/32_probabilities.tif")
    alone = found[:, :27, :30]  # where no other window looks
    np.testing.assert_allclose(alone, corner.softmax(0)[:, :27, :30], atol=2e-5)
    np.testing.assert_array_equal(pixels(own.base / "out/32_labels.tif")[0, :27, :30], corner.argmax(0)[:27, :30])


def test_caffes_weights_label_in_fp32_unless_told_otherwise(own, caffe_files, monkeypatch):
    monkeypatch.setattr("tools.compute.device._cpu_has_bf16", lambda: True)
    assert "on cpu in fp32" in done(label(own, caffe_files)).out
    assert "on cpu in bf16 (autocast)" in done(label(own, caffe_files, "--precision", "bf16")).out
    assert read_json(own.base / "out/details.json")["precision"] == "bf16"
    path = own.base / "a.safetensors"
    make_snapshot(path, nets.build(str(caffe_files[0]), {"irrg": 3}, 6))
    assert "on cpu in bf16 (autocast)" in done(label(own, (caffe_files[0], path))).out
    assert "on cpu in fp32" in done(label(own, (caffe_files[0], path), "--precision", "fp32")).out


def test_windows_that_contradict_the_file_are_refused_before_any_work_with_the_size_that_works(own, caffe_files):
    ran = label(own, caffe_files, test_patch_size=(64, 64))
    refused(ran, "cannot label windows of 64x64 pixels, since its layers have sizes of their own: take windows of 45x60")
    assert not (own.base / "out").exists()


def test_weights_that_are_not_of_this_net_are_refused(own, caffe_files):
    prototxt = own.base / "other.prototxt"
    prototxt.write_text(SEGNET.replace('"conv1_bn"', '"conv1_norm"'))
    refused(label(own, (prototxt, caffe_files[1])), "lacks the layers conv1_norm", "would label at random")


def make_snapshot(path, net, **more):
    spec = {"name": "irrg", "modalities": ["irrg"], "bands": [3], "bgr": True, "mean": [81.0, 82.0, 120.0]}
    about = {"name": "net", "dataset": "vaihingen", "inputs": [spec], "classes": NAMES, "ignored": [5], "iteration": 1,
             "palette": {str(i): [i, 0, 0] for i in range(7)}, "patch_size": [45, 60], **more}  # fmt: skip
    snapshots.save_net(path, net, about)
    return path


# -------------------------------------------------------------------------------------------------- dropout that samples


def test_several_passes_give_mean_and_variance_and_the_same_map_each_time(own, caffe_files):
    words = ("--tta", "dropout", 12, "--probabilities", "float32")
    done(label(own, caffe_files, *words))
    variance, first = pixels(own.base / "out/32_variance.tif")[0], pixels(own.base / "out/32_probabilities.tif")
    assert variance.shape == (72, 90)
    assert variance.min() >= 0 and variance.mean() > 0.001 and variance.max() <= 0.25
    np.testing.assert_allclose(first.sum(0), 1, atol=1e-5)
    details = read_json(own.base / "out/details.json")
    assert (details["tta"], details["passes"]) == ("dropout", 12)
    done(label(own, caffe_files, *words))
    np.testing.assert_array_equal(pixels(own.base / "out/32_probabilities.tif"), first)
    done(label(own, caffe_files, "--probabilities", "float32"))
    assert np.abs(pixels(own.base / "out/32_probabilities.tif") - first).max() > 0.01
    assert not (own.base / "out/32_variance.tif").exists()


def test_ids_may_stand_behind_the_looks(own, caffe_files):
    prototxt, weights = caffe_files
    config = own.config(NET=str(prototxt), MEAN_PIXEL=MEAN, **WINDOWS)
    words = ("--weights", weights, "--dir", own.base / "o", "--device", "cpu", "--config", config)
    done(call("inference", "--tta", "flips", 32, *words))
    assert [p.name for p in (own.base / "o").glob("*_labels.tif")] == ["32_labels.tif"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dropout"], "--tta dropout N: say how many passes are averaged, 2 or more"),
        (["dropout", "1"], "--tta dropout N: say how many"),
        (["dropuot", "9"], "--tta dropuot: there are no such looks. Did you mean 'dropout'?"),
    ],
)
def test_looks_that_there_are_not_are_refused(own, caffe_files, words, sentence):
    refused(label(own, caffe_files, "--tta", *words), sentence)


def test_passes_are_the_mean_and_variance_of_the_nets_own_samples_and_only_marked_dropout_samples():
    rows = read_prototxt_text('layer { name: "d" type: "Dropout" bottom: "data" top: "d" dropout_param { %s } }')
    for mark, samples in (("sample_weights_test: true", True), ("dropout_ratio: 0.5", True), (None, False)):
        net = Net(rows(mark)).eval()
        if not samples:
            with pytest.raises(UserError, match="--tta dropout: this net has no dropout that could sample"):
                averages.Sampled(net, 5)
            continue
        x = torch.rand(2, 3, 8, 8)
        torch.manual_seed(3)
        found = averages.Sampled(net, 5).eval()(x)
        torch.manual_seed(3)
        net.get_submodule("d").train()
        passes = torch.stack([net(x).softmax(1) for _ in range(5)]).detach().double()
        np.testing.assert_allclose(found[:, :3].detach(), passes.mean(0), atol=1e-6)
        np.testing.assert_allclose(found[:, 3].detach(), passes.var(0, unbiased=False).mean(1), atol=1e-6)


def test_where_some_dropout_is_marked_the_other_stays_silent():
    two = 'layer { name: "e" type: "Dropout" bottom: "data" top: "data" }'
    rows = read_prototxt_text(two + 'layer { name: "d" type: "Dropout" bottom: "data" top: "d" dropout_param { %s } }')
    net = averages.Sampled(Net(rows("sample_weights_test: true")), 3).eval()
    assert (net.net.e.training, net.net.d.training) == (False, True)


def read_prototxt_text(layer):
    """A function from the fields of a layer's param to the rows of a net of it and a convolution; None: without the layer."""
    import tempfile
    from pathlib import Path

    def rows(fields):
        text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }' + ("" if fields is None else layer % fields)
        text += 'layer { name: "s" type: "Convolution" bottom: "%s" top: "s"' % ("data" if fields is None else "d")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.prototxt"
            path.write_text(text + " convolution_param { num_output: 3 kernel_size: 1 } }")
            return read_prototxt(path).rows

    return rows


# ------------------------------------------------------------------------------------------------------ training, writing


def test_class_weights_may_be_numbers_as_a_prototxt_has_them():
    labels = [np.array([0, 1, 2, 1])]
    assert class_weights((0.5, 2, 0), labels, 3, []) == [0.5, 2.0, 0.0]
    with pytest.raises(UserError, match="CLASS_WEIGHTS has 2 numbers, but there are 3 classes"):
        class_weights([1, 2], labels, 3, [])


def test_training_a_prototxt_says_what_is_to_be_known_and_trains_its_auxiliary_loss(databases, tmp_path, without_pictures):
    own = databases.copy(tmp_path / "own", "lmdb")
    text = 'layer { name: "data" type: "Data" top: "data" top: "label" }\n'
    for name, bottom in (("a", "data"), ("far", "a"), ("near", "a")):
        text += f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"'
        text += " convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }\n"
    for name, scores, weight in (("main", "far", 1), ("aux", "near", 0.4)):
        text += f'layer {{ name: "{name}" type: "SoftmaxWithLoss" bottom: "{scores}" bottom: "label" loss_weight: {weight} }}\n'
    (tmp_path / "net.prototxt").write_text(text)
    changes = {"NET": str(tmp_path / "net.prototxt"), "BATCH_SIZE": 2, "val_ids": [], "BASE_LR": 1e-4}
    ran = done(call("training", "--niter", 2, "--device", "cpu", "--config", own.config(**changes)))
    assert "those of the loss 'main' (loss_weight 1); 'aux' (loss_weight 0.4) train with it." in ran.out
    begun = nets.build(changes["NET"], {"irrg": 3}, 6)
    net, _ = snapshots.load_net(next((own.base / "vaihingen_snapshots_net").glob("net_iter_2.safetensors")))
    assert net.auxiliary == {"aux": 0.4}
    assert begun.near.bias.abs().max() == 0 and net.near.bias.abs().min() > 0  # it learned


def test_a_prototxt_that_is_written_says_how_to_feed_the_net(tmp_path, capsys):
    net = shake(Net(segnet(3, 6, planes=(4, 8, 16, 32, 32))))
    path = make_snapshot(tmp_path / "net_iter_5.safetensors", net, patch_size=[64, 96])
    ran = done(call("tools.caffe", path, "--out", tmp_path / "out"))
    text = (tmp_path / "out.prototxt").read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert text.splitlines()[: len(head)] == head
    assert head == [
        "# Written by orthonets from net_iter_5.safetensors.",
        "# input size: 64 x 96 pixels (height x width)",
        "# input 'irrg': channels in this order: irrg bands 3 2 1 of the file; units: as in the file",
        "#   mean to take off: 81 82 120",
        f"# classes: {', '.join(f'{i} {name}' for i, name in enumerate(NAMES))}",
        "# not learned: 5",
    ]
    assert "dim: 64" in text and "dim: 96" in text
    printed = [line.split() for line in ran.out.splitlines()]
    assert ["conv1_1", "Convolution", "4", "x", "3", "x", "3", "x", "3,", "4"] in printed
    assert ["conv1_1_bn", "BatchNorm", "4,", "4,", "1"] in printed
    again = nets.build(str(tmp_path / "out.prototxt"), {"irrg": 3}, 6).eval()
    load_caffemodel(again, tmp_path / "out.caffemodel")
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))
    words = ("tools.caffe", path, "--out", tmp_path / "out", "--overwrite")
    refused(call(*words, "--size", 65, 96), "height and width must be multiples of 32 (the nearest: 64x96)")
    assert "dim: 128" in (done(call(*words, "--size", 128, 32)), (tmp_path / "out.prototxt").read_text())[1]


# ------------------------------------------------------------------------------------------------------------- OpenCV


def read_by_opencv(prototxt, weights, image):
    """What OpenCV's reader of Caffe's files computes: an implementation that has nothing to do with this one."""
    cv2 = pytest.importorskip("cv2")

    class Upsample:
        """SegNet's unpooling, which OpenCV does not know."""

        def __init__(self, params, blobs):
            self.scale = int(params.get("scale", 2))

        def getMemoryShapes(self, inputs):  # noqa: N802, OpenCV's name
            n, c, height, width = inputs[0]
            return [[n, c, height * self.scale, width * self.scale]]

        def forward(self, inputs):
            values, mask = inputs
            out = np.zeros((*values.shape[:2], values.shape[2] * self.scale * values.shape[3] * self.scale), np.float32)
            flat = mask.reshape(*mask.shape[:2], -1).astype(np.int64)
            np.put_along_axis(out, flat, values.reshape(flat.shape), 2)
            return [out.reshape(*values.shape[:2], values.shape[2] * self.scale, -1)]

    cv2.dnn_registerLayer("Upsample", Upsample)
    try:
        net = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        net.setInput(image)
        return net.forward()
    finally:
        cv2.dnn_unregisterLayer("Upsample")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segnet_slim", "segnet", "unet", "deeplabv3plus/vgg16"])
def test_opencv_computes_the_same_from_the_files_that_are_written(tmp_path, name):
    pytest.importorskip("cv2")
    options = {"corners": True} if name.startswith("deeplab") else {}
    net = shake(nets.build(name, {"irrg": 3}, 6, **options))
    text = write_prototxt(net, "n", (64, 96)).replace("round_mode: FLOOR", "ceil_mode: false")  # OpenCV's word for it
    (tmp_path / "n.prototxt").write_text(text)
    write_caffemodel(net, tmp_path / "n.caffemodel", (64, 96))
    image = np.random.default_rng(1).normal(0, 50, (1, 3, 64, 96)).astype(np.float32)
    theirs = read_by_opencv(tmp_path / "n.prototxt", tmp_path / "n.caffemodel", image)
    with torch.no_grad():
        ours = net(torch.from_numpy(image)).numpy()
    assert theirs.shape == ours.shape
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())
    assert (theirs.argmax(1) == ours.argmax(1)).mean() > 0.999
