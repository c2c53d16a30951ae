"""Proves that frozen means frozen: layers that came with weights have no gradients, nothing goes backward through them, their
batch norms stand still; they begin to learn at their iteration, or never; a restored run does the same."""

import pytest
import torch
from conftest import call, done
from safetensors.torch import load_file
from torch import nn

from nets.layers import conv, data, score
from nets.net import Net
from tools.base.errors import UserError
from tools.compute.device import choose
from tools.data.inputs import Input
from tools.solver.frozen import Frozen
from tools.solver.solver import Solver
from tools.training.trainer import Trainer

INPUTS = [Input("data", ("data",), (3,), False, (100.0,) * 3, (50.0,) * 3)]
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01}
ADAMW = {"name": "adamw", "weight_decay": 0.01}


def net_of_two():
    torch.manual_seed(1)
    net = Net([data("data", 3), conv("first", "data", 4), conv("second", "first", 4), conv("third", "second", 4),
               score("last", "third", 3)])  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def trainer_of(net, iterations, solver=SGD, pretrained=("first", "second")):
    made = Solver(net, 0.05, {"name": "fixed"}, solver, list(pretrained), freeze_iterations=iterations)
    return Trainer(net, made, INPUTS, [], choose("cpu", "fp32"))


def batch(seed):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 255, (4, 3, 8, 8), generator=rng).float()], torch.randint(0, 3, (4, 8, 8), generator=rng)


def values(net, *layers):
    return {k: v.clone() for k, v in net.state_dict().items() if k.split(".")[0] in layers}


def same(one, other):
    return all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("solver", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("iterations", [3, None])
def test_weights_and_statistics_of_frozen_layers_stand_still_and_the_others_learn(iterations, solver):
    net = net_of_two()
    trainer = trainer_of(net, iterations, solver)
    before, others = values(net, "first", "second"), values(net, "third", "last")
    for i in range(3):
        trainer.step(*batch(i))
        net.train()  # as after a validation
    assert same(before, values(net, "first", "second"))
    assert not any(torch.equal(v, others[k]) for k, v in values(net, "third", "last").items())
    trainer.step(*batch(3))
    changed = values(net, "first", "second")
    assert same(before, changed) == (iterations is None)
    if iterations is not None:
        assert not any(torch.equal(before[k], changed[k]) for k in before)
        assert net.first.bn.training and net.first.bn.num_batches_tracked == 1


def test_nothing_goes_backward_through_frozen_layers_that_read_the_image():
    net = net_of_two()
    trainer = trainer_of(net, None)
    written = {}
    for name in ("first", "second", "third"):
        getattr(net, name).register_forward_hook(lambda m, a, out, name=name: written.update({name: out.requires_grad}))
    trainer.step(*batch(0))
    assert written == {"first": False, "second": False, "third": True}


def test_a_frozen_layer_answers_in_training_as_it_does_in_inference():
    net = net_of_two()
    found = []
    net.second.register_forward_hook(lambda m, a, out: found.append(out.detach()))
    trainer_of(net, None).step(*batch(0))
    with torch.no_grad():
        net.eval()(INPUTS[0].normalise(batch(0)[0][0]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_restored_run_goes_on_as_if_never_stopped(at):
    whole, first = trainer_of(net_of_two(), 2), trainer_of(net_of_two(), 2)
    for i in range(4):
        whole.step(*batch(i))
    for i in range(at):
        first.step(*batch(i))
    net = net_of_two()
    net.load_state_dict(first.net.state_dict())
    second = trainer_of(net, 2)
    second.restore(first.state())
    for i in range(at, 4):
        second.step(*batch(i))
    assert same(whole.net.state_dict(), net.state_dict())


def test_a_layer_of_a_librarys_net_is_frozen_with_what_lies_in_it():
    net = nn.Sequential()
    net.net = nn.ModuleDict({"encoder": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "encoder2": nn.Conv2d(4, 2, 1)})
    frozen = Frozen(net, ["net.encoder.0", "net.encoder.1"], None)
    assert frozen.at(0) and not frozen.at(1)
    assert [p.requires_grad for p in net.net["encoder"].parameters()] == [False] * 4
    assert all(p.requires_grad for p in net.net["encoder2"].parameters()) and not net.net["encoder"][1].training


@pytest.mark.parametrize(
    ("pretrained", "words"), [((), "no layer begins"), (("first", "second", "third", "last"), "all layers")]
)
@pytest.mark.parametrize("iterations", [5, None])
def test_freezing_nothing_or_all_is_refused(iterations, pretrained, words):
    with pytest.raises(UserError, match=f"FREEZE_ITERATIONS = {iterations}, but {words}"):
        trainer_of(net_of_two(), iterations, pretrained=pretrained)


def test_a_run_with_installed_weights_keeps_them_for_good(databases, tmp_path, without_pictures):
    changes = {"NET": "unet_light/efficientnet_lite0", "INIT_MODEL": "efficientnet_lite0", "FREEZE_ITERATIONS": None}
    config = databases.config(**changes, SNAPSHOT_EVERY=1)
    ran = call("training", "--niter", 2, "--config", config, "--device", "cpu", "--snapshot", tmp_path)
    databases.config()
    assert "EfficientNet-Lite's units" in done(ran).out
    first, second = (load_file(tmp_path / f"net_iter_{i}.safetensors") for i in (1, 2))
    stem = [name for name in first if name.startswith(("conv1.", "block"))]
    assert len(stem) > 200 and all(torch.equal(first[name], second[name]) for name in stem)
    assert not torch.equal(first["score_half.weight"], second["score_half.weight"])
    done(
        call("inference", 32, "--config", config, "--weights", tmp_path / "net_iter_2.safetensors", "--dir", tmp_path / "maps")
    )
