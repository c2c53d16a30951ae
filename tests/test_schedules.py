"""Proves that the learning rate follows the formula that the config names: by hand, by PyTorch's own schedulers, and read back
from the groups of the optimizer."""

import math

import pytest
import torch
from conftest import call, refused
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR, PolynomialLR, ReduceLROnPlateau

from nets.layers import data, score
from nets.net import Net
from tools.base.errors import UserError
from tools.solver.schedules import POLICIES, Schedule
from tools.solver.solver import Solver

SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0}
EACH = {
    "fixed": {},
    "step": {"step_iterations": 7, "gamma": 0.5},
    "multistep": {"at_iterations": [3, 10, 11], "gamma": 0.1},
    "exp": {"gamma": 0.9},
    "inv": {"gamma": 0.1, "power": 0.75},
    "sigmoid": {"step_iterations": 10, "slope": -0.5},
    "poly": {"max_iterations": 40, "power": 0.9},
    "cosine": {"max_iterations": 40},
    "one_cycle": {"max_iterations": 40},
    "plateau": {"gamma": 0.5, "patience_validations": 2},
}


def rates(count, name, base=0.3, **numbers):
    """The rates of the first iterations, by our schedule."""
    schedule = Schedule(base, {"name": name} | EACH[name] | numbers)
    return [schedule.rate(i) for i in range(count)]


def torch_rates(count, scheduler, base=0.3, **numbers):
    """The same by a scheduler of PyTorch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedule, found = scheduler(optimizer, **numbers), []
    for i in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if i < count - 1:
            schedule.step()
    return found


def test_each_policy_is_tried():
    assert set(EACH) == set(POLICIES)


def test_multistep_drops_at_the_iterations_that_are_named():
    assert rates(15, "multistep") == pytest.approx(torch_rates(15, MultiStepLR, milestones=[3, 10, 11], gamma=0.1))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("exp", lambda i: 0.3 * 0.9**i),
        ("inv", lambda i: 0.3 * (1 + 0.1 * i) ** -0.75),
        ("sigmoid", lambda i: 0.3 / (1 + math.exp(0.5 * (i - 10)))),
    ],
)
def test_caffes_further_policies_follow_the_formulas_of_its_solver(name, formula):
    """sgd_solver.cpp, GetLearningRate; its sigmoid has gamma where ours has slope."""
    assert rates(30, name) == pytest.approx([formula(i) for i in range(30)])
    assert Schedule(1.0, {"name": "sigmoid", "step_iterations": 5000, "slope": 1}).rate(0) == 0.0


def test_poly_falls_to_0_at_its_end():
    found = rates(41, "poly")
    assert found == pytest.approx(torch_rates(41, PolynomialLR, total_iters=40, power=0.9))
    assert found[0] == 0.3 and found[20] == pytest.approx(0.3 * 0.5**0.9) and found[40] == 0


def test_cosine_falls_to_its_final_fraction():
    assert rates(41, "cosine") == pytest.approx(torch_rates(41, CosineAnnealingLR, T_max=40), abs=1e-12)
    expected = torch_rates(41, CosineAnnealingLR, T_max=40, eta_min=0.03)
    assert rates(45, "cosine", final_fraction=0.1)[:41] == pytest.approx(expected)
    assert rates(45, "cosine", final_fraction=0.1)[44] == pytest.approx(0.03)


@pytest.mark.parametrize("length", [3, 10, 40, 1000])
def test_one_cycle_is_pytorchs(length):
    expected = torch_rates(length, OneCycleLR, max_lr=0.3, total_steps=length)
    assert rates(length, "one_cycle", max_iterations=length) == pytest.approx(expected)
    numbers = {"rise_fraction": 0.5, "start_divisor": 10.0, "final_divisor": 100.0}
    expected = torch_rates(
        length, OneCycleLR, max_lr=0.3, total_steps=length, pct_start=0.5, div_factor=10, final_div_factor=100
    )
    assert rates(length, "one_cycle", max_iterations=length, **numbers) == pytest.approx(expected)


@pytest.mark.parametrize("length", [3, 10, 40])
@pytest.mark.parametrize("name", ["sgd", "caffe", "adamw"])
def test_one_cycle_swings_the_momentum_as_pytorch_does_where_asked(name, length):
    """PyTorch's scheduler moves SGD's momentum and Adam's first beta between 0.95 and 0.85."""
    kind = {"betas": (0.95, 0.9)} if name == "adamw" else {"momentum": 0.95}
    theirs = (torch.optim.AdamW if name == "adamw" else torch.optim.SGD)([torch.nn.Parameter(torch.zeros(1))], 0.3, **kind)
    schedule = OneCycleLR(theirs, 0.3, total_steps=length, base_momentum=0.85, max_momentum=0.95)
    solver = {"name": name, "weight_decay": 0} | ({"beta1": 0.95, "beta2": 0.9} if name == "adamw" else kind)
    net = Net([data("data", 1), score("last", "data", 2)])
    ours = Solver(net, 0.3, {"name": "one_cycle", "max_iterations": length, "lowest_momentum": 0.85}, solver)
    for i in range(length):
        ours.step(i)
        for group in ours.optimizer.param_groups:
            for key in kind:
                assert group[key] == pytest.approx(theirs.param_groups[0][key])
        theirs.step()
        if i < length - 1:
            schedule.step()


def test_one_cycle_moves_the_weights_by_its_momentum():
    """A gradient of 1 throughout, by hand: momentum 0.9, 0.5 at the top, 0.9; the rate is a tenth, all and nothing of 0.3."""
    weight = torch.nn.Parameter(torch.zeros(1))
    net = torch.nn.Module()
    net.register_module("layer", torch.nn.Module())
    net.layer.register_parameter("weight", weight)
    policy = {"name": "one_cycle", "max_iterations": 3, "rise_fraction": 2 / 3, "start_divisor": 10, "lowest_momentum": 0.5}
    solver, found = Solver(net, 0.3, policy, SGD), []
    for i in range(3):
        weight.grad = torch.ones(1)
        solver.step(i)
        found.append(-weight.item())
    first, second = 0.03, 0.5 * 0.03 + 0.3
    third = 0.9 * second + 0.03 / 1e4
    assert found == pytest.approx([first, first + second, first + second + third], rel=1e-5)


@pytest.mark.parametrize("solver", [SGD, {"name": "adamw", "weight_decay": 0, "beta1": 0.8}])
def test_without_the_option_the_momentum_stays(solver):
    net = Net([data("data", 1), score("last", "data", 2)])
    ours = Solver(net, 0.3, {"name": "one_cycle", "max_iterations": 4}, solver)
    for i in range(4):
        ours.step(i)
        group = ours.optimizer.param_groups[0]
        assert group.get("momentum", 0.9) == 0.9 and group.get("betas", (0.8, 0.999)) == (0.8, 0.999)


def test_a_lowest_momentum_above_the_solvers_is_refused():
    net = Net([data("data", 1), score("last", "data", 2)])
    with pytest.raises(UserError, match=r"lowest_momentum = 0.95 is above the 0.9 of SOLVER"):
        Solver(net, 0.3, {"name": "one_cycle", "max_iterations": 4, "lowest_momentum": 0.95}, SGD)


@pytest.mark.parametrize("length", [1, 2])
def test_one_cycle_of_hardly_any_iterations_has_rates(length):
    assert all(0 < rate <= 0.3 for rate in rates(length, "one_cycle", max_iterations=length, rise_fraction=0.5))


@pytest.mark.parametrize("name", EACH)
def test_a_warm_up_multiplies_the_first_rates_by_a_line_that_ends_at_1(name):
    plain, warm = rates(12, name), rates(12, name, warmup_iterations=5)
    assert warm == pytest.approx([r * min(1, (i + 1) / 5) for i, r in enumerate(plain)])
    assert warm[0] > 0 and warm[4] == plain[4]


@pytest.mark.parametrize("name", EACH)
def test_the_optimizer_holds_the_rate_of_the_schedule_times_the_multipliers(name):
    net = Net([data("data", 1), score("last", "data", 2)])
    solver = Solver(net, 0.3, {"name": name, "warmup_iterations": 3} | EACH[name], SGD)
    for i, rate in enumerate(rates(15, name, warmup_iterations=3)):
        solver.step(i)  # without gradients: it sets the rates alone
        held = {id(p): group["lr"] for group in solver.optimizer.param_groups for p in group["params"]}
        assert held[id(net.last.weight)] == pytest.approx(rate) and held[id(net.last.bias)] == pytest.approx(rate)


# ------------------------------------------------------------------------------------------------------------- plateau

SCORES = [0.1, 0.3, 0.29, 0.3, 0.301, 0.2, 0.4, 0.4, 0.41, 0.41, 0.41, 0.41, 0.2, 0.1, 0.1, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("least", [0.0, 0.005])
def test_plateau_is_pytorchs(least):
    schedule = Schedule(0.3, {"name": "plateau", "least_improvement": least} | EACH["plateau"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    judge = {"mode": "max", "threshold_mode": "abs", "threshold": least, "eps": 0}
    theirs = ReduceLROnPlateau(optimizer, factor=0.5, patience=2, **judge)
    for i, value in enumerate(SCORES):
        schedule.report(value)
        theirs.step(value)
        assert schedule.rate(i) == pytest.approx(optimizer.param_groups[0]["lr"]), i
    assert schedule.rate(0) < 0.3


def test_plateau_goes_on_from_its_state():
    def new():
        return Schedule(0.3, {"name": "plateau"} | EACH["plateau"])

    for cut in range(len(SCORES)):
        unbroken, first, second = new(), new(), new()
        for value in SCORES[:cut]:
            first.report(value)
        second.load_state_dict(first.state_dict())
        for value in SCORES:
            unbroken.report(value)
        for value in SCORES[cut:]:
            second.report(value)
        assert second.state_dict() == unbroken.state_dict()


def test_scores_do_not_move_the_other_policies():
    schedule = Schedule(0.3, {"name": "cosine"} | EACH["cosine"])
    before = schedule.rate(3)
    for _ in range(20):
        schedule.report(0.0)
    assert schedule.rate(3) == before and schedule.state_dict() == {}


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"name": "cosin", "max_iterations": 5}, "LR_POLICY names 'cosin', which there is not. Did you mean 'cosine'?"),
        ({"name": ["step"]}, "which there is not"),
        ({"name": "poly", "max_iterations": 5}, "'poly' needs a number, 0 or more, for 'power'; it is None"),
        ({"name": "poly", "max_iterations": 0, "power": 1}, "max_iterations = 0: it must be 1 or more"),
        ({"name": "cosine", "max_iterations": None}, "for 'max_iterations'; it is None"),
        ({"name": "cosine", "max_iterations": 10.5}, "max_iterations = 10.5"),
        ({"name": "cosine", "max_iterations": True}, "for 'max_iterations'; it is True"),
        ({"name": "cosine", "max_iterations": math.nan}, "it is nan"),
        ({"name": "cosine", "max_iterations": 5, "final_fraction": 2}, "final_fraction = 2: it must be 1 or less"),
        ({"name": "cosine", "max_iteration": 5}, "does not read 'max_iteration'; it reads max_iterations"),
        ({"name": "multistep", "at_iterations": 5, "gamma": 0.1}, "needs a list of numbers, 0 or more, for 'at_iterations'"),
        ({"name": "multistep", "at_iterations": [5, 3], "gamma": 0.1}, "at_iterations = [5, 3]: it must be"),
        ({"name": "multistep", "at_iterations": [], "gamma": 0.1}, "it is []"),
        ({"name": "one_cycle", "max_iterations": 9, "rise_fraction": 1}, "rise_fraction = 1: it must be between 0 and 1"),
        ({"name": "one_cycle", "max_iterations": 9, "lowest_momentum": 1}, "lowest_momentum = 1: it must be below 1"),
        ({"name": "cosine", "max_iterations": 9, "lowest_momentum": 0.8}, "'cosine' does not read 'lowest_momentum'"),
        ({"name": "fixed", "warmup_iterations": "9"}, "for 'warmup_iterations'; it is '9'"),
        ({"name": "fixed", "warmup_iterations": -1}, "for 'warmup_iterations'; it is -1"),
        ({"name": "plateau", "gamma": 0.1}, "for 'patience_validations'; it is None"),
    ],
)
def test_a_policy_that_is_not_there_or_has_wrong_numbers_is_refused(policy, words):
    with pytest.raises(UserError) as found:
        Schedule(0.1, policy)
    assert words in str(found.value)


@pytest.mark.parametrize("rate", [0, -0.1, math.nan, math.inf])
def test_a_learning_rate_that_is_not_above_0_is_refused(rate):
    with pytest.raises(UserError, match=r"BASE_LR = .*: the learning rate must be a number above 0"):
        Schedule(rate, {"name": "fixed"})


def test_a_run_beyond_the_end_of_its_schedule_is_refused(databases, tmp_path):
    config = databases.config(LR_POLICY={"name": "poly", "max_iterations": 10, "power": 0.9})
    ran = call("training", "--niter", 11, "--config", config, "--device", "cpu", "--snapshot", tmp_path)
    databases.config()
    refused(ran, "--niter 11", "max_iterations = 10")
    Schedule(0.1, {"name": "poly", "max_iterations": 10, "power": 0.9}).check(10)
    Schedule(0.1, {"name": "fixed"}).check(10**9)


def test_plateau_without_validation_tiles_is_refused(databases, tmp_path):
    config = databases.config(LR_POLICY={"name": "plateau"} | EACH["plateau"], val_ids=[])
    ran = call("training", "--niter", 2, "--config", config, "--device", "cpu", "--snapshot", tmp_path)
    databases.config()
    refused(ran, "plateau", "val_ids is empty")
