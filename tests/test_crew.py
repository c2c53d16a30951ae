"""Proves that several processes share tiles or deal them out, and that their maps are those of one process, bit for bit."""

import contextlib
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, names, pixels, read_json, write_raster
from test_inference_averages import made_weights
from test_stitching import CPU, GREY, Opinionated, cut

from tools.base.pipeline import Ahead
from tools.inference.blending import predict, sums
from tools.inference.forward import Forward
from tools.inference.sliding import Plan, Sliding, batches


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
@pytest.mark.parametrize("memory", [256, 0.02])
def test_the_shares_of_the_processes_together_give_the_same_numbers_bit_for_bit(count, memory):
    image = np.random.default_rng(1).integers(0, 256, (190, 600)).astype(np.uint8)
    plan = Plan(image.shape, 3, Sliding((16, 16), (6, 6), 3, "cosine", memory, section=1))
    forward = Forward(Opinionated(), [GREY], CPU, 3, (16, 16))
    assert len(plan.sections) > 9

    def ready(sections):
        return Ahead(batches(lambda w: [cut(image, w)], plan, sections, CPU))

    @contextlib.contextmanager
    def together(own):
        shares = [own, *(sums(forward, plan, ready(plan.sections[rank::count]), CPU) for rank in range(1, count))]
        yield lambda number: next(shares[number % count])
        assert [next(share, None) for share in shares] == [None] * count

    whole = [(p.row, p.col, p.probabilities.numpy()) for p in predict(forward, plan, ready(plan.sections), CPU)]
    parts = list(predict(forward, plan, ready(plan.sections[::count]), CPU, together))
    assert len(whole) == len(parts)
    for (row, col, values), part in zip(whole, parts, strict=True):
        assert (row, col) == (part.row, part.col)
        assert np.array_equal(values, part.probabilities.numpy())


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


@pytest.mark.slow
def test_one_huge_tile_is_shared_and_small_ones_are_dealt_out_with_the_same_maps_and_statistics(own, tmp_path):
    path = made_weights(own, "a.safetensors", 1)
    image = pixels(own.path("irrg", 32))
    write_raster(tmp_path / "in/0.tif", np.tile(image, (1, 25, 5))[:, :1760, :416])
    assert len(Plan((1760, 416), 6, Sliding((128, 128), (32, 32), 2)).sections) == 2  # of 26 rows of 10 windows
    for i in range(1, 5):
        write_raster(tmp_path / f"in/{i}.tif", np.roll(image, i, 1))
    os.truncate(tmp_path / "in/3.tif", (tmp_path / "in/3.tif").stat().st_size // 2)
    words = ["--images", tmp_path / "in", "--weights", path, "--confidence"]
    words += ["--config", own.config(TEST_BATCH_SIZE=3, test_patch_size=(128, 128), test_step_size=(32, 32))]
    found = {count: torchrun(count, *words, "--dir", tmp_path / f"by{count}") for count in (1, 2)}
    for ran in found.values():
        assert ran.returncode == 1
        assert f"1 of 5 tiles could not be labelled: {tmp_path / 'in/3.tif'}" in ran.stderr
    for kind in ("labels", "colours", "confidence"):
        for i in (0, 1, 2, 4):
            assert (tmp_path / f"by1/{i}_{kind}.tif").read_bytes() == (tmp_path / f"by2/{i}_{kind}.tif").read_bytes()
    assert read_json(tmp_path / "by1/statistics.json") == read_json(tmp_path / "by2/statistics.json")
    assert set(names(tmp_path / "by1")) == set(names(tmp_path / "by2"))


@pytest.mark.slow
def test_tiles_that_are_resampled_are_dealt_out_whole(own, tmp_path):
    path = made_weights(own, "a.safetensors", 1, pixel_size=0.15)
    words = ["--resample", "--weights", path, "--config", own.config()]
    for count in (1, 2):
        ran = torchrun(count, 32, 15, *words, "--dir", tmp_path / f"by{count}")
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "by1/32_labels.tif").read_bytes() == (tmp_path / "by2/32_labels.tif").read_bytes()
