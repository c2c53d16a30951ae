"""torch.compile for nets in training, where the machine has what it needs."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from tools.base.errors import UserError


def compiled(net: nn.Module, device: torch.device) -> nn.Module:
    """The net's compiled form, which has the net's own weights; the net itself, and a note, where there is no compiler.

    Images must be of one size, as in training; others are compiled anew.
    """
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except Exception as error:  # compilers are missing in many ways
        print(f"note: --compile is left out, PyTorch finds no compiler that works here ({_reason(error)}).")
        return net
    return torch.compile(net, dynamic=False)


def _trial(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1


@contextlib.contextmanager
def told_if_it_fails() -> Iterator[None]:
    """Within this block a net that PyTorch's compiler cannot translate is a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):  # to import their errors takes seconds
            raise
        raise UserError(f"--compile: PyTorch cannot compile this net ({_reason(error)}): leave it out.") from None


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__
