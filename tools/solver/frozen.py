"""Layers that stand still: for the first iterations of a run, or for good."""

from collections.abc import Collection

from torch import nn

from tools.base.errors import UserError

FOR_GOOD = float("inf")


class Frozen:
    """The layers of a net that begin with weights from elsewhere, which may be held as they are.

    A frozen layer has no gradients, so that nothing goes backward through it (if it reads the image, or other frozen layers);
    its batch norm works with the statistics that it came with and keeps them, as in inference. Weights of a net without batch
    norm, such as VGG-16's, come without statistics: there it begins as the identity, so that frozen layers answer as that net
    did, and with the statistics of the batches once they learn.

    iterations: how many of the first ones they stand still in, None: in all. Raises UserError if there are no such layers, or
    no others.
    """

    def __init__(self, net: nn.Module, pretrained: Collection[str], iterations: int | None):
        self.until = FOR_GOOD if iterations is None else iterations
        self.holding = False
        modules = [m for name, m in net.named_modules() if belongs(name, pretrained)] if self.until else []
        self._modules = [m for m in modules if m.training]
        named = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self._parameters = [p for name, p in named.items() if belongs(name, pretrained)] if self.until else []
        if self.until and len(self._parameters) in (0, len(named)):
            count = "all layers begin" if self._parameters else "no layer begins"
            raise UserError(
                f"FREEZE_ITERATIONS = {iterations}, but {count} with weights from elsewhere (INIT_MODEL, --init): set it to 0."
            )

    def at(self, iteration: int) -> bool:
        """Hold the layers at this iteration (the first is 0), or let them go; whether they now learn that did not, or stopped.

        It is called before each iteration, as `net.train()` would set batch norms moving again.
        """
        hold = iteration < self.until
        if hold or self.holding:
            for module in self._modules:
                module.training = not hold
        changed, self.holding = hold != self.holding, hold
        for parameter in self._parameters if changed else ():
            parameter.requires_grad_(not hold)
        return changed


def belongs(name: str, layers: Collection[str]) -> bool:
    """Whether a module or a parameter is one of these layers, or lies in one."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)
