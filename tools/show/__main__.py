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

from pathlib import Path

import numpy as np
from tqdm import tqdm

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.base.folders import whole_file
from tools.base.locks import locked
from tools.compute import options
from tools.data.augmentation import Augmentation
from tools.data.dataset import SPLITS, tile_id
from tools.settings import read_settings
from tools.show.samples import Source, Tiles, augmentation_of, count, open_folder, with_versions
from tools.show.sheet import as_text, find_warnings, sheet

_DRAWN, _AUGMENTED, _SUSPECTS = 12, 4, 24  # samples, as they are and with what is made of them; places


def main():
    args = arguments()
    check_options(args)
    if args.suspects:
        from tools.show import suspects  # with PyTorch, which pictures of patches do not need

        suspects.make(args, read_settings(args.config, commands.with_run(args)), args.count or _SUSPECTS)
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
    title = f"{source.title}: {len(chosen)} of {len(source):,} {source.kind}" + (", augmented" if augmentation else "")
    figure = sheet(samples, counts, source, title, 1 + args.augmented)
    with locked(out), whole_file(out) as temporary:
        figure.savefig(temporary, dpi=120)
    print(f"{title}\n{as_text(counts, source.palette)}")
    print("".join(f"warning: {warning}\n" for warning in find_warnings(counts, source.palette)) + f"picture: {out}")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="made by extract_images.py or create_db.py")
    parser.add_argument("--split", choices=SPLITS, default="train", help="whose patches (default: train)")
    parser.add_argument("--tiles", nargs="+", metavar="ID", help="tiles of the config instead of a folder")
    parser.add_argument(
        "--count",
        type=commands.whole_number(1),
        metavar="N",
        help=f"how many (default: {_DRAWN}, with --augmented {_AUGMENTED}, with --suspects {_SUSPECTS})",
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
    return augmentation_of(read_settings(args.config, args.set), source)


def default_out(args) -> Path:
    """Beside the folder, or here for tiles."""
    if args.tiles:
        return Path(f"tiles_{'_'.join(args.tiles[:4])}.png")
    folder, kind = args.folder.resolve(), "_augmented" if args.augmented else ""
    return folder.with_name(f"{folder.name}_{args.split}{kind}.png")


if __name__ == "__main__":
    run(main)
