"""Proves that Caffe's weights arrive where Caffe has them, and leave so that they come back bit for bit. The witness is a real
Caffe (tests/data/caffe); further files are made here, with protobuf and h5py, as Caffe's formats prescribe."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from conftest import caffes, call

import nets
from nets.caffe.prototxt import read_prototxt, write_prototxt
from nets.layers import branch, conv, data, pool, score, unpool
from nets.net import Net
from nets.segnet import segnet, vgg16
from tools.base.errors import UserError
from tools.weights import caffe_proto
from tools.weights.caffe import load_caffemodel, read_caffemodel, refuse_solverstate, slots, write_caffemodel
from tools.weights.snapshots import load_net, save_net

TINY = (4, 8, 16, 32, 32)


def parameters(net):
    """Every blob of a net as Caffe has it: {layer/index: array}."""
    return {f"{name}/{i}": blob for name, slot in slots(net).items() for i, blob in enumerate(slot.blobs())}


def blobs_of(net, *images):
    """Everything that the layers of a net write, by name."""
    found = {}
    for row in net.rows:
        names = net.writes[row.name]

        def keep(module, given, written, names=names):
            found.update(zip(names, written if isinstance(written, tuple) else (written,), strict=True))

        net.get_submodule(row.name).register_forward_hook(keep)
    with torch.no_grad():
        net(*images)
    return {name: blob.numpy() for name, blob in found.items()}


def shake(net, seed=0):
    """Random weights and statistics everywhere, so that nothing is equal by chance."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "bn.weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[:1].numel()) ** 0.5)
    return net.eval()


# ------------------------------------------------------------------------------------------------ against a real Caffe


def test_every_blob_is_within_1e_4_of_caffes_with_identical_masks_and_labels():
    net = nets.build(str(caffes("tiny_segnet.prototxt")), {"irrg": 3}, 6).eval()
    report = load_caffemodel(net, caffes("tiny_segnet.caffemodel"))
    assert (len(report.loaded), report.ignored, report.kept) == (26, [], [])
    reference = np.load(caffes("tiny_segnet_forward.npz"))
    ours = blobs_of(net, torch.from_numpy(reference["data"]))
    compared = [name for name in reference if name in ours]
    assert len(compared) == 8
    for name in compared:
        if name.endswith("_mask"):
            np.testing.assert_array_equal(ours[name], reference[name])
        else:
            np.testing.assert_allclose(ours[name], reference[name], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(ours["conv1_1_D"].argmax(1), reference["conv1_1_D"].argmax(1))


def test_the_table_of_this_folder_takes_the_same_weights_to_the_same_labels():
    net = Net(segnet(3, 6, planes=TINY)).eval()
    load_caffemodel(net, caffes("tiny_segnet.caffemodel"))
    reference = np.load(caffes("tiny_segnet_forward.npz"))
    with torch.no_grad():
        scores = net(torch.from_numpy(reference["data"])).numpy()
    np.testing.assert_allclose(scores, reference["conv1_1_D"], rtol=0, atol=1e-4)


def test_old_weights_of_a_vgg_fill_the_encoder_exactly():
    net = nets.build(str(caffes("tiny_segnet.prototxt")), {"irrg": 3}, 6)
    report = load_caffemodel(net, caffes("vgg_tiny_v1.caffemodel"))
    assert report.loaded == [row.name for row in net.rows if row.kind == "conv"][:13]
    assert "conv5_3_D" in report.kept
    reference, ours = np.load(caffes("vgg_tiny_params.npz")), parameters(net)
    assert len(reference.files) == 26
    for name in reference:
        np.testing.assert_array_equal(ours[name], reference[name])


def test_layers_without_blobs_are_passed_over():
    assert "label_label_0_split" not in read_caffemodel(caffes("tiny_segnet_init.caffemodel"))
    net = Net(segnet(3, 6, planes=TINY))
    load_caffemodel(net, caffes("tiny_segnet_init.caffemodel"))
    assert net.conv1_1.bn.running_var.tolist() == [0] * 4  # a factor of 0 means that both statistics are 0


# ------------------------------------------------------------------------------------------------------- there and back


def assert_it_comes_back(net, tmp_path, *images):
    """Write prototxt and caffemodel, read both, and demand the same outputs and weights, bit for bit."""
    (tmp_path / "n.prototxt").write_text(write_prototxt(net, "n"))
    write_caffemodel(net, tmp_path / "n.caffemodel")
    again = Net(read_prototxt(tmp_path / "n.prototxt").rows).eval()
    report = load_caffemodel(again, tmp_path / "n.caffemodel")
    assert not report.ignored
    assert not report.kept
    with torch.no_grad():
        assert torch.equal(net(*images), again(*images))
    ours, theirs = parameters(net), parameters(again)
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def fusenet(planes):
    """Two encoders of two levels, the second added to the first before each pooling, and a decoder."""
    from nets.layers import eltwise

    a, b = planes
    depth = branch("d_", [conv("conv1", "depth", a), pool("pool1", "conv1"), conv("conv2", "pool1", b)])
    return [
        data("rgb", 3), data("depth", 1), *depth,
        conv("conv1", "rgb", a), eltwise("fuse1", "conv1", "d_conv1"), pool("pool1", "fuse1"),
        conv("conv2", "pool1", b), eltwise("fuse2", "conv2", "d_conv2"), pool("pool2", "fuse2"),
        unpool("up2", "pool2", "pool2_mask"), conv("conv2_D", "up2", a),
        unpool("up1", "conv2_D", "pool1_mask"), score("conv1_D", "up1", 5),
    ]  # fmt: skip


def test_a_small_segnet_comes_back(tmp_path):
    assert_it_comes_back(shake(Net(segnet(4, 6, planes=TINY))), tmp_path, torch.rand(2, 4, 64, 32))


def test_two_branches_come_back(tmp_path):
    assert_it_comes_back(shake(Net(fusenet((8, 16)))), tmp_path, torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16))


def test_batch_norm_and_scale_of_other_names_come_back(tmp_path):
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }'
    text += 'layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 4 kernel_size: 1 } }'
    text += 'layer { name: "bn_a" type: "BatchNorm" bottom: "a" top: "a" }'
    text += 'layer { name: "scale/a.1" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true } }'
    text += 'layer { name: "bare" type: "BatchNorm" bottom: "a" top: "bare" }'
    text += 'layer { name: "fc" type: "InnerProduct" bottom: "bare" top: "fc" inner_product_param { num_output: 5 } }'
    (tmp_path / "net.prototxt").write_text(text)
    net = shake(Net(read_prototxt(tmp_path / "net.prototxt").rows))
    assert list(slots(net)) == ["a", "bn_a", "scale/a.1", "bare", "fc"]
    write_caffemodel(net, tmp_path / "net.caffemodel")
    again = Net(read_prototxt(tmp_path / "net.prototxt").rows).eval()
    load_caffemodel(again, tmp_path / "net.caffemodel")
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(net(x), again(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in nets.names() if n not in ("deeplabv3plus", "unet_light")])
def test_every_net_of_this_folder_that_caffe_can_have_comes_back(tmp_path, name):
    inputs = nets.example_inputs(name)
    net = shake(nets.build(name, inputs, 6))
    assert_it_comes_back(net, tmp_path, *[torch.rand(1, n, 64, 64) for n in inputs.values()])


def test_a_net_of_this_folder_that_caffe_cannot_have_says_which_layer(tmp_path):
    net = nets.build("deeplabv3plus", {"irrg": 3}, 6)
    with pytest.raises(UserError, match="layer 'aspp_up' resizes by the areas of pixels, Caffe's Interp by corners: add"):
        write_caffemodel(net, tmp_path / "n.caffemodel")
    with pytest.raises(UserError, match="is of the kind 'relu6', which Caffe does not have"):
        write_caffemodel(nets.build("deeplabv3plus/mobilenetv2", {"irrg": 3}, 6), tmp_path / "n.caffemodel", by_corners=True)
    assert not (tmp_path / "n.caffemodel").exists()


def test_deeplab_that_resizes_by_corners_comes_back_and_one_that_does_not_differs_a_little(tmp_path):
    """Interp is what Caffe's forks have for resizing; the pooled image, one value per plane, is the same either way."""
    net = shake(nets.build("deeplabv3plus/vgg16", {"irrg": 3}, 6, corners=True))
    net.made_for = (64, 96)
    assert_it_comes_back(net, tmp_path, torch.rand(1, 3, 64, 96))
    assert "height: 64\n    width: 96" in (tmp_path / "n.prototxt").read_text()
    by_areas = Net([replace(row, args=row.args | {"corners": False}) if row.kind == "resize" else row for row in net.rows])
    by_areas.load_state_dict(net.state_dict())
    (tmp_path / "n.prototxt").write_text(write_prototxt(by_areas, "n", (64, 96), by_corners=True))
    written = Net(read_prototxt(tmp_path / "n.prototxt").rows).eval()
    load_caffemodel(written, tmp_path / "n.caffemodel")
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(written(x), net(x))
        assert not torch.equal(written(x), by_areas.eval()(x))


VGG = [("conv1_1", 64), ("conv1_2", 64), None, ("conv2_1", 128), ("conv2_2", 128), None, ("conv3_1", 256), ("conv3_2", 256)]
VGG += [("conv3_3", 256), None, ("conv4_1", 512), ("conv4_2", 512), ("conv4_3", 512), None, ("conv5_1", 512)]
VGG += [("conv5_2", 512), ("conv5_3", 512), None]


def vgg_prototxt(old, side, hidden):
    """VGG-16 with its classifier as its authors published it, in the old format or the new one."""
    names = {"Convolution": "CONVOLUTION", "ReLU": "RELU", "Pooling": "POOLING", "InnerProduct": "INNER_PRODUCT"}
    names |= {"Dropout": "DROPOUT", "Softmax": "SOFTMAX"}
    text, top = (
        f'name: "VGG_ILSVRC_16_layers"\ninput: "data"\ninput_dim: 10\ninput_dim: 3\ninput_dim: {side}\ninput_dim: {side}\n',
        "data",
    )

    def layer(name, kind, bottom, top, param=""):
        kind = names[kind] if old else f'"{kind}"'
        opening = f'{"layers" if old else "layer"} {{\n  bottom: "{bottom}"\n  top: "{top}"\n  name: "{name}"\n  type: {kind}\n'
        return f"{opening}{param}}}\n"

    pools = 0
    for entry in VGG:
        if entry is None:
            pools += 1
            window = "  pooling_param {\n    pool: MAX\n    kernel_size: 2\n    stride: 2\n  }\n"
            text += layer(f"pool{pools}", "Pooling", top, f"pool{pools}", window)
            top = f"pool{pools}"
        else:
            name, planes = entry
            text += layer(
                name, "Convolution", top, name, f"  convolution_param {{ num_output: {planes} pad: 1 kernel_size: 3 }}\n"
            )
            text += layer(name.replace("conv", "relu"), "ReLU", name, name)
            top = name
    for name, width in (("fc6", hidden), ("fc7", hidden), ("fc8", 1000)):
        text += layer(name, "InnerProduct", top, name, f"  inner_product_param {{ num_output: {width} }}\n")
        if name != "fc8":
            text += layer(name.replace("fc", "relu"), "ReLU", name, name)
            text += layer(name.replace("fc", "drop"), "Dropout", name, name, "  dropout_param { dropout_ratio: 0.5 }\n")
        top = name
    return text + layer("prob", "Softmax", "fc8", "prob")


def vgg_weights(side, hidden, seed=0):
    """{layer: (weight, bias)} of the above."""
    generator, channels, weights = np.random.default_rng(seed), 3, {}
    for name, planes in filter(None, VGG):
        weights[name] = (planes, channels, 3, 3)
        channels = planes
    for name, width, inputs in (("fc6", hidden, 512 * (side // 32) ** 2), ("fc7", hidden, hidden), ("fc8", 1000, hidden)):
        weights[name] = (width, inputs)
    return {
        name: (
            generator.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5),
            generator.standard_normal(shape[0], np.float32) / 10,
        )
        for name, shape in weights.items()
    }


def write_v1(path, weights, kinds=None):
    """A .caffemodel of the format before 2015."""
    message = caffe_proto.NetParameter(name="old")
    message.layers.add(name="data", type=5)
    for name, blobs in weights.items():
        layer = message.layers.add(name=name, type=(kinds or {}).get(name, 4), bottom=["x"], top=[name])
        for array in blobs:
            num, channels, height, width = (1,) * (4 - array.ndim) + array.shape
            blob = layer.blobs.add(num=num, channels=channels, height=height, width=width)
            blob.MergeFromString(packed(array))
        message.layers.add(name=name + "_split", type=22)
    path.write_bytes(message.SerializeToString())
    return path


def write_v2(path, weights, double=False):
    """A .caffemodel of the format since 2015."""
    message = caffe_proto.NetParameter(name="new")
    for name, blobs in weights.items():
        layer = message.layer.add(name=name, type="Any")
        for array in blobs:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.double_data.extend(array.ravel().tolist()) if double else blob.MergeFromString(packed(array))
    path.write_bytes(message.SerializeToString())
    return path


def packed(array):
    """Field 5 of a BlobProto, as bytes: quick for a hundred million floats."""
    return b"\x2a" + varint(4 * array.size) + array.astype("<f4").tobytes()


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def write_hdf5(path, weights):
    """A .caffemodel.h5 as Caffe's Net::ToHDF5 writes it."""
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        group.create_group("relu")  # layers without blobs have empty groups
        for name, blobs in weights.items():
            layer = group.create_group(name)
            for i, array in enumerate(blobs):
                layer.create_dataset(str(i), data=array)
    return path


@pytest.mark.parametrize("old", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(("side", "hidden"), [(32, 16), pytest.param(224, 4096, marks=pytest.mark.slow)])
def test_vgg_16_as_published_in_either_format(tmp_path, old, side, hidden):
    """The prototxt and the caffemodel of one format, against the same net computed by PyTorch's functions."""
    weights = vgg_weights(side, hidden)
    (tmp_path / "vgg.prototxt").write_text(vgg_prototxt(old, side, hidden))
    net = nets.build(str(tmp_path / "vgg.prototxt"), {"rgb": 3}, 1000).eval()
    report = load_caffemodel(net, (write_v1 if old else write_v2)(tmp_path / "vgg.caffemodel", weights))
    assert report.loaded == list(weights)
    x = given = torch.rand(1, 3, side, side)
    for entry in VGG:
        if entry is None:
            x = torch.nn.functional.max_pool2d(x, 2, 2)
        else:
            x = torch.nn.functional.conv2d(x, *map(torch.from_numpy, weights[entry[0]]), padding=1).relu()
    x = x.flatten(1)
    for name in ("fc6", "fc7", "fc8"):
        x = torch.nn.functional.linear(x, *map(torch.from_numpy, weights[name]))
        x = x if name == "fc8" else x.relu()
    with torch.no_grad():
        np.testing.assert_allclose(net(given), x.softmax(1), rtol=1e-4, atol=1e-7)


def test_a_classifier_fills_an_encoder_and_what_the_net_lacks_is_listed(tmp_path):
    weights = vgg_weights(32, 16)
    net = Net([*vgg16_rows(), score("conv1_1_D", "pool5", 6)])
    report = load_caffemodel(net, write_v1(tmp_path / "vgg.caffemodel", weights))
    assert len(report.loaded) == 13
    assert report.ignored == ["fc6", "fc7", "fc8"]
    assert "conv1_1_bn" in report.kept
    assert "fc6, fc7, fc8" in str(report)
    np.testing.assert_array_equal(net.conv5_3.weight.detach(), weights["conv5_3"][0])


def vgg16_rows():
    return [data("data", 3), *vgg16("data")]


# --------------------------------------------------------------------------------------------------------- file formats


@pytest.fixture
def small():
    """A net of two units, and weights for it as Caffe would hold them."""
    net = Net([data("data", 2), conv("a", "data", 3), score("b", "a", 2)])
    generator = np.random.default_rng(5)

    def random(*shape):
        return generator.uniform(0.5, 1, shape).astype(np.float32)

    weights = {"a": [random(3, 2, 3, 3), random(3)], "a_bn": [random(3), random(3), np.float32([4.0])]}
    return net, weights | {"a_scale": [random(3), random(3)], "b": [random(2, 3, 3, 3), random(2)]}


@pytest.mark.parametrize("write", [write_v1, write_v2, write_hdf5, lambda p, w: write_v2(p, w, double=True)])
def test_every_format_brings_the_same_values(tmp_path, small, write):
    net, weights = small
    load_caffemodel(net, write(tmp_path / "w.caffemodel", weights))
    np.testing.assert_array_equal(net.a.weight.detach(), weights["a"][0])
    np.testing.assert_array_equal(net.a.bias.detach(), weights["a"][1])
    np.testing.assert_array_equal(net.a.bn.running_mean, weights["a_bn"][0] / 4)
    np.testing.assert_array_equal(net.a.bn.running_var, weights["a_bn"][1] / 4)
    np.testing.assert_array_equal(net.a.bn.weight.detach(), weights["a_scale"][0])
    np.testing.assert_array_equal(net.a.bn.bias.detach(), weights["a_scale"][1])
    np.testing.assert_array_equal(net.b.bias.detach(), weights["b"][1])


def test_floats_that_are_not_packed_are_read_too(tmp_path, small):
    _, weights = small
    path = write_v2(tmp_path / "w.caffemodel", weights)
    floats = weights["b"][1]
    loose = b"".join(b"\x2d" + f.tobytes() for f in floats)
    name, kind, shape = b"\x0a\x01b", b"\x12\x03Any", b"\x3a\x03\x0a\x01\x02"
    weight = caffe_proto.NetParameter.FromString(path.read_bytes()).layer[3].blobs[0].SerializeToString()
    rest = caffe_proto.NetParameter.FromString(path.read_bytes())
    del rest.layer[3]

    def message(bias):
        layer = name + kind + b"\x3a" + varint(len(weight)) + weight + b"\x3a" + varint(len(bias)) + bias
        return rest.SerializeToString() + b"\xa2\x06" + varint(len(layer)) + layer

    for data_field in (packed(floats), loose):
        path.write_bytes(message(data_field + shape))
        np.testing.assert_array_equal(read_caffemodel(path)["b"][1], floats)


def test_a_file_of_a_fork_with_fields_of_its_own_is_read(tmp_path, small):
    """SegNet's Caffe gave numbers to its own params that mean something else elsewhere."""
    _, weights = small
    path = write_v2(tmp_path / "w.caffemodel", weights)
    field_143 = b"\xfa\x08\x03\x08\x02\x10"  # three bytes that are no message
    layer = b"\x0a\x02up" + field_143
    path.write_bytes(path.read_bytes() + b"\xa2\x06" + varint(len(layer)) + layer)
    assert list(read_caffemodel(path)) == list(weights)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
        b"PK\x03\x04" + bytes(100),
        b"name: 'net'\nlayer { }\n",
        b"\x89HDF\r\n\x1a\n" + bytes(99),
    ],
    ids=["empty", "png", "zip", "text", "broken hdf5"],
)
def test_a_foreign_file_is_said_in_one_sentence(tmp_path, small, content):
    (tmp_path / "w.caffemodel").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.caffemodel .*caffemodel"):
        load_caffemodel(small[0], tmp_path / "w.caffemodel")


@pytest.mark.parametrize("write", [write_v1, write_v2, write_hdf5])
@pytest.mark.parametrize("part", [0.03, 0.5, 0.97])
def test_a_file_that_breaks_off_is_said(tmp_path, small, write, part):
    net, weights = small
    before = {k: v.clone() for k, v in net.state_dict().items()}
    path = write(tmp_path / "w.caffemodel", weights)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(UserError, match=r"no whole \.caffemodel"):
        load_caffemodel(net, path)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_missing_file_is_said(tmp_path, small):
    with pytest.raises(UserError, match="does not exist"):
        load_caffemodel(small[0], tmp_path / "w.caffemodel")


def test_another_shape_names_the_layer_both_shapes_and_the_remedy_and_changes_nothing(tmp_path, small):
    net, weights = small
    before = {k: v.clone() for k, v in net.state_dict().items()}
    weights["b"] = [np.ones((7, 3, 3, 3), np.float32), np.ones(7, np.float32)]
    with pytest.raises(UserError) as error:
        load_caffemodel(net, write_v2(tmp_path / "w.caffemodel", weights))
    for words in ("layer 'b'", "7x3x3x3 and 7", "2x3x3x3 and 2", "rename the layer to train it from scratch"):
        assert words in str(error.value)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_weights_of_another_net_altogether_are_said(tmp_path, small):
    path = write_v2(tmp_path / "w.caffemodel", {"other": [np.ones(3, np.float32)]})
    with pytest.raises(UserError, match=r"has no layer of this net: it has other; the net has a, a_bn, a_scale, b"):
        load_caffemodel(small[0], path)


def test_a_net_that_is_no_table_is_said(tmp_path):
    with pytest.raises(UserError, match="no table of layers"):
        write_caffemodel(torch.nn.Conv2d(1, 1, 1), tmp_path / "w.caffemodel")


@pytest.mark.parametrize("kind", ["protobuf", "hdf5"])
def test_a_solverstate_of_caffe_is_refused_and_ours_is_not(tmp_path, kind):
    path, ours = tmp_path / "a_iter_9.solverstate", tmp_path / "ours.solverstate"
    torch.save({"iteration": 3}, ours)
    refuse_solverstate(ours)
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            file["iter"] = 9
    else:
        path.write_bytes(caffe_proto.SolverState(iter=9, learned_net="a_iter_9.caffemodel").SerializeToString())
    with pytest.raises(UserError, match=r"is a \.solverstate of Caffe, which is not read: .*--init a_iter_9\.caffemodel"):
        refuse_solverstate(path)


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_writes_both_files_and_they_give_the_same_scores(tmp_path):
    net = shake(Net(segnet(3, 6, planes=TINY)))
    save_net(tmp_path / "net_iter_5.safetensors", net, {"name": "segnet"})
    words = ["tools.caffe", tmp_path / "net_iter_5.safetensors", "--out", tmp_path / "out"]
    ran = call(*words)
    assert ran.code == 0, ran.err
    again = nets.build(str(tmp_path / "out.prototxt"), {"irrg": 3}, 6).eval()
    load_caffemodel(again, tmp_path / "out.caffemodel")
    x = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(load_net(tmp_path / "net_iter_5.safetensors")[0].eval()(x), again(x))
    assert "exists already" in call(*words).sentence
    assert call(*words, "--overwrite").code == 0


def test_a_net_read_from_a_prototxt_survives_its_snapshot(tmp_path):
    (tmp_path / "n.prototxt").write_text(write_prototxt(Net(segnet(3, 6, planes=TINY))))
    net = shake(nets.build(str(tmp_path / "n.prototxt"), {"irrg": 3}, 6))
    save_net(tmp_path / "net_iter_1.safetensors", net, {})
    again, _ = load_net(tmp_path / "net_iter_1.safetensors")
    assert nets.describe(again) == nets.describe(net)
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(net(x), again.eval()(x))


@pytest.mark.parametrize("way", ["link", "external storage", "virtual dataset", "a size without values"])
def test_weights_in_hdf5_are_read_from_the_file_itself_alone(tmp_path, way):
    (tmp_path / "secret").write_bytes(bytes(range(64)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data/conv/0"] = np.ones((2, 2), np.float32)
    with h5py.File(tmp_path / "a.caffemodel.h5", "w") as file:
        if way == "link":
            file["data"] = h5py.ExternalLink(tmp_path / "other.h5", "/data")
        elif way == "external storage":
            file.create_dataset("data/conv/0", (4, 4), "f4", external=[(str(tmp_path / "secret"), 0, 64)])
        elif way == "virtual dataset":
            layout = h5py.VirtualLayout((2, 2), "f4")
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "data/conv/0", (2, 2))
            file.create_virtual_dataset("data/conv/0", layout)
        else:
            file.create_dataset("data/conv/0", (1 << 40,), "f4", chunks=(1 << 20,))
    with pytest.raises(UserError, match=r"another file, which is not read|which no layer has"):
        read_caffemodel(tmp_path / "a.caffemodel.h5")
