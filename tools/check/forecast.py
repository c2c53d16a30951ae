"""What training takes on this machine: a few timed steps of the config's net, with its solver and loss, on random pixels."""

import contextlib
import io
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tools.data.statistics import Moments
from tools.geo import raster
from tools.geo.raster import Raster
from tools.geo.windows import sliding
from tools.settings import Settings

if TYPE_CHECKING:
    from tools.compute.device import Device
    from tools.data.inputs import Input
    from tools.training.trainer import Trainer

_STEPS = 3  # that are timed, after one that is not
_SECONDS = 20  # after which no further step begins
_SAMPLE = 256  # pixels, the sides of a reduced tile, for the mean that inputs need


@dataclass(frozen=True)
class Forecast:
    """Seconds of an iteration and of a validation, bytes of a snapshot and of memory in use (None: not known here)."""

    parameters: int
    iteration: float
    validation: float
    snapshot: int
    memory: int | None
    begins: str

    def minutes(self, niter: int, validations: int) -> float:
        """Of a whole run."""
        return (niter * self.iteration + validations * self.validation) / 60


def describe_inputs(settings: Settings) -> list["Input"]:
    """The net's inputs, with numbers of one reduced training tile in place of those that extract_images.py will measure."""
    dataset, tile, about = settings.data.dataset, settings.data.train_ids[0], {}
    for modality in settings.data.modalities:
        path = dataset.seen(modality, tile)
        header, pixels = raster.inspect(path), raster.read_small(path, _SAMPLE)
        about[modality] = {"bands": header.bands, "dtype": header.dtype} | Moments.of(pixels[: header.bands]).to_dict()
    return settings.data.inputs(about)


def forecast(settings: Settings, inputs: list["Input"], where: "Device", niter: int, tiles: list[Raster]) -> Forecast:
    """Build and begin as training does, and time it. tiles: of validation. Raises UserError for what training refuses."""
    from nets.net import check_windows, count_parameters
    from tools.compute.distributed import ALONE
    from tools.inference.window_size import windows_for
    from tools.labels.class_weights import class_weights
    from tools.solver.losses import Loss
    from tools.training import run_setup
    from tools.training.validation import check_patience

    training, classes = settings.training, settings.classes
    count = len(classes.label_values)
    setup = run_setup.Setup(
        settings.net, training, classes, settings.data.SEED, settings.sample_size, inputs, where, ALONE, False
    )
    weights = class_weights(training.CLASS_WEIGHTS, [np.arange(count)], count, classes.ignored)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        trainer = run_setup.fresh(setup, Loss(training.LOSS, weights), None)
    run_setup.check_frozen_norm(trainer, settings.given("FROZEN_NORM"))
    if settings.data.val_ids:
        check_windows(trainer.net, *windows_for(settings.inference, trainer.net).size)
    else:
        check_patience(training.PATIENCE)
    run_setup.check_schedule(trainer, niter, bool(settings.data.val_ids))
    iteration = time_steps(trainer, settings, inputs)
    memory = memory_in_use(where)
    validation = time_validation(trainer, settings, inputs, tiles) if tiles else 0.0
    own = sum(t.numel() * t.element_size() for t in trainer.net.state_dict().values())
    held = 3 + (training.EMA_DECAY is not None) if training.SOLVER["name"] == "adamw" else 2 + (training.EMA_DECAY is not None)
    begins = said.getvalue().strip().splitlines()
    return Forecast(count_parameters(trainer.net), iteration, validation, own * held, memory, begins[0] if begins else "")


def time_steps(trainer: "Trainer", settings: Settings, inputs: list["Input"]) -> float:
    """Seconds of one iteration: the median of a few, on as many patches as the config says."""
    import torch

    size, count = settings.sample_size, settings.training.patches_per_iteration
    draw = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (count, i.channels, *size), generator=draw, dtype=torch.uint8) for i in inputs]
    labels = torch.randint(0, len(settings.classes.label_values), (count, *size), generator=draw, dtype=torch.uint8)
    seconds, begun = [], time.perf_counter()
    for _ in range(1 + _STEPS):
        start = time.perf_counter()
        trainer.step(images, labels)
        _wait(trainer.device)
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() - begun > _SECONDS:
            break
    return statistics.median(seconds[1:] or seconds)


def time_validation(trainer: "Trainer", settings: Settings, inputs: list["Input"], tiles: list[Raster]) -> float:
    """Seconds of labelling all validation tiles, from one timed window."""
    import torch

    from tools.inference.window_size import windows_for

    chosen = windows_for(settings.inference, trainer.net)
    places = [(a, *chosen.on((a.height, a.width))) for a in tiles]
    pixels_of_all = sum(size[0] * size[1] for a, size, step in places for _ in sliding(a.height, a.width, size, step))
    trainer.net.eval()
    pixels = [trainer.device.send(torch.zeros(1, i.channels, *chosen.size)) for i in inputs]
    with torch.inference_mode(), trainer.device.autocast():
        start = time.perf_counter()
        trainer.net(*pixels)
        _wait(trainer.device)
    return pixels_of_all / (chosen.size[0] * chosen.size[1]) * (time.perf_counter() - start)


def _wait(where: "Device") -> None:
    """Until the device has done what it was told."""
    if where.device.type == "cuda":
        import torch

        torch.cuda.synchronize(where.device)


def memory_in_use(where: "Device") -> int | None:
    """Bytes that the steps took at most: of the GPU, or of this process."""
    if where.device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(where.device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_there(where: "Device") -> int | None:
    """Bytes of memory that the device has; None where nobody says it."""
    if where.device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(where.device).total_memory
    names: Mapping[str, int] = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
