"""Proves that our LMDBs are what Caffe's Data layer reads, that Caffe's are read exactly, and that broken ones are refused."""

import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from conftest import REPO, caffes, names
from PIL import Image

from tools.base.errors import UserError
from tools.data import database
from tools.data.database import Database, decode, encode, name_tag, pack, pair, shuffled
from tools.data.patches import write_patch
from tools.weights.caffe_proto import Datum


def fields(message):
    """[(number, value)] of a protobuf message: a decoder of our own. Values are ints (varints) or bytes."""

    def varint(i):
        value = shift = 0
        while True:
            value |= (message[i] & 127) << shift
            shift += 7
            i += 1
            if message[i - 1] < 128:
                return value, i

    found, i = [], 0
    while i < len(message):
        key, i = varint(i)
        if key & 7 == 0:
            value, i = varint(i)
        else:
            size, i = (4, i) if key & 7 == 5 else varint(i)
            value, i = message[i : i + size], i + size
        found.append((key >> 3, value))
    return found


def records(folder):
    """[(key, value)] of an LMDB, read with lmdb alone."""
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as transaction:
        return [(bytes(k), bytes(v)) for k, v in transaction.cursor()]


def write_records(folder, items):
    """An LMDB of these records, written with lmdb alone."""
    with lmdb.open(str(folder), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for key, value in items:
            transaction.put(key, value)


def make(tmp_path, count=12, shape=(3, 8, 9), dtype=np.uint8, bgr=True):
    """(LMDB of some patches, the patches, their names)."""
    rng = np.random.default_rng(0)
    files, patches = [], []
    (tmp_path / "patches").mkdir()
    for i in range(count):
        patches.append(rng.integers(0, 250, shape).astype(dtype))
        files.append(tmp_path / "patches" / f"p{i}{'.png' if dtype == np.uint8 else '.tif'}")
        write_patch(files[-1], patches[-1])
    pack(tmp_path / "db", files, bgr, "packing")
    return tmp_path / "db", patches, [f.stem for f in files]


# ----------------------------------------------------------------------------------------------------- Caffe's format


def test_a_record_is_a_datum_by_an_independent_decoder():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7)).astype(np.uint8)
    found = dict(fields(encode(pixels, 1234567)))
    assert (found[1], found[2], found[3]) == (3, 5, 7)  # channels, height, width
    assert found[4] == pixels.tobytes()  # channel by channel
    assert found[5] == 1234567  # label


def test_wide_numbers_go_to_the_floats_of_a_datum():
    pixels = np.array([[[300.5, -1.25]]], np.float32)
    found = fields(encode(pixels, 0))
    assert [np.frombuffer(v, "<f4")[0] for n, v in found if n == 6] == [300.5, -1.25]
    assert not any(n == 4 and v for n, v in found)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_was_encoded_is_decoded(dtype):
    pixels = np.random.default_rng(0).integers(0, 250, (4, 5, 7)).astype(dtype)
    found, tag = decode(encode(pixels, 77))
    assert tag == 77
    assert found.dtype == dtype
    assert np.array_equal(found, pixels)


def test_keys_are_ten_digits_in_the_order_given_and_bands_are_reversed(tmp_path):
    folder, patches, patch_names = make(tmp_path)
    found = records(folder)
    assert [key for key, _ in found] == [f"{i:010d}".encode() for i in range(12)]
    for (_, value), patch, name in zip(found, patches, patch_names, strict=True):
        assert dict(fields(value))[4] == patch[::-1].tobytes()
        assert dict(fields(value))[5] == name_tag(name)


def test_bands_keep_the_files_order_where_the_config_says_so(tmp_path):
    folder, patches, _ = make(tmp_path, bgr=False)
    assert all(np.array_equal(pixels, patch) for (pixels, _), patch in zip(Database(folder), patches, strict=True))


def test_no_lock_file_stays_beside_the_records(tmp_path):
    folder, _, _ = make(tmp_path)
    list(Database(folder))
    assert names(folder) == ["data.mdb"]


def test_caffes_own_databases_are_read_exactly(tmp_path):
    shutil.copytree(caffes("datum_lmdb"), tmp_path / "caffe")
    expected = np.load(tmp_path / "caffe/expected.npz")
    images, labels = Database(tmp_path / "caffe/image"), Database(tmp_path / "caffe/label")
    assert len(images) == len(labels) == 4
    for i in range(4):
        assert np.array_equal(images[i][0], expected["rgb"][i].transpose(2, 0, 1)[::-1])
        assert np.array_equal(labels[i][0][0], expected["labels"][i])
    delivered = np.stack([pixels for pixels, _ in images]) - np.array([81.29, 81.93, 120.90]).reshape(3, 1, 1)
    np.testing.assert_allclose(delivered, expected["data"], atol=1e-4)


def picture(pixels, form, **options):
    """A Datum as Caffe's convert_imageset --encoded writes it: the bytes of a file, and no shape."""
    data = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(data, form, **options)
    return Datum(data=data.getvalue(), label=7, encoded=True).SerializeToString()


@pytest.mark.parametrize("bands", [3, 4])
def test_encoded_colours_are_read_as_blue_green_red(bands):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 9, bands)).astype(np.uint8)
    found, tag = decode(picture(rgb, "PNG"))
    assert tag == 7
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.stack([rgb[..., i] for i in (2, 1, 0, 3)[:bands]]))


def test_encoded_grey_is_one_band():
    grey = np.random.default_rng(0).integers(0, 6, (5, 9)).astype(np.uint8)
    assert np.array_equal(decode(picture(grey, "PNG"))[0], grey[None])


def test_an_encoded_palette_is_its_colours():
    indices = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    indices.putpalette([10, 20, 30, 40, 50, 60])
    assert decode(picture(indices, "PNG"))[0].tolist() == [[[30, 60]], [[20, 50]], [[10, 40]]]
    assert decode(picture(indices, "PNG", transparency=1))[0][3].tolist() == [[255, 0]]


def test_an_encoded_jpeg_is_read():
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    found = decode(picture(flat, "JPEG", quality=95))[0]
    assert np.abs(found - np.array([50, 100, 200]).reshape(3, 1, 1)).max() <= 2


def test_an_encoded_picture_that_caffe_would_not_read_is_named(tmp_path):
    half = Datum.FromString(picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8), "PNG"))
    half.data = half.data[:5000]
    wide = picture(np.ones((4, 4), np.uint16), "PNG")
    write_records(tmp_path / "db", [(b"%010d" % 0, wide), (b"%010d" % 1, half.SerializeToString())])
    with pytest.raises(UserError, match=r"record 0 is damaged \(its encoded picture has the mode I;16, where"):
        Database(tmp_path / "db")[0]
    with pytest.raises(UserError, match=r"record 1 is damaged \(its encoded picture cannot be read"):
        Database(tmp_path / "db")[1]


def datum(**values):
    return Datum(**values).SerializeToString()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (datum(channels=-1, height=2, width=2, data=bytes(12)), "-1 x 2 x 2"),
        (datum(channels=10**6, height=10**6, width=10**6, data=bytes(12)), "reshape"),
        (datum(channels=1, height=1, width=2, float_data=[1, 2], dtype="object"), "type object"),
        (datum(channels=1, height=1, width=2, float_data=[1, 2], dtype="no type"), "no type"),
    ],
)
def test_a_record_that_says_of_itself_what_cannot_be_is_refused(record, reason):
    with pytest.raises((ValueError, TypeError), match=reason):
        decode(record)


def test_a_picture_that_unpacks_to_more_than_any_patch_has_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="cannot be read"):
        decode(datum(channels=1, data=picture(np.zeros((9, 9), np.uint8), "PNG"), encoded=True))


def test_a_database_with_damaged_pages_is_one_sentence(tmp_path):
    make(tmp_path)
    path = next(tmp_path.rglob("data.mdb"))
    data = bytearray(path.read_bytes())
    data[8192:] = bytes(255 - byte for byte in data[8192:])
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"make it again|make the database again"):
        list(Database(path.parent))


def test_keys_of_another_width_are_read_too(tmp_path):
    write_records(tmp_path / "db", [(b"%08d" % i, encode(np.full((1, 2, 2), i, np.uint8), i)) for i in range(3)])
    assert [tag for _, tag in Database(tmp_path / "db")] == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------------ packing


def test_the_map_grows_until_all_records_fit(tmp_path, monkeypatch):
    opened, real = [], lmdb.open

    def small(path, **options):
        if "map_size" in options:
            options["map_size"] = 1 << 16
            opened.append(path)
        return real(path, **options)

    monkeypatch.setattr(database.lmdb, "open", small)
    folder, patches, _ = make(tmp_path, count=40, shape=(3, 60, 60))
    assert opened
    assert (folder / "data.mdb").stat().st_size > 4 << 16
    assert all(np.array_equal(pixels[::-1], patch) for (pixels, _), patch in zip(Database(folder), patches, strict=True))


def test_more_records_than_fit_one_transaction_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_TRANSACTION_BYTES", 5 * 100)
    folder, _, patch_names = make(tmp_path)
    assert [tag for _, tag in Database(folder)] == [name_tag(name) for name in patch_names]


def test_a_damaged_patch_is_named(tmp_path):
    _, _, _ = make(tmp_path, count=3)
    path = tmp_path / "patches/p1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"p1\.png is damaged"):
        pack(tmp_path / "db2", sorted((tmp_path / "patches").iterdir()), True, "packing")


def test_the_order_depends_on_the_seed_and_the_names_alone():
    some = [f"{i}" for i in range(50)]
    assert shuffled(some, 3) == shuffled(reversed(some), 3)
    assert sorted(shuffled(some, 3)) == sorted(some)
    assert shuffled(some, 3) not in (some, sorted(some))
    assert shuffled(some, 3) != shuffled(some, 4)


def test_folders_pair_by_name_and_odd_patches_are_named(tmp_path):
    for folder, files in (("a", ["1.png", "2.png"]), ("b", ["2.tif", "1.tif"]), ("c", ["1.png", "3.png"])):
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).touch()
    assert pair([tmp_path / "a", tmp_path / "b"]) == ["1", "2"]
    with pytest.raises(UserError, match=r"do not hold the same patches \(2 stand in one alone: 2, 3\)"):
        pair([tmp_path / "a", tmp_path / "c"])


# ---------------------------------------------------------------------------------------------------- broken databases

READ = """
import os, shutil, sys
from pathlib import Path
from tools.data.database import Database
from tools.base.errors import UserError
source, work = map(Path, sys.argv[1:3])
for size in map(int, sys.argv[3:]):
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    os.truncate(work / "data.mdb", size)
    try:
        list(Database(work))
        print(size, "was read")
    except UserError as error:
        print(size, "refused:", error)
"""


def test_a_database_that_breaks_off_is_refused_and_does_not_kill_the_process(tmp_path):
    folder, _, _ = make(tmp_path, count=30, shape=(3, 50, 50))
    whole = (folder / "data.mdb").stat().st_size
    sizes = [0, 1, 100, 4096, 8192, 12288, *range(16384, whole, whole // 7), whole - 4096, whole - 1]
    words = [sys.executable, "-c", READ, folder, tmp_path / "work", *map(str, sizes)]
    ran = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, (ran.returncode, ran.stderr)  # a read past the end of the file would be SIGBUS
    for line, size in zip(ran.stdout.splitlines(), sizes, strict=True):
        assert line.startswith(f"{size} refused: "), line
        assert "make it again with create_db.py" in line


def test_a_folder_without_a_database_an_empty_one_and_other_keys_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no LMDB \(it has no data\.mdb\)"):
        len(Database(tmp_path))
    write_records(tmp_path / "empty", [])
    with pytest.raises(UserError, match="holds no records"):
        len(Database(tmp_path / "empty"))
    record = encode(np.zeros((1, 2, 2), np.uint8), 0)
    for name, keys in (("gap", [b"0000000000", b"0000000002"]), ("named", [b"0000000000_a", b"0000000001_b"])):
        write_records(tmp_path / name, [(key, record) for key in keys])
        with pytest.raises(UserError, match="its keys are not the record numbers 0 to 1"):
            len(Database(tmp_path / name))


@pytest.mark.parametrize("value", [b"", b"\xff\xff\xff", encode(np.zeros((1, 4, 4), np.uint8), 0)[:-3] + b"abc" * 9])
def test_a_record_that_is_no_datum_is_named_by_its_number(tmp_path, value):
    good = encode(np.zeros((1, 4, 4), np.uint8), 0)
    write_records(tmp_path / "db", [(b"%010d" % i, value if i == 2 else good) for i in range(4)])
    with pytest.raises(UserError, match="record 2 is damaged"):
        list(Database(tmp_path / "db"))


def test_a_database_is_carried_into_another_process_unopened(tmp_path):
    folder, patches, _ = make(tmp_path)
    used = Database(folder)
    assert len(used) == 12
    carried = pickle.loads(pickle.dumps(used))
    del used  # LMDB does not open one database twice in a process
    assert np.array_equal(carried[5][0][::-1], patches[5])


def test_the_folder_may_be_named_by_text_or_path(tmp_path):
    folder, _, _ = make(tmp_path)
    for name in (str(folder), Path(folder)):
        assert len(Database(name)) == 12
