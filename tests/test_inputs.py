"""Proves that a net is given the bands it was trained on, in their order, less the mean, and nothing else in their place."""

import json

import numpy as np
import pytest
import torch

from tools.errors import UserError
from tools.inputs import Input, make_inputs, reorder

RNG = np.random.default_rng(0)
IRRG, DSM = RNG.integers(0, 256, (3, 4, 5)).astype(np.uint8), RNG.normal(280, 9, (1, 4, 5)).astype(np.float32)
ABOUT = {"irrg": {"bands": 3, "mean": [10.0, 20.0, 30.0]}, "dsm": {"bands": 1, "mean": [280.0]}}


def test_bands_are_reversed_for_caffe_and_kept_otherwise():
    assert np.array_equal(reorder(IRRG, True), IRRG[[2, 1, 0]])
    assert np.array_equal(reorder(IRRG, False), IRRG)


def test_the_modalities_of_an_input_are_stacked_in_its_order_each_reversed_by_itself():
    (both,) = make_inputs({"both": ["irrg", "dsm"]}, ABOUT, {}, bgr=True)
    assert both.channels == 4
    stack = both.stack({"dsm": DSM, "irrg": IRRG})
    assert np.array_equal(stack, np.concatenate([IRRG[::-1].astype(np.float32), DSM]))
    (other,) = make_inputs({"both": ["dsm", "irrg"]}, ABOUT, {}, bgr=False)
    assert np.array_equal(other.stack({"dsm": DSM, "irrg": IRRG}), np.concatenate([DSM, IRRG.astype(np.float32)]))


def test_a_mean_that_is_not_given_is_the_measured_one_in_the_nets_order():
    (both,) = make_inputs({"both": ["irrg", "dsm"]}, ABOUT, {"irrg": None}, bgr=True)
    assert both.mean == (30.0, 20.0, 10.0, 280.0)


def test_a_given_mean_is_in_the_files_order_and_comes_first():
    (irrg,) = make_inputs({"irrg": ["irrg"]}, ABOUT, {"irrg": (1, 2, 3)}, bgr=True)
    assert irrg.mean == (3.0, 2.0, 1.0)


def test_a_mean_with_another_count_of_numbers_is_refused():
    with pytest.raises(UserError, match=r"MEAN_PIXEL\['irrg'\] has 4 numbers, but irrg has 3 bands"):
        make_inputs({"irrg": ["irrg"]}, ABOUT, {"irrg": (1, 2, 3, 4)}, bgr=True)


def test_the_net_sees_float32_less_the_mean_without_scaling():
    (irrg,) = make_inputs({"irrg": ["irrg"]}, ABOUT, {}, bgr=True)
    batch = torch.from_numpy(irrg.stack({"irrg": IRRG}).copy())[None]
    expected = IRRG[::-1].astype(np.float64) - np.array([30, 20, 10]).reshape(3, 1, 1)
    assert irrg.centre(batch).dtype == torch.float32
    np.testing.assert_allclose(irrg.centre(batch)[0].numpy(), expected)


def test_centring_looks_at_no_pixel_beside_its_own():
    """No statistics of the window: the same pixel gives the same number wherever it stands."""
    (irrg,) = make_inputs({"irrg": ["irrg"]}, ABOUT, {}, bgr=False)
    dark, bright = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    dark[..., 0, 0] = bright[..., 0, 0] = 77
    assert torch.equal(irrg.centre(dark)[..., 0, 0], irrg.centre(bright)[..., 0, 0])


def test_a_missing_band_is_never_replaced():
    (irrg,) = make_inputs({"irrg": ["irrg"]}, ABOUT, {}, bgr=True)
    with pytest.raises(UserError, match="irrg has 2 bands, but the net was trained on 3"):
        irrg.stack({"irrg": IRRG[:2]})


def test_an_input_survives_json():
    (both,) = make_inputs({"both": ["irrg", "dsm"]}, ABOUT, {}, bgr=True)
    assert Input.from_dict(json.loads(json.dumps(both.to_dict()))) == both
