"""Proves that tiles are labelled from their files: by any net, in strips, with holes where there is no data."""

import threading

import numpy as np
import pytest
import torch
from conftest import write_raster
from torch import nn

from tools.base.errors import UserError
from tools.compute.device import Device
from tools.data.inputs import Input
from tools.inference.labeller import NO_DATA, Labeller, TileReader
from tools.inference.window_size import Windows

CPU = Device(torch.device("cpu"), bf16=False)
GREY = Input("grey", ("grey",), (1,), False, (0.0,))


class Same(nn.Module):
    """The class of a pixel is its value, with certainty."""

    classes, multiple = 5, 1

    def forward(self, x):
        return 50 * nn.functional.one_hot(x[:, 0].long(), 5).permute(0, 3, 1, 2).float()


def labeller(**changes):
    given = {"net": Same(), "inputs": [GREY], "windows": Windows((16, 16), (8, 8)), "batch": 4, "device": CPU}
    return Labeller(**given | changes)


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(0, 5, (45, 700)).astype(np.uint8)


@pytest.fixture
def path(image, tmp_path):
    return write_raster(tmp_path / "grey.tif", image)


@pytest.mark.parametrize("memory", [0.01, 256])
@pytest.mark.parametrize("blend", ["flat", "cosine"])
def test_each_pixel_gets_its_own_label_in_strips_too(image, path, memory, blend):
    assert np.array_equal(labeller(memory=memory, blend=blend).labels({"grey": path}), image)


def test_bands_say_where_they_lie_and_cover_the_tile_once(image, path):
    covered = np.zeros(image.shape, int)
    for band in labeller(memory=0.01).bands({"grey": path}):
        assert band.probabilities.shape == (5, *band.labels.shape)
        assert (band.window.row, band.window.col) == (band.row, band.col)
        covered[band.window.slices] += 1
    assert (covered == 1).all()


def test_a_batch_that_is_found_gives_the_same_labels(image, path):
    assert np.array_equal(labeller(batch=None).labels({"grey": path}), image)


def test_pixels_without_data_have_no_label_wherever_they_lie(image, tmp_path):
    image[3:5, 300:310] = image[44, 699] = 9
    path = write_raster(tmp_path / "holes.tif", image, nodata=9)

    class Any(Same):
        def forward(self, x):
            return super().forward(x.clamp(max=4))

    found = labeller(net=Any(), memory=0.01).labels({"grey": path})
    assert np.array_equal(found == NO_DATA, image == 9)
    assert np.array_equal(found[image != 9], image[image != 9])


def test_no_thread_is_left_when_the_bands_are_not_read_to_their_end(path):
    before = threading.active_count()
    bands = labeller().bands({"grey": path})
    next(bands)
    assert threading.active_count() > before  # reading, and the net
    bands.close()
    assert threading.active_count() == before


def test_what_is_wrong_in_the_threads_is_a_users_mistake_here(path, monkeypatch):
    def breaks(self, window):
        raise UserError(f"{path} breaks off")

    monkeypatch.setattr(TileReader, "read", breaks)
    with pytest.raises(UserError, match="breaks off"):
        list(labeller().bands({"grey": path}))


def test_the_net_runs_on_as_many_threads_as_were_set(path):
    """What a user sets in one thread holds in the one in which the net runs."""
    seen = []

    class Counting(Same):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    labeller(net=Counting()).labels({"grey": path})
    assert set(seen) == {torch.get_num_threads()}
