"""Batches of patches for training, in an order that depends on the seed and the iteration alone."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tools.database import Database
from tools.errors import UserError
from tools.inputs import Input, modalities_of, reorder
from tools.signals import leave_to_parent


class Patches(Dataset):
    """Images and labels of one split, record by record.

    folder: of the LMDBs, `MODALITY_SPLIT` each. inputs: what the net reads; records hold their bands in its order (BGR or not).
    Item i is ([channels x h x w per input], h x w labels), in the records' pixel types.
    """

    def __init__(self, folder, split: str, inputs: list[Input]):
        self.inputs = inputs
        self.images = {m: Database(folder / f"{m}_{split}") for m in modalities_of(inputs)}
        self.labels = Database(folder / f"labels_{split}")
        for database in self.images.values():
            if len(database) != len(self.labels):
                raise UserError(
                    f"{database.folder} has {len(database)} records, {self.labels.folder} has {len(self.labels)}: they do not"
                    " belong together; make both again with create_db.py."
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[list[Tensor], Tensor]:
        labels, tag = self.labels[i]
        images = {}
        for modality, database in self.images.items():
            images[modality], other = database[i]
            if other != tag or images[modality].shape[1:] != labels.shape[1:]:
                raise UserError(f"record {i} of {database.folder} and of {self.labels.folder} are not of the same patch.")
        stacks = [i.stack({m: reorder(images[m], i.bgr) for m in i.modalities}) for i in self.inputs]
        return [as_tensor(stack) for stack in stacks], torch.from_numpy(labels[0].copy())


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels of any number type as a tensor; uint16, which PyTorch can hardly compute with, as int32."""
    return torch.from_numpy(pixels.astype(np.int32) if pixels.dtype == np.uint16 else np.ascontiguousarray(pixels))


class BatchOrder(Sampler):
    """Which records make up each batch: every epoch is a new order of all records, and batches run on over its end.

    length: records. batch: records in a batch. seed: of the orders. start: the first iteration to give. stop: where to end.
    The order depends on nothing else, so a run that is restored at an iteration sees what the unbroken run would have seen.
    """

    def __init__(self, length: int, batch: int, seed: int, start: int = 0, stop: int | None = None):
        self.length, self.batch, self.seed, self.start, self.stop = length, batch, seed, start, stop

    def __iter__(self) -> Iterator[list[int]]:
        iteration, epoch, order = self.start, -1, []
        while self.stop is None or iteration < self.stop:
            records = []
            for i in range(iteration * self.batch, (iteration + 1) * self.batch):
                if i // self.length != epoch:
                    epoch = i // self.length
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                records.append(int(order[i % self.length]))
            yield records
            iteration += 1


def batches(patches: Patches, order: BatchOrder, workers: int, pin: bool) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The batches in that order: [N x channels x h x w per input], N x h x w labels.

    workers: processes that read ahead. pin: put batches in pinned memory, from where they reach a GPU without waiting.
    """
    loader = DataLoader(
        patches, batch_sampler=order, num_workers=workers, pin_memory=pin,
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # else the loader would draw from, and so change, the random state of the net
    )  # fmt: skip
    try:
        yield from loader
    except UserError as error:  # from a worker it comes wrapped into that worker's traceback
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("tools.errors.UserError: ")) from None
