"""The stages of a library's net, for pictures: found by labelling an image that passes through it.

A stage is a module below the net's large parts (`encoder.layer1`, `decoder.blocks.0`). What lies between stages (additions,
interpolations, norms, activations) has no box: a stage reads the stages that its tensors come from.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nets.net import Box, count_parameters

_SIDE = 128  # pixels of the image
_BETWEEN = tuple(f"torch.nn.modules.{kind}" for kind in ("activation", "batchnorm", "dropout", "normalization"))


def boxes(net: nn.Module, parts: nn.Module) -> list[Box]:
    """The input of a net, and the stages of its `parts` in the order in which they run, with their sizes for 128x128 pixels."""
    (name, channels), modes = *net.inputs.items(), {module: module.training for module in net.modules()}
    image = torch.zeros(1, channels, _SIDE, _SIDE, device=next(net.parameters()).device)
    image.comes_from = {name: None}
    tracing = _Tracing()
    hooks = [hook for stage in stages(parts) for hook in tracing.watch(*stage)]
    try:
        with torch.no_grad(), tracing:
            net.eval()(image)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    return [Box(name, "data", (), (channels, _SIDE, _SIDE), 0), *tracing.found.values()]


def stages(module: nn.Module, name: str = "", depth: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of what is a stage if it runs: lists and what holds a single module are opened, as the parts are."""
    for own, child in module.named_children():
        full, inner = f"{name}.{own}" if name else own, list(child.children())
        passed_on = isinstance(child, nn.ModuleList | nn.ModuleDict) or len(inner) == 1
        if inner and (passed_on or depth == 0):
            yield from stages(child, full, depth + (not passed_on))
        elif inner or not (type(child).__module__ in _BETWEEN or isinstance(child, nn.Identity)):
            yield full, child


class _Tracing(TorchFunctionMode):
    """Notes on each tensor outside of stages which stages it comes from; `found`: the stages that ran, by name."""

    def __init__(self):
        super().__init__()
        self.found: dict[str, Box] = {}
        self._inside = False

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        written = func(*args, **(kwargs or {}))
        if not self._inside:
            _mark(written, _sources([args, kwargs, written]))
        return written

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Hooks on a stage, to be removed."""

        def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self._inside = True
            reads = tuple(_sources([args, kwargs]))
            self.found.setdefault(name, Box(name, type(module).__name__, reads, (), count_parameters(module)))

        def end(module: nn.Module, args: tuple, written: Any) -> None:
            self._inside = False
            size = next((tuple(t.shape[1:]) for t in _tensors(written)), ())
            self.found[name] = self.found[name]._replace(size=size)
            _mark(written, {name: None})

        return [module.register_forward_pre_hook(begin, with_kwargs=True), module.register_forward_hook(end)]


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _sources(values: Iterable) -> dict[str, None]:
    """The stages that tensors come from, in order."""
    return {stage: None for tensor in _tensors(values) for stage in getattr(tensor, "comes_from", ())}


def _mark(written: Any, sources: dict[str, None]) -> None:
    for tensor in _tensors(written) if sources else ():
        tensor.comes_from = sources
