"""Proves that the notebooks are kept small with their pictures, say what a kernel lacks, and run from top to bottom.

They run in a copy of the checkout, on a small made town and on a folder of one's own, with few iterations.
"""

import base64
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from conftest import REPO, copy_checkout, write_raster
from matplotlib.figure import Figure

from tools import notebook
from tools.record.history import Interval, Validation

NAMES = ["1_prepare", "2_train", "3_label"]
FIGURES = {"1_prepare": 4, "2_train": 3, "3_label": 3}
MOST_BYTES = 500_000


def read(name, home=REPO):
    return json.loads((home / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))


def code_of(book):
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def outputs(book):
    return [output for cell in code_of(book) for output in cell["outputs"]]


def figures(book):
    """The pictures in the outputs, decoded."""
    found = [output["data"]["image/png"] for output in outputs(book) if "image/png" in output.get("data", {})]
    return [PIL.Image.open(io.BytesIO(base64.b64decode("".join(png)))) for png in found]


def said(book):
    """All text in the outputs."""
    return "".join("".join(output.get("text", "")) for output in outputs(book))


def check_outputs(name, book):
    """What has to be there after a run, in what is committed and in what CI runs."""
    counts = [cell["execution_count"] for cell in code_of(book)]
    assert counts == list(range(1, len(counts) + 1)), "cells were not run from top to bottom"
    assert not [output for output in outputs(book) if output["output_type"] == "error"]
    assert len(figures(book)) == FIGURES[name]
    assert min(min(image.size) for image in figures(book)) > 100
    words = {"1_prepare": "records of", "2_train": "newest snapshot", "3_label": "report.html"}
    assert words[name] in said(book)
    if name != "1_prepare":
        assert "overall accuracy" in said(book) and "F1=Dice" in said(book)


# --------------------------------------------------------------------------------------------------------- what is committed


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_run_whole_and_is_small(name):
    check_outputs(name, read(name))
    assert (REPO / f"notebooks/{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_outputs_name_no_place_of_the_machine_that_made_them(name):
    text = said(read(name))
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|usr|opt|mnt)/\S*", text)


@pytest.mark.parametrize("name", NAMES)
def test_they_call_functions_and_no_commands(name):
    for cell in code_of(read(name)):
        assert not re.search(r"^\s*[!%]|subprocess|os\.system", source(cell), re.MULTILINE)


def test_all_begin_alike():
    first = [source(code_of(read(name))[0]).splitlines() for name in NAMES]
    assert all(lines[0] == first[0][0] and lines[-15:] == first[0][-15:] for lines in first)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_without_the_environment_is_told_what_to_do(name):
    words = [sys.executable, "-I", "-S", "-c", source(code_of(read(name))[0])]  # without site-packages
    ran = subprocess.run(words, cwd=REPO / "notebooks", capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    (sentence,) = ran.stderr.splitlines()
    assert re.fullmatch(r"This kernel has no \w+: run `make notebooks` .* kernel of its \.venv\.", sentence)


def test_a_kernel_that_lacks_one_of_the_libraries_is_told_which(monkeypatch):
    find = notebook.importlib.util.find_spec
    monkeypatch.setattr(notebook.importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    with pytest.raises(ImportError) as error:
        notebook.begin(None)
    assert error.value.name == "torch"


@pytest.mark.filterwarnings("default")  # IPython's own
def test_a_mistake_ends_a_cell_with_its_sentence(capsys):
    of_ipython, of_its_settings = pytest.importorskip("IPython.core.interactiveshell"), pytest.importorskip("traitlets.config")
    shell = of_ipython.InteractiveShell(config=of_its_settings.Config({"HistoryManager": {"enabled": False}}))
    notebook.begin(shell)
    ran = shell.run_cell("from tools.base.errors import UserError\nraise UserError('the value is 7: take 8.')")
    assert not ran.success  # so that the cells below it do not run
    assert capsys.readouterr().err == "the value is 7: take 8.\n"
    shell.run_cell("1 / 0")
    assert "Traceback" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- their pictures


def test_pictures_have_few_colours_and_keep_those_of_labels():
    colours = np.array([(255, 255, 255), (0, 0, 255), (255, 255, 0)], np.uint8)
    labels = np.random.default_rng(1).integers(0, 3, (300, 1500))
    image = PIL.Image.open(io.BytesIO(notebook.as_png(colours[labels[:, :900]])))
    assert np.array_equal(np.array(image.convert("RGB")), colours[labels[:, :900]])
    noise = np.random.default_rng(2).integers(0, 256, (300, 1500, 3)).astype(np.uint8)
    image = PIL.Image.open(io.BytesIO(notebook.as_png(noise)))
    assert image.size == (notebook.WIDEST, 192)  # 300 / 1500 of the width
    assert len(image.convert("RGB").getcolors(1 << 20)) <= 256


def test_a_figure_and_a_file_become_pictures(tmp_path):
    figure = Figure(figsize=(4, 2))
    figure.subplots().plot([1, 2])
    drawn = PIL.Image.open(io.BytesIO(notebook.as_png(figure)))
    assert drawn.format == "PNG" and drawn.size[0] > drawn.size[1] > 100
    PIL.Image.new("RGB", (50, 40), (200, 10, 10)).save(tmp_path / "a.png")
    assert PIL.Image.open(io.BytesIO(notebook.as_png(tmp_path / "a.png"))).size == (50, 40)


def test_a_grid_has_a_place_for_each_picture():
    pixels = np.zeros((20, 30, 3), np.uint8)
    figure = notebook.grid([(f"tile {i}", pixels) for i in range(4)], columns=3)
    assert [axis.get_title() for axis in figure.axes] == ["tile 0", "tile 1", "tile 2", "tile 3", "", ""]
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 0, 0]


def test_a_training_is_drawn_in_one_place_and_its_maps_in_another(monkeypatch):
    shown = []

    class Handle:
        def __init__(self, image):
            shown.append([image])
            self.images = shown[-1]

        def update(self, image):
            self.images.append(image)

    display = pytest.importorskip("IPython.display")
    monkeypatch.setattr(display, "display", lambda image, display_id: Handle(image))
    watch = notebook.Watch("a net")
    scores = {"loss": 1.0, "mean_iou_without_ignored": 0.5}
    for iteration in (10, 20, 30):
        watch.add(Interval(iteration, 1.0, 0.1, 5.0))
    for iteration in (20, 30):
        watch.add_validation(iteration, Validation(scores, np.zeros((20, 60, 3), np.uint8)))
    curves, maps = shown
    assert len(curves) == 3 and len(maps) == 2  # of the intervals one was drawn, as the others came within the same second
    first, second = (PIL.Image.open(io.BytesIO(image.data)) for image in maps)
    assert second.size[1] > 1.6 * first.size[1]  # one map below the other


# ---------------------------------------------------------------------------------------------------------- from top to bottom


def run_all(home, data=None):
    """The notebooks of a copy of the checkout, run one after the other; data: the folder that stands in their first cell."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name in NAMES:
        path = home / f"notebooks/{name}.ipynb"
        book = nbformat.read(path, as_version=4)
        first = code_of(book)[0]
        first["source"] = source(first).replace("DATA = None", f"DATA = {data!r}", 1)
        place = {"metadata": {"path": str(path.parent)}}
        nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources=place).execute()
        nbformat.write(book, path)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the checkout, and few iterations for all kernels."""
    monkeypatch.setitem(os.environ, "NITER", "8")
    return copy_checkout(tmp_path / "orthonets")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_they_run_on_the_made_town(copy):
    from tools.demo.__main__ import make_dataset

    make_dataset(copy / "data/demo", size=256)
    run_all(copy)
    for name in NAMES:
        check_outputs(name, read(name, copy))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_they_run_on_a_folder_of_ones_own(copy):
    rng = np.random.default_rng(1)
    for i in range(8):
        mask = np.kron(rng.permutation(np.arange(64) % 3).reshape(8, 8), np.ones((16, 16), int)).astype(np.uint8)
        looks = np.array([(200, 60, 60), (60, 180, 60), (50, 60, 190)], np.uint8)[mask]
        write_raster(copy / f"data/city/images/{i}.tif", looks.transpose(2, 0, 1))
        write_raster(copy / f"data/city/masks/{i}.tif", mask)
    run_all(copy, "data/city")
    for name in NAMES:
        check_outputs(name, read(name, copy))
    assert "class 2" in said(read("3_label", copy))
