"""Proves that precision and determinism are what the command line asks for, and that a lack of memory, numbers that are not
finite and operations without a fixed order are told in one sentence, with what to do."""

import contextlib
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import names, refused, train
from torch import nn
from torch.nn import functional as F
from torch.utils.data import default_collate

import nets
from tools.compute import compilation, device
from tools.compute.device import Device, memory_suffices, told_if_not_deterministic
from tools.compute.distributed import Ranks
from tools.data.inputs import Input
from tools.data.loader import stacked, workers_for
from tools.solver.losses import LOSSES, NO_LOSS
from tools.solver.solver import Solver
from tools.training.trainer import NotFiniteError, Trainer
from tools.weights import snapshots

CPU = Device(torch.device("cpu"), False)
INPUTS = [Input("image", ("image",), (2,), False, (0.0, 0.0))]


@pytest.fixture
def own(databases, tmp_path, without_pictures):
    """A town with databases, to be spoilt, without validation to be quick."""
    town = databases.copy(tmp_path / "own", "lmdb")
    town.changes = {"val_ids": []}
    return town


@pytest.fixture
def deterministic():
    """Whatever a test switches on is off after it."""
    yield
    torch.use_deterministic_algorithms(False)


# ------------------------------------------------------------------------------------------------------------- precision


def test_fp32_and_bf16_are_what_was_asked_for_and_auto_is_what_the_processor_is_made_for(monkeypatch):
    for has_bf16 in (True, False):
        monkeypatch.setattr(device, "_cpu_has_bf16", lambda has_bf16=has_bf16: has_bf16)
        assert [device.choose("cpu", p).bf16 for p in ("auto", "bf16", "fp32")] == [has_bf16, True, False]


def test_tf32_is_refused_where_there_is_none(own):
    refused(train(own, 1, "--precision", "tf32"), "--precision tf32 is for CUDA, not for cpu")


@pytest.mark.parametrize(("precision", "bf16", "tf32"), [("auto", True, None), ("tf32", False, True), ("fp32", False, False)])
def test_precision_on_cuda_sets_both_of_pytorchs_switches(monkeypatch, precision, bf16, tf32):
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # there is no GPU here
    monkeypatch.setattr(device, "_gpu_has_bf16", lambda _: True)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        found = device.choose("cuda:0", precision)
        expected = before if tf32 is None else (tf32, tf32)
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == expected
        assert (found.bf16, found.tf32) == (bf16, bool(tf32))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(("major", "bf16"), [(7, False), (8, True), (9, True)])
def test_auto_is_bf16_on_gpus_that_have_it_in_hardware_alone(monkeypatch, major, bf16):
    """Older ones pass PyTorch's plain question, as they can emulate it."""
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # there is no GPU here
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert device.choose("cuda:0").bf16 == bf16
    assert device.choose("cuda:0", "bf16").bf16


def test_the_precision_is_that_of_the_convolutions(own, monkeypatch):
    seen = set()

    def watched(self, *images, forward=nets.net.Net.forward):
        logits = forward(self, *images)
        if not logits.is_meta:  # a trial of sizes
            seen.add(logits.dtype)
        return logits

    monkeypatch.setattr(nets.net.Net, "forward", watched)
    for precision, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        seen.clear()
        ran = train(own, 1, "--precision", precision, "--overwrite")
        assert ran.code == 0, ran.err
        assert seen == {kind}
        assert f"on cpu in {precision}" in ran.out


# ----------------------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("name", ["segnet_slim", "unet", "deeplabv3plus/mobilenetv2", "fusenet_sum"])
def test_nets_and_losses_pass_a_step_in_deterministic_mode(deterministic, name):
    device.be_deterministic()
    torch.manual_seed(0)
    net = nets.build(name, nets.example_inputs(name), 4)
    logits = net(*[torch.randn(2, 3, 64, 32) for _ in net.inputs]).float()
    target = torch.randint(0, 4, (2, 64, 32))
    target[:, :9] = NO_LOSS
    sum(loss(logits, target, None) for loss in LOSSES.values()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_cross_entropy_is_the_same_number_in_deterministic_mode(deterministic):
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    usual = LOSSES["ce"](logits, target, None)
    device.be_deterministic()
    torch.testing.assert_close(LOSSES["ce"](logits, target, None), usual)


@pytest.mark.parametrize("words", [[], ["--deterministic"]])
def test_two_runs_give_the_same_weights_to_the_bit(own, deterministic, words):
    found = []
    for _ in range(2):
        torch.seed()  # another process would begin with another random state
        ran = train(own, 3, "--overwrite", *words, WORKERS=0)
        assert ran.code == 0, ran.err
        found.append(snapshots.read_weights(own.snapshots / "net_iter_3.safetensors")[0])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[1])
    assert torch.are_deterministic_algorithms_enabled() == bool(words)


def test_an_operation_without_a_fixed_order_is_named(own, deterministic, monkeypatch):
    class Odd(nn.Module):
        def forward(self, x, mask):
            size = (2 * x.shape[2], 2 * x.shape[3])
            return F.max_unpool2d(x, mask % (size[0] * size[1]), 2, 2, output_size=size)

    monkeypatch.setattr("nets.layers.Unpool", Odd)
    ran = train(own, 1, "--deterministic")
    refused(ran, "--deterministic: the net or its loss needs 'max_unpooling2d_forward_out'", "leave --deterministic out")
    with pytest.raises(RuntimeError, match="something else"), told_if_not_deterministic():
        raise RuntimeError("something else")


# ---------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_names_the_batch_size_and_smaller_ones_that_learn_the_same(own, monkeypatch, error):
    def too_large(self, *images):
        raise error

    monkeypatch.setattr(nets.net.Net, "forward", too_large)
    ran = train(own, 1, BATCH_SIZE=10)
    refused(ran, "the memory of cpu is too small for BATCH_SIZE = 10: set BATCH_SIZE = 5 and ITER_SIZE = 2, which")


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="sizes differ"), memory_suffices("no"):
        raise RuntimeError("sizes differ")


@pytest.mark.parametrize(
    ("own_patches", "iter_size", "count", "words"),
    [
        (9, 1, 1, "BATCH_SIZE = 9: set BATCH_SIZE = 3 and ITER_SIZE = 3,"),
        (12, 3, 1, "BATCH_SIZE = 4: set BATCH_SIZE = 2 and ITER_SIZE = 6,"),
        (4, 1, 2, "BATCH_SIZE = 8: set BATCH_SIZE = 4 and ITER_SIZE = 2,"),
        (1, 1, 1, "BATCH_SIZE = 1: take smaller patches or a smaller net."),
        (1, 1, 2, "BATCH_SIZE = 2: take smaller patches or a smaller net."),
    ],
)
def test_the_smaller_batch_goes_with_accumulation_and_with_the_number_of_processes(own_patches, iter_size, count, words):
    trainer = make_trainer(Scaled(), iter_size=iter_size)
    trainer.ranks = Ranks(0, count)
    assert words in trainer._when_memory_does_not(own_patches)


# ---------------------------------------------------------------------------------------------- numbers that are not finite


class Scaled(nn.Module):
    """Logits are its weights times the first input plane."""

    classes = 4

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        return x[:, :1] * self.value.view(1, 4, 1, 1)


def make_trainer(net, rate=0.1, **options):
    solver = Solver(net, rate, {"name": "fixed"}, {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0})
    return Trainer(net, solver, INPUTS, [], CPU, **options)


def a_batch():
    return [torch.ones(1, 2, 4, 4)], torch.zeros(1, 4, 4, dtype=torch.uint8)


def test_a_loss_that_is_no_number_names_its_iteration_even_when_it_is_looked_at_later():
    trainer = make_trainer(Scaled())
    for times in (1, 1, float("nan"), 1):
        trainer.net.value.data *= times
        trainer.step(*a_batch())
    with pytest.raises(NotFiniteError, match="the loss is nan at iteration 3: training stops") as found:
        trainer.fetch_losses()
    assert found.value.iteration == 3


def test_gradients_that_are_no_numbers_are_told_although_the_loss_is_finite():
    trainer = make_trainer(Scaled())
    trainer.step(*a_batch())
    hook = trainer.net.value.register_hook(lambda gradient: gradient * float("inf"))
    trainer.step(*a_batch())
    hook.remove()
    with pytest.raises(NotFiniteError, match=r"the gradients are not finite at iteration 2 \(the loss is \d") as found:
        trainer.fetch_losses()
    assert found.value.iteration == 2


def test_weights_that_an_update_has_spoilt_are_in_no_snapshot():
    trainer = make_trainer(Scaled(), rate=3e38)
    trainer.step([a_batch()[0][0] * 10], torch.ones(1, 4, 4, dtype=torch.uint8))
    trainer.fetch_losses()  # nothing to see as yet
    with pytest.raises(NotFiniteError, match="the weights are not finite after iteration 1"):
        trainer.state()


def test_the_patches_of_the_batch_are_named(own):
    ran = train(own, 3, "--update", 1, BASE_LR=1e38)
    listed = (own.folder("lmdb") / "train.txt").read_text().split()
    refused(ran, "training stops", "Its patches: ")
    found = ran.sentence.split("Its patches: ")[1].rstrip(".").split(", ")
    assert len(found) == 4
    assert set(found) <= set(listed)
    assert not snapshots.found(own.snapshots)
    assert not [name for name in names(own.snapshots) if name.startswith("net_")]


# --------------------------------------------------------------------------------------------------------------- compiling


def test_without_a_compiler_training_goes_on_with_a_note(monkeypatch, capsys):
    def nothing(*_, **__):
        raise RuntimeError("No working C++ compiler found\nin many places")

    monkeypatch.setattr(torch, "compile", nothing)
    net = Scaled()
    assert compilation.compiled(net, CPU.device) is net
    assert "note: --compile is left out" in (found := capsys.readouterr().out) and "No working C++ compiler found)" in found


def test_caffes_average_is_not_compiled(own):
    solver = {"name": "caffe", "momentum": 0.9, "weight_decay": 0.0}
    refused(train(own, 1, "--compile", SOLVER=solver), "--compile and SOLVER 'caffe' do not go together")


@pytest.mark.slow
def test_a_compiled_net_learns_what_the_plain_one_does_and_keeps_its_names():
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        rows = [nets.layers.data("image", 2), nets.layers.conv("one", "image", 4), nets.layers.score("two", "one", 4)]
        net = nets.net.Net(rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler
            forward = compilation.compiled(net, CPU.device) if compiled else None
            assert not compiled or forward is not net
            trainer = make_trainer(net, forward=forward)
            for _ in range(3):
                labels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8) % 4
                trainer.step([torch.linspace(0, 1, 128).view(1, 2, 8, 8)], labels)
        trainer.fetch_losses()
        found.append((trainer.losses, dict(net.state_dict())))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- reading


def test_on_the_cpu_patches_are_read_by_the_training_process_unless_they_are_changed():
    assert workers_for(torch.device("cpu"), None) == 0
    assert workers_for(torch.device("cpu"), object()) == 1
    assert workers_for(torch.device("cuda"), None) == 4


def test_a_batch_is_put_together_as_pytorch_does_it():
    items = [([torch.rand(2, 3, 4), torch.rand(1, 3, 4)], torch.full((3, 4), i, dtype=torch.uint8)) for i in range(3)]
    (found, labels), (expected, expected_labels) = stacked(items), default_collate(items)
    assert all(map(torch.equal, [*found, labels], [*expected, expected_labels]))
