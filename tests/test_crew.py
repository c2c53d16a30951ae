"""Proves that several processes share the windows of each tile, and that their maps are those of one process, bit for bit."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, pixels, write_raster
from test_inference_averages import made_weights
from test_stitching import CPU, cut

from tools.crew import Crew
from tools.distributed import ALONE
from tools.stitching import Sliding, batches


@pytest.fixture
def own(tiles, tmp_path):
    """A town to itself."""
    return tiles.copy(tmp_path / "own")


def torchrun(count, *words):
    """Run inference.py in `count` processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(REPO)}
    words = [*command, str(REPO / "inference.py"), *map(str, words), "--device", "cpu"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shares_of_the_processes_are_all_batches_each_once(count):
    image = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
    sliding = Sliding((16, 16), (6, 6), 3)
    whole, *shares = (
        [
            (b.windows, b.pixels[0].numpy())
            for b in batches(lambda w: [cut(image, w)], (40, 50), (0, 50), sliding, CPU, turn, of)
        ]
        for turn, of in [(0, 1), *((turn, count) for turn in range(count))]
    )
    assert len(whole) > 7
    for i, (windows, values) in enumerate(whole):
        mine = shares[i % count][i // count]
        assert mine[0] == windows
        assert np.array_equal(mine[1], values)
    assert sum(map(len, shares)) == len(whole)


def test_one_process_alone_has_nobody_to_let_go():
    with Crew(ALONE, CPU.device).employed():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_maps_and_probabilities_are_those_of_one_process_bit_for_bit_in_strips_too(own, tmp_path, count):
    path = made_weights(own, "a.safetensors", 1)
    write_raster(tmp_path / "wide.tif", np.tile(pixels(own.path("irrg", 32)), (1, 2, 8)))
    config = own.config(MEMORY_MB=1, test_patch_size=(128, 128), TEST_BATCH_SIZE=2)
    words = ["--images", tmp_path / "wide.tif", own.path("irrg", 32), "--weights", path, "--probabilities", "float32"]
    for some in (1, count):
        ran = torchrun(some, *words, "--dir", tmp_path / f"by{some}", "--config", config)
        assert ran.returncode == 0, ran.stderr
    for file in ("wide_labels", "wide_probabilities", "top_mosaic_09cm_area32_probabilities"):
        assert np.array_equal(pixels(tmp_path / f"by1/{file}.tif"), pixels(tmp_path / f"by{count}/{file}.tif")), file
    assert ran.stdout.count("maps of 2 tiles") == 1  # one of them talks


@pytest.mark.slow
def test_a_file_that_breaks_off_is_named_and_the_other_one_is_labelled(own, tmp_path):
    path = made_weights(own, "a.safetensors", 1)
    rng = np.random.default_rng(1)
    write_raster(tmp_path / "a.tif", rng.integers(0, 256, (3, 200, 90), np.uint8))
    write_raster(tmp_path / "b.tif", pixels(own.path("irrg", 32)))
    os.truncate(tmp_path / "a.tif", (tmp_path / "a.tif").stat().st_size // 2)
    words = ["--images", tmp_path / "a.tif", tmp_path / "b.tif", "--weights", path, "--dir", tmp_path / "out"]
    ran = torchrun(2, *words, "--config", own.config(TEST_BATCH_SIZE=2))
    assert ran.returncode == 1
    assert f"1 of 2 tiles could not be labelled: {tmp_path / 'a.tif'}" in ran.stderr
    assert (tmp_path / "out/b_labels.tif").exists()
    assert not (tmp_path / "out/a_labels.tif").exists()
