"""Proves every score against scikit-learn, and by hand where it has no answer."""

import numpy as np
import pytest
import sklearn.metrics as sk
from conftest import NAMES
from hypothesis import given
from hypothesis import strategies as st

from tools.labels import scores

RNG = np.random.default_rng(0)
TRUTH = RNG.choice(6, (40, 50), p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05]).astype(np.uint8)
MAP = np.where(RNG.random((40, 50)) < 0.7, TRUTH, RNG.integers(0, 6, (40, 50))).astype(np.uint8)
MATRIX = scores.confusion(TRUTH, MAP, 6)
ALL = range(6)


def test_the_confusion_matrix_has_the_truth_in_rows():
    assert np.array_equal(MATRIX, sk.confusion_matrix(TRUTH.ravel(), MAP.ravel(), labels=ALL))
    by_hand = scores.confusion(np.array([[0, 0, 1]], np.uint8), np.array([[0, 1, 1]], np.uint8), 2)
    assert by_hand.tolist() == [[1, 1], [0, 1]]


def test_accuracy_f1_iou_and_kappa_are_scikit_learns():
    truth, found = TRUTH.ravel(), MAP.ravel()
    assert scores.overall_accuracy(MATRIX) == pytest.approx(sk.accuracy_score(truth, found))
    assert scores.kappa(MATRIX) == pytest.approx(sk.cohen_kappa_score(truth, found))
    np.testing.assert_allclose(scores.f1(MATRIX), sk.f1_score(truth, found, average=None, labels=ALL))
    np.testing.assert_allclose(scores.iou(MATRIX), sk.jaccard_score(truth, found, average=None, labels=ALL))


def test_class_accuracy_precision_dice_and_weighted_iou_are_scikit_learns():
    """Per class accuracy (recall) and precision, mean class accuracy, FWIoU, pixel accuracy and Dice, by their names."""
    truth, found, report = TRUTH.ravel(), MAP.ravel(), scores.report(MATRIX, NAMES, [5])
    by_class = {"average": None, "labels": ALL}
    recall, precision = sk.recall_score(truth, found, **by_class), sk.precision_score(truth, found, **by_class)
    np.testing.assert_allclose(list(report["recall"].values()), recall)
    np.testing.assert_allclose(list(report["precision"].values()), precision)
    assert report["mean_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, found))
    assert report["mean_accuracy_without_ignored"] == pytest.approx(recall[:5].mean())
    assert report["frequency_weighted_iou"] == pytest.approx(sk.jaccard_score(truth, found, average="weighted"))
    kept = sk.jaccard_score(truth, found, average="weighted", labels=range(5))
    assert report["frequency_weighted_iou_without_ignored"] == pytest.approx(kept)
    assert report["pixel_accuracy"] == pytest.approx(sk.accuracy_score(truth, found))
    np.testing.assert_allclose(list(report["dice"].values()), sk.f1_score(truth, found, **by_class))
    assert report["mean_dice"] == pytest.approx(sk.f1_score(truth, found, average="macro"))


def test_a_class_that_is_never_predicted_is_named():
    report = scores.report(np.array([[5, 0, 0], [2, 0, 0], [0, 0, 0]]), ["road", "car", "water"])
    assert report["never_predicted"] == ["car"]
    assert (report["recall"], report["precision"]["car"]) == ({"road": 1, "car": 0, "water": None}, None)
    assert report["frequency_weighted_iou"] == pytest.approx(5 / 7 * 5 / 7)
    assert "no pixel was labelled car, which" in scores.as_text(report)
    assert "no pixel" not in scores.as_text(scores.report(MATRIX, NAMES))


def test_the_confusion_matrix_is_printed_in_per_cent_of_its_rows():
    lines = scores.matrix_as_text(scores.report(np.array([[3, 1], [0, 0]]), ["road", "car"])).splitlines()
    assert [line.split() for line in lines[1:3]] == [["road", "75.0", "25.0", "4"], ["car", "-", "-", "0"]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60))
def test_scores_of_any_maps_are_scikit_learns(pairs):
    truth, found = np.array(pairs).T.astype(np.uint8)
    matrix = scores.confusion(truth, found, 4)
    present = sorted(set(truth) | set(found))
    absent = [i for i in range(4) if i not in present]
    np.testing.assert_allclose(scores.f1(matrix)[present], sk.f1_score(truth, found, average=None, labels=present))
    np.testing.assert_allclose(scores.iou(matrix)[present], sk.jaccard_score(truth, found, average=None, labels=present))
    assert np.isnan(scores.f1(matrix)[absent]).all()
    assert np.isnan(scores.iou(matrix)[absent]).all()
    assert scores.overall_accuracy(matrix) == pytest.approx(sk.accuracy_score(truth, found))


def test_pixels_whose_truth_is_no_class_do_not_count():
    truth = TRUTH.copy()
    truth[:5] = 6
    truth[5:8] = 255
    matrix = scores.confusion(truth, MAP, 6)
    assert matrix.sum() == 32 * 50
    assert np.array_equal(matrix, sk.confusion_matrix(TRUTH[8:].ravel(), MAP[8:].ravel(), labels=ALL))


def test_a_class_that_is_nowhere_has_no_score_and_does_not_pull_down_the_mean():
    truth, found = np.array([0, 0, 1, 1], np.uint8), np.array([0, 1, 1, 1], np.uint8)
    report = scores.report(scores.confusion(truth, found, 3), ["a", "b", "c"])
    assert report["f1"] == {"a": pytest.approx(2 / 3), "b": pytest.approx(4 / 5), "c": None}
    assert report["iou"] == {"a": pytest.approx(1 / 2), "b": pytest.approx(2 / 3), "c": None}
    assert report["mean_iou"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_class_that_is_in_the_map_alone_or_in_the_truth_alone_scores_nought():
    report = scores.report(scores.confusion(np.array([0, 1]), np.array([0, 2]), 3), ["a", "b", "c"])
    assert report["iou"] == {"a": 1.0, "b": 0.0, "c": 0.0}


def test_the_means_without_ignored_classes_leave_out_their_scores_but_not_their_pixels():
    report = scores.report(MATRIX, NAMES, [5])
    f1, iou = (s(TRUTH.ravel(), MAP.ravel(), average=None, labels=ALL) for s in (sk.f1_score, sk.jaccard_score))
    assert report["mean_f1"] == pytest.approx(f1.mean())
    assert report["mean_f1_without_ignored"] == pytest.approx(f1[:5].mean())
    assert report["mean_iou"] == pytest.approx(iou.mean())
    assert report["mean_iou_without_ignored"] == pytest.approx(iou[:5].mean())
    assert report["overall_accuracy"] == pytest.approx((TRUTH == MAP).mean())
    assert report["pixels"] == TRUTH.size
    assert report["confusion"] == MATRIX.tolist()


def test_without_ignored_classes_both_means_are_one():
    report = scores.report(MATRIX, NAMES)
    assert report["mean_iou"] == report["mean_iou_without_ignored"]


def test_a_perfect_map_a_blind_one_and_an_empty_one():
    assert scores.report(scores.confusion(TRUTH, TRUTH, 6), NAMES)["kappa"] == pytest.approx(1)
    blind = scores.confusion(TRUTH, np.zeros_like(TRUTH), 6)
    assert scores.kappa(blind) == pytest.approx(0)
    assert scores.overall_accuracy(blind) == pytest.approx((TRUTH == 0).mean())
    nothing = scores.report(np.zeros((2, 2), int), ["a", "b"])
    assert nothing["overall_accuracy"] is nothing["kappa"] is nothing["mean_iou"] is None


def test_one_class_alone_has_no_kappa():
    assert scores.report(scores.confusion(np.zeros(5, np.uint8), np.zeros(5, np.uint8), 2), ["a", "b"])["kappa"] is None


def test_counts_do_not_overflow():
    big = np.full((3, 3), 2**40)
    assert scores.kappa(big) == pytest.approx(0)
    assert scores.overall_accuracy(big) == pytest.approx(1 / 3)
    truth = np.zeros((600, 600), np.uint8)
    assert scores.confusion(truth, truth, 200)[0, 0] == 360_000  # uint8 label times classes


def test_the_table_shows_the_numbers_in_per_cent():
    text = scores.as_text(scores.report(MATRIX, NAMES, [5]), ["clutter"])
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    right, wide = (TRUTH == 1) & (MAP == 1), "  "
    assert f"{100 * right.sum() / (TRUTH == 1).sum():.2f}{wide}" in lines["building"]
    assert lines["building"].rstrip().endswith(f"{100 * right.sum() / (MAP == 1).sum():.2f}")
    assert f"{100 * (TRUTH == 1)[MAP == 1].sum() / ((TRUTH == 1) | (MAP == 1)).sum():.2f}" in lines["building"]
    assert lines["clutter"].endswith("(ignored)")
    assert f"{100 * (TRUTH == MAP).mean():.2f} %" in text
    assert "-" in scores.as_text(scores.report(np.zeros((2, 2), int), ["a", "b"]))
