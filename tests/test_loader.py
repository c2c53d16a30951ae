"""Proves that each epoch is every record once, in an order that only seed and iteration decide, and that pairs stay pairs."""

import multiprocessing

import numpy as np
import pytest
import torch
from conftest import pixels
from hypothesis import given
from hypothesis import strategies as st
from test_database import records, write_records

from tools.base.errors import UserError
from tools.data.inputs import Input
from tools.data.loader import BatchOrder, Patches, batches

INPUT = Input("irrg", ("irrg",), (3,), True, (0.0, 0.0, 0.0))


def flat(order):
    """The records of all batches."""
    return [draw.record for batch in order for draw in batch]


@given(length=st.integers(1, 40), batch=st.integers(1, 15), seed=st.integers(0, 3), epochs=st.integers(1, 3))
def test_each_epoch_holds_every_record_once(length, batch, seed, epochs):
    iterations = -(-length * epochs // batch)
    found = flat(BatchOrder(length, batch, seed, 0, iterations))
    for epoch in range(epochs):
        assert sorted(found[epoch * length : (epoch + 1) * length]) == list(range(length))


@given(length=st.integers(1, 40), batch=st.integers(1, 15), start=st.integers(0, 30))
def test_a_start_in_the_middle_gives_the_tail_of_the_whole(length, batch, start):
    whole = list(BatchOrder(length, batch, 5, 0, 30))
    assert list(BatchOrder(length, batch, 5, start, 30)) == whole[start:]


@given(length=st.integers(1, 40), batch=st.integers(1, 15), start=st.integers(0, 30))
def test_each_draw_knows_its_position_in_the_run(length, batch, start):
    positions = [draw.position for draws in BatchOrder(length, batch, 5, start, 30) for draw in draws]
    assert positions == list(range(start * batch, 30 * batch))


def test_the_order_is_numpys_permutation_of_seed_and_epoch():
    expected = [np.random.default_rng([7, epoch]).permutation(11) for epoch in range(4)]
    assert flat(BatchOrder(11, 4, 7, 0, 11)) == np.concatenate(expected).tolist()


def test_batches_are_full_and_run_on_over_the_end_of_an_epoch():
    assert [len(b) for b in BatchOrder(7, 4, 0, 0, 10)] == [4] * 10
    assert [len(b) for b in BatchOrder(3, 8, 0, 0, 4)] == [8] * 4


def test_the_order_is_shuffled_anew_each_epoch_and_depends_on_the_seed():
    found = flat(BatchOrder(50, 10, 0, 0, 10))
    assert found[:50] != found[50:]
    assert found[:50] != list(range(50))
    assert found != flat(BatchOrder(50, 10, 1, 0, 10))


def test_the_order_does_not_depend_on_any_other_random_state():
    first = flat(BatchOrder(50, 10, 0, 0, 10))
    np.random.seed(99)
    torch.manual_seed(99)
    assert flat(BatchOrder(50, 10, 0, 0, 10)) == first


def test_an_item_is_the_patch_as_the_record_holds_it(databases):
    patches = Patches(databases.folder("lmdb"), "val", [INPUT])
    listed = (databases.folder("lmdb") / "val.txt").read_text().split()
    assert len(patches) == len(listed) == 20
    (image,), labels = patches[7]
    row, col = map(int, listed[7].split("_")[1:3])
    tile, truth = pixels(databases.path("irrg", 15)), pixels(databases.path("labels", 15))
    assert image.dtype == labels.dtype == torch.uint8  # until it is on the device
    assert np.array_equal(image.numpy(), tile[::-1, row : row + 32, col : col + 32])
    assert np.array_equal(labels.numpy(), truth[0, row : row + 32, col : col + 32])


def test_two_inputs_may_read_one_modality(databases):
    twice = Input("both", ("irrg", "irrg"), (3, 3), True, (0.0,) * 6)
    (one, two), _ = Patches(databases.folder("lmdb"), "val", [INPUT, twice])[0]
    assert torch.equal(two, torch.cat([one, one]))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_given_order_whoever_reads_them(databases, workers):
    patches = Patches(databases.folder("lmdb"), "val", [INPUT])
    order = BatchOrder(20, 6, 3, 2, 7)
    found = list(batches(patches, order, workers, pin=False))
    assert len(found) == 5
    for ((images,), labels), draws in zip(found, order, strict=True):
        assert torch.equal(images, torch.stack([patches[draw.record][0][0] for draw in draws]))
        assert torch.equal(labels, torch.stack([patches[draw.record][1] for draw in draws]))


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_random_state_of_the_net_alone(databases, workers):
    patches = Patches(databases.folder("lmdb"), "val", [INPUT])
    before = torch.get_rng_state()
    list(batches(patches, BatchOrder(20, 5, 0, 0, 3), workers, pin=False))
    assert torch.equal(torch.get_rng_state(), before)


def swap(folder, name, a, b):
    """An LMDB in which two records have changed places."""
    found = records(folder / name)
    found[a], found[b] = (found[a][0], found[b][1]), (found[b][0], found[a][1])
    for file in (folder / name).iterdir():
        file.unlink()
    write_records(folder / name, found)


# PyTorch waits five seconds for a worker that raised.
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_records_that_changed_places_are_detected_while_training(databases, tmp_path, workers):
    own = databases.copy(tmp_path, "lmdb")
    swap(own.folder("lmdb"), "labels_val", 2, 9)
    patches = Patches(own.folder("lmdb"), "val", [INPUT])
    assert patches[3] is not None
    with pytest.raises(UserError) as found:
        list(batches(patches, BatchOrder(20, 20, 0, 0, 1), workers, pin=False))
    sentence = str(found.value)
    assert "are not of the same patch" in sentence
    assert sentence.startswith("record ")
    assert "\n" not in sentence
    assert not multiprocessing.active_children()  # or the end of this process would wait for them for ever


def test_databases_of_different_length_are_refused(databases, tmp_path):
    own = databases.copy(tmp_path, "lmdb")
    folder = own.folder("lmdb")
    kept = records(folder / "labels_val")[:-1]
    (folder / "labels_val/data.mdb").unlink()
    write_records(folder / "labels_val", kept)
    with pytest.raises(UserError, match=r"has 20 records, .* has 19: they do not belong together"):
        Patches(folder, "val", [INPUT])
