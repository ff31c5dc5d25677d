"""From an index to one with proposals for boxes: parallel, and resumable after any stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.core.files import sha256, write_json
from pretrain.core.locks import alone_in
from pretrain.data.index import META, Index
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.proposals import shards
from pretrain.datasets.proposals.filters import FilterSettings
from pretrain.datasets.proposals.proposer import Proposer
from pretrain.datasets.records import Flag, Record, Stream

COMMAND = "hcl data propose"
VERSION = 1
"""Of the proposals: it changes whenever the same options give other boxes."""
CATEGORY = "proposal"
SCORES = "scores.npy"
BAD_IMAGES = "bad_images.jsonl"
SHARD = 8
"""Images of a shard where a method looks at pixels: a kill costs seconds of selective search."""
BLIND_SHARD = 8192
"""Images of a shard of the other methods, which take no time."""


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        index: with the proposals.
        tally: over all images; None where the index was there already.
        resumed: images of shards that were done before.
    """

    index: Index
    tally: shards.Tally | None
    resumed: int


def propose(
    index: Index,
    out: Path,
    proposer: Proposer,
    rule: FilterSettings,
    *,
    workers: int = 1,
    shard: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Write an index of the same images, in the same order, with proposals for boxes.

    Beside the index's own files, ``out`` holds the scores where there are any, and the images
    that could not be read. Finished shards are kept in ``OUT.partial`` until all are done, so the
    same call goes on where one before was stopped.

    Args:
        index: of the images; its boxes are not used.
        out: folder to make.
        proposer: the method.
        rule: which proposals are kept.
        workers: processes; the outcome does not depend on their number.
        shard: images per shard; None: as the method's speed suggests.
        progress: called with images done and images in all.

    Raises:
        InputError: ``out`` or ``OUT.partial`` holds something else, cannot be written or is in
            use, or no image can be read.
    """
    shard = shard or (SHARD if proposer.needs_image else BLIND_SHARD)
    options = {
        "command": COMMAND,
        "version": VERSION,
        "proposer": proposer.identity(),
        "filter": rule.model_dump(),
        "source": index.fingerprint,
    }
    out = out.expanduser().resolve()
    folder = out.with_name(f"{out.name}.partial")
    if out.exists():
        present = _present(out, options)
        shutil.rmtree(folder, ignore_errors=True)  # where a kill came just after the renaming
        return Outcome(present, None, len(index))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):
            _claim(folder, options | {"shard": shard})
            job = shards.Job(index, proposer, rule, folder, shard)
            resumed = _work(job, workers, progress)
            tally = _finish(job, out, options)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return Outcome(Index.open(out), tally, resumed)


def read_scores(folder: Path) -> NDArray[np.float32] | None:
    """The scores of all boxes of an index, float32 (boxes,), mapped; None without scores."""
    if not (folder / SCORES).is_file():
        return None
    scores: NDArray[np.float32] = np.load(folder / SCORES, mmap_mode="r", allow_pickle=False)
    return scores


def _present(out: Path, options: dict[str, Any]) -> Index:
    """The index in ``out``, if it is the wanted one."""
    if not Index.exists(out):
        raise InputError(f"{out}: is there already and is no index; choose another folder")
    index = Index.open(out)
    if index.meta["options"] != options:
        raise InputError(
            f"{out}: is there already and holds {_differences(index.meta['options'], options)}; "
            "choose another folder or delete it"
        )
    return index


def _claim(folder: Path, options: dict[str, Any]) -> None:
    """Write down what the shards in ``folder`` are of, or compare."""
    note = folder / "job.json"
    try:
        begun = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if {path.name for path in folder.iterdir()} - {".lock"}:
            raise InputError(
                f"{folder}: holds something other than unfinished proposals; move it away"
            ) from None
        write_json(note, options, indent=1)
        return
    except ValueError:
        begun = None
    if begun != json.loads(json.dumps(options)):
        raise InputError(
            f"{folder}: holds unfinished proposals of {_differences(begun, options)}; delete it, "
            "or go on with the options they were begun with"
        )


def _differences(held: Any, wanted: dict[str, Any]) -> str:
    """In words: in which options what is held differs from what is wanted."""
    held = held if isinstance(held, dict) else {}
    lines = []
    for key, value in wanted.items():
        other = held.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            parts = [name for name in value | other if value.get(name) != other.get(name)]
            lines += [
                f"{name} {other.get(name)!r} instead of {value.get(name)!r}" for name in parts
            ]
        elif other != value:
            lines.append(f"{key} {other!r} instead of {value!r}")
    return "other options (" + ", ".join(lines) + ")"


def _work(job: shards.Job, workers: int, progress: Callable[[int, int], None] | None) -> int:
    """Do what is not done yet; the number of images that were."""
    missing = [number for number in range(job.count) if job.read(number) is None]
    total = len(job.index)
    resumed = total - sum(len(job.rows(number)) for number in missing)
    for done in accumulate(shards.do_all(job, missing, workers), initial=resumed):
        if progress is not None:
            progress(done, total)
    return resumed


def _finish(job: shards.Job, out: Path, options: dict[str, Any]) -> shards.Tally:
    """Put the shards together, and the index in its place when it is complete."""
    source, tally, scores = job.index, shards.Tally(), []
    for shard in _shards(job):
        tally.add(shard.tally)
        if shard.scores is not None:
            scores.append(shard.scores)
    if tally.bad and len(tally.bad) == len(source):
        row, reason = tally.bad[0]
        raise InputError(
            f"{source.path(row)}: {reason}; and none of the other images could be read either"
        )
    made = job.folder / "index"
    shutil.rmtree(made, ignore_errors=True)
    build_index(_report(job, tally), made, options)
    if scores:
        with (made / SCORES).open("wb") as file:
            np.save(file, np.concatenate(scores), allow_pickle=False)
    lines = [
        json.dumps({"row": row, "path": str(source.path(row)), "reason": reason})
        for row, reason in tally.bad
    ]
    (made / BAD_IMAGES).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    made.rename(out)
    shutil.rmtree(job.folder, ignore_errors=True)
    return tally


def _shards(job: shards.Job) -> Iterator[shards.Shard]:
    for number in range(job.count):
        shard = job.read(number)
        assert shard is not None
        yield shard


def _records(job: shards.Job) -> Iterator[Record]:
    source, row = job.index, 0
    for shard in _shards(job):
        for boxes in np.split(shard.boxes, np.cumsum(shard.counts)[:-1]):
            labels = np.zeros(len(boxes), np.int32)
            width, height = source.size(row)
            name, image_id = source.file_name(row), source.image_id(row)
            flags = np.full(len(boxes), Flag.PROPOSAL, np.uint8)
            yield Record(name, width, height, boxes, labels, image_id, flags)
            row += 1


def _report(job: shards.Job, tally: shards.Tally) -> Stream:
    meta = job.index.folder.resolve() / META
    source = Stream(
        annotations=meta,
        images=job.index.images,
        records=_records(job),
        categories=(CATEGORY,),
        category_ids=(1,),
        dropped=dict(tally.left_out),
    )
    source.stamp(meta.stat(), sha256(meta))
    return source
