"""Proves that an exported net gives the net's labels for any batch and size, from raw pixels, and says what it is for."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import NAMES, REPO, call, pixels, refused, write_raster
from torch import nn

import nets
from nets.caffe.layers import upsample
from nets.caffe.prototxt_write import write_prototxt
from nets.layers import concat, conv, data, pool, pooling, score, unpool
from nets.net import Net
from tools.base.errors import UserError
from tools.data.inputs import Input
from tools.export import int8, onnx_file
from tools.export.__main__ import Likeness, examples_of_images, noise
from tools.export.end_to_end import file_order, trace
from tools.export.onnx_engine import OnnxNet, hosted
from tools.weights import snapshots

IRRG = Input("irrg", ("irrg",), (3,), True, (110.0, 90.0, 120.0), (40.0, 50.0, 60.0))
STACK = Input(
    "stack", ("rgb", "dsm"), (3, 1), True, (110.0, 90.0, 120.0, 270.0), (40.0, 50.0, 60.0, 4.0), (False, True, False, False)
)
SIZES = [(1, 32, 32), (2, 48, 160), (5, 4, 8)]


def unpooling(inputs):
    return [
        *(data(f"in_{i.name}", i.channels) for i in inputs), concat("all", *(f"in_{i.name}" for i in inputs)),
        conv("a", "all", 8), pool("p", "a"), conv("b", "p", 12), pool("q", "b"), conv("c", "q", 12), unpool("v", "c", "q_mask"),
        conv("d", "v", 8), unpool("u", "d", "p_mask"), score("s", "u", 6),
    ]  # fmt: skip


def overlapping(inputs):
    return [
        data("in", inputs[0].channels), conv("a", "in", 8), pooling("p", "a", 3, 2, mask=True), conv("b", "p", 8),
        upsample("u", "b", "p_mask"), score("s", "u", 6),
    ]  # fmt: skip


def made(table, *inputs):
    """A net with weights and statistics of batch norm that differ, and what a snapshot would say of it."""
    torch.manual_seed(1)
    net = Net(table(inputs))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2), module.weight.data.uniform_(0.5, 2)
    return net.eval(), about(*inputs)


def about(*inputs):
    palette = {str(i): [i, i, i] for i in range(7)}
    return {"name": "made", "iteration": 7, "classes": NAMES, "palette": palette, "ignored": [5], "patch_size": [32, 32],
            "inputs": [i.to_dict() for i in inputs]}  # fmt: skip


def write(path, net, about, size=None):
    program = trace(net, about, size)
    model = onnx_file.convert(program)
    onnx_file.describe(model, program, about)
    onnx_file.save(model, path)
    return path


def raw_pixels(spec, shape, seed=1):
    """Bytes as rasters hold them, bands in the files' order."""
    n, h, w = shape
    return np.random.default_rng(seed).integers(0, 256, (n, spec.channels, h, w)).astype(np.float32)


def expected(net, inputs, images):
    """Probabilities by hand: bands reversed within each modality, normalised, through the net, softmax."""
    seen = []
    for spec, image in zip(inputs, images, strict=True):
        ends = np.cumsum(spec.bands)
        blocks = [image[:, e - b : e][:, :: -1 if spec.bgr else 1] for e, b in zip(ends, spec.bands, strict=True)]
        values = np.concatenate(blocks, 1) - np.reshape(spec.mean, (1, -1, 1, 1))
        values = values / np.reshape(spec.deviation, (1, -1, 1, 1))
        for channel, clipped in enumerate(spec.clip or ()):
            values[:, channel] = values[:, channel].clip(0, 1) if clipped else values[:, channel]
        seen.append(torch.from_numpy(np.nan_to_num(values).astype(np.float32)))
    with torch.inference_mode():
        return net(*seen).double().softmax(1).numpy()


def labels(path, *images):
    """What onnxruntime gives for a file, without our engine."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), images, strict=True)})[0]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A net of one input, and its file."""
    net, says = made(unpooling, IRRG)
    return net, says, write(tmp_path_factory.mktemp("one") / "net.onnx", net, says)


# ------------------------------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("shape", SIZES)
def test_one_file_takes_raw_pixels_of_any_batch_and_size_and_gives_the_nets_probabilities(one, shape):
    net, _, path = one
    images = raw_pixels(IRRG, shape)
    assert np.abs(labels(path, images) - expected(net, [IRRG], [images])).max() < 1e-5


def test_modalities_of_an_input_keep_their_places_and_no_data_counts_as_the_mean(tmp_path):
    net, says = made(unpooling, STACK)
    path = write(tmp_path / "net.onnx", net, says)
    images = raw_pixels(STACK, (2, 32, 64))
    images[0, 3, 5:9, 7:20] = np.nan
    wanted = expected(net, [STACK], [images])
    assert np.isfinite(wanted).all()
    assert np.abs(labels(path, images) - wanted).max() < 1e-5


@pytest.mark.slow
def test_nets_of_two_inputs_have_two_by_their_names(tmp_path):
    inputs = [IRRG, replace(STACK, bgr=False)]
    net, says = made(unpooling, *inputs)
    path = write(tmp_path / "net.onnx", net, says)
    images = [raw_pixels(spec, (3, 32, 48), seed) for seed, spec in enumerate(inputs)]
    assert [i.name for i in onnxruntime.InferenceSession(path).get_inputs()] == ["irrg", "stack"]
    assert np.abs(labels(path, *images) - expected(net, inputs, images)).max() < 1e-5


@pytest.mark.slow
def test_positions_of_overlapping_windows_arrive_too(tmp_path):
    net, says = made(overlapping, IRRG)
    path = write(tmp_path / "net.onnx", net, says)
    images = raw_pixels(IRRG, (2, 32, 48))
    assert np.abs(labels(path, images) - expected(net, [IRRG], [images])).max() < 1e-5


def test_a_fixed_size_stands_in_the_file_and_the_batch_stays_open(tmp_path):
    net, says = made(unpooling, IRRG)
    path = write(tmp_path / "net.onnx", net, says, size=64)
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 64]  # Deepness takes a name for an open batch, and only there
    assert session.get_outputs()[0].shape == ["batch", 6, 64, 64]
    images = raw_pixels(IRRG, (3, 64, 64))
    assert np.abs(labels(path, images) - expected(net, [IRRG], [images])).max() < 1e-5


@pytest.mark.parametrize("bgr", [True, False])
def test_the_order_of_bands_leads_there_and_back(bgr):
    order = np.array(file_order(replace(STACK, bgr=bgr)))
    assert order.tolist() == ([2, 1, 0, 3] if bgr else [0, 1, 2, 3])
    assert order[order].tolist() == [0, 1, 2, 3]


def test_the_exported_program_of_pytorch_reloads_and_gives_the_same(one, tmp_path):
    net, says, _ = one
    torch.export.save(trace(net, says).traced, tmp_path / "net.pt2")
    again = torch.export.load(tmp_path / "net.pt2").module()
    for shape in [(1, 32, 32), (2, 48, 160), (5, 8, 12)]:
        images = raw_pixels(IRRG, shape)
        with torch.inference_mode():
            found = again(torch.from_numpy(images)).numpy()
        assert np.abs(found - expected(net, [IRRG], [images])).max() < 1e-5


class Forks(nn.Module):
    """A net that no exporter can trace, or that does something else for one height."""

    def __init__(self, fork):
        super().__init__()
        self.fork, self.multiple, self.classes = fork, 1, 6

    def fuse(self):
        return self

    def forward(self, image):
        return torch.cat([image, image if self.fork(image) else -image], 1)


@pytest.mark.parametrize("fork", [lambda image: image.sum() > 0, lambda image: image.shape[2] == 128])
def test_a_net_that_cannot_be_exported_is_one_sentence(fork):
    with pytest.raises(
        UserError, match=r"^made cannot be exported for open sizes: .*; name the one that you need with --size\.$"
    ):
        trace(Forks(fork), about(IRRG))


# ---------------------------------------------------------------------------------------------------------- what it says


def test_deepness_finds_what_it_reads_and_its_arithmetic_gives_the_nets_labels(one):
    net, _, path = one
    session = onnxruntime.InferenceSession(path)
    says = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert says["model_type"] == "Segmentor"
    assert says["class_names"] == {str(i): name for i, name in enumerate(NAMES)}
    assert (says["tile_size"], says["tiles_size"], says["seg_thresh"], says["seg_small_segment"]) == (32, 32, 0, 0)
    assert 0 <= says["tiles_overlap"] < 100
    images = raw_pixels(IRRG, (2, 32, 32))
    mean, deviation = (np.float32(says[f"standardization_{k}"]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
    as_deepness = (np.float32(images * 1.0 / 255.0) - mean) / deviation
    assert (labels(path, as_deepness).argmax(1) == expected(net, [IRRG], [images]).argmax(1)).mean() > 0.999


def test_the_size_of_a_pixel_is_told_in_centimetres_where_it_is_known():
    net, says = made(unpooling, IRRG)
    program = trace(net, says, 64)
    for given, known, told in [(None, None, None), (None, 0.09, 9), (20, 0.09, 20), (7.5, None, 7.5)]:
        found = onnx_file.for_deepness(program, says | {"pixel_size": known}, given)
        assert (found.get("resolution"), found["tile_size"]) == (told, 64)


def test_files_are_of_the_form_that_older_programs_read_and_tell_nothing_of_this_machine(one):
    model = onnx.load(one[2])
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (8, [("", 18)])
    assert str(REPO).encode() not in one[2].read_bytes()
    assert not any(node.metadata_props for node in model.graph.node)
    assert [n.op_type for n in model.graph.node].count("MaxPool") == 2  # PyTorch's own translation takes four


def test_the_engine_knows_the_net_and_its_softmax_gives_the_files_probabilities(one):
    net, says, path = one
    engine = OnnxNet(path)
    assert (engine.inputs, engine.classes, engine.multiple, engine.size) == ({"irrg": 3}, 6, net.multiple, None)
    assert engine.about | {"inputs": 0} == says | {"inputs": 0}
    (spec,) = (Input.from_dict(i) for i in engine.about["inputs"])
    images = torch.from_numpy(raw_pixels(IRRG, (2, 32, 32)))
    assert torch.equal(spec.normalise(images), images)
    assert spec.stack({"irrg": images[0].numpy()}) == pytest.approx(images[0].numpy())
    assert engine.fuse()(images).softmax(1).numpy() == pytest.approx(labels(path, images.numpy()), abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ the commands


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A folder with the town's net as ONNX, in fp32 and int8, and as a program; what the command printed."""
    folder = tmp_path_factory.mktemp("exported")
    weights = trained.snapshots / "net_iter_150.safetensors"
    ran = call("tools.export", weights, "--onnx", folder / "net.onnx", "--torch", folder / "net.pt2")
    assert ran.code == 0, ran.err
    small = call("tools.export", weights, "--onnx", folder / "int8.onnx", "--int8", "--config", trained.config())
    assert small.code == 0, small.err
    return folder, ran.out, small.out


@pytest.fixture(scope="module")
def maps(trained, tmp_path_factory):
    """The labels of the test tile by PyTorch in fp32, which all others are held against."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.compute.device._cpu_has_bf16", lambda: False)
        return infer(
            trained, tmp_path_factory.mktemp("maps") / "torch", "--weights", trained.snapshots / "net_iter_150.safetensors"
        )


def infer(town, out, *words):
    ran = call("inference", 32, "--dir", out, *words, "--config", town.config())
    assert ran.code == 0, ran.err
    return pixels(out / "32_labels.tif")[0]


@pytest.mark.slow
def test_the_command_says_what_it_wrote_and_how_near_it_comes(exported):
    folder, out, small = exported
    assert f"{folder / 'net.onnx'}: ONNX, opset 18, fp32" in out
    assert f"{folder / 'net.pt2'}: program of PyTorch" in out
    assert out.count("the same label on 100.000 % of the pixels; tried on 1 x 128 x 128, 2 x 160 x 128, 3 x 128 x 224") == 2
    assert "add --size 512" in out
    assert "int8" in small
    assert "1 x 32 x 32 pixels of unseen patches" in small
    assert (folder / "int8.onnx").stat().st_size < 0.5 * (folder / "net.onnx").stat().st_size


@pytest.mark.slow
def test_the_program_says_what_it_is_for(exported):
    files = {"orthonets": ""}
    torch.export.load(exported[0] / "net.pt2", extra_files=files)
    says = json.loads(files["orthonets"])
    assert (says["multiple"], says["size"], says["about"]["classes"]) == (32, None, NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a file", "a snapshot"])
def test_inference_by_onnxruntime_gives_the_labels_of_pytorch(trained, exported, maps, tmp_path, how):
    weights = exported[0] / "net.onnx" if how == "a file" else trained.snapshots / "net_iter_150.safetensors"
    found = infer(trained, tmp_path / "maps", "--weights", weights, *(() if how == "a file" else ("--engine", "onnxruntime")))
    assert (found == maps).mean() >= 0.999


@pytest.mark.slow
def test_inference_in_8_bits_changes_few_labels(trained, exported, maps, tmp_path):
    found = infer(trained, tmp_path / "maps", "--weights", exported[0] / "int8.onnx")
    assert (found == maps).mean() > 0.97


@pytest.mark.slow
def test_the_convolutions_that_matter_most_stay_in_32_bits(exported, one):
    model = onnx.load(one[2])
    convolutions = [n.name for n in model.graph.node if n.op_type == "Conv"]
    assert int8.sensitive(model) == sorted(
        [convolutions[0], convolutions[1], convolutions[4]]
    )  # before the pools, and the last
    whole = onnx.load(exported[0] / "int8.onnx").graph
    scaled = {name for n in whole.node if n.op_type == "DequantizeLinear" for name in n.output}
    eight = [n for n in whole.node if n.op_type == "Conv" and set(n.input[:2]) <= scaled]
    assert len(eight) == 26 - 4


@pytest.mark.slow
def test_a_file_that_would_label_otherwise_is_not_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxNet, "probabilities", lambda self, image: torch.rand(len(image), 6, *image.shape[2:]))
    ran = call("tools.export", trained.snapshots / "net_iter_150.safetensors", "--onnx", tmp_path / "net.onnx")
    refused(ran, tmp_path / "net.onnx", "is not written: it would label")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "nothing to write: name a file with --onnx, --torch or --page"),
        (("--onnx", "net.pth"), "--onnx net.pth: give it a name that ends in .onnx"),
        (("--torch", "net.pt2", "--int8"), "--int8 is for ONNX alone"),
        (("--onnx", "net.onnx", "--images", "a.tif"), "--images are for --int8"),
        (("--torch", "net.pt2", "--resolution", "9"), "--resolution is for ONNX alone"),
        (("--onnx", "net.onnx", "--size", "100"), "--size 100: segnet_slim takes multiples of 32"),
    ],
)
def test_options_that_do_not_go_together_are_refused(trained, words, sentence):
    refused(call("tools.export", trained.snapshots / "net_iter_150.safetensors", *words), sentence)


@pytest.mark.slow
def test_files_that_exist_and_weights_that_are_none_are_refused(trained, exported, tmp_path):
    weights = trained.snapshots / "net_iter_150.safetensors"
    refused(call("tools.export", weights, "--onnx", exported[0] / "net.onnx"), "exists already", "--overwrite")
    refused(call("tools.export", tmp_path / "no.safetensors", "--onnx", tmp_path / "net.onnx"), "no.safetensors does not exist")
    refused(
        call("tools.export", weights, "--torch", exported[0] / "net.onnx/net.pt2"), "no folder that can be made or written to"
    )
    (tmp_path / "bad.safetensors").write_bytes(b"12345678")
    refused(call("tools.export", tmp_path / "bad.safetensors", "--onnx", tmp_path / "net.onnx"), "no whole safetensors file")


@pytest.mark.slow
def test_int8_without_a_database_or_with_another_order_of_bands_is_refused(trained, tmp_path):
    weights, words = trained.snapshots / "net_iter_150.safetensors", ("--onnx", tmp_path / "net.onnx", "--int8", "--config")
    own = trained.copy(tmp_path / "own", "lmdb")
    (own.folder("lmdb") / "details.json").write_text(
        (own.folder("lmdb") / "details.json").read_text().replace('"bgr": true', '"bgr": false')
    )
    refused(call("tools.export", weights, *words, own.config()), "was made with bgr = False")
    bare = trained.copy(tmp_path / "none")
    refused(call("tools.export", weights, *words, bare.config()), bare.folder("lmdb"), "does not exist", "create_db.py")


def test_patches_for_8_bits_are_cut_out_of_images_where_they_have_data_bands_in_the_files_order(tmp_path):
    rows, cols = np.mgrid[:300, :900]
    image = np.stack([1 + rows // 2, 1 + cols // 4, 1 + 4 * (rows % 2) + cols % 4]).astype(np.uint8)  # tells where a pixel is
    image[:, :, 600:] = 0
    write_raster(tmp_path / "a.tif", image, nodata=0)
    write_raster(tmp_path / "b.tif", np.full((3, 40, 300), 7, np.uint8), nodata=0)  # lower than a patch
    write_raster(tmp_path / "c.tif", np.zeros((3, 400, 400), np.uint8), nodata=0)  # empty
    seen = image.astype(np.float32)
    seen[:, :, 600:] = np.reshape((120, 90, 110), (3, 1, 1))  # the training mean, in the file's order
    found = examples_of_images([str(tmp_path)], trace(*made(unpooling, replace(IRRG, dtypes=("uint8",)))), None)
    patches = [patch[0].numpy() for (patch,) in found.calibrate + found.unseen]
    assert (len(found.calibrate), len(found.unseen)) == (64, 32)
    corners = set()
    for patch in (p for p in patches if p.shape[1] == 256):
        first, second, third = patch[:, 0, 0].astype(int) - 1
        row, col = 2 * first + third // 4, 4 * second + third % 4
        assert np.array_equal(patch, seen[:, row : row + 256, col : col + 256])
        corners.add((row, col))
    assert len(corners) > 60  # most of them lie in the larger image
    assert all((p == 7).all() for p in patches if p.shape[1] == 40)


def test_images_for_8_bits_that_are_empty_or_have_other_bands_are_refused(tmp_path):
    program = trace(*made(unpooling, replace(IRRG, dtypes=("uint8",))))
    empty = write_raster(tmp_path / "empty.tif", np.zeros((3, 40, 40), np.uint8), nodata=0)
    with pytest.raises(UserError, match=r"empty.tif: no pixel there has data in all that the net reads"):
        examples_of_images([str(empty)], program, None)
    four = write_raster(tmp_path / "four.tif", np.ones((4, 40, 40), np.uint8))
    with pytest.raises(UserError, match=r"four.tif has 4 band\(s\), but the net was trained on 3"):
        examples_of_images([str(four)], program, None)


@pytest.mark.slow
def test_inference_refuses_onnx_files_that_are_not_ours_in_one_sentence(trained, exported, one, tmp_path):
    def ran(path, *words):
        return call("inference", 32, "--dir", tmp_path / "maps", "--weights", path, *words, "--config", trained.config())

    foreign, broken = tmp_path / "foreign.onnx", tmp_path / "broken.onnx"
    model = onnx.load(one[2])
    del model.metadata_props[:]
    onnx.save(model, foreign)
    broken.write_bytes((exported[0] / "net.onnx").read_bytes()[:5000])
    refused(ran(foreign), foreign, "does not say what it is for", "python -m tools.export")
    refused(ran(broken), broken, "is no whole ONNX file")
    refused(ran(tmp_path / "none.onnx"), "none.onnx does not exist")
    refused(ran(exported[0] / "net.onnx", "--engine", "torch"), "leave out --engine torch")
    refused(ran(exported[0] / "net.onnx", "--device", "cuda"), "onnxruntime computes on the processor")


@pytest.mark.slow
def test_a_file_of_one_size_sets_the_window_and_two_of_different_sizes_are_refused(trained, tmp_path):
    net = snapshots.load_net(trained.snapshots / "net_iter_150.safetensors")
    files = [write(tmp_path / f"{size}.onnx", *net, size=size) for size in (64, 32)]
    infer(trained, tmp_path / "maps", "--weights", files[0])
    details = json.loads((tmp_path / "maps/details.json").read_text())
    assert (details["window"], details["step"]) == ([64, 64], [32, 32])  # the config's windows of 32 overlap by half too
    words = ("--dir", tmp_path / "looks", "--weights", files[0], "--config", trained.config())
    ran = call("inference", 32, *words, "--tta", "scales")
    refused(ran, "TTA scales has windows of three sizes", "exported for 64x64 alone")
    ran = call("inference", 32, "--dir", tmp_path / "both", "--weights", *files, "--config", trained.config())
    refused(ran, "32.onnx was exported with --size 32", "64x64")


def test_a_file_of_shares_gives_the_same_for_pixels_divided_by_255_and_deepness_needs_no_settings(one, tmp_path):
    _, says, path = one
    program = trace(*made(unpooling, IRRG))
    model = onnx_file.convert(program)
    onnx_file.take_shares(model)
    onnx_file.describe(model, program, says, shares=True)
    onnx_file.save(model, tmp_path / "shares.onnx")
    images = raw_pixels(IRRG, (2, 32, 32))
    assert labels(tmp_path / "shares.onnx", images / np.float32(255)) == pytest.approx(labels(path, images), abs=1e-5)
    engine = OnnxNet(tmp_path / "shares.onnx")
    assert engine.probabilities(torch.from_numpy(images)).numpy() == pytest.approx(labels(path, images), abs=1e-5)
    tells = onnxruntime.InferenceSession(tmp_path / "shares.onnx").get_modelmeta().custom_metadata_map
    assert (json.loads(tells["standardization_mean"]), json.loads(tells["standardization_std"])) == ([0.0] * 3, [1.0] * 3)


@pytest.mark.parametrize(
    ("dtype", "guarded"), [("uint8", False), pytest.param("uint16", False, marks=pytest.mark.slow), ("float32", True)]
)
def test_only_nets_of_floats_ask_whether_pixels_are_numbers(tmp_path, dtype, guarded):
    net, says = made(overlapping, replace(IRRG, dtypes=(dtype,)))
    path = write(tmp_path / "net.onnx", net, says)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert bool(kinds & {"IsNaN", "IsInf"}) == guarded
    images = raw_pixels(IRRG, (2, 32, 32))
    assert np.abs(labels(path, images) - expected(net, [IRRG], [images])).max() < 1e-5


# ----------------------------------------------------------------------------------------------------------------- the zoo


@pytest.mark.slow
@pytest.mark.parametrize("name", [*nets.names_with_backbones(), "smp:Unet/resnet18", "torchvision:lraspp_mobilenet_v3_large"])
def test_every_net_is_exported_both_ways(name, tmp_path):
    torch.manual_seed(1)
    inputs = [replace(IRRG, name=n, modalities=(n,)) for n in nets.example_inputs(name)]
    program = trace(nets.build(name, {i.name: 3 for i in inputs}, 6).eval(), about(*inputs) | {"name": name})
    model = onnx_file.convert(program)
    onnx_file.describe(model, program, about(*inputs))
    onnx_file.save(model, tmp_path / "net.onnx")
    torch.export.save(program.traced, tmp_path / "net.pt2")
    for exported in (OnnxNet(tmp_path / "net.onnx").probabilities, torch.export.load(tmp_path / "net.pt2").module()):
        Likeness.of(program, exported, noise(program)).check(tmp_path)


@pytest.mark.slow
def test_a_net_that_onnxruntime_computes_in_one_size_alone_says_so_and_works_in_it():
    net, says = nets.build("smp:PAN/resnet18", {"irrg": 3}, 6).eval(), about(IRRG)  # it pools to single pixels
    with pytest.raises(UserError, match=r"cannot compute made on images of 160x128 pixels .*: export the net with --size"):
        hosted(net, says)(torch.from_numpy(raw_pixels(IRRG, (1, 160, 128))))
    images = torch.from_numpy(raw_pixels(IRRG, (1, 128, 128)))
    assert (hosted(net, says)(images).argmax(1) == trace(net, says, 128).net(images).argmax(1)).float().mean() > 0.999


@pytest.mark.slow
def test_a_prototxt_is_exported_and_hosted(tmp_path):
    net = nets.build("segnet_slim", {"irrg": 3}, 6)
    (tmp_path / "net.prototxt").write_text(write_prototxt(net))
    engine = hosted(nets.build(tmp_path / "net.prototxt", {"irrg": 3}, 6), about(IRRG))
    assert engine(torch.from_numpy(raw_pixels(IRRG, (1, 64, 96)))).shape == (1, 6, 64, 96)
