"""Reads config.py: every setting is known, of the right form, and used; anything else is refused in one sentence."""

import re
import runpy
import traceback
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from tools.base.errors import UserError, listing, nearest
from tools.data.augmentation import read_recipe, sample_size
from tools.data.dataset import SPLITS, Dataset, tile_name
from tools.data.inputs import NORMALISATIONS, Part, find_parts
from tools.geo.windows import step_in_pixels
from tools.labels.class_mapping import Legend, label_of
from tools.labels.class_weights import CLASS_WEIGHTS
from tools.labels.palette import Palette


@dataclass(frozen=True)
class Settings:
    """The settings of one config file, by the names that they have there. config.py says what each one is for."""

    DATASET: str
    BASE_DIR: str
    DATASET_DIR: str
    FOLDER_SUFFIX: str
    folders: Mapping[str, str]
    train_ids: list
    val_ids: list
    test_ids: list
    label_values: list
    palette: Mapping[int, tuple]
    IGNORE_LABEL: int | list | None
    bands: Mapping[str, list]
    MEAN_PIXEL: Mapping[str, tuple | None]
    NORMALISATION: Mapping[str, str]
    INPUTS: Mapping[str, list]
    patch_size: tuple
    step_size: tuple
    ROTATIONS: list
    FLIPS: list
    TILE_MEMORY_MB: int
    BGR: bool
    NET: str
    NET_OPTIONS: Mapping[str, Any]
    INIT_MODEL: str | None
    BATCH_SIZE: int
    BASE_LR: float
    LR_POLICY: Mapping[str, Any]
    SOLVER: Mapping[str, Any]
    LOSS: str
    CLASS_WEIGHTS: str
    MULTIPLIERS: Mapping[str, Mapping[str, float]]
    FREEZE_ITERATIONS: int
    GRADIENT_CLIP: float | None
    ITER_SIZE: int
    EMA_DECAY: float | None
    SNAPSHOT_EVERY: int
    SEED: int
    WORKERS: int | None
    test_patch_size: tuple
    test_step_size: tuple | float
    BLEND: str
    TEST_BATCH_SIZE: int | None
    SOURCE_CLASSES: Mapping[str, tuple | int] | None = None
    CLASS_MAPPING: Mapping[str, str | None] | None = None
    LABEL_ATTRIBUTE: str | None = None
    LABEL_BACKGROUND: str | None = None
    THRESHOLD: float | None = None
    SYNC_BATCH_NORM: bool = False
    AUGMENTATION: Mapping[str, Mapping] = field(default_factory=dict)
    MEMORY_MB: int = 256
    VAL_EVERY: int | None = None
    PATIENCE: int | None = None
    KEEP_SNAPSHOTS: int | None = None

    def __post_init__(self):
        for name, (rule, wish) in RULES.items():
            value = getattr(self, name)
            if not rule(value):
                raise UserError(f"{name} = {value!r}: it must be {wish}.")
        for size, step in (("patch_size", "step_size"), ("test_patch_size", "test_step_size")):
            wide = getattr(self, size)
            if any(a < b for a, b in zip(wide, step_in_pixels(getattr(self, step), wide), strict=True)):
                raise UserError(f"{step} = {getattr(self, step)} is wider than {size} = {wide}: pixels would be lost.")
        self._check_splits()
        self._check_modalities()
        self._check_classes()
        self.recipe  # noqa: B018, it checks AUGMENTATION

    def _check_splits(self) -> None:
        seen: dict[str, str] = {}
        for split in SPLITS:
            for tile in getattr(self, f"{split}_ids"):
                name = tile_name(tile)
                if name in seen:
                    raise UserError(f"tile {name} stands in {seen[name]}_ids and in {split}_ids: each tile has one place.")
                seen[name] = split

    def _check_modalities(self) -> None:
        if "labels" not in self.folders:
            raise UserError("folders has no 'labels': say where the label arrays of the tiles are.")
        dataset = Dataset(self.DATASET_DIR, self.folders)
        for modality in self.folders:
            for tile in [*self.train_ids, *self.val_ids, *self.test_ids]:
                dataset.given(modality, tile)  # raises where the pattern does not fit the id
        images = [name for name in self.folders if not name.startswith("labels")]
        for setting in ("MEAN_PIXEL", "bands", "NORMALISATION"):
            for modality in getattr(self, setting):
                if modality not in images:
                    raise UserError(
                        f"{setting} names the modality '{modality}', which folders does not have.{nearest(modality, images)}"
                        f" It has {listing(images)}."
                    )
        for name, words in self.INPUTS.items():
            try:
                find_parts(words, images, self.bands)
            except UserError as error:
                raise UserError(f"INPUTS['{name}']: {error}") from None

    def _check_classes(self) -> None:
        legend, classes = self.legend, len(self.label_values)
        if self.LABEL_BACKGROUND is not None:
            try:
                label_of(self.LABEL_BACKGROUND, legend)
            except UserError as error:
                raise UserError(f"LABEL_BACKGROUND: {error}") from None
        if self.THRESHOLD is not None and classes != 2:
            raise UserError(f"THRESHOLD = {self.THRESHOLD} is for two classes, label_values has {classes}: leave it out.")
        for label in self.ignored:
            if label not in range(classes):
                raise UserError(f"IGNORE_LABEL = {label}: there is no such class, label_values has 0 to {classes - 1}.")

    @property
    def legend(self) -> Legend:
        """What the ground truth's own colours, numbers and names are in our labels."""
        return Legend(self.colours, self.SOURCE_CLASSES, self.CLASS_MAPPING)

    @property
    def colours(self) -> Palette:
        """The classes and their colours."""
        return Palette(self.label_values, self.palette)

    @property
    def ignored(self) -> list[int]:
        """Classes that give no loss and are left out of the second mean."""
        given = [] if self.IGNORE_LABEL is None else self.IGNORE_LABEL
        return [given] if isinstance(given, int) else list(given)

    @property
    def parts(self) -> dict[str, list[Part]]:
        """The modalities, and which of their bands, that make up each input."""
        images = [name for name in self.folders if not name.startswith("labels")]
        return {name: find_parts(words, images, self.bands) for name, words in self.INPUTS.items()}

    @property
    def modalities(self) -> list[str]:
        """The modalities that the inputs are made of, each once, in the order in which the inputs name them."""
        return list(dict.fromkeys(modality for parts in self.parts.values() for modality, _ in parts))

    @property
    def normalisation(self) -> dict[str, str]:
        """How each modality is normalised; "mean" where the config does not say."""
        return {m: self.NORMALISATION.get(m, "mean") for m in self.modalities}

    @property
    def recipe(self) -> dict[str, dict[str, Any]]:
        """The operations of the augmentation, with all their numbers."""
        return read_recipe(self.AUGMENTATION, self.modalities, self.patch_size)

    @property
    def patches_per_iteration(self) -> int:
        """How many patches the net learns from before its weights change."""
        return self.BATCH_SIZE * self.ITER_SIZE

    @property
    def sample_size(self) -> tuple[int, int]:
        """Height and width of what the net is trained on: patches, or what the augmentation crops out of them."""
        return sample_size(self.recipe, self.patch_size)

    def about(self) -> dict[str, Any]:
        """What a weights file says of the data that it is for, as JSON values."""
        return {
            "dataset": self.DATASET,
            "classes": list(self.label_values),
            "palette": {str(label): list(colour) for label, colour in self.palette.items()},
            "ignored": self.ignored,
            "patch_size": list(self.patch_size),
        }

    @property
    def snapshots(self) -> Path:
        """Where the snapshots of this net on this dataset lie."""
        name = Path(self.NET).stem if self.NET.endswith(".prototxt") else self.NET
        return self.folder("snapshots_" + re.sub(r"[^\w.-]+", "_", name))

    def folder(self, kind: str) -> Path:
        """Where patches, databases, snapshots or results of this dataset lie."""
        return Path(self.BASE_DIR) / f"{self.DATASET}_{kind}{self.FOLDER_SUFFIX}"


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least


def _number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < float("inf")


def _size(v: Any) -> bool:
    return isinstance(v, list | tuple) and len(v) == 2 and all(map(_whole(1), v))


def _sequence(v: Any) -> bool:
    return isinstance(v, list | tuple)


def _some_of(v: Any, choices: tuple) -> bool:
    return _sequence(v) and all(one in choices for one in v) and len(set(v)) == len(v) > 0


def _text(v: Any) -> bool:
    return isinstance(v, str) and bool(v)


def _texts(v: Any) -> bool:
    return isinstance(v, list | tuple) and bool(v) and all(map(_text, v))


def _ids(v: Any) -> bool:
    def one(i: Any) -> bool:
        return isinstance(i, int | str) or (isinstance(i, tuple) and bool(i) and all(isinstance(n, int | str) for n in i))

    return isinstance(v, list | tuple) and all(map(one, v))


def _pixel(v: Any) -> bool:
    return v is None or (isinstance(v, list | tuple) and all(isinstance(n, int | float) for n in v))


def _mapping(value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, Mapping) and bool(v) and all(map(_text, v)) and all(map(value, v.values()))


def _any_mapping(value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, Mapping) and all(map(_text, v)) and all(map(value, v.values()))


def _colour(v: Any) -> bool:
    return _sequence(v) and len(v) == 3 and all(map(_whole(0), v)) and max(v) <= 255


def _files(v: Any) -> bool:
    return isinstance(v, Mapping) and bool(v) and all(isinstance(k, str | int) for k in v) and all(map(_text, v.values()))


def _class_number(v: Any) -> bool:
    return _whole(-(1 << 15))(v) and v < 1 << 16


_SIZE_WISH = "two whole numbers of pixels, height and width"
_IDS_WISH = "a list of tile ids: numbers, names, or pairs such as (2, 10)"
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {  # setting -> (is it of the right form?, the right form in words)
    "DATASET": (_text, "the name of a dataset"),
    "BASE_DIR": (_text, "a folder"),
    "DATASET_DIR": (_text, "a folder"),
    "FOLDER_SUFFIX": (lambda v: isinstance(v, str) and "/" not in v, "text without a slash, or ''"),
    "folders": (_mapping(lambda v: _text(v) or _files(v)),
                "modalities with the pattern of their files, such as {'irrg': 'top/area{}.tif'}"),
    "train_ids": (lambda v: _ids(v) and bool(v), _IDS_WISH),
    "val_ids": (_ids, _IDS_WISH),
    "test_ids": (_ids, _IDS_WISH),
    "label_values": (lambda v: _texts(v) and len(v) > 1, "a list of two class names or more"),
    "palette": (lambda v: isinstance(v, Mapping) and all(map(_whole(0), v)) and all(map(_sequence, v.values())),
                "colours by label, {0: (255, 255, 255), ...}"),
    "IGNORE_LABEL": (lambda v: v is None or _whole(0)(v) or (isinstance(v, list | tuple) and all(map(_whole(0), v))),
                     "a class number, a list of them, or None"),
    "MEAN_PIXEL": (lambda v: isinstance(v, Mapping) and all(map(_pixel, v.values())),
                   "a number per band by modality, or None to compute it, such as {'irrg': None}"),
    "bands": (_any_mapping(_texts), "names of the bands by modality, such as {'composite': ['ndvi', 'dsm', 'ndsm']}, or {}"),
    "NORMALISATION": (_any_mapping(lambda v: v in NORMALISATIONS), f"one of {', '.join(NORMALISATIONS)} by modality, or {{}}"),
    "INPUTS": (_mapping(_texts), "inputs with lists of modalities or bands, such as {'irrg': ['irrg']}"),
    "patch_size": (_size, _SIZE_WISH),
    "step_size": (_size, _SIZE_WISH),
    "ROTATIONS": (lambda v: _some_of(v, (0, 90, 180, 270)),
                  "a list out of 0, 90, 180 and 270 degrees"),
    "FLIPS": (lambda v: _some_of(v, (False, True)),
              "[False], or [False, True] to add mirror images"),
    "TILE_MEMORY_MB": (_whole(1), "a whole number of megabytes, 1 or more"),
    "BGR": (lambda v: isinstance(v, bool), "True or False"),
    "NET": (_text, "the name of a net"),
    "NET_OPTIONS": (_any_mapping(lambda v: True), "arguments of the net's function by name, or {}"),
    "INIT_MODEL": (lambda v: v is None or _text(v), "the name or the file of initial weights, or None"),
    "BATCH_SIZE": (_whole(1), "a whole number of patches, 1 or more"),
    "BASE_LR": (lambda v: isinstance(v, int | float) and 0 < v < float("inf"), "a number above 0"),
    "LR_POLICY": (lambda v: isinstance(v, Mapping) and "name" in v, "a policy with its numbers, such as {'name': 'fixed'}"),
    "SOLVER": (lambda v: isinstance(v, Mapping) and "name" in v, "a solver with its numbers, such as {'name': 'sgd', ...}"),
    "LOSS": (_text, "losses and their factors, such as 'ce + 0.5 dice'"),
    "CLASS_WEIGHTS": (lambda v: _text(v) and v in CLASS_WEIGHTS, f"one of {', '.join(CLASS_WEIGHTS)}"),
    "MULTIPLIERS": (_any_mapping(_mapping(_number)), "numbers by layer, such as {'conv1_*': {'lr': 0.1, 'decay': 0}}, or {}"),
    "FREEZE_ITERATIONS": (_whole(0), "a whole number of iterations, 0 or more"),
    "GRADIENT_CLIP": (lambda v: v is None or (_number(v) and v > 0), "a norm above 0, or None"),
    "ITER_SIZE": (_whole(1), "a whole number of batches, 1 or more"),
    "EMA_DECAY": (lambda v: v is None or (_number(v) and 0 < v < 1), "a number between 0 and 1, such as 0.999, or None"),
    "SNAPSHOT_EVERY": (_whole(1), "a whole number of iterations, 1 or more"),
    "VAL_EVERY": (lambda v: v is None or _whole(1)(v), "a whole number of iterations, 1 or more, or None: at each snapshot"),
    "PATIENCE": (lambda v: v is None or _whole(1)(v), "a whole number of validations, 1 or more, or None: never stop early"),
    "KEEP_SNAPSHOTS": (lambda v: v is None or _whole(1)(v), "a whole number of snapshots, 1 or more, or None: keep all"),
    "SEED": (_whole(0), "a whole number, 0 or more"),
    "SYNC_BATCH_NORM": (lambda v: isinstance(v, bool), "True or False"),
    "WORKERS": (lambda v: v is None or _whole(0)(v), "a whole number of processes, 0 or more, or None"),
    "test_patch_size": (_size, _SIZE_WISH),
    "test_step_size": (lambda v: _size(v) or (isinstance(v, float) and 0 < v <= 1),
                       f"{_SIZE_WISH}, or a share of test_patch_size such as 0.5"),
    "BLEND": (lambda v: v in ("flat", "linear", "cosine", "gaussian"), "'flat', 'linear', 'cosine' or 'gaussian'"),
    "TEST_BATCH_SIZE": (lambda v: v is None or _whole(1)(v), "a whole number of windows, 1 or more, or None"),
    "SOURCE_CLASSES": (lambda v: v is None or _mapping(_colour)(v) or _mapping(_class_number)(v),
                       "classes with their colours, {'road': (255, 255, 255), ...}, or all with their numbers, or None"),
    "CLASS_MAPPING": (lambda v: v is None or _mapping(lambda name: name is None or _text(name))(v),
                      "{class of the ground truth: class of label_values, or None to drop it}, or None"),
    "LABEL_ATTRIBUTE": (lambda v: v is None or _text(v), "the attribute of vector labels that names the class, or None"),
    "LABEL_BACKGROUND": (lambda v: v is None or _text(v), "the class of pixels that no polygon covers, or None: not scored"),
    "MEMORY_MB": (_whole(1), "a whole number of megabytes, 1 or more"),
    "THRESHOLD": (lambda v: v is None or (isinstance(v, float) and 0 < v < 1), "a probability between 0 and 1, or None"),
    "AUGMENTATION": (_any_mapping(lambda v: isinstance(v, Mapping)),
                     "operations with their numbers, such as {'flip': {}, 'rotate': {'degrees': 30}}, or {}"),
}  # fmt: skip


def read_settings(path: str | Path) -> Settings:
    """Run a config file and check what it sets. Raises UserError in one sentence that begins with the file's name."""
    given = _run(Path(path))
    known = {f.name: f for f in fields(Settings)}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UserError(f"{path}: there is no setting '{unknown[0]}'.{nearest(unknown[0], known)}")
    missing = [name for name, f in known.items() if name not in given and f.default is f.default_factory is MISSING]
    if missing:
        block = f" (is there a block for DATASET = {given.get('DATASET')!r}?)" if "folders" in missing else ""
        raise UserError(f"{path} does not set {listing(missing)}{block}.")
    try:
        return Settings(**given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _run(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a config file with --config.")
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = getattr(error, "lineno", None) or (lines or ["?"])[-1]
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}."
        raise UserError(f"{path}, line {line}: {what}") from None
    settings = {k: v for k, v in names.items() if not k.startswith("_")}
    return {k: v for k, v in settings.items() if not isinstance(v, ModuleType) and not callable(v)}  # nor what it imports
