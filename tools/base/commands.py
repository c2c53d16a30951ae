"""What the command lines of the scripts have in common."""

import argparse


def parser(doc: str) -> argparse.ArgumentParser:
    """An argument parser whose --help begins with the script's docstring: what it makes, from what, and an example."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )


def add_config(arguments: argparse.ArgumentParser) -> None:
    """The options of every script that reads a config."""
    arguments.add_argument("--config", default="config.py", metavar="FILE", help="the config file (default: config.py)")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                           help="another value of a setting, such as BATCH_SIZE=4; may be repeated")  # fmt: skip


def add_run(arguments: argparse.ArgumentParser) -> None:
    """The --run option of what belongs to one experiment."""
    arguments.add_argument("--run", metavar="NAME", help="the experiment's name in its folders, instead of the config's RUN")


def with_run(args: argparse.Namespace) -> list[str]:
    """What --set and --run change in the config, as a list of NAME=VALUE."""
    return args.set + ([] if args.run is None else [f"RUN={args.run!r}"])


def add_overwrite(arguments: argparse.ArgumentParser) -> None:
    """The --overwrite option of everything that writes a folder."""
    arguments.add_argument("--overwrite", action="store_true", help="replace what exists already, once the new is whole")


def whole_number(least: int):
    """A type for argparse: a whole number, `least` or more."""

    def number(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{word!r} must be a whole number, {least} or more")
        return value

    return number


def number(above: float):
    """A type for argparse: a number above `above`."""

    def convert(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = above
        if not above < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{word!r} must be a number above {above:g}")
        return value

    return convert
