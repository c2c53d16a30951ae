"""Makes label arrays (one byte per pixel, the class number) from colour ground truth, and colours from labels.

    python convert_gt.py data/demo/gts_for_participants/*.tif --from-color --out data/demo/gts_numpy/
    python convert_gt.py data/demo/gts_numpy/*.tif --to-color --out data/demo/gts_colour/

Classes and colours are those of the config's palette. Files keep their names and their georeference.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tools import commands, raster
from tools.errors import UserError, run
from tools.folders import whole_folder, write_details
from tools.palette import Palette
from tools.settings import read_settings


def main():
    args = arguments()
    settings = read_settings(args.config)
    palette = Palette(settings.label_values, settings.palette)
    files = input_files(args.files)
    convert = partial(to_labels, palette, args.unknown) if args.from_color else partial(to_colours, palette)
    with whole_folder(args.out, args.overwrite) as folder:
        with ProcessPoolExecutor() as pool:
            jobs = pool.map(partial(outcome, convert, folder), files)
            faults = [fault for fault in tqdm(jobs, "converting", len(files)) if fault]
        if faults:
            raise UserError(" ".join(faults))
        what = "labels" if args.from_color else "colours"
        write_details(folder, what=what, files=files, classes=palette.names, palette=palette.colours)
    print(f"{len(files)} files of {what} in {args.out}")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="GeoTIFF or PNG files, or folders of them")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from-color", action="store_true", help="colours to labels")
    way.add_argument("--to-color", action="store_true", help="labels to colours")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the converted files go")
    parser.add_argument(
        "--unknown", choices=["error", "ignore"], default="error",
        help="colours that no class has: an error (default), or not scored",
    )  # fmt: skip
    commands.add_overwrite(parser)
    commands.add_config(parser)
    return parser.parse_args()


def input_files(paths: list[Path]) -> list[Path]:
    """The rasters that the paths name, each a file or a folder; no two may have one name."""
    files = raster.find(paths)
    names = [out_name(file) for file in files]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"several of the files would be written as {', '.join(sorted(twice))}: convert them in two runs.")
    return files


def out_name(file: Path) -> str:
    """Labels must not be squeezed by JPEG, so anything but a GeoTIFF becomes a PNG."""
    return file.name if file.suffix.lower() in (".tif", ".tiff", ".png") else file.stem + ".png"


def outcome(convert, folder: Path, file: Path) -> str | None:
    """Convert one file; a mistake comes back as a sentence, so that all of them can be named together."""
    try:
        convert(folder, file)
    except UserError as error:
        return str(error) if str(error).startswith(str(file)) else f"{file}: {error}"
    return None


def to_labels(palette: Palette, unknown: str, folder: Path, file: Path) -> None:
    """Write the labels of one colour picture."""
    labels = palette.to_labels(raster.read_colours(file), unknown)
    raster.write(folder / out_name(file), labels, **raster.inspect(file).place, colours=palette.colours)


def to_colours(palette: Palette, folder: Path, file: Path) -> None:
    """Write the colours of one label array."""
    colours = palette.to_colours(raster.read_labels(file)).transpose(2, 0, 1)
    raster.write(folder / out_name(file), colours, **raster.inspect(file).place)


if __name__ == "__main__":
    run(main)
