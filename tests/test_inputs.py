"""Proves that a net is given the bands it was trained on, in their order, normalised as the config says, and no others."""

import json

import numpy as np
import pytest
import torch

from tools.base.errors import UserError
from tools.data.inputs import Input, find_parts, is_normalisation, make_inputs, modalities_of, reorder
from tools.data.statistics import Moments

RNG = np.random.default_rng(0)
IRRG, DSM = RNG.integers(0, 256, (3, 4, 5)).astype(np.uint8), RNG.normal(280, 9, (1, 4, 5)).astype(np.float32)
ABOUT = {
    "irrg": {"bands": 3, "dtype": "uint8", "mean": [10.0, 20.0, 30.0], "deviation": [1.0, 2.0, 4.0],
             "low": [0.0, 5.0, 10.0], "high": [100.0, 105.0, 60.0]},
    "dsm": {"bands": 1, "dtype": "float32", "mean": [280.0], "deviation": [9.0], "low": [270.0], "high": [290.0]},
}  # fmt: skip


def make(*parts, normalisation="mean", means=None, bgr=True):
    """The one input of these parts: modalities, or (modality, picked bands)."""
    parts = [p if isinstance(p, tuple) else (p, None) for p in parts]
    (one,) = make_inputs({"x": parts}, ABOUT, means or {}, dict.fromkeys(ABOUT, normalisation), bgr)
    return one


def seen(spec, **images):
    """What the net sees of some images: channels x h x w."""
    return spec.normalise(torch.from_numpy(spec.stack(images).copy())[None])[0].numpy()


def test_bands_are_reversed_for_caffe_and_kept_otherwise():
    assert np.array_equal(reorder(IRRG, True), IRRG[[2, 1, 0]])
    assert np.array_equal(reorder(IRRG, False), IRRG)


def test_the_modalities_of_an_input_are_stacked_in_its_order_each_reversed_by_itself():
    both = make("irrg", "dsm", bgr=True)
    assert (both.channels, modalities_of([both])) == (4, ["irrg", "dsm"])
    assert np.array_equal(both.stack({"dsm": DSM, "irrg": IRRG}), np.concatenate([IRRG[::-1].astype(np.float32), DSM]))
    other = make("dsm", "irrg", bgr=False)
    assert np.array_equal(other.stack({"dsm": DSM, "irrg": IRRG}), np.concatenate([DSM, IRRG.astype(np.float32)]))


def test_a_mean_that_is_not_given_is_the_measured_one_in_the_nets_order():
    assert make("irrg", "dsm").mean == (30.0, 20.0, 10.0, 280.0)
    assert make("irrg", "dsm", bgr=False).mean == (10.0, 20.0, 30.0, 280.0)


def test_a_given_mean_is_in_the_files_order_and_comes_first():
    assert make("irrg", means={"irrg": (1, 2, 3), "dsm": None}).mean == (3.0, 2.0, 1.0)


def test_a_mean_with_another_count_of_numbers_is_refused():
    with pytest.raises(UserError, match=r"MEAN_PIXEL\['irrg'\] has 4 numbers, but irrg has 3 bands"):
        make("irrg", means={"irrg": (1, 2, 3, 4)})


def test_the_mean_is_taken_off_without_scaling_as_in_caffe():
    found = seen(make("irrg"), irrg=IRRG)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, IRRG[::-1].astype(float) - np.array([30, 20, 10]).reshape(3, 1, 1))


def test_other_normalisations_by_hand():
    standard = seen(make("irrg", normalisation="standard", bgr=False), irrg=IRRG)
    np.testing.assert_allclose(standard[2], (IRRG[2].astype(float) - 30) / 4, rtol=1e-6)
    percentile = seen(make("irrg", normalisation="percentile", bgr=False), irrg=IRRG)
    np.testing.assert_allclose(percentile[1], np.clip((IRRG[1].astype(float) - 5) / 100, 0, 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("normalisation", ["mean", "standard", "percentile"])
def test_no_window_is_normalised_by_itself(normalisation):
    """The same pixel is seen the same way wherever it stands, so that there are no seams."""
    spec = make("irrg", normalisation=normalisation)
    dark, bright = np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 255, np.uint8)
    dark[:, 0, 0] = bright[:, 0, 0] = 77
    assert np.array_equal(seen(spec, irrg=dark)[:, 0, 0], seen(spec, irrg=bright)[:, 0, 0])


@pytest.mark.parametrize("normalisation", ["mean", "standard"])
def test_what_is_no_number_counts_as_the_mean(normalisation):
    holes = np.array([[[280, np.nan], [np.inf, -np.inf]]], np.float32)
    assert not seen(make("dsm", normalisation=normalisation), dsm=holes).any()


def test_a_missing_band_is_never_replaced():
    with pytest.raises(UserError, match="irrg has 2 bands, but the net was trained on 3"):
        make("irrg").stack({"irrg": IRRG[:2]})


def test_named_bands_are_picked_in_the_order_in_which_they_are_named():
    names = {"irrg": ["ir", "r", "g"]}
    parts = find_parts(["g", "ir", "dsm"], ["irrg", "dsm"], names)
    assert parts == [("irrg", (2, 0)), ("dsm", None)]
    spec = make(*parts, bgr=False)
    assert np.array_equal(spec.stack({"irrg": IRRG, "dsm": DSM})[:2], IRRG[[2, 0]].astype(np.float32))
    assert spec.mean == (30.0, 10.0, 280.0)


def test_a_band_that_no_modality_has_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"no modality and no band 'irgr'\. Did you mean 'irrg'\?"):
        find_parts(["irgr"], ["irrg", "dsm"], {})


@pytest.mark.parametrize("spec", [make("irrg", "dsm"), make(("irrg", (2, 0)), normalisation="percentile")])
def test_an_input_survives_json(spec):
    assert Input.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_percentiles_of_ones_own_stretch_between_them():
    image = np.arange(10_001, dtype=np.uint16).reshape(1, 73, 137)
    about = {"rgb": {"bands": 1, "dtype": "uint16"} | Moments.of(image).to_dict()}
    how = {"rgb": {"name": "percentile", "low": 0, "high": 99}}
    (spec,) = make_inputs({"rgb": [("rgb", None)]}, about, {}, how, bgr=True)
    seen = spec.normalise(torch.tensor([[[[0, 4950, 9900, 10_000]]]]))
    assert seen.flatten().tolist() == pytest.approx([0, 0.5, 1, 1], abs=1e-3)
    (default,) = make_inputs({"rgb": [("rgb", None)]}, about, {}, {"rgb": {"name": "percentile"}}, bgr=True)
    assert default.normalise(torch.tensor([[[[200, 9800]]]])).flatten().tolist() == pytest.approx([0, 1], abs=1e-3)


@pytest.mark.parametrize(
    "how", [{"name": "mean"}, {"name": "percentile", "low": 99, "high": 1}, {"name": "percentile", "top": 1}]
)
def test_other_numbers_are_no_normalisation(how):
    assert not is_normalisation(how)
