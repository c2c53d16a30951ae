"""Proves that the optimizer holds what the config says, that clipping, accumulation, freezing and averaging are what they are
called, by numpy or by PyTorch's own parts, and that a run with all of them goes on from a snapshot bit for bit."""

import numpy as np
import pytest
import torch
from conftest import call, refused
from safetensors.torch import load_file

from nets.layers import conv, data, score
from nets.net import Net
from tools.base.choices import REQUIRED
from tools.base.errors import UserError
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.inference import labeller
from tools.solver.losses import Loss
from tools.solver.solver import SOLVERS, Solver, multipliers
from tools.training.trainer import Trainer
from tools.weights import snapshots

FIXED = {"name": "fixed"}
SGD, ADAMW = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}, {"name": "adamw", "weight_decay": 0.01}
CPU = Device(torch.device("cpu"), False)
INPUTS = [Input("image", ("image",), (2,), False, (100.0, 90.0))]
ABOUT = {"name": "tiny", "inputs": [i.to_dict() for i in INPUTS]}


def tiny(norm=True, seed=0):
    torch.manual_seed(seed)
    return Net([data("image", 2), conv("first", "image", 3, norm=norm), conv("second", "first", 3, norm=norm),
                score("last", "second", 4)])  # fmt: skip


def batch(seed, count=4):
    """Images and labels; label 4 is none of the classes, and is not as frequent in each image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (count, 8, 8), np.uint8)
    for i in range(count):
        labels[i][rng.random((8, 8)) < i / (count + 1)] = 4
    return [torch.from_numpy(rng.integers(0, 255, (count, 2, 8, 8), np.uint8))], torch.from_numpy(labels)


def values(net):
    """A copy of all that a net has learned."""
    return {name: v.detach().clone() for name, v in net.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_close(a, b, **limits):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name, **limits)


def give_gradients(net, seed, size=1.0):
    rng = np.random.default_rng(seed)
    for parameter in net.parameters():
        gradient = torch.from_numpy(rng.normal(0, size, tuple(parameter.shape))).float()
        parameter.grad = gradient if parameter.requires_grad else None


def groups_by_name(net, solver):
    names = {id(p): name for name, p in net.named_parameters()}
    return {names[id(p)]: group for group in solver.optimizer.param_groups for p in group["params"]}


# ---------------------------------------------------------------------------- what the config says is what the optimizer holds


def test_the_groups_hold_rate_decay_and_momentum_of_each_parameter():
    patterns = {"first": {"lr": 0.1, "decay": 0}, "*.bn.*": {"decay": 0.5}, "last.bias": {"lr": 0}}
    net = tiny()
    solver = Solver(net, 0.2, FIXED, SGD, ["first", "second"], patterns)
    solver.step(0)  # without gradients: it sets the rates alone
    found = {name: (group["lr"], group["weight_decay"]) for name, group in groups_by_name(net, solver).items()}
    d = 5e-4
    expected = {
        "first.weight": (0.02, 0), "first.bias": (0.02, 0), "first.bn.weight": (0.02, d / 2), "first.bn.bias": (0.02, d / 2),
        "second.weight": (0.1, d), "second.bias": (0.2, d), "second.bn.weight": (0.1, d / 2), "second.bn.bias": (0.2, d / 2),
        "last.weight": (0.2, d), "last.bias": (0, d),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        assert found[name] == pytest.approx(numbers), name
    assert {group["momentum"] for group in solver.optimizer.param_groups} == {0.9}


def test_adamw_holds_its_numbers_and_is_fused():
    solver = Solver(tiny(), 0.2, FIXED, ADAMW | {"beta1": 0.8, "beta2": 0.95})
    assert isinstance(solver.optimizer, torch.optim.AdamW)
    for group in solver.optimizer.param_groups:
        assert group["betas"] == (0.8, 0.95) and group["weight_decay"] == 0.01 and group["fused"]


def test_adamw_updates_as_its_paper_says():
    net = tiny()
    solver = Solver(net, 0.05, {"name": "step", "step_iterations": 2, "gamma": 0.1}, ADAMW, (), {"*": {"lr": 0.5}})
    w = {name: p.detach().double().numpy().copy() for name, p in net.named_parameters()}
    m, v = dict.fromkeys(w, 0.0), dict.fromkeys(w, 0.0)
    for i, rate in enumerate([0.025, 0.025, 0.0025, 0.0025]):
        give_gradients(net, i)
        for name, p in net.named_parameters():
            g = p.grad.double().numpy()
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g * g
            update = (m[name] / (1 - 0.9 ** (i + 1))) / (np.sqrt(v[name] / (1 - 0.999 ** (i + 1))) + 1e-8)
            w[name] = w[name] * (1 - rate * 0.01) - rate * update
        solver.step(i)
    for name, p in net.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), w[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"frist": {"lr": 1}}, "MULTIPLIERS['frist'] matches no layer that learns. Did you mean 'first'?"),
        ({"conv*": {"lr": 1}}, "There are first, first.bn, second, second.bn, last"),
        ({"first": {"rate": 1}}, "MULTIPLIERS['first'] has 'rate': 1: it takes 'lr' and 'decay'"),
        ({"first": {"lr": -1}}, "MULTIPLIERS['first'] has 'lr': -1"),
    ],
)
def test_multipliers_that_match_nothing_or_are_none_are_refused(patterns, words):
    with pytest.raises(UserError) as found:
        Solver(tiny(), 0.1, FIXED, SGD, (), patterns)
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        ({"name": "adamw"}, "'adamw' needs a number, 0 or more, for 'weight_decay'; it is None"),
        ({"name": "adamn", "weight_decay": 0}, "SOLVER names 'adamn', which there is not. Did you mean 'adam'?"),
        ({"name": "adamw", "weight_decay": 0, "beta2": 1}, "beta2 = 1: it must be below 1"),
        (
            {"name": "adamw", "weight_decay": 0, "momentum": 0.9},
            "does not read 'momentum'; it reads beta1, beta2, weight_decay",
        ),
        ({"name": "sgd", "momentum": 1.0, "weight_decay": 0}, "momentum = 1.0: it must be below 1"),
        ({"name": "sgd", "momentum": True, "weight_decay": 0}, "for 'momentum'; it is True"),
    ],
)
def test_solvers_with_wrong_numbers_are_refused(solver, words):
    with pytest.raises(UserError) as found:
        Solver(tiny(), 0.1, FIXED, solver)
    assert words in str(found.value)


# --------------------------------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize(("size", "cut"), [(10.0, True), (1e-4, False)])
def test_gradients_are_cut_down_to_the_norm_and_not_up(size, cut):
    net = tiny()
    solver = Solver(net, 1.0, FIXED, SGD | {"momentum": 0, "weight_decay": 0}, (), {"*": {"lr": 1}}, clip=0.5)
    give_gradients(net, 1, size)
    before = values(net)
    gradients = {name: p.grad.double().numpy().copy() for name, p in net.named_parameters()}
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert (norm > 0.5) == cut
    solver.step(0)
    for name, p in net.named_parameters():
        moved = (before[name] - p.detach()).double().numpy()
        np.testing.assert_allclose(moved, gradients[name] * min(1, 0.5 / norm), rtol=1e-3, atol=1e-6, err_msg=name)


# --------------------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize("solver", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_frozen_layers_keep_their_weights_and_then_learn_as_if_new(solver):
    """Neither decay nor momentum touches them, and their gradients do not count in the norm that is cut."""
    net = tiny()
    made = Solver(net, 0.1, FIXED, solver, ["first"], clip=1.0, freeze_iterations=2)
    start = values(net)
    for i in range(2):
        made.frozen.at(i)
        give_gradients(net, i)
        made.step(i)
        assert torch.equal(net.first.weight, start["first.weight"]) and torch.equal(net.first.bn.bias, start["first.bn.bias"])
    assert (net.last.weight - start["last.weight"]).abs().max() > 0.01
    assert not made.optimizer.state.get(net.first.weight)
    made.frozen.at(2)
    give_gradients(net, 2)
    made.step(2)
    assert not torch.equal(net.first.weight, start["first.weight"])


@pytest.mark.parametrize(("pretrained", "words"), [([], "no layer begins"), (["first", "second", "last"], "all layers begin")])
def test_freezing_nothing_or_all_is_refused(pretrained, words):
    with pytest.raises(UserError, match=f"FREEZE_ITERATIONS = 5, but {words} with weights from elsewhere"):
        Solver(tiny(), 0.1, FIXED, SGD, pretrained, freeze_iterations=5)


# ----------------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("loss", ["ce", "focal", "weighted ce"])
@pytest.mark.parametrize("parts", [2, 4, 3])
def test_parts_of_a_batch_learn_what_the_whole_batch_learns(loss, parts):
    """Also where the labelled pixels are not spread evenly, and where a part has none, or the parts are not of one size."""
    images, labels = batch(1, 8)
    labels[:2] = 4  # no class: the first of four parts has nothing to learn from
    made = []
    for iter_size in (1, parts):
        net = tiny(norm=False)
        solver = Solver(net, 0.1, FIXED, SGD)
        weights = [1.0, 0.2, 3.0, 0.5] if "weighted" in loss else None
        trainer = Trainer(net, solver, INPUTS, [], CPU, Loss(loss.split()[-1], weights), iter_size)
        for _ in range(3):
            trainer.step(images, labels)
        trainer.fetch_losses()
        made.append((values(net), trainer.losses))
    assert_close(made[0][0], made[1][0], rtol=1e-4, atol=1e-6)
    assert made[0][1] == pytest.approx(made[1][1], rel=1e-5)


def test_losses_of_regions_are_averages_over_the_parts():
    images, labels = batch(1, 4)
    net = tiny(norm=False)
    logits = net(INPUTS[0].normalise(images[0])).detach()
    target = torch.where(labels < 4, labels.long(), 255)
    shares = [(target[i : i + 2] != 255).sum() / (target != 255).sum() for i in (0, 2)]
    expected = sum(s * Loss("dice")(logits[i : i + 2], target[i : i + 2]) for s, i in zip(shares, (0, 2), strict=True))
    trainer = Trainer(net, Solver(net, 0.1, FIXED, SGD), INPUTS, [], CPU, Loss("dice"), 2)
    trainer.step(images, labels)
    trainer.fetch_losses()
    assert trainer.losses == pytest.approx([float(expected)], rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_without_labelled_pixels_has_a_loss_of_0(parts):
    images, labels = batch(1)
    net = tiny()
    trainer = Trainer(net, Solver(net, 0.1, FIXED, SGD | {"weight_decay": 0}), INPUTS, [], CPU, Loss("ce + dice"), parts)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    trainer.step(images, torch.full_like(labels, 4))
    trainer.fetch_losses()
    assert trainer.losses == [0.0]
    assert_same(before, {name: p.detach() for name, p in net.named_parameters()})


# -------------------------------------------------------------------------------------------------------------- averaging


def test_the_average_is_the_one_that_its_docstring_defines():
    net = tiny()
    trainer = Trainer(net, Solver(net, 0.1, FIXED, SGD), INPUTS, [], CPU, ema_decay=0.5)
    expected = {name: v.double() for name, v in values(net).items()}
    for i in range(12):
        trainer.step(*batch(i))
        keep = min(0.5, (1 + i) / (10 + i))
        expected = {name: keep * expected[name] + (1 - keep) * v.double() for name, v in values(net).items()}
    assert keep == 0.5
    own = values(net)
    with trainer.averaged():
        found = values(net)
        assert found.pop("first.bn.num_batches_tracked") == found.pop("second.bn.num_batches_tracked") == 12
        assert_close(found, {name: expected[name].float() for name in found}, rtol=1e-5, atol=1e-6)
        assert not torch.equal(found["last.weight"], own["last.weight"])
    assert_same(own, values(net))


def test_without_an_average_the_net_is_as_it_is():
    net = tiny()
    trainer = Trainer(net, Solver(net, 0.1, FIXED, SGD), INPUTS, [], CPU)
    trainer.step(*batch(0))
    before = values(net)
    with trainer.averaged():
        assert_same(before, values(net))
    assert "own_weights" not in trainer.state()


# ----------------------------------------------------------------------------------------------------------------- resume

PLATEAU = {"name": "plateau", "gamma": 0.5, "patience_validations": 0, "warmup_iterations": 3}
MANNERS = {
    **{name: {"solver": {"name": name, "weight_decay": 0.01} | {k: 0.5 for k, default in known.items() if default is REQUIRED}}
       for name, (known, _) in SOLVERS.items()},
    "all": {"policy": PLATEAU, "patterns": {"*.bias": {"decay": 0}}, "clip": 0.1, "freeze": 4, "parts": 2, "ema": 0.9,
            "loss": "ce + 0.5 dice + 0.1 lovasz"},
    "all with adamw": {"policy": PLATEAU, "patterns": {"*.bias": {"decay": 0}}, "clip": 0.1, "freeze": 4, "parts": 2,
                       "ema": 0.9, "loss": "focal", "solver": ADAMW},
}  # fmt: skip


def make(net, policy=FIXED, solver=SGD, patterns=(), clip=None, freeze=0, parts=1, ema=None, loss="ce"):
    made = Solver(net, 0.05, policy, solver, ["first"], dict(patterns), clip, freeze)
    return Trainer(net, made, INPUTS, [3], CPU, Loss(loss), parts, ema)


def go_on(trainer, until):
    while trainer.iteration < until:
        trainer.step(*batch(trainer.iteration, 4))
        if trainer.iteration % 2 == 0:
            trainer.solver.report(-trainer.iteration)  # ever worse
    trainer.fetch_losses()


@pytest.mark.parametrize("cut", [2, 5])
@pytest.mark.parametrize("manners", MANNERS)
def test_a_run_goes_on_from_its_snapshot_as_if_never_stopped(tmp_path, manners, cut):
    """Through both files of a snapshot: weights, averages, losses and the rate are the same bit for bit."""
    settings = MANNERS[manners]
    unbroken = make(tiny(), **settings)
    go_on(unbroken, 9)
    first = make(tiny(), **settings)
    go_on(first, cut)
    state = first.state()
    with first.averaged():
        path = snapshots.save(tmp_path, cut, first.net, ABOUT, state)
    go_on(first, 9)  # a snapshot taken in passing leaves the run as it was
    net, _ = snapshots.load_net(path)
    second = make(net, **settings)
    second.restore(snapshots.load_state(path.with_suffix(".solverstate")))
    go_on(second, 9)
    for other in (first, second):
        assert_same(values(unbroken.net), values(other.net))
        assert other.losses == unbroken.losses and other.solver.rate(9) == unbroken.solver.rate(9)
        if unbroken.average:
            assert_same(unbroken.average.values, other.average.values)


def test_a_state_stays_as_it_was_while_training_goes_on():
    trainer = make(tiny(), **MANNERS["all"])
    go_on(trainer, 5)
    weights, state = values(trainer.net), trainer.state()
    with trainer.averaged():
        average = values(trainer.net)
    go_on(trainer, 9)
    end = values(trainer.net)
    trainer.net.load_state_dict(average)
    trainer.restore(state)
    assert_same(weights, values(trainer.net))
    assert_same(average, trainer.average.values)
    go_on(trainer, 9)
    assert_same(end, values(trainer.net))


def test_the_weights_file_holds_the_average_and_the_solverstate_the_nets_own(tmp_path):
    trainer = make(tiny(), ema=0.9)
    go_on(trainer, 4)
    state = trainer.state()
    with trainer.averaged():
        path = snapshots.save(tmp_path, 4, trainer.net, ABOUT, state)
    assert_same(load_file(path), trainer.average.values)
    assert_same(snapshots.load_state(path.with_suffix(".solverstate"))["own_weights"], values(trainer.net))


def test_a_run_whose_config_drops_the_average_goes_on_from_its_own_weights():
    averaged = make(tiny(), ema=0.9)
    go_on(averaged, 4)
    state = averaged.state()
    with averaged.averaged():
        net = tiny(seed=1)
        net.load_state_dict(values(averaged.net))
    plain = make(net)
    plain.restore(state)
    assert_same(values(plain.net), values(averaged.net))


def test_a_restored_optimizer_holds_what_the_config_says_now():
    """Its memory (momentum) comes from the state, parameter by parameter, even where the groups are others."""
    first = make(tiny(), patterns={"last": {"lr": 7}})
    go_on(first, 3)
    net = tiny()
    net.load_state_dict(values(first.net))
    solver = {"name": "sgd", "momentum": 0.5, "weight_decay": 0.25}
    second = make(net, solver=solver, patterns={"first": {"lr": 3, "decay": 2}})
    second.restore(first.state())
    second.solver.step(3)
    group = groups_by_name(net, second.solver)["first.weight"]
    assert (group["momentum"], group["weight_decay"], group["lr_mult"]) == (0.5, 0.5, 3)
    other = dict(first.net.named_parameters())
    for name, parameter in net.named_parameters():
        theirs, ours = first.solver.optimizer.state[other[name]], second.solver.optimizer.state[parameter]
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[k], ours[k]) for k in theirs), name


def test_momentum_takes_on_the_memory_format_of_the_weights():
    """A fused optimizer takes numbers in the order in which they lie: with another order it would mix them up."""
    first, net = make(tiny(), solver=ADAMW), tiny()
    go_on(first, 2)
    net.load_state_dict(values(first.net))
    second = make(net.to(memory_format=torch.channels_last), solver=ADAMW)
    second.restore(first.state())
    state = second.solver.optimizer.state[net.second.weight]
    assert state["exp_avg"].stride() == net.second.weight.stride() != first.net.second.weight.stride()
    for trainer in (first, second):
        give_gradients(trainer.net, 5)
        for parameter in trainer.net.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        trainer.solver.step(2)
    assert_close(values(first.net), values(second.net), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: make(tiny(), solver=ADAMW), "it is of sgd, not of adamw"),
        (lambda: make(tiny(norm=False)), "first.bn.bias, first.bn.weight, second.bn.bias (+1 more) are in one of them alone"),
    ],
)
def test_a_state_of_another_solver_or_net_is_refused(other, words):
    first = make(tiny())
    go_on(first, 1)
    with pytest.raises(UserError, match="the solverstate is of another net or solver") as found:
        other().restore(first.state())
    assert words in str(found.value)


def test_a_state_with_other_shapes_is_refused():
    first = make(tiny())
    go_on(first, 1)
    net = Net([data("image", 2), conv("first", "image", 3), conv("second", "first", 3), score("last", "second", 5)])
    with pytest.raises(UserError, match=r"'last\.(weight|bias)' has the shape \(4"):
        make(net).restore(first.state())


# ------------------------------------------------------------------------------------------------------------- the script


@pytest.mark.slow
def test_training_takes_all_of_it_from_the_config_and_resumes_exactly(databases, tmp_path, without_pictures):
    policy = PLATEAU | {"least_improvement": 1.0}  # every score but the first is a disappointment
    config = databases.config(
        SOLVER=ADAMW, LR_POLICY=policy, BASE_LR=0.001, LOSS="ce + 0.5 dice", CLASS_WEIGHTS="median", ITER_SIZE=2,
        GRADIENT_CLIP=1.0, EMA_DECAY=0.9, MULTIPLIERS={"conv1_1": {"lr": 0.1, "decay": 0}}, SNAPSHOT_EVERY=2,
    )  # fmt: skip
    words = ("--config", config, "--device", "cpu", "--snapshot")
    runs = [call("training", "--niter", 6, *words, tmp_path / "a"), call("training", "--niter", 3, *words, tmp_path / "b")]
    state = tmp_path / "b" / "net_iter_3.solverstate"
    runs.append(call("training", "--niter", 6, *words, tmp_path / "b", "--restore", state))
    databases.config()
    assert [ran.code for ran in runs] == [0, 0, 0], [ran.err for ran in runs]
    assert_same(load_file(tmp_path / "a" / "net_iter_6.safetensors"), load_file(tmp_path / "b" / "net_iter_6.safetensors"))
    a, b = (snapshots.load_state(tmp_path / run / "net_iter_6.solverstate") for run in "ab")
    assert_same(a["own_weights"], b["own_weights"])
    assert torch.equal(a["losses"], b["losses"]) and a["policy"] == b["policy"]
    assert a["policy"]["drops"] == 2


def test_training_feeds_whole_batches_and_validates_with_the_average(databases, tmp_path, monkeypatch, without_pictures):
    sizes, validated = [], []
    step, prepared = Trainer.step, labeller.prepared
    monkeypatch.setattr(Trainer, "step", lambda self, images, labels: (sizes.append(len(labels)), step(self, images, labels)))
    monkeypatch.setattr(labeller, "prepared", lambda net, where: (validated.append(values(net)), prepared(net, where))[1])
    config = databases.config(BATCH_SIZE=3, ITER_SIZE=2, EMA_DECAY=0.9)
    ran = call("training", "--niter", 2, "--config", config, "--device", "cpu", "--snapshot", tmp_path)
    databases.config()
    assert ran.code == 0, ran.err
    assert sizes == [6, 6]
    assert_same(validated[-1], load_file(tmp_path / "net_iter_2.safetensors"))


def test_freezing_without_initial_weights_is_one_sentence_at_the_command_line(databases, tmp_path):
    config = databases.config(FREEZE_ITERATIONS=5)
    ran = call("training", "--niter", 1, "--config", config, "--device", "cpu", "--snapshot", tmp_path)
    databases.config()
    refused(ran, "FREEZE_ITERATIONS = 5", "no layer begins")


def test_a_database_without_labelled_pixels_is_one_sentence_at_the_command_line(databases, tmp_path):
    config = databases.config(IGNORE_LABEL=[0, 1, 2, 3, 4, 5])
    ran = call("training", "--niter", 1, "--config", config, "--device", "cpu", "--snapshot", tmp_path)
    databases.config()
    refused(ran, "no pixel of the database is labelled")


# ------------------------------------------------------------------------------------------------------- parts of a net


def rates(patterns, pretrained):
    """The multipliers of the rate by layer, of weights alone."""
    net = tiny()
    names = {parameter: name for name, parameter in net.named_parameters()}
    return {names[p]: lr for p, lr, _ in multipliers(net, pretrained, patterns) if names[p].endswith("weight")}


def test_encoder_and_head_are_the_layers_that_came_with_weights_and_the_others():
    """Ten times the rate for the head, as DeepLab has it."""
    found = rates({"encoder": {"lr": 1}, "head": {"lr": 10}}, ["first"])
    assert {lr for name, lr in found.items() if name.startswith("first.")} == {1}
    assert {lr for name, lr in found.items() if not name.startswith("first.")} == {10}
    with pytest.raises(UserError, match=r"MULTIPLIERS\['encoder'\] is for the layers that came with weights"):
        rates({"encoder": {"lr": 1}}, [])
