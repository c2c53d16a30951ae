"""Proves which validations count as the best, and when patience is at its end, by hand."""

import math

import pytest

from tools.record.selection import Selection


def kept(selection, *report, **words):
    """What a validation is best by, once its weights are kept."""
    better = selection.report(*report, **words)
    selection.best |= better
    return list(better)


def run(selection, reports, first=1):
    """What each of some validations (loss, mean IoU) is best by."""
    return [kept(selection, i, *report) for i, report in enumerate(reports, first)]


def test_the_first_validation_is_the_best_by_all_criteria():
    selection = Selection(6)
    assert run(selection, [(1.5, 0.2)]) == [["loss", "iou", "combined"]]
    assert selection.best["loss"] == (1, -1.5)
    assert selection.best["iou"] == (1, 0.2)
    assert selection.best["combined"][1] == pytest.approx(0.2 - 1.5 / math.log(6))


def test_each_criterion_has_its_own_best_and_the_best_of_both_may_be_neither():
    selection = Selection(6)
    better = run(selection, [(0.50, 0.40), (0.80, 0.60), (0.52, 0.58), (0.52, 0.50)])
    assert better == [["loss", "iou", "combined"], ["iou", "combined"], ["combined"], []]
    assert {name: iteration for name, (iteration, _) in selection.best.items()} == {"loss": 1, "iou": 2, "combined": 3}


def test_of_equal_validations_the_earlier_one_stays_the_best():
    assert run(Selection(2), [(0.5, 0.5), (0.5, 0.5)])[1] == []


def test_weights_that_were_not_kept_are_not_the_best_but_renew_patience():
    selection = Selection(2, patience=2)
    run(selection, [(0.9, 0.4), (1.0, 0.4)])
    assert list(selection.report(3, 0.5, 0.8)) == ["loss", "iou", "combined"]
    assert (selection.best["loss"], selection.best["iou"], selection.waited) == ((1, -0.9), (1, 0.4), 0)
    assert run(selection, [(0.6, 0.7)], first=4) == [["loss", "iou", "combined"]]
    assert (selection.best["loss"], selection.waited) == ((4, -0.6), 1)  # patience has seen the one before


def test_the_best_by_weights_that_are_gone_is_forgotten():
    selection = Selection(2)
    run(selection, [(0.5, 0.8)])
    selection.forget(["iou"])
    assert list(selection.report(2, 0.6, 0.7)) == ["iou"]
    assert selection.best["loss"] == (1, -0.5)


@pytest.mark.parametrize("nothing", [(None, None), (None, 0.5), (0.5, None)])
def test_a_validation_that_scores_nothing_is_never_the_best(nothing):
    selection = Selection(2, patience=2)
    assert run(selection, [nothing, (2.0, 0.1), nothing]) == [[], ["loss", "iou", "combined"], []]
    assert (selection.best["loss"], selection.waited) == ((2, -2.0), 1)


def test_patience_ends_after_so_many_validations_in_a_row_without_a_better_one():
    selection, ended = Selection(2, patience=2), []
    for i, loss in enumerate([1.0, 1.1, 0.9, 1.0, 0.95, 0.8]):
        selection.report(i, loss, 0.5)
        ended.append(selection.exhausted)
    assert ended == [False, False, False, False, True, False]


def test_a_better_one_by_any_criterion_renews_patience():
    selection = Selection(2, patience=1)
    run(selection, [(1.0, 0.5), (1.5, 0.6)])
    assert not selection.exhausted


def test_without_patience_it_never_ends():
    selection = Selection(2)
    run(selection, [(1.0, 0.5)] * 50)
    assert not selection.exhausted


def test_the_validation_at_the_end_of_a_run_may_be_the_best_and_is_not_seen_by_patience():
    whole, parts = Selection(2, patience=2), Selection(2, patience=2)
    assert kept(parts, 1, 1.0, 0.5) and kept(whole, 1, 1.0, 0.5)
    assert kept(parts, 2, 0.5, 0.7, on_beat=False) == ["loss", "iou", "combined"]
    ended = [[], []]
    for i, loss in enumerate([0.9, 0.8, 0.85, 0.86], 3):
        for found, selection in zip(ended, (whole, parts), strict=True):
            selection.report(i, loss, 0.5)
            found.append(selection.exhausted)
    assert ended[0] == ended[1] == [False, False, False, True]
    assert parts.best["loss"] == (2, -0.5)


def test_it_goes_on_from_its_state():
    reports = [(1.0, 0.3), (0.9, 0.2), (1.2, 0.1), (1.3, 0.25), (0.95, 0.4)]
    unbroken, first, second = (Selection(3, patience=2) for _ in range(3))
    better = run(unbroken, reports)
    run(first, reports[:3])
    second.load_state_dict(first.state_dict())
    first.report(9, 0.1, 0.9)  # the state stays what it was
    assert run(second, reports[3:], first=4) == better[3:]
    assert second.state_dict() == unbroken.state_dict()
