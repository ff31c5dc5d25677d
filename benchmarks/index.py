"""The index at the size of OpenImages: time to build and to open, memory of every worker.

    python benchmarks/index.py --out benchmarks/results/index_openimages_size.json

Writes a synthetic index record by record, opens it, and has workers read random rows, once
forked from a process that holds the index, once spawned, as a DataLoader does either way.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from surroundings import surroundings

from pretrain.data.index import Index
from pretrain.datasets.index_writer import IndexWriter
from pretrain.datasets.records import Record, Stream

CLASSES = 600
MIB = 2**20


def records(images: int, boxes: int) -> Iterator[Record]:
    """Boxes spread over images as in OpenImages: a few in most, hundreds in some."""
    rng = np.random.default_rng(0)
    shares = rng.lognormal(0, 1, images)
    ends = np.minimum(np.round(np.cumsum(shares) / shares.sum() * boxes), boxes).astype(np.int64)
    start = 0
    for row, end in enumerate(ends):
        count = int(end - start)
        corners = rng.random((count, 4), np.float32)
        corners[:, 2:] += corners[:, :2]
        yield Record(
            f"train_{row % 16:x}/{row * 0x9E3779B97F4A7C15 % 2**64:016x}.jpg",
            1024,
            683,
            corners * np.float32(340),
            rng.integers(0, CLASSES, count, np.int32),
            row,
            rng.integers(0, 64, count, np.uint8),
        )
        start = end


def build(folder: Path, images: int, boxes: int) -> dict[str, float]:
    """Time and greatest memory of a build in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_build, args=(folder, images, boxes, sender)
    )
    process.start()
    found: dict[str, float] = receiver.recv()
    process.join()
    return found


def _build(folder: Path, images: int, boxes: int, sender: Connection) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    generating = 0.0
    with IndexWriter(folder, folder.parent) as writer:
        source = records(images, boxes)
        while True:
            asked = time.perf_counter()
            record = next(source, None)
            generating += time.perf_counter() - asked
            if record is None:
                break
            writer.append(record)
        written = time.perf_counter()
        names = tuple(f"class {n}" for n in range(CLASSES))
        made_up = Path("synthetic")
        writer.finish(
            Stream(made_up, made_up, categories=names, category_ids=tuple(range(CLASSES)))
        )
    end = time.perf_counter()
    sender.send(
        {
            "append_s": round(written - start - generating, 2),
            "finish_s": round(end - written, 2),
            "making_up_records_s": round(generating, 2),
            "private_mib_at_the_end": round(memory()["private_mib"], 1),
            "greatest_resident_mib": round(
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1
            ),
            "resident_mib_before": round(before / 1024, 1),
        }
    )


def memory() -> dict[str, float]:
    """Of this process, MiB: proportional share, private, shared."""
    fields: dict[str, int] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, _ = line.split()
        fields[name.rstrip(":")] = int(value)
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return {"pss_mib": fields["Pss"] / 1024, "private_mib": private / 1024}


def _read_rows(index: Index, seed: int, rows: int, connection: Connection) -> None:
    """Report before the first access, then after it; wait so that all hold their pages at once."""
    start = memory()
    rng = np.random.default_rng(seed)
    began = time.process_time()
    total = 0.0
    for row in rng.integers(0, len(index), rows):
        index.path(int(row)), index.size(int(row)), index.labels(int(row)), index.flags(int(row))
        boxes = index.boxes(int(row))
        total += float(boxes.sum())
    seconds = time.process_time() - began
    connection.send("ready")
    connection.recv()
    connection.send({"start": start, "end": memory(), "us_a_row": seconds / rows * 1e6})
    connection.recv()


def workers(index: Index, method: str, count: int, rows: int) -> dict[str, Any]:
    """Memory of ``count`` workers that have each read ``rows`` random rows."""
    context = multiprocessing.get_context(method)
    pipes, processes = [], []
    for seed in range(count):
        here, there = context.Pipe()
        process = context.Process(target=_read_rows, args=(index, seed, rows, there))
        process.start()
        pipes.append(here)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("measure")
    found = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send("end")
    for process in processes:
        process.join()
    return {
        "workers": count,
        "rows_read_each": rows,
        "private_mib_greatest": round(max(f["end"]["private_mib"] for f in found), 1),
        "private_mib_by_reading": round(
            max(f["end"]["private_mib"] - f["start"]["private_mib"] for f in found), 1
        ),
        "pss_mib_greatest": round(max(f["end"]["pss_mib"] for f in found), 1),
        "cpu_us_a_row_median": round(float(np.median([f["us_a_row"] for f in found])), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1_700_000)
    parser.add_argument("--boxes", type=int, default=15_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=100_000, help="random rows a worker reads")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    machine = surroundings(packages=("numpy",))
    temporary = Path(tempfile.mkdtemp(prefix="index-benchmark-"))
    try:
        folder = temporary / "index"
        built = build(folder, arguments.images, arguments.boxes)
        opening = []
        for _ in range(5):
            start = time.perf_counter()
            index = Index.open(folder)
            opening.append(time.perf_counter() - start)
        start = time.perf_counter()
        index.verify()
        verified = time.perf_counter() - start
        index = Index.open(folder)
        result = {
            "images": len(index),
            "boxes": index.box_count,
            "index_mib": round(sum(f.stat().st_size for f in folder.iterdir()) / MIB, 1),
            "build": built,
            "open_s": round(float(np.median(opening)), 5),
            "open_s_greatest": round(max(opening), 5),
            "verify_s": round(verified, 2),
            "forked": workers(index, "fork", arguments.workers, arguments.rows),
            "spawned": workers(index, "spawn", arguments.workers, arguments.rows),
            "machine": machine,
        }
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
