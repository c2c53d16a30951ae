"""Proves that a net which somebody else has trained labels our tiles just as it does at home: made weights under the names of
the published FLAIR U-Nets, whose 19 planes hold 12 classes; and that what does not fit is one sentence."""

import numpy as np
import pytest
import rasterio
import torch
from conftest import call, done, refused
from torch import nn

from nets.libraries import smp
from tools.data.inputs import Input
from tools.labels.class_table import read_classes
from tools.weights.snapshots import load_net

MEAN, STD = (105.08, 110.87, 101.82, 106.38, 53.26), (52.17, 45.38, 44.0, 39.69, 79.3)
CLASSES = ["building", "pervious surface", "impervious surface", "bare soil", "water", "coniferous", "deciduous", "brushwood",
           "vineyard", "herbaceous", "agricultural land", "plowed land"]  # fmt: skip
SIZE = 64


@pytest.fixture(scope="module")
def flair():
    """A net as FLAIR's are: five bands, 19 planes, of which the first 12 tell classes apart."""
    torch.manual_seed(3)
    net = smp.Unet("resnet18", encoder_weights=None, in_channels=5, classes=19)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        net.segmentation_head[0].weight *= 5
        net.segmentation_head[0].bias[12:] = 50.0  # if they were heard, nothing else would be
    return net.eval()


@pytest.fixture
def files(tmp_path, flair):
    """A folder with the checkpoint, classes.csv, and a tile of five bands."""
    weights = {f"model.seg_model.{k}": v for k, v in flair.state_dict().items()}
    torch.save(weights, tmp_path / "FLAIR_weights.pth")
    lines = [f"{name},{i},{255 - i},{10 * i}" for i, name in enumerate(CLASSES)]
    (tmp_path / "classes.csv").write_text("\n".join(["name,r,g,b", *lines]))
    pixels = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE), np.uint8)
    profile = {"driver": "GTiff", "count": 5, "height": SIZE, "width": SIZE, "dtype": "uint8"}
    with rasterio.open(tmp_path / "tile.tif", "w", **profile, crs="EPSG:2154",
                       transform=rasterio.Affine(0.2, 0, 6e5, 0, -0.2, 6e6)) as file:  # fmt: skip
        file.write(pixels)
    return tmp_path


def adopt(folder, *words, net="smp:Unet/resnet18", bands=("R", "G", "B", "NIR", "height"), mean=MEAN, std=STD):
    return call("tools.adopt", folder / "FLAIR_weights.pth", "--net", net, "--bands", *bands, "--mean", *mean, "--std", *std,
                "--classes", folder / "classes.csv", "--out", folder / "flair.safetensors", *words)  # fmt: skip


def label(folder, *words):
    done(call("inference", "--config", folder / "flair.py", "--images", folder / "tile.tif", "--dir", folder / "maps",
              "--weights", folder / "flair.safetensors", "--device", "cpu", *words))  # fmt: skip
    (found,) = [p for p in (folder / "maps").rglob("*.tif") if rasterio.open(p).count == 1]
    with rasterio.open(found) as file:
        return file.read(1), file.colormap(1)


def test_a_flair_net_labels_a_tile_as_it_does_at_home(files, flair):
    ran = done(adopt(files, "--window", SIZE, "--pixel-size", 0.2))
    assert "7 of its 19 planes are left out" in ran.out
    found, colours = label(files)
    with rasterio.open(files / "tile.tif") as file:
        pixels = torch.from_numpy(file.read()).float()[None]
    mean, std = (torch.tensor(v).view(1, 5, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        wanted = flair((pixels - mean) / std)[0, :12].argmax(0).numpy()
    assert len(np.unique(wanted)) > 3
    assert (found == wanted).mean() > 0.999
    assert colours[4][:3] == (4, 251, 40)


def test_the_weights_file_says_what_it_is_for(files):
    done(adopt(files, "--window", SIZE, "--pixel-size", 0.2))
    net, about = load_net(files / "flair.safetensors")
    assert (about["classes"], about["pixel_size"], about["patch_size"]) == (CLASSES, 0.2, [SIZE, SIZE])
    assert about["name"] == net.name == "smp:Unet/resnet18" and net.classes == 12
    (seen,) = about["inputs"]
    assert Input.from_dict(seen) == Input("image", ("image",), (5,), False, MEAN, STD)


def test_bands_that_the_net_does_not_read_are_left_out_and_several_files_are_named(files, flair):
    weights = dict(flair.state_dict()) | {"encoder.conv1.weight": torch.randn(64, 4, 7, 7)}
    torch.save({"state_dict": weights}, files / "FLAIR_weights.pth")
    done(adopt(files, bands=("rgbi=R,G,B,-", "dsm=height"), mean=(1, 2, 3, 4), std=(5, 6, 7, 8)))
    seen = Input.from_dict(load_net(files / "flair.safetensors")[1]["inputs"][0])
    assert (seen.modalities, seen.bands, seen.picks, seen.file_bands) == (("rgbi", "dsm"), (3, 1), ((0, 1, 2), (0,)), (4, 1))


def test_a_net_of_one_plane_becomes_one_of_two_classes(files):
    torch.manual_seed(1)
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=1).eval()
    torch.save(theirs.state_dict(), files / "FLAIR_weights.pth")
    (files / "classes.csv").write_text("name,colour\nground,#000000\nhouse,#ff0000\n")
    ran = done(adopt(files, "--scale", 255, bands="RGB", mean=(0, 0, 0), std=(1, 1, 1)))
    net, about = load_net(files / "flair.safetensors")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x).softmax(1)[:, 1:], theirs(x).sigmoid())
    assert about["palette"]["1"] == [255, 0, 0] and "against 'ground'" in ran.out
    assert about["inputs"][0]["deviation"] == [255.0] * 3


def test_planes_are_chosen_by_their_numbers(files, flair):
    (files / "classes.csv").write_text("number,name,r,g,b\n4,water,0,0,255\n0,building,255,0,0\n")
    done(adopt(files))
    net, about = load_net(files / "flair.safetensors")
    assert about["classes"] == ["water", "building"]
    torch.testing.assert_close(net.net.segmentation_head[0].weight, flair.segmentation_head[0].weight[[4, 0]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"net": "smp:Unet/resnet34"}, ["is not of this net", "it lacks 'net.encoder.layer1.2"]),
        ({"net": "smp:FPN/resnet18"}, ["is not of this net"]),
        ({"net": "segnet"}, ["has no layer of this net"]),
        ({"bands": ("R", "G", "B")}, ["--bands names 3 bands", "5 means"]),
        (
            {"bands": ("R", "G", "B"), "mean": (1, 2, 3), "std": (1, 2, 3)},
            ["'net.encoder.conv1' has a weight of 64 x 3 x 7 x 7"],
        ),
        ({"mean": (0.4,) * 5, "std": (0.2,) * 5}, ["--mean and --std", "add 'scale': 255"]),
        ({"bands": ("rgb=R,G,B", "height")}, ["name the bands of one file, or all of several"]),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_writes_nothing(files, changes, words):
    refused(adopt(files, **changes), *words)
    assert not list(files.glob("flair.*"))


def test_the_units_have_to_be_said(files):
    words = ["--net", "smp:Unet/resnet18", "--bands", "R", "G", "B", "N", "E", "--classes", files / "classes.csv"]
    refused(call("tools.adopt", files / "FLAIR_weights.pth", *words, "--out", files / "a.safetensors"), "give --mean and --std")


def test_more_classes_than_planes_are_refused(files):
    (files / "classes.csv").write_text("number,name,r,g,b\n19,other,0,0,0\n0,building,1,1,1\n")
    refused(adopt(files), "up to number 19, but the net tells 19 apart, 0 to 18")


def test_nothing_is_replaced_unasked(files):
    done(adopt(files))
    refused(adopt(files), "exists already", "--overwrite")
    done(adopt(files, "--overwrite"))
    refused(call("tools.adopt", files / "a.pth", "--net", "n", "--bands", "R", "--classes", "c", "--out", files / "a.pth"),
            "name it", "a.safetensors")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,r,g,b\nwater,0,0\n", "line 2: a class is a name, a colour"),
        ("water,0,0,255\n", "names 0 classes"),
        ("number,name,r,g,b\n0,a,0,0,0\n0,b,1,1,1\n", "gives the number 0 to several"),
        ("name,r,g,b\na,0,0,256\n", "line 2"),
    ],
)
def test_a_table_of_classes_of_another_form_is_refused(files, text, words):
    (files / "classes.csv").write_text(text)
    refused(adopt(files), words)


def test_classes_are_read_under_the_names_that_datasets_give_their_columns(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffName, R, G, B\nurban_land, 0, 255, 255\n")
    (tmp_path / "b.csv").write_text("index,class,color\n7,water,#0F00FF\n")
    assert read_classes(tmp_path / "a.csv") == [(0, "urban_land", (0, 255, 255))]
    assert read_classes(tmp_path / "b.csv") == [(7, "water", (15, 0, 255))]
