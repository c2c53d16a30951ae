"""Proves that labels which look wrong are found: planted faults come first, borders and unscored pixels do not come at all."""

import csv
import tracemalloc

import numpy as np
import pytest
from conftest import COLOURS, NAMES, call, done, names, pixels, place, refused, write_raster
from test_report import Page, picture

from tools.geo import windows
from tools.geo.windows import Window
from tools.inference.labeller import NO_DATA, Band
from tools.show.disagreement import Disagreement
from tools.show.suspects import around
from tools.weights import snapshots


def band(predicted, probability=0.9, classes=3, row=0):
    """A piece of a tile (h x w classes), each with this probability, the others with what is left."""
    predicted = np.asarray(predicted, np.uint8)
    probability = np.broadcast_to(np.float32(probability), predicted.shape)
    chosen = predicted == np.arange(classes)[:, None, None]
    probabilities = np.where(chosen, probability, (1 - probability) / (classes - 1)).astype(np.float32)
    return Band(row, predicted, probabilities)


def places(folder, labels, predicted, probability=0.9, ignored=(), rows=None):
    """The places of a tile that comes in pieces of so many rows."""
    seen = Disagreement(folder, labels.shape, 3)
    probability = np.broadcast_to(probability, labels.shape)
    for row in range(0, len(labels), rows or len(labels)):
        part = slice(row, row + (rows or len(labels)))
        seen.add(band(predicted[part], probability[part], row=row), labels[part].astype(np.uint8), ignored)
    return sorted(seen.places(), key=lambda p: (p.window.row, p.window.col))


# ----------------------------------------------------------------------------------------------------------------- places


def test_a_place_has_its_window_classes_pixels_score_and_confidence(tmp_path):
    labels = np.zeros((40, 50), int)
    labels[10:20, 5:25] = 1
    (found,) = places(tmp_path, labels, np.where(labels == 1, 2, labels))
    assert found.window == Window(10, 5, 10, 20)
    assert (found.label, found.predicted) == (1, 2)
    assert found.pixels == 6 * 16  # two pixels of the rim are left out on each side
    assert found.score == pytest.approx(96 * (0.9 - 0.05), rel=0.01)
    assert found.confidence == pytest.approx(0.9, abs=0.003)


def test_at_the_border_of_a_tile_there_is_no_rim(tmp_path):
    labels = np.zeros((20, 30), int)
    labels[:8, 22:] = 1
    (found,) = places(tmp_path, labels, np.zeros_like(labels))
    assert found.window == Window(0, 22, 8, 8)
    assert found.pixels == 6 * 6


def test_borders_that_are_drawn_a_little_off_and_thin_lines_are_no_places(tmp_path):
    labels, predicted = np.zeros((2, 60, 60), int)
    labels[10:40, 10:40], predicted[12:44, 12:44] = 1, 1
    labels[:, 50:54] = 2
    assert places(tmp_path, labels, predicted) == []
    labels[:, 50:55] = 2
    assert [p.window for p in places(tmp_path, labels, predicted)] == [Window(0, 50, 60, 5)]


def test_a_net_that_is_not_sure_makes_no_place(tmp_path):
    labels = np.zeros((30, 30), int)
    labels[5:25, 5:25] = 1
    wrong = np.zeros_like(labels)
    assert places(tmp_path, labels, wrong, 0.6) == []  # 0.6 against 0.2
    assert len(places(tmp_path, labels, wrong, 0.7)) == 1  # 0.7 against 0.15


def test_what_has_no_label_or_no_data_or_an_ignored_class_does_not_count(tmp_path):
    labels = np.zeros((30, 90), int)
    labels[5:25, 5:25], labels[5:25, 35:55], labels[5:25, 65:85] = 1, 3, 2
    predicted = np.where(np.arange(90) < 30, NO_DATA, 0) + np.zeros((30, 1), int)
    assert places(tmp_path, labels, predicted, ignored=[2]) == []
    (found,) = places(tmp_path, labels, predicted)
    assert (found.window, found.label) == (Window(5, 65, 20, 20), 2)


def test_neighbours_with_other_labels_are_two_places_and_other_predictions_are_one(tmp_path):
    labels = np.full((30, 60), 2)
    labels[5:25, 10:20], labels[5:25, 20:40] = 0, 1
    predicted = np.full_like(labels, 2)
    predicted[5:25, 33:40] = 0
    first, second = places(tmp_path, labels, predicted)
    assert (first.label, first.window) == (0, Window(5, 10, 20, 12))  # the rim reaches over the neighbour
    assert (second.label, second.predicted, second.pixels) == (1, 2, 16 * 18)


@pytest.mark.parametrize("rows", [7, 16, 64])
def test_places_that_reach_over_strips_are_whole(tmp_path, monkeypatch, rows):
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, 3, (6, 5)), np.ones((22, 18), int))
    predicted = np.kron(rng.integers(0, 3, (6, 5)), np.ones((22, 18), int))
    labels[20:100, 30:38] = predicted[60:70, 50:58] = 1
    probability = rng.uniform(0.7, 1, labels.shape)
    (tmp_path / "whole").mkdir()
    whole = places(tmp_path / "whole", labels, predicted, probability)
    assert len(whole) > 5 and max(p.window.height for p in whole) > 60
    monkeypatch.setattr("tools.show.disagreement.row_windows",
                        lambda h, w: (Window(r, 0, min(rows, h - r), w) for r in range(0, h, rows)))  # fmt: skip
    parts = places(tmp_path, labels, predicted, probability, rows=31)
    assert [(p.window, p.label, p.predicted, p.pixels) for p in parts] == [
        (p.window, p.label, p.predicted, p.pixels) for p in whole
    ]
    assert [p.score for p in parts] == pytest.approx([p.score for p in whole])
    assert sum(p.pixels for p in whole) == by_hand(labels, predicted)


def by_hand(labels, predicted):
    """Pixels that differ, as do all at most two rows and columns from them."""
    differ = np.pad(labels != predicted, 2, constant_values=True)
    around = [differ[i : i + len(labels), j : j + labels.shape[1]] for i in range(5) for j in range(5)]
    return int(np.all(around, 0).sum())


def test_memory_does_not_grow_with_the_tile(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "ROWS", 100)

    def peak(height):
        seen = Disagreement(tmp_path, (height, 200), 3)
        for row in range(0, height, 100):
            labels = np.zeros((100, 200), np.uint8)
            labels[20:60, 50:90] = 1
            seen.add(band(np.zeros_like(labels), row=row), labels, ())
        tracemalloc.start()
        assert len(seen.places()) == height // 100
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(4000) < 1.2 * peak(1000)


def test_what_is_shown_has_the_place_in_its_middle_as_far_as_the_tile_reaches():
    assert around(Window(500, 600, 200, 100), (2000, 3000)) == Window(430, 565, 340, 170)
    assert around(Window(500, 600, 10, 10), (2000, 3000)) == Window(457, 557, 96, 96)
    assert around(Window(500, 600, 400, 10), (2000, 3000)) == Window(360, 435, 680, 340)
    assert around(Window(0, 60, 10, 30), (72, 90)) == Window(0, 0, 72, 90)


# ---------------------------------------------------------------------------------------------------------------- command

FAULTS = {1: (Window(5, 38, 26, 18), 3), 3: (Window(41, 4, 24, 22), 0), 5: (Window(44, 66, 20, 20), 1)}  # tile: where, label


@pytest.fixture
def faulty(trained, tmp_path):
    """The town whose net knows it, with faults in the labels of the training tiles."""
    town = trained.copy(tmp_path, "snapshots_segnet_slim")
    for tile, (window, label) in FAULTS.items():
        labels = pixels(town.path("labels", tile))[0]
        labels[window.slices] = label
        write_raster(town.path("labels", tile), labels, tile)
    return town


def suspects(town, *words, **changes):
    return call("tools.show", "--suspects", "--device", "cpu", "--config", town.config(**changes), *words)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def window_of(row):
    return Window(*(int(row[name]) for name in ("row", "column", "height", "width")))


def inside(row):
    """Whether the middle of a suspect lies in the fault that was planted in its tile."""
    window, (fault, label) = window_of(row), FAULTS[int(row["tile"])]
    middle = window.row + window.height / 2, window.col + window.width / 2
    there = all(f <= m <= f + n for m, f, n in zip(middle, fault[:2], fault[2:], strict=True))
    return there and row["labelled"] == NAMES[label]


def test_planted_faults_come_first(faulty):
    ran = done(suspects(faulty))
    rows = rows_of(faulty.snapshots / "suspects.csv")
    planted = [inside(row) for row in rows]
    first = {row["tile"] for row, here in zip(rows, planted, strict=True) if here}
    assert first == {"1", "3", "5"}
    assert all(planted[: sum(planted)]), [(row["tile"], window_of(row), row["labelled"]) for row in rows]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(row["weights"].endswith("net_best_iou.safetensors") for row in rows)
    assert f"{len(rows)} places in 3 tiles" in ran.out and "trained on 3 of these tiles" in ran.out


def test_the_page_shows_image_label_prediction_and_disagreement_of_the_first(faulty, tmp_path):
    out = tmp_path / "page.html"
    done(suspects(faulty, "--count", 2, "--out", out))
    page, rows = Page(out), rows_of(tmp_path / "page.csv")
    shown = page.all("img")
    assert [img["alt"].split(" of ")[0] for img in shown] == 2 * ["image", "labels", "prediction", "disagreement"]
    assert f"The first 2 of {len(rows)} places" in page.text and "page.csv lists all" in page.text
    row, here = rows[0], window_of(rows[0])
    assert f"1. Tile {row['tile']}: labelled {row['labelled']} , looks like {row['looks like']}" in page.text
    tile = int(row["tile"])
    x, y = place(tile) * (here.col + here.width / 2, here.row + here.height / 2)
    assert (float(row["x"]), float(row["y"])) == pytest.approx((x, y))
    labels = pixels(faulty.path("labels", tile))[0]
    colours = np.array([COLOURS[label] for label in range(7)])[labels]
    assert np.array_equal(picture(shown[1]["src"]), colours)  # a tile this small is shown whole
    red = picture(shown[3]["src"]).astype(int)
    redness = red[..., 0] - red[..., 2]
    fault = FAULTS[tile][0]
    inner = redness[fault.row + 4 : fault.row + fault.height - 4, fault.col + 4 : fault.col + fault.width - 4]
    assert np.median(inner) > 60 > 20 > np.median(redness)


def test_the_page_stands_alone_and_runs_nothing(faulty, tmp_path):
    done(suspects(faulty, "--out", tmp_path / "page.html"))
    page = Page(tmp_path / "page.html")
    assert not page.all("script")
    assert all(img["src"].startswith("data:image/") for img in page.all("img"))
    assert "default-src 'none'" in page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]


def test_tiles_and_splits_can_be_chosen(faulty, tmp_path):
    done(suspects(faulty, "--tiles", 3, 5, "--out", tmp_path / "a.html"))
    assert {row["tile"] for row in rows_of(tmp_path / "a.csv")} == {"3", "5"}
    ran = done(suspects(faulty, "--split", "val", "--out", tmp_path / "b.html"))
    assert {row["tile"] for row in rows_of(tmp_path / "b.csv")} <= {"15"}
    assert "may have learnt" not in ran.out


def test_where_nothing_looks_wrong_the_page_says_so(faulty, tmp_path):
    labels = pixels(faulty.path("labels", 3))[0]
    write_raster(faulty.path("labels", 3), np.full_like(labels, 6), 3)
    ran = done(suspects(faulty, "--tiles", 3, "--out", tmp_path / "a.html"))
    assert "0 places in 1 tiles" in ran.out
    assert "No place was found" in Page(tmp_path / "a.html").text
    assert rows_of(tmp_path / "a.csv") == []


def test_of_a_cross_validation_each_tile_is_judged_by_a_net_that_has_not_seen_it(faulty, tmp_path):
    home = tmp_path / "town_folds"
    net, about = snapshots.load_net(faulty.snapshots / "net_best_iou.safetensors")
    for fold, kept in ((1, ["3", "5"]), (2, ["1", "3"]), (3, ["1", "5"])):
        (home / f"fold_{fold}").mkdir(parents=True)
        snapshots.save_net(home / f"fold_{fold}/net_best_iou.safetensors", net, about | {"trained_on": kept})
    ran = done(suspects(faulty, "--weights", home))
    assert "3 folds" in ran.out
    folds = {row["tile"]: row["weights"].split("fold_")[1][0] for row in rows_of(home / "fold_1/suspects.csv")}
    assert folds == {"1": "1", "5": "2", "3": "3"}
    (home / "fold_2/net_best_iou.safetensors").unlink()
    snapshots.save_net(home / "fold_2/net_best_iou.safetensors", net, about)
    refused(suspects(faulty, "--weights", home, "--overwrite"), "every fold", "5")


# -------------------------------------------------------------------------------------------------------------- bad input


def test_what_does_not_go_together_is_refused(faulty, tmp_path):
    refused(suspects(faulty, tmp_path), "leave out a folder")
    refused(suspects(faulty, "--augmented", "--seed", 3), "leave out --augmented, --seed")
    refused(call("tools.show", tmp_path, "--weights", "best"), "--weights is for --suspects")
    refused(suspects(faulty, "--out", tmp_path / "a.png"), "the page is HTML")
    refused(suspects(faulty, "--split", "test", test_ids=[]), "test_ids", "is empty")
    refused(suspects(faulty, "--run", "none"), "vaihingen_snapshots_segnet_slim-none")
    refused(suspects(faulty, "--tiles", 77), "77")
    refused(suspects(faulty, label_values=[*NAMES[:5], "water"]), "label_values")
    assert "suspects.html" not in names(faulty.snapshots)


def test_a_page_that_is_there_is_replaced_only_when_asked_for(faulty):
    (faulty.snapshots / "suspects.csv").write_text("mine")
    refused(suspects(faulty, "--tiles", 3), "suspects.csv exists already", "--overwrite")
    assert (faulty.snapshots / "suspects.csv").read_text() == "mine"
    done(suspects(faulty, "--tiles", 3, "--overwrite"))
    assert rows_of(faulty.snapshots / "suspects.csv")
