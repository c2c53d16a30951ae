"""One table of all trainings: nets, iterations, minutes, validation and test scores, and the settings that differ.

    python -m tools.runs
    python -m tools.runs data/ --csv runs.csv --plot runs.png --sort minutes

Folders are searched for the metrics.json that training.py leaves beside its snapshots; test scores are those of the maps that
inference.py made with a run's weights. Runs of one dataset are compared with each other.
"""

from pathlib import Path

from tools.base import commands
from tools.base.errors import UserError, listing, run
from tools.runs import table


def main():
    args = arguments()
    if args.plot and args.plot.suffix.lower() != ".png":
        raise UserError(f"--plot {args.plot}: the picture is a PNG, name it so.")
    existing = [file for file in (args.csv, args.plot) if file and file.exists()]
    if existing and not args.overwrite:
        raise UserError(f"{listing(existing)} exists already: choose another name, or add --overwrite.")
    runs = table.find_runs(args.folder)
    if not runs:
        raise UserError(f"{args.folder} holds no run (no metrics.json of training.py below it): train first, or name a folder.")
    rows = table.rows(runs, table.test_scores(args.folder), args.sort)
    print(table.as_text(rows))
    if args.csv:
        table.write_csv(args.csv, rows)
        print(f"table: {args.csv}")
    if args.plot:
        from tools.runs.curves import draw

        draw(args.plot, runs)
        print(f"validation curves: {args.plot}")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data"), metavar="FOLDER",
                        help="where the runs lie, at any depth (default: data)")  # fmt: skip
    parser.add_argument("--sort", choices=list(table.ORDERS), default="iou", help="what comes first (default: iou, the best)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table, a column for each setting that differs")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the validation curves of all runs")
    commands.add_overwrite(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
