"""Several processes that label together: huge tiles section by section, the others tile by tile.

    torchrun --nproc-per-node 2 inference.py 32 34

Sections (rows of windows, see tools/inference/sliding.py) go round; each process adds up the windows of its own, and the
first one puts the sums together in their order and writes the maps. No window of a column strip is computed twice, and the
sums are those of a single process, so the maps are the same bit for bit, as long as a batch gives the same numbers
everywhere: on devices of one kind, with as many threads each.
"""

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from tools.base.errors import UserError
from tools.base.pipeline import Ahead
from tools.compute.distributed import Ranks
from tools.geo.windows import Window
from tools.inference.blending import PART, Part, Take
from tools.inference.sliding import Plan

PATIENCE = datetime.timedelta(days=30)  # that a process waits for another one's tiles
_CPU = torch.device("cpu")
_GO, _STOP = 1, 0


class Job(NamedTuple):
    """A tile that all processes work on: its files, its sections, and the part of it that is read, if it is not all."""

    paths: Mapping[str, str | Path]
    plan: Plan
    part: Window | None = None

    @property
    def parts(self) -> int:
        """In how many parts the sums of a section come at most: so many are made ahead, so that none waits for another."""
        section = max(self.plan.sections, key=lambda s: s.bottom - s.rows[0])
        pixels = (section.bottom - section.rows[0]) * (section.strip[1] - section.strip[0])
        return len(section.rows) + 4 * self.plan.classes * pixels // PART + 1


Work = Callable[[Job], Iterator[Part]]  # the sums that a process makes of its share of a job


class Crew:
    """The processes that label. The first one gives out the work: tiles that all of them share, then tiles for each.

    device: of this process; where it is the first one, the sums come to it from the others.
    """

    def __init__(self, ranks: Ranks, device: torch.device):
        self.ranks, self.device = ranks, device
        self._others = range(1, ranks.count)
        self._serving = list(self._others) if ranks.writer else []

    @contextlib.contextmanager
    def employed(self) -> Iterator[None]:
        """The others wait for work from the first one within this block, and go home where it fails."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(RuntimeError):  # they may be gone already
                self.dismiss([None] * len(self._others))
            raise
        self.dismiss([None] * len(self._others))

    @contextlib.contextmanager
    def share(self, job: Job, own: Iterator[Part]) -> Iterator[Take]:
        """The sums of a tile's sections, made by all processes. own: those of the first one's share."""
        for rank in self._serving:
            _send(job, rank)
        busy = set(self._serving)
        with contextlib.closing(Ahead(own, job.parts)) as mine:
            try:
                yield lambda number: self._ask(rank, busy) if (rank := number % self.ranks.count) else next(mine)
            finally:
                for rank in busy:
                    dist.send(torch.tensor(_STOP), rank)

    def dismiss(self, last: Sequence[Any]) -> None:
        """There is nothing more to share: tell each of the others what to do on its own, if they were not told before."""
        for rank in self._serving:
            _send(last[rank - 1], rank)
        self._serving = []

    def reports(self) -> Iterator[Any]:
        """What the others report at the end."""
        return map(_receive, self._others)

    def report(self, what: Any) -> None:
        """Tell the first process what came of the work on our own."""
        _send(what, 0)

    def serve(self, work: Work) -> Any:
        """What the others do: a share of every job, until they are told what is left to do on their own."""
        while isinstance(job := _receive(0), Job):
            with contextlib.closing(Ahead(work(job), job.parts)) as parts:
                while _may_go_on() and _hand_over(parts):
                    pass
        return job

    def _ask(self, rank: int, busy: set[int]) -> Part:
        """The next sums of another process. Raises UserError where it could not read."""
        dist.send(torch.tensor(_GO), rank)
        row, col, shape, fault = _receive(rank)
        if fault:
            busy.discard(rank)
            raise UserError(fault)
        sums = torch.empty(shape)
        dist.recv(sums, rank)
        return Part(row, col, sums.to(self.device))


def _may_go_on() -> bool:
    answer = torch.tensor(_STOP)
    dist.recv(answer, 0)
    return int(answer) == _GO


def _hand_over(parts: Iterator[Part]) -> bool:
    """Send the next sums, or why there are none; whether there were any."""
    try:
        part = next(parts)
    except UserError as error:
        _send((0, 0, (), str(error)), 0)
        return False
    _send((part.row, part.col, tuple(part.probabilities.shape), None), 0)
    dist.send(part.probabilities.cpu().contiguous(), 0)
    return True


def _send(what: Any, rank: int) -> None:
    dist.send_object_list([what], rank, device=_CPU)


def _receive(rank: int) -> Any:
    held = [None]
    dist.recv_object_list(held, rank, device=_CPU)
    return held[0]
