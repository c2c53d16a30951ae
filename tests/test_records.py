"""Proves that a run's records say what it was and how it went, and go on in a restored run as if it had never stopped."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import NAMES, call, names, pixels, read_json, refused
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tools.compute.distributed import ALONE
from tools.labels.scores import confusion
from tools.record import provenance
from tools.record.history import Interval, Validation
from tools.record.log import Log
from tools.record.provenance import changed, made_with
from tools.record.tensorboard import Curves
from tools.settings import read_settings
from tools.solver.losses import NO_LOSS
from tools.training.batch_scores import EVERY, RunningScores
from tools.training.progress import Progress

QUICK = {"VAL_EVERY": 2, "SNAPSHOT_EVERY": 2}


@pytest.fixture
def own(databases, tmp_path, without_pictures):
    return databases.copy(tmp_path / "own", "lmdb")


def train(town, niter, *words, **changes):
    ran = call(
        "training", "--niter", niter, "--device", "cpu", "--update", 1, "--config", town.config(**QUICK | changes), *words
    )
    assert ran.code == 0, ran.err
    return ran


def metrics(town):
    return read_json(town.snapshots / "metrics.json")


def curves(folder):
    """{name: [(iteration, value), ...]} and {name: [(iteration, height, width), ...]} that TensorBoard reads in a folder."""
    found = EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()
    scalars = {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}
    return scalars, {n: [(e.step, e.height, e.width) for e in found.Images(n)] for n in found.Tags()["images"]}


# ---------------------------------------------------------------------------------------------------------- metrics.json


def test_settings_versions_device_data_and_history_are_on_record(own):
    train(own, 3, SEED=7)
    found = metrics(own)
    given = read_settings(own.config(**QUICK, SEED=7))
    assert set(found["settings"]) == set(given.values())
    assert (found["settings"]["SEED"], found["settings"]["test_ids"], found["settings"]["NET"]) == (7, [32], "segnet_slim")
    assert (found["versions"]["torch"], found["versions"]["numpy"]) == (torch.__version__, np.__version__)
    assert found["versions"]["orthonets"] == "0.1.0"
    assert "cpu" in found["device"]
    assert found["net"]["name"] == "segnet_slim" and found["net"]["learnable values"] > 600_000
    details = read_json(own.folder("lmdb") / "details.json")
    assert found["database"]["fingerprint"] == details["splits"]["train"]["fingerprint"]
    assert [e["iteration"] for e in found["training"]] == [1, 2, 3]
    assert all(e["images_per_second"] > 0 and e["rate"] == given.training.BASE_LR for e in found["training"])
    assert [v["iteration"] for v in found["validation"]] == [2, 3]
    assert set(found["validation"][0]["iou"]) == set(NAMES)
    assert np.array(found["validation"][0]["confusion"]).sum() == found["validation"][0]["pixels"] == 72 * 90


def test_losses_on_record_are_the_means_since_the_last_entry(own):
    train(own, 5, "--update", 2)
    losses = torch.load(own.snapshots / "net_iter_5.solverstate", weights_only=True)["losses"].tolist()
    found = {e["iteration"]: e["loss"] for e in metrics(own)["training"]}
    assert found == pytest.approx({2: np.mean(losses[:2]), 4: np.mean(losses[2:4]), 5: losses[4]})


def without_speed(found):
    """A history less what no two runs share."""
    training = [{k: v for k, v in e.items() if k != "images_per_second"} for e in found["training"]]
    return training, found["validation"], found["best"]


def test_a_restored_run_goes_on_with_its_history_without_gaps_or_duplicates(own, tmp_path):
    train(own, 6, "--snapshot", tmp_path / "unbroken")
    train(own, 4)
    train(own, 6, "--restore", own.snapshots / "net_iter_2.solverstate")  # 3 and 4 are done again
    found = metrics(own)
    assert without_speed(found) == without_speed(read_json(tmp_path / "unbroken/metrics.json"))
    assert [s["iteration"] for s in found["sessions"]] == [0, 2]


LESS = '{"sessions": [], "validation": [], "training": [{"iteration": 1, "loss": 2.0, "rate": 0.1}]}'


@pytest.mark.parametrize("text", ["{", '{"training": 3}', "[]", "\udcff", LESS])
def test_a_history_that_cannot_be_read_is_begun_anew_aloud_and_what_was_there_is_kept(own, text):
    train(own, 2)
    best, path = metrics(own)["best"], own.snapshots / "metrics.json"
    for name in ("metrics.json.broken", "metrics.json.broken2"):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        ran = train(own, 3, "--restore", own.snapshots / "net_iter_2.solverstate")
        assert f"warning: {path} is damaged (" in ran.err
        assert f"so the history begins anew; what was there is now {name}." in ran.err
        assert "so the history begins anew" in (own.snapshots / "training.log").read_text()
        assert (own.snapshots / name).read_bytes() == text.encode("utf-8", "surrogateescape")
        assert [e["iteration"] for e in metrics(own)["training"]] == [3]
    assert set(metrics(own)["best"]) == set(best)  # what is the best stands in the solverstate, too
    train(own, 1, "--overwrite")
    assert not list(own.snapshots.glob("*.broken*"))


def test_a_history_that_is_lost_is_begun_anew_aloud(own, tmp_path):
    train(own, 2)
    (own.snapshots / "metrics.json").unlink()
    ran = train(own, 3, "--restore")
    assert f"warning: {own.snapshots / 'metrics.json'} does not exist, so the history begins anew.\n" in ran.err
    assert [e["iteration"] for e in metrics(own)["training"]] == [3]


def test_a_broken_history_of_another_folder_stays_where_it_is(own, tmp_path):
    train(own, 2)
    (own.snapshots / "metrics.json").write_text("{")
    ran = train(own, 3, "--restore", own.snapshots, "--snapshot", tmp_path / "new")
    assert "metrics.json is damaged (" in ran.err and "what was there" not in ran.err
    assert (own.snapshots / "metrics.json").read_text() == "{"


def test_metrics_are_json_without_nan(own):
    train(own, 2)

    def never(name):
        raise AssertionError(name)

    json.loads((own.snapshots / "metrics.json").read_text(), parse_constant=never)


def test_git_state_is_commit_and_whether_files_were_changed(tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout.strip()

    assert provenance.git_state(tmp_path) is None
    git("init", "--quiet")
    assert provenance.git_state(tmp_path) is None  # there is no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "--quiet", "-m", "one")
    (tmp_path / "notes").write_text("which git does not know")
    assert provenance.git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert provenance.git_state(tmp_path)["dirty"]


def test_without_git_there_is_no_state(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state() is None


# ----------------------------------------------------------------------------------------------------------- fingerprint


def packed(patches, base, change=None):
    """The fingerprints, by split, of a database that is made of the patches after a change to one of them."""
    town = patches.copy(base, "patches")
    if change:
        change(town.folder("patches"))
    ran = call("create_db", "--config", town.config())
    assert ran.code == 0, ran.err
    splits = read_json(town.folder("lmdb") / "details.json")["splits"]
    return {split: about["fingerprint"] for split, about in splits.items()}


def one_pixel(kind):
    def change(folder):
        path = min((folder / kind).iterdir())
        values = pixels(path)
        values[0, 3, 4] = 0 if values[0, 3, 4] else 1
        with rasterio.open(path) as file:
            profile = file.profile
        with rasterio.open(path, "w", **profile) as file:
            file.write(values)

    return change


def one_less(folder):
    for kind in ("irrg_train", "labels_train"):
        min((folder / kind).iterdir()).unlink()


def test_the_fingerprint_changes_with_any_pixel_and_label_and_with_nothing_else(patches, tmp_path):
    same = [packed(patches, tmp_path / name) for name in "ab"]
    assert same[0] == same[1]
    changes = [one_pixel("irrg_train"), one_pixel("labels_train"), one_less]
    others = [packed(patches, tmp_path / f"c{i}", change) for i, change in enumerate(changes)]
    assert len({found["train"] for found in [same[0], *others]}) == 4
    assert {found["test"] for found in others} == {same[0]["test"]}


# -------------------------------------------------------------------------------------------------------- other settings


def test_a_restore_with_other_settings_or_data_is_said(own):
    train(own, 2)
    path = own.folder("lmdb") / "details.json"
    path.write_text(path.read_text().replace(metrics(own)["database"]["fingerprint"], "0123456789abcdef"))
    ran = train(own, 4, "--restore", BATCH_SIZE=2, ITER_SIZE=2, SEED=9, BASE_LR=0.5)
    warning = next(line for line in ran.err.splitlines() if "made with other settings" in line)
    for words in (
        "BATCH_SIZE = 2 (it was 4)",
        "ITER_SIZE = 2 (it was 1)",
        "SEED = 9 (it was 1)",
        "BASE_LR = 0.5",
        "0123456789",
    ):
        assert words in warning
    assert warning in (own.snapshots / "training.log").read_text()


def test_a_restore_with_the_same_settings_is_quiet_and_places_and_readers_do_not_count(own, tmp_path):
    train(own, 2)
    shutil.copytree(own.folder("lmdb"), tmp_path / "elsewhere/vaihingen_lmdb")
    ran = train(
        own, 3, "--restore", own.snapshots, BASE_DIR=f"{tmp_path}/elsewhere/", WORKERS=1, SNAPSHOT_EVERY=7, KEEP_SNAPSHOTS=3,
        test_ids=[], MEMORY_MB=100,
    )  # fmt: skip
    assert "warning" not in ran.err


BEATS = [("plateau", None, True), ("plateau", 5, False), ("fixed", None, False)]


@pytest.mark.parametrize(("policy", "val_every", "counts"), BEATS)
def test_the_beat_of_snapshots_counts_where_the_rate_goes_by_it(own, policy, val_every, counts):
    numbers = {"gamma": 0.1, "patience_validations": 2} if policy == "plateau" else {}
    settings = read_settings(own.config(VAL_EVERY=val_every, LR_POLICY={"name": policy} | numbers))
    other = replace(settings, training=replace(settings.training, SNAPSHOT_EVERY=9))
    odd = changed(*(made_with(s.with_effect(), own.folder("lmdb")) for s in (settings, other)))
    assert odd == ([f"SNAPSHOT_EVERY = 9 (it was {settings.training.SNAPSHOT_EVERY})"] if counts else [])


# ----------------------------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_reads_the_curves_and_pictures_back(own):
    train(own, 4)
    scalars, images = curves(own.snapshots / "tensorboard")
    found = metrics(own)
    for name, key in (("loss", "loss"), ("rate", "rate"), ("images per second", "images_per_second"), ("mean IoU", "mean_iou")):
        expected = [(e["iteration"], pytest.approx(e[key])) for e in found["training"]]
        assert scalars[f"training/{name}"] == expected
    whole = {"loss": "loss", "mean IoU": "mean_iou_without_ignored", "accuracy": "overall_accuracy"}
    whole |= {"mean class accuracy": "mean_accuracy_without_ignored", "FWIoU": "frequency_weighted_iou_without_ignored"}
    for name, key in whole.items():
        assert scalars[f"validation/{name}"] == [(v["iteration"], pytest.approx(v[key])) for v in found["validation"]]
    for name in NAMES:
        for curve, kind in (("IoU", "iou"), ("Dice", "dice"), ("class accuracy", "recall"), ("precision", "precision")):
            known = [v for v in found["validation"] if v[kind][name] is not None]
            expected = [(v["iteration"], pytest.approx(v[kind][name])) for v in known]
            assert scalars.get(f"validation/{curve}/{name}", []) == expected
    assert list(images.values()) == [[(2, 72, 3 * 90 + 8), (4, 72, 3 * 90 + 8)]]


def test_the_curves_of_a_restored_run_go_on_without_duplicates(own):
    train(own, 4)
    train(own, 5, "--restore", own.snapshots / "net_iter_2.solverstate")
    scalars, images = curves(own.snapshots / "tensorboard")
    assert [i for i, _ in scalars["training/loss"]] == [1, 2, 3, 4, 5]
    assert [i for i, _ in scalars["validation/loss"]] == [2, 4, 5]
    assert [i for i, *_ in next(iter(images.values()))] == [2, 4, 5]
    assert len(names(own.snapshots / "tensorboard")) == 2


def test_an_event_that_finds_no_room_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    curve = Curves(tmp_path, 0)
    curve.add(Interval(1, 1.0, 0.1, 5.0))
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        opened = type(path).open

        class Full:
            def __enter__(self):
                self.file = opened(path, "ab")
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, content):
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                raise OSError(28, "No space left on device")

        patch.setattr(type(path), "open", lambda *_: Full())
        with pytest.raises(OSError, match="No space"):
            curve.add(Interval(2, 1.0, 0.1, 5.0))
    assert path.read_bytes() == whole
    curve.add(Interval(3, 1.0, 0.1, 5.0))
    assert [i for i, _ in curves(tmp_path)[0]["training/loss"]] == [1, 3]


def test_a_disk_without_room_for_a_name_is_a_full_disk(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    curve, log = Curves(tmp_path, 0), Log(tmp_path / "training.log")
    with monkeypatch.context() as patch, log.training_goes_on("a point"):
        patch.setattr(Path, "open", full)
        curve.add(Interval(1, 1.0, 0.1, 5.0))
    assert "a point was not written, training goes on: the disk is full" in capsys.readouterr().err


def test_what_is_not_known_is_no_point(tmp_path):
    curve = Curves(tmp_path, 0)
    scores = {"loss": None, "mean_iou_without_ignored": None, "overall_accuracy": 0.5, "iou": {"a": None, "b": 0.25}}
    curve.add(Interval(1, 1.0, 0.1, 5.0, None))
    curve.add_validation(1, Validation(scores, np.zeros((4, 5, 3), np.uint8)))
    scalars, _ = curves(tmp_path)
    assert "training/mean IoU" not in scalars
    assert {name: value for name, [(_, value)] in scalars.items() if "validation" in name} == {
        "validation/accuracy": 0.5,
        "validation/IoU/b": 0.25,
    }


# --------------------------------------------------------------------------------------------------------------- the log


def test_the_log_tells_a_person_how_it_went(own):
    train(own, 2)
    train(own, 3, "--restore")
    lines = (own.snapshots / "training.log").read_text().splitlines()
    assert all(line[:4].isdigit() and line[10] == " " and line[13] == ":" for line in lines)  # 2026-11-21 10:52:27
    expected = [
        "patches, iterations 0 to 2", "iteration 1: loss ", "iteration 2: loss ", "iteration 2: validation loss ", "snapshot: ",
        "newest snapshot: ", "restored from ", "patches, iterations 2 to 3", "iteration 3: loss ",
        "iteration 3: validation loss ", "snapshot: ", "newest snapshot: ",
    ]  # fmt: skip
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line
    assert "rate 0.0" in lines[1] and "images/s" in lines[1]


def test_what_stopped_a_run_is_its_last_line(own):
    train(own, 2)
    ran = call("training", "--niter", 200, "--device", "cpu", "--update", 1, "--restore", "--config", own.config(BASE_LR=1e30))
    refused(ran, "iteration")
    last = (own.snapshots / "training.log").read_text().splitlines()[-1]
    assert "stopped: " in last and ran.sentence.removeprefix("training.py: ") in last


def test_a_refused_run_leaves_no_log(own):
    refused(call("training", "--niter", 1, "--config", own.config(NET="sgnet")), "sgnet")
    assert not own.snapshots.exists()


def test_a_full_disk_costs_a_line_of_the_log_and_nothing_else(tmp_path, capsys):
    log = Log(tmp_path / "log")
    log.path = type(log.path)("/dev/full")
    log.note("lost")
    log.say("shown")
    assert "shown" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------- scores and speed of batches


def test_running_scores_count_every_so_many_pixels_of_all_batches():
    random = np.random.default_rng(0)
    running, expected = RunningScores(3, torch.device("cpu")), 0
    for height, width in ((9, 14), (8, 8)):
        target = random.choice([0, 1, 2, NO_LOSS], (2, height, width))
        logits = random.normal(size=(2, 3, height, width))
        running.add(torch.tensor(logits), torch.tensor(target))
        small = target[:, ::EVERY, ::EVERY], logits.argmax(1)[:, ::EVERY, ::EVERY]
        expected = expected + confusion(*small, 3)
    assert np.array_equal(running.fetch(), expected)
    assert running.fetch().sum() == 0


def test_time_spent_on_other_things_does_not_count_for_images_per_second(monkeypatch):
    class Solver:
        rate = staticmethod(lambda iteration: 0.1)

    class FakeTrainer:
        iteration, losses, solver, ranks = 0, [], Solver(), ALONE
        fetch_losses = fetch_iou = staticmethod(lambda: None)

    now = [100.0]
    monkeypatch.setattr("tools.training.progress.time.monotonic", lambda: now[0])
    trainer = FakeTrainer()
    with Progress(trainer, 10, 8, 4) as progress:
        found = []
        for iteration in range(1, 11):
            now[0] += 0.5
            trainer.iteration, trainer.losses = iteration, [*trainer.losses, float(iteration)]
            found.append(progress.show())
            if iteration in (3, 4):
                with progress.paused():
                    now[0] += 1000
    assert [f and f.iteration for f in found] == [None, None, None, 4, None, None, None, 8, None, 10]
    assert [f.images_per_second for f in found if f] == [16, 16, 16]
    assert [f.loss for f in found if f] == [2.5, 6.5, 9.5]
