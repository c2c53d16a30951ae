"""Writes report.html into an output folder of inference.py: one page, complete in itself, that opens without a network.

    python -m tools.report data/demo_results_segnet_slim

inference.py does so at its end; this command makes the page again from what lies in the folder. It holds an overview map,
the classes' shares, scores by class and by tile with confusion matrices, how confident the net is and how rightly so, the
worst windows, and the settings. What has no ground truth has no scores.
"""

from pathlib import Path

from tools.base import commands
from tools.base.errors import run
from tools.report.page import write_report


def main():
    parser = commands.parser(__doc__)
    parser.add_argument("folder", type=Path, help="an output folder of inference.py")
    print(f"report: {write_report(parser.parse_args().folder)}")


if __name__ == "__main__":
    run(main)
