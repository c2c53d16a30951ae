"""Patches in LMDB, as Caffe has them: one Datum per record (uint8, channels first), keyed by its number in ten digits.

A Datum's `label` field, which Caffe uses for classification only, holds a number made from the patch's name: the records that
stand under one key in the databases of a split must agree in it. So the pairing of image and label is verified at each read.

Records that Caffe's convert_imageset --encoded wrote hold a JPEG or PNG instead of pixels; they are read as Caffe's OpenCV
decodes them.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import lmdb
import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image
from tqdm import tqdm

from tools.base.errors import UserError, listing
from tools.data.inputs import reorder
from tools.data.patches import patch_files, read_patch
from tools.weights.caffe_proto import Datum

_TRANSACTION_BYTES = 64_000_000  # held in memory by one transaction
_FLOAT_TAG = 6 << 3 | 5  # field 6 of Datum, four bytes
_OPENCV_MODES = {  # mode of a picture in Pillow -> the one of the pixels that OpenCV makes of it, but for their order
    "1": "L", "L": "L", "P": "RGB", "LA": "RGBA", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB",
}  # fmt: skip


def name_tag(name: str) -> int:
    """The number (31 bits) that stands for a patch's name in its records."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def encode(pixels: np.ndarray, tag: int) -> bytes:
    """A serialised Datum of pixels, channels x h x w. Numbers wider than a byte go to `float_data`, which Caffe reads too."""
    channels, height, width = pixels.shape
    datum = Datum(channels=channels, height=height, width=width, label=tag)
    if pixels.dtype == np.uint8:
        datum.data = np.ascontiguousarray(pixels).tobytes()
        return datum.SerializeToString()
    datum.dtype = pixels.dtype.name
    # As protobuf would write them, a tag before each float, but twenty times faster than number by number.
    floats = np.empty(pixels.size, [("tag", "u1"), ("value", "<f4")])
    floats["tag"], floats["value"] = _FLOAT_TAG, pixels.ravel()
    return datum.SerializeToString() + floats.tobytes()


def decode(record: bytes) -> tuple[np.ndarray, int]:
    """(pixels, tag) of a serialised Datum, in the pixel type that it was made from; ValueError where it holds none."""
    try:
        datum = Datum.FromString(record)
    except DecodeError:
        raise ValueError("it is no Datum") from None
    if datum.encoded:
        return _picture(datum.data), datum.label
    shape = (datum.channels, datum.height, datum.width)
    if min(shape) < 1:
        raise ValueError("it is empty" if not datum.channels else f"it says that it has {' x '.join(map(str, shape))} numbers")
    kind = np.dtype(datum.dtype or np.float32)
    if kind.kind not in "iuf":
        raise ValueError(f"it says that its numbers are of the type {kind}")
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32).astype(kind)
    return values.reshape(shape), datum.label


def _picture(data: bytes) -> np.ndarray:
    """The pixels (bands x h x w, uint8) of a JPEG or PNG: grey is one band, colours are B, G, R and alpha if there is one."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            mode = _OPENCV_MODES.get(picture.mode)
            if mode is None:
                raise ValueError(f"its encoded picture has the mode {picture.mode}, where Caffe reads 8 bits a band")
            if picture.mode == "P" and "transparency" in picture.info:
                mode = "RGBA"
            pixels = np.asarray(picture.convert(mode))
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"its encoded picture cannot be read: {error}") from None
    if pixels.ndim == 2:
        return pixels[None]
    return np.ascontiguousarray(np.moveaxis(pixels[..., [2, 1, 0, 3][: pixels.shape[2]]], -1, 0))


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """The names in an order that the seed alone determines."""
    names = sorted(names)
    random.Random(seed).shuffle(names)
    return names


def pair(folders: list[Path]) -> list[str]:
    """The patch names (without suffix) that the folders share. Raises UserError unless all hold the same ones."""
    names = {folder: set(patch_files(folder)) for folder in folders}
    first = folders[0]
    for folder in folders[1:]:
        odd = names[folder] ^ names[first]
        if odd:
            raise UserError(
                f"{folder} and {first} do not hold the same patches ({len(odd)} stand in one alone: {listing(sorted(odd), 3)}):"
                " extract them again."
            )
    return sorted(names[first])


def pack(database: Path, files: list[Path], bgr: bool, progress: str) -> None:
    """Write patch files to a new LMDB folder, in the order given.

    bgr: store the bands in reversed order. progress: what the progress bar says.
    """
    env = lmdb.open(str(database), map_size=1 << 26, sync=False, lock=False)
    done = iter(tqdm(files, progress, unit="patch"))

    def record(file: Path) -> bytes:
        return encode(reorder(read_patch(file), bgr), name_tag(file.stem))

    at_once = _records_at_once(files, record)
    with ThreadPoolExecutor() as pool:
        start = 0
        while chunk := list(islice(done, at_once)):
            env = _put(env, start, list(pool.map(record, chunk)))
            start += len(chunk)
    env.sync(True)
    env.close()


def _records_at_once(files: list[Path], record: Callable[[Path], bytes]) -> int:
    """How many records go into one transaction: as many as fit the memory for it, judged by the first, at most 1000."""
    return max(1, min(1000, _TRANSACTION_BYTES // len(record(files[0])))) if files else 1


def _put(env: lmdb.Environment, start: int, records: list[bytes]) -> lmdb.Environment:
    """Write records under the keys from `start` on; the map grows until they fit."""
    while True:
        try:
            with env.begin(write=True) as transaction:
                for i, record in enumerate(records, start):
                    transaction.put(b"%010d" % i, record, append=True)
            return env
        except lmdb.MapFullError:
            env.set_mapsize(env.info()["map_size"] * 2)


class Database:
    """An LMDB of Datum records, read by number. It is opened at the first read, once in each process that reads."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._env = None
        self._digits = 10
        self._length = None

    def __len__(self) -> int:
        if self._length is None:
            self._length, self._digits = self._measure()
        return self._length

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        """(pixels, tag) of record `i`."""
        len(self)  # looks at the file before the first record is read
        with self._told(), self._open().begin(buffers=True) as transaction:
            record = transaction.get(b"%0*d" % (self._digits, i))
            if record is None:
                raise UserError(f"{self.folder} has no record {i}: make the database again.")
            try:
                return decode(bytes(record))
            except (ValueError, TypeError) as error:
                raise UserError(f"{self.folder}: record {i} is damaged ({error}): make the database again.") from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn LMDB's errors about a damaged file into a UserError."""
        try:
            yield
        except lmdb.Error as error:
            raise UserError(f"{self.folder} is no whole LMDB ({error}): make it again with create_db.py.") from None

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        read = 0
        for i in range(len(self)):
            pixels, tag = self[i]
            yield pixels, tag
            read += pixels.nbytes
            if read > _TRANSACTION_BYTES:  # pages that were read stay in our memory until the map is closed
                self.close()
                read = 0

    def close(self) -> None:
        """Close the file and its memory map; the next read opens it again."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_env": None}  # an environment must not be carried into another process

    def _open(self) -> lmdb.Environment:
        if self._env is None:
            if not (self.folder / "data.mdb").is_file():
                raise UserError(f"{self.folder} is no LMDB (it has no data.mdb): make it with create_db.py.")
            with self._told():
                self._env = lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False)
        return self._env

    def _measure(self) -> tuple[int, int]:
        """(records, digits of a key), after a look at whether the file is whole: reading past its end would kill us."""
        env = self._open()
        needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        size = (self.folder / "data.mdb").stat().st_size
        if size < needed:
            raise UserError(f"{self.folder} breaks off ({size:,} of {needed:,} bytes): make it again with create_db.py.")
        count = env.stat()["entries"]
        if not count:
            raise UserError(f"{self.folder} holds no records: make it again with create_db.py.")
        with self._told(), env.begin() as transaction, transaction.cursor() as cursor:
            cursor.last()
            last = bytes(cursor.key())
        if not last.isdigit() or int(last) != count - 1:
            raise UserError(f"{self.folder}: its keys are not the record numbers 0 to {count - 1} (the last is {last!r}).")
        return count, len(last)
