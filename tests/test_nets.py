"""Proves the engine: any valid table builds, runs, is printed, rebuilt and fused; any slip in one is named; blobs are gone
after their last reader; and one table serves eager, compiled, exported, deterministic, bf16 and channels_last runs alike."""

import runpy
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import nets
from nets.caffe.norms import batch_norm
from nets.layers import KINDS, branch, concat, conv, data, dropout, eltwise, mean, pool, relu, resize, score, unpool
from nets.net import Net, count_parameters
from tools.base.errors import UserError

PLANES = (4, 4, 6, 6, 8)
HEIGHT, WIDTH = 16, 24  # of the images for random tables: multiples of 8


# ---------------------------------------------------------------------------------------------------------- random tables


@st.composite
def tables(draw):
    """A valid table of 2 to 12 layers: (rows, channels of the input, classes)."""
    channels = draw(st.integers(1, 4))
    rows, blobs, masks = [data("data", channels)], {"data": (channels, 0)}, {}  # blob -> (channels, poolings above it)
    for number in range(draw(st.integers(1, 10))):
        name = f"layer{number}"
        x = draw(st.sampled_from(sorted(blobs)))
        planes, level = blobs[x]
        alike = sorted(b for b, known in blobs.items() if known == blobs[x])
        level_with = sorted(b for b, known in blobs.items() if known[1] == level)
        fitting = sorted(m for m, known in masks.items() if known == blobs[x])
        kinds = ["conv", "dropout", "eltwise", "mean", "concat", "resize"]
        kinds += ["pool"] * (level < 3) + ["unpool"] * bool(fitting)
        kind = draw(st.sampled_from(kinds))
        if kind == "conv":
            planes, options = draw(st.integers(1, 5)), draw(st.fixed_dictionaries({}, optional={
                "kernel": st.sampled_from([1, 3, 5]), "dilation": st.integers(1, 2), "norm": st.booleans(),
                "relu": st.booleans(), "bias": st.booleans(),
            }))  # fmt: skip
            row = conv(name, x, planes, **options)
        elif kind == "pool":
            row, level = pool(name, x), level + 1
            masks[f"{name}_mask"] = (planes, level)
        elif kind == "unpool":
            row, level = unpool(name, x, draw(st.sampled_from(fitting))), level - 1
        elif kind == "resize":
            like = draw(st.sampled_from(sorted(blobs)))
            row, level = resize(name, x, like), blobs[like][1]
        elif kind == "concat":
            others = draw(st.lists(st.sampled_from(level_with), min_size=1, max_size=3))
            row, planes = concat(name, *others), sum(blobs[b][0] for b in others)
        elif kind == "dropout":
            row = dropout(name, x, 0.5)
        else:
            others = draw(st.lists(st.sampled_from(alike), min_size=2, max_size=3))
            row = {"eltwise": eltwise, "mean": mean}[kind](name, *others)
        rows.append(row)
        blobs[name] = (planes, level)
    classes = draw(st.integers(1, 4))
    return [*rows, score("score", draw(st.sampled_from(sorted(blobs))), classes)], channels, classes


quickly = settings(max_examples=40)


@given(tables())
@quickly
def test_any_valid_table_builds_runs_trains_and_knows_its_blobs(table):
    rows, channels, classes = table
    net = Net(rows)
    image = torch.randn(2, channels, HEIGHT, WIDTH)
    logits = net(image)
    stride = net.blobs["score"].stride
    assert logits.shape == (2, classes, HEIGHT / stride, WIDTH / stride)
    logits.sum().backward()
    assert 8 % net.multiple == 0
    assert count_parameters(net) == sum(row[4] for row in net.table())


@given(tables())
@settings(quickly, max_examples=20)
def test_any_valid_table_is_the_same_net_once_rebuilt_and_once_fused(table):
    rows, channels, _ = table
    torch.manual_seed(7)
    net, image = Net(rows), torch.randn(2, channels, HEIGHT, WIDTH)
    net(image)  # running statistics
    again = nets.rebuild(nets.describe(net))
    again.load_state_dict(net.state_dict())
    assert repr(again) == repr(net)
    with torch.no_grad():
        wanted = net.eval()(image)
        torch.testing.assert_close(again.eval()(image), wanted)
        fused = net.fuse()
        assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
        torch.testing.assert_close(fused(image), wanted, rtol=1e-5, atol=1e-5 * max(1, wanted.abs().max().item()))


@given(tables(), st.data())
@quickly
def test_any_typo_in_what_a_layer_reads_is_named_with_its_layer(table, choice):
    rows = list(table[0])
    place = choice.draw(st.integers(1, len(rows) - 1))
    row = rows[place]
    letter = choice.draw(st.integers(0, len(row.reads[0]) - 1))
    typo = row.reads[0][:letter] + "x" + row.reads[0][letter + 1 :]
    assume(typo not in row.reads)
    rows[place] = replace(row, reads=(typo, *row.reads[1:]))
    with pytest.raises(UserError) as error:
        Net(rows)
    assert f"layer '{row.name}' reads '{typo}', but no layer above it writes '{typo}'" in str(error.value)
    assert "Blobs so far: data" in str(error.value)


@given(tables(), st.data())
@quickly
def test_a_layer_that_stands_above_what_it_reads_is_named(table, choice):
    rows = list(table[0])
    place = choice.draw(st.integers(1, len(rows) - 1))
    writers = {row.name: i for i, row in enumerate(rows)} | {f"{row.name}_mask": i for i, row in enumerate(rows)}
    late = max(writers[name] for name in rows[place].reads)
    rows.insert(late, rows.pop(place))
    with pytest.raises(UserError, match=rf"layer '{rows[late].name}' reads"):
        Net(rows)


@given(st.sampled_from(["conv", "pool", "eltwise", "resize"]), st.text("abcdefg_", min_size=3, max_size=8))
@quickly
def test_an_option_that_a_kind_does_not_have_is_named(kind, option):
    write, reads = {"conv": (conv, 1), "pool": (pool, 1), "eltwise": (eltwise, 2), "resize": (resize, 2)}[kind]
    with pytest.raises(UserError, match=f"layer 'a': {kind} has no option '{option}'"):
        write("a", *["data"] * reads, **{option: 1})


# ------------------------------------------------------------------------------------------------------- slips in a table


def test_a_name_that_stands_twice_is_named():
    with pytest.raises(UserError, match="layer 'a' stands in the table twice"):
        Net([data("data", 3), conv("a", "data", 4), conv("a", "a", 4)])


def test_a_table_without_input_is_refused():
    with pytest.raises(UserError, match="no input: begin it with data"):
        Net([])


@pytest.mark.parametrize("name", ["conv1.1", "forward", "rows"])
def test_a_layer_cannot_take_a_name_that_pytorch_needs(name):
    with pytest.raises(UserError, match=f"cannot be called '{name}'"):
        Net([data("data", 3), conv(name, "data", 4)])


def test_a_layer_that_does_not_fit_what_it_reads_is_named():
    rows = [data("data", 3), conv("a", "data", 4), pool("p", "a"), conv("b", "p", 5), unpool("u", "b", "p_mask")]
    with pytest.raises(UserError, match="layer 'u': it unpools 5 planes by a mask of 4"):
        Net(rows)


def test_a_row_that_lacks_an_argument_says_how_it_is_written():
    with pytest.raises(UserError, match=r'layer \'a\': unpool is written unpool\("name", "x it reads", "mask it reads"\)'):
        unpool("a", "b")


def test_images_that_do_not_fit_are_told_what_would():
    net = nets.build("segnet", {"irrg": 3}, 6, planes=PLANES)
    with pytest.raises(UserError, match="input 'data' has 4 channels, the net reads 3"):
        net(torch.randn(1, 4, 32, 32))
    with pytest.raises(UserError, match=r"100x64 pixels.*multiples of 32 \(the nearest: 96x64\)"):
        net(torch.randn(1, 3, 100, 64))
    with pytest.raises(UserError, match=r"reads 1 inputs \(data\), not 2"):
        net(torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32))


def test_a_batch_of_one_image_cannot_train_a_net_that_pools_the_whole_image():
    net = nets.build("deeplabv3plus/mobilenetv2", {"irrg": 3}, 6)
    with pytest.raises(UserError, match="BATCH_SIZE to 2 or more"):
        net(torch.randn(1, 3, 64, 64))


def test_a_branch_renames_its_own_blobs_and_their_masks_and_nothing_else():
    rows = branch("dsm_", [conv("a", "dsm", 4), pool("p", "a"), unpool("u", "p", "p_mask")])
    assert [(row.name, row.reads) for row in rows] == [
        ("dsm_a", ("dsm",)), ("dsm_p", ("dsm_a",)), ("dsm_u", ("dsm_p", "dsm_p_mask"))
    ]  # fmt: skip


@pytest.mark.parametrize("size", [10**6, 10**10, 10**30, -1])
def test_a_layer_that_no_memory_can_hold_is_refused_before_memory_is_asked_for(size):
    with pytest.raises(UserError, match=r"layer 'c'.*(this machine has|cannot be made)"):
        Net([data("data", 3), conv("a", "data", 4096), conv("c", "a", size)])


@pytest.mark.parametrize("options", [{"planes": (4, 4, 4, 4)}, {"planes": 16}, {"planes": 16.5}, {"planes": None}])
def test_wrong_values_of_a_nets_options_are_named(options):
    with pytest.raises(UserError, match="the net segnet cannot be made with"):
        nets.build("segnet", {"irrg": 3}, 6, **options)


def test_an_option_that_the_library_would_stumble_over_when_the_net_runs_is_refused_when_it_is_made():
    with pytest.raises(UserError, match="corners = 5: it must be True or False"):
        nets.build("deeplabv3plus/vgg16", {"irrg": 3}, 6, corners=5)


def test_a_table_of_a_newer_kind_is_refused_when_rebuilt():
    with pytest.raises(UserError, match="unknown kind 'warp'"):
        nets.rebuild('{"table": [{"kind": "warp", "name": "a"}]}')


# ----------------------------------------------------------------------------------------------------------------- blobs


def test_each_blob_is_gone_before_the_layer_after_its_last_reader_runs():
    net = nets.build("fusenet", {"irrg": 3, "dsm": 1}, 6, planes=PLANES).eval()
    place = {row.name: i for i, row in enumerate(net.rows)}
    last = {}
    for row in net.rows:
        for name in [*row.reads, *net.writes[row.name]]:
            last[name] = place[row.name]
    alive, checked = {}, []

    def look(module, args, name):
        late = [blob for blob, reference in alive.items() if last[blob] < place[name] and reference() is not None]
        assert not late, (name, late)
        checked.append(name)

    def note(module, args, out, name):
        blobs = out if isinstance(out, tuple) else (out,)
        alive.update((blob, weakref.ref(value)) for blob, value in zip(net.writes[name], blobs, strict=True))

    for row in net.rows:
        if row.kind != "data":
            module = getattr(net, row.name)
            module.register_forward_pre_hook(lambda m, a, name=row.name: look(m, a, name))
            module.register_forward_hook(lambda m, a, o, name=row.name: note(m, a, o, name))
    with torch.no_grad():
        logits = net(torch.randn(1, 3, 32, 32), torch.randn(1, 1, 32, 32))
    assert len(checked) == len(net.rows) - 2
    assert [blob for blob, reference in alive.items() if reference() is not None] == [net.output]
    assert logits.shape == (1, 6, 32, 32)


def test_unpooling_gives_the_values_of_pytorchs_max_unpool():
    x = torch.randn(2, 5, 8, 12)
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    net = Net([data("data", 5), pool("p", "data"), unpool("u", "p", "p_mask")])
    torch.testing.assert_close(net(x), F.max_unpool2d(values, indices, 2), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------- one table, many engines


def example(name):
    """A small net with running statistics, and images for it."""
    torch.manual_seed(8)
    inputs = nets.example_inputs(name)
    net = nets.build(name, inputs, 6, **({} if "/" in name else {"planes": PLANES}))
    images = [torch.randn(2, 3, 64, 96) for _ in inputs]
    net(*images)
    return net.eval(), images


ENGINES = [
    "segnet",
    "segnet_multikernel",
    "segnet_rc",
    "fusenet",
    "fusenet_sum",
    "vfusenet",
    "unet",
    "deeplabv3plus/mobilenetv2",
]


@pytest.mark.parametrize("name", ENGINES)
@torch.no_grad()
def test_fused_nets_label_as_before_with_no_batch_norm_left(name):
    net, images = example(name)
    fused, wanted = net.fuse(), net(*images)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(*images), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    again = nets.rebuild(nets.describe(fused)).eval()
    again.load_state_dict(fused.state_dict())
    torch.testing.assert_close(again(*images), fused(*images))


@torch.no_grad()
def test_fusing_leaves_the_net_as_it_is_and_folds_caffes_separate_batch_norms():
    rows = [
        data("data", 3),
        conv("a", "data", 4, norm=False, relu=False, bias=False),
        batch_norm("a_bn", "a"),
        relu("a_relu", "a_bn"),
    ]
    rows += [conv("b", "a_relu", 4, norm=False, relu=False), batch_norm("b_bn", "b"), eltwise("sum", "b", "b_bn")]
    net = Net([*rows, score("score", "sum", 2)])
    image = torch.randn(4, 3, 16, 16)
    net(image)
    net.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fused = net.fuse()
    assert [row.name for row in fused.rows] == ["data", "a", "a_relu", "b", "b_bn", "sum", "score"]  # b is read twice
    torch.testing.assert_close(fused(image), net(image), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n != "segnet" else ()) for n in ENGINES])
@torch.no_grad()
def test_nets_are_one_graph_for_torch_compile(name):
    net, images = example(name)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*images), net(*images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_inductor_gives_the_values_of_the_eager_net():
    net, images = example("segnet")
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(compiled(*images), net(*images), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_net_trains_with_the_gradients_of_the_eager_one():
    net, images = example("segnet")
    net.train()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (net, compiled):
        net.zero_grad()
        F.cross_entropy(run(*images), torch.ones(2, 64, 96, dtype=torch.long)).backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("segnet_rc", "fusenet")), "unet"])
@torch.no_grad()
def test_nets_are_exported_once_for_all_batches_heights_and_widths(name):
    net, images = example(name)
    batch, height, width = (torch.export.Dim(n, min=2, max=32) for n in ("batch", "height", "width"))
    shape = {0: batch, 2: net.multiple * height, 3: net.multiple * width}
    program = torch.export.export(net, tuple(images), dynamic_shapes={"images": tuple(shape for _ in images)})
    other = [torch.randn(3, 3, 128, 64) for _ in images]
    torch.testing.assert_close(program.module()(*other), net(*other))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vgg16", "mobilenetv2", "resnet50"])
@torch.no_grad()
def test_deeplab_is_exported_for_sizes_that_are_multiples_of_nothing(backbone):
    net, images = example(f"deeplabv3plus/{backbone}")
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(net, tuple(images), dynamic_shapes={"images": (free,)})
    other = torch.randn(3, 3, 71, 90)
    torch.testing.assert_close(program.module()(other), net(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_nets_train_in_deterministic_mode_to_the_same_bits(name):
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            net, images = example(name)
            torch.manual_seed(9)
            net.train()(*images).square().mean().backward()
            gradients.append([p.grad for p in net.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", ENGINES)
@torch.no_grad()
def test_channels_last_gives_the_same_values_and_bf16_nearly_so(name):
    net, images = example(name)
    wanted = net(*images)
    net = net.to(memory_format=torch.channels_last)
    images = [image.contiguous(memory_format=torch.channels_last) for image in images]
    torch.testing.assert_close(net(*images), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        rough = net.fuse()(*images).float()
    assert (rough - wanted).abs().median() < 0.1 * wanted.std()  # not the mean: where bf16 ties, a maximum moves


# --------------------------------------------------------------------------------------------------------- command lines


@pytest.mark.filterwarnings("ignore:'nets.*' found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", nets.names())
def test_each_file_prints_its_table_when_run(name, capsys):
    runpy.run_module(f"nets.{name}", run_name="__main__")
    out = capsys.readouterr().out
    assert out.startswith("layer") and "learnable values" in out


@pytest.mark.slow
def test_python_m_nets_lists_all_that_the_config_can_name():
    ran = subprocess.run([sys.executable, "-m", "nets", "--libraries"], capture_output=True, text=True, check=True)
    words = ran.stdout.split()
    assert {*nets.names_with_backbones(), "torchvision:fcn_resnet50", "smp:UnetPlusPlus/resnet34", "58,964,742"} <= set(words)
    assert ran.stderr == ""


def test_files_that_are_no_nets_are_no_names():
    assert not {"layers", "net", "caffe_layers", "backbones", "libraries", "fusion", "prototxt"} & set(nets.names())
    assert {"segnet", "fusenet", "deeplabv3plus"} <= set(nets.names())


def test_kinds_that_tables_use_are_known_by_name():
    assert {"conv", "pool", "unpool", "resize", "eltwise", "concat", "dropout", "deconv", "pooling", "relu6"} <= set(KINDS)
