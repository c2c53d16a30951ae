"""Proves that validation scores whole tiles as inference does, piece by piece, leaves training as it was, and that the test
tiles have no part in any of it."""

import weakref

import numpy as np
import pytest
from conftest import COLOURS, NAMES, TEST, TRAIN, VAL, call, done, make_town, pixels, read_json, train, write_raster
from safetensors.torch import load_file

from tools.inference.labeller import NO_DATA, Band
from tools.inference.tile_list import Tile
from tools.labels.palette import Palette
from tools.record.selection import Selection
from tools.solver.losses import Loss
from tools.training.validation import PICTURE_SIZE, validate
from tools.weights import snapshots

ISPRS = Palette(NAMES, COLOURS)


class Pieces:
    """A labeller that gives a map in pieces of some height and width, and watches how many of them are alive."""

    def __init__(self, probabilities, height, width, lacking=None):
        self.probabilities, self.size = probabilities, (height, width)
        self.labels = probabilities.argmax(0).astype(np.uint8)
        if lacking is not None:
            self.labels[lacking] = NO_DATA
        self.most, self.alive = 0, []

    def bands(self, paths):
        (_, tall, wide), (height, width) = self.probabilities.shape, self.size
        for col in range(0, wide, width):
            for row in range(0, tall, height):
                window = slice(row, row + height), slice(col, col + width)
                piece = self.probabilities[(slice(None), *window)].copy()
                self.alive = [one for one in self.alive if one() is not None] + [weakref.ref(piece)]
                self.most = max(self.most, len(self.alive))
                yield Band(row, self.labels[window], piece, col)
                del piece


def tile(folder, number=1, height=50, width=70, shape=None):
    """A tile of random labels, 6 among them, with an image; and probabilities that know little of it."""
    random = np.random.default_rng(number)
    labels = random.integers(0, 7, shape or (height, width)).astype(np.uint8)
    image = random.integers(0, 256, (3, *labels.shape)).astype(np.uint8)
    found = random.random((6, *labels.shape)).astype(np.float32)
    paths = [write_raster(folder / f"{kind}_{number}.tif", what) for kind, what in (("image", image), ("labels", labels))]
    return Tile(str(number), {"irrg": paths[0]}, {"labels": paths[1]}), labels, found / found.sum(0)


def by_hand(labels, found, ignored, lacking=None):
    """The cross entropies of all scored pixels, one by one."""
    return [
        -np.log(float(found[labels[i, j], i, j]))
        for i, j in np.ndindex(labels.shape)
        if labels[i, j] < 6 and labels[i, j] not in ignored and not (lacking is not None and lacking[i, j])
    ]


@pytest.mark.parametrize("size", [(7, 70), (50, 70), (13, 32)])
@pytest.mark.parametrize("ignored", [[], [5], [0, 5]])
def test_the_loss_is_the_cross_entropy_of_the_scored_pixels_however_a_tile_comes(tmp_path, size, ignored):
    truth, labels, found = tile(tmp_path)
    lacking = np.zeros(labels.shape, bool)
    lacking[10:20, 5:30] = True
    scores = validate(Pieces(found, *size, lacking), [truth], ISPRS, ignored).scores
    each = by_hand(labels, found, ignored, lacking)
    assert scores["loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert scores["pixels"] == ((labels < 6) & ~lacking).sum()
    right = (found.argmax(0) == labels) & (labels < 6) & ~lacking
    assert scores["overall_accuracy"] == pytest.approx(right.sum() / scores["pixels"])


def test_the_loss_that_is_trained_is_computed_beside_cross_entropy(tmp_path):
    truth, labels, found = tile(tmp_path)
    scores = validate(Pieces(found, 50, 70), [truth], ISPRS, [5], trained=Loss("dice")).scores
    scored = (labels < 6) & (labels != 5)
    hits = [2 * found[c][scored & (labels == c)].sum() for c in range(5)]
    sums = [found[c][scored].sum() + (scored & (labels == c)).sum() for c in range(5)]
    assert scores["trained_loss"] == pytest.approx(1 - np.mean(np.array(hits) / sums), rel=1e-4)
    assert scores["loss"] == pytest.approx(np.mean(by_hand(labels, found, [5])), rel=1e-5)
    assert "trained_loss" not in validate(Pieces(found, 50, 70), [truth], ISPRS, [5], trained=Loss("ce")).scores


def test_the_best_weights_by_loss_go_by_the_loss_that_is_trained():
    selection = Selection(6)
    selection.best |= selection.report(1, 1.0, 0.5, trained=0.5)
    assert set(selection.best) == {"loss", "iou", "combined"}
    assert set(selection.report(2, 0.9, 0.5, trained=0.6)) == {"combined"}  # cross entropy fell, the trained loss did not
    assert selection.report(3, 1.1, 0.4, trained=0.4) == {"loss": (3, -0.4)}


def test_tiles_count_by_their_pixels(tmp_path):
    small, large = tile(tmp_path, 1, 10, 12), tile(tmp_path, 2, 40, 50)
    given = {small[0].paths["irrg"]: small[2], large[0].paths["irrg"]: large[2]}

    class Both:
        def bands(self, paths):
            return Pieces(given[paths["irrg"]], 16, 50).bands(paths)

    loss = validate(Both(), [small[0], large[0]], ISPRS, [5]).loss
    assert loss == pytest.approx(np.mean(by_hand(*small[1:], [5]) + by_hand(*large[1:], [5])), rel=1e-5)


def test_a_sure_mistake_costs_much_and_not_infinitely_much(tmp_path):
    truth, labels, found = tile(tmp_path)
    wrong = np.zeros_like(found)
    wrong[((labels + 1) % 6, *np.indices(labels.shape))] = 1
    assert 80 < validate(Pieces(wrong, 50, 70), [truth], ISPRS, []).loss < 90


def test_a_net_that_gives_no_numbers_and_tiles_without_a_scored_pixel_have_no_loss(tmp_path):
    truth, _, found = tile(tmp_path)
    assert validate(Pieces(np.full_like(found, np.nan), 50, 70), [truth], ISPRS, []).loss is None
    nothing = validate(Pieces(found, 50, 70, np.ones((50, 70), bool)), [truth], ISPRS, [])
    assert (nothing.loss, nothing.iou) == (None, None)


def test_one_piece_of_a_tile_is_in_memory_at_a_time(tmp_path):
    truth, _, found = tile(tmp_path)
    pieces = Pieces(found, 5, 70)
    validate(pieces, [truth], ISPRS, [])
    assert pieces.most <= 2  # the one that was scored goes when the next one is there


@pytest.mark.parametrize("size", [(64, 1000), (50, 70)])
@pytest.mark.parametrize("shape", [(50, 70), (401, 1000)])
def test_the_picture_shows_image_truth_and_prediction_of_the_first_tile(tmp_path, size, shape):
    truth, labels, found = tile(tmp_path, shape=shape)
    picture = validate(Pieces(found, *size), [truth], ISPRS, []).picture
    every = -(-max(shape) // PICTURE_SIZE)
    height, width = -(-shape[0] // every), -(-shape[1] // every)
    assert picture.shape == (height, 3 * width + 8, 3)
    colours = np.array([COLOURS[label] for label in range(7)], np.uint8)
    assert np.array_equal(picture[:, width + 4 : 2 * width + 4], colours[labels[::every, ::every]])
    assert np.array_equal(picture[:, 2 * width + 8 :], colours[found.argmax(0)[::every, ::every]])
    if every == 1:
        assert np.array_equal(picture[:, :width], pixels(truth.paths["irrg"]).transpose(1, 2, 0))


# ------------------------------------------------------------------------------------------------------------ the script


@pytest.fixture
def own(databases, tmp_path, without_pictures):
    return databases.copy(tmp_path / "own", "lmdb")


def history(town):
    """The validations on record, by iteration."""
    return {v["iteration"]: v for v in read_json(town.snapshots / "metrics.json")["validation"]}


def test_validation_finds_what_inference_finds_with_the_weights_that_it_left(own, tmp_path):
    done(train(own, 4, VAL_EVERY=2, SNAPSHOT_EVERY=100, EMA_DECAY=0.5))
    for criterion in ("loss", "iou", "combined"):
        weights = own.snapshots / f"net_best_{criterion}.safetensors"
        about = snapshots.load_net(weights)[1]
        words = ["--weights", weights, "--dir", tmp_path / criterion, "--device", "cpu", "--config", own.config()]
        ran = call("inference", *VAL, *words)
        assert ran.code == 0, ran.err
        found = read_json(tmp_path / criterion / "scores.json")["labels"]["all"]
        validated = history(own)[about["iteration"]]
        assert {name: validated[name] for name in found} == found
        assert about["scores"]["loss"] == validated["loss"]
        assert read_json(own.snapshots / "metrics.json")["best"][criterion]["iteration"] == about["iteration"]


@pytest.mark.parametrize(
    ("niter", "every", "snapshot", "expected"),
    [(6, 2, 100, [2, 4, 6]), (5, 2, 100, [2, 4, 5]), (3, 100, 1, [3]), (4, None, 2, [2, 4])],
)
def test_validation_comes_every_so_many_iterations_and_at_the_end(own, niter, every, snapshot, expected):
    ran = done(train(own, niter, VAL_EVERY=every, SNAPSHOT_EVERY=snapshot))
    assert list(history(own)) == expected
    assert [i for i in range(1, niter + 1) if f"iteration {i}: validation loss" in ran.out] == expected


def test_validation_leaves_training_as_it_was(own, tmp_path):
    for folder, changes in (("often", {"VAL_EVERY": 1}), ("never", {"val_ids": []})):
        changes["NET_OPTIONS"] = {"planes": (4, 4, 8, 8, 8)}  # with dropout
        done(train(own, 4, "--snapshot", tmp_path / folder, NET="unet", **changes))
    often, never = (load_file(tmp_path / folder / "net_iter_4.safetensors") for folder in ("often", "never"))
    assert all((often[name] == never[name]).all() for name in never)
    assert not list((tmp_path / "never").glob("net_best_*"))


@pytest.mark.slow
def test_what_the_test_tiles_hold_makes_no_difference_to_statistics_database_weights_and_validation(tmp_path, without_pictures):
    towns = [make_town(tmp_path / name, SNAPSHOT_EVERY=2) for name in ("a", "b")]
    for number in TEST:
        for modality in ("irrg", "dsm"):
            values = pixels(towns[1].path(modality, number))
            write_raster(towns[1].path(modality, number), (values // 3).astype(values.dtype), number)
        write_raster(towns[1].path("labels", number), np.zeros_like(pixels(towns[1].path("labels", number))[0]), number)
    found = []
    for town in towns:
        for script, words in (("extract_images", []), ("create_db", []), ("training", ["--niter", 2, "--device", "cpu"])):
            ran = call(script, *words, "--config", town.config())
            assert ran.code == 0, ran.err
        details = read_json(town.folder("lmdb") / "details.json")
        weights = {n: v.tolist() for n, v in load_file(town.snapshots / "net_iter_2.safetensors").items()}
        found.append((details["modalities"], details["splits"]["train"], history(town), weights))
    assert found[0] == found[1]
    assert found[0][1]["tiles"] == list(map(str, TRAIN))
