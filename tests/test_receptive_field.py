"""Proves that how far a net looks is measured right, and that windows overlap by that."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nets
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.geo.windows import positions
from tools.inference.window_size import effective_radius, large_windows, step_for

CPU = Device(torch.device("cpu"), bf16=False)
GREY = [Input("grey", ("grey",), (1,), False, (0.0,))]


class Looking(nn.Module):
    """One convolution whose weights are all 1."""

    classes, multiple = 2, 1

    def __init__(self, kernel, dilation=1, inputs=1):
        super().__init__()
        pad = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, 2, kernel, padding=pad, dilation=dilation, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, *images):
        return self.conv(torch.cat(images, 1))


@pytest.mark.parametrize(("net", "radius"), [(Looking(1), 0), (Looking(7), 3), (Looking(3, dilation=5), 5)])
def test_all_of_a_kernel_counts(net, radius):
    assert effective_radius(net, [1], CPU) == radius


def test_a_share_of_the_kernel_by_hand():
    """Of 49 equal weights, 9 lie within 1 pixel, and 25 within 2."""
    found = [effective_radius(Looking(7), [1], CPU, share) for share in (0.01, 9 / 49 - 0.001, 9 / 49 + 0.001, 0.5, 0.52)]
    assert found == [0, 1, 2, 2, 3]


def test_all_inputs_count():
    assert effective_radius(Looking(5, inputs=4), [1, 3], CPU) == 2


def test_a_real_net_looks_further_than_its_first_layer_and_not_further_than_its_kernels_allow():
    torch.manual_seed(1)
    net = nets.build("segnet", {"irrg": 3}, 4, planes=(4, 4, 4, 4, 4)).eval()
    assert 2 < effective_radius(net, [3], CPU) < 128
    assert effective_radius(net, [3], CPU) == effective_radius(net, [3], CPU)


def test_steps_by_hand():
    assert step_for(512, 52, 32) == 384  # 512 - 104 = 408
    assert step_for(128, 52, 32) == 32  # 24 would do, but a step is a quarter of the window at least
    assert step_for(256, 200, 32) == 64
    assert step_for(96, 0, 32) == 96
    assert step_for(32, 50, 32) == 32  # nothing between 0 and the multiple


@given(st.integers(1, 40), st.integers(0, 200), st.sampled_from([1, 8, 32]), st.integers(1, 3000))
def test_inner_pixels_are_as_far_from_some_window_s_border_as_the_net_looks(parts, radius, multiple, length):
    size = parts * multiple
    step = step_for(size, radius, multiple)
    assert 0 < step <= size and step % multiple == 0
    if size - 2 * radius < max(size // 4, multiple):
        return  # the net looks too far for windows so small
    starts = positions(length, size, step)
    for pixel in range(radius, length - radius, 7):
        assert any(start + radius <= pixel <= start + size - radius for start in starts) or length < size


class Near(nn.Module):
    """Looks at a pixel and its neighbours; sides must be multiples of 8."""

    multiple = 8

    def forward(self, x):
        return nn.functional.avg_pool2d(x, 3, 1, 1)


def test_windows_are_as_much_smaller_as_lets_the_fewest_pixels_cover_the_tiles(capsys):
    # 100 rows: one window of 104; 210 columns: two of 112 (104 apart, which is 112 less 2 x 1, down to a multiple of 8)
    assert large_windows(Near(), GREY, CPU, 128, [(100, 210)]) == ((104, 112), (96, 104))
    assert "windows of 104x112 pixels, 96x104 apart" in capsys.readouterr().out
    least = min(side * len({*range(0, 210 - side, side - 8), 210 - side}) for side in range(72, 129, 8))
    assert least == 2 * 112


def test_windows_of_many_tiles_suit_them_all(capsys):
    widths = (64, 100, 20)
    (height, width), _ = large_windows(Near(), GREY, CPU, 64, [(64, n) for n in widths])

    def starts(n, side):
        return {*range(0, max(n - side, 0), side - 8), max(n - side, 0)}

    cost = {side: sum(side * len(starts(n, side)) for n in widths) for side in (40, 48, 56, 64)}
    assert (height, cost[width]) == (64, min(cost.values()))
