"""Proves that docs/tutorial.md works as it stands: its commands, run one after the other in a copy of the checkout."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from conftest import REPO, copy_checkout, read_json

PAGE = (REPO / "docs/tutorial.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
FEW = "--niter 8"  # iterations: whether it works, not how well


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder in which all commands ran, and what each of them printed."""
    home = copy_checkout(tmp_path_factory.mktemp("tutorial") / "orthonets")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = {}
    for command in COMMANDS:
        words = ["bash", "-c", re.sub(r"--niter \d+", FEW, command)]
        ran = subprocess.run(words, cwd=home, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{command}: {ran.stderr[-2000:]}"
        printed[command] = ran.stdout
    return home, printed


def test_the_page_has_commands():
    scripts = " ".join(COMMANDS)
    for name in (
        "tools.demo",
        "tools.start",
        "tools.check",
        "extract_images.py",
        "create_db.py",
        "training.py",
        "inference.py",
    ):
        assert name in scripts, name


@pytest.mark.slow
def test_the_lines_of_tools_start_are_those_of_the_page(followed):
    _, printed = followed
    said = next(out for command, out in printed.items() if "tools.start" in command).replace(" && \\\n    ", "\n").splitlines()
    lines = [command for command in COMMANDS if "tools.blocks" in command or "convert_gt.py" in command]
    assert len(lines) == 2 and set(lines) <= set(said)


@pytest.mark.slow
def test_nothing_stands_in_the_way_of_training(followed):
    _, printed = followed
    assert "nothing stands in the way of training" in next(out for c, out in printed.items() if "tools.check" in c)


@pytest.mark.slow
def test_the_map_lies_on_the_flight_and_has_its_classes_and_style(followed):
    home, _ = followed
    with (
        rasterio.open(home / "data/flight/ortho.tif") as flight,
        rasterio.open(home / "data/flight_map/ortho_labels.tif") as map_,
    ):
        assert (map_.crs, map_.transform, map_.shape) == (flight.crs, flight.transform, flight.shape)
        assert map_.colormap(1)
        bounds = flight.bounds
    polygons = home / "data/flight_map/ortho_polygons.gpkg"
    about = pyogrio.read_info(polygons, layer="polygons")
    assert about["features"] and about["crs"] == "EPSG:32632"
    corners = np.array(about["total_bounds"])
    assert np.abs(corners - bounds).max() < 10  # metres; rectangles, drawn along the houses, may reach over the edge
    assert "layer_styles" in [name for name, _ in pyogrio.list_layers(polygons)]


@pytest.mark.slow
def test_the_test_blocks_are_scored(followed):
    home, _ = followed
    (scores,) = home.glob("data/flight_results_*/scores.json")
    assert set(read_json(scores)["labels"]["all"]["iou"]) == {"background", "building", "car", "low vegetation", "tree"}
