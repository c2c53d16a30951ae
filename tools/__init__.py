"""What the scripts share.

Ctrl-C while a script still imports what it needs, and once all is done, ends it in one word; in between it is `run`
(tools/base/errors.py) that answers, after everything is tidied up. Programs that merely import our modules keep their own ways.
"""

# pathlib, and signal itself, load for so long that Ctrl-C could come meanwhile.
# ruff: noqa: PTH119, PTH120
import _signal
import os
import sys

_SCRIPTS = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_NAMES = {f"{name}.py" for name in ("convert_gt", "extract_images", "create_db", "training", "inference")}
# The script's path; "-m" while Python looks for the module that it is to run.
_IS_SCRIPT = any(
    word == "-m" or (os.path.basename(word) in _NAMES and os.path.dirname(os.path.realpath(word)) == _SCRIPTS)
    for word in sys.argv[:1]
)


def stop_at_once() -> None:
    """From now on Ctrl-C ends this script at once."""
    if _IS_SCRIPT:
        _answer(_signal.default_int_handler, _stop)


def stop_with_care() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as Python has it."""
    _answer(_stop, _signal.default_int_handler)


def _answer(before: object, now: object) -> None:
    """Change who answers Ctrl-C, unless it is somebody else, or this is no main thread."""
    try:
        if _signal.getsignal(_signal.SIGINT) is before:
            _signal.signal(_signal.SIGINT, now)
    except ValueError:
        pass


def _stop(_number: int, _frame: object) -> None:
    home, name = os.path.split(sys.argv[0])
    name = os.path.basename(home) if name == "__main__.py" else name
    os.write(2, (f"{name}: stopped.\n" if name != "-m" else "stopped.\n").encode())
    os._exit(128 + _signal.SIGINT)


stop_at_once()
