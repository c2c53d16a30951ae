"""What the tests share: a tiny made town in Vaihingen's layout, a config for it, and ways to run the scripts on it."""

import contextlib
import importlib
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType

import harness
import numpy as np
import pytest
import rasterio
import torch
from hypothesis import HealthCheck, settings

from tools.base.errors import run

torch.set_num_threads(1)  # nets this small are quicker so, above all beside other work

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded one, too
settings.load_profile("any machine")
os.environ["ORTHONETS_TRACEBACK"] = "1"  # a fault of ours is to be read in pytest's report, not in a file

REPO = Path(__file__).parent.parent
HEIGHT, WIDTH = 72, 90  # of a tile: not square, and no multiple of the window
TRAIN, VAL, TEST = [1, 3, 5], [15], [32]
NAMES = ["impervious surfaces", "building", "low vegetation", "tree", "car", "clutter"]
COLOURS = {0: (255, 255, 255), 1: (0, 0, 255), 2: (0, 255, 255), 3: (0, 255, 0), 4: (255, 255, 0), 5: (255, 0, 0), 6: (0, 0, 0)}
LOOKS = np.array([(120, 125, 130), (60, 60, 180), (200, 90, 110), (225, 40, 60), (40, 210, 90), (110, 20, 20)])  # IR, R, G
CRS = rasterio.CRS.from_epsg(32632)
FOLDERS = {
    "irrg": "top/top_mosaic_09cm_area{}.tif",
    "dsm": "dsm/dsm_09cm_matching_area{}.tif",
    "labels": "gts_numpy/top_mosaic_09cm_area{}.tif",
    "labels_eroded": "gts_eroded_numpy/top_mosaic_09cm_area{}_noBoundary.tif",
}


def pytest_configure(config):
    # tools/geo/raster.py switches this warning off for the scripts; pytest puts its own filters above those of modules.
    config.addinivalue_line("filterwarnings", "ignore::rasterio.errors.NotGeoreferencedWarning")


CAFFES = REPO / "tests/data/caffe"  # what a real Caffe wrote; the larger files of it are not kept here
_MORE_OF_CAFFES = REPO.parent / "shared/caffe_reference"


def caffes(name):
    """A file that a real Caffe wrote; the test is skipped if it is one of those that are not kept here."""
    path = next((folder / name for folder in (CAFFES, _MORE_OF_CAFFES) if (folder / name).exists()), None)
    return path or pytest.skip(f"{name} of Caffe's is too large to be kept here")


# ------------------------------------------------------------------------------------------------------------- the town


def place(tile):
    """The georeference of a tile: 9 cm pixels, each tile elsewhere."""
    return rasterio.transform.from_origin(496_000 + 100 * int(tile), 5_419_000, 0.09, 0.09)


def write_raster(path, array, tile=1, **profile):
    """Write bands x h x w (or h x w) as a georeferenced TIFF, without the code under test."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array[None] if array.ndim == 2 else array
    profile = {"driver": "GTiff", "crs": CRS, "transform": place(tile), "dtype": array.dtype.name} | profile
    count, height, width = array.shape
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as file:
        file.write(array)
    return path


def pixels(path):
    """What a raster holds (bands x h x w), read without the code under test."""
    with rasterio.open(path) as file:
        return file.read()


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


def read_json(path):
    """What a JSON file holds."""
    return json.loads(Path(path).read_text())


def make_labels(seed, height=HEIGHT, width=WIDTH):
    """Big shapes: six blocks of all six classes in a random order, and two rectangles."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.permutation(6).reshape(2, 3), np.ones((height // 2 + 1, width // 3 + 1), int))[:height, :width]
    for _ in range(2):
        row, col = rng.integers(0, height - height // 3), rng.integers(0, width - width // 3)
        labels[row : row + height // 3, col : col + width // 3] = rng.integers(6)
    return labels.astype(np.uint8)


def make_image(labels, seed):
    """IR, R, G: the looks of the classes, and noise."""
    noise = np.random.default_rng([seed, 1]).normal(0, 8, (*labels.shape, 3))
    return np.clip(LOOKS[labels] + noise, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def erode(labels):
    """The labels with 6, not scored, along the borders of the shapes."""
    border = np.zeros(labels.shape, bool)
    border[1:] |= labels[1:] != labels[:-1]
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return np.where(border, 6, labels).astype(np.uint8)


def paint(labels):
    """The colours (3 x h x w) of labels."""
    table = np.zeros((256, 3), np.uint8)
    for label, colour in COLOURS.items():
        table[label] = colour
    return table[labels].transpose(2, 0, 1)


def make_tile(root, tile, height=HEIGHT, width=WIDTH):
    """Write all files of one tile below `root`, label arrays included."""
    labels = make_labels(tile, height, width)
    eroded = erode(labels)
    heights = 270 + 3 * labels.astype(np.float32) + np.random.default_rng([tile, 2]).normal(0, 0.2, labels.shape)
    write_raster(root / FOLDERS["irrg"].format(tile), make_image(labels, tile), tile)
    write_raster(root / FOLDERS["dsm"].format(tile), heights.astype(np.float32), tile)
    write_raster(root / FOLDERS["labels"].format(tile), labels, tile)
    write_raster(root / FOLDERS["labels_eroded"].format(tile), eroded, tile)
    write_raster(root / f"gts_for_participants/top_mosaic_09cm_area{tile}.tif", paint(labels), tile)
    write_raster(root / f"gts_eroded_for_participants/top_mosaic_09cm_area{tile}_noBoundary.tif", paint(eroded), tile)


def whole_terrain(dsm, pixel, ground=None, **options):
    """The terrain under a whole surface model (h x w, metres), put together from its blocks."""
    from tools.composite.terrain import GroundFilter, Terrain
    from tools.geo.windows import Window

    terrain = Terrain(lambda w: dsm[w.slices], Window(0, 0, *dsm.shape), pixel, ground or GroundFilter(), **options)
    result = np.empty(dsm.shape, np.float32)
    for core in terrain.blocks():
        result[core.slices] = terrain.block(core).at(core)
    return result


@dataclass
class Town:
    """A made dataset below `base`, with the config that is to be used on it."""

    base: Path
    changes: dict = field(default_factory=dict)

    @property
    def root(self):
        """The folder of the tiles."""
        return self.base / "vaihingen"

    def path(self, modality, tile):
        """A file of a tile."""
        return self.root / FOLDERS[modality].format(tile)

    def folder(self, kind):
        """patches, lmdb, results (of the net that most tests train) or snapshots_NET."""
        return self.base / f"vaihingen_{'results_segnet_slim' if kind == 'results' else kind}"

    @property
    def snapshots(self):
        """Where training puts its snapshots."""
        return self.folder("snapshots_segnet_slim")

    def config(self, **changes):
        """Write the config, with these settings changed; its path comes back."""
        return write_config(self.base / "config.py", self.base, **self.changes | changes)

    def copy(self, base, *kinds):
        """The same town elsewhere, to be changed, with these folders of what was made from it."""
        for folder in [self.root, *map(self.folder, kinds)]:
            shutil.copytree(folder, Path(base) / folder.name)
        return Town(Path(base), dict(self.changes))


def write_config(path, base, **changes):
    """A config of the made town: the project's own, with what differs. None of its values is left out."""
    own = runpy.run_path(str(REPO / "config.py"))
    imported = (ModuleType, FunctionType, type)
    settings = {k: v for k, v in own.items() if not k.startswith("_") and not isinstance(v, imported)}
    settings |= {
        "DATASET": "vaihingen", "BASE_DIR": f"{base}/", "DATASET_DIR": f"{base}/vaihingen/", "folders": FOLDERS,
        "train_ids": TRAIN, "val_ids": VAL, "test_ids": TEST, "label_values": NAMES, "palette": COLOURS, "IGNORE_LABEL": 5,
        "INPUTS": {"irrg": ["irrg"]}, "MEAN_PIXEL": {"irrg": None}, "patch_size": (32, 32), "step_size": (16, 16),
        "ROTATIONS": [0, 90], "FLIPS": [False, True], "BGR": True, "NET": "segnet_slim", "INIT_MODEL": None,
        "BATCH_SIZE": 4, "WORKERS": 0, "SNAPSHOT_EVERY": 4, "VAL_EVERY": None, "SEED": 1,
        "RECIPE": "original", "BASE_LR": 0.05, "LR_POLICY": {"name": "step", "step_iterations": 1200, "gamma": 0.1},
        "test_patch_size": (32, 32), "test_step_size": (16, 16), "TEST_BATCH_SIZE": 8,
    } | changes  # fmt: skip
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return path


def make_town(base, **changes):
    """All tiles of a new town."""
    town = Town(Path(base), changes)
    for tile in [*TRAIN, *VAL, *TEST]:
        make_tile(town.root, tile)
    town.config()
    return town


@pytest.fixture
def town(tmp_path):
    """A town of one's own, to be spoilt."""
    return make_town(tmp_path)


def copy_checkout(folder):
    """A copy of the checkout without what was made in it, for what writes into the project's own folder."""
    made = {REPO / name for name in ("data", "results", "snapshots")}

    def left_out(place, names):
        caches = [name for name in names if name.startswith(".") or name in ("__pycache__", "node_modules")]
        return [*caches, *(name for name in names if Path(place) / name in made or name.endswith(".safetensors"))]

    shutil.copytree(REPO, folder, ignore=left_out)
    return Path(folder)


# ------------------------------------------------------------------------------------------------------ running scripts


@pytest.fixture
def without_pictures(monkeypatch):
    """Scripts draw empty pictures: real ones take longer than a few iterations, or than to label a small tile."""

    def draw(path, *_):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    for picture in ("record.plots.net_graph", "record.plots.loss_plot", "labels.pictures.comparison"):
        monkeypatch.setattr(f"tools.{picture}", draw)


@dataclass
class Ran:
    """How a script ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def sentence(self):
        """The last line of stderr, beside which there may be a progress bar: what a user reads."""
        return self.err.replace("\r", "\n").strip().splitlines()[-1] if self.err.strip() else ""


def call(script, *words):
    """Run a script in this process, as from the command line."""
    module = importlib.import_module(script)
    if hasattr(module, "__path__"):  # a package: `python -m` runs its __main__
        module = importlib.import_module(f"{script}.__main__")
    main = module.main
    out, err, argv, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = [f"{script}.py", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run(main)
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    return Ran(code, out.getvalue(), err.getvalue())


def train(town, niter, *words, **changes):
    """training.py on a town's config, with changes; what came of it."""
    return call("training", "--niter", niter, "--device", "cpu", "--config", town.config(**changes), *words)


def done(ran):
    """What a script said that ended well; asserts that it did."""
    assert ran.code == 0, ran.err
    return ran


@contextlib.contextmanager
def spawn(script, *words):
    """A script running in a process of its own; at the end of the block it is killed, if it still runs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, str(REPO / f"{script}.py"), *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **streams) as process:
        try:
            yield process
        finally:
            kill(process)


def kill(process):
    """SIGKILL to a spawned script and all of its workers, which cannot tidy up."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition, process=None, seconds=60):
    """Wait until `condition()`; fails when `process` ends before, or the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        assert process is None or process.poll() is None, f"the script ended: {process.stderr.read()}"
        time.sleep(0.005)


def refused(ran, *words):
    """Assert that a script ended with one sentence on what was wrong, exit code 2, and that it holds these words."""
    assert ran.code == 2, (ran.code, ran.err)
    assert "Traceback" not in ran.err
    for word in words:
        assert str(word) in ran.sentence, (word, ran.err)


@pytest.fixture
def server(tmp_path):
    """The address where files of tmp_path are served, by another process."""
    words = [sys.executable, REPO / "tests/range_server.py", tmp_path]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many kilobytes; skips where that is not allowed."""
    (tmp_path / "disk").mkdir()

    def mount(kilobytes):
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(tmp_path / "disk")]
        if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("a small disk can be mounted by root only")
        return tmp_path / "disk"

    yield mount
    # Lazily, since files on it may be open still: a disk that stays mounted keeps pytest from clearing up, in later runs, too.
    subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], capture_output=True, check=False)


# --------------------------------------------------------------------------------- one chain for all tests that only read


def _made(town, script, *words):
    ran = call(script, *words, "--config", town.config())
    assert ran.code == 0, ran.err
    return town


@pytest.fixture(scope="session")
def tiles(tmp_path_factory):
    """A town for reading only."""
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="session")
def patches(tiles):
    """The same, with patches."""
    return _made(tiles, "extract_images")


@pytest.fixture(scope="session")
def databases(patches):
    """The same, with LMDBs."""
    return _made(patches, "create_db")


@pytest.fixture(scope="session")
def trained(databases):
    """The same, with a net that knows the town's colours: snapshots at 80 and 150 iterations."""
    rates = {"BASE_LR": 0.05, "LR_POLICY": {"name": "step", "step_iterations": 120, "gamma": 0.1}}
    config = databases.config(SNAPSHOT_EVERY=80, BATCH_SIZE=16, **rates)
    ran = call("training", "--niter", 150, "--config", config, "--device", "cpu")
    assert ran.code == 0, ran.err
    databases.config()
    return databases


# ------------------------------------------------------------------------------------------ scripts in a warm process (harness)


@pytest.fixture(scope="session")
def warm():
    """The process that runs scripts in forked children."""
    with harness.Warm() as process:
        yield process


@pytest.fixture(scope="session")
def whole(tmp_path_factory, warm):
    """A small town with all that is made from it: patches, databases, two snapshots, maps."""
    town = make_town(tmp_path_factory.mktemp("whole"), val_ids=[], train_ids=[1, 3], SNAPSHOT_EVERY=1, ROTATIONS=[0])
    for tile in (5, 15):
        for path in town.root.rglob(f"*area{tile}[._]*"):
            path.unlink()
    config = ["--config", str(town.config())]
    jobs = {"extract_images": [], "create_db": [], "training": ["--niter", "2", "--device", "cpu"], "inference": ["32"]}
    for script, words in jobs.items():
        code, err = warm.run(script, [*words, *config], town.base)
        assert code == 0, err
    return town
