"""Proves that training under Caffe's solver gives Caffe's parameters: after the two iterations that a real Caffe did
(tests/data/caffe), and by Caffe's formulas where that run shows nothing."""

import numpy as np
import pytest
import torch
from conftest import caffes
from torch import nn
from torch.nn import functional as F

from nets.caffe.prototxt import read_prototxt
from nets.net import Net
from tools.solver.solver import SGD, Solver, parameter_groups
from tools.weights.caffe import load_caffemodel, slots
from tools.weights.caffe_batch_norm import batches_of, factor, use_caffe_average


def test_two_iterations_give_the_parameters_losses_and_statistics_that_caffe_got():
    table = read_prototxt(caffes("tiny_segnet_train.prototxt"))
    net = Net(table.rows).train()
    load_caffemodel(net, caffes("tiny_segnet_init.caffemodel"))
    use_caffe_average(net)
    groups = parameter_groups(net, [], 5e-4)
    for group in groups:
        group["lr"] = 0.01 * group["lr_mult"]
    optimizer = SGD(groups, lr=0.01, momentum=0.9)
    reference = np.load(caffes("tiny_segnet_train.npz"))
    for i, tolerance in enumerate((1e-6, 1e-4)):
        scores = net(torch.from_numpy(reference["data"][i]))
        labels = torch.from_numpy(reference["label"][i, :, 0]).long()
        loss = F.cross_entropy(scores, labels, ignore_index=table.ignore_label)
        assert loss.item() == pytest.approx(reference["loss"][i], abs=1e-5)
        assert (scores.argmax(1) == labels).float().mean().item() == pytest.approx(reference["accuracy"][i], abs=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        compare(net, {k.split("/", 1)[1]: reference[k] for k in reference if k.startswith(f"param{i + 1}/")}, i + 1, tolerance)


def compare(net, wanted, batches, tolerance):
    """Every blob against Caffe's: parameters to the tolerance, BatchNorm's sums to 1e-5 of the largest value or of 1."""
    held = slots(net)
    assert len(wanted) == 177
    for name, values in wanted.items():
        layer, index = name.split("/")
        ours = held[layer].blobs()[int(index)]
        if held[layer].norm is None:
            np.testing.assert_allclose(ours, values, rtol=0, atol=tolerance, err_msg=name)
        else:  # ours are divided by the factor
            atol = 1e-5 * max(1, np.abs(values).max())
            np.testing.assert_allclose(ours * factor(batches), values, rtol=0, atol=atol, err_msg=name)


def test_the_rate_is_inside_the_history_so_that_a_step_of_the_rate_acts_as_in_caffe():
    weight = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = SGD([{"params": [weight], "weight_decay": 0.1}], lr=0.5, momentum=0.9)
    w, h = np.array([2.0, -1.0]), np.zeros(2)
    for lr in (0.5, 0.5, 0.05, 0.05):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
        h = 0.9 * h + lr * (2 * w + 0.1 * w)
        w = w - h
        np.testing.assert_allclose(weight.detach(), w, rtol=1e-12)


def test_an_optimizer_goes_on_from_its_state():
    def run(steps, state=None, start=None):
        weight = nn.Parameter(torch.ones(3) if start is None else start.clone())
        optimizer = SGD([{"params": [weight], "weight_decay": 5e-4}], lr=0.1, momentum=0.9)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.zero_grad()
            (weight**3).sum().backward()
            optimizer.step()
        return weight.detach(), optimizer.state_dict()

    whole, _ = run(6)
    half, state = run(3)
    assert torch.equal(run(3, state, half)[0], whole)


def test_the_average_is_caffes_three_sums():
    """Sums of means, of variances m / (m - 1), and of ones, each times 0.999 before the next is added."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    use_caffe_average(norm)
    sums = [np.zeros(3), np.zeros(3), 0.0]
    for _ in range(5):
        x = torch.randn(4, 3, 5, 2) * 3 + 1
        norm(x)
        values = x.double().numpy()
        new = values.mean((0, 2, 3)), values.var((0, 2, 3), ddof=1), 1
        sums = [0.999 * s + n for s, n in zip(sums, new, strict=True)]
    np.testing.assert_allclose(norm.running_mean, sums[0] / sums[2], rtol=1e-5)
    np.testing.assert_allclose(norm.running_var, sums[1] / sums[2], rtol=1e-5)
    assert factor(5) == pytest.approx(sums[2], rel=1e-12)
    before = norm.running_mean.clone()
    norm.eval()(torch.randn(2, 3, 4, 4))
    assert torch.equal(norm.running_mean, before)


def test_the_average_goes_on_from_a_snapshot_that_holds_ordinary_buffers_only():
    batches = torch.randn(6, 4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    whole, first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    names = list(whole.state_dict())
    use_caffe_average(whole)
    use_caffe_average(first)
    for batch in batches:
        whole(batch)
    for batch in batches[:3]:
        first(batch)
    assert list(first.state_dict()) == names
    second.load_state_dict(first.state_dict())
    use_caffe_average(second)
    for batch in batches[3:]:
        second(batch)
    assert torch.equal(second.running_mean, whole.running_mean)
    assert torch.equal(second.running_var, whole.running_var)


@pytest.mark.parametrize("batches", [0, 1, 2, 77, 700])
@pytest.mark.parametrize("fraction", [0.999, 0.99, 1])
def test_the_factor_tells_how_many_batches_there_were(batches, fraction):
    assert factor(batches, fraction) == pytest.approx(sum(fraction**i for i in range(batches)))
    assert batches_of(float(np.float32(factor(batches, fraction))), fraction) == pytest.approx(batches, rel=0.001)


def test_a_factor_beyond_its_limit_counts_as_many_batches():
    assert batches_of(1000.0) > 10_000
    assert batches_of(1234.5) > 10_000  # an average kept by hand, say


def test_the_config_s_caffe_solver_averages_batch_norm_as_caffe_and_the_others_as_pytorch():
    torch.manual_seed(1)
    images = [5 + 2 * torch.randn(2, 1, 4, 4) for _ in range(3)]
    means = {}
    for name in ("sgd", "caffe"):
        net = nn.Sequential(nn.BatchNorm2d(1)).train()
        Solver(net, 0.1, {"name": "fixed"}, {"name": name, "momentum": 0.9, "weight_decay": 0.0})
        for image in images:
            net(image)
        means[name] = net[0].running_mean.item()
    batch = [image.mean().item() for image in images]
    a, b, c = 0.999**2, 0.999, 1.0
    assert means["caffe"] == pytest.approx((a * batch[0] + b * batch[1] + c * batch[2]) / (a + b + c), rel=1e-5)
    assert means["sgd"] == pytest.approx(0.1 * (0.81 * batch[0] + 0.9 * batch[1] + batch[2]), rel=1e-5)
