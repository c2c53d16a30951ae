"""Draws patches or tiles beside their labels, with the classes' colours and shares, from LMDBs, patch folders and tiles.

    python -m tools.show data/demo_lmdb --split train --count 12 --out patches.png
    python -m tools.show data/demo_patches
    python -m tools.show data/demo_lmdb --augmented --config config.py
    python -m tools.show --config config.py --tiles 1 3
    python -m tools.show --suspects                       # labels that look wrong to the config's trained net, as a page

All modalities are shown, by their first three bands in the file's order. Shares are those of all patches of the split, not
only of the drawn ones. Classes that are absent, or rarer than one labelled pixel in 10,000, are warned of. With --augmented,
each patch is followed by some of the samples that the config's AUGMENTATION makes of it. With --suspects, the training tiles
are labelled by the best weights of the config's run; suspects.html beside these shows the places where net and label disagree
most and most surely, suspects.csv lists all of them. Fairer is `--weights FOLDER` of a cross-validation (training.py --folds):
each tile is then judged by a net that has not seen its labels.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tqdm import tqdm

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import require, whole_file
from tools.base.locks import locked
from tools.compute import options
from tools.data.augmentation import Augmentation, bands_of
from tools.data.dataset import SPLITS, tile_id
from tools.labels import pictures
from tools.labels.palette import Palette
from tools.settings import read_settings
from tools.show.samples import Sample, Source, Tiles, count, open_folder

RARE = 1 / 10_000  # of the labelled pixels
_DRAWN, _AUGMENTED = 12, 4  # samples, as they are and with what is made of them
_UNKNOWN = (160, 160, 160)  # a label that has no colour
_WARNED = "#b30000"


def main():
    args = arguments()
    check_options(args)
    if args.suspects:
        from tools.show import suspects  # with PyTorch, which pictures of patches do not need

        suspects.make(args, read_settings(args.config, commands.with_run(args)))
    else:
        draw(args)


def draw(args) -> None:
    """The picture of patches or tiles."""
    source = open_source(args)
    augmentation = open_augmentation(args, source) if args.augmented else None
    out = args.out or default_out(args)
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the picture is a PNG, name it so.")
    if out.exists() and not args.overwrite:
        raise UserError(f"{out} exists already: choose another name with --out, or add --overwrite.")
    counts = count(tqdm(source.labels(), "counting labels", leave=False, delay=1))
    seed = 1 if args.seed is None else args.seed
    count_drawn = args.count or (_AUGMENTED if augmentation else _DRAWN)
    chosen = sorted(map(int, np.random.default_rng(seed).permutation(len(source))[:count_drawn]))
    samples = with_versions(source, chosen, augmentation, args.augmented) if augmentation else [source[i] for i in chosen]
    warnings = find_warnings(counts, source.palette)
    title = f"{source.title}: {len(chosen)} of {len(source):,} {source.kind}" + (", augmented" if augmentation else "")
    sheet(out, samples, counts, warnings, source, title, 1 + args.augmented)
    print(f"{title}\n{as_text(counts, source.palette)}")
    print("".join(f"warning: {warning}\n" for warning in warnings) + f"picture: {out}")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="made by extract_images.py or create_db.py")
    parser.add_argument("--split", choices=SPLITS, default="train", help="whose patches (default: train)")
    parser.add_argument("--tiles", nargs="+", metavar="ID", help="tiles of the config instead of a folder")
    parser.add_argument(
        "--count",
        type=commands.whole_number(1),
        metavar="N",
        help=f"how many (default: {_DRAWN}, with --augmented {_AUGMENTED}, with --suspects 24)",
    )
    parser.add_argument(
        "--augmented",
        type=commands.whole_number(1),
        nargs="?",
        const=3,
        default=0,
        metavar="N",
        help="beside each patch, N samples that the config's AUGMENTATION makes of it (default: 3)",
    )
    parser.add_argument("--seed", type=commands.whole_number(0), metavar="N", help="which ones (default: 1)")
    parser.add_argument("--suspects", action="store_true", help="a page of labels that look wrong, by a trained net")
    parser.add_argument("--weights", type=Path, metavar="FILE",
                        help="of that net: best, newest, a file, a run's folder, or its folds' (default: best)")  # fmt: skip
    commands.add_run(parser)
    options.add_device(parser)
    options.add_precision(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="the picture (default: FOLDER_SPLIT.png beside the folder) or page (suspects.html beside the weights)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the picture or page if it exists")
    commands.add_config(parser)
    return parser.parse_args()


def check_options(args) -> None:
    """Raise UserError if options are given that what is asked for has no use for."""
    others = {"a folder": args.folder, "--augmented": args.augmented, "--seed": args.seed is not None}
    own = {"--weights": args.weights, "--run": args.run, "--device": args.device, "--precision": args.precision != "auto"}
    given = [name for name, value in (others if args.suspects else own).items() if value]
    if given and args.suspects:
        raise UserError(f"--suspects looks at the tiles of the config: leave out {listing(given)}.")
    if given:
        raise UserError(f"{listing(given)} {'are' if len(given) > 1 else 'is'} for --suspects: leave out, or add that.")


def open_source(args) -> Source:
    """The folder or the tiles that the command line names."""
    if bool(args.folder) == bool(args.tiles):
        raise UserError("name either a folder of patches or LMDBs, or tiles of the config with --tiles.")
    if args.folder:
        return open_folder(args.folder, args.split)
    settings = read_settings(args.config, args.set)
    known = settings.data.all_ids
    return Tiles(settings.data, settings.classes.colours, [tile_id(word, known) for word in args.tiles])


def open_augmentation(args, source: Source) -> Augmentation:
    """What the config's AUGMENTATION does to the patches of the folder."""
    if args.tiles:
        raise UserError("--augmented is for patches, as training has them: name a folder of patches or LMDBs, not --tiles.")
    settings = read_settings(args.config, args.set)
    if not settings.training.AUGMENTATION:
        raise UserError(f"{args.config}: AUGMENTATION is {{}}, there is nothing to draw: name operations, such as 'flip'.")
    require(
        source.details, args.folder, "extract_images.py", dataset=settings.data.DATASET,
        patch_size=list(settings.patches.patch_size), classes=list(settings.classes.label_values),
    )  # fmt: skip
    missing = [m for m in settings.data.modalities if m not in source.modalities]
    if missing:
        raise UserError(f"{args.folder} has no {listing(missing)}, which INPUTS of {args.config} names: make it again.")
    about = source.details["modalities"]
    inputs = settings.data.inputs(about)
    return Augmentation(settings.augmentation, bands_of(about, inputs), source.palette.no_label, settings.data.SEED)


def with_versions(source: Source, chosen: Iterable[int], augmentation: Augmentation, versions: int) -> list[Sample]:
    """Each of the chosen samples, followed by so many that the augmentation makes of it."""
    samples = []
    for i in chosen:
        samples.append(source[i])
        for version in range(versions):
            images, labels = augmentation(lambda n: source[n][1:], len(source), i, len(samples))
            samples.append(Sample(f"augmented, {version + 1}", images, labels))
    return samples


def default_out(args) -> Path:
    """Beside the folder, or here for tiles."""
    if args.tiles:
        return Path(f"tiles_{'_'.join(args.tiles[:4])}.png")
    folder, kind = args.folder.resolve(), "_augmented" if args.augmented else ""
    return folder.with_name(f"{folder.name}_{args.split}{kind}.png")


# ----------------------------------------------------------------------------------------------------------------- shares


def shares(counts: np.ndarray, palette: Palette) -> tuple[np.ndarray, float]:
    """(of each class among the labelled pixels, of pixels without a label among all), 0 to 1, from the counts per label."""
    labelled = counts[: palette.classes]
    return labelled / max(labelled.sum(), 1), 1 - labelled.sum() / max(counts.sum(), 1)


def find_warnings(counts: np.ndarray, palette: Palette) -> list[str]:
    """What a person should know of the classes before training."""
    labelled, total = counts[: palette.classes], counts[: palette.classes].sum()
    if not total:
        return ["no pixel has a label."]
    absent = [name for name, n in zip(palette.names, labelled, strict=True) if not n]
    found = [f"no pixel is {name}: a net cannot learn it." for name in absent]
    for name, n in zip(palette.names, labelled, strict=True):
        if 0 < n < RARE * total:
            found.append(f"only {n:,} of {total:,} labelled pixels are {name}, fewer than one in 10,000.")
    return found


def percent(share: float) -> str:
    """33.1 %, 0.0042 %."""
    return f"{100 * share:.{1 if share >= 0.001 or not share else 4}f} %"


def as_text(counts: np.ndarray, palette: Palette) -> str:
    """The shares, a line per class."""
    by_class, unlabelled = shares(counts, palette)
    width = max(map(len, [*palette.names, "not scored"]))
    lines = [f"  {name:<{width}}  {percent(s):>9}" for name, s in zip(palette.names, by_class, strict=True)]
    return "\n".join([*lines, f"  {'not scored':<{width}}  {percent(unlabelled):>9} of all pixels"])


# ------------------------------------------------------------------------------------------------------------ the picture

_GAP, _BETWEEN, _NAME, _TOP, _SIDE, _MARGIN = 0.05, 0.22, 0.2, 0.75, 3.3, 0.2  # inches
_FEW, _LARGE, _SMALL = 4, 2.6, 1.5  # up to so many samples have large panels; inches of both
_SHAPE = 1.4  # width to height that all samples together should have


def sheet(
    out: Path,
    samples: Sequence[Sample],
    counts: np.ndarray,
    warnings: list[str],
    source: Source,
    title: str,
    together: int = 1,
) -> None:
    """Draw samples, modalities and labels side by side, in columns; to their right the classes with their shares.

    together: so many samples, one after the other, stand in one row.
    """
    panels, panel = len(source.modalities) + 1, _LARGE if len(samples) <= _FEW else _SMALL
    card = panels * panel + (panels - 1) * _GAP
    tall = panel * max(np.clip(s.labels.shape[0] / s.labels.shape[1], 0.3, 3) for s in samples)
    columns = together * _columns(len(samples) // together, together * card / (tall + _NAME))
    rows = -(-len(samples) // columns)
    lines = [line for warning in warnings for line in textwrap.wrap(warning, 46)]
    side = 0.3 * (source.palette.classes + 3) + 0.17 * len(lines)
    figure = Figure(
        figsize=(columns * (card + _BETWEEN) + _SIDE + 2 * _MARGIN, _TOP + max(rows * (tall + _NAME), side) + _MARGIN)
    )
    width, height = figure.get_size_inches()
    figure.text(_MARGIN / width, 1 - 0.3 / height, title, fontsize=12, va="center", weight="bold")
    for i, sample in enumerate(samples):
        corner = _MARGIN + i % columns * (card + _BETWEEN), height - _TOP - i // columns * (tall + _NAME)
        _card(figure, sample, source, corner, (panel, tall), heading=i < columns)
    _side(figure, counts, lines, source.palette, width - _SIDE - _MARGIN / 2)
    with locked(out), whole_file(out) as temporary:
        figure.savefig(temporary, dpi=120)


def _columns(samples: int, shape: float) -> int:
    """How many columns bring samples of this width to height closest to the shape that all should have."""
    return min(range(1, samples + 1), key=lambda n: abs(np.log(n * shape / -(-samples // n) / _SHAPE)))


def _card(figure, sample: Sample, source: Source, corner: tuple, size: tuple, heading: bool) -> None:
    """One sample: its modalities, its labels, and its name below. corner: left and top; size: of a panel; all in inches."""
    (width, height), (left, top), (panel, tall) = figure.get_size_inches(), corner, size
    shown = {_heading(m, image): picture(image, source.ranges.get(m)) for m, image in sample.images.items()}
    shown["labels"] = label_picture(sample.labels, source.palette)
    for i, (name, image) in enumerate(shown.items()):
        x = left + i * (panel + _GAP)
        axis = figure.add_axes((x / width, (top - tall) / height, panel / width, tall / height), anchor="N")
        axis.imshow(image, interpolation="nearest" if max(image.shape[:2]) < 300 else "antialiased")
        axis.set(xticks=[], yticks=[])
        if heading:
            axis.set_title(name, fontsize=9, pad=3)
    figure.text(left / width, (top - tall - 0.09) / height, sample.name, fontsize=6.5, va="center", color="#525252")


def _heading(modality: str, image: np.ndarray) -> str:
    return modality if len(image) in (1, 3) else f"{modality}, bands 1-{min(3, len(image))} of {len(image)}"


def _side(figure, counts: np.ndarray, lines: list[str], palette: Palette, left: float) -> None:
    """Colours, names and shares of the classes from top to bottom, and the lines of the warnings. left: inches."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((left / width, 0, _SIDE / width, 1))
    axis.set(xlim=(0, _SIDE), ylim=(0, height))
    axis.axis("off")
    by_class, unlabelled = shares(counts, palette)
    warned = {name for name, n in zip(palette.names, counts, strict=False) if n < RARE * counts[: palette.classes].sum()}
    y = height - _TOP
    axis.text(0, y + 0.08, "share of the labelled pixels", fontsize=9, va="bottom")
    for label, (name, share) in enumerate(zip(palette.names, by_class, strict=True)):
        y -= 0.3
        _class(axis, y, palette.colours[label], name, share, share / max(by_class.max(), 1e-9), name in warned)
    y -= 0.36
    _class(axis, y, palette.colours.get(palette.no_label, (0, 0, 0)), "not scored, of all pixels", unlabelled, 0, False)
    axis.text(0, y - 0.15, "\n".join(lines), fontsize=8, va="top", color=_WARNED, linespacing=1.3)


def _class(axis, y: float, colour: Sequence[int], name: str, share: float, bar: float, warned: bool) -> None:
    """A line of the legend: swatch, name, bar (0 to 1 of its room) and share."""
    face, ink = np.array(colour) / 255, _WARNED if warned else "black"
    axis.add_patch(Rectangle((0, y), 0.2, 0.2, facecolor=face, edgecolor="#636363", linewidth=0.7))
    axis.text(0.28, y + 0.1, name, fontsize=9, va="center", color=ink)
    if bar:
        axis.add_patch(Rectangle((1.75, y + 0.03), 0.85 * bar, 0.14, facecolor=face, edgecolor="#636363", linewidth=0.7))
    axis.text(_SIDE - 0.05, y + 0.1, percent(share), fontsize=9, va="center", ha="right", color=ink)


def picture(image: np.ndarray, limits: tuple[list[float], list[float]] | None) -> np.ndarray:
    """h x w x 3 uint8 of bands x h x w: bytes as they are, other numbers stretched, alike for all where `limits` are known.

    limits: per band, what is drawn black and what white.
    """
    if image.dtype == np.uint8 or limits is None:
        return pictures.as_picture(image)
    low, high = (np.array(values, float)[:, None, None] for values in limits)
    stretched = np.clip((np.where(np.isfinite(image), image, low) - low) / np.maximum(high - low, 1e-6), 0, 1)
    return pictures.as_picture((255 * stretched).astype(np.uint8))


def label_picture(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """h x w x 3 uint8: the palette's colours; black where there is no label, grey where the palette does not know it."""
    table = np.full((256, 3), _UNKNOWN, np.uint8)
    table[palette.no_label] = 0
    for label, colour in palette.colours.items():
        table[label] = colour
    return table[labels]


if __name__ == "__main__":
    run(main)
