"""Proves that the solver computes Caffe's numbers: the policies by hand, its multipliers, its updates against numpy."""

import numpy as np
import pytest
import torch
from torch import nn

import nets
from nets.layers import conv, data, score
from nets.net import Net
from tools.base.errors import UserError
from tools.solver.solver import Solver, multipliers, parameter_groups

FIXED, SGD = {"name": "fixed"}, {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}


def small_net():
    return Net([data("data", 2), conv("first", "data", 3), score("last", "first", 4)])


def given_gradients(net, seed):
    """Fill the gradients with numbers and return them by name."""
    rng = np.random.default_rng(seed)
    gradients = {name: rng.normal(size=tuple(p.shape)) for name, p in net.named_parameters()}
    for name, parameter in net.named_parameters():
        parameter.grad = torch.from_numpy(gradients[name]).float()
    return gradients


# ------------------------------------------------------------------------------------------------------------- the rate


def test_a_fixed_rate_stays():
    solver = Solver(small_net(), 0.3, FIXED, SGD)
    assert [solver.rate(i) for i in (0, 1, 10**6)] == [0.3, 0.3, 0.3]


def test_steps_divide_the_rate_as_in_caffe():
    policy = {"name": "step", "step_iterations": 25000, "gamma": 0.1}
    solver = Solver(small_net(), 0.01, policy, SGD)
    found = [solver.rate(i) for i in (0, 24999, 25000, 49999, 50000)]
    assert found == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"name": "stepp", "gamma": 1}, "LR_POLICY names 'stepp', which there is not. Did you mean 'step'?"),
        ({"name": "step", "gamma": 0.1}, "'step' needs a number, 0 or more, for 'step_iterations'; it is None"),
        ({"name": "step", "step_iterations": 5, "gamma": "a"}, "for 'gamma'; it is 'a'"),
        ({"name": "step", "step_iterations": 0, "gamma": 0.1}, "step_iterations = 0: it must be 1 or more"),
        ({"name": "fixed", "gamma": 0.1}, "'fixed' does not read 'gamma'"),
    ],
)  # fmt: skip
def test_a_policy_that_is_not_there_or_lacks_a_number_is_refused(policy, words):
    with pytest.raises(UserError) as found:
        Solver(small_net(), 0.01, policy, SGD)
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        ({"name": "sdg", "momentum": 0.9, "weight_decay": 0}, "SOLVER names 'sdg', which there is not. Did you mean 'sgd'?"),
        ({"name": "sgd", "momentum": 0.9}, "'sgd' needs a number, 0 or more, for 'weight_decay'"),
        ({"name": "sgd", "momentum": 0.9, "weight_decay": -1}, "for 'weight_decay'; it is -1"),
        ({"name": "sgd", "momentum": 0.9, "weight_decay": 0, "nesterov": 1}, "'sgd' does not read 'nesterov'"),
    ],
)  # fmt: skip
def test_a_solver_that_is_not_there_or_lacks_a_number_is_refused(solver, words):
    with pytest.raises(UserError) as found:
        Solver(small_net(), 0.01, FIXED, solver)
    assert words in str(found.value)


# ------------------------------------------------------------------------------------------------------ the multipliers


def by_name(net, pretrained=()):
    names = {id(p): name for name, p in net.named_parameters()}
    return {names[id(p)]: (lr, decay) for p, lr, decay in multipliers(net, pretrained)}


def test_layers_that_came_with_weights_have_the_encoders_multipliers_and_fresh_ones_the_decoders():
    net = nets.build("segnet_slim", {"irrg": 3}, 6)
    encoder = [row.name for row in net.rows if row.kind == "conv" and not row.name.endswith("_D")]
    assert len(encoder) == 13
    found = by_name(net, encoder)
    for name, (lr, decay) in found.items():
        layer, _, parameter = name.partition(".")
        position = ["weight", "bias", "bn.weight", "bn.bias"].index(parameter)
        expected = (0.5, 1, 0.5, 1) if layer in encoder else (1, 1, 1, 2)
        assert (lr, decay) == (expected[position], 1), name
    assert set(found) == {name for name, _ in net.named_parameters()}


def test_without_initial_weights_all_layers_are_fresh():
    assert set(by_name(nets.build("segnet_slim", {"irrg": 3}, 6)).values()) == {(1, 1), (2, 1)}


def test_a_layer_whose_name_begins_like_a_pretrained_one_is_fresh():
    net = nets.build("segnet_slim", {"irrg": 3}, 6)
    found = by_name(net, ["conv1_1"])
    assert found["conv1_1.weight"] == (0.5, 1)
    assert found["conv1_1_D.weight"] == (1, 1)


def test_a_rows_own_multipliers_come_first():
    rows = [
        data("data", 2),
        conv("first", "data", 3, lr_mult=(7, 8, 9, 10), decay_mult=(1, 0, 0, 0)),
        score("last", "first", 4),
    ]
    found = by_name(Net(rows), ["first"])
    assert [found[f"first.{n}"] for n in ("weight", "bias", "bn.weight", "bn.bias")] == [(7, 1), (8, 0), (9, 0), (10, 0)]


def test_the_optimizer_holds_the_groups_not_the_net():
    """Groups that are built and then not used would leave every parameter at one rate."""
    net = nets.build("segnet_slim", {"irrg": 3}, 6)
    solver = Solver(net, 0.01, FIXED, SGD, ["conv1_1"])
    solver.step(0)  # without gradients: it sets the rates alone
    rates = {id(p): group["lr"] for group in solver.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(net.parameters()))
    assert rates[id(net.conv1_1.weight)] == pytest.approx(0.005)
    assert rates[id(net.conv1_2.weight)] == pytest.approx(0.01)
    assert rates[id(net.conv1_2.bn.bias)] == pytest.approx(0.02)


def test_layers_that_came_with_weights_learn_at_their_share_of_the_rate_biases_at_twice_that():
    net = small_net()
    solver = Solver(net, 0.01, FIXED, SGD, ["first"], pretrained_rate=0.1)
    solver.step(0)
    rates = {id(p): group["lr"] for group in solver.optimizer.param_groups for p in group["params"]}
    assert rates[id(net.first.weight)] == pytest.approx(0.001)
    assert rates[id(net.first.bias)] == pytest.approx(0.002)
    assert rates[id(net.last.weight)] == pytest.approx(0.01)


def test_parameters_that_do_not_learn_are_in_no_group():
    net = small_net()
    net.first.weight.requires_grad_(False)
    found = [p for group in parameter_groups(net, [], 0.1) for p in group["params"]]
    assert all(p is not net.first.weight for p in found)
    assert len(found) == len(list(net.parameters())) - 1


# ----------------------------------------------------------------------------------------------------------- the updates


def test_three_updates_are_those_of_caffe_computed_by_hand():
    """g = gradient + decay w; h = 0.9 h + rate multiplier g; w = w - h, while the rate itself takes a step."""
    net = small_net()
    solver = Solver(net, 0.1, {"name": "step", "step_iterations": 2, "gamma": 0.1}, SGD, ["first"])
    factors = by_name(net, ["first"])
    weights = {name: p.detach().double().numpy().copy() for name, p in net.named_parameters()}
    history = dict.fromkeys(weights, 0.0)
    for iteration, rate in enumerate([0.1, 0.1, 0.01]):
        for name, gradient in given_gradients(net, iteration).items():
            lr, decay = factors[name]
            history[name] = _history(history[name], rate, lr * (gradient + 5e-4 * decay * weights[name]))
            weights[name] = weights[name] - history[name]
        solver.step(iteration)
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-5, atol=1e-6, err_msg=name)


def _history(before, rate, gradient):
    return 0.9 * before + rate * gradient


def test_gradients_are_forgotten_after_an_update():
    net = small_net()
    solver = Solver(net, 0.1, FIXED, SGD)
    given_gradients(net, 0)
    solver.step(0)
    assert all(p.grad is None for p in net.parameters())


def test_running_statistics_are_no_parameters_of_the_solver():
    assert not any(isinstance(m, nn.BatchNorm2d) and m.running_mean.requires_grad for m in small_net().modules())
