"""Proves that a config says what the scripts do: every setting is known, of the right form and read by something, and each
mistake in it is one sentence."""

import ast
from dataclasses import MISSING, fields

import pytest
from conftest import COLOURS, FOLDERS, NAMES, REPO, call, refused, write_config

from tools.base.errors import UserError
from tools.data.dataset import SPLITS
from tools.settings import KNOWN, SECTIONS, read_settings

POTSDAM_TEST = [(2, 11), (7, 12), (3, 11), (5, 12), (7, 10)]
POTSDAM_TRAIN = [
    (3, 12), (6, 8), (4, 11), (3, 10), (7, 9), (4, 10), (6, 10), (7, 7), (5, 10), (7, 11),
    (2, 12), (6, 9), (5, 11), (6, 12), (7, 8), (2, 10), (6, 7), (6, 11), (4, 12),
]  # fmt: skip


def config(tmp_path, **changes):
    return write_config(tmp_path / "config.py", tmp_path, **changes)


def fault(tmp_path, **changes):
    """The sentence with which a config is refused."""
    with pytest.raises(UserError) as found:
        read_settings(config(tmp_path, **changes))
    assert str(found.value).startswith(str(tmp_path / "config.py"))
    return str(found.value)


def block(tmp_path, dataset):
    """The settings of one of the blocks of the project's own config."""
    text = (REPO / "config.py").read_text()
    assert text.count('DATASET = "demo"  #') == 1
    (tmp_path / "own.py").write_text(text.replace('DATASET = "demo"  #', f'DATASET = "{dataset}"  #'))
    return read_settings(tmp_path / "own.py")


# ------------------------------------------------------------------------------------------------------ the three blocks


def test_the_demo_is_the_default_and_is_laid_out_as_vaihingen(tmp_path):
    settings = read_settings(REPO / "config.py")
    assert settings.data.DATASET == "demo"
    assert settings.data.folders == block(tmp_path, "vaihingen").data.folders


def test_vaihingen_has_the_originals_split_and_file_names(tmp_path):
    settings = block(tmp_path, "vaihingen")
    assert sorted(settings.data.train_ids + settings.data.val_ids) == [1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30]
    assert settings.data.test_ids == [32, 34, 37]
    assert settings.data.folders["irrg"] == "top/top_mosaic_09cm_area{}.tif"
    assert settings.data.folders["dsm"] == "dsm/dsm_09cm_matching_area{}.tif"
    assert settings.data.folders["ndsm"] == "ndsm/dsm_09cm_matching_area{}_normalized.jpg"
    assert settings.data.MEAN_PIXEL["irrg"] == (120.90, 81.93, 81.29)


def test_potsdam_has_the_originals_split_and_file_names(tmp_path):
    settings = block(tmp_path, "potsdam")
    assert sorted(settings.data.train_ids + settings.data.val_ids) == sorted(POTSDAM_TRAIN)
    assert settings.data.test_ids == POTSDAM_TEST
    names = {m: pattern.format(2, 10) for m, pattern in settings.data.folders.items()}
    assert names["rgb"] == "2_Ortho_RGB/top_potsdam_2_10_RGB.tif"
    assert names["irrg"] == "3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif"
    assert names["rgbir"] == "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif"
    assert names["dsm"] == "1_DSM/dsm_potsdam_02_10.tif"
    assert names["ndsm"] == "1_DSM_normalisation/dsm_potsdam_02_10_normalized_lastools.jpg"


@pytest.mark.parametrize("dataset", ["demo", "vaihingen", "potsdam"])
def test_the_blocks_share_isprs_classes(tmp_path, dataset):
    settings = block(tmp_path, dataset)
    assert settings.classes.label_values == NAMES
    assert settings.classes.palette == COLOURS
    assert settings.classes.ignored == [5]
    assert settings.data.val_ids, "no tiles are set aside for validation"


def test_a_dataset_without_a_block_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is there a block for DATASET = 'vaihingn'\?"):
        block(tmp_path, "vaihingn")


# -------------------------------------------------------------------------------------------------- unknown and missing


def test_an_unknown_setting_is_refused_with_the_nearest_known_name(tmp_path):
    assert "there is no setting 'PATCH_SIZE'. Did you mean 'patch_size'?" in fault(tmp_path, PATCH_SIZE=(1, 1))
    assert "there is no setting 'BATCHSIZE'. Did you mean 'BATCH_SIZE'?" in fault(tmp_path, BATCHSIZE=3)
    assert fault(tmp_path, zebra=3).endswith("there is no setting 'zebra'.")


def test_names_with_an_underscore_and_imported_modules_are_the_users_own(tmp_path):
    path = config(tmp_path)
    path.write_text("import os\n_mine = 3\n" + path.read_text())
    assert read_settings(path).data.SEED == 1


@pytest.mark.parametrize("name", [f.name for f in KNOWN.values() if f.default is f.default_factory is MISSING])
def test_a_missing_setting_is_named(tmp_path, name):
    path = config(tmp_path)
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if not line.startswith(f"{name} = ")))
    with pytest.raises(UserError, match=f"does not set {name}"):
        read_settings(path)


def attributes(path):
    """The names X of all `anything.X` in a file."""
    return {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}


def test_every_setting_is_read_by_a_script_or_a_tool():
    files = [p for p in [*REPO.glob("*.py"), *REPO.glob("tools/**/*.py")] if p.name != "config.py"]
    read = {f"{split}_ids" for split in SPLITS} | {"RECIPE"}  # read by name
    assert set(KNOWN) - read - set().union(*map(attributes, files)) == set()


def test_a_section_stands_in_the_wing_that_uses_it_and_a_setting_stands_once():
    homes = {section.__module__ for section in SECTIONS.values()}
    assert homes == {f"tools.{wing}.settings" for wing in ("labels", "data", "weights", "training", "inference")}
    assert len(KNOWN) == sum(len(fields(section)) for section in SECTIONS.values())


def test_the_whole_is_seen_by_the_scripts_and_by_commands_alone():
    """The wings get a section, or plain values."""
    seen = set()
    for path in [*REPO.glob("*.py"), *REPO.glob("tools/**/*.py"), *REPO.glob("nets/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "tools.settings":
                seen.add(path.relative_to(REPO).as_posix())
    scripts = {f"{name}.py" for name in ("convert_gt", "extract_images", "create_db", "training", "inference")}
    commands = {f"tools/{name}/__main__.py" for name in ("composite", "export", "show", "final", "check", "osm")}
    parts = {"tools/check/findings.py", "tools/check/forecast.py", "tools/show/samples.py", "tools/show/suspects.py"}
    assert seen - scripts == commands | parts


def test_a_setting_that_the_config_leaves_out_has_its_default_and_says_so(tmp_path):
    path = config(tmp_path, BATCH_SIZE=7)
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if not line.startswith("ITER_SIZE = ")))
    settings = read_settings(path)
    assert settings.training.ITER_SIZE == 1
    assert settings.origins["ITER_SIZE"] == "default" and settings.origins["BATCH_SIZE"] == "config"


def test_all_faults_of_a_config_are_told_at_once(tmp_path):
    sentence = fault(tmp_path, BATCH_SIZE=0, BGR=3, test_patch_size=5)
    assert all(word in sentence for word in ("BATCH_SIZE = 0", "BGR = 3", "test_patch_size = 5"))
    path = config(tmp_path)
    path.write_text(path.read_text() + "BATCHSIZE = 1\nSEEDS = 2\n")
    with pytest.raises(UserError, match=r"'BATCH_SIZE'.*'SEEDS'"):
        read_settings(path)


# ------------------------------------------------------------------------------------------------- --set on the command line


def test_a_change_takes_the_place_of_the_configs_own_line_so_that_what_follows_from_it_follows():
    settings = read_settings(REPO / "config.py", ["DATASET=vaihingen", "BATCH_SIZE=4", "NET=unet", "patch_size=(64, 96)"])
    assert settings.data.test_ids == [32, 34, 37] and settings.data.DATASET_DIR == "data/vaihingen/"
    assert (settings.training.BATCH_SIZE, settings.net.NET, settings.patches.patch_size) == (4, "unet", (64, 96))
    assert settings.origins["BATCH_SIZE"] == "--set"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("BATCHSIZE=4", "--set BATCHSIZE=4: there is no setting 'BATCHSIZE'. Did you mean 'BATCH_SIZE'?"),
        ("BATCH_SIZE", "--set BATCH_SIZE: write NAME=VALUE"),
        ("BATCH_SIZE=1O", "BATCH_SIZE = '1O': it must be a whole number"),
        ("BATCH_SIZE=", "BATCH_SIZE = '': it must be a whole number"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change, words):
    with pytest.raises(UserError) as found:
        read_settings(REPO / "config.py", [change])
    assert words in str(found.value)


def test_every_script_takes_changes(tmp_path):
    path = config(tmp_path)
    for script in ("extract_images", "create_db", "inference"):
        refused(call(script, "--config", path, "--set", "SEDE=2"), "--set SEDE=2", "Did you mean 'SEED'?")
    refused(call("training", "--niter", 3, "--config", path, "--set", "SEDE=2"), "Did you mean 'SEED'?")
    refused(call("convert_gt", "--from-color", "--out", tmp_path / "o", path, "--config", path, "--set", "X=1"), "--set X=1")


# ------------------------------------------------------------------------------------------------------------ wrong form

WRONG = {
    "DATASET": ["", 3], "BASE_DIR": [None], "DATASET_DIR": [3], "FOLDER_SUFFIX": ["/tmp", None],
    "folders": [{}, [], {"irrg": 3}], "train_ids": [[], 5, [1.5], [()]], "val_ids": [5, [None]], "test_ids": [{1}],
    "label_values": [[], "tree", [1, 2], ["tree"]], "palette": [[], {"a": (1, 2, 3)}, {0: 5}, {0: None}, {0: "white"}],
    "IGNORE_LABEL": ["clutter", [None], True, -1], "MEAN_PIXEL": [None, {"irrg": 5}, {"irrg": ("a",)}],
    "INPUTS": [{}, {"irrg": "irrg"}, {"irrg": []}, ["irrg"]], "patch_size": [128, (128,), (0, 32), (32.0, 32)],
    "step_size": ["16", (16, 0)], "ROTATIONS": [90, [45], [0, 0], ["0"], [[0]]], "FLIPS": [True, [True, True], [[]]],
    "BGR": [1, None], "NET": ["", None], "INIT_MODEL": [""],
    "INIT_PARTIAL": [None, 1], "INIT_UNITS": [{}, "imagenet", (1, 2)],
    "BATCH_SIZE": [0, 2.5, True], "BASE_LR": [0, -1, "0.1"],
    "LR_POLICY": ["step", {}], "SOLVER": ["sgd", {}],
    "LOSS": ["", None, ["ce"]], "CLASS_WEIGHTS": ["inverted", None, {}], "MULTIPLIERS": [None, {"a": 1}, {"a": {"lr": "1"}}],
    "PRETRAINED_RATE": [0, "a", None], "FROZEN_NORM": [1, None],
    "FREEZE_ITERATIONS": [-1, 2.5, "all"], "GRADIENT_CLIP": [0, "1"], "ITER_SIZE": [0, 1.5], "EMA_DECAY": [0, 1, 2, "a"],
    "AUGMENTATION": [None, ["flip"], {"flip": True}], "SNAPSHOT_EVERY": [0, "5"], "VAL_EVERY": [0, 1.5], "PATIENCE": [0],
    "KEEP_SNAPSHOTS": [0, -1], "SEED": [-1, 1.5], "WORKERS": [-1],
    "test_patch_size": [64], "test_step_size": [(0, 1)], "TEST_BATCH_SIZE": [0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [*((n, v) for n, values in WRONG.items() for v in values), *((n, 1j) for n in KNOWN)]
)
def test_a_setting_of_the_wrong_form_is_named_with_its_value(tmp_path, name, value):
    sentence = fault(tmp_path, **{name: value})
    assert name in sentence
    assert repr(value) in sentence or name == "palette"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val_ids": [3]}, "tile 3 stands in train_ids and in val_ids"),
        ({"test_ids": ["1"]}, "tile 1 stands in train_ids and in test_ids"),
        ({"train_ids": [1, 1]}, "tile 1 stands in train_ids and in train_ids"),
        ({"palette": COLOURS | {5: COLOURS[1]}}, "the colour (0, 0, 255) to both 1 and 5"),
        ({"IGNORE_LABEL": 6}, "IGNORE_LABEL = 6: there is no such class"),
        ({"IGNORE_LABEL": [0, 9]}, "IGNORE_LABEL = 9"),
        ({"step_size": (33, 16)}, "step_size = (33, 16) is wider than patch_size = (32, 32)"),
        ({"test_step_size": (16, 33)}, "test_step_size = (16, 33) is wider than test_patch_size"),
        ({"INPUTS": {"image": ["irgr"]}}, "INPUTS['image']: there is no modality and no band 'irgr'"),
        ({"INPUTS": {"image": ["irgr"]}}, "Did you mean 'irrg'?"),
        ({"INPUTS": {"image": ["labels"]}}, "no modality and no band 'labels'"),
        ({"MEAN_PIXEL": {"rgb": None}}, "MEAN_PIXEL names the modality 'rgb'"),
        ({"folders": {"irrg": "top/{}.tif"}}, "folders has no 'labels'"),
        ({"folders": FOLDERS | {"irrg": "top/all.tif"}}, "folders['irrg'] = 'top/all.tif'"),
        ({"folders": FOLDERS | {"irrg": "top/{}_{}.tif"}}, "folders['irrg'] = 'top/{}_{}.tif'"),
        ({"folders": FOLDERS | {"irrg": "top/{id}.tif"}}, "folders['irrg'] = 'top/{id}.tif'"),
        ({"train_ids": [(2, 10)]}, "does not fit the tile id (2, 10)"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, changes, words):
    assert words in fault(tmp_path, **changes)


@pytest.mark.parametrize("tile", ["..", ".hidden", "n" * 300])
def test_an_id_that_can_begin_no_files_name_is_refused(tmp_path, tile):
    assert "cannot begin the names of files" in fault(tmp_path, train_ids=[tile])


def test_a_syntax_error_is_named_with_its_line(tmp_path):
    path = config(tmp_path)
    path.write_text("SEED = 1\nBASE_DIR = (\n")
    with pytest.raises(UserError, match=r"config\.py, line 2: SyntaxError"):
        read_settings(path)


def test_an_error_while_the_config_runs_is_named_with_its_line(tmp_path):
    path = config(tmp_path)
    path.write_text("SEED = 1\n\nBASE_LR = 1 / 0\n")
    with pytest.raises(UserError, match=r"config\.py, line 3: ZeroDivisionError"):
        read_settings(path)


@pytest.mark.parametrize("line", ["import sys; sys.exit(0)", "raise SystemExit", "quit()", "raise BaseException('enough')"])
def test_a_config_that_ends_the_script_is_refused(tmp_path, line):
    path = config(tmp_path)
    path.write_text(f"SEED = 1\n{line}\n")
    with pytest.raises(UserError, match=r"config\.py, line 2: (it ends the script|BaseException: enough)"):
        read_settings(path)


def test_net_options_do_not_say_what_other_settings_say(tmp_path):
    with pytest.raises(UserError, match="NET_OPTIONS gives classes"):
        read_settings(config(tmp_path, NET_OPTIONS={"classes": 3})).net.build([], 6)


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist: name a config file with --config"):
        read_settings(tmp_path / "none.py")


def test_a_mistake_in_the_config_is_one_sentence_at_the_command_line(tmp_path):
    refused(call("extract_images", "--config", config(tmp_path, BATCHSIZE=3)), "config.py", "Did you mean 'BATCH_SIZE'?")


# -------------------------------------------------------------------------------------------------- what follows from them


def test_folders_follow_from_base_dataset_and_suffix(tmp_path):
    settings = read_settings(config(tmp_path, FOLDER_SUFFIX="_fold1", NET="smp:Unet/resnet34"))
    assert settings.data.folder("patches") == tmp_path / "vaihingen_patches_fold1"
    assert settings.snapshots == tmp_path / "vaihingen_snapshots_smp_Unet_resnet34_fold1"


@pytest.mark.parametrize(("given", "ignored"), [(None, []), (0, [0]), ([1, 5], [1, 5])])
def test_ignored_classes_may_be_none_one_or_several(tmp_path, given, ignored):
    assert read_settings(config(tmp_path, IGNORE_LABEL=given)).classes.ignored == ignored


def test_modalities_stand_once_in_the_order_of_the_inputs(tmp_path):
    inputs = {"a": ["dsm", "irrg"], "b": ["irrg"]}
    assert read_settings(config(tmp_path, INPUTS=inputs)).data.modalities == ["dsm", "irrg"]


# ------------------------------------------------------------------------------------------- a config upon another config


def test_a_config_may_begin_with_another_and_change_a_few_lines(tmp_path):
    base = (REPO / "config.py").read_text()
    (tmp_path / "config.py").write_text(base)
    lines = 'from config import *\n\nDATASET = "vaihingen"\nITER_SIZE = 2 * ITER_SIZE\ntest_ids = test_ids[:1]\n'
    (tmp_path / "mine.py").write_text(lines)
    settings = read_settings(tmp_path / "mine.py", ["BASE_LR=0.5"])
    assert settings.data.DATASET_DIR == "data/vaihingen/"  # derived in the other file, from this one's DATASET
    assert (settings.training.ITER_SIZE, settings.data.test_ids, settings.training.BASE_LR) == (2, [32], 0.5)


def test_faults_of_both_files_are_told_with_their_own_lines(tmp_path):
    (tmp_path / "config.py").write_text("first = 1\nsecond = nothing\n")
    (tmp_path / "mine.py").write_text("from config import *\n")
    with pytest.raises(UserError, match=r"config\.py, line 2: NameError"):
        read_settings(tmp_path / "mine.py")
    (tmp_path / "config.py").write_text("from mine import *\n")
    with pytest.raises(UserError, match="begins with"):
        read_settings(tmp_path / "mine.py")


def test_several_faults_of_one_config_are_told_at_once(tmp_path):
    told = fault(tmp_path, BATCH_SIZE=0, BASE_LR=-1, BLEND="round")
    assert all(name in told for name in ("BATCH_SIZE = 0", "BASE_LR = -1", "BLEND = 'round'"))


def test_a_recipes_step_and_crop_are_held_within_smaller_patches_of_the_configs_own(tmp_path):
    """The recipe's patches are 256, its step and crop 192; what the config says itself is never changed."""
    config = write_config(tmp_path / "config.py", tmp_path, RECIPE="modern", patch_size=(32, 32))
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("AUGMENTATION", "step_size"))]
    config.write_text("\n".join(lines))
    settings = read_settings(config)
    assert (settings.patches.step_size, settings.sample_size) == ((32, 32), (32, 32))
    config.write_text("\n".join([*lines, "step_size = (64, 64)"]))
    with pytest.raises(UserError, match="step_size = "):
        read_settings(config)
