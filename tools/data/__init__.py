"""Data from tiles to batches. What a config needs is offered here: `from tools.data import find_ids, split_by_share`."""

import importlib

_HOMES = {
    "find_ids": "dataset",
    "list_ids": "dataset",
    "split_by_share": "splits",
    "group_tiles": "splits",
    "read_list": "splits",
    "listed_masks": "splits",
}


def __getattr__(name: str):
    """Loads a function of this page when it is first asked for: a config that needs none of them costs no import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"tools.data.{_HOMES[name]}"), name)
