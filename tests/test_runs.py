"""Proves that runs can be told apart: by RUN, by which weights label, and in one table with their curves."""

import csv
import json

import pytest
from conftest import call, done, names, pixels, read_json, refused, train

from tools.base.errors import UserError
from tools.record import choose as choice
from tools.runs import table


@pytest.fixture(scope="module")
def two(databases, tmp_path_factory):
    """A town with two runs of one net on one database, and the maps of one of them."""
    own = databases.copy(tmp_path_factory.mktemp("runs") / "own", "lmdb")
    with pytest.MonkeyPatch.context() as patch:
        for picture in ("net_graph", "loss_plot"):
            patch.setattr(f"tools.record.plots.{picture}", lambda path, *_: None)
        done(train(own, 2, SNAPSHOT_EVERY=1))
        done(train(own, 3, "--run", "low", SNAPSHOT_EVERY=3, BASE_LR=0.001))
    return own


def label(town, *words, **changes):
    return call("inference", *words, "--device", "cpu", "--config", town.config(**changes))


# ----------------------------------------------------------------------------------------------------------------- names


def test_run_names_snapshots_maps_and_curves_and_shares_the_database(two):
    assert names(two.base) == sorted(
        ["config.py", "vaihingen", "vaihingen_lmdb", "vaihingen_snapshots_segnet_slim", "vaihingen_snapshots_segnet_slim-low"]
    )
    low = two.base / "vaihingen_snapshots_segnet_slim-low"
    assert (low / "net_iter_3.safetensors").exists() and list((low / "tensorboard").iterdir())
    ran = done(label(two, 32, "--run", "low"))
    maps = two.base / "vaihingen_results_segnet_slim-low"
    assert read_json(maps / "details.json")["weights"].startswith(str(low))
    assert "weights of vaihingen_snapshots_segnet_slim-low: the best by its validation tiles" in ran.out


def test_run_in_the_config_does_the_same_and_a_name_that_is_none_is_refused(two):
    ran = label(two, 32, "--run", "a/b")
    refused(ran, "RUN = 'a/b'", "a name of letters")
    refused(label(two, 32, RUN="none"), "vaihingen_snapshots_segnet_slim-none has no snapshot")


# --------------------------------------------------------------------------------------------------------------- weights


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose best weights are of iteration 2, and whose newest snapshot is of iteration 4."""
    from safetensors.numpy import save_file

    def write(name, **about):
        save_file({}, tmp_path / name, {key: json.dumps(value) for key, value in about.items()})

    write("net_best_iou.safetensors", iteration=2, scores={"mean_iou_without_ignored": 0.625})
    write("net_iter_4.safetensors", iteration=4)
    (tmp_path / "net_iter_4.solverstate").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "name", "other"),
    [
        ([], "net_best_iou.safetensors", "newest would take net_iter_4.safetensors (iteration 4)"),
        (["best"], "net_best_iou.safetensors", "newest would take"),
        (["newest"], "net_iter_4.safetensors", "best would take net_best_iou.safetensors (iteration 2, mean IoU 62.50 %)"),
    ],
)
def test_the_best_weights_or_the_newest_are_taken_and_the_other_is_named(run, words, name, other):
    (chosen,) = choice.choose(words, run)
    assert chosen.path == run / name
    assert other in chosen.note and run.name in chosen.note


def test_a_folder_is_a_run_and_a_file_is_itself(run, tmp_path):
    chosen = choice.choose([run, run / "net_iter_4.safetensors"], tmp_path / "elsewhere")
    assert [one.path.name for one in chosen] == ["net_best_iou.safetensors", "net_iter_4.safetensors"]
    assert chosen[1].note == ""


def test_a_run_without_validation_has_its_newest_and_no_best(run):
    (run / "net_best_iou.safetensors").unlink()
    assert choice.choose([], run)[0].path.name == "net_iter_4.safetensors"
    with pytest.raises(UserError, match="has no net_best_"):
        choice.choose(["best"], run)


# ------------------------------------------------------------------------------------------------------------- the scores


def test_tiles_that_were_trained_on_are_marked_as_seen(two, tmp_path):
    ran = done(label(two, 1, 32, "--dir", tmp_path / "maps"))
    found = read_json(tmp_path / "maps" / "scores.json")["labels"]
    assert found["seen"] == ["1"]
    assert found["unseen"]["confusion"] == found["tiles"]["32"]["confusion"] != found["all"]["confusion"]
    assert "without the tiles trained on (1):" in ran.out
    page = (tmp_path / "maps" / "report.html").read_text()
    assert "1 (trained on)</th>" in page and "32</th>" in page and "The net was trained on 1:" in page


def test_the_confusion_matrix_is_printed_when_asked_for(two, tmp_path):
    assert "true class" not in done(label(two, 32, "--dir", tmp_path / "a")).out
    truth = (pixels(two.path("labels", 32)) == 1).sum()
    ran = done(label(two, 32, "--dir", tmp_path / "b", "--matrix"))
    assert any(line.startswith("building") and line.endswith(f" {truth:,}") for line in ran.out.splitlines())


# -------------------------------------------------------------------------------------------------------------- the table


def test_the_table_has_a_line_for_each_run_with_scores_and_the_settings_that_differ(two, tmp_path):
    done(label(two, 32, "--dir", two.base / "maps_low", "--run", "low"))
    ran = done(call("tools.runs", two.base, "--csv", tmp_path / "runs.csv", "--plot", tmp_path / "runs.png"))
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert {row["run"] for row in rows} == {"vaihingen_snapshots_segnet_slim", "vaihingen_snapshots_segnet_slim-low"}
    by_name = {row["run"].split("-")[-1]: row for row in rows}
    low = by_name["low"]
    metrics = read_json(two.base / "vaihingen_snapshots_segnet_slim-low" / "metrics.json")
    assert (low["iterations"], low["net"], low["BASE_LR"]) == ("3", "segnet_slim", "0.001")
    assert float(low["val IoU"]) == max(v["mean_iou_without_ignored"] for v in metrics["validation"])
    scores = read_json(two.base / "maps_low" / "scores.json")["labels"]["all"]
    assert float(low["test accuracy"]) == pytest.approx(scores["overall_accuracy"])
    assert by_name["vaihingen_snapshots_segnet_slim"]["test IoU"] == ""
    assert [float(row["val IoU"]) for row in rows] == sorted((float(row["val IoU"]) for row in rows), reverse=True)
    assert float(low["minutes"]) >= 0
    assert "BASE_LR=0.001" in ran.out and "SNAPSHOT_EVERY=3" in ran.out
    assert "BATCH_SIZE" not in ran.out  # the same in both
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_without_maps_the_final_scores_stand_in_the_table(tmp_path):
    (tmp_path / "x_snapshots_net").mkdir()
    (tmp_path / "y_snapshots_net").mkdir()
    final = {"test": {"overall_accuracy": 0.75, "mean_iou_without_ignored": 0.5}}
    (tmp_path / "x_snapshots_net" / "final.json").write_text(json.dumps(final))
    (tmp_path / "y_snapshots_net" / "final.json").write_text("{}")  # without --test
    found = table.test_scores(tmp_path)
    assert found == {(tmp_path / "x_snapshots_net").resolve(): {"accuracy": 0.75, "iou": 0.5}}


@pytest.mark.parametrize(("option", "name"), [("--csv", "runs.csv"), ("--plot", "runs.png")])
def test_a_file_that_is_there_is_replaced_with_overwrite_alone(two, tmp_path, option, name):
    (tmp_path / name).write_text("mine")
    refused(call("tools.runs", two.base, option, tmp_path / name), tmp_path / name, "exists already", "--overwrite")
    assert (tmp_path / name).read_text() == "mine"
    done(call("tools.runs", two.base, option, tmp_path / name, "--overwrite"))
    assert (tmp_path / name).read_bytes() != b"mine"


@pytest.mark.parametrize("name", ["runs.xyz", "runs"])
def test_curves_under_a_name_that_is_no_picture_are_refused(tmp_path, name):
    refused(call("tools.runs", tmp_path, "--plot", tmp_path / name), "--plot", "the picture is a PNG")


def test_a_folder_without_runs_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    refused(call("tools.runs", tmp_path), tmp_path, "holds no run")


def test_runs_of_other_datasets_are_not_compared(tmp_path):
    def one(name, **settings):
        metrics = {"settings": settings, "net": {"name": "n"}, "training": [], "validation": [], "sessions": []}
        return table.Run(tmp_path / name, metrics)

    runs = [one("a", DATASET="x", BASE_LR=1), one("b", DATASET="x", BASE_LR=2, RUN="b"), one("c", DATASET="y", SEED=3)]
    assert table.differing(runs) == {"x": ["BASE_LR"], "y": []}


# ------------------------------------------------------------------------------------------------------- all the choices


def test_every_choice_stands_in_the_list_whole():
    from tools.data.operations import OPERATIONS
    from tools.solver.losses import LOSSES
    from tools.solver.schedules import POLICIES

    text = done(call("tools.choices")).out
    for choices in (OPERATIONS, LOSSES, POLICIES):
        for name in choices:
            assert any(line.strip().split("(")[0].split()[:1] == [name] for line in text.splitlines()), name
    assert "rotate(degrees, probability=0.5)" in text
    assert done(call("tools.choices", "BLEND")).out.split() == ["BLEND:", "flat", "linear", "cosine", "gaussian"]
    refused(call("tools.choices", "LOS"), "LOS has no list of choices", "Did you mean 'LOSS'?")
