"""Where the arithmetic runs, and in which precision."""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tools.errors import UserError


@dataclass(frozen=True)
class Device:
    """A device and how to compute on it: under bf16 autocast with channels_last memory where that is fast, else in fp32."""

    device: torch.device
    bf16: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """channels_last is what bf16 convolutions want, on the CPU and on CUDA."""
        return torch.channels_last if self.bf16 else torch.contiguous_format

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context in which a net's forward pass runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, net: nn.Module) -> nn.Module:
        """The net, moved there."""
        return net.to(self.device, memory_format=self.memory_format)

    def send(self, pixels: Tensor) -> Tensor:
        """A batch of pixels (N x C x H x W, any number type), moved there; it stays uint8 on the way."""
        return pixels.to(self.device, non_blocking=True)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        return f"{name} in {'bf16 (autocast)' if self.bf16 else 'fp32'}"


def choose(name: str | None = None) -> Device:
    """The device called `name` ("cpu", "cuda", "cuda:1"), or CUDA where there is one, else the CPU.

    bf16 is used on CUDA, and on processors that have AVX512-BF16 or AMX. Raises UserError where the device is not there.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--device {name}: this machine or this PyTorch has no such device ({reason}).") from None
    return Device(device, device.type == "cuda" or (device.type == "cpu" and _cpu_has_bf16()))


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware. PyTorch offers no public question for it before 2.10."""
    features = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(feature() for feature in features if feature)
