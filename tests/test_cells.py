"""Proves that the grid workflow (cells of one scene, shared out) has validation, best weights, PATIENCE and folds, on cells."""

import numpy as np
import pytest
import torch
from conftest import call, done, names, pixels, read_json, train
from safetensors.torch import load_file
from test_grid import cut, grid

from tools.data.patches import cell_of, is_straight
from tools.training import cells
from tools.weights import snapshots

SHARES = ["--shares", 0.75, 0.15, 0.1]  # of SemanticSeg4EO's README
ONE = {"train_ids": [1], "val_ids": [], "test_ids": []}  # one scene


def boxes():
    """Twenty cells of 18 x 18 pixels that cover most of a tile; patches are of 32 x 32."""
    return [(row, col, row + 18, col + 18) for row in (0, 18, 36, 54) for col in (0, 18, 36, 54, 72)]


@pytest.fixture(scope="module")
def scene(tiles, tmp_path_factory):
    """One scene, of which cells train, validate and test: patches and databases."""
    own = tiles.copy(tmp_path_factory.mktemp("cells") / "own")
    own.changes = ONE
    done(cut(own, grid(own, [(1, box) for box in boxes()]), *SHARES))
    done(call("create_db", "--config", own.config()))
    return own


@pytest.fixture
def own(scene, tmp_path, without_pictures):
    return scene.copy(tmp_path / "own", "lmdb")


def test_the_cells_of_val_validate_and_give_best_weights_and_patience(own):
    ran = done(train(own, 9, SNAPSHOT_EVERY=3, PATIENCE=9))
    found = read_json(own.snapshots / "metrics.json")["validation"]
    assert [v["iteration"] for v in found] == [3, 6, 9]
    assert {"net_best_iou.safetensors", "net_best_loss.safetensors"} <= set(names(own.snapshots))
    assert "iteration 3: validation loss" in ran.out


def test_the_scores_are_those_of_the_patches_counted_one_by_one(own, scene):
    done(train(own, 3, SNAPSHOT_EVERY=3))
    (found,) = read_json(own.snapshots / "metrics.json")["validation"]
    net, about = snapshots.load_net(own.snapshots / "net_iter_3.safetensors")
    mean = np.array(about["inputs"][0]["mean"], np.float32).reshape(3, 1, 1)
    matrix, loss = np.zeros((6, 6), int), []
    for file in sorted(scene.folder("patches").glob("irrg_val/*")):
        image, truth = pixels(file)[::-1] - mean, pixels(scene.folder("patches") / "labels_val" / file.name)[0]
        with torch.inference_mode():
            share = net.eval()(torch.from_numpy(image[None]))[0].softmax(0).numpy()
        np.add.at(matrix, (truth[truth < 6], share.argmax(0)[truth < 6]), 1)
        loss += [-np.log(share[truth[i, j], i, j]) for i, j in np.argwhere(truth < 5)]
    assert len(names(scene.folder("patches") / "irrg_val")) == 3
    assert np.abs(np.array(found["confusion"]) - matrix).sum() <= 0.02 * matrix.sum()  # the script may compute in bf16
    assert np.array_equal(np.array(found["confusion"]).sum(1), matrix.sum(1))
    assert found["loss"] == pytest.approx(np.mean(loss), rel=0.02)


def test_folds_hold_out_cells_with_their_neighbours_and_never_train_on_them(own, monkeypatch):
    held, real = [], cells.validate

    def watched(forward, patches, *rest):
        held.append([(name, cell_of(name)) for name in patches.names])
        return real(forward, patches, *rest)

    monkeypatch.setattr(cells, "validate", watched)
    ran = done(train(own, 2, "--folds", 3, SNAPSHOT_EVERY=2))
    home = own.folder("snapshots_segnet_slim_folds")
    assert "3 folds, each scored on the tiles that it held out" in ran.out
    trained = set(filter(None, map(cell_of, (own.folder("lmdb") / "train.txt").read_text().split())))
    assert sorted(cell for fold in held for _, cell in fold) == sorted(trained)  # each once, straight
    assert all(is_straight(name) for fold in held for name, _ in fold)
    means = {tuple(load(home / f"fold_{n}")["mean"]) for n in (1, 2, 3)}
    assert len(means) == 3  # each is normalised without what it holds out
    assert all(len(fold) in (4, 5, 6) for fold in held)


def load(folder):
    _, about = snapshots.load_net(folder / "net_iter_2.safetensors")
    assert load_file(folder / "net_iter_2.safetensors")
    return about["inputs"][0]


def test_neighbouring_cells_stand_in_one_area():
    windows = {f"1_cell{i:06d}": [top, left, 18, 18] for i, (top, left, _, _) in enumerate(boxes())}
    groups = cells.groups_of(list(windows), windows, 2)
    areas = [[windows[c][:2] for c in windows if groups[c] == group] for group in set(groups.values())]
    assert 4 <= len(areas) <= 8
    for area in areas:
        assert all(len(area) == 1 or any(max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 18 for b in area if b != a) for a in area)
    assert cells.groups_of(["1_cell000000"], {}, 2) is None  # databases of before do not know


@pytest.mark.parametrize(
    ("patch", "cell", "straight"),
    [("1_cell000012_r90_f", "1_cell000012", False), ("a_b_cell000001", "a_b_cell000001", True),
     ("1_00000_00016_f", None, False), ("1_00000_00016", None, True)],
)  # fmt: skip
def test_the_name_of_a_patch_says_its_cell_and_whether_it_is_turned(patch, cell, straight):
    assert (cell_of(patch), is_straight(patch)) == (cell, straight)
