"""Proves that each dataset block of config.py fits the files as the dataset is delivered: made files under the real names go
through convert_gt.py and extract_images.py, and patches hold the pixels and labels that they should."""

import numpy as np
import pytest
from conftest import COLOURS, REPO, call, pixels, refused, write_config, write_raster
from PIL import Image

from tools.base.errors import UserError
from tools.data.dataset import SPLITS, Dataset
from tools.settings import read_settings

HEIGHT, WIDTH = 32, 40  # of a tile: two patches of 32 x 32
EDITS = {
    'RECIPE = "modern"  #': 'RECIPE = "original"  #',
    '# NET = "segnet"  #': 'NET = "segnet_slim"  #',
    "# patch_size = (128, 128)": "patch_size = (32, 32)",
    "# step_size = (64, 64)": "step_size = (32, 32)",
    "# ROTATIONS = [0, 90]": "ROTATIONS = [0]",
    "# FLIPS = [False, True]": "FLIPS = [False]",
    "# test_patch_size = (128, 128)": "test_patch_size = (32, 32)",
}


def block(base, dataset, **edits):
    """The project's own config with this block chosen and small patches, below `base`."""
    text = (REPO / "config.py").read_text()
    changes = (
        {'DATASET = "demo"  #': f'DATASET = "{dataset}"  #', 'BASE_DIR = "data/"': f'BASE_DIR = "{base}/"'} | EDITS | edits
    )
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    (base / "config.py").write_text(text)
    return base / "config.py"


def classes(seed, count):
    """Labels, HEIGHT x WIDTH, in squares of 4 pixels."""
    small = np.random.default_rng(seed).integers(0, count, (HEIGHT // 4, WIDTH // 4))
    return np.kron(small, np.ones((4, 4), int)).astype(np.uint8)


def paint(labels, palette):
    """h x w x 3 colours of labels."""
    return np.array([palette[i] for i in sorted(palette)], np.uint8)[labels]


def picture(path, pixels):
    """Write a PNG or JPEG of h x w x 3 or h x w."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def image(seed):
    """A noisy picture, h x w x 3."""
    return np.random.default_rng([seed, 7]).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def converted(config, root, *words):
    """Run convert_gt.py into the block's gts_numpy."""
    ran = call("convert_gt", *words, "--out", root / "gts_numpy", "--config", config)
    assert ran.code == 0, ran.err
    return ran


def extracted(config, base, dataset):
    """Run extract_images.py; the settings come back once all tiles and patches are there."""
    ran = call("extract_images", "--config", config)
    assert ran.code == 0, ran.err
    settings = read_settings(config)
    for split in SPLITS:
        ids = settings.data.ids(split)
        for modality in (*settings.data.modalities, "labels"):
            assert len(list((base / f"{dataset}_patches/{modality}_{split}").glob("*"))) == 2 * len(ids)
    return settings


def test_vaihingen(tmp_path):
    config = block(tmp_path, "vaihingen")
    root, settings = tmp_path / "vaihingen", read_settings(config)
    for tile in settings.data.all_ids:
        write_raster(root / f"top/top_mosaic_09cm_area{tile}.tif", image(tile).transpose(2, 0, 1), tile)
        labels = paint(classes(tile, 6), COLOURS).transpose(2, 0, 1)
        write_raster(root / f"gts_for_participants/top_mosaic_09cm_area{tile}.tif", labels, tile)
    converted(config, root, root / "gts_for_participants", "--from-color")
    extracted(config, tmp_path, "vaihingen")
    patches = tmp_path / "vaihingen_patches"
    assert np.array_equal(pixels(patches / "irrg_test/32_00000_00008.png"), image(32).transpose(2, 0, 1)[:, :, 8:])
    assert np.array_equal(pixels(patches / "labels_test/32_00000_00008.png")[0], classes(32, 6)[:, 8:])


def test_potsdam(tmp_path):
    config = block(tmp_path, "potsdam")
    root, settings = tmp_path / "potsdam", read_settings(config)
    for row, col in settings.data.all_ids:
        write_raster(root / f"3_Ortho_IRRG/top_potsdam_{row}_{col}_IRRG.tif", image(100 * row + col).transpose(2, 0, 1))
        labels = paint(classes(100 * row + col, 6), COLOURS).transpose(2, 0, 1)
        write_raster(root / f"5_Labels_for_participants/top_potsdam_{row}_{col}_label.tif", labels)
    converted(config, root, root / "5_Labels_for_participants", "--from-color")
    extracted(config, tmp_path, "potsdam")
    patches = tmp_path / "potsdam_patches"
    assert np.array_equal(pixels(patches / "irrg_val/4_12_00000_00000.png"), image(412).transpose(2, 0, 1)[:, :, :32])
    assert np.array_equal(pixels(patches / "labels_train/2_10_00000_00000.png")[0], classes(210, 6)[:, :32])


def test_deepglobe_with_masks_whose_colours_are_not_pure(tmp_path):
    root, numbers = tmp_path / "deepglobe", [119, 855, 2334, 6399, 10452, 21717, 28689, 34330, 41944, 998002]
    palette = {
        0: (0, 255, 255),
        1: (255, 255, 0),
        2: (255, 0, 255),
        3: (0, 255, 0),
        4: (0, 0, 255),
        5: (255, 255, 255),
        6: (0, 0, 0),
    }
    for number in numbers:
        picture(root / f"train/{number}_sat.jpg", image(number))
        off = np.random.default_rng(number).integers(0, 100, (HEIGHT, WIDTH, 3))
        pure = paint(classes(number, 7), palette).astype(int)
        picture(root / f"train/{number}_mask.png", np.where(pure > 0, pure - off, pure + off).astype(np.uint8))
    config = block(tmp_path, "deepglobe")
    masks = sorted((root / "train").glob("*_mask.png"))
    refused(call("convert_gt", *masks, "--from-color", "--out", root / "no", "--config", config), "119_mask.png")
    converted(config, root, *masks, "--from-color", "--threshold")
    settings = extracted(config, tmp_path, "deepglobe")
    assert [len(ids) for ids in (settings.data.train_ids, settings.data.val_ids, settings.data.test_ids)] == [7, 1, 2]
    assert settings.classes.palette == palette
    for number in numbers:
        assert np.array_equal(pixels(root / f"gts_numpy/{number}_mask.png")[0], classes(number, 7))


OPEN_EARTH = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 255, 36), 3: (148, 148, 148), 4: (255, 255, 255), 5: (34, 97, 38),
              6: (0, 69, 255), 7: (75, 181, 73), 8: (222, 31, 7)}  # fmt: skip


def open_earth(root, suffix, mask_suffix, in_colour=False):
    """Two regions under the real names, one of which has an underscore, with the lists of the real split."""
    tiles = [("aachen", n) for n in range(1, 21)] + [("al_qurnah", n) for n in range(1, 6)]
    for region, number in tiles:
        labels = classes(number, 9)
        masks = paint(labels, OPEN_EARTH) if in_colour else labels
        for folder, end, array in (("images", suffix, image(number)), ("labels", mask_suffix, masks)):
            path = root / f"{region}/{folder}/{region}_{number}{end}"
            if end == ".tif":
                write_raster(path, array if array.ndim == 2 else array.transpose(2, 0, 1))
            else:
                picture(path, array)
    names = [f"{region}_{number}.tif\n" for region, number in tiles]
    (root / "train.txt").write_text("".join(names[:20]))
    (root / "val.txt").write_text("".join(names[20:]))


@pytest.mark.parametrize("in_colour", [False, True])
def test_openearthmap(tmp_path, in_colour):
    root = tmp_path / "openearthmap"
    open_earth(root, ".tif", ".tif", in_colour)
    config = block(tmp_path, "openearthmap")
    converted(config, root, *sorted(root.glob("*/labels")), "--from-color" if in_colour else "--from-index")
    settings = extracted(config, tmp_path, "openearthmap")
    assert settings.data.test_ids == [("al_qurnah", n) for n in range(1, 6)]
    assert (len(settings.data.train_ids), len(settings.data.val_ids)) == (19, 1)
    assert settings.classes.palette == OPEN_EARTH
    patches = tmp_path / "openearthmap_patches"
    assert np.array_equal(pixels(patches / "labels_test/al_qurnah_3_00000_00008.png")[0], classes(3, 9)[:, 8:])


def test_the_small_openearthmap_of_jpeg_and_png(tmp_path):
    root = tmp_path / "openearthmap"
    open_earth(root, ".jpg", ".png")
    suffixes = {'_suffix = ".tif"  #': '_suffix = ".jpg"  #', '_mask_suffix = ".tif"': '_mask_suffix = ".png"'}
    config = block(tmp_path, "openearthmap", **suffixes)
    converted(config, root, *sorted(root.glob("*/labels")), "--from-index")
    extracted(config, tmp_path, "openearthmap")
    assert np.array_equal(pixels(root / "gts_numpy/aachen_7.png")[0], classes(7, 9))


def test_dubai_with_its_faults(tmp_path):
    config = block(tmp_path, "dubai")
    root, settings = tmp_path / "dubai", read_settings(config)
    assert {tile for tile, _ in settings.data.train_ids + settings.data.val_ids} == {1, 2, 3, 4, 5, 6}
    assert {tile for tile, _ in settings.data.test_ids} == {7}
    for tile in range(1, 8):
        for part in range(1, 10):
            picture(root / f"images/tile{tile}_{part:03d}.jpg", image(10 * tile + part))
            labels = classes(10 * tile + part, 6)
            mask = paint(labels, settings.classes.palette)
            mask[0, :3] = 0  # in no legend
            if part % 2:
                picture(root / f"masks/tile{tile}_{part:03d}.png", mask)
            else:  # a palette PNG
                Image.fromarray(mask).quantize(7, dither=0).save(root / f"masks/tile{tile}_{part:03d}.png")
    refused(
        call("convert_gt", root / "masks", "--from-color", "--out", root / "no", "--config", config), "(0, 0, 0) on 189 pixels"
    )
    ran = converted(config, root, root / "masks", "--from-color", "--unknown", "ignore")
    assert "189 of 80,640 pixels" in ran.out
    extracted(config, tmp_path, "dubai")
    for part in (4, 5):
        expected = classes(70 + part, 6)
        expected[0, :3] = 5
        assert np.array_equal(pixels(root / f"gts_numpy/tile7_{part:03d}.png")[0], expected)
        assert np.array_equal(pixels(tmp_path / f"dubai_patches/labels_test/7_{part}_00000_00000.png")[0], expected[:, :32])


def test_a_folder_of_images_and_masks_by_equal_stems(tmp_path):
    root = tmp_path / "folder"
    for i in range(10):
        write_raster(root / f"images/plot {i}.tif", image(i).transpose(2, 0, 1))
        picture(root / f"masks/plot {i}.png", classes(i, 2) * 255)
    config = block(tmp_path, "folder")
    converted(config, root, root / "masks", "--from-index", "--foreground", "255")
    settings = extracted(config, tmp_path, "folder")
    assert sorted(settings.data.train_ids + settings.data.val_ids + settings.data.test_ids) == [f"plot {i}" for i in range(10)]
    assert [len(ids) for ids in (settings.data.train_ids, settings.data.val_ids, settings.data.test_ids)] == [7, 2, 1]
    assert np.array_equal(pixels(root / "gts_numpy/plot 3.png")[0], classes(3, 2))


def test_an_image_without_its_mask_is_named(tmp_path):
    root = tmp_path / "folder"
    for i in range(4):
        write_raster(root / f"images/{i}.tif", image(i).transpose(2, 0, 1))
        if i != 2:
            picture(root / f"gts_numpy/{i}.png", classes(i, 2))
    ran = call("extract_images", "--config", block(tmp_path, "folder"))
    refused(ran, "tile 2 has no labels", "gts_numpy/2.png does not exist")


def test_files_of_another_suffix_are_named(tmp_path):
    for i in range(4):
        write_raster(tmp_path / f"folder/images/{i}.tif", image(i).transpose(2, 0, 1))
        write_raster(tmp_path / f"folder/gts_numpy/{i}.tif", classes(i, 2))
    ran = call("extract_images", "--config", block(tmp_path, "folder"))
    refused(ran, "folders['labels'] matches no file", ".tif is there: correct the suffix in folders['labels']")


def test_a_folder_whose_files_stand_in_a_list(tmp_path):
    root = tmp_path / "folder"
    rows = ["image,mask,split"]
    for i, split in enumerate(["train", "train", "val", "test"]):
        write_raster(root / f"flight{i}/ortho_{i}.tif", image(i).transpose(2, 0, 1))
        picture(root / f"drawn/by_hand_{i}.png", classes(i, 2) * 255)
        rows.append(f"flight{i}/ortho_{i}.tif,drawn/by_hand_{i}.png,{split}")
    (root / "list.csv").write_text("\n".join(rows))
    text = (REPO / "config.py").read_text()
    [folders] = [line.strip() for line in text.splitlines() if line.strip().startswith('folders = {"rgb": "images/{}.tif"')]
    [ids] = [line.strip() for line in text.splitlines() if line.strip().startswith("_ids = find_ids") and "blocks" in line]
    listed = '_list = read_list(DATASET_DIR + "list.csv", labels_folder="gts_numpy")'
    config = block(tmp_path, "folder", **{
        ", split_by_share": ", read_list, split_by_share",
        folders: f'{listed}\n    folders = {{"rgb": _list.images, "labels": _list.labels}}',
        ids: "",
        '    _groups = group_tiles(_ids, GROUPS, DATASET_DIR, folders["rgb"])\n    train_ids': "    train_ids",
        "split_by_share(_ids, train=0.7, val=0.15, test=0.15, seed=1, group=_groups)": "_list.split",
    })  # fmt: skip
    converted(config, root, root / "list.csv", "--from-index", "--foreground", "255")
    settings = extracted(config, tmp_path, "folder")
    assert settings.data.train_ids == ["ortho_0", "ortho_1"]
    assert np.array_equal(pixels(tmp_path / "folder_patches/labels_test/ortho_3_00000_00000.png")[0], classes(3, 2)[:, :32])


def test_folders_without_a_file_for_a_tile_are_refused(tmp_path):
    folders = {"irrg": {1: "a.tif", 3: "b.tif"}, "labels": "{}.tif"}
    with pytest.raises(UserError, match=r"folders\['irrg'\] has no file for the tile 5"):
        read_settings(write_config(tmp_path / "config.py", tmp_path, folders=folders))
    assert Dataset("x", folders).path("irrg", 3).name == "b.tif"


def test_ready_made_patches_in_folders_of_their_splits(tmp_path):
    config = block(tmp_path, "patch")
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for i in range(count):
            write_raster(tmp_path / f"Patch/{split}/images/p{i}.tif", image(i).transpose(2, 0, 1), i + 1)
            write_raster(tmp_path / f"Patch/{split}/labels/p{i}.tif", classes(i, 2), i + 1)
    settings = extracted(config, tmp_path, "patch")
    assert [len(settings.data.ids(split)) for split in SPLITS] == [3, 1, 1]
    assert settings.data.train_ids[0] == ("train", "p0")
