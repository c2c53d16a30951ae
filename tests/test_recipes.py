"""Proves that a recipe gives what the config leaves out, that what is written wins, and that a run tells whence each came."""

import pytest
from conftest import REPO, refused, train
from PIL import Image

from tools.base.errors import UserError
from tools.data.settings import DataSettings
from tools.settings import read_settings
from tools.solver.schedules import Schedule, ending

COSINE = {"name": "cosine"}


def settings(*changes):
    return read_settings(REPO / "config.py", changes)


@pytest.mark.parametrize(("dataset", "recipe"), [("demo", "modern"), ("vaihingen", "original"), ("potsdam", "original")])
def test_each_block_has_its_recipe(dataset, recipe):
    own = settings(f"DATASET={dataset}")
    assert recipe == own.training.RECIPE
    assert {"modern": "unet_light/efficientnet_lite0", "original": "segnet"}[recipe] == own.net.NET
    assert own.training.SOLVER["name"] == {"modern": "adamw", "original": "sgd"}[recipe]
    assert {"modern": "efficientnet_lite0", "original": None}[recipe] == own.net.INIT_MODEL


def test_the_original_is_caffes_solver_of_the_paper():
    own = settings("DATASET=vaihingen")
    assert (own.training.BATCH_SIZE, own.training.BASE_LR, own.patches.patch_size) == (10, 0.01, (128, 128))
    assert own.training.LR_POLICY == {"name": "step", "step_iterations": 25000, "gamma": 0.1}
    assert own.training.SOLVER == {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}


def test_what_is_written_wins_and_each_value_tells_where_it_came_from():
    own = settings("LOSS=ce", "RECIPE=modern")
    assert own.training.LOSS == "ce" and own.training.EMA_DECAY == 0.99
    assert [own.origins[name] for name in ("LOSS", "EMA_DECAY", "BLEND", "GROUPS")] == [
        "--set", "recipe modern", "config", "default",
    ]  # fmt: skip
    assert "EMA_DECAY" in own.as_text() and "recipe modern" in own.as_text()


def test_light_is_changed_in_images_and_never_in_heights():
    own = settings('INPUTS={"image": ["irrg", "composite"]}')
    assert {own.augmentation[n]["modalities"][0] for n in ("brightness", "contrast", "gamma")} == {"irrg"}
    assert {len(own.augmentation[n]["modalities"]) for n in ("brightness", "contrast", "gamma")} == {1}


def test_a_net_of_ones_own_begins_at_random_and_learns_more_slowly():
    own = settings("NET=segnet")
    assert own.net.INIT_MODEL is None and not own.training.FROZEN_NORM
    assert own.training.BASE_LR < settings().training.BASE_LR


def test_pixels_are_counted_for_the_recipe_that_asks_alone(monkeypatch):
    def no_counting(self, pixels):
        raise AssertionError("counted")

    monkeypatch.setattr(DataSettings, "trains_on_less_than", no_counting)
    for words in (["RECIPE=original"], ["NET=segnet"], ["NET_OPTIONS={}"]):
        settings(*words)
    with pytest.raises(AssertionError, match="counted"):
        settings()


def test_maps_average_the_mirror_images_that_were_learned():
    own = settings()
    assert own.inference.TTA == "flips" and "flip" in own.augmentation
    assert settings("DATASET=vaihingen").inference.TTA is None


@pytest.mark.parametrize(
    ("sides", "finer"), [([1000, 1000, 1000], True), ([1000, 1000, 1000, 1000], False), ([3000], False), ([1000, None], False)]
)
def test_where_the_training_tiles_have_less_than_four_million_pixels_the_light_net_looks_closer_in_smaller_crops(
    tmp_path, sides, finer
):
    for tile, side in enumerate(sides):
        if side:
            Image.new("L", (side, side)).save(tmp_path / f"{tile}.png")
    of_tiles = [f"DATASET_DIR={tmp_path}", "folders={'irrg': '{}.png', 'labels': 'gt{}.png'}", "INPUTS={'irrg': ['irrg']}"]
    of_tiles += [f"train_ids={list(range(len(sides)))}", "val_ids=[]", "test_ids=[]"]
    own = settings(*of_tiles)
    assert ({"finer": True} if finer else {}) == own.net.NET_OPTIONS
    assert own.augmentation["crop"] == dict.fromkeys(("height", "width"), 96 if finer else 192)
    plain = settings(*of_tiles, "NET_OPTIONS={}")  # what is written wins, and the crop follows
    assert (plain.net.NET_OPTIONS, plain.augmentation["crop"]["height"]) == ({}, 192)
    assert settings(*of_tiles, "NET=segnet").net.NET_OPTIONS == {}
    half = settings(*of_tiles, "RESIZE=0.25")  # the pixels that nets see count
    assert ({} if None in sides else {"finer": True}) == half.net.NET_OPTIONS


def test_a_recipe_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="RECIPE = 'modrn': it must be one of modern, original"):
        settings("RECIPE=modrn")


def test_a_policy_that_ends_does_so_at_the_last_iteration_unless_the_config_says_where():
    schedule = Schedule(1.0, ending(COSINE, 40))
    assert [schedule.rate(i) for i in (0, 20, 40)] == pytest.approx([1.0, 0.5, 0.0])
    assert ending(COSINE | {"max_iterations": 70}, 40)["max_iterations"] == 70
    assert ending({"name": "fixed"}, 40) == {"name": "fixed"}


def test_the_run_prints_and_keeps_where_each_setting_came_from(databases, tmp_path, without_pictures):
    town = databases.copy(tmp_path, "lmdb")
    ran = train(town, 2, LR_POLICY=COSINE, val_ids=[])
    assert ran.code == 0, ran.err
    assert "settings, and where each came from" in ran.out and "'cosine'" in ran.out
    refused(train(town, 2, "--snapshot", tmp_path / "x", LR_POLICY=COSINE | {"max_iterations": 1}), "max_iterations = 1")


def test_what_is_left_to_the_run_is_settled_by_its_length():
    own = settings().training
    assert own.SNAPSHOT_EVERY is None and own.NITER == 500
    run = own.for_run(600)
    assert (run.SNAPSHOT_EVERY, run.validate_every, run.LR_POLICY["max_iterations"]) == (150, 150, 600)
    rates = [Schedule(1.0, run.LR_POLICY).rate(i) for i in (0, 14, 29, 300)]
    assert rates == pytest.approx([1 / 30, 0.5, 1.0, 0.5], rel=0.01)  # 5 % of 600 iterations are 30


def test_a_share_of_a_policy_without_an_end_is_refused():
    with pytest.raises(UserError, match="'step' has no end to take a warmup_share of"):
        Schedule(1.0, {"name": "step", "step_iterations": 5, "gamma": 0.1, "warmup_share": 0.1})
