"""Proves that a prototxt becomes the table that Caffe would run, that a table comes back from the prototxt that it is
written as, and that what is not understood is named. Caffe itself is the witness by files that it wrote (tests/data/caffe)."""

import numpy as np
import pytest
import torch
from conftest import caffes
from torch.nn import functional as F

import nets
from nets.caffe.prototxt import read_prototxt, write_prototxt
from nets.layers import branch, conv, data, score
from nets.net import Net
from nets.segnet import segnet
from tools.base.errors import UserError

TINY = (4, 8, 16, 32, 32)

CONV = """layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s"
  convolution_param { num_output: %d kernel_size: 3 pad: 1 } }
"""
DATA = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'


def written(tmp_path, text):
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    return path


def rows_of(tmp_path, text, **options):
    return read_prototxt(written(tmp_path, text), **options).rows


def unit(name, bottom, channels, top=None):
    """A convolution with its batch norm, scale and ReLU in place, as the reference writes them."""
    text = CONV % (name, bottom, top or name, channels)
    for suffix, kind, more in (
        ("bn", "BatchNorm", ""),
        ("scale", "Scale", "scale_param { bias_term: true }"),
        ("relu", "ReLU", ""),
    ):
        text += f'layer {{ name: "{name}_{suffix}" type: "{kind}" bottom: "{top or name}" top: "{top or name}" {more} }}\n'
    return text


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("file", ["tiny_segnet.prototxt", "tiny_segnet_train.prototxt"])
def test_the_reference_is_read_as_the_segnet_that_it_is(file):
    table = read_prototxt(caffes(file))
    ours = segnet(3, 6, planes=TINY)

    def units(rows):
        return [(r.name, r.reads, {"kernel": 3} | r.args) for r in rows if r.kind == "conv"]

    assert units(table.rows) == units(ours)
    assert [r.name for r in table.rows] == [r.name for r in ours]
    assert table.ignore_label == (5 if "train" in file else None)


def test_multipliers_come_from_the_file_and_a_missing_one_is_1():
    rows = {r.name: r for r in read_prototxt(caffes("tiny_segnet_train.prototxt")).rows}
    assert rows["conv3_2"].lr_mult == (0.5, 1, 0.5, 1)
    assert rows["conv3_2_D"].lr_mult == (1, 1, 1, 2)
    assert rows["conv3_2"].decay_mult == (1, 1, 1, 1)


def test_a_name_is_written_in_place_and_each_reader_gets_what_stood_there_then(tmp_path):
    text = DATA + CONV % ("a", "data", "a", 4) + CONV % ("before", "a", "before", 4)
    text += 'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }\n' + CONV % ("after", "a", "after", 4)
    text += 'layer { name: "sum" type: "Eltwise" bottom: "before" bottom: "after" top: "sum" }'
    reads = {r.name: r.reads for r in rows_of(tmp_path, text)}
    assert reads["before"] == ("a",)
    assert reads["after"] == ("r",)


def test_a_unit_is_not_joined_when_something_else_reads_what_lies_between(tmp_path):
    text = DATA + unit("a", "data", 4)
    assert [r.kind for r in rows_of(tmp_path, text)] == ["data", "conv"]
    text = text.replace('layer { name: "a_relu"', CONV % ("b", "a", "b", 4) + 'layer { name: "a_relu"')
    text += 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }'
    rows = {r.name: r for r in rows_of(tmp_path, text)}
    assert rows["a"].args["relu"] is False
    assert rows["sum"].reads == ("a_relu", "b")


def test_a_relu_that_writes_elsewhere_leaves_its_convolution_to_other_readers(tmp_path):
    text = DATA + CONV % ("a", "data", "a", 4) + 'layer { name: "a_relu" type: "ReLU" bottom: "a" top: "r" }\n'
    text += 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "r" top: "sum" }'
    assert [(r.name, r.reads) for r in rows_of(tmp_path, text)][2:] == [("a_relu", ("a",)), ("sum", ("a", "a_relu"))]


def test_a_published_fusenet_lists_one_relu_twice_in_place(tmp_path):
    twice = 'layer { name: "a_relu" type: "ReLU" bottom: "a" top: "a" }\n'
    assert rows_of(tmp_path, DATA + unit("a", "data", 4) + twice) == rows_of(tmp_path, DATA + unit("a", "data", 4))


def test_one_relu_name_for_two_blobs_is_two_rows(tmp_path):
    relu = 'layer {{ name: "relu" type: "ReLU" bottom: "{0}" top: "{0}" }}\n'
    text = DATA + CONV % ("a", "data", "a", 4) + relu.format("a") + CONV % ("b", "a", "b", 4) + relu.format("b")
    assert [r.name for r in rows_of(tmp_path, text)] == ["data", "a", "relu", "b", "relu_2"]


def test_tops_may_have_other_names_than_layers(tmp_path):
    text = DATA + CONV % ("first", "data", "x", 4) + CONV % ("second", "x", "x", 2)
    assert [(r.name, r.reads) for r in rows_of(tmp_path, text)][1:] == [("first", ("data",)), ("second", ("first",))]


def test_names_that_pytorch_cannot_have_keep_their_way_back(tmp_path):
    text = DATA + CONV % ("block/a.1", "data", "x", 4) + CONV % ("output", "x", "output", 2)
    net = Net(rows_of(tmp_path, text))
    again = written(tmp_path, write_prototxt(net)).read_text()
    assert 'name: "block/a.1"' in again
    assert 'name: "output"' in again
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 2, 8, 8)


def test_layers_of_the_other_phase_are_left_out(tmp_path):
    text = """
    layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN } data_param { source: "a" batch_size: 9 } }
    layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST } }
    """
    text += CONV % ("a", "data", "a", 4)
    text += 'layer { name: "only_train" type: "Dropout" bottom: "a" top: "a" include { phase: TRAIN } }'
    text += 'layer { name: "not_train" type: "Power" bottom: "a" top: "a" exclude { phase: TRAIN } power_param { scale: 2 } }'
    text += CONV % ("score", "a", "score", 7)
    text += """
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" loss_weight: 1
            loss_param { ignore_label: 255 normalization: VALID } }
    layer { name: "acc" type: "Accuracy" bottom: "score" bottom: "label" top: "acc" include { phase: TEST stage: "val" } }
    """
    test = read_prototxt(written(tmp_path, text), {"irrg": 5})
    train = read_prototxt(written(tmp_path, text), {"irrg": 5}, phase="TRAIN")
    assert [r.name for r in test.rows] == ["data", "a", "not_train", "score"]
    assert [r.name for r in train.rows] == ["data", "a", "only_train", "score"]
    assert (test.ignore_label, test.left_out) == (255, [])  # labels are no part of a net, and need no mention
    assert Net(test.rows).inputs == {"data": 5}  # a Data layer does not say how many channels it brings


def test_a_file_for_training_alone_is_read_as_such(tmp_path):
    text = 'layer { name: "d" type: "Data" top: "data" include { phase: TRAIN } }' + CONV % ("a", "data", "a", 4)
    assert [r.name for r in rows_of(tmp_path, text, inputs={"x": 3})] == ["data", "a"]


OLD = """
name: "old"
input: "data"
input_dim: 10 input_dim: 3 input_dim: 32 input_dim: 32
layers { bottom: "data" top: "conv1_1" name: "conv1_1" type: CONVOLUTION blobs_lr: 0 blobs_lr: 2 weight_decay: 1
         weight_decay: 0 convolution_param { num_output: 4 pad: 1 kernel_size: 3 } }
layers { bottom: "conv1_1" top: "conv1_1" name: "relu1_1" type: RELU }
layers { bottom: "conv1_1" top: "pool1" name: "pool1" type: POOLING pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { bottom: "pool1" top: "fc6" name: "fc6" type: INNER_PRODUCT inner_product_param { num_output: 9 } }
layers { bottom: "fc6" top: "fc6" name: "relu6" type: RELU }
layers { bottom: "fc6" top: "fc6" name: "drop6" type: DROPOUT dropout_param { dropout_ratio: 0.4 } }
layers { bottom: "fc6" top: "fc7" name: "fc7" type: INNER_PRODUCT inner_product_param { num_output: 5 } }
layers { bottom: "fc7" top: "prob" name: "prob" type: SOFTMAX }
"""


def test_the_format_of_2014_is_understood(tmp_path):
    net = nets.build(str(written(tmp_path, OLD)), {"rgb": 3}, 5)
    rows = {r.name: r for r in net.rows}
    assert list(rows) == ["data", "conv1_1", "relu1_1", "pool1", "fc6", "relu6", "drop6", "fc7", "prob"]
    assert (rows["conv1_1"].lr_mult, rows["conv1_1"].decay_mult) == ((0, 2), (1, 0))
    assert (net.fc6.in_features, net.fc7.in_features) == (4 * 16 * 16, 9)
    assert net(torch.rand(2, 3, 32, 32)).sum(1).tolist() == pytest.approx([1, 1])
    with pytest.raises(UserError, match="reads 1024 values, but gets 4 x 17 x 16"):
        net(torch.rand(1, 3, 34, 32))


def test_inputs_are_matched_by_name_else_by_order(tmp_path):
    two = (
        'input: "rgb" input: "dsm" input_dim: [1, 3, 8, 8, 1, 1, 8, 8]\n'
        + CONV % ("a", "rgb", "a", 2)
        + CONV % ("b", "dsm", "b", 2)
    )
    two += 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }'
    path = str(written(tmp_path, two))
    assert list(nets.build(path, {"dsm": 1, "rgb": 3}, 2).inputs.items()) == [("dsm", 1), ("rgb", 3)]
    assert list(nets.build(path, {"irrg": 3, "ndsm": 1}, 2).inputs.items()) == [("rgb", 3), ("dsm", 1)]
    with pytest.raises(UserError, match=r"reads 2 inputs \(rgb, dsm\), but there are 1 \(irrg\)"):
        nets.build(path, {"irrg": 3}, 2)
    with pytest.raises(UserError, match="input 'rgb' has 3 channels, but 'irrg' has 4"):
        nets.build(path, {"irrg": 4, "ndsm": 1}, 2)
    with pytest.raises(UserError, match="writes 2 planes in 'sum', but there are 6 classes"):
        nets.build(path, {"irrg": 3, "ndsm": 1}, 6)


def test_a_map_of_probabilities_is_built_without_its_softmax_for_the_scripts_take_it_themselves(tmp_path):
    text = DATA + CONV % ("a", "data", "a", 4) + 'layer { name: "prob" type: "Softmax" bottom: "a" top: "prob" }'
    assert nets.build(str(written(tmp_path, text)), {"rgb": 3}, 4).output == "a"
    assert rows_of(tmp_path, text)[-1].kind == "softmax"


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (DATA + 'layer { name: "n1" type: "MVN" bottom: "data" top: "n1" }', "layer 'n1' (MVN)"),
        (DATA + 'layer { name: "c" type: "Convolutoin" bottom: "data" top: "c" }', "Did you mean 'Convolution'?"),
        (DATA + 'layers { name: "b" type: BNLL bottom: "data" top: "b" }', "layer 'b' (BNLL)"),
        (DATA + CONV % ("a", "dta", "a", 4), "layer 'a' (Convolution): it reads 'dta', but no layer above it writes 'dta'"),
        (
            DATA + (CONV % ("a", "data", "a", 4)).replace("pad:", "padd:"),
            "has the field padd, which is unknown here. Did you mean 'pad'",
        ),
        (
            DATA + (CONV % ("a", "data", "a", 4)).replace("kernel_size: 3", ""),
            "layer 'a' (Convolution): its convolution_param needs kernel_size",
        ),
        (
            DATA + (CONV % ("a", "data", "a", 4)).replace("kernel_size: 3", "kernel_size: 3 axis: 2"),
            "axis: 2, which is not supported",
        ),
        (DATA + CONV % ("a", "data", "a", 4) + CONV % ("a", "a", "b", 4), "another layer with weights has the same name"),
        (DATA + "layer { name: 'a' type: 'ReLU' bottom: 'data'", "line 2: '': the file ends before a '}'"),
        (DATA + "layer { name }", "line 2"),
        (DATA, "declares no layers"),
        ("", "declares no layers"),
        (CONV % ("a", "data", "a", 4), "it reads 'data', but no layer above it writes 'data'"),
        (
            'layer { name: "d" type: "Data" top: "data" }' + CONV % ("a", "data", "a", 4),
            "does not say how many channels its input 'data'",
        ),
        (
            DATA + 'layer { name: "e" type: "Eltwise" bottom: "data" bottom: "data" top: "e" eltwise_param { coeff: 1 } }',
            "layer 'e'",
        ),
        (
            DATA
            + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { pool: STOCHASTIC kernel_size: 2 } }',
            "STOCHASTIC",
        ),
        ("layers { layer { name: 'a' } }", "upgrade_net_proto_text"),
    ],
)
def test_what_is_not_understood_is_said_in_one_sentence_that_names_it(tmp_path, text, sentence):
    with pytest.raises(UserError) as error:
        Net(rows_of(tmp_path, text))
    assert sentence in str(error.value)


def test_a_caffemodel_in_place_of_a_prototxt_is_said(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"\x0a\x04net\x00\xa2\x06")
    with pytest.raises(UserError, match="is no text"):
        read_prototxt(path)
    with pytest.raises(UserError, match="does not exist"):
        read_prototxt(tmp_path / "other.prototxt")


# ------------------------------------------------------------------------------------------------- writing, there and back


def test_the_reference_comes_back_from_what_is_written(tmp_path):
    rows = read_prototxt(caffes("tiny_segnet_train.prototxt")).rows
    assert read_prototxt(written(tmp_path, write_prototxt(Net(rows)))).rows == rows


EVERYTHING = (
    DATA
    + unit("a", "data", 8)
    + """
layer { name: "b" type: "Convolution" bottom: "a" top: "b" param { lr_mult: 3 } param { lr_mult: 0 decay_mult: 0 }
  convolution_param { num_output: 6 kernel_h: 1 kernel_w: 5 pad_h: 0 pad_w: 2 stride: 2 group: 2 bias_term: false } }
layer { name: "b/bn" type: "BatchNorm" bottom: "b" top: "b" batch_norm_param { eps: 1e-3 moving_average_fraction: 0.9 } }
layer { name: "b/sc" type: "Scale" bottom: "b" top: "b" scale_param { bias_term: true } }
layer { name: "leaky" type: "ReLU" bottom: "b" top: "b" relu_param { negative_slope: 0.25 } }
layer { name: "alone" type: "Scale" bottom: "b" top: "alone" }
layer { name: "sl" type: "Slice" bottom: "alone" top: "s0" top: "s1" slice_param { slice_point: 2 } }
layer { name: "cat" type: "Concat" bottom: "s1" bottom: "s0" top: "cat" }
layer { name: "pow" type: "Power" bottom: "cat" top: "pow" power_param { power: 2 scale: 0.5 shift: 1 } }
layer { name: "el" type: "Eltwise" bottom: "pow" bottom: "b" top: "el" eltwise_param { operation: SUM coeff: 1 coeff: -0.5 } }
layer { name: "mx" type: "Eltwise" bottom: "el" bottom: "b" top: "mx" eltwise_param { operation: MAX } }
layer { name: "drop" type: "Dropout" bottom: "mx" top: "mx" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ave" type: "Pooling" bottom: "mx" top: "ave" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "mp" type: "Pooling" bottom: "mx" top: "mp" top: "mask" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "up" type: "Upsample" bottom: "mp" bottom: "mask" top: "up" upsample_param { scale: 2 } }
layer { name: "de" type: "Deconvolution" bottom: "ave" top: "de"
  convolution_param { num_output: 6 kernel_size: 4 stride: 2 group: 6 bias_term: false weight_filler { type: "bilinear" } } }
layer { name: "cr" type: "Crop" bottom: "de" bottom: "up" top: "cr" crop_param { axis: 2 offset: 1 } }
layer { name: "two" type: "Eltwise" bottom: "cr" bottom: "up" top: "two" eltwise_param { operation: PROD } }
layer { name: "big" type: "Interp" bottom: "two" top: "big" interp_param { zoom_factor: 3 pad_beg: -1 } }
layer { name: "soft" type: "Softmax" bottom: "big" top: "soft" }
layer { name: "glob" type: "Pooling" bottom: "soft" top: "glob" pooling_param { pool: AVE global_pooling: true } }
layer { name: "flat" type: "Flatten" bottom: "glob" top: "flat" }
layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc" inner_product_param { num_output: 4 } }
"""
)


def test_every_kind_that_is_written_is_read_as_it_was(tmp_path):
    rows = rows_of(tmp_path, EVERYTHING)
    again = rows_of(tmp_path, write_prototxt(Net(rows)))
    assert [str(r) for r in again] == [str(r) for r in rows]
    assert [r.lr_mult for r in again] == [r.lr_mult for r in rows]


def test_a_table_of_json_computes_the_same(tmp_path):
    net = Net(rows_of(tmp_path, EVERYTHING)).eval()
    again = Net.from_json(net.to_json()).eval()
    again.load_state_dict(net.state_dict())
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(net(x), again(x))


def test_a_table_of_this_folder_comes_back_as_the_same_net(tmp_path):
    ours = Net(segnet(3, 6, planes=TINY)).eval()
    theirs = Net(rows_of(tmp_path, write_prototxt(ours))).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 64, 32)
    assert torch.equal(ours(x), theirs(x))
    assert theirs.multiple == ours.multiple == 32


def test_a_kind_that_caffe_lacks_is_named():
    net = Net([data("data", 3), conv("a", "data", 4)])
    net.rows[1] = type(net.rows[1])("wavelet", "a", ("data",))
    with pytest.raises(UserError, match="layer 'a' is of the kind 'wavelet', which Caffe does not have"):
        write_prototxt(net)


# --------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("text", "multiple"), [("scale: 2", 2), ("upsample_h: 7 upsample_w: 5", 1)])
def test_the_multiple_is_what_the_scripts_must_keep_to(tmp_path, text, multiple):
    pool = 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } }'
    up = f'layer {{ name: "u" type: "Upsample" bottom: "p" bottom: "m" top: "u" upsample_param {{ {text} }} }}'
    assert Net(rows_of(tmp_path, DATA + pool + up)).multiple == multiple


def test_a_net_whose_crop_evens_sizes_out_takes_any_size(tmp_path):
    text = DATA + CONV % ("a", "data", "a", 2)
    text += 'layer { name: "p" type: "Pooling" bottom: "a" top: "p" pooling_param { kernel_size: 2 stride: 2 } }'
    text += 'layer { name: "d" type: "Deconvolution" bottom: "p" top: "d"'
    text += "convolution_param { num_output: 2 kernel_size: 4 stride: 2 } }"
    text += 'layer { name: "c" type: "Crop" bottom: "d" bottom: "data" top: "c" crop_param { axis: 2 offset: 1 } }'
    net = Net(rows_of(tmp_path, text))
    assert net.multiple == 1
    assert net(torch.zeros(1, 3, 13, 10)).shape == (1, 2, 13, 10)


def test_two_branches_joined_before_each_pooling(tmp_path):
    """A FuseNet of one level, as Caffe's users wrote it; computed by hand from the same weights."""
    text = """
    layer { name: "rgb" type: "Input" top: "rgb" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    layer { name: "depth" type: "Input" top: "depth" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
    """
    text += unit("conv1_1", "rgb", 4) + unit("conv1_1_d", "depth", 4)
    text += 'layer { name: "conv1_1_d_relu" type: "ReLU" bottom: "conv1_1_d" top: "conv1_1_d" }'
    text += 'layer { name: "fuse1" type: "Eltwise" bottom: "conv1_1" bottom: "conv1_1_d" top: "fuse1" }'
    text += 'layer { name: "pool1" type: "Pooling" bottom: "fuse1" top: "pool1" top: "pool1_mask"'
    text += "pooling_param { kernel_size: 2 stride: 2 } }"
    text += 'layer { name: "up" type: "Upsample" bottom: "pool1" bottom: "pool1_mask" top: "up" }' + CONV % (
        "out",
        "up",
        "out",
        5,
    )
    net = nets.build(str(written(tmp_path, text)), {"irrg": 3, "dsm": 1}, 5).eval()
    rgb, depth = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)

    def block(x, layer):
        x = F.conv2d(x, layer.weight, layer.bias, padding=1)
        return F.batch_norm(x, layer.bn.running_mean, layer.bn.running_var, layer.bn.weight, layer.bn.bias).relu()

    fused = block(rgb, net.conv1_1) + block(depth, net.conv1_1_d)
    pooled, indices = F.max_pool2d(fused, 2, 2, return_indices=True)
    wanted = F.conv2d(F.max_unpool2d(pooled, indices, 2), net.out.weight, net.out.bias, padding=1)
    np.testing.assert_allclose(net(rgb, depth).detach(), wanted.detach(), rtol=0, atol=1e-6)
    assert len(net.rows) == 8  # two inputs, two units, fuse1, pool1, up, out: nothing was left over


def test_branches_of_tables_are_written_under_their_prefix(tmp_path):
    two = branch("x_", [conv("c", "a", 4), conv("d", "c", 4)])
    again = rows_of(tmp_path, write_prototxt(Net([data("a", 3), *two, score("s", "x_d", 2)])))
    assert [(r.name, r.reads) for r in again] == [("a", ()), ("x_c", ("a",)), ("x_d", ("x_c",)), ("s", ("x_d",))]
