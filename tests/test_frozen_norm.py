"""Proves that frozen batch norms keep the statistics that came with their weights, whatever the net is told, that a table's are
computed as PyTorch computes them in evaluation, with the same gradients, and that a run with them goes on bit for bit."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import call, refused, train
from safetensors.torch import load_file
from torch import nn

from nets.layers import conv, data, score
from nets.net import Net
from tools.compute.frozen_batch_norm import freeze_norms, frozen_norms, norms_with_statistics
from tools.settings import read_settings


def small(**first):
    torch.manual_seed(2)
    net = Net([data("data", 3), conv("old", "data", 4, **first), conv("new", "old", 5), score("score", "new", 2)])
    for name in ("old", "new"):
        nn.init.uniform_(getattr(net, name).bn.weight, 0.5, 1.5)
        nn.init.normal_(getattr(net, name).bn.bias)
    nn.init.normal_(net.old.bn.running_mean)
    nn.init.uniform_(net.old.bn.running_var, 0.5, 2)
    return net


def test_only_norms_whose_statistics_came_with_the_weights_are_named():
    net = small()
    assert norms_with_statistics(net, ["old", "new"]) == ["old.bn"]  # new's are 0 and 1: they came from nowhere
    assert norms_with_statistics(net, ["new"]) == []


def test_frozen_norms_stand_still_in_training_and_are_known_by_name():
    net = small()
    freeze_norms(net, ["old.bn"])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    copied = copy.deepcopy(net).train().eval().train()
    copied(torch.randn(2, 3, 8, 8))
    assert frozen_norms(copied) == ["old.bn"]
    for name, value in copied.state_dict().items():
        moved = name in ("new.bn.running_mean", "new.bn.running_var", "new.bn.num_batches_tracked")
        assert torch.equal(value, before[name]) != moved


@pytest.mark.parametrize(
    "options", [{}, {"bias": False, "relu": False}, {"stride": 2, "pad": "tensorflow", "eps": 1e-3}, {"dilation": 2}]
)
def test_values_and_gradients_are_those_of_pytorchs_batch_norm_in_evaluation(options):
    net, plain = small(**options), small(**options)
    freeze_norms(net, ["old.bn"])
    unit = plain.old
    image = torch.randn(2, 3, 8, 8)

    def wanted(x):
        x = nn.functional.pad(x, (0, 1, 0, 1)) if "stride" in options else x
        pad = 0 if "stride" in options else unit.padding
        x = nn.functional.conv2d(x, unit.weight, unit.bias, unit.stride, pad, unit.dilation)
        bn = unit.bn
        x = nn.functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0, bn.eps)
        return x.relu() if options.get("relu", True) else x

    found, theirs = net.train().old(image), wanted(image)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (theirs * weights).sum().backward()
    for (name, ours), other in zip(net.old.named_parameters(), plain.old.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_norms_of_a_librarys_net_stand_still_too():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    nn.init.normal_(net[1].running_mean)
    mean = net[1].running_mean.clone()
    freeze_norms(net, norms_with_statistics(net, ["1"]))
    net.train()(torch.randn(2, 3, 4, 4))
    assert torch.equal(net[1].running_mean, mean)


def test_a_run_with_frozen_norms_begins_with_a_snapshots_and_goes_on_bit_for_bit(databases, tmp_path, without_pictures):
    def train(folder, niter, *more):
        ran = call("training", "--niter", niter, "--config", config, "--device", "cpu", "--snapshot", tmp_path / folder, *more)
        assert ran.code == 0, ran.err
        return ran.out

    config = databases.config(BASE_LR=0.01)
    train("before", 2)
    source = tmp_path / "before" / "net_iter_2.safetensors"
    config = databases.config(FROZEN_NORM=True, EMA_DECAY=0.9)
    told = train("a", 4, "--init", source)
    train("b", 2, "--init", source)
    train("b", 4, "--restore")
    databases.config()
    begun, a, b = (load_file(p) for p in (source, *(tmp_path / run / "net_iter_4.safetensors" for run in "ab")))
    still = [name for name in begun if name.endswith(("running_mean", "running_var"))]
    assert f"{len(still) // 2} batch norms keep the statistics" in told and still
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in still:
        torch.testing.assert_close(a[name], begun[name])
    assert any(not torch.equal(a[name], begun[name]) for name in begun if name.endswith("bn.weight"))


def test_frozen_norms_without_initial_weights_are_refused_where_the_user_asked_for_them(databases, tmp_path, without_pictures):
    words = ("--snapshot", tmp_path / "run")
    refused(train(databases, 1, *words, FROZEN_NORM=True), "FROZEN_NORM = True", "no batch norm begins with statistics")
    refused(train(databases, 1, *words, "--set", "FROZEN_NORM=True"), "FROZEN_NORM = True")
    assert not (tmp_path / "run").exists()
    databases.config()


def test_what_a_recipe_says_of_frozen_norms_is_no_mistake_of_the_users(tiles):
    settings = read_settings(tiles.config())
    for origin, expected in (("recipe modern", {}), ("config", {"FROZEN_NORM": False}), ("--set", {"FROZEN_NORM": False})):
        assert replace(settings, origins={"FROZEN_NORM": origin}).given("FROZEN_NORM") == expected
