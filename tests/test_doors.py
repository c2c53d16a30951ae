"""Proves that doors are quick: what a script imports before work begins, and what it never imports, is held down."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, paint, write_raster

HEAVY = ["torch", "matplotlib", "scipy", "skimage", "timm", "segmentation_models_pytorch", "onnx", "onnxruntime"]
AFTER = """
import json, runpy, sys
sys.argv = {words!r}
try:
    if {module!r}:
        runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path({words!r}[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([name for name in {watched!r} if name in sys.modules]))
"""


def imported(watched, *words, module=""):
    """Which of these modules a command has imported when it ends, in a process of its own."""
    code = AFTER.format(words=list(map(str, words)), module=module, watched=watched)
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("script", ["convert_gt.py", "extract_images.py", "create_db.py", "training.py", "inference.py"])
def test_help_needs_no_heavy_library(script):
    assert imported(HEAVY, script, "--help") == []


def test_converting_ground_truth_never_imports_pytorch(tmp_path):
    write_raster(tmp_path / "masks/a.tif", paint(np.arange(48, dtype=np.uint8).reshape(6, 8) % 6))
    words = ["--from-color", "--out", tmp_path / "labels"]
    assert imported(["torch", "matplotlib", "skimage"], "convert_gt.py", tmp_path / "masks/a.tif", *words) == []


def test_the_list_of_nets_imports_no_library_of_nets_and_no_compiler():
    watched = ["timm", "segmentation_models_pytorch", "torchvision", "torch._dynamo"]
    assert imported(watched, "nets", module="nets") == []


def test_labelling_imports_no_compiler_and_no_library_of_nets(trained, tmp_path):
    """torch._dynamo takes longer to import than a small picture to label."""
    weights = trained.snapshots / "net_iter_150.safetensors"
    words = ["--images", trained.path("irrg", 32), "--dir", tmp_path / "maps", "--weights", weights, "--device", "cpu"]
    watched = ["torch._dynamo", "timm", "segmentation_models_pytorch", "tensorboard", "lmdb", "onnx", "matplotlib.pyplot"]
    assert imported(watched, "inference.py", *words, "--config", trained.config()) == []
