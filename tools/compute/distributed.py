"""Several processes that train one net, each on its own device: torchrun starts them, torch.distributed joins them.

    torchrun --nproc-per-node 2 training.py --niter 40000

torchrun tells each process who it is in environment variables. Gradients go over NCCL between GPUs and over gloo between
CPUs; what the processes have to agree on besides (stop? snapshot?) goes over gloo everywhere, where nothing waits for a GPU.
"""

import contextlib
import datetime
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tools.base.errors import UserError
from tools.compute.signals import Signals

PATIENCE = datetime.timedelta(hours=2)  # that a process waits for the others, as while one of them scores a large tile
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out", "timed out")


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, seen from one of them. With a count of 1 nothing here does anything.

    rank: which one this is, from 0; 0 is the one that writes files and talks. count: how many there are. local: which one of
    those on its machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def writer(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def device(self, name: str | None) -> str | None:
        """The name of this process's device: with CUDA, each process on a machine has its own GPU; None: it is chosen."""
        if self.count == 1:
            return name
        if name == "cuda" or (name is None and torch.cuda.is_available()):
            return f"cuda:{self.local}"
        return name or "cpu"

    def divide(self, batch: int) -> int:
        """This process's share of a batch. Raises UserError where it does not come out even."""
        if batch % self.count:
            down, up = batch // self.count * self.count, -(-batch // self.count) * self.count
            raise UserError(
                f"BATCH_SIZE = {batch} cannot be shared evenly by {self.count} processes: set it to"
                f" {f'{down} or {up}' if down else up}, or start another number of them."
            )
        return batch // self.count

    def share(self, items: Sequence) -> Sequence:
        """The items that this process takes on, every count-th."""
        return items[self.rank :: self.count]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes, the same in all of them."""
        return value if self.count == 1 else self.total(value) / self.count

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.count > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> list[Tensor]:
        """A tensor (of one shape, on the CPU) of every process, in their order."""
        if self.count == 1:
            return [value]
        values = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(values, value)
        return values

    def agree(self, signals: Signals) -> None:
        """Let all processes have heard the signals that any of them has heard, so that they stop at the same iteration.

        What one of them hears afterwards waits until they agree again.
        """
        if self.count > 1:
            heard = torch.tensor(signals.pick_up(), dtype=torch.int32)
            dist.all_reduce(heard, dist.ReduceOp.MAX)
            signals.stop, signals.snapshot = map(bool, heard.tolist())

    def adopt(self, net: nn.Module) -> None:
        """Take over what the first process's net keeps beside its weights: the running statistics of batch norm."""
        if self.count > 1:
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)

    def own_random_numbers(self, seed: int) -> None:
        """Let each process but the first, which goes on as a single one would, have random numbers of its own (dropout)."""
        if self.rank:
            torch.manual_seed(seed + 1_000_000 * self.rank)

    def parallel(self, net: nn.Module, forward: nn.Module, device: torch.device) -> nn.Module:
        """`forward` in a form that averages its gradients over the processes while it goes backward.

        net: the net itself; forward: the same or its compiled form. Every process begins with the weights of the first one, and
        each forward pass with its running statistics.
        """
        if self.count == 1:
            return forward
        on = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(forward, on, find_unused_parameters=has_unused(net))


ALONE = Ranks()


def from_environment() -> Ranks:
    """Who we are by torchrun's variables; alone where there are none."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    return Ranks(*(int(os.environ[name]) for name in names)) if all(name in os.environ for name in names) else ALONE


@contextlib.contextmanager
def joined(ranks: Ranks, device: torch.device, patience: datetime.timedelta = PATIENCE) -> Iterator[None]:
    """Within this block the processes can talk with each other, and only the first one prints.

    patience: how long one of them waits for another that is at work; one that ended is noticed at once.
    Raises UserError where another process is lost, on all that are left.
    """
    if ranks.count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with contextlib.ExitStack() as stack:
        if not ranks.writer:
            nothing = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123 (of no folder)
            stack.enter_context(contextlib.redirect_stdout(nothing))
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=patience)
            yield
        except RuntimeError as error:
            if not _is_lost(error):
                raise
            raise UserError(
                "another process of this job ended or cannot be reached, so that this one ends, too: see what the other"
                " one said, if it could, and go on with training.py --restore or inference.py --resume."
            ) from None
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)


def has_unused(net: nn.Module) -> bool:
    """Whether parameters of a net have no part in what it writes, as in some nets of the libraries; True where it is unclear.

    Found by a trial on the meta device, which computes nothing. The processes would wait for gradients that never come.
    """
    state = {name: value.detach().to("meta") for name, value in net.state_dict().items()}
    learned = {name: state[name].requires_grad_() for name, p in net.named_parameters() if p.requires_grad}
    size = math.lcm(128, net.multiple)
    try:
        images = tuple(torch.empty(2, channels, size, size, device="meta") for channels in net.inputs.values())
        torch.func.functional_call(net, state, images).sum().backward()
    except RuntimeError:
        return True
    return any(value.grad is None for value in learned.values())
