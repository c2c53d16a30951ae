"""Proves on a real GPU what elsewhere is only said of one: precisions, copies, memory, order, one rank of NCCL, resuming.

Skipped where there is none; `python -m benchmarks.gpu` runs these tests before it measures. Those marked mps are for Apple's.
"""

import os
import socket

import numpy as np
import pytest
import torch
from torch import nn

import nets
from nets.layers import conv, data, pool, score, unpool
from nets.net import Net
from tools.base.errors import UserError
from tools.compute import compilation, device
from tools.compute.distributed import Ranks
from tools.data.inputs import Input
from tools.inference.forward import Forward
from tools.solver.solver import Solver
from tools.training.trainer import Trainer

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="there is none of Apple's GPUs")
INPUTS = [Input("image", ("image",), (3,), False, (100.0, 110.0, 90.0))]
RATE, ADAMW = 1e-3, {"name": "adamw", "weight_decay": 0.01}
ROWS = [
    data("image", 3), conv("a", "image", 16), pool("p", "a"), conv("b", "p", 32), conv("c", "b", 16),
    unpool("u", "c", "p_mask"), score("s", "u", 5),
]  # fmt: skip


def learner(where, seed=0, ranks=None, wrap=None, net=None):
    """A trainer of a small net on a device."""
    torch.manual_seed(seed)
    net = where.place(net or Net(ROWS))
    ranks = ranks or Ranks()
    forward = ranks.parallel(net, wrap(net) if wrap else net, where.device)
    return Trainer(net, Solver(net, RATE, {"name": "fixed"}, ADAMW), INPUTS, [], where, ranks=ranks, forward=forward)


def batch(seed=1, count=8, side=64):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (count, 3, side, side), np.uint8)
    return [torch.from_numpy(images)], torch.from_numpy((images.astype(int).sum(1) // 154).clip(0, 4).astype(np.uint8))


def learn(trainer, iterations=5):
    """The losses of some iterations."""
    for i in range(iterations):
        trainer.step(*batch(i))
    trainer.fetch_losses()
    return torch.tensor(trainer.losses)


def labels(where, net, pixels):
    forward = Forward(where.place(net).eval(), INPUTS, where, None, tuple(pixels[0].shape[2:]))
    with torch.inference_mode(), where.autocast():
        return forward([where.stage(x) for x in pixels]).cpu()


# ------------------------------------------------------------------------------------------------------------ NVIDIA's GPUs


@pytest.mark.cuda
@cuda
def test_a_gpu_is_chosen_by_itself_and_computes_in_bf16_where_it_was_made_for_it():
    found = device.choose()
    assert found.device.type == "cuda"
    assert found.bf16 == (torch.cuda.get_device_capability()[0] >= 8)
    assert torch.cuda.get_device_name() in str(found)


@pytest.mark.cuda
@cuda
def test_fp32_multiplies_with_all_bits_and_tf32_with_ten():
    a, b = (torch.randn(512, 512, device="cuda", generator=torch.Generator("cuda").manual_seed(s)) for s in (1, 2))
    exact, error = a.double() @ b.double(), {}
    for precision in ("fp32", "tf32"):
        device.choose("cuda", precision)
        error[precision] = float((a @ b - exact).abs().max() / exact.abs().max())
    device.choose("cuda", "fp32")
    assert error["fp32"] < 1e-5
    if torch.cuda.get_device_capability()[0] >= 8:
        assert 1e-5 < error["tf32"] < 1e-2


@pytest.mark.cuda
@cuda
def test_a_gpu_learns_in_fp32_what_the_processor_learns():
    on_gpu, on_cpu = (learn(learner(device.choose(name, "fp32"))) for name in ("cuda", "cpu"))
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=0)


@pytest.mark.cuda
@cuda
def test_autocast_learns_nearly_the_same_and_keeps_weights_and_losses_in_fp32():
    exact, fast = learner(device.choose("cuda", "fp32")), learner(device.choose("cuda", "bf16"))
    torch.testing.assert_close(learn(fast), learn(exact), rtol=0.05, atol=0)
    assert {p.dtype for p in fast.net.parameters()} == {torch.float32}


@pytest.mark.cuda
@cuda
def test_bf16_has_its_pixels_last():
    where = device.choose("cuda", "bf16")
    net = where.place(Net(ROWS))
    assert net.b.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.cuda
@cuda
def test_copies_there_come_from_pinned_memory_and_those_back_arrive_whole():
    where = device.choose("cuda")
    pixels = where.stage(torch.arange(3 * 2**20, dtype=torch.uint8).view(1, 3, 1024, 1024))
    assert pixels.is_pinned()
    there = where.send(pixels)
    assert there.dtype == torch.uint8
    assert np.array_equal(where.fetch(there)(), pixels.numpy())


@pytest.mark.cuda
@cuda
def test_as_many_windows_go_together_as_fit_and_labels_are_those_of_the_processor():
    torch.manual_seed(3)
    net, (pixels, _) = Net(ROWS), batch(5, 12)
    forward = Forward(device.choose("cuda").place(net).eval(), INPUTS, device.choose("cuda"), None, (64, 64))
    assert 1 < forward.batch <= 256
    on_gpu = labels(device.choose("cuda", "fp32"), net, pixels)
    on_cpu = labels(device.choose("cpu", "fp32"), net, pixels)
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)


@pytest.mark.cuda
@cuda
def test_a_batch_that_does_not_fit_is_a_sentence_that_says_what_does():
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.5 * 2**30 / torch.cuda.get_device_properties(0).total_memory))
    try:
        with pytest.raises(UserError, match="is too small for BATCH_SIZE = 64: set BATCH_SIZE = 32 and ITER_SIZE = 2"):
            learner(device.choose("cuda")).step(*batch(1, 64, 512))
        forward = Forward(learner(device.choose("cuda")).net.eval(), INPUTS, device.choose("cuda"), 256, (512, 512))
        with (
            pytest.raises(UserError, match="TEST_BATCH_SIZE = 256 windows of 512x512 pixels do not fit"),
            torch.inference_mode(),
        ):
            forward(batch(1, 256, 512)[0])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.cuda
@cuda
def test_deterministic_runs_give_the_same_bits():
    try:
        device.be_deterministic()
        found = []
        for _ in range(2):
            trainer = learner(device.choose("cuda"))
            found.append((learn(trainer), [p.detach().cpu() for p in trainer.net.parameters()]))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.cuda
@cuda
def test_a_restored_run_goes_on_as_if_nothing_had_happened():
    try:
        device.be_deterministic()
        whole, first, second = (learner(device.choose("cuda"), seed) for seed in (0, 0, 7))
        expected = learn(whole, 6)
        learn(first, 3)
        state = first.state()
        second.net.load_state_dict(first.net.state_dict())
        second.restore(state)
        for i in range(3, 6):
            second.step(*batch(i))
        second.fetch_losses()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(torch.tensor(second.losses), expected)


@pytest.mark.cuda
@cuda
def test_the_compiled_net_learns_the_same():
    where = device.choose("cuda", "fp32")
    compiled = learn(learner(where, wrap=lambda net: compilation.compiled(net, where.device)))
    torch.testing.assert_close(compiled, learn(learner(where)), rtol=1e-3, atol=0)


@pytest.mark.cuda
@cuda
@pytest.mark.skipif(not torch.distributed.is_nccl_available(), reason="this PyTorch has no NCCL")
def test_one_rank_of_nccl_learns_what_no_rank_does(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}.items():
        monkeypatch.setitem(os.environ, name, str(value))
    where = device.choose("cuda", "fp32")
    torch.distributed.init_process_group("nccl")
    try:
        net = where.place(Net(ROWS))
        wrapped = nn.parallel.DistributedDataParallel(net, [0])
        value = torch.ones(3, device="cuda")
        torch.distributed.all_reduce(value)
        wrapped(torch.randn(2, 3, 64, 64, device="cuda")).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert value.tolist() == [1, 1, 1]
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.cuda
@cuda
def test_batch_norms_of_a_library_s_net_are_folded_on_the_gpu_too():
    net = nets.build("smp:Unet/resnet18", {"image": 3}, 5).cuda()
    less, image = net.fuse(), torch.randn(1, 3, 64, 64, device="cuda")
    assert not [m for m in less.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        torch.testing.assert_close(less(image), net.eval()(image), rtol=1e-3, atol=1e-4)


# -------------------------------------------------------------------------------------------------------------- Apple's GPUs


def test_apple_s_gpu_is_chosen_by_itself_where_there_is_no_other_and_computes_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # there is none here, perhaps
    found = device.choose()
    assert (found.device.type, found.bf16, found.tf32) == ("mps", False, False)
    assert Ranks(1, 2, 1).device(None) == "cpu"


@pytest.mark.mps
@mps
def test_apple_s_gpu_learns_and_labels_what_the_processor_does():
    on_gpu, on_cpu = (learner(device.choose(name, "fp32")) for name in ("mps", "cpu"))
    torch.testing.assert_close(learn(on_gpu), learn(on_cpu), rtol=1e-3, atol=0)
    pixels = batch(9)[0]
    found, expected = (labels(where.device, where.net, pixels) for where in (on_gpu, on_cpu))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
