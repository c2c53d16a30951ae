"""One tile labelled by several processes: each takes its share of the batches, the first one blends them in their order.

    torchrun --nproc-per-node 2 inference.py 32 34

No window is computed twice, and the sums are those of a single process, so the maps are the same bit for bit, as long as a
batch gives the same numbers everywhere: on devices of one kind, with as many threads each.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from tools.distributed import Ranks
from tools.errors import UserError
from tools.pipeline import ahead
from tools.stitching import Passed, Share, Sliding

_CPU = torch.device("cpu")
_GO, _STOP = 1, 0


class Job(NamedTuple):
    """A column strip of a tile that all processes work on: its files, its columns, its windows."""

    paths: Mapping[str, str | Path]
    strip: tuple[int, int]
    sliding: Sliding


Work = Callable[[Job, int, int], Iterator[Passed]]  # what a process makes of a job: its share, every so many batches


class Crew:
    """The processes seen from the first one, which gives out the work; within `employed` the others `serve`.

    device: of the first process; probabilities come to it from the others' devices.
    """

    def __init__(self, ranks: Ranks, device: torch.device):
        self.ranks, self.device = ranks, device

    @contextlib.contextmanager
    def employed(self) -> Iterator[None]:
        """Let the others go at the end."""
        try:
            yield
        finally:
            self._tell_all(None)

    def share(self, paths: Mapping[str, str | Path], sliding: Sliding) -> Share:
        """How a tile is shared."""
        return Share(self.ranks.count, lambda strip, own: self._together(Job(paths, strip, sliding), own))

    def _together(self, job: Job, own: Iterator[Passed]) -> Iterator[Passed]:
        """All batches of a job in their order. own: those of the first process, every count-th of them."""
        self._tell_all(job)
        busy = set(self._others)
        try:
            while True:
                for rank in range(self.ranks.count):
                    passed = self._ask(rank, busy) if rank else next(own, None)
                    if passed is None:
                        return  # the batches go round, so that nobody has another one
                    yield passed
        finally:
            for rank in busy:
                dist.send(torch.tensor(_STOP), rank)

    @property
    def _others(self) -> range:
        return range(1, self.ranks.count)

    def _tell_all(self, job: Job | None) -> None:
        for rank in self._others:
            _send(job, rank)

    def _ask(self, rank: int, busy: set[int]) -> Passed | None:
        """The next batch of another process, None where it has no more. Raises UserError where it could not read."""
        dist.send(torch.tensor(_GO), rank)
        windows, shape, fault = _receive(rank)
        if not windows:
            busy.discard(rank)
            if fault:
                raise UserError(fault)
            return None
        probabilities = torch.empty(shape, device=self.device)
        dist.recv(probabilities, rank)
        return Passed(windows, probabilities)


def serve(ranks: Ranks, work: Work) -> None:
    """What all processes but the first do: a share of every job, until there are no more jobs."""
    while (job := _receive(0)) is not None:
        with contextlib.closing(ahead(work(job, ranks.rank, ranks.count))) as share:
            while _may_go_on() and _hand_over(share):
                pass


def _may_go_on() -> bool:
    answer = torch.tensor(_STOP)
    dist.recv(answer, 0)
    return int(answer) == _GO


def _hand_over(share: Iterator[Passed]) -> bool:
    """Send the next batch; whether there was one."""
    try:
        passed, fault = next(share, None), None
    except UserError as error:
        passed, fault = None, str(error)
    _send((passed.windows, tuple(passed.probabilities.shape), None) if passed else ((), (), fault), 0)
    if passed:
        dist.send(passed.probabilities, 0)
    return passed is not None


def _send(what: Any, rank: int) -> None:
    dist.send_object_list([what], rank, device=_CPU)


def _receive(rank: int) -> Any:
    held = [None]
    dist.recv_object_list(held, rank, device=_CPU)
    return held[0]
