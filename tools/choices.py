"""Prints every list of choices that the config has, whole: losses, policies, solvers, augmentations, tapers ... with numbers.

python -m tools.choices
python -m tools.choices LR_POLICY AUGMENTATION
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from tools.base import commands
from tools.base.choices import REQUIRED, numbers_of
from tools.base.errors import UserError, nearest, run


def main():
    args = arguments()
    known = choices()
    for name in args.settings:
        if name not in known:
            raise UserError(f"{name} has no list of choices.{nearest(name, known)} There is {', '.join(known)}.")
    for name in args.settings or known:
        print(f"{name}:")
        for line in known[name]:
            print(f"  {line}")


def arguments():
    parser = commands.parser(__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="settings to list; all of them if none is named")
    return parser.parse_args()


def choices() -> dict[str, list[str]]:
    """The choices of each setting, a line each."""
    from tools.data.inputs import NORMALISATIONS
    from tools.data.operations import OPERATIONS
    from tools.geo.windows import TAPERS
    from tools.labels.class_weights import CLASS_WEIGHTS
    from tools.solver.losses import LOSSES
    from tools.solver.schedules import POLICIES, numbers_of_policy
    from tools.solver.solver import SOLVERS
    from tools.training.recipes import RECIPES

    return {
        "RECIPE": list(_functions(RECIPES)),
        "LOSS": [_line(name, numbers_of(loss, without=3), loss) for name, loss in LOSSES.items()],
        "LR_POLICY": [_line(name, numbers_of_policy(name), POLICIES[name]) for name in POLICIES],
        "SOLVER": [_line(name, {**numbers, "weight_decay": REQUIRED}, make) for name, (numbers, make) in SOLVERS.items()],
        "CLASS_WEIGHTS": ["none  every class counts alike", *_functions({n: f for n, f in CLASS_WEIGHTS.items() if f})],
        "AUGMENTATION": [_line(name, numbers) for name, numbers in OPERATIONS.items()],
        "NORMALISATION": list(NORMALISATIONS),
        "BLEND": list(TAPERS),
    }


def _functions(found: Mapping[str, Any]) -> Iterator[str]:
    return (_line(name, {}, function) for name, function in found.items())


def _line(name: str, numbers: Mapping[str, Any], documented: Any = None) -> str:
    """A choice, its numbers with their defaults, and the first sentence of what is written of it."""
    given = ", ".join(key if default is REQUIRED else f"{key}={default}" for key, default in numbers.items())
    about = (inspect.getdoc(documented) or "").split("\n")[0] if documented else ""
    return "  ".join(part for part in (f"{name}({given})" if given else name, about) if part)


if __name__ == "__main__":
    run(main)
