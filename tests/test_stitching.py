"""Proves that sliding windows give what the whole image would: every pixel once, probabilities averaged, little memory."""

import tracemalloc

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tools.device import Device
from tools.inputs import Input
from tools.stitching import TAPERS, RowBuffer, inside, predict
from tools.windows import Window

CPU = Device(torch.device("cpu"), bf16=False)
GREY = Input("grey", ("grey",), (1,), False, (0.0,))


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


def cut(image, window):
    """The pixels of a window: 1 x h x w."""
    rows, cols = window.slices
    return image[None, rows, cols]


def label(net, image, size, step, batch=4):
    """(probabilities of the whole image, the bands as they came)."""
    bands = list(predict(net, [GREY], lambda w: [cut(image, w)], image.shape, size, step, batch, CPU))
    return np.concatenate([b for _, b in bands], axis=1), bands


def naive(net, image, size, step):
    """The same in float64 with the whole image in memory, window after window."""
    height, width = image.shape
    padded = np.pad(image, ((0, max(size[0] - height, 0)), (0, max(size[1] - width, 0))), mode="reflect")
    total, count = np.zeros((net.classes, *padded.shape)), np.zeros(padded.shape)
    rows, cols = ({*range(0, n - s, d), n - s} for n, s, d in zip(padded.shape, size, step, strict=True))
    for row in rows:
        for col in cols:
            window = torch.from_numpy(padded[row : row + size[0], col : col + size[1]]).float()
            total[:, row : row + size[0], col : col + size[1]] += net(window[None, None])[0].double().softmax(0).numpy()
            count[row : row + size[0], col : col + size[1]] += 1
    return (total / count)[:, :height, :width]


@st.composite
def cases(draw):
    """(image, size, step, windows in a batch)."""
    size = draw(st.integers(2, 14)), draw(st.integers(2, 14))
    step = draw(st.integers(1, size[0])), draw(st.integers(1, size[1]))
    shape = draw(st.integers(1, 33)), draw(st.integers(1, 33))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.integers(0, 256, shape).astype(np.uint8), size, step, draw(st.integers(1, 7))


@given(cases())
@settings(max_examples=60, deadline=None)
def test_an_image_of_any_size_is_labelled_as_if_it_were_whole(case):
    image, size, step, batch = case
    found, bands = label(Opinionated(), image, size, step, batch)
    assert found.shape == (3, *image.shape)
    np.testing.assert_allclose(found, naive(Opinionated(), image, size, step), atol=1e-5)
    assert [first for first, _ in bands] == list(np.cumsum([0] + [b.shape[1] for _, b in bands[:-1]]))
    assert max(b.shape[1] for _, b in bands) <= size[0]


@given(cases())
@settings(max_examples=30, deadline=None)
def test_every_pixel_gets_its_own_label_also_in_the_last_row_and_column_and_nothing_is_transposed(case):
    image, size, step, batch = case
    image = image % 5
    found, _ = label(Same(5), image, size, step, batch)
    assert np.array_equal(found.argmax(0), image)


def test_a_constant_net_gives_a_constant_map_without_seams():
    class Constant(nn.Module):
        classes = 3

        def forward(self, x):
            return torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(len(x), 3, *x.shape[2:])

    found, _ = label(Constant(), np.zeros((37, 53), np.uint8), (16, 16), (5, 7))
    expected = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], found.shape), rtol=1e-6)


def test_probabilities_are_averaged_not_logits():
    """One window is very sure of class 0, two are fairly sure of class 1: their logits would add up to class 0."""

    class ByColumn(nn.Module):
        classes = 2

        def forward(self, x):
            logits = torch.zeros(len(x), 2, *x.shape[2:])
            logits[:, 1] = 2
            logits[:, :, :, 4] = torch.tensor([20.0, 0.0])[:, None]
            return logits

    found, _ = label(ByColumn(), np.zeros((1, 12), np.uint8), (1, 6), (1, 2))  # column 4: windows 0, 2 and 4 lie over it
    sure, fair = 1 / (1 + np.exp(-20)), 1 / (1 + np.exp(2))
    np.testing.assert_allclose(found[0, 0, 4], (sure + 2 * fair) / 3, rtol=1e-6)
    assert found[:, 0, 4].argmax() == 1


def test_more_than_255_windows_over_a_pixel_are_counted_right():
    image = np.random.default_rng(0).integers(0, 256, (44, 46)).astype(np.uint8)
    found, _ = label(Opinionated(), image, (20, 20), (1, 1), batch=64)  # 400 windows over each inner pixel
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)
    np.testing.assert_allclose(found, naive(Opinionated(), image, (20, 20), (1, 1)), atol=1e-4)


def test_memory_grows_with_the_width_of_the_image_not_with_its_length():
    net, width = Same(6), 16

    def peak(height):
        image = np.zeros((height, width), np.uint8)
        tracemalloc.start()
        for _ in predict(net, [GREY], lambda w: [cut(image, w)], image.shape, (64, 16), (32, 16), 4, CPU):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(64)
    short, long = peak(1000), peak(8000)
    whole_map = 6 * 8000 * width * 4
    assert long < short + whole_map / 10


def test_the_buffer_never_holds_more_rows_than_a_window():
    buffer = RowBuffer(2, (500, 30), (16, 8), (4, 4))
    assert buffer.total.shape == (2, 16, 30)
    for row in range(0, 488, 4):
        for _, band in buffer.finished_above(row):
            assert band.shape[1] <= 16
        for col in [*range(0, 22, 4), 22]:
            buffer.add(Window(row, col, 16, 8), np.ones((2, 16, 8), np.float32))
        assert buffer.total.shape == (2, 16, 30)


def test_nothing_outside_the_image_is_read_and_batches_are_no_larger_than_asked():
    asked, sizes = [], []
    image = np.zeros((10, 50), np.uint8)

    class Watching(Same):
        def forward(self, x):
            sizes.append(x.shape)
            return super().forward(x)

    def read(window):
        asked.append(window)
        return [cut(image, window)]

    list(predict(Watching(2), [GREY], read, image.shape, (16, 16), (8, 8), 3, CPU))
    assert all(w.row + w.height <= 10 and w.col + w.width <= 50 for w in asked)
    assert {tuple(s[1:]) for s in sizes} == {(1, 16, 16)}
    assert [s[0] for s in sizes] == [3, 3]


def test_the_net_is_in_evaluation_mode_and_no_gradients_are_kept():
    class Watching(Same):
        def forward(self, x):
            assert not self.training
            assert torch.is_inference_mode_enabled()
            return super().forward(x)

    label(Watching(2).train(), np.zeros((8, 8), np.uint8), (8, 8), (8, 8))


def test_the_part_of_a_window_inside_an_image():
    assert inside(Window(0, 0, 16, 16), (10, 50)) == Window(0, 0, 10, 16)
    assert inside(Window(4, 8, 16, 16), (40, 20)) == Window(4, 8, 16, 12)


@given(cases(), st.sampled_from(["linear", "cosine", "gaussian"]))
@settings(max_examples=25, deadline=None)
def test_tapered_windows_are_the_weighted_mean_of_all_windows_over_a_pixel(case, blend):
    image, size, step, batch = case
    net = Opinionated()
    ours = np.concatenate(
        [b for _, b in predict(net, [GREY], lambda w: [cut(image, w)], image.shape, size, step, batch, CPU, blend)], axis=1
    )
    weight = np.outer(*(by_hand(n, blend) for n in size))
    height, width = image.shape
    padded = np.pad(image, ((0, max(size[0] - height, 0)), (0, max(size[1] - width, 0))), mode="reflect")
    total, weights = np.zeros((3, *padded.shape)), np.zeros(padded.shape)
    for row, col in (
        (r, c) for r in starts(padded.shape[0], size[0], step[0]) for c in starts(padded.shape[1], size[1], step[1])
    ):
        window = torch.from_numpy(padded[row : row + size[0], col : col + size[1]]).float()
        probabilities = net(window[None, None])[0].double().softmax(0).numpy()
        total[:, row : row + size[0], col : col + size[1]] += probabilities * weight
        weights[row : row + size[0], col : col + size[1]] += weight
    np.testing.assert_allclose(ours, (total / weights)[:, :height, :width], atol=2e-5)
    np.testing.assert_allclose(ours.sum(0), 1, atol=1e-5)


def starts(length, size, step):
    return {*range(0, length - size, step), length - size}


def by_hand(size, blend):
    """The weights along a side from their description: 1 in the middle, falling to both ends, never below 0.01."""
    weights = []
    for i in range(size):
        away = abs(i + 0.5 - size / 2) / (size / 2)  # 0 in the middle, 1 at the edge
        shape = {"linear": 1 - away, "cosine": (1 + np.cos(np.pi * away)) / 2, "gaussian": np.exp(-2 * away**2)}[blend]
        weights.append(0.01 + 0.99 * shape)
    return weights


def test_no_taper_is_zero_at_the_border_of_a_window():
    for blend, taper in TAPERS.items():
        for size in (1, 2, 7, 128):
            weights = taper(size)
            assert weights.min() >= 0.01 and weights.max() <= 1, blend
            np.testing.assert_allclose(weights, weights[::-1], atol=1e-6)
