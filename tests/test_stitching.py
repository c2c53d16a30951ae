"""Proves that sliding windows give what the whole image would: every pixel once, probabilities averaged, little memory."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tools.base.pipeline import Ahead
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.geo.windows import TAPERS, Window
from tools.inference.blending import Canvas, predict
from tools.inference.forward import Forward
from tools.inference.sliding import STRIP, Plan, Sliding, batches

CPU = Device(torch.device("cpu"), bf16=False)
GREY = Input("grey", ("grey",), (1,), False, (0.0,))
BLENDS = ["flat", "linear", "cosine", "gaussian"]


class Opinionated(nn.Module):
    """Three classes, logits from the pixel, its neighbours and its place in the window: overlaps contradict each other."""

    classes = 3

    def forward(self, x):
        place = torch.arange(x.shape[2])[:, None] * 0.3 - torch.arange(x.shape[3]) * 0.2
        local = x[:, 0] / 50
        return torch.stack([local, local.mean((1, 2), keepdim=True) + place, 1 - local * place / 5], 1)


class Same(nn.Module):
    """The class of a pixel is its value, with certainty."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return 50 * torch.nn.functional.one_hot(x[:, 0].long(), self.classes).permute(0, 3, 1, 2).float()


class Local(nn.Module):
    """Four classes, from a pixel and its neighbours within 3 pixels, as a convolutional net's inside."""

    classes = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 7, padding=3, bias=False)
        nn.init.normal_(self.conv.weight, std=0.02, generator=torch.Generator().manual_seed(1))

    def forward(self, x):
        return self.conv(x)


def cut(image, window):
    """The pixels of a window: 1 x h x w."""
    rows, cols = window.slices
    return image[None, rows, cols]


def parts_of(net, image, sliding, read=None):
    """The parts as they come: (row, column, classes x rows x columns)."""
    forward = Forward(net.eval(), [GREY], CPU, sliding.batch, sliding.size)
    plan = Plan(image.shape, net.classes, sliding)
    ready = Ahead(batches(read or (lambda w: [cut(image, w)]), plan, plan.sections, CPU))
    return [(row, col, values.numpy()) for row, col, values in predict(forward, plan, ready, CPU)]


def label(net, image, *sliding, read=None):
    """(probabilities of the whole image, the parts as they came)."""
    parts = parts_of(net, image, Sliding(*sliding), read)
    found, covered = np.zeros((net.classes, *image.shape)), np.zeros(image.shape, int)
    for row, col, values in parts:
        rows, cols = Window(row, col, *values.shape[1:]).slices
        found[:, rows, cols] = values
        covered[rows, cols] += 1
    assert (covered == 1).all()
    return found, parts


def naive(net, image, size, step, blend="flat"):
    """The same in float64 with the whole image in memory, window after window."""
    height, width = image.shape
    weight = np.outer(*(by_hand(n, blend) for n in size))
    padded = np.pad(image, ((0, max(size[0] - height, 0)), (0, max(size[1] - width, 0))), mode="reflect")
    total, weights = np.zeros((net.classes, *padded.shape)), np.zeros(padded.shape)
    rows, cols = ({*range(0, n - s, d), n - s} for n, s, d in zip(padded.shape, size, step, strict=True))
    with torch.no_grad():
        for row in rows:
            for col in cols:
                there = Window(row, col, *size).slices
                values = net(torch.from_numpy(padded[there]).float()[None, None])[0].double().softmax(0).numpy()
                total[(slice(None), *there)] += values * weight
                weights[there] += weight
    return (total / weights)[:, :height, :width]


def by_hand(size, blend):
    """The weights along a side from their description: 1 in the middle, falling to both ends, never below 0.01."""
    weights = []
    for i in range(size):
        away = abs(i + 0.5 - size / 2) / (size / 2)  # 0 in the middle, 1 at the edge
        shapes = {"flat": 1, "linear": 1 - away, "cosine": (1 + np.cos(np.pi * away)) / 2, "gaussian": np.exp(-2 * away**2)}
        weights.append(0.01 + 0.99 * shapes[blend])
    return weights


@st.composite
def cases(draw):
    """An image and how windows slide over it, in sections of any size."""
    size = draw(st.integers(2, 14)), draw(st.integers(2, 14))
    step = draw(st.integers(1, size[0])), draw(st.integers(1, size[1]))
    shape = draw(st.integers(1, 33)), draw(st.integers(1, 33))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    image = rng.integers(0, 256, shape).astype(np.uint8)
    batch, blend, section = draw(st.integers(1, 7)), draw(st.sampled_from(BLENDS)), draw(st.sampled_from([1, 500, 5000, 2**22]))
    return image, Sliding(size, step, batch, blend, section=section)


@given(cases())
@settings(max_examples=80)
def test_an_image_of_any_size_is_labelled_as_if_it_were_whole(case):
    image, sliding = case
    found, parts = label(Opinionated(), image, *sliding)
    assert found.shape == (3, *image.shape)
    np.testing.assert_allclose(found, naive(Opinionated(), image, sliding.size, sliding.step, sliding.blend), atol=2e-5)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert [first for first, _, _ in parts] == list(np.cumsum([0] + [b.shape[1] for _, _, b in parts[:-1]]))
    assert max(b.shape[1] for _, _, b in parts) <= sliding.size[0]


@given(cases())
@settings(max_examples=30)
def test_every_pixel_gets_its_own_label_also_in_the_last_row_and_column_and_nothing_is_transposed(case):
    image, sliding = case
    image = image % 5
    found, _ = label(Same(5), image, *sliding)
    assert np.array_equal(found.argmax(0), image)


@given(cases())
@settings(max_examples=30)
def test_a_constant_net_gives_a_constant_map_without_seams(case):
    class Constant(nn.Module):
        classes = 3

        def forward(self, x):
            return torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(len(x), 3, *x.shape[2:])

    image, sliding = case
    found, _ = label(Constant(), image, *sliding)
    expected = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], found.shape), rtol=2e-5)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 99))
@settings(max_examples=15)
def test_a_moved_image_gets_the_moved_labels_inside(down, right, seed):
    """Where no window's border is near: a pixel's label must not depend on where the windows happen to stand."""
    scene = np.random.default_rng(seed).integers(0, 256, (70, 80)).astype(np.uint8)
    margins = Sliding((24, 24), (6, 6), 8, "cosine")
    here, there = scene[:58, :68], scene[down : down + 58, right : right + 68]
    found = [label(Local(), np.ascontiguousarray(image), *margins)[0] for image in (here, there)]
    inside = found[0][:, 16 + down : 42, 16 + right : 52], found[1][:, 16 : 42 - down, 16 : 52 - right]
    sure = np.sort(inside[0], 0)[-1] - np.sort(inside[0], 0)[-2] > 0.2  # borders of windows weigh little, but not nothing
    assert sure.any()
    assert np.array_equal(inside[0].argmax(0)[sure], inside[1].argmax(0)[sure])


def test_probabilities_are_averaged_not_logits():
    """One window is very sure of class 0, two are fairly sure of class 1: their logits would add up to class 0."""

    class ByColumn(nn.Module):
        classes = 2

        def forward(self, x):
            logits = torch.zeros(len(x), 2, *x.shape[2:])
            logits[:, 1] = 2
            logits[:, :, :, 4] = torch.tensor([20.0, 0.0])[:, None]
            return logits

    found, _ = label(ByColumn(), np.zeros((1, 12), np.uint8), (1, 6), (1, 2), 4)  # column 4: windows 0, 2 and 4 lie over it
    sure, fair = 1 / (1 + np.exp(-20)), 1 / (1 + np.exp(2))
    np.testing.assert_allclose(found[0, 0, 4], (sure + 2 * fair) / 3, rtol=1e-6)
    assert found[:, 0, 4].argmax() == 1


def test_more_than_255_windows_over_a_pixel_are_counted_right():
    image = np.random.default_rng(0).integers(0, 256, (44, 46)).astype(np.uint8)
    found, _ = label(Opinionated(), image, (20, 20), (1, 1), 64)  # 400 windows over each inner pixel
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)
    np.testing.assert_allclose(found, naive(Opinionated(), image, (20, 20), (1, 1)), atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------- strips


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("width", [600, 768, 1001])
def test_column_strips_give_what_whole_rows_give(width, blend):
    image = np.random.default_rng(width).integers(0, 256, (40, width)).astype(np.uint8)
    whole, _ = label(Opinionated(), image, (16, 24), (6, 10), 5, blend)
    strips, parts = label(Opinionated(), image, (16, 24), (6, 10), 5, blend, 0.05)
    np.testing.assert_allclose(strips, whole, atol=1e-6)
    assert {col for _, col, _ in parts} == set(range(0, width, STRIP))
    assert [col for _, col, _ in parts] == sorted(col for _, col, _ in parts)


def test_a_net_that_looks_at_single_windows_gives_the_same_numbers_in_strips_bit_for_bit():
    image = np.random.default_rng(1).integers(0, 256, (40, 700)).astype(np.uint8)
    whole, _ = label(Opinionated(), image, (16, 24), (6, 10), 1, "cosine")
    strips, _ = label(Opinionated(), image, (16, 24), (6, 10), 1, "cosine", 0.05)
    assert np.array_equal(whole, strips)


@given(st.integers(1, 100_000), st.integers(1, 20), st.integers(1, 3000), st.floats(0.01, 500))
def test_strips_cover_the_width_begin_at_blocks_and_take_no_more_memory_than_allowed(width, classes, size, memory):
    strips = Sliding((size, size), (size, size), 1, "flat", memory).strips(width, classes)
    assert [first for first, _ in strips] == [0, *(end for _, end in strips[:-1])]
    assert strips[-1][1] == width
    assert all(first % STRIP == 0 for first, _ in strips)
    widest = max(end - first for first, end in strips)
    assert 4 * classes * size * widest <= memory * 2**20 or widest <= size + STRIP


@given(cases(), st.integers(1, 9))
@settings(max_examples=200)
def test_sections_have_all_rows_of_windows_and_overlap_with_the_next_one_at_most(case, classes):
    image, sliding = case
    sections = Plan(image.shape, classes, sliding).sections
    starts = sorted({*range(0, image.shape[0] - sliding.size[0], sliding.step[0]), max(0, image.shape[0] - sliding.size[0])})
    assert [row for section in sections for row in section.rows] == starts
    bottoms = [min(section.rows[-1] + sliding.size[0], image.shape[0]) for section in sections]
    assert [section.bottom for section in sections] == bottoms
    assert [section.below for section in sections] == [*(section.rows[0] for section in sections[1:]), image.shape[0]]
    assert all(bottom <= after.rows[0] for bottom, after in zip(bottoms, sections[2:], strict=False))


def test_sections_have_as_many_windows_as_asked_for_but_the_only_one():
    least = 60 * 128 * 128  # pixels
    plan = Plan((1064, 900), 6, Sliding((128, 128), (64, 64), 16, section=least))
    across = 14  # windows at 0, 64 ... 768, 772
    assert [len(section.rows) * across for section in plan.sections] == [70, 70, 84]  # 16 rows
    assert len(Plan((100, 900), 6, Sliding((128, 128), (64, 64), 16, section=least)).sections) == 1


def test_large_windows_leave_enough_sections_to_be_shared():
    for window, step, sections in ((128, 64, 156), (512, 384, 26), (1024, 896, 11)):
        plan = Plan((20_000, 20_000), 6, Sliding((window, window), (step, step), 1, memory=1000))
        assert len(plan.sections) == sections  # the rows of windows, two to a section


def held():
    """Bytes of all tensors that are alive."""
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.device.type == "cpu"]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("section", [1, 2**40])
def test_memory_grows_with_the_width_of_the_image_not_with_its_length(section):
    net, width = Same(6), 256
    plans = [Plan((height, width), 6, Sliding((64, 64), (48, 48), 4, "cosine", section=section)) for height in (600, 1800)]

    def peak(plan):
        forward, image = Forward(net.eval(), [GREY], CPU, 4, (64, 64)), np.zeros(plan.shape, np.uint8)
        ready = Ahead(batches(lambda w: [cut(image, w)], plan, plan.sections, CPU))
        return max(held() if i % 6 == 5 else 0 for i, _ in enumerate(predict(forward, plan, ready, CPU)))

    before, canvas = held(), 4 * 6 * 64 * width
    short, long = (peak(plan) - before for plan in plans)
    assert long < 1.5 * short
    assert long < 5 * canvas + 4 * 4 * 64 * 64 * 6 * 4  # the ring, a part on its way, the rows above; logits, probabilities


def test_the_canvas_never_holds_more_rows_than_a_window():
    canvas = Canvas(Plan((500, 30), 2, Sliding((16, 8), (4, 4), 1)), (0, 30))
    assert canvas.total.shape == (2, 16, 30)
    for row in range(0, 488, 4):
        for part in canvas.finished_above(row):
            assert part.probabilities.shape[1] <= 16
        for col in [*range(0, 22, 4), 22]:
            canvas.add(Window(row, col, 16, 8), torch.ones(2, 16, 8))
        assert canvas.total.shape == (2, 16, 30)


# ----------------------------------------------------------------------------------------------------- reading and batches


@given(cases())
@settings(max_examples=30)
def test_nothing_outside_the_image_is_read_and_in_a_strip_no_pixel_twice(case):
    image, sliding = case
    times = np.zeros(image.shape, int)

    def read(window):
        assert min(window) >= 0 and window.row + window.height <= image.shape[0] and window.col + window.width <= image.shape[1]
        times[window.slices] += 1
        return [cut(image, window)]

    label(Same(256), image, *sliding, read=read)
    assert (times == 1).all()


def test_batches_are_as_large_as_asked_but_for_the_last():
    sizes = []

    class Watching(Same):
        def forward(self, x):
            sizes.append(tuple(x.shape))
            return super().forward(x)

    label(Watching(2), np.zeros((10, 50), np.uint8), (16, 16), (8, 8), 4)
    assert sizes == [(4, 1, 16, 16), (2, 1, 16, 16)]


def test_the_result_does_not_depend_on_the_batch_but_for_rounding():
    image = np.random.default_rng(0).integers(0, 256, (50, 60)).astype(np.uint8)
    first, *others = (label(Local(), image, (16, 16), (8, 8), batch)[0] for batch in (1, 3, 16, 1000))
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)


def test_what_goes_wrong_while_reading_ahead_is_raised_where_the_parts_are_used():
    def read(window):
        if window.row > 20:
            raise ValueError("the disk is gone")
        return [np.zeros((1, window.height, window.width), np.uint8)]

    with pytest.raises(ValueError, match="the disk is gone"):
        label(Same(2), np.zeros((64, 16), np.uint8), (16, 16), (8, 8), 2, read=read)


def test_no_taper_is_zero_at_the_border_of_a_window():
    for blend, taper in TAPERS.items():
        for size in (1, 2, 7, 128):
            weights = taper(size)
            assert weights.min() >= 0.01 and weights.max() <= 1, blend
            np.testing.assert_allclose(weights, weights[::-1], atol=1e-6)
