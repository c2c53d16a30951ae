"""Proves that inference writes whole, placed, scored maps, and that each number in scores.json is that of the written map."""

import json
import os

import numpy as np
import pytest
import rasterio
import sklearn.metrics as sk
import torch
from conftest import COLOURS, CRS, NAMES, call, done, names, paint, pixels, place, read_json, refused, write_raster
from safetensors.torch import save_file
from test_training import Evil

import nets
from tools.weights import snapshots

IGNORED = 5
ENDS = (".png", "_colours.tif", "_labels.qml", "_labels.tif", "_labels.tif.aux.xml")


@pytest.fixture(scope="module")
def maps(trained):
    """The maps of the test tile and of the validation tile, by the trained net."""
    out = trained.base / "maps"
    ran = call("inference", 32, 15, "--dir", out, "--device", "cpu", "--config", trained.config())
    assert ran.code == 0, ran.err
    return out


@pytest.fixture
def own(trained, tmp_path):
    """A town with a trained net, to be spoilt."""
    return trained.copy(tmp_path / "own", "snapshots_segnet_slim")


def infer(town, *words, **changes):
    return call("inference", *words, "--device", "cpu", "--config", town.config(**changes))


def read_scores(folder):
    return json.loads((folder / "scores.json").read_text())


# --------------------------------------------------------------------------------------------------------------- the maps


@pytest.mark.parametrize("tile", [32, 15])
def test_the_label_map_lies_where_the_tile_lies_and_has_a_colour_table(maps, tile):
    with rasterio.open(maps / f"{tile}_labels.tif") as file:
        assert (file.crs, file.transform) == (CRS, place(tile))
        assert (file.count, file.dtypes, file.shape) == (1, ("uint8",), (72, 90))
        assert {k: v[:3] for k, v in file.colormap(1).items() if k in COLOURS} == COLOURS
        assert set(np.unique(file.read())) <= set(range(6))  # every pixel got a class


@pytest.mark.parametrize("tile", [32, 15])
def test_the_colour_map_shows_the_labels_in_the_palettes_colours(maps, tile):
    assert np.array_equal(pixels(maps / f"{tile}_colours.tif"), paint(pixels(maps / f"{tile}_labels.tif")[0]))
    with rasterio.open(maps / f"{tile}_colours.tif") as file:
        assert (file.crs, file.transform) == (CRS, place(tile))


def test_maps_pictures_scores_and_details_are_there_and_nothing_else(maps):
    files = [f"{tile}{end}" for tile in (15, 32) for end in (*ENDS, "_errors.tif", "_errors.tif.aux.xml")]
    assert names(maps) == sorted([*files, "details.json", "report.html", "scores.json", "statistics.json", "tiles"])
    assert names(maps / "tiles") == ["15.json", "32.json"]
    for tile in (15, 32):
        assert (maps / f"{tile}.png").read_bytes().startswith(b"\x89PNG")


def test_the_map_is_the_average_over_all_windows_computed_one_by_one(trained, maps):
    net, about = snapshots.load_net(trained.snapshots / "net_iter_150.safetensors")
    mean = np.array(about["inputs"][0]["mean"], np.float32).reshape(3, 1, 1)
    image = pixels(trained.path("irrg", 32))[::-1] - mean
    away = np.abs(np.arange(32) + 0.5 - 16) / 16  # from the middle of a window, 1 at its edge
    taper = 0.01 + 0.99 * (1 + np.cos(np.pi * away)) / 2  # the config's BLEND is "cosine"
    weight = np.outer(taper, taper)
    total, weights = np.zeros((6, 72, 90)), np.zeros((72, 90))
    with torch.inference_mode():
        for row in (0, 16, 32, 40):
            for col in (0, 16, 32, 48, 58):
                window = torch.from_numpy(image[None, :, row : row + 32, col : col + 32])
                total[:, row : row + 32, col : col + 32] += net.eval()(window)[0].double().softmax(0).numpy() * weight
                weights[row : row + 32, col : col + 32] += weight
    agree = (total / weights).argmax(0) == pixels(maps / "32_labels.tif")[0]
    assert agree.mean() > 0.99  # the script may compute in bf16


def test_the_net_is_worth_more_than_the_commonest_class(trained, maps):
    truth = pixels(trained.path("labels", 32))[0]
    accuracy = read_scores(maps)["labels"]["tiles"]["32"]["overall_accuracy"]
    assert accuracy > 1.5 * np.bincount(truth.ravel()).max() / truth.size


# ------------------------------------------------------------------------------------------------------------- the scores


def recomputed(maps, trained, kind, tiles):
    """(truth, map) of the scored pixels of some tiles, from the files."""
    truth = np.concatenate([pixels(trained.path(kind, t)).ravel() for t in tiles])
    found = np.concatenate([pixels(maps / f"{t}_labels.tif").ravel() for t in tiles])
    return truth[truth < 6], found[truth < 6]


@pytest.mark.parametrize("kind", ["labels", "labels_eroded"])
@pytest.mark.parametrize("ids", [[32], [15], [32, 15]])
def test_scores_are_those_of_the_written_maps(trained, maps, kind, ids):
    truth, found = recomputed(maps, trained, kind, ids)
    report = read_scores(maps)[kind]
    report = report["all"] if len(ids) == 2 else report["tiles"][str(ids[0])]
    labels = range(6)
    f1 = sk.f1_score(truth, found, average=None, labels=labels)
    iou = sk.jaccard_score(truth, found, average=None, labels=labels)
    assert report["pixels"] == truth.size
    assert report["confusion"] == sk.confusion_matrix(truth, found, labels=labels).tolist()
    assert report["overall_accuracy"] == pytest.approx(sk.accuracy_score(truth, found))
    assert report["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, found))
    assert list(report["f1"].values()) == pytest.approx(list(f1))
    assert list(report["iou"].values()) == pytest.approx(list(iou))
    assert list(report["iou"]) == NAMES
    assert report["mean_f1"] == pytest.approx(f1.mean())
    assert report["mean_iou"] == pytest.approx(iou.mean())
    assert report["mean_f1_without_ignored"] == pytest.approx(np.delete(f1, IGNORED).mean())
    assert report["mean_iou_without_ignored"] == pytest.approx(np.delete(iou, IGNORED).mean())


def test_eroded_borders_are_not_scored(trained, maps):
    report = read_scores(maps)
    unscored = (pixels(trained.path("labels_eroded", 32)) == 6).sum()
    assert unscored > 0
    assert report["labels"]["tiles"]["32"]["pixels"] == 72 * 90
    assert report["labels_eroded"]["tiles"]["32"]["pixels"] == 72 * 90 - unscored


# ----------------------------------------------------------------------------------------------------------- which weights


def test_without_ids_and_weights_the_test_tiles_are_labelled_by_the_best_weights(own):
    for words in ([], ["--weights"]):
        ran = infer(own, "--overwrite", *words)
        assert ran.code == 0, ran.err
        assert ran.out.startswith("weights of vaihingen_snapshots_segnet_slim: the best by its validation tiles, net_best_iou")
        assert f"{own.snapshots}/net_best_iou.safetensors (segnet_slim, iteration " in ran.out
        assert (own.folder("results") / "32_labels.tif").exists()
        assert "overall accuracy" in ran.out


def test_weights_may_be_named_and_details_say_which(own):
    ran = infer(own, 15, "--weights", own.snapshots / "net_iter_80.safetensors")
    assert ran.code == 0, ran.err
    details = json.loads((own.folder("results") / "details.json").read_text())
    assert details["weights"].endswith("net_iter_80.safetensors")
    assert list(details["tiles"]) == ["15"]


def test_a_snapshot_needs_no_file_that_declared_its_net(own, monkeypatch):
    monkeypatch.setattr(nets, "names", list)
    words = ["--weights", own.snapshots / "net_iter_150.safetensors"]
    assert infer(own, *words).code == 0


def test_a_tile_that_was_trained_on_is_pointed_out(own):
    assert "note: 3 was trained on" in infer(own, 3).out


def test_a_tile_that_is_named_twice_is_labelled_once(own):
    assert infer(own, 32, 32).code == 0
    assert list(read_json(own.folder("results") / "details.json")["tiles"]) == ["32"]


def test_ids_behind_weights_are_not_taken_for_weights_that_do_not_exist(own):
    refused(infer(own, "--weights", own.snapshots / "net_iter_150.safetensors", 32), "name the tiles first")


@pytest.mark.parametrize("modality", ["irrg", "labels"])
def test_a_pipe_in_the_place_of_a_tile_is_not_waited_for(own, modality):
    own.path(modality, 32).unlink()
    os.mkfifo(own.path(modality, 32))
    refused(infer(own, 32), own.path(modality, 32), "a pipe or a device")


def test_what_another_script_made_is_not_replaced_by_maps(trained, tmp_path):
    own = trained.copy(tmp_path / "own", "snapshots_segnet_slim", "lmdb")
    before = sorted(own.folder("lmdb").rglob("*"))
    refused(infer(own, 32, "--dir", own.folder("lmdb"), "--overwrite"), "was made by create_db.py, not by inference.py")
    assert sorted(own.folder("lmdb").rglob("*")) == before


def test_without_a_snapshot_the_user_is_told_to_train(own):
    refused(infer(own, NET="segnet"), own.folder("snapshots_segnet"), "has no snapshot", "train first")


def foreign(path):
    save_file({"weight": torch.zeros(3)}, path)


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def text(path):
    path.write_text("not weights")


@pytest.mark.parametrize("spoil", [foreign, truncated, text, os.remove])
def test_weights_that_are_none_of_ours_are_refused_and_nothing_is_written(own, spoil):
    path = own.snapshots / "net_iter_150.safetensors"
    spoil(path)
    refused(infer(own, "--weights", path), path)
    assert not list(own.base.glob("vaihingen_results*"))


def test_a_pickle_is_refused_and_its_code_is_not_run(own, tmp_path):
    for name in ("evil.safetensors", "evil.pth", "evil.caffemodel"):
        torch.save({"weight": Evil(tmp_path / "owned")}, tmp_path / name)
        refused(infer(own, "--weights", tmp_path / name), tmp_path / name)
        (tmp_path / name).unlink()  # a snapshot beside weights of Caffe's would speak for them
    assert not (tmp_path / "owned").exists()


def test_weights_of_another_class_count_are_refused(own):
    seven = {"label_values": [*NAMES, "water"], "palette": COLOURS | {6: (9, 9, 9), 7: (0, 0, 0)}}
    refused(infer(own, **seven), "knows 6 classes", "label_values has 7")


def test_weights_with_other_class_names_are_refused(own):
    refused(infer(own, label_values=[NAMES[1], NAMES[0], *NAMES[2:]]), "knows 6 classes (impervious surfaces, building,")


def two_modalities(town):
    """Untrained weights of a net that reads irrg and dsm, in this order."""
    net = nets.build("segnet_slim", {"both": 4}, 6)
    spec = {"name": "both", "modalities": ["irrg", "dsm"], "bands": [3, 1], "bgr": True, "mean": [100, 100, 100, 275]}
    about = {"name": "segnet_slim", "dataset": "vaihingen", "inputs": [spec], "classes": NAMES, "ignored": [5], "iteration": 1,
             "palette": {str(k): list(v) for k, v in COLOURS.items()}, "patch_size": [32, 32]}  # fmt: skip
    snapshots.save_net(town.base / "both.safetensors", net, about)
    return town.base / "both.safetensors"


BOTH = {"INPUTS": {"both": ["irrg", "dsm"]}, "MEAN_PIXEL": {"irrg": None, "dsm": None}}


def test_a_net_with_two_modalities_labels_tiles(own):
    ran = infer(own, "--weights", two_modalities(own), **BOTH)
    assert ran.code == 0, ran.err
    assert pixels(own.folder("results") / "32_labels.tif").shape == (1, 72, 90)


def test_modalities_in_another_order_are_refused(own):
    ran = infer(own, "--weights", two_modalities(own), **BOTH | {"INPUTS": {"both": ["dsm", "irrg"]}})
    refused(ran, "['irrg', 'dsm']", "the config says", "['dsm', 'irrg']")
    refused(infer(own, "--weights", two_modalities(own)), "INPUTS")


# --------------------------------------------------------------------------------------------------------------- any files


def test_images_of_any_kind_are_labelled_without_ground_truth(own, tmp_path):
    image = pixels(own.path("irrg", 32))
    write_raster(tmp_path / "flight/a.tif", image, 32)
    with rasterio.open(tmp_path / "flight/b.png", "w", driver="PNG", count=3, height=72, width=90, dtype="uint8") as file:
        file.write(image)
    ran = infer(own, "--images", tmp_path / "flight", "--dir", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert np.array_equal(pixels(tmp_path / "out/a_labels.tif"), pixels(tmp_path / "out/b_labels.tif"))
    files = [f"{n}{end}" for n in "ab" for end in ENDS]
    assert names(tmp_path / "out") == [*files, "details.json", "report.html", "statistics.json", "tiles"]
    assert "warning: no CRS in b, so none in the maps either" in ran.out
    with rasterio.open(tmp_path / "out/a_labels.tif") as file:
        assert (file.crs, file.transform) == (CRS, place(32))
    with rasterio.open(tmp_path / "out/b_labels.tif") as file:
        assert file.crs is None


def test_remote_images_are_labelled_as_local_ones(own, tmp_path, server):
    for tile in (15, 32):
        write_raster(tmp_path / f"{tile}.tif", pixels(own.path("irrg", tile)), tile)
    addresses = [f"{server}/15.tif?key=a.b/c", f"/vsicurl/{server}/32.tif"]
    (tmp_path / "list.txt").write_text("\n".join([*addresses, f"{server}/none.tif"]))
    ran = infer(own, "--images", f"@{tmp_path}/list.txt", "--dir", tmp_path / "out")
    assert (ran.code, f"{server}/none.tif cannot be read" in ran.sentence) == (1, True)
    assert infer(own, 15, 32).code == 0
    for tile in (15, 32):
        for kind in ("labels", "colours"):
            here, there = (pixels(folder / f"{tile}_{kind}.tif") for folder in (own.folder("results"), tmp_path / "out"))
            assert np.array_equal(here, there)
    assert json.loads((tmp_path / "out/details.json").read_text())["tiles"]["15"] == {"irrg": addresses[0]}


@pytest.mark.parametrize("shape", [(20, 25), (1, 1), (33, 10), (200, 31)])
def test_a_tile_smaller_than_the_window_is_labelled_whole(own, tmp_path, shape):
    image = np.resize(pixels(own.path("irrg", 32)), (3, *shape))
    write_raster(tmp_path / "small.tif", image)
    ran = infer(own, "--images", tmp_path / "small.tif", "--dir", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert pixels(tmp_path / "out/small_labels.tif").shape == (1, *shape)


def test_a_tile_without_ground_truth_gets_a_map_and_no_scores(own):
    own.path("labels", 32).unlink()
    own.path("labels_eroded", 32).unlink()
    assert infer(own).code == 0
    assert not (own.folder("results") / "scores.json").exists()
    assert (own.folder("results") / "32_labels.tif").exists()


def test_files_of_two_modalities_are_matched_by_name(own, tmp_path):
    for tile in (15, 32):
        write_raster(tmp_path / f"top/top_{tile}.tif", pixels(own.path("irrg", tile)), tile)
        write_raster(tmp_path / f"heights/dsm_0{tile}.tif", pixels(own.path("dsm", tile)), tile)
    words = ["--weights", two_modalities(own)]
    ran = infer(
        own, *words, "--images", f"dsm={tmp_path}/heights", f"irrg={tmp_path}/top/*.tif", "--dir", tmp_path / "a", **BOTH
    )
    assert ran.code == 0, ran.err
    assert infer(own, 15, 32, *words, "--dir", tmp_path / "b", **BOTH).code == 0
    for tile in (15, 32):
        assert np.array_equal(pixels(tmp_path / f"a/top_{tile}_labels.tif"), pixels(tmp_path / f"b/{tile}_labels.tif"))


def test_files_that_are_matched_but_lie_elsewhere_are_refused(own, tmp_path):
    dsm = write_raster(tmp_path / "dsm.tif", pixels(own.path("dsm", 32)), 15)
    ran = infer(own, "--weights", two_modalities(own), "--images", f"irrg={own.path('irrg', 32)}", f"dsm={dsm}", **BOTH)
    refused(ran, f"{dsm} (dsm) does not lie where {own.path('irrg', 32)} (irrg) lies")


def test_two_images_of_one_name_and_two_modalities_from_one_file_are_refused(own, tmp_path):
    for folder in ("north", "south"):
        write_raster(tmp_path / folder / "a.tif", pixels(own.path("irrg", 32)))
    refused(infer(own, "--images", tmp_path / "north", tmp_path / "south"), "several images are called a")
    ran = infer(own, "--weights", two_modalities(own), "--images", tmp_path / "north", **BOTH)
    refused(ran, "irrg and dsm", "--images irrg=irrg_tiles/ dsm=dsm_tiles/")


# --------------------------------------------------------------------------------------------------------------- bad input


def test_an_existing_output_is_refused_and_kept_until_the_new_one_is_whole(own, tmp_path):
    assert infer(own, 32).code == 0
    before = names(own.folder("results"))
    refused(infer(own, 15), own.folder("results"), "exists already")
    write_raster(tmp_path / "small.tif", np.zeros((2, 40, 40), np.uint8))
    assert infer(own, "--overwrite", "--images", tmp_path / "small.tif").code == 2
    assert names(own.folder("results")) == before
    assert infer(own, 15, "--overwrite").code == 0
    assert "15_labels.tif" in names(own.folder("results"))
    assert "32_labels.tif" not in names(own.folder("results"))


def no_such_tile(town):
    return [99], ["area99.tif does not exist"], {}


def truncated_tile(town):
    truncated(town.path("irrg", 32))
    return [15, 32], [f"{town.path('irrg', 32)} breaks off"], {}


def truncated_truth(town):
    truncated(town.path("labels_eroded", 32))
    return [15, 32], [f"{town.path('labels_eroded', 32)}"], {}


def truth_of_another_size(town):
    write_raster(town.path("labels", 32), np.zeros((72, 89), np.uint8))
    return [15, 32], [f"{town.path('labels', 32)}", "72x89"], {}


def truth_elsewhere(town):
    write_raster(town.path("labels", 32), pixels(town.path("labels", 32)), 15)
    return [32], [f"{town.path('labels', 32)} does not lie where {town.path('irrg', 32)} lies"], {}


def truth_outside_the_classes(town):
    write_raster(town.path("labels", 32), np.full((72, 90), 17, np.uint8))
    return [15, 32], [f"{town.path('labels', 32)}", "17 (6,480 pixels)"], {}


def another_count_of_bands(town):
    write_raster(town.path("irrg", 32), np.full((4, 72, 90), 90, np.uint8), 32)
    return [15, 32], [f"{town.path('irrg', 32)} has 4 band(s), but the net was trained on 3"], {}


def windows_the_net_cannot_take(town):
    return [32], ["cannot take images of 40x40", "multiples of 32"], {"test_patch_size": (40, 40)}


@pytest.mark.parametrize(
    "spoil",
    [no_such_tile, truncated_tile, truncated_truth, truth_of_another_size, truth_elsewhere, truth_outside_the_classes,
     another_count_of_bands,
     windows_the_net_cannot_take],
)  # fmt: skip
def test_what_cannot_be_labelled_is_said_before_work_starts_and_nothing_is_written(own, spoil):
    tiles, words, changes = spoil(own)
    ran = infer(own, *tiles, **changes)
    refused(ran, *words)
    assert "labelling" not in ran.err
    assert not list(own.base.glob("vaihingen_results*"))


def test_modalities_of_different_size_are_refused_before_work_starts(own):
    write_raster(own.path("dsm", 32), np.zeros((36, 45), np.float32))
    ran = infer(own, 15, 32, "--weights", two_modalities(own), **BOTH)
    refused(ran, "differ in size")
    assert "labelling" not in ran.err


def test_a_metadata_that_someone_has_tampered_with_is_one_sentence(own):
    weights, metadata = snapshots.read_weights(own.snapshots / "net_iter_150.safetensors")
    path = own.base / "tampered.safetensors"
    for net in ("", "[]", "3", '{"table": 3}', '{"table": [3]}', '{"table": [{"kind": "os.system", "name": "x"}]}'):
        save_file(weights, path, metadata | {"net": net})
        refused(infer(own, "--weights", path), path)


def test_a_hidden_image_is_a_tile_like_others(own, tmp_path):
    hidden = write_raster(tmp_path / ".hidden.tif", pixels(own.path("irrg", 32)))
    ran = done(infer(own, "--images", own.path("irrg", 32), hidden, "--dir", tmp_path / "maps"))
    assert "maps of 2 tiles" in ran.out
    assert set(read_json(tmp_path / "maps/statistics.json")["tiles"]) == {".hidden", own.path("irrg", 32).stem}


@pytest.mark.parametrize(
    ("option", "images", "sentence"),
    [("--png", ("a", "a_colours"), "a_colours.png"), ("--stac", ("a", "details"), "details.json")],
)
def test_images_whose_maps_would_have_one_name_are_refused(own, tmp_path, option, images, sentence):
    files = [write_raster(tmp_path / f"{name}.tif", pixels(own.path("irrg", 32))) for name in images]
    refused(infer(own, "--images", *files, "--dir", tmp_path / "maps", option), option, sentence)
    done(infer(own, "--images", *files, "--dir", tmp_path / "maps"))
