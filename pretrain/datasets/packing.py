"""Make a packed cache shard by shard, so that nothing done is lost."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.core.files import read_json, remove_unfinished, replacing, write_json
from pretrain.core.locks import alone_in
from pretrain.data.decode import ImageError, Scratch, read_image
from pretrain.data.index import Index
from pretrain.data.pack import META, VERSION, Pack, image_digest, shard_file

ROWS_PER_SHARD = 1000
STARTED = "started.json"
"""What an unfinished pack is made of and how; in the way of going on with something else."""


def shrunk_size(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """Width and height with a shorter side of at most ``side``, the aspect kept."""
    if side is None or min(size) <= side:
        return size
    width, height = (max(1, round(value * side / min(size))) for value in size)
    return width, height


def shrink(image: Tensor, side: int | None) -> Tensor:
    """The image uint8 (3, H, W), antialiased, with a shorter side of at most ``side``.

    Never enlarged.
    """
    width, height = shrunk_size((image.shape[2], image.shape[1]), side)
    if (height, width) == tuple(image.shape[1:]):
        return image
    part = image[None].contiguous(memory_format=torch.channels_last)
    return torch.nn.functional.interpolate(part, (height, width), mode="bilinear", antialias=True)[
        0
    ]


def write(
    index: Index,
    folder: Path,
    side: int | None,
    *,
    workers: int = 1,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Callable[[int], None] | None = None,
) -> Pack:
    """Make a pack of the index's images, or finish one that was interrupted.

    A shard appears complete or not at all; those that are there are not made again. Images that
    cannot be read are recorded with the reason and take no space.

    Args:
        index: of the data set.
        folder: to create or to go on with.
        side: greatest shorter side of a packed image, px; None: do not shrink.
        workers: processes.
        rows_per_shard: images of one file.
        progress: told the number of images done.

    Raises:
        InputError: the folder cannot be written, is too small, or holds something else.
    """
    work = _Work(index, folder, side, rows_per_shard)
    settings = {
        "version": VERSION,
        "side": side,
        "count": len(index),
        "rows_per_shard": rows_per_shard,
        "images": image_digest(index),
    }
    with alone_in(folder, "another process is packing into this folder"):
        if Pack.exists(folder):
            pack = Pack.open(folder)
            if any(pack.meta[key] != value for key, value in settings.items()):
                raise InputError(
                    f"{folder}: holds a pack of other images or of another side; choose another "
                    "folder or delete this one"
                )
            return pack
        _start(folder, settings)
        shards = range(-(-len(index) // rows_per_shard))
        todo = [number for number in shards if not _record(folder, number).is_file()]
        _require_space(work, todo)
        done = sum(len(work.rows(number)) for number in shards if number not in set(todo))
        for number in _make(work, todo, workers):
            done += len(work.rows(number))
            if progress is not None:
                progress(done)
        _finish(folder, settings | {"fingerprint": index.fingerprint}, len(shards))
    return Pack.open(folder)


@dataclass(frozen=True)
class _Work:
    """What is packed, where and how."""

    index: Index
    folder: Path
    side: int | None
    rows_per_shard: int

    def rows(self, number: int) -> range:
        """Of a shard."""
        first = number * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, len(self.index)))

    def write_shard(self, number: int) -> int:
        """Write the images, then the record that says that they are there."""
        sizes, bad, digest, written = [], [], hashlib.sha256(), 0
        scratch, file = Scratch(), shard_file(self.folder, number)
        with replacing(file, durable=True) as output:
            for row in self.rows(number):
                try:
                    image = read_image(self.index.path(row), self.index.size(row), scratch)
                except ImageError as error:
                    bad.append((row, str(error)))
                    sizes.append((0, 0))
                    continue
                image = shrink(image, self.side)
                pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
                output.write(pixels.data)
                digest.update(pixels.data)
                sizes.append((image.shape[2], image.shape[1]))
                written += pixels.size
        record = {"bytes": written, "sha256": digest.hexdigest(), "sizes": sizes, "bad": bad}
        write_json(_record(self.folder, number), record, durable=True)
        return number


def _make(work: _Work, todo: list[int], workers: int) -> Iterator[int]:
    """Make these shards; yields the number of each that is complete."""
    kept = "what is complete is kept, run the command again to go on"
    try:
        if workers <= 1 or len(todo) <= 1:
            yield from map(work.write_shard, todo)
            return
        with ProcessPoolExecutor(workers, get_context("fork"), torch.set_num_threads, (1,)) as pool:
            jobs = [pool.submit(work.write_shard, number) for number in todo]
            try:
                for job in as_completed(jobs):
                    yield job.result()
            finally:
                pool.shutdown(cancel_futures=True)
    except OSError as error:
        raise InputError(
            f"{work.folder}: cannot write the pack ({error.strerror}); {kept}"
        ) from None
    except BrokenProcessPool:
        raise InputError(
            f"{work.folder}: a process was ended from outside, perhaps for lack of memory; "
            f"{kept}, with fewer --workers"
        ) from None


def _finish(folder: Path, meta: dict[str, Any], shards: int) -> None:
    records = [json.loads(_record(folder, n).read_text(encoding="utf-8")) for n in range(shards)]
    sizes = [np.array(record["sizes"], np.int32).reshape(-1, 2) for record in records]
    lengths = [3 * part.astype(np.int64).prod(1) for part in sizes]
    offsets = [np.cumsum(part) - part for part in lengths]
    for name, parts in (("sizes", sizes), ("offsets", offsets)):
        with replacing(folder / f"{name}.npy", durable=True) as file:
            np.save(file, np.concatenate(parts), allow_pickle=False)
    meta["shards"] = [{key: record[key] for key in ("bytes", "sha256")} for record in records]
    meta["bad"] = [entry for record in records for entry in record["bad"]]
    write_json(folder / META, meta, durable=True)
    for number in range(shards):
        _record(folder, number).unlink()
    (folder / STARTED).unlink()


def _start(folder: Path, settings: dict[str, Any]) -> None:
    """Note what is being made; refuse to go on with something else."""
    started = folder / STARTED
    remove_unfinished(folder)
    if started.is_file():
        if read_json(started) != settings:
            raise InputError(
                f"{folder}: holds an unfinished pack of other images or of another side; choose "
                "another folder or delete this one"
            )
        return
    others = [path.name for path in folder.iterdir() if path.name != ".lock"]
    if others:
        raise InputError(f"{folder}: holds {others[0]}, which is no pack; choose another folder")
    write_json(started, settings, durable=True)


def _require_space(work: _Work, todo: list[int]) -> None:
    sizes = (work.index.size(row) for number in todo for row in work.rows(number))
    needed = sum(3 * math.prod(shrunk_size(size, work.side)) for size in sizes)
    free = shutil.disk_usage(work.folder).free
    if needed > free:
        raise InputError(
            f"{work.folder}: the pack needs {needed / 1e9:.1f} GB more, but {free / 1e9:.1f} GB "
            "are free; choose a smaller --side or another disk"
        )


def _record(folder: Path, number: int) -> Path:
    """Written after its shard: the mark that the shard is complete."""
    return folder / f"shard-{number:05d}.json"
