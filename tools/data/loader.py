"""Batches of patches for training, in an order that depends on the seed and the iteration alone."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tools.base.errors import UserError
from tools.compute.device import as_tensor
from tools.compute.signals import leave_to_parent
from tools.data.augmentation import Augmentation, Pixels
from tools.data.database import Database
from tools.data.inputs import Input, modalities_of, reorder
from tools.data.patches import cell_of, is_straight, tile_of
from tools.labels.palette import UNKNOWN

Check = Callable[[np.ndarray], None]


class Patches(Dataset):
    """Images and labels of one split, record by record.

    folder: of the LMDBs, `MODALITY_SPLIT` each. inputs: what the net reads; records hold their bands in its order (BGR or not).
    without: tiles or a grid's cells (by name) whose patches are left out. check: raises UserError for labels (h x w, uint8)
    that there are not.
    Item i is ([channels x h x w per input], h x w labels), in the records' pixel types.
    """

    def __init__(
        self, folder: Path, split: str, inputs: list[Input], without: Collection[str] = (), check: Check | None = None
    ):
        self.folder, self.inputs, self._check = folder, inputs, check
        self.images = {m: Database(folder / f"{m}_{split}") for m in modalities_of(inputs)}
        self.labels = Database(folder / f"labels_{split}")
        for database in self.images.values():
            if len(database) != len(self.labels):
                raise UserError(
                    f"{database.folder} has {len(database)} records, {self.labels.folder} has {len(self.labels)}: they do not"
                    " belong together; make both again with create_db.py."
                )

        self._list = folder / f"{split}.txt"
        self._records = range(len(self.labels))
        if without:
            self._records = [i for i, name in enumerate(self.names) if not {tile_of(name), cell_of(name)} & set(without)]

    def __len__(self) -> int:
        return len(self._records)

    @property
    def names(self) -> list[str]:
        """The patches by name, from the list that create_db.py writes."""
        names = self._list.read_text(encoding="utf-8").splitlines()
        return [names[i] for i in self._records]

    def straight(self, cells: Collection[str] | None = None) -> "Patches":
        """Those that are neither turned nor mirrored; of these cells, which may be left out here, if some are named.

        It shares the open files, since a process can have them open once.
        """
        part, names = copy.copy(self), self._list.read_text(encoding="utf-8").splitlines()
        among = self._records if cells is None else range(len(names))
        part._records = [i for i in among if is_straight(names[i]) and (cells is None or cell_of(names[i]) in set(cells))]
        return part

    def all_labels(self) -> Iterator[np.ndarray]:
        """The labels of all patches, 1 x h x w each."""
        wanted = set(self._records)
        return (self._checked(i, labels) for i, (labels, _) in enumerate(self.labels) if i in wanted)

    def _checked(self, i: int, labels: np.ndarray) -> np.ndarray:
        """The labels (1 x h x w) of a record. Raises UserError if it holds something else, as where images were put there."""
        if len(labels) != 1 or labels.dtype != np.uint8:
            raise UserError(
                f"record {i} of {self.labels.folder} has {len(labels)} band(s) of {labels.dtype}, but labels are one of uint8:"
                " put the labels there."
            )
        if self._check:
            try:
                self._check(labels[labels != UNKNOWN])
            except UserError as error:
                raise UserError(f"record {i} of {self.labels.folder} holds {error}") from None
        return labels

    def close(self) -> None:
        """Close the databases; a process can have each of them open only once."""
        for database in [*self.images.values(), self.labels]:
            database.close()

    def __getitem__(self, i: int) -> tuple[list[Tensor], Tensor]:
        return self.stack(*self.read(i))

    def read(self, i: int) -> Pixels:
        """The images of patch `i` by modality, bands x h x w in the file's order, and its labels, h x w."""
        i = self._records[i]
        labels, tag = self.labels[i]
        labels = self._checked(i, labels)
        images = {}
        for modality, database in self.images.items():
            images[modality], other = database[i]
            if other != tag or images[modality].shape[1:] != labels.shape[1:]:
                raise UserError(f"record {i} of {database.folder} and of {self.labels.folder} are not of the same patch.")
        return {m: reorder(image, self.inputs[0].bgr) for m, image in images.items()}, labels[0]

    def stack(self, images: dict[str, np.ndarray], labels: np.ndarray) -> tuple[list[Tensor], Tensor]:
        """Images and labels, as `read` gives them, as an item of the dataset."""
        return [as_tensor(i.stack(images)) for i in self.inputs], torch.from_numpy(labels.copy())


class Draw(NamedTuple):
    """A record, and the position in the run (from 0) at which it is drawn."""

    record: int
    position: int


class Samples(Dataset):
    """What a net is trained on: the patches that are drawn, each changed as the augmentation wants it at its position."""

    def __init__(self, patches: Patches, augmentation: Augmentation | None):
        self.patches, self.augmentation = patches, augmentation

    def __getitem__(self, draw: Draw) -> tuple[list[Tensor], Tensor]:
        if self.augmentation is None:
            return self.patches[draw.record]
        return self.patches.stack(*self.augmentation(self.patches.read, len(self.patches), *draw))


def stacked(items: list[tuple[list[Tensor], Tensor]]) -> tuple[list[Tensor], Tensor]:
    """A batch of items, put together by one thread: to start all of them, as PyTorch would, takes longer."""

    def stack(tensors: Iterable[Tensor]) -> Tensor:
        return torch.from_numpy(np.stack([t.numpy() for t in tensors]))

    images, labels = zip(*items, strict=True)
    return [stack(of_input) for of_input in zip(*images, strict=True)], stack(labels)


class BatchOrder(Sampler):
    """Which records make up each batch: every epoch is a new order of all records, and batches run on over its end.

    length: records. batch: records in a batch. seed: of the orders. start: the first iteration to give. stop: where to end.
    weights: how often each record is drawn, in proportion, an epoch being as many draws as there are records; None for once.
    rank, ranks: of so many processes that share each batch, this one's contiguous part of it is given, or, where it goes
    through the net in `parts`, of each of these. What a batch holds is the same however many share it.
    The order depends on nothing else, so a run that is restored at an iteration sees what the unbroken run would have seen.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int,
        start: int = 0,
        stop: int | None = None,
        weights: np.ndarray | None = None,
        parts: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.length, self.batch, self.seed, self.start, self.stop, self.weights = length, batch, seed, start, stop, weights
        self.parts, self.rank, self.ranks = parts, rank, ranks

    def __iter__(self) -> Iterator[list[Draw]]:
        iteration, epoch, order = self.start, -1, []
        while self.stop is None or iteration < self.stop:
            draws = []
            for i in range(iteration * self.batch, (iteration + 1) * self.batch):
                if i // self.length != epoch:
                    epoch = i // self.length
                    order = self._order(epoch)
                draws.append(Draw(int(order[i % self.length]), i))
            yield self._share(draws)
            iteration += 1

    def records(self, iteration: int) -> list[int]:
        """The records of an iteration's batch (the first iteration is 0), those of all processes."""
        whole = BatchOrder(self.length, self.batch, self.seed, iteration, weights=self.weights)
        return [draw.record for draw in next(iter(whole))]

    def _share(self, draws: list[Draw]) -> list[Draw]:
        """This rank's part of a batch."""
        part = self.batch // self.parts
        own = part // self.ranks
        return [draw for first in range(self.rank * own, self.batch, part) for draw in draws[first : first + own]]

    def _order(self, epoch: int) -> np.ndarray:
        """The shuffled records of an epoch, each as often as its weight says, rounded up or down at random."""
        random = np.random.default_rng([self.seed, epoch])
        if self.weights is None:
            return random.permutation(self.length)
        ends = np.cumsum(self.weights) * (self.length / np.sum(self.weights))
        drawn = np.searchsorted(ends, np.arange(self.length) + random.random(), side="right")
        return random.permutation(np.minimum(drawn, self.length - 1))


def workers_for(device: torch.device, augmentation: Augmentation | None) -> int:
    """How many processes should read ahead.

    On the CPU, whose cores all compute, to read a patch costs less than to pass it from one process to another.
    """
    if device.type == "cpu":
        return 0 if augmentation is None else 1
    return 4


def batches(
    patches: Patches, order: BatchOrder, workers: int, pin: bool, augmentation: Augmentation | None = None
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The batches in that order: [N x channels x h x w per input], N x h x w labels.

    workers: processes that read ahead. pin: put batches in pinned memory, from where they reach a GPU without waiting.
    augmentation: what is done to the patches.
    """
    loader = DataLoader(
        Samples(patches, augmentation), batch_sampler=order, num_workers=workers, pin_memory=pin,
        worker_init_fn=leave_to_parent, collate_fn=None if workers else stacked,
        generator=torch.Generator(),  # else the loader would draw from, and so change, the random state of the net
    )  # fmt: skip
    try:
        yield from loader
        return
    except UserError as error:  # from a worker it comes wrapped into that worker's traceback
        sentence = str(error).strip().splitlines()[-1].removeprefix("tools.base.errors.UserError: ")
        error.__traceback__ = None  # it holds the workers, and so keeps them from ending when this process wants to
    raise UserError(sentence)
