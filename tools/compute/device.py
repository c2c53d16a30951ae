"""Where the arithmetic runs, in which precision, and whether in an order that never changes."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tools.base.errors import UserError

_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")  # in messages of RuntimeErrors


@dataclass(frozen=True)
class Device:
    """A device and how to compute on it: under bf16 autocast with channels_last memory where that is fast, else in fp32."""

    device: torch.device
    bf16: bool
    tf32: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """channels_last is what bf16 convolutions want, and what all of them want on the CPU (1.04 to 1.3 times as fast).

        It rounds otherwise than contiguous memory, but no more (test_distributed.py compares both with double precision).
        """
        return torch.channels_last if self.bf16 or self.device.type == "cpu" else torch.contiguous_format

    def current(self) -> contextlib.AbstractContextManager:
        """The context in which what is said of no device in particular, such as events, is about this one."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context in which a net's forward pass runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, net: nn.Module) -> nn.Module:
        """The net, moved there."""
        return net.to(self.device, memory_format=self.memory_format)

    def stage(self, pixels: Tensor) -> Tensor:
        """A batch of pixels put where `send` takes it from without waiting: a GPU's copies run beside its arithmetic."""
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def send(self, pixels: Tensor) -> Tensor:
        """A batch of pixels (N x C x H x W, any number type), moved there; it stays uint8 on the way."""
        return pixels.to(self.device, non_blocking=True)

    def fetch(self, values: Tensor) -> Callable[[], np.ndarray]:
        """Begin to bring a tensor from there; call what comes back once its numbers are needed."""
        if self.device.type != "cuda":
            return values.cpu().numpy
        here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        here.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def numbers() -> np.ndarray:
            arrived.synchronize()
            return here.numpy()

        return numbers

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        return f"{name} in {'bf16 (autocast)' if self.bf16 else 'tf32' if self.tf32 else 'fp32'}"


def choose(name: str | None = None, precision: str = "auto") -> Device:
    """The device called `name` ("cpu", "cuda", "cuda:1", "mps"), or CUDA where there is one, else Apple's GPU, else the CPU.

    precision: "auto" is bf16 autocast on GPUs from Ampere on and on processors that have AVX512-BF16 or AMX, else fp32.
    "bf16": autocast anywhere. "tf32": fp32 numbers, multiplied with 10 bits behind the point on CUDA's tensor cores. "fp32":
    all bits everywhere. Raises UserError where the device is not there.
    """
    try:
        device = torch.device(name or best())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--device {name}: this machine or this PyTorch has no such device ({reason}).") from None
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"--precision tf32 is for CUDA, not for {device}: leave it at auto, or take fp32 or bf16.")
    if precision in ("tf32", "fp32"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    fast = precision == "auto" and _has_bf16(device)
    return Device(device, fast or precision == "bf16", precision == "tf32")


def best() -> str:
    """The kind of device that is taken if none is named: a GPU where there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _has_bf16(device: torch.device) -> bool:
    return _gpu_has_bf16(device) if device.type == "cuda" else device.type == "cpu" and _cpu_has_bf16()


def _gpu_has_bf16(device: torch.device) -> bool:
    """Whether the GPU multiplies bf16 in hardware. Those before Ampere (2020) emulate it, slower than they compute in fp32."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware. PyTorch offers no public question for it before 2.10."""
    features = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(feature() for feature in features if feature)


def be_deterministic() -> None:
    """From here on only operations are run that give the same bits each time. Call it before anything runs on CUDA.

    The CPU's do so anyway, as far as our nets use them. What cannot is refused, see `told_if_not_deterministic`.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def told_if_not_deterministic() -> Iterator[None]:
    """Within this block an operation that `be_deterministic` does not allow is a UserError that names it."""
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        name = re.match(r"\S+", str(error))[0]
        raise UserError(
            f"--deterministic: the net or its loss needs '{name}', which PyTorch cannot do in the same order each time on this"
            " device: choose another net or loss, train on the CPU, or leave --deterministic out."
        ) from None


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory, of a device or of the machine, is too small."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _NO_MEMORY)


@contextlib.contextmanager
def memory_suffices(otherwise: str) -> Iterator[None]:
    """Within this block a lack of memory, of the device or of the machine, is a UserError that says `otherwise`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(otherwise) from None


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels of any number type as a tensor; uint16, which PyTorch can hardly compute with, as int32."""
    return torch.from_numpy(pixels.astype(np.int32) if pixels.dtype == np.uint16 else np.ascontiguousarray(pixels))
