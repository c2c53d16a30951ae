"""Batch norms that came with weights keep the statistics that they came with, as constants, while the rest learns.

Small batches of large crops have noisy statistics, and a hundred iterations are too few to replace those of a million pictures.
The affine part (gamma, beta) learns on. In our tables such a batch norm is folded into its convolution while training, too
(`Unit.folded` in nets/layers.py), which saves its passes through memory. Measured in benchmarks/RESULTS.md.
"""

from collections.abc import Collection, Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Frozen:
    """What becomes of a batch norm: it is in evaluation mode whatever the net is in."""

    def train(self, mode: bool = True):
        return super().train(False)


def norms_with_statistics(net: nn.Module, layers: Collection[str]) -> list[str]:
    """The names of these layers' batch norms whose statistics came with their weights.

    Those whose statistics are 0 and 1 came without any, as with VGG-16's convolutions.
    """
    norms = ((name, module) for name, module in net.named_modules() if isinstance(module, _BatchNorm))
    return [name for name, norm in norms if _within(name, layers) and norm.track_running_stats and _has_statistics(norm)]


def freeze_norms(net: nn.Module, names: Iterable[str]) -> None:
    """Let these batch norms keep their statistics for good."""
    for name in names:
        norm = net.get_submodule(name)
        norm.__class__ = type(f"Frozen{type(norm).__name__}", (_Frozen, type(norm)), {})
        norm.train()


def frozen_norms(net: nn.Module) -> list[str]:
    """The names of the batch norms that keep their statistics."""
    return [name for name, module in net.named_modules() if isinstance(module, _Frozen)]


def _has_statistics(norm: _BatchNorm) -> bool:
    return bool((norm.running_mean != 0).any() or (norm.running_var != 1).any())


def _within(name: str, layers: Collection[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)
