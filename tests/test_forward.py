"""Proves that as many windows go through a net together as fit in memory, and that what is done ahead comes in order."""

import threading
import time

import numpy as np
import pytest
import torch
from test_stitching import CPU, GREY, Opinionated

from tools.base.errors import UserError
from tools.base.pipeline import Ahead
from tools.inference.forward import Forward

SIZE = (8, 8)


class Hungry(Opinionated):
    """A net for which more than `fits` windows are too many."""

    def __init__(self, fits, error=None):
        super().__init__()
        self.fits, self.error, self.seen = fits, error or torch.OutOfMemoryError("CUDA out of memory"), []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.fits:
            raise self.error
        return super().forward(x)


def windows(count):
    return [torch.randint(0, 256, (count, 1, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))]


def test_a_batch_that_was_found_is_halved_until_it_fits_and_the_numbers_stay(capsys):
    net, pixels = Hungry(3), windows(21)
    forward = Forward(net, [GREY], CPU, None, SIZE)
    forward.batch = 16
    found = forward(pixels)
    expected = torch.cat([Opinionated()(x[None].float()).softmax(1) for x in pixels[0]])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert forward.batch == 2
    assert net.seen == [16, 8, 4, *[2] * 10, 1]
    said = capsys.readouterr().out
    assert "note: 4 windows of 8x8 pixels do not fit in the memory of cpu in fp32; 2 together from now on" in said
    net.seen.clear()
    forward(windows(4))
    assert net.seen == [2, 2]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_a_given_batch_that_does_not_fit_is_refused_with_a_smaller_one(error):
    forward = Forward(Hungry(3, error), [GREY], CPU, 64, SIZE)
    with pytest.raises(UserError, match=r"TEST_BATCH_SIZE = 64 windows of 8x8 pixels do not fit .* set 10, or None"):
        forward(windows(20))


def test_a_window_that_does_not_fit_alone_is_refused():
    with pytest.raises(UserError, match="not even one of the windows of 8x8 pixels fits in the memory of cpu"):
        Forward(Hungry(0), [GREY], CPU, None, SIZE)(windows(4))


def test_other_errors_are_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="sizes of tensors"):
        Forward(Hungry(0, RuntimeError("sizes of tensors must match")), [GREY], CPU, None, SIZE)(windows(4))


@pytest.mark.parametrize(("size", "batch"), [((128, 128), 16), ((256, 512), 2), ((1024, 1024), 1), ((8, 8), 256)])
def test_a_processor_gets_batches_of_about_as_many_pixels_whatever_the_window(size, batch):
    assert Forward(Opinionated(), [GREY], CPU, None, size).batch == batch


# --------------------------------------------------------------------------------------------------------- what runs ahead


def test_items_come_in_their_order_and_all_of_them():
    assert list(Ahead(range(100), 3)) == list(range(100))
    assert list(Ahead(iter(()))) == []


def test_no_more_is_made_than_asked_for():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    stream = Ahead(items(), 2)
    next(stream)
    time.sleep(0.1)
    assert len(made) <= 4  # one used, two waiting, one in the maker's hands
    stream.close()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise UserError("the disk is gone")

    stream = Ahead(items())
    assert next(stream) == 1
    with pytest.raises(UserError, match="the disk is gone"):
        next(stream)


def test_the_threads_end_when_it_is_closed_also_when_it_is_left_early():
    closed = []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread())

    before = threading.active_count()
    stream = Ahead(Ahead(items(), 1), 1)
    assert next(stream) == 0
    stream.close()
    assert threading.active_count() == before
    assert closed and closed[0] is not threading.current_thread()


def test_the_next_item_is_made_while_the_last_one_is_used():
    used, made = threading.Event(), threading.Event()

    def items():
        yield 1
        assert used.wait(5)  # set while the first item is being used: nobody waits for anybody
        made.set()
        yield 2

    for item in Ahead(items()):
        if item == 1:
            used.set()
            assert made.wait(5)
