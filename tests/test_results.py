"""Proves that tiles which are finished outlive kills, broken files and full disks, and that --resume does just the rest."""

import errno
import json
import os
import shutil
import time

import numpy as np
import pytest
from conftest import kill, names, pixels, refused, spawn, wait_for, write_raster
from test_inference import ENDS, infer, own  # noqa: F401 (own is a fixture)

from tools.base.errors import UserError
from tools.geo import raster
from tools.geo.raster import BlockWriter
from tools.maps import outputs, results


@pytest.fixture
def flight(own, tmp_path):  # noqa: F811
    """Five images, to be spoilt."""
    image = pixels(own.path("irrg", 32))
    for i, name in enumerate("abcde"):
        write_raster(tmp_path / f"flight/{name}.tif", np.roll(image, 9 * i, 1), i, compress="deflate")
    return tmp_path / "flight"


def label(town, flight, *words, **changes):
    return infer(town, "--images", flight, "--dir", flight.parent / "out", *words, **changes)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*_labels.tif")}


def read_details(folder):
    return json.loads((folder / "details.json").read_text())


# ----------------------------------------------------------------------------------------------------------- broken files


def test_a_broken_file_is_named_at_the_end_and_the_others_are_whole(own, flight):  # noqa: F811
    truncate(flight / "b.tif")
    (flight / "d.tif").write_text("no raster")
    ran = label(own, flight)
    out = flight.parent / "out"
    assert ran.code == 1
    assert "2 of 5 tiles could not be labelled" in ran.sentence
    assert f"{flight}/b.tif breaks off" in ran.sentence
    assert f"{flight}/d.tif cannot be read" in ran.sentence
    assert [n for n in names(out) if n[0] in "abcde" and n[1] in "._"] == [f"{n}{end}" for n in "ace" for end in ENDS]
    details = read_details(out)
    assert (details["complete"], sorted(details["failed"]), sorted(details["tiles"])) == (False, ["b", "d"], ["a", "c", "e"])
    assert not [n for n in names(out) if "partial" in n]


def test_windows_of_a_tile_stay_the_same_when_a_file_that_was_no_raster_is_mended_and_the_rest_is_labelled(own, flight):  # noqa: F811
    (flight / "d.tif").write_text("no raster")
    write_raster(flight / "e.tif", np.zeros((3, 40, 200), np.uint8))
    ran = label(own, flight, "--window", 128)
    assert ran.code == 1
    assert "1 of 5 tiles could not be labelled" in ran.sentence
    windows = read_details(flight.parent / "out")["windows"]
    write_raster(flight / "d.tif", np.zeros((3, 300, 40), np.uint8))  # which has other windows
    ran = label(own, flight, "--window", 128, "--resume")
    assert ran.code == 0, ran.err
    found = read_details(flight.parent / "out")["windows"]
    assert found == windows | {"d": [[128, 64], [64, 32]]}
    refused(label(own, flight, "--window", 96, "--resume"), "window")


def test_resume_completes_the_folder_where_none_of_the_rest_can_be_read(own, flight):  # noqa: F811
    (flight / "d.tif").write_text("no raster")
    assert label(own, flight).code == 1
    out = flight.parent / "out"
    (out / "statistics.json").unlink()  # as if it had been killed just before
    ran = label(own, flight, "--resume")
    assert ran.code == 1
    assert "1 of 5 tiles could not be labelled" in ran.sentence
    assert sorted(json.loads((out / "statistics.json").read_text())["tiles"]) == list("abce")


def test_a_tile_whose_files_cannot_be_completed_is_named_and_the_others_go_on(own, flight, monkeypatch):  # noqa: F811
    finish = outputs.TileOutputs.finish

    def failing(self):
        if self.tile.name == "c":
            self.abandon()
            raise UserError("c.tif went away.")
        return finish(self)

    monkeypatch.setattr(outputs.TileOutputs, "finish", failing)
    ran = label(own, flight)
    assert ran.code == 1
    assert "1 of 5 tiles could not be labelled: c.tif went away." in ran.sentence
    assert len(stamps(flight.parent / "out")) == 4


def test_ids_and_images_are_not_mixed(own, flight):  # noqa: F811
    refused(infer(own, 32, "--images", flight), "ids of the dataset's tiles or --images, not both")


def test_mended_files_are_labelled_by_resume_and_the_others_stay(own, flight):  # noqa: F811
    image = (flight / "b.tif").read_bytes()
    truncate(flight / "b.tif")
    assert label(own, flight).code == 1
    before = stamps(flight.parent / "out")
    (flight / "b.tif").write_bytes(image)
    ran = label(own, flight, "--resume")
    assert ran.code == 0, ran.err
    assert "4 of 5 tiles are finished already" in ran.out
    after = stamps(flight.parent / "out")
    assert {name: after[name] for name in before} == before
    assert sorted(after) == [f"{n}_labels.tif" for n in "abcde"]
    assert (read_details(flight.parent / "out")["complete"], read_details(flight.parent / "out")["failed"]) == (True, {})


def test_where_no_file_will_do_nothing_is_written(own, flight):  # noqa: F811
    for name in "abcde":
        truncate(flight / f"{name}.tif")
    refused(label(own, flight), *(f"{name}.tif breaks off" for name in "abcde"))
    for name in "abcde":
        (flight / f"{name}.tif").write_text("no raster")
    refused(label(own, flight), *(f"{name}.tif cannot be read" for name in "abcde"))
    refused(infer(own, "--images", flight.parent / "none.tif"), "none.tif does not exist")
    assert not (flight.parent / "out").exists()


# ----------------------------------------------------------------------------------------------------------------- resume


def test_a_second_resume_finds_nothing_to_do(own, flight):  # noqa: F811
    assert label(own, flight).code == 0
    before, statistics = stamps(flight.parent / "out"), (flight.parent / "out/statistics.json").read_text()
    ran = label(own, flight, "--resume")
    assert (ran.code, "5 of 5 tiles are finished already" in ran.out) == (0, True)
    assert stamps(flight.parent / "out") == before
    assert (flight.parent / "out/statistics.json").read_text() == statistics


def test_resume_into_nothing_is_a_run_like_any_other(own, flight):  # noqa: F811
    assert label(own, flight, "--resume").code == 0
    assert len(stamps(flight.parent / "out")) == 5


def test_what_changed_or_is_lost_is_labelled_again(own, flight):  # noqa: F811
    assert label(own, flight).code == 0
    out = flight.parent / "out"
    before = stamps(out)
    write_raster(flight / "a.tif", pixels(flight / "c.tif"), 3)
    (out / "b_colours.tif").unlink()
    ran = label(own, flight, "--resume")
    assert "3 of 5 tiles are finished already" in ran.out
    after = stamps(out)
    assert [n[0] for n in before if after[n] != before[n]] == ["a", "b"]
    assert (out / "b_colours.tif").exists()
    assert np.array_equal(pixels(out / "a_labels.tif"), pixels(out / "c_labels.tif"))


def test_tiles_may_be_added_and_count_in_all_sums(own):  # noqa: F811
    assert infer(own, 32).code == 0
    assert infer(own, 32, 15, "--resume").code == 0
    assert infer(own, 15, "--resume").code == 0
    out = own.folder("results")
    found = json.loads((out / "scores.json").read_text())["labels"]
    assert (sorted(found["tiles"]), found["all"]["pixels"]) == (["15", "32"], 2 * 72 * 90)
    statistics = json.loads((out / "statistics.json").read_text())
    assert sum(cell["pixels"] for cell in statistics["all"]["classes"].values()) == 2 * 72 * 90


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        (["--confidence"], {}, "confidence = None, now it is uint8"),
        ([], {"test_step_size": (32, 32)}, "step = [16, 16], now it is [32, 32]"),
        ([], {"BLEND": "flat"}, "blend = cosine, now it is flat"),
        (["--weights", "net_iter_80.safetensors"], {}, "weights = "),
    ],
)
def test_other_settings_cannot_be_mixed_in(own, flight, words, changes, said):  # noqa: F811
    assert label(own, flight).code == 0
    before = names(flight.parent / "out")
    words = [own.snapshots / word if word.startswith("net") else word for word in words]
    refused(label(own, flight, "--resume", *words, **changes), "was begun with", said, "--overwrite")
    assert names(flight.parent / "out") == before


def test_the_same_weights_from_elsewhere_resume(own, flight):  # noqa: F811
    assert label(own, flight, "--weights", "newest").code == 0
    moved = shutil.copy(own.snapshots / "net_iter_150.safetensors", flight.parent / "moved.safetensors")
    ran = label(own, flight, "--resume", "--weights", moved)
    assert (ran.code, "5 of 5 tiles are finished already" in ran.out) == (0, True), ran.sentence


def test_a_file_is_not_resumed(own, flight):  # noqa: F811
    (flight.parent / "out").write_text("the only copy")
    refused(label(own, flight, "--resume"), "is a file", "--dir")
    assert (flight.parent / "out").read_text() == "the only copy"


def test_a_folder_below_a_file_is_refused(own, flight):  # noqa: F811
    (flight.parent / "out").write_text("the only copy")
    refused(infer(own, "--images", flight, "--dir", flight.parent / "out/maps"), "a file stands where a folder is wanted")


def test_a_folder_that_is_none_of_ours_is_not_resumed(own, flight):  # noqa: F811
    (flight.parent / "out").mkdir()
    (flight.parent / "out/wedding.jpg").write_text("the only copy")
    refused(label(own, flight, "--resume"), "is no output of ours")
    assert names(flight.parent / "out") == ["wedding.jpg"]


# -------------------------------------------------------------------------------------------------------------- overwrite


@pytest.mark.slow
def test_a_failed_overwrite_leaves_the_old_maps_and_waits_to_be_resumed(own, flight):  # noqa: F811
    assert label(own, flight).code == 0
    out, image = flight.parent / "out", (flight / "b.tif").read_bytes()
    before = stamps(out)
    truncate(flight / "b.tif")
    ran = label(own, flight, "--overwrite", test_step_size=(32, 32))
    assert (ran.code, stamps(out)) == (1, before)
    assert "out.partial" in ran.out
    (flight / "b.tif").write_bytes(image)
    ran = label(own, flight, "--overwrite", "--resume", test_step_size=(32, 32))
    assert (ran.code, "4 of 5 tiles are finished already" in ran.out) == (0, True)
    assert read_details(out)["step"] == [32, 32]
    assert not set(stamps(out).values()) & set(before.values())
    assert "out.partial" not in names(flight.parent)


@pytest.mark.slow
def test_overwrite_anew_forgets_what_waited(own, flight):  # noqa: F811
    assert label(own, flight).code == 0
    truncate(flight / "b.tif")
    assert label(own, flight, "--overwrite").code == 1
    (flight / "b.tif").unlink()
    assert label(own, flight, "--overwrite", BLEND="flat").code == 0
    assert sorted(stamps(flight.parent / "out")) == [f"{n}_labels.tif" for n in "acde"]


# ------------------------------------------------------------------------------------------------------------ a full disk


@pytest.mark.parametrize(("where", "what"), [(BlockWriter, "add"), (raster, "write_categories")])
def test_a_disk_that_fills_up_ends_the_run_in_one_sentence_and_keeps_what_is_finished(own, flight, monkeypatch, where, what):  # noqa: F811
    """While a tile is written, and while its files are completed."""
    whole = getattr(where, what)

    def full(first, *more):
        if ".c.partial" in str(getattr(first, "file", first)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(first, *more)

    monkeypatch.setattr(where, what, full)
    refused(label(own, flight), "the disk is full", "free some space")
    out = flight.parent / "out"
    assert {"a_labels.tif", "b_labels.tif"} <= set(stamps(out)) <= {f"{n}_labels.tif" for n in "abd"}
    assert not [n for n in names(out) if "partial" in n]
    monkeypatch.undo()
    assert label(own, flight, "--resume").code == 0
    assert len(stamps(out)) == 5


@pytest.mark.parametrize("kilobytes", [300, pytest.param(700, marks=pytest.mark.slow), 1100])
@pytest.mark.parametrize("cog", [[], pytest.param(["--cog"], marks=pytest.mark.slow)])
def test_maps_on_a_really_full_disk_are_whole_or_absent(own, tmp_path, small_disk, kilobytes, cog):  # noqa: F811
    noise = np.random.default_rng(0).integers(0, 255, (3, 400, 500)).astype(np.uint8)
    for name in "abc":
        write_raster(tmp_path / f"flight/{name}.tif", noise)
    disk = small_disk(kilobytes)
    ran = infer(own, "--images", tmp_path / "flight", "--dir", disk / "out", "--probabilities", "float32", *cog)
    refused(ran, "the disk is full")
    for path in disk.glob("out/*.tif"):
        assert raster.read_fault(path) is None
    assert not [path for path in disk.glob("out/*") if "partial" in path.name]


# ----------------------------------------------------------------------------------------------------------------- killed


def command(town, flight):
    return ["inference", "--images", flight, "--dir", flight.parent / "out", "--device", "cpu", "--config", town.config(),
            "--polygons", "--probabilities", "--cog", "--resume"]  # fmt: skip


def whole(out):
    """Assert that whatever has a final name is whole (Path.glob sees hidden files too, such as one that was being written)."""
    for path in [*out.glob("*.tif"), *out.glob("*.json"), *out.glob("tiles/*.json")]:
        if path.name.startswith("."):
            assert ".partial" in path.name
        elif path.suffix == ".tif":
            assert raster.read_fault(path) is None, path
        else:
            json.loads(path.read_text())


@pytest.mark.slow
def test_killed_at_any_moment_the_run_is_completed_by_resume(own, flight):  # noqa: F811
    """SIGKILL again and again, later and later, until a run gets to its end: its maps are those of a run left in peace."""
    out, kills = flight.parent / "out", 0
    for wait in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5):
        with spawn(*command(own, flight)) as process:
            wait_for(lambda p=process: out.exists() or p.poll() is not None)
            time.sleep(wait)
            kills += process.poll() is None
            kill(process)
        whole(out)
    assert kills >= 3
    with spawn(*command(own, flight)) as process:
        assert process.wait(120) == 0, process.stderr.read()
    whole(out)
    assert not [n for n in names(out) if "partial" in n]
    killed = {path.name: pixels(path) for path in out.glob("*.tif")}
    shutil.rmtree(out)
    with spawn(*command(own, flight)) as process:
        assert process.wait(120) == 0
    assert sorted(killed) == sorted(path.name for path in out.glob("*.tif"))
    for name, image in killed.items():
        assert np.array_equal(image, pixels(out / name)), name


def test_killed_between_the_names_of_two_files_a_tile_is_made_again(own, flight, monkeypatch):  # noqa: F811
    """What a kill leaves there: some files under their names, others not yet, no record."""

    def stop(folder, tile, made):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "record", stop)
    assert label(own, flight).code == 130
    monkeypatch.undo()
    out = flight.parent / "out"
    (out / "a_labels.tif").unlink()
    ran = label(own, flight, "--resume")
    assert ran.code == 0, ran.err
    assert len(stamps(out)) == 5
