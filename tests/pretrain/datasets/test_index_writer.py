from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pretrain.core.errors import InputError
from pretrain.data.index import COLUMNS, Index
from pretrain.datasets import index_writer
from pretrain.datasets.index_writer import IndexWriter, build_index
from pretrain.datasets.records import Flag, Record, Stream

END = Stream(
    Path("x"),
    Path("images"),
    categories=("a",),
    category_ids=(7,),
    source_size=1,
    source_mtime_ns=2,
    source_sha256="3",
)


def record(number: int, count: int) -> Record:
    rng = np.random.default_rng(number)
    boxes = rng.random((count, 4), np.float32)
    flags = rng.integers(0, 127, count, np.uint8) if number % 3 else None
    return Record(f"{number}.jpg", 10 + number, 20, boxes, np.zeros(count, np.int32), number, flags)


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_spilled_in_any_batches_the_same(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(index_writer, "BATCH", batch)
    counts = [0, 3, 0, 500, 1, 2, 0]
    with IndexWriter(tmp_path / "index", tmp_path) as writer:
        for number, count in enumerate(counts):
            writer.append(record(number, count))
        writer.finish(END)
    index = Index.open(tmp_path / "index")
    index.verify()
    assert [len(index.boxes(row)) for row in range(7)] == counts
    for row, count in enumerate(counts):
        wanted = record(row, count)
        assert index.file_name(row) == wanted.file_name
        assert index.size(row) == (10 + row, 20)
        np.testing.assert_array_equal(index.boxes(row), wanted.boxes)
        flags = np.zeros(count, np.uint8) if wanted.flags is None else wanted.flags
        np.testing.assert_array_equal(index.flags(row), flags)
        assert index.flags(row).dtype == np.uint8


def test_an_empty_index(tmp_path):
    with IndexWriter(tmp_path / "index", tmp_path) as writer:
        writer.finish(END)
    assert len(Index.open(tmp_path / "index")) == 0


def test_nothing_is_left_where_the_records_fail(tmp_path):
    def records():
        yield record(0, 2)
        raise InputError("line 7 is at fault")

    with pytest.raises(InputError, match="line 7 is at fault"):
        build_index(Stream(tmp_path, tmp_path, records()), tmp_path / "cache/index")
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_appears_before_the_end(tmp_path):
    with IndexWriter(tmp_path / "cache/index", tmp_path) as writer:
        writer.append(record(0, 2))
        assert not (tmp_path / "cache/index").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_dropped_things_are_listed(tmp_path):
    source = Stream(tmp_path, tmp_path)

    def records():
        source.drop("outside the image", "a\tb.jpg", "box\n3")
        source.drop("outside the image", "c.jpg", "box 4")
        yield record(0, 1)

    source.records = records()
    index = build_index(source, tmp_path / "index")
    assert index.meta["dropped"] == {"outside the image": 2}
    assert (index.folder / "dropped.tsv").read_text() == (
        "outside the image\ta b.jpg\tbox 3\noutside the image\tc.jpg\tbox 4\n"
    )


def test_a_full_disk_is_the_users_to_mend(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(InputError, match=r"index: cannot write the index \(No space left"),
        IndexWriter(tmp_path / "cache/index", tmp_path) as writer,
    ):
        writer.append(record(0, 2))
        monkeypatch.setattr(index_writer._Column, "append", full)
        writer.finish(END)
    assert list((tmp_path / "cache").iterdir()) == []


def test_memory_does_not_grow_with_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(index_writer, "BATCH", 64)

    def peak(count: int) -> int:
        boxes, labels = np.ones((200, 4), np.float32), np.zeros(200, np.int32)
        tracemalloc.start()
        with IndexWriter(tmp_path / f"index{count}", tmp_path) as writer:
            for number in range(count):
                writer.append(Record(f"{number}.jpg", 1, 1, boxes, labels, number))
            writer.finish(END)
        _, greatest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return greatest

    peak(64)  # imports and caches
    assert peak(4000) < peak(400) + 300_000  # the columns themselves hold 12 MB more


def test_columns_have_the_headers_numpy_writes(tmp_path):
    with IndexWriter(tmp_path / "index", tmp_path) as writer:
        writer.append(record(1, 2))
        writer.finish(END)
    for name, (dtype, _) in COLUMNS.items():
        file: Path = tmp_path / f"index/{name}.npy"
        column = np.load(file)
        assert column.dtype == dtype
        np.save(tmp_path / "again.npy", column)
        assert (tmp_path / "again.npy").read_bytes() == file.read_bytes()


def test_moved_images(tmp_path):
    with IndexWriter(tmp_path / "index", tmp_path) as writer:
        writer.append(record(1, 2))
        writer.finish(END)
    index = Index.open(tmp_path / "index", tmp_path / "scratch")
    assert index.path(0) == tmp_path / "scratch/1.jpg"
    reopen, arguments = index.__reduce__()
    assert reopen(*arguments).path(0) == tmp_path / "scratch/1.jpg"


def test_flags_are_bits_of_a_byte():
    assert sum(Flag) < 256
    assert len({int(flag).bit_count() for flag in Flag}) == 1
