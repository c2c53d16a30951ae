"""Proves that two processes train as one does: the same shares, losses and weights, batch norm over the whole batch if asked,
one writer, one decision on signals; and that a process which is killed ends the others with a sentence and a snapshot."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from conftest import REPO, call, kill, names, refused, wait_for
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import nets
from nets.layers import conv, data, score
from nets.net import Net
from tools.base.errors import UserError
from tools.compute.device import Device
from tools.compute.distributed import ALONE, Ranks, from_environment, has_unused, joined
from tools.compute.signals import Signals
from tools.compute.sync_batch_norm import synchronise
from tools.data.inputs import Input
from tools.data.loader import BatchOrder
from tools.solver.losses import Loss
from tools.solver.solver import Solver
from tools.training.trainer import Trainer
from tools.weights import snapshots

CPU = Device(torch.device("cpu"), False)
INPUTS = [Input("image", ("image",), (2,), False, (100.0, 90.0))]
FIXED, SGD = {"name": "fixed"}, {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-3}


# ------------------------------------------------------------------------------------------------------------- the shares


@given(own=st.integers(1, 4), ranks=st.integers(1, 4), parts=st.integers(1, 3), start=st.integers(0, 5))
def test_the_shares_of_the_processes_are_each_batch_part_by_part(own, ranks, parts, start):
    batch = own * ranks * parts
    whole = list(BatchOrder(23, batch, 3, start, start + 4))
    shares = [list(BatchOrder(23, batch, 3, start, start + 4, None, parts, rank, ranks)) for rank in range(ranks)]
    for i, draws in enumerate(whole):
        for part in range(parts):
            found = [draw for share in shares for draw in share[i][part * own : (part + 1) * own]]
            assert found == draws[part * own * ranks : (part + 1) * own * ranks]


def test_the_records_of_an_iteration_are_those_of_all_processes():
    whole = list(BatchOrder(23, 6, 3, 0, 9))
    share = BatchOrder(23, 6, 3, 4, None, None, 1, 1, 2)
    assert [share.records(i) for i in range(9)] == [[draw.record for draw in draws] for draws in whole]


def test_a_batch_that_does_not_come_out_even_is_refused_with_its_neighbours():
    assert Ranks(1, 2).divide(10) == 5
    with pytest.raises(UserError, match=r"BATCH_SIZE = 10 cannot be shared evenly by 4 processes: set it to 8 or 12, or"):
        Ranks(0, 4).divide(10)
    with pytest.raises(UserError, match=r"by 4 processes: set it to 4, or"):
        Ranks(0, 4).divide(3)


def test_who_we_are_comes_from_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() == ALONE
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert from_environment() == Ranks(5, 8, 1)
    assert not from_environment().writer
    assert [list(Ranks(r, 3).share([10, 11, 12, 13])) for r in range(3)] == [[10, 13], [11], [12]]


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    for there, name, found in (
        (True, None, "cuda:1"), (True, "cuda", "cuda:1"), (True, "cpu", "cpu"), (True, "cuda:0", "cuda:0"),
        (False, None, "cpu"), (False, "cpu", "cpu"),  # Apple's one GPU is not shared
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert Ranks(3, 4, 1).device(name) == found
        assert ALONE.device(name) == name


# ------------------------------------------------------------------------------------------- the same numbers as one process


def tiny(norm=False):
    torch.manual_seed(0)
    net = Net([data("image", 2), conv("first", "image", 3, norm=norm), conv("second", "first", 3, norm=norm),
               score("last", "second", 4)])  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    return net


def batch(seed, count=8):
    """Images and labels; label 4 is none of the classes, and the second half of the batch has hardly any labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (count, 8, 8), np.uint8)
    for i in range(count):
        labels[i][rng.random((8, 8)) < i / (count + 1)] = 4
    return [torch.from_numpy(rng.integers(0, 255, (count, 2, 8, 8), np.uint8))], torch.from_numpy(labels)


def learn(ranks, norm, iter_size, loss, iterations=5, freeze=0):
    """Losses and weights after some iterations on this process's share of each batch."""
    net = tiny(norm)
    if norm and ranks.count > 1:
        synchronise(net)
    solver = Solver(net, 0.1, FIXED, SGD, [] if freeze == 0 else ["first"], clip=2.0, freeze_iterations=freeze)
    trainer = Trainer(net, solver, INPUTS, [3], CPU, loss, iter_size, 0.9, ranks, ranks.parallel(net, net, CPU.device))
    for i, draws in enumerate(BatchOrder(8, 8, 1, 0, iterations, None, iter_size, ranks.rank, ranks.count)):
        images, labels = batch(i)
        own = [draw.record for draw in draws]
        trainer.step([x[own] for x in images], labels[own])
    losses = trainer.state()["losses"]
    with trainer.averaged():
        ranks.adopt(net)
        averaged = {name: value.clone() for name, value in net.state_dict().items()}
    return losses, dict(net.state_dict()), averaged


def normalise(ranks, shares, **options):
    """What batch norm writes and learns from this process's share of six images of 3 planes, and its running statistics."""
    random = torch.Generator().manual_seed(2)
    x = 5 * torch.randn(6, 3, 4, 5, generator=random) + 7
    wanted = torch.randn(6, 3, 4, 5, generator=random)
    net = nn.Sequential(nn.BatchNorm2d(3, **options))
    if options.get("affine", True):
        net[0].weight.data = torch.tensor([0.5, 2.0, -1.0])
    if ranks.count > 1:
        synchronise(net)
    rows = slice(sum(shares[: ranks.rank]), sum(shares[: ranks.rank + 1]))
    x = x[rows].clone().requires_grad_()
    y = net(x)
    ((y - wanted[rows]) ** 2).sum().backward()
    return y.detach(), x.grad, [p.grad for p in net.parameters()], dict(net.state_dict())


def deep(ranks, dtype, memory, iterations=3):
    """Losses and weights of a deep net whose batch norms are over the whole batch, which magnifies what was rounded."""
    torch.manual_seed(1)
    net = nets.build("segnet", {"irrg": 3}, 4, planes=(4, 4, 4, 4, 4)).to(dtype, memory_format=memory).train()
    if ranks.count > 1:
        synchronise(net)
    forward, optimizer = ranks.parallel(net, net, CPU.device), torch.optim.SGD(net.parameters(), 0.01, 0.9)
    images, labels, losses = 50 * torch.randn(8, 3, 32, 32), torch.randint(0, 4, (8, 32, 32)), []
    own = slice(ranks.rank * 8 // ranks.count, (ranks.rank + 1) * 8 // ranks.count)
    for _ in range(iterations):
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(images[own].to(dtype, memory_format=memory)), labels[own])
        loss.backward()
        optimizer.step()
        losses.append(ranks.mean(loss.detach()))
    return torch.stack(losses), dict(net.state_dict())


NORMS = [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
LEARNED = [(False, 1, Loss()), (False, 2, Loss("ce", [1, 2, 3, 0])), (True, 1, Loss("focal"))]
LEARNED += [(True, 2, Loss(), 5, 2), (False, 1, Loss(), 5, None)]  # layers stand still at first, or for good


def everything(ranks):
    """What one process finds when it does all that needs the others."""
    found = {"learned": [learn(ranks, *case) for case in LEARNED]}
    found["in double"] = deep(ranks, torch.float64, torch.channels_last)
    found["norms"] = [normalise(ranks, (2, 4), **options) for options in NORMS]
    signals = Signals()
    signals.stop = ranks.rank == 1
    ranks.agree(signals)
    found["signals"] = signals.stop, signals.snapshot
    found["mean"] = ranks.mean(torch.tensor(3 + ranks.rank))
    torch.manual_seed(1)
    ranks.own_random_numbers(1)
    found["random"] = torch.rand(3)
    net = tiny(norm=True)
    trainer = Trainer(net, Solver(net, 0.1, FIXED, SGD), INPUTS, [], CPU, ranks=ranks)
    state = trainer.state()
    found["next"] = torch.rand(3)
    torch.manual_seed(5)
    trainer.restore(state)
    found["next again"] = torch.rand(3)
    net.first.bn.running_mean += ranks.rank + 1
    ranks.adopt(net)
    found["adopted"] = net.first.bn.running_mean
    return found


def one_of(rank, count, port, folder):
    """What a process runs."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    ranks = from_environment()
    with joined(ranks, CPU.device):
        torch.save(everything(ranks), folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of, (2, port, folder), 2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(LEARNED)))
def test_two_processes_learn_what_one_does(found, case):
    losses, weights, averaged = learn(ALONE, *LEARNED[case])
    for process in found:
        torch.testing.assert_close(process["learned"][case][0], losses, rtol=1e-6, atol=0)
        torch.testing.assert_close(process["learned"][case][1], weights, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(process["learned"][case][2], averaged, rtol=1e-4, atol=1e-5)


def test_in_double_precision_and_channels_last_two_processes_are_one_to_the_last_digits(found):
    """So what single precision differs by, after an iteration of a deep net, is rounding and nothing else."""
    losses, weights = deep(ALONE, torch.float64, torch.channels_last)
    for process in found:
        torch.testing.assert_close(process["in double"][0], losses, rtol=1e-9, atol=0)
        torch.testing.assert_close(process["in double"][1], weights, rtol=1e-6, atol=1e-9)


def test_single_precision_strays_as_far_in_either_order_of_memory():
    double, wide, last = (
        deep(ALONE, dtype, memory)[0].double()
        for dtype, memory in (
            (torch.float64, torch.contiguous_format), (torch.float32, torch.contiguous_format),
            (torch.float32, torch.channels_last),
        )
    )  # fmt: skip
    assert deep(ALONE, torch.float64, torch.channels_last)[0].sub(double).abs().max() < 1e-12
    for single in (wide, last):
        torch.testing.assert_close(single[:1], double[:1], rtol=1e-6, atol=0)
        torch.testing.assert_close(single, double, rtol=0.02, atol=0)


def test_both_processes_have_the_same_weights_to_the_bit(found):
    for first, second in zip(found[0]["learned"], found[1]["learned"], strict=True):
        assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


@pytest.mark.parametrize("case", range(len(NORMS)))
def test_synchronised_batch_norm_is_that_of_the_whole_batch_however_it_is_shared(found, case):
    y, dx, gradients, state = normalise(ALONE, (6,), **NORMS[case])
    shares = [process["norms"][case] for process in found]
    assert [len(share[0]) for share in shares] == [2, 4]
    torch.testing.assert_close(torch.cat([share[0] for share in shares]), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([share[1] for share in shares]), dx, rtol=1e-4, atol=1e-5)
    for one, *others in zip(gradients, *[share[2] for share in shares], strict=True):
        torch.testing.assert_close(sum(others), one, rtol=1e-5, atol=1e-4)
    for share in shares:
        torch.testing.assert_close(share[3], state, rtol=1e-5, atol=1e-5)


def test_a_synchronised_norm_keeps_its_names_its_class_and_its_use_in_inference():
    net, plain = tiny(norm=True), tiny(norm=True)
    synchronise(net)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert isinstance(net.first.bn, nn.BatchNorm2d)
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(net.eval()(x), plain.eval()(x))


class OddNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_norm_that_computes_in_its_own_way_is_refused():
    with pytest.raises(UserError, match="SYNC_BATCH_NORM cannot synchronise this net's OddNorm"):
        synchronise(nn.Sequential(nn.BatchNorm2d(2), OddNorm(2)))


def test_a_signal_that_one_process_heard_is_heard_by_all(found):
    assert [process["signals"] for process in found] == [(True, False)] * 2


def test_a_signal_that_comes_after_the_processes_agreed_waits_until_they_agree_again(monkeypatch):
    """One that obeyed it alone, as while it writes a snapshot, would leave the others waiting for it."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: None)  # the others hear nothing
    with Signals() as signals:
        Ranks(0, 2).agree(signals)
        signal.raise_signal(signal.SIGHUP)
        assert not signals.snapshot
        Ranks(0, 2).agree(signals)
        assert (signals.stop, signals.snapshot) == (False, True)
        signals.snapshot = False  # as the loop does
        Ranks(0, 2).agree(signals)
        assert not signals.snapshot
        signal.raise_signal(signal.SIGTERM)
        assert not signals.stop
        Ranks(0, 2).agree(signals)
        assert signals.stop


def test_a_single_process_obeys_a_signal_at_once():
    with Signals() as signals:
        ALONE.agree(signals)
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop


def test_means_are_over_the_processes(found):
    assert [process["mean"].item() for process in found] == [3.5, 3.5]


def test_each_process_has_its_own_random_numbers_and_has_them_again_when_restored(found):
    torch.manual_seed(1)
    assert torch.equal(found[0]["random"], torch.rand(3))  # as one process would
    assert not torch.equal(found[0]["random"], found[1]["random"])
    for process in found:
        assert torch.equal(process["next"], process["next again"])


def test_before_validation_all_take_the_statistics_of_the_first(found):
    assert torch.equal(found[0]["adopted"], found[1]["adopted"])


def test_parameters_that_the_output_does_not_need_are_found():
    net = tiny()
    assert not has_unused(net)
    net.spare = nn.Linear(2, 2)
    assert has_unused(net)
    net.spare.requires_grad_(False)
    assert not has_unused(net)


# ------------------------------------------------------------------------------------------------- the script under torchrun


@contextlib.contextmanager
def torchrun(town, niter, *words, **changes):
    """training.py in two processes on this machine; at the end of the block they are killed, if they still run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", REPO / "training.py"]
    config = town.config(**SAME | changes)
    command += ["--niter", niter, "--device", "cpu", "--precision", "fp32", "--config", config, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*map(str, command)], env=environment, start_new_session=True, **streams) as process:
        try:
            yield process
        finally:
            for pid in workers_of(process.pid) if process.poll() is None else []:
                os.killpg(pid, signal.SIGKILL)  # torchrun gives each a session of its own
            kill(process)


SAME = {"SYNC_BATCH_NORM": True, "BATCH_SIZE": 8, "ITER_SIZE": 1, "BASE_LR": 0.01, "VAL_EVERY": 4}


def workers_of(torchrun):
    """The process ids of the ranks that torchrun started, in their order."""
    return [int(pid) for pid in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()]


def in_two(town, niter, *words, **changes):
    """A finished run under torchrun: what it printed."""
    with torchrun(town, niter, *words, **changes) as process:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    return out, err


def state_of(town, iteration):
    return snapshots.load_state(town.snapshots / f"net_iter_{iteration}.solverstate")


def weights_of(town, iteration):
    return snapshots.read_weights(town.snapshots / f"net_iter_{iteration}.safetensors")[0]


@pytest.mark.slow
def test_torchrun_gives_the_curve_of_one_process_and_goes_on_exactly_from_a_snapshot(databases, tmp_path):
    one, two, parts = (databases.copy(tmp_path / name, "lmdb") for name in ("one", "two", "parts"))
    ran = call("training", "--niter", 8, "--device", "cpu", "--precision", "fp32", "--config", one.config(**SAME))
    assert ran.code == 0, ran.err
    out, _ = in_two(two, 8)
    assert [out.count(f"iteration {i}: validation") for i in (4, 8)] == [1, 1]
    assert out.count("newest snapshot") == 1
    losses = [state_of(town, 8)["losses"] for town in (one, two)]
    torch.testing.assert_close(losses[1][:1], losses[0][:1], rtol=1e-5, atol=0)
    # Norms over 8 values each make much of a last bit: against double precision, one process strays as far (see above).
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    assert list(weights_of(two, 8)) == list(weights_of(one, 8))
    assert names(two.snapshots) == names(one.snapshots)
    in_two(parts, 4)
    in_two(parts, 8, "--restore")
    assert torch.equal(state_of(parts, 8)["losses"], state_of(two, 8)["losses"])
    found, expected = weights_of(parts, 8), weights_of(two, 8)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_a_sentence_and_leaves_a_snapshot_to_go_on_from(databases, tmp_path):
    town = databases.copy(tmp_path / "own", "lmdb")
    quick = {"val_ids": [], "SNAPSHOT_EVERY": 3, "WORKERS": 1}
    with torchrun(town, 10**6, **quick) as process:
        wait_for(lambda: snapshots.found(town.snapshots), process)
        os.kill(workers_of(process.pid)[1], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    sentence = "another process of this job ended or cannot be reached"
    assert f"training.py, process 0: {sentence}" in err
    assert f"traceback : {sentence}" in err  # in torchrun's own report
    assert str(REPO / "tools") not in err  # no traceback of ours
    newest = snapshots.iteration_of(snapshots.newest(town.snapshots))
    in_two(town, newest + 2, "--restore", **quick)
    assert len(state_of(town, newest + 2)["losses"]) == newest + 2


@pytest.mark.slow
def test_a_signal_to_torchrun_stops_all_processes_at_one_iteration_with_a_snapshot(databases, tmp_path):
    town = databases.copy(tmp_path / "own", "lmdb")
    with torchrun(town, 10**6, "--update", 1, val_ids=[], SNAPSHOT_EVERY=10**5, WORKERS=1) as process:
        log = town.snapshots / "training.log"
        wait_for(lambda: log.exists() and "iteration 2:" in log.read_text(), process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert "another process" not in err
    state = state_of(town, snapshots.iteration_of(snapshots.newest(town.snapshots)))
    assert len(state["losses"]) == state["iteration"] > 0


@pytest.fixture
def one_of_three(monkeypatch):
    """What torchrun tells the first of three processes."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)


def test_a_batch_that_the_processes_cannot_share_is_refused_before_anything_begins(databases, one_of_three):
    ran = call("training", "--niter", 1, "--device", "cpu", "--config", databases.config())
    refused(ran, "training.py, process 0: BATCH_SIZE = 4 cannot be shared evenly by 3 processes: set it to 3 or 6")


def test_synchronised_norms_are_not_compiled(databases, one_of_three):
    config = databases.config(BATCH_SIZE=6, SYNC_BATCH_NORM=True)
    ran = call("training", "--niter", 1, "--compile", "--device", "cpu", "--config", config)
    databases.config()
    refused(ran, "training.py, process 0: --compile and SYNC_BATCH_NORM do not go together")


@pytest.mark.slow
def test_torchrun_trains_all_folds_and_replaces_those_of_before(databases, tmp_path):
    town = databases.copy(tmp_path / "own", "lmdb")
    town.changes = {"SNAPSHOT_EVERY": 100}
    home = town.snapshots.with_name(town.snapshots.name + "_folds")
    in_two(town, 1, "--folds", 3)
    in_two(town, 2, "--folds", 2, "--overwrite")
    assert names(home) == ["fold_1", "fold_2", "folds.json"]
    assert [snapshots.newest(home / f"fold_{n}").name for n in (1, 2)] == ["net_iter_2.safetensors"] * 2
    out, _ = in_two(town, 2, "--folds", 2, "--restore")
    assert out.count("is done already") == 2
