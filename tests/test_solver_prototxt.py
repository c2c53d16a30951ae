"""Proves that SOLVER = "solver.prototxt" trains as Caffe's solver would: its fields become settings, each of its update rules
is Caffe's, by numbers worked out with numpy, what is not supported is named, and the script prints what came from the file."""

import numpy as np
import pytest
import torch
from conftest import call, done, refused, write_config

from nets.layers import data, score
from nets.net import Net
from tools.base.errors import UserError
from tools.settings import read_settings
from tools.solver.solver import Solver
from tools.solver.solver_prototxt import read_solver

STEP = 'base_lr: 0.01 lr_policy: "step" gamma: 0.1 stepsize: 25000 momentum: 0.9 weight_decay: 0.0005 max_iter: 200000\n'
PLACES = 'net: "n.prototxt" display: 20 snapshot: 2000 snapshot_prefix: "a/b" solver_mode: GPU test_initialization: false\n'


def solver_file(folder, text):
    path = folder / "solver.prototxt"
    path.write_text(text)
    return path


def test_the_solver_of_segnet_on_vaihingen_becomes_the_settings_that_this_project_begins_with(tmp_path):
    found = read_solver(solver_file(tmp_path, STEP + PLACES))
    assert found.settings == {
        "BASE_LR": 0.01,
        "LR_POLICY": {"name": "step", "step_iterations": 25000, "gamma": 0.1},
        "SOLVER": {"name": "caffe", "momentum": 0.9, "weight_decay": 0.0005},
        "SNAPSHOT_EVERY": 2000,
        "NITER": 200000,
    }
    assert found.left_out == ["net", "display", "snapshot_prefix", "solver_mode", "test_initialization"]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ('lr_policy: "fixed"', {"name": "fixed"}),
        ('lr_policy: "exp" gamma: 0.99', {"name": "exp", "gamma": 0.99}),
        ('lr_policy: "inv" gamma: 1e-4 power: 0.75', {"name": "inv", "gamma": 1e-4, "power": 0.75}),
        (
            'lr_policy: "multistep" gamma: 0.1 stepvalue: 18750 stepvalue: 37500',
            {"name": "multistep", "at_iterations": [18750, 37500], "gamma": 0.1},
        ),
        ('lr_policy: "poly" power: 0.9 max_iter: 20000', {"name": "poly", "max_iterations": 20000, "power": 0.9}),
        ('lr_policy: "sigmoid" gamma: -0.01 stepsize: 500', {"name": "sigmoid", "step_iterations": 500, "slope": -0.01}),
    ],
)
def test_every_policy_of_caffes_is_one_that_a_schedule_takes(tmp_path, text, policy):
    found = read_solver(solver_file(tmp_path, f"base_lr: 0.1 {text}")).settings
    assert found["LR_POLICY"] == policy
    net = Net([data("data", 1), score("last", "data", 2)])
    assert 0 <= Solver(net, found["BASE_LR"], found["LR_POLICY"], found["SOLVER"]).rate(10) <= 0.1


@pytest.mark.parametrize(
    ("text", "solver"),
    [
        ("momentum: 0.9", {"name": "caffe", "momentum": 0.9}),
        ('type: "Nesterov" momentum: 0.95', {"name": "nesterov", "momentum": 0.95}),
        ("solver_type: ADAM momentum: 0.9 momentum2: 0.99", {"name": "adam", "beta1": 0.9, "beta2": 0.99, "delta": 1e-8}),
        ("solver_type: 2 delta: 1e-6", {"name": "adagrad", "delta": 1e-6}),
        ('type: "RMSProp" rms_decay: 0.98', {"name": "rmsprop", "rms_decay": 0.98, "delta": 1e-8}),
    ],
)
def test_every_type_has_its_numbers_and_caffes_defaults(tmp_path, text, solver):
    path = solver_file(tmp_path, f'base_lr: 0.1 lr_policy: "fixed" iter_size: 4 clip_gradients: 5 {text}')
    found = read_solver(path).settings
    assert found["SOLVER"] == solver | {"weight_decay": 0.0}
    assert (found["ITER_SIZE"], found["GRADIENT_CLIP"]) == (4, 5.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            STEP + 'type: "AdaDelta"',
            "has the solver type ADADELTA, which is not supported; SGD, NESTEROV, ADAM, ADAGRAD, RMSPROP are",
        ),
        (STEP + 'regularization_type: "L1"', "regularization_type: L1, which is not supported: L2 is"),
        (STEP + "momentun: 0.9", "has the field momentun, which is not supported. Did you mean 'momentum'?"),
        ('base_lr: 0.1 lr_policy: "cyclic"', "has lr_policy: cyclic, which is not supported; fixed, step, exp"),
        ('lr_policy: "fixed"', "has no base_lr: is it the prototxt of a solver?"),
        ('base_lr: 0.1 lr_policy: "poly" power: 1', "has no max_iter"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, text, words):
    with pytest.raises(UserError) as found:
        read_solver(solver_file(tmp_path, text))
    assert words in str(found.value)


# ------------------------------------------------------------------------------------------------------ update rules


def caffe_updates(kind, gradients, weights, rate, decay, momentum=0.9):
    """The weights after each step, by the formulas of Caffe's solvers, in float64."""
    h, second, found = np.zeros_like(weights), np.zeros_like(weights), []
    for t, gradient in enumerate(gradients, 1):
        g = gradient + decay * weights
        if kind == "caffe":
            h = momentum * h + rate * g
            update = h
        elif kind == "nesterov":
            before, h = h, momentum * h + rate * g
            update = (1 + momentum) * h - momentum * before
        elif kind == "adagrad":
            h = h + g * g
            update = rate * g / (np.sqrt(h) + 1e-3)
        elif kind == "rmsprop":
            h = 0.9 * h + 0.1 * g * g
            update = rate * g / (np.sqrt(h) + 1e-3)
        else:
            h, second = 0.8 * h + 0.2 * g, 0.95 * second + 0.05 * g * g
            update = rate * np.sqrt(1 - 0.95**t) / (1 - 0.8**t) * h / (np.sqrt(second) + 1e-3)
        weights = weights - update
        found.append(weights)
    return found


NUMBERS = {
    "caffe": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "adagrad": {"delta": 1e-3},
    "rmsprop": {"rms_decay": 0.9, "delta": 1e-3},
    "adam": {"beta1": 0.8, "beta2": 0.95, "delta": 1e-3},
}


def fresh(kind):
    torch.manual_seed(0)
    net = Net([data("data", 2), score("last", "data", 3)])
    return net, Solver(net, 0.1, {"name": "fixed"}, {"name": kind, "weight_decay": 0.01, **NUMBERS[kind]})


@pytest.mark.parametrize("kind", NUMBERS)
def test_updates_are_caffes_also_after_a_snapshot_in_between(kind):
    net, solver = fresh(kind)
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(6, *net.last.weight.shape))
    wanted = caffe_updates(kind, gradients, net.last.weight.detach().double().numpy(), 0.1, 0.01)
    for i, (gradient, weights) in enumerate(zip(gradients, wanted, strict=True)):
        if i == 3:
            state, values = solver.state_dict(), net.state_dict()
            net, solver = fresh(kind)
            net.load_state_dict(values)
            solver.load_state_dict(state)
        net.last.weight.grad = torch.from_numpy(gradient).float()
        solver.step(i)
        np.testing.assert_allclose(net.last.weight.detach(), weights, rtol=2e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- the config


def test_a_solver_takes_the_place_of_the_configs_settings_but_not_of_the_command_lines(tmp_path):
    path = solver_file(tmp_path, STEP + PLACES)
    config = write_config(tmp_path / "config.py", tmp_path, SOLVER=str(path), BASE_LR=0.5)
    settings = read_settings(config)
    assert (settings.training.BASE_LR, settings.training.SOLVER["name"], settings.training.NITER) == (0.01, "caffe", 200000)
    assert {name for name, origin in settings.origins.items() if origin == str(path)} == {
        "BASE_LR", "LR_POLICY", "SOLVER", "SNAPSHOT_EVERY", "NITER",
    }  # fmt: skip
    assert read_settings(config, ["BASE_LR=0.3"]).training.BASE_LR == 0.3
    assert read_settings(config, [f"SOLVER={path}"]).training.SOLVER["name"] == "caffe"


def test_faults_of_the_file_are_said_with_the_config(tmp_path):
    config = write_config(tmp_path / "config.py", tmp_path, SOLVER=str(tmp_path / "no.prototxt"))
    with pytest.raises(UserError, match=r"config\.py: .*no\.prototxt does not exist"):
        read_settings(config)
    path = solver_file(tmp_path, STEP.replace("0.01", "-0.01"))
    with pytest.raises(UserError, match=r"BASE_LR = -0\.01: it must be a number above 0"):
        read_settings(write_config(tmp_path / "config.py", tmp_path, SOLVER=str(path)))


def test_training_prints_what_the_solver_sets_and_runs_for_its_iterations(databases, tmp_path, without_pictures):
    text = 'base_lr: 0.02 lr_policy: "inv" gamma: 0.01 power: 0.75 momentum: 0.9 weight_decay: 5e-4 max_iter: 2 snapshot: 2\n'
    path = solver_file(tmp_path, text + 'net: "x"')
    own = databases.copy(tmp_path / "own", "lmdb")
    ran = done(call("training", "--device", "cpu", "--config", own.config(SOLVER=str(path), BATCH_SIZE=2, val_ids=[])))
    assert f"{path}: BASE_LR = 0.02" in ran.out
    assert f"{path}: of no part here: net" in ran.out
    assert (own.snapshots / "net_iter_2.safetensors").exists()
    refused(call("training", "--config", own.config(BATCH_SIZE=2)), "--niter N or --minutes N, or NITER in the config")
