"""Says in seconds what extraction and training would refuse, and what they will take: one page, before any work.

    python -m tools.check --config config_city.py
    python -m tools.check --config config_city.py --niter 2000

Every file is read to its end, classes are counted by split; the config's net is built with its first weights, and a few steps
on random pixels are timed. Exit code 2 if something would be refused; all of it is named. Nothing is written.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tools.base import commands
from tools.base.errors import UserError, run
from tools.check import findings
from tools.check.findings import Page, in_words
from tools.compute import options
from tools.compute.waiting import busy, choose_waiting
from tools.geo.raster import Raster
from tools.settings import Settings, read_settings

if TYPE_CHECKING:
    from tools.check.forecast import Forecast
    from tools.compute.device import Device

USUAL = 1000  # iterations that are forecast where nobody says how many


def main():
    args = arguments()
    settings = read_settings(args.config, args.set)
    choose_waiting()
    page = Page()
    origin = f", recipe {settings.training.RECIPE}"
    page.say("config", f"{args.config}: dataset {settings.data.DATASET}, net {settings.net.NET}{origin}")
    tiles = findings.look_at_tiles(page, settings)
    if tiles:
        look_at_training(page, settings, args, tiles)
    print(page)
    if page.faults:
        count = len(page.faults)
        raise UserError(f"{count} fault{'s' * (count != 1)} would end the work: {' '.join(page.faults)}")
    print(f"{'result':<10}nothing stands in the way of training")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("--niter", type=commands.whole_number(1), metavar="N", help="iterations (default: the config's NITER)")
    options.add_device(parser)
    options.add_precision(parser)
    commands.add_config(parser)
    return parser.parse_args()


def look_at_training(page: Page, settings: Settings, args, tiles: dict[str, list[Raster]]) -> None:
    """Patches, databases, the net and its steps, disk and memory."""
    from tools.check.forecast import describe_inputs, forecast
    from tools.compute import device
    from tools.training import resume, run_setup

    given = args.niter or settings.training.NITER
    niter = given or USUAL
    settings = replace(settings, training=settings.training.for_run(niter))
    data, training = settings.data, settings.training
    counts = findings.count_patches(page, settings.patches, tiles, data)
    inputs, lmdb = None, data.folder("lmdb")
    with page.collecting():
        run_setup.check_batch(training, range(counts["train"]), lmdb)
    with page.collecting():
        made = lmdb.exists()
        inputs = run_setup.check_database(data, settings.patches, settings.classes) if made else describe_inputs(settings)
    with page.collecting():
        resume.refuse_held(settings.snapshots, overwrite=False)
    if inputs is None:
        return
    with page.collecting():
        where = device.choose(args.device, args.precision)
        found = forecast(settings, inputs, where, niter, tiles["val"])
        say_net(page, settings, found, where, niter)
        types = [(header.bands, header.dtype) for header in headers(settings)]
        to_write = findings.patches_to_write(data, settings.patches, counts, findings.pixel_bytes(types))
        findings.say_disk(page, Path(data.BASE_DIR), to_write, snapshots_of(settings, niter) * found.snapshot)
    if not given:
        page.notes.append(f"no NITER in the config: give training.py --niter N; {USUAL} iterations are reckoned with here.")


def headers(settings: Settings) -> list[Raster]:
    """Of the first training tile, one for each modality."""
    from tools.geo import raster

    data = settings.data
    return [raster.inspect(data.dataset.path(modality, data.train_ids[0])) for modality in data.modalities]


def snapshots_of(settings: Settings, niter: int) -> int:
    """How many weights files a run leaves: snapshots, the last one, and the best by each of CRITERIA."""
    from tools.record.selection import CRITERIA

    training = settings.training
    count = -(-niter // training.SNAPSHOT_EVERY)
    return min(count, training.KEEP_SNAPSHOTS or count) + (len(CRITERIA) if settings.data.val_ids else 0)


def say_net(page: Page, settings: Settings, found: "Forecast", where: "Device", niter: int) -> None:
    """The net, its memory and its minutes."""
    from tools.check.forecast import memory_there

    training = settings.training
    begins = ":".join(found.begins.split(":")[:2])  # without the list of layers
    page.say("net", f"{found.parameters / 1e6:.2f} million parameters; {begins}")
    if found.memory:
        whole = memory_there(where)
        page.say("memory", f"{in_words(found.memory)} in training" + (f", {in_words(whole)} are there" if whole else ""))
    validations = niter // training.validate_every if settings.data.val_ids else 0
    minutes = found.minutes(niter, validations)
    expected = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{60 * minutes:.0f} seconds"
    slower = "; other programs are busy now, without them it is quicker" if busy() else ""
    page.say("time", f"about {expected} for {niter:,} iterations of {training.patches_per_iteration} patches"
                     f" ({found.iteration:.2g} s each) and {validations} validations, on {where}{slower}")  # fmt: skip


if __name__ == "__main__":
    run(main)
