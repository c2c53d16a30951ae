"""The config's training: batches, solver, loss, augmentation, and when to validate and write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tools.base.sections import (
    Section,
    is_choice,
    is_flag,
    is_number,
    is_text,
    mapping,
    optional,
    setting,
    some_of,
    whole,
    within,
)
from tools.labels.class_weights import CLASS_WEIGHTS, are_weights
from tools.solver.schedules import ending
from tools.training.recipes import RECIPES

INFINITY = float("inf")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Section):
    """How a net is trained. config.py says what each setting is for."""

    RECIPE: str = setting(lambda v: is_text(v) and v in RECIPES, f"one of {', '.join(RECIPES)}", "modern", effect=False)
    BATCH_SIZE: int = setting(whole(1), "a whole number of patches, 1 or more", 10)
    BASE_LR: float = setting(within(0, INFINITY), "a number above 0", 0.01)
    LR_POLICY: Mapping[str, Any] = setting(
        is_choice, "a policy with its numbers, such as {'name': 'fixed'}",
        {"name": "step", "step_iterations": 25000, "gamma": 0.1},
    )  # fmt: skip
    SOLVER: Mapping[str, Any] = setting(
        is_choice, "a solver with its numbers, such as {'name': 'sgd', ...}, or the name of a solver.prototxt",
        {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
    )  # fmt: skip
    LOSS: str = setting(is_text, "losses and their factors, such as 'ce + 0.5 dice'", "ce")
    CLASS_WEIGHTS: str | Sequence[float] = setting(
        lambda v: v in CLASS_WEIGHTS if is_text(v) else are_weights(v),
        f"one of {', '.join(CLASS_WEIGHTS)}, or a number for each class, such as (1, 0.5, 2)", "none",
    )  # fmt: skip
    MULTIPLIERS: Mapping[str, Mapping[str, float]] = setting(
        mapping(mapping(lambda v: is_number(v) and v >= 0, empty=False)),
        "numbers by layer, such as {'conv1_*': {'lr': 0.1, 'decay': 0}}, or {}", {},
    )  # fmt: skip
    PRETRAINED_RATE: float = setting(within(0, INFINITY), "a number above 0, such as 0.1", 0.5)
    FREEZE_ITERATIONS: int | None = setting(optional(whole(0)), "a whole number of iterations, 0 or more, or None: for good", 0)
    GRADIENT_CLIP: float | None = setting(optional(within(0, INFINITY)), "a norm above 0, or None", None)
    ITER_SIZE: int = setting(whole(1), "a whole number of batches, 1 or more", 1)
    EMA_DECAY: float | None = setting(optional(within(0, 1)), "a number between 0 and 1, such as 0.999, or None", None)
    AUGMENTATION: Mapping[str, Mapping] = setting(
        mapping(lambda v: isinstance(v, Mapping)),
        "operations with their numbers, such as {'flip': {}, 'rotate': {'degrees': 30}}, or {}", {},
    )  # fmt: skip
    NITER: int | None = setting(optional(whole(1)), "a whole number of iterations, 1 or more, or None", None, effect=False)
    SNAPSHOT_EVERY: int | None = setting(
        optional(whole(1)), "a whole number of iterations, 1 or more, or None: four times in a run", 2000, effect=False
    )
    VAL_EVERY: int | None = setting(
        optional(whole(1)), "a whole number of iterations, 1 or more, or None: at each snapshot", None
    )
    PATIENCE: int | None = setting(
        optional(whole(1)), "a whole number of validations, 1 or more, or None: never stop early", None, effect=False
    )
    SNAPSHOT_FORMATS: list = setting(
        lambda v: some_of("safetensors", "caffemodel")(v) and "safetensors" in v,
        "['safetensors'], or ['safetensors', 'caffemodel'] for Caffe's own file beside it", ["safetensors"], effect=False,
    )  # fmt: skip
    KEEP_SNAPSHOTS: int | None = setting(
        optional(whole(1)), "a whole number of snapshots, 1 or more, or None: keep all", None, effect=False
    )
    SYNC_BATCH_NORM: bool = setting(is_flag, "True or False", False)
    FROZEN_NORM: bool = setting(is_flag, "True or False", False)
    WORKERS: int | None = setting(optional(whole(0)), "a whole number of processes, 0 or more, or None", None, effect=False)

    @property
    def patches_per_iteration(self) -> int:
        """How many patches the net learns from before its weights change."""
        return self.BATCH_SIZE * self.ITER_SIZE

    def for_run(self, niter: int) -> "TrainingSettings":
        """The settings of a run to iteration `niter`: where its rate ends and when it snapshots, if the config does not say."""
        every = self.SNAPSHOT_EVERY or max(1, niter // 4)
        return replace(self, NITER=niter, SNAPSHOT_EVERY=every, LR_POLICY=ending(self.LR_POLICY, niter))

    @property
    def validate_every(self) -> int:
        """Iterations from one validation to the next."""
        return self.VAL_EVERY or self.SNAPSHOT_EVERY
