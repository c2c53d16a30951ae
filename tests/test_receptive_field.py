"""Proves that how far a net looks is computed right, and that windows overlap by that and suit each tile."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nets
from nets.layers import concat, conv, data, deconv, eltwise, pool, resize, score, unpool
from nets.net import Net
from nets.receptive import reach
from tools.base.errors import UserError
from tools.geo.windows import positions
from tools.inference.averages import Ensemble
from tools.inference.settings import InferenceSettings
from tools.inference.window_size import HALO, MOST, Windows, windows_for


def bare(name, x, planes, **options):
    return conv(name, x, planes, norm=False, relu=False, bias=False, **options)


def measured(net, size=128):
    """Two deviations, from a pixel, of where the gradients of its scores lie, for a linear net whose weights are all 1."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.ones_(module.weight)
    image = torch.zeros(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    out, places, variances = net.double().eval()(image)[0].sum(0), torch.arange(size), []
    for pixel in range(size // 2, size // 2 + 8):  # all phases of the strides
        (gradient,) = torch.autograd.grad(out[pixel, pixel], image, retain_graph=True)
        variances.append((gradient[0, 0].sum(0) * (places - pixel) ** 2).sum() / gradient.sum())
    return 2 * math.sqrt(sum(variances) / 8)


LINEAR = {
    "one kernel": [bare("a", "x", 1, kernel=7)],
    "dilated": [bare("a", "x", 1, kernel=3, dilation=5)],
    "deep": [bare("a", "x", 2), bare("b", "a", 3, kernel=5), bare("c", "b", 1)],
    "strides": [bare("a", "x", 2, stride=2), bare("b", "a", 2, stride=2, kernel=5), resize("up", "b", "x")],
    "a way back": [bare("a", "x", 1, kernel=4, stride=4, pad=0), deconv("up", "a", 1, 4, 4, bias=False)],
    "two ways": [bare("a", "x", 2, kernel=9), bare("b", "x", 2, kernel=81 // 9), eltwise("sum", "a", "b")],
}


@pytest.mark.parametrize("case", LINEAR)
def test_variances_are_those_of_gradients_if_all_weights_are_one(case):
    net = Net([data("x", 1), *LINEAR[case]])
    found, wanted = reach(net), measured(net)
    assert 0.9 * wanted <= found <= 1.1 * wanted + 1  # strides shift a little, and it is rounded up


def test_steps_by_hand():
    """(7 x 7 - 1) / 12 = 4, two deviations of which are 4 pixels; dilated by 3, 12; behind a pooling (1/4), 2 x 4.03."""
    assert reach(Net([data("x", 1), bare("a", "x", 1, kernel=7)])) == 4
    assert reach(Net([data("x", 1), bare("a", "x", 1, kernel=7, dilation=3)])) == 12
    behind = [data("x", 1), pool("p", "x"), bare("a", "p", 1, kernel=7), unpool("u", "a", "p_mask")]
    assert reach(Net(behind)) == math.ceil(2 * math.sqrt(1 / 4 + 4 * 4 + 4 / 6))


def test_ways_that_meet_count_by_their_planes_and_masks_and_sizes_not_at_all():
    """Three planes of a variance of 4 and one of 0: 3."""
    rows = [data("x", 1), bare("a", "x", 3, kernel=7), concat("c", "a", "x"), score("s", "c", 2, 1)]
    assert reach(Net(rows)) == math.ceil(2 * math.sqrt(3))
    assert reach(Net([*rows, resize("r", "s", "x")])) == reach(Net(rows))


def test_nets_of_the_zoo_look_as_far_before_and_after_their_norms_are_folded():
    found = {name: nets.build(name, {"irrg": 3}, 6) for name in ("segnet_slim", "unet", "unet_light/efficientnet_lite0")}
    far = {name: reach(net) for name, net in found.items()}
    assert far == {name: reach(net.eval().fuse()) for name, net in found.items()}
    assert far["unet"] < 32 < far["segnet_slim"] < far["unet_light/efficientnet_lite0"] < 128


class Known(nn.Module):
    """A net without a table; `reach` is what an ONNX file says."""

    classes, multiple = 2, 8

    def __init__(self, far=None):
        super().__init__()
        self.reach = far


def test_an_ensemble_looks_as_far_as_its_farthest_net_and_a_net_without_a_table_does_not_say():
    assert reach(Known()) is None
    assert reach(Ensemble([Known(5), Known(9)], [1, 1])) == 9
    assert reach(Ensemble([Known(5), Known()], [1, 1])) is None


# ---------------------------------------------------------------------------------------------------------------- windows


def test_steps_of_windows_by_hand():
    def step(side, halo, multiple):
        return Windows((side, side), None, halo, multiple).on((9999, 9999))[1][0]

    assert step(512, 64, 32) == 384
    assert step(512, 52, 32) == 384  # 512 - 104 = 408
    assert step(128, 64, 32) == 64  # half of the window at least
    assert step(256, 10, 1) == 236
    assert step(32, 50, 32) == 32  # nothing between 0 and the multiple


@given(st.integers(1, 16), st.integers(0, 64), st.sampled_from([1, 8, 32]), st.integers(1, 3000))
def test_inner_pixels_are_as_far_from_some_window_s_border_as_the_net_looks(parts, halo, multiple, length):
    windows = Windows((32 * parts, 32 * parts), None, halo, multiple, 32)
    (size, _), (step, _) = windows.on((length, length))
    starts = positions(length, size, step)
    assert 0 < step <= size <= 32 * parts and step % multiple == 0
    assert size % 32 == 0 and size - length < 32
    if size - 2 * halo < max(size // 2, multiple):
        return  # the net looks too far for windows so small
    for pixel in range(halo, length - halo, 7):
        assert any(start + halo <= pixel <= start + size - halo for start in starts) or length < size


@given(st.integers(1, 3000))
def test_no_other_window_covers_a_tile_with_fewer_pixels(length):
    windows = Windows((512, 512), None, 64, 1, 32)
    (size, _), (step, _) = windows.on((length, length))
    for side in range(512, 256, -32):
        if side - length < 32:
            step_of = max(side - 128, side // 2)
            assert size * len(positions(length, size, step)) <= side * len(positions(length, side, step_of))


NET = Net([data("x", 1), pool("p", "x"), conv("a", "p", 2), resize("u", "a", "x")])


def auto(**changes):
    return InferenceSettings(**{"test_patch_size": "auto", "test_step_size": "auto"} | changes)


def test_windows_that_are_chosen_overlap_by_how_far_the_net_looks():
    chosen = windows_for(auto(), NET)
    assert chosen == Windows((MOST, MOST), None, reach(NET), NET.multiple, 32)
    assert windows_for(auto(), Known(500)).halo == windows_for(auto(), Known()).halo == HALO
    assert windows_for(InferenceSettings(), NET, most=100).size == (96, 96)


def test_what_the_config_says_of_one_of_them_holds():
    assert windows_for(auto(test_step_size=0.25), NET).on((512, 300)) == ((512, 320), (128, 80))
    assert windows_for(auto(test_patch_size=(96, 64)), Known(8)).on((512, 300)) == ((96, 64), (80, 48))
    given = auto(test_patch_size=(96, 64), test_step_size=(32, 16))
    assert windows_for(given, NET).on((512, 300)) == ((96, 64), (32, 16))


def test_a_net_of_one_size_has_windows_of_that_size():
    assert windows_for(auto(), Known(8), only=64).on((500, 500)) == ((64, 64), (48, 48))
    assert windows_for(InferenceSettings(test_step_size=(32, 32)), NET, only=64).on((9, 9)) == ((64, 64), (16, 16))


def test_a_step_in_pixels_does_not_go_with_windows_of_several_sizes():
    with pytest.raises(UserError, match=r"test_step_size = \(32, 32\) is in pixels"):
        auto(test_step_size=(32, 32))


def test_windows_too_small_for_the_net_are_refused():
    with pytest.raises(UserError, match="windows of up to 20 pixels are too small to be chosen for this net: 32 at least"):
        windows_for(auto(), NET, most=20)


def test_as_json_and_in_words():
    chosen = windows_for(auto(), NET)
    assert json.loads(json.dumps(chosen.to_dict())) == {
        "window": [512, 512], "step": [512 - 2 * reach(NET) // NET.multiple * NET.multiple] * 2,
        "fitted": {"grid": 32, "multiple": NET.multiple, "halo": reach(NET), "share": None},
    }  # fmt: skip
    assert f"up to 512x512 pixels that suit each tile and overlap by {reach(NET)} pixels to each side" in str(chosen)
    assert Windows((64, 64), (32, 32)).to_dict()["fitted"] is None
