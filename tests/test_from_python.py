"""Proves that what the scripts do can be done from Python, with settings and options, and that a training can be watched."""

import numpy as np
import pytest
from conftest import make_town, names, read_json

import create_db
import extract_images
import inference
import training
from tools.base.errors import UserError
from tools.settings import read_settings


class Listener:
    """Keeps what it is told."""

    def __init__(self):
        self.intervals, self.validations = [], []

    def add(self, interval):
        self.intervals.append(interval)

    def add_validation(self, iteration, found):
        self.validations.append((iteration, found))


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A town whose net was trained from Python, its settings, and who listened."""
    town = make_town(tmp_path_factory.mktemp("town"), SNAPSHOT_EVERY=None)
    settings, listener = read_settings(town.config(), ["VAL_EVERY=10"]), Listener()
    extract_images.cut_patches(settings, extract_images.arguments([]))
    create_db.pack_databases(settings, create_db.arguments([]))
    words = ["--niter", "20", "--update", "5", "--device", "cpu"]
    training.learn(settings, training.arguments(words), [listener])
    return town, settings, listener


def test_a_watcher_hears_what_metrics_json_keeps(watched):
    town, _, listener = watched
    kept = read_json(town.snapshots / "metrics.json")
    assert [(i.iteration, i.loss) for i in listener.intervals] == [(e["iteration"], e["loss"]) for e in kept["training"]]
    assert [i.iteration for i in listener.intervals] == [5, 10, 15, 20]
    assert [iteration for iteration, _ in listener.validations] == [10, 20]
    assert listener.validations[1][1].iou == kept["validation"][1]["mean_iou_without_ignored"]
    assert listener.validations[0][1].picture.shape[2] == 3


def test_settings_from_python_win_over_the_file(watched):
    _, settings, _ = watched
    kept = read_json(settings.snapshots / "metrics.json")
    assert kept["settings"]["VAL_EVERY"] == 10 and settings.origins["VAL_EVERY"] == "--set"


def test_tiles_are_labelled_from_python(watched, tmp_path, capsys):
    _, settings, _ = watched
    words = inference.arguments(["--dir", str(tmp_path / "maps"), "--device", "cpu", "--tta", "flips", "32"])
    before = vars(words) | {}
    inference.label(settings, words)
    assert "maps of 1 tile in" in capsys.readouterr().out
    assert vars(words) == before
    words.overwrite = True
    inference.label(settings, words)  # the same words once more
    assert {"32_labels.tif", "32.png", "report.html", "scores.json"} <= set(names(tmp_path / "maps"))
    matrix = np.array(read_json(tmp_path / "maps/scores.json")["labels"]["all"]["confusion"])
    assert matrix.sum() == 72 * 90


def test_a_mistake_is_an_error_that_python_can_catch(watched):
    _, settings, _ = watched
    with pytest.raises(UserError, match="exists already"):
        extract_images.cut_patches(settings, extract_images.arguments([]))
    with pytest.raises(UserError, match="--shares and --split-attribute"):
        extract_images.arguments(["--shares", "0.7", "0.2", "0.1"])


def test_a_training_that_is_refused_lets_the_database_go(watched):
    town, settings, _ = watched
    words = ["--niter", "30", "--device", "cpu", "--restore"]
    with pytest.raises(UserError, match="of sgd, not of adamw") as kept:  # as a notebook keeps the last error
        training.learn(
            read_settings(town.config(), ["SOLVER={'name': 'adamw', 'weight_decay': 0.01}"]), training.arguments(words)
        )
    training.learn(settings, training.arguments(words))
    assert kept
