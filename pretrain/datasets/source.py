"""Which data a run uses, and its index: opened, or built where there is none yet."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from pretrain.core.errors import InputError
from pretrain.core.files import cache_folder, sha256
from pretrain.core.locks import in_turn
from pretrain.core.settings import Settings
from pretrain.data.index import VERSION, Index
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.readers import coco, folder, ohms, openimages, voc
from pretrain.datasets.readers.common import FlagName, OnBad, Options, need_folder
from pretrain.datasets.records import Stream

READER_VERSION = 2
"""Part of the cache's key; to be raised when a reader gives other records for the same file."""

CHOSEN_BY_READER = ("annotations", "images", "classes", "split", "class_folders")
"""Settings that only some readers know."""

ReaderName = Literal["coco", "openimages", "voc", "lvis", "folder", "ohms", "index"]


class DataSettings(Settings):
    """Where the images are and how they are read.

    Which of ``annotations``, ``images``, ``classes``, ``split`` and ``class_folders`` a reader
    needs and takes is in ``READERS``.

    Attributes:
        reader: the format; "index": a prepared index, and nothing else.
        annotations: the annotation file; for VOC the folder that holds Annotations, ImageSets and
            JPEGImages, or several such folders.
        images: the folder of the images. With reader "index" only if they have been moved.
        classes: class descriptions of OpenImages.
        split: which images: a list of VOC ("trainval"), a file of ImageIDs, a dictionary of OHMS.
        class_folders: label the images of a folder by its subfolders.
        leave_out: boxes with one of these flags are left out and counted.
        on_bad_box: "error", or "drop" to leave out and count boxes without area or outside their
            image. Official COCO train2017 has two boxes without area.
        on_bad_image: "error", or "drop" to leave out and count images that are missing, or whose
            size cannot be read where the annotations do not give it.
        index: folder of the index; None: below ``$XDG_CACHE_HOME/hcl`` or ``~/.cache/hcl``.
        workers: processes that decode, per training process; None: up to 8, as cores allow.
        prefetch: batches each worker keeps ready; None: up to 4, as shared memory allows.
        pack: folder of ``hcl data pack``: images come from there, decoded and shrunk.
        pairs: folder of the table of pairs that `hcl correspond` made of this data (ORL).
        crop_on: where views are cut. "worker": each sends its views. "device": workers only
            decode, which takes them less time, and the model's device cuts.
        max_bad_images: share of images that may be unreadable before the run stops.
    """

    reader: ReaderName = "coco"
    annotations: str | None = None
    images: str | None = None
    classes: str | None = None
    split: str | None = None
    class_folders: bool | None = None
    leave_out: tuple[FlagName, ...] = ("group",)
    on_bad_box: OnBad = "error"
    on_bad_image: OnBad = "error"
    index: str | None = None
    workers: Annotated[int, Field(ge=0)] | None = None
    prefetch: Annotated[int, Field(ge=1)] | None = None
    pack: str | None = None
    pairs: str | None = None
    crop_on: Literal["worker", "device"] = "worker"
    max_bad_images: Annotated[float, Field(ge=0, le=1)] = 0.001

    @model_validator(mode="after")
    def _fields_of_the_reader(self) -> Self:
        reader = READERS[self.reader]
        faults: list[InitErrorDetails] = []
        for name in (*CHOSEN_BY_READER, "index"):
            value = getattr(self, name)
            if value is None and name in reader.needs:
                faults.append(InitErrorDetails(type="missing", loc=(name,), input=None))
            if value is not None and name not in (*reader.needs, *reader.takes, "index"):
                error = PydanticCustomError(
                    "not_of_reader",
                    "reader '{reader}' does not use it; remove it, or set it to null",
                    {"reader": self.reader},
                )
                faults.append(InitErrorDetails(type=error, loc=(name,), input=value))
        if faults:
            raise ValidationError.from_exception_data("DataSettings", faults)
        return self

    @property
    def options(self) -> Options:
        """As the readers take them."""
        return Options(self.on_bad_box, self.on_bad_image, self.leave_out)


@dataclass(frozen=True)
class Reader:
    """How a reader is called.

    Attributes:
        needs: settings without which it cannot be.
        takes: further settings it knows.
        state: size and time of change of what it reads, without reading it.
        stream: of the settings that it needs and takes, by name, and of ``options``.
        keeps_sizes: ``stream`` takes ``cache`` as well, the database of the images' sizes.
    """

    needs: tuple[str, ...]
    takes: tuple[str, ...]
    state: Callable[[DataSettings], tuple[int, int]]
    stream: Callable[..., Stream]
    keeps_sizes: bool = False

    def read(self, settings: DataSettings) -> Stream:
        """The source of these settings."""
        own = _own(settings)
        if self.keeps_sizes:
            digest = hashlib.sha256(str(own["images"]).encode()).hexdigest()[:16]
            own["cache"] = cache_folder() / f"sizes-{digest}.sqlite"
        return self.stream(options=settings.options, **own)


def _file_state(settings: DataSettings) -> tuple[int, int]:
    annotations = _path(settings.annotations)
    try:
        stat = annotations.stat()
    except OSError as error:
        raise InputError(
            f"{annotations}: cannot read the annotation file ({error.strerror}); "
            "check data.annotations"
        ) from None
    return stat.st_size, stat.st_mtime_ns


def _voc_state(settings: DataSettings) -> tuple[int, int]:
    root = _path(settings.annotations)
    need_folder(root, "data.annotations")
    return voc.state(root, settings.split or "trainval")


def _folder_state(settings: DataSettings) -> tuple[int, int]:
    return folder.state(_path(settings.images))


def _no_source(_: DataSettings) -> Any:
    raise AssertionError("an index is opened, not read")


_FILES = ("annotations", "images")
_OPENIMAGES = (_FILES, ("classes", "split"), _file_state)
READERS: dict[str, Reader] = {
    "coco": Reader(_FILES, (), _file_state, coco.stream),
    "lvis": Reader(_FILES, (), _file_state, coco.stream_lvis),
    "openimages": Reader(*_OPENIMAGES, openimages.stream, keeps_sizes=True),
    "ohms": Reader(*_OPENIMAGES, ohms.stream, keeps_sizes=True),
    "voc": Reader(("annotations",), ("split",), _voc_state, voc.stream),
    "index": Reader(("index",), ("images",), _no_source, _no_source),
    "folder": Reader(
        ("images",), ("class_folders",), _folder_state, folder.stream, keeps_sizes=True
    ),
}
"""By name; "index" reads nothing."""


def open_index(settings: DataSettings) -> Index:
    """Open the index of these settings; build it where there is none yet.

    Any number of processes may call this at once.

    Raises:
        InputError: the source is at fault, or ``settings.index`` is an index of another source.
    """
    if settings.reader == "index":
        return _open_prepared(settings)
    reader = READERS[settings.reader]
    size, changed = reader.state(settings)
    options: dict[str, Any] = {
        "reader": settings.reader,
        "reader_version": READER_VERSION,
        "on_bad_box": settings.on_bad_box,
        "on_bad_image": settings.on_bad_image,
        "leave_out": sorted(settings.leave_out),
        **_chosen(settings),
    }
    source = {"size": size, "mtime_ns": changed}
    key = hashlib.sha256(json.dumps([VERSION, options, source], sort_keys=True).encode())
    place = cache_folder() / f"index-{key.hexdigest()[:16]}"
    target = place if settings.index is None else _path(settings.index)
    with _lock(target):
        if not Index.exists(target):
            build_index(reader.read(settings), target, options)
    index = Index.open(target)
    written = index.meta["source"]
    same = all(written[key] == source[key] for key in source)
    # A copy has another time of change, but the same content.
    if index.meta["options"] != options or not (same or _same_content(settings, written["sha256"])):
        raise InputError(
            f"{target}: this index was built from {written['path']} with other options or before "
            "that file changed; delete the folder, or set data.index to another one"
        )
    return index


def _open_prepared(settings: DataSettings) -> Index:
    target = _path(settings.index)
    if not Index.exists(target):
        raise InputError(
            f"{target}: no index here; check data.index, or make it: hcl data prepare --help"
        )
    images = None if settings.images is None else _path(settings.images)
    index = Index.open(target, images)
    need_folder(index.images, "data.images")
    return index


def _own(settings: DataSettings) -> dict[str, Any]:
    """The reader's own settings, as far as they are given; paths in full."""
    paths = ["annotations", "images", "classes", *(["split"] if settings.reader != "voc" else [])]
    given = {name: getattr(settings, name) for name in CHOSEN_BY_READER}
    return {
        name: _path(value) if name in paths else value
        for name, value in given.items()
        if value is not None
    }


def _chosen(settings: DataSettings) -> dict[str, Any]:
    """The reader's own settings as plain values; files beside the source by their content."""
    chosen: dict[str, Any] = {}
    for name, value in _own(settings).items():
        chosen[name] = str(value) if isinstance(value, Path) else value
        if name in ("classes", "split") and isinstance(value, Path):
            try:
                chosen[f"{name}_sha256"] = sha256(value)
            except InputError as error:
                raise InputError(f"{error}; check data.{name}") from None
    return chosen


def _same_content(settings: DataSettings, digest: str) -> bool:
    file = _path(settings.annotations) if settings.annotations else None
    return file is not None and file.is_file() and sha256(file) == digest


def _path(path: str | None) -> Path:
    assert path is not None, "the settings have been checked for the reader"
    return Path(path).expanduser().resolve()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process at a time build the index, so that the others need not read the source.

    Where the file system has no locks they all build, and the first to finish wins.
    """
    if Index.exists(folder):
        yield
        return
    lock = folder.parent / f".{folder.name}.lock"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(in_turn(lock))
        except OSError as error:
            raise InputError(
                f"{folder}: cannot write the index ({error.strerror}); set data.index to a folder "
                "that can be written"
            ) from None
        yield
