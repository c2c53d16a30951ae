"""Reads config.py: every setting is known, of the right form, and used; anything else is refused, all faults at once."""

import ast
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from tools.base.errors import UserError, listing, nearest
from tools.base.sections import Section, is_size
from tools.data.dataset import tile_name
from tools.data.operations import read_recipe, sample_size
from tools.data.settings import DataSettings, PatchSettings
from tools.inference.settings import InferenceSettings
from tools.labels.settings import ClassSettings
from tools.training.recipes import LITTLE, RECIPES
from tools.training.settings import TrainingSettings
from tools.weights.settings import NetSettings

DEFAULT, CONFIG, COMMAND_LINE = "default", "config", "--set"  # where a value came from, if not from the recipe


@dataclass(frozen=True)
class Settings:
    """All settings of one config file, by section.

    origins: where each value came from, by the setting's name: the config, --set, the default, or the solver.prototxt that
    SOLVER names.
    """

    data: DataSettings
    classes: ClassSettings
    patches: PatchSettings
    net: NetSettings
    training: TrainingSettings
    inference: InferenceSettings
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self):
        threshold, classes = self.inference.THRESHOLD, len(self.classes.label_values)
        if threshold is not None and classes != 2:
            raise UserError(f"THRESHOLD = {threshold} is for two classes, label_values has {classes}: leave it out.")
        self.augmentation  # noqa: B018, it checks AUGMENTATION

    @property
    def augmentation(self) -> dict[str, dict[str, Any]]:
        """The operations of AUGMENTATION, with all their numbers."""
        return read_recipe(self.training.AUGMENTATION, self.data.modalities, self.patches.patch_size)

    @property
    def sample_size(self) -> tuple[int, int]:
        """Height and width of what the net is trained on: patches, or what the augmentation crops out of them."""
        return sample_size(self.augmentation, self.patches.patch_size)

    @property
    def snapshots(self) -> Path:
        """Where the snapshots of this run lie."""
        return self.data.folder(f"snapshots_{self.run}")

    @property
    def results(self) -> Path:
        """Where the maps of this run lie."""
        return self.data.folder(f"results_{self.run}")

    @property
    def run(self) -> str:
        """What this run is called: its net, and RUN if it has a name."""
        return f"{self.net.slug}-{self.data.RUN}" if self.data.RUN else self.net.slug

    def about(self) -> dict[str, Any]:
        """What a weights file says of the data that it is for, as JSON values."""
        return {
            "dataset": self.data.DATASET,
            "run": self.run,
            "trained_on": list(map(tile_name, self.data.train_ids)),
            "folders": {m: str(self.data.folders[m]) for m in self.data.modalities},
            **self.classes.about(),
            "patch_size": list(self.patches.patch_size),
            "resize": self.data.RESIZE,
        }

    def given(self, *names: str) -> dict[str, Any]:
        """Those of these settings that the user wrote, in the config or with --set: a recipe's are no mistake of theirs."""
        values = self.values()
        return {name: values[name] for name in names if self.origins.get(name) in (CONFIG, COMMAND_LINE)}

    def values(self) -> dict[str, Any]:
        """All settings by name."""
        return {name: value for section in SECTIONS for name, value in getattr(self, section).to_dict().items()}

    def as_text(self) -> str:
        """A table of all settings: name, value, and where it came from."""
        rows = [(name, repr(value), self.origins.get(name, DEFAULT)) for name, value in self.values().items()]
        name, origin = (max(len(row[i]) for row in rows) for i in (0, 2))
        return "\n".join(f"{row[0]:{name}}  {row[2]:{origin}}  {row[1]}" for row in rows)

    def with_effect(self) -> dict[str, Any]:
        """The settings by name whose change makes another run."""
        matters = {name for name, f in KNOWN.items() if f.metadata["effect"]}
        if self.training.VAL_EVERY is None and self.training.LR_POLICY["name"] == "plateau":
            matters.add("SNAPSHOT_EVERY")  # the rate may then fall at each snapshot
        return {name: value for name, value in self.values().items() if name in matters}


SECTIONS: dict[str, type[Section]] = {f.name: f.type for f in fields(Settings) if f.name != "origins"}
KNOWN: dict[str, Field] = {f.name: f for section in SECTIONS.values() for f in fields(section)}


def read_settings(path: str | Path, changes: Sequence[str] = ()) -> Settings:
    """Run a config file and check what it sets. Raises UserError that begins with the file's name and names all faults.

    changes: "NAME=VALUE" each, of the option --set; they take the place of the config's own lines, so that what the config
    derives from a setting follows.
    """
    changed = dict(map(_change, changes))
    given = run_config(Path(path), changed)
    faults = list(_unknown(given))
    missing = [name for name, f in KNOWN.items() if name not in given and f.default is f.default_factory is MISSING]
    if missing:
        block = f" (is there a block for DATASET = {given.get('DATASET')!r}?)" if "folders" in missing else ""
        faults.append(f"it does not set {listing(missing)}{block}.")
    if faults:
        raise UserError(f"{path}: {' '.join(faults)}")
    try:
        origins = dict.fromkeys(given, CONFIG) | dict.fromkeys(changed, COMMAND_LINE)
        if str(given.get("SOLVER")).endswith(".prototxt"):
            given, origins = _with_solver(given, origins)
        return _make(given, origins)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _with_solver(given: Mapping[str, Any], origins: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and origins, those that a Caffe solver says in place of the config's own, but not of --set."""
    from tools.solver.solver_prototxt import read_solver

    path = given["SOLVER"]
    said = {k: v for k, v in read_solver(path).settings.items() if origins.get(k) != COMMAND_LINE or k == "SOLVER"}
    return {**given, **said}, {**origins, **dict.fromkeys(said, path)}


def _unknown(given: Mapping[str, Any]) -> Iterator[str]:
    for name in given:
        if name not in KNOWN:
            yield f"there is no setting '{name}'.{nearest(name, KNOWN)}"


def _make(given: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    """Every section, then the whole; what `given` lacks comes from the recipe. Raises UserError with the faults of all."""
    made, faults = {}, []
    for name, section in SECTIONS.items():  # the data first: the recipe asks for their modalities
        try:
            made[name] = section(**{f.name: given[f.name] for f in fields(section) if f.name in given})
        except UserError as error:
            faults.append(str(error))
            continue
        if name == "data":
            recipe = given.get("RECIPE", KNOWN["RECIPE"].default)
            known = isinstance(recipe, str) and recipe in RECIPES
            own = _of_recipe(recipe, made["data"], given) if known else {}
            origins = dict.fromkeys(KNOWN, DEFAULT) | dict.fromkeys(own, f"recipe {recipe}") | origins
            given = own | given | _fitted(own, given)
    if faults:
        raise UserError(" ".join(faults))
    return Settings(**made, origins=origins)


def _of_recipe(recipe: str, data: DataSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says for these data, and for what the config gives of the net."""

    def little() -> bool:
        return "NET_OPTIONS" not in given and data.trains_on_less_than(LITTLE)

    return RECIPES[recipe](data.modalities, given.get("NET"), little)


def _fitted(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says of step and crop, held within the patches if the config has smaller ones of its own."""
    size = given.get("patch_size")
    if not is_size(size) or "patch_size" not in own:
        return {}
    fitted: dict[str, Any] = {}
    if "step_size" not in given:
        fitted["step_size"] = tuple(min(step, length) for step, length in zip(own["step_size"], size, strict=True))
    crop = own.get("AUGMENTATION", {}).get("crop")
    if "AUGMENTATION" not in given and crop and min(size) < min(crop["height"], crop["width"]):
        fitted["AUGMENTATION"] = own["AUGMENTATION"] | {"crop": {"height": min(size), "width": min(size)}}
    return fitted


def _change(text: str) -> tuple[str, Any]:
    """The name and the value of NAME=VALUE: a Python literal, or else a text as it stands."""
    name, sign, word = text.partition("=")
    if not sign:
        raise UserError(f"--set {text}: write NAME=VALUE, such as --set BATCH_SIZE=4.")
    if name not in KNOWN:
        raise UserError(f"--set {text}: there is no setting '{name}'.{nearest(name, KNOWN)}")
    try:
        return name, ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, word


class _Changes(ast.NodeTransformer):
    """Gives settings other values in the lines of a config that set them."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        for name in names:
            if name in self.values:
                value = ast.parse(repr(self.values[name]), mode="eval").body
                node.value = ast.fix_missing_locations(ast.copy_location(value, node.value))
                for inner in ast.walk(node.value):
                    ast.copy_location(inner, node)
        return node


def run_config(path: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a config file sets. Raises UserError with the file's line if it does not run to its end."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a config file with --config.")
    settings = {k: v for k, v in (_run(path, changes) | changes).items() if not k.startswith("_")}
    return {k: v for k, v in settings.items() if not isinstance(v, ModuleType) and not callable(v)}  # nor what it imports


def _run(path: Path, changes: Mapping[str, Any], below: frozenset[Path] = frozenset()) -> dict[str, Any]:
    """All names that a config file gives; those of another one that it begins with, `from config import *`, too.

    The other one runs with this one's plain values in place of its own, so that what it derives from them follows. below: the
    files that began with this one.
    """
    names = {"__file__": str(path), "__name__": "<run_path>"}
    try:
        tree = ast.parse(path.read_bytes(), str(path))
        if base := _base(tree, path):
            if base in below:
                raise UserError(f"it begins with {base.name}, which begins with it: name another file in one of them.")
            theirs = _run(base, _plain_values(tree) | changes, below | {path.resolve()})
            names |= {name: value for name, value in theirs.items() if not name.startswith("_")}
        exec(compile(_Changes(changes).visit(tree), str(path), "exec"), names)
    except (_OtherConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = getattr(error, "lineno", None) or (lines or ["?"])[-1]
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ") + "."
        if isinstance(error, SystemExit):
            what = f"it ends the script ({what[:-1]}): a config sets names, so take this line out."
        raise _OtherConfigError(f"{path}, line {line}: {what}") from None
    return names


class _OtherConfigError(UserError):
    """A fault whose file and line are told already."""


def _base(tree: ast.Module, path: Path) -> Path | None:
    """The config that a config begins with, of whose first `from NAME import *` nothing is left; None if there is none."""
    for i, node in enumerate(tree.body):
        if isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["*"] and node.module:
            file = Path(*node.module.split(".")).with_suffix(".py")
            for place in (path.parent, Path()):
                if (place / file).is_file() and (place / file).resolve() != path.resolve():
                    del tree.body[i]
                    return (place / file).resolve()
    return None


def _plain_values(tree: ast.Module) -> dict[str, Any]:
    """The values of the settings that stand in a config as they are, such as BATCH_SIZE = 4."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # it is computed, from the other config's values perhaps
    return {name: value for name, value in found.items() if name in KNOWN}
