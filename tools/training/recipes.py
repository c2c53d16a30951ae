"""Recipes: what a setting is if the config does not say. A setting that the config gives wins."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

LITTLE = 4_000_000  # pixels of training tiles: fewer of them are seen often enough in windows half as wide


def original(modalities: Sequence[str], net: str | None, little: Callable[[], bool]) -> dict[str, Any]:
    """Caffe's, of 2016: the defaults of the settings themselves."""
    return {}


def modern(modalities: Sequence[str], net: str | None, little: Callable[[], bool]) -> dict[str, Any]:
    """A light U-Net with ImageNet's weights, for a good map of a few labelled tiles in minutes on a laptop.

    Found on validation tiles of dubai and Vaihingen: benchmarks/RESULTS.md has what was tried. modalities: of the
    config, the images first: light and colour are changed in the first one alone, since the others may be heights. net: the
    config's own, if it names one; it begins at random unless the config says otherwise, and learns more slowly. little: tells
    whether the training tiles have fewer than LITTLE pixels. The light net then looks at them twice as large, in crops half as
    wide.
    """
    if net is not None:
        return _for_any_net(modalities)
    finer = little()
    return _for_any_net(modalities, crop=96 if finer else 192) | {
        **({"NET_OPTIONS": {"finer": True}} if finer else {}),
        "NET": "unet_light/efficientnet_lite0",
        "INIT_MODEL": "efficientnet_lite0",
        "BASE_LR": 4e-3,
        "PRETRAINED_RATE": 0.1,
        "FROZEN_NORM": True,
    }


def _for_any_net(modalities: Sequence[str], crop: int = 192) -> dict[str, Any]:
    light = {"modalities": list(modalities[:1])}
    return {
        "patch_size": (256, 256),
        "step_size": (192, 192),
        "ROTATIONS": [0],  # turned while training instead
        "FLIPS": [False, True],  # so that six tiles of one patch each fill a batch
        "BATCH_SIZE": 8,
        "SOLVER": {"name": "adamw", "weight_decay": 0.01},
        "BASE_LR": 1e-3,
        "LR_POLICY": {"name": "cosine", "warmup_share": 0.05},
        "LOSS": "ce + 0.5 dice",
        "EMA_DECAY": 0.99,
        "AUGMENTATION": {
            "mosaic": {},  # the same surroundings never twice, or the net learns the tiles by heart
            "cutmix": {},
            "crop": {"height": crop, "width": crop},
            "scale": {"smallest": 0.7, "largest": 1.6, "probability": 0.8},
            "flip": {},
            "turn": {},
            "brightness": light,
            "contrast": light | {"factor": 1.4},
            "gamma": light | {"exponent": 1.3},
        },
        "NITER": 500,
        "TTA": "flips",
        "SNAPSHOT_EVERY": None,
        "test_patch_size": "auto",
        "test_step_size": "auto",
    }


Recipe = Callable[[Sequence[str], str | None, Callable[[], bool]], dict[str, Any]]
RECIPES: Mapping[str, Recipe] = {"modern": modern, "original": original}
