"""``hcl data prepare SET``: from archives or folders to indexes."""

from __future__ import annotations

import argparse
import functools
import threading
from pathlib import Path
from typing import Any, get_args

from pretrain.core.arguments import add_output
from pretrain.core.command import Command
from pretrain.core.progress import Progress

READERS = {
    # name: (help, default release)
    "coco": ("COCO 2017, or any file of its format", "train2017"),
    "lvis": ("LVIS v1, on COCO's images", "train"),
    "openimages": ("OpenImages V4 to V7 boxes", "train"),
    "voc": ("Pascal VOC 2007 and 2012, or data in its form", "2012-trainval"),
    "ohms": ("the official dictionaries of HCL's subset of OpenImages", ""),
    "folder": ("any folder of images, without boxes", ""),
}

HELP = {
    "annotations": "annotation file (voc: the folder of Annotations, ImageSets and JPEGImages)",
    "images": "folder of the images",
    "classes": "class descriptions",
    "split": "which images: a list's name or file",
}


def _run(reader: str, arguments: argparse.Namespace) -> int:
    from pretrain.datasets.prepare import Plan, prepare

    names = (*_settings_of(reader), "on_bad_box", "on_bad_image", "leave_out")
    given: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    given = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    plan = Plan(
        reader,
        arguments.root,
        _release(reader, arguments),
        tuple(arguments.archive),
        arguments.download,
        given,
        arguments.output,
    )
    bytes_seen, lock = 0, threading.Lock()
    downloading, unpacking = Progress("MB received"), Progress("files unpacked")

    def received(count: int) -> None:
        nonlocal bytes_seen
        with lock:
            bytes_seen += count
            downloading(bytes_seen // 10**6)

    def say(line: str) -> None:
        downloading.close()
        print(line, flush=True)

    index = prepare(plan, say, received, unpacking)
    meta = index.meta
    dropped = ", ".join(f"{count} {reason}" for reason, count in meta["dropped"].items())
    print(f"{index.folder}: {len(index)} images, {index.box_count} boxes")
    print(f"  {len(index.categories)} categories; fingerprint {index.fingerprint[:16]}")
    print(f"  left out: {dropped or 'nothing'}; clipped: {meta['clipped']}")
    if (index.folder / "dropped.tsv").is_file():
        print(f"  what was left out as faulty: {index.folder / 'dropped.tsv'}")
    print(f"in the configuration of a run:\ndata:\n  reader: index\n  index: {index.folder}")
    return 0


def _settings_of(reader: str) -> list[str]:
    """The reader's own settings; the images of a plain folder are those of ROOT."""
    from pretrain.datasets.source import READERS

    own = (*READERS[reader].needs, *READERS[reader].takes)
    return [name for name in own if (reader, name) != ("folder", "images")]


def _release(reader: str, arguments: argparse.Namespace) -> str:
    """The release asked for; none where the user names files of his own."""
    if arguments.release is not None:
        return str(arguments.release)
    own = [getattr(arguments, name, None) for name in ("annotations", "images")]
    wanted = own[:1] if reader == "voc" else own
    return "" if all(wanted) else READERS[reader][1]


def _add_archives(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", type=Path, help="folder of the data")
    parser.add_argument(
        "--archive",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="zip or tar archives to unpack into ROOT",
    )


def _add_arguments(reader: str, parser: argparse.ArgumentParser) -> None:
    from pretrain.datasets.readers.common import FlagName
    from pretrain.datasets.releases import RELEASES

    _add_archives(parser)
    known = RELEASES.get(reader, {})
    parser.set_defaults(release=None, download=False)
    if known:
        parser.add_argument(
            "--release", choices=list(known), help=f"which part (default: {READERS[reader][1]})"
        )
        parser.add_argument(
            "--download", action="store_true", help="fetch the release's files into ROOT/downloads"
        )
    for name in _settings_of(reader):
        option = f"--{name.replace('_', '-')}"
        if name == "class_folders":
            parser.add_argument(
                option,
                action="store_true",
                default=None,
                help="label every image by its first folder, as one box",
            )
        else:
            kind = str if name == "split" else Path
            parser.add_argument(option, type=kind, metavar="PATH", help=HELP[name])
    parser.add_argument(
        "--leave-out",
        nargs="*",
        choices=get_args(FlagName),
        metavar="FLAG",
        help=f"flags of boxes to leave out: {', '.join(get_args(FlagName))} (default: group)",
    )
    for option, default, what in (
        ("--on-bad-box", "drop", "boxes without area or outside their image"),
        ("--on-bad-image", "error", "images missing or unreadable"),
    ):
        help_text = f"{what} (default: {default})"
        parser.add_argument(option, choices=["error", "drop"], default=default, help=help_text)
    add_output(
        parser, "folder of the index (default: below ROOT, for a plain folder beside it)", None
    )


def _prepare_miniplaces(arguments: argparse.Namespace) -> int:
    from pretrain.datasets.miniplaces.indexing import ANNOTATIONS, FAULTS, prepare

    root: Path = arguments.root
    made = prepare(root, tuple(arguments.archive), lambda line: print(line, flush=True))
    for index in made.indexes.values():
        boxes = "" if index.folder.name.startswith("index-scenes") else f", {index.box_count} boxes"
        print(f"{index.folder}: {len(index)} images, {len(index.categories)} categories{boxes}")
    for warning in made.warnings:
        print(f"warning: {warning}")
    if made.faults:
        file = root / ANNOTATIONS / FAULTS
        print(f"warning: left out as missing or faulty: {len(made.faults)}, named in {file}")
    train, val = (root / f"index-scenes-{split}" for split in ("train", "val"))
    print("to pretrain with proposals: hcl data propose", train, root / "index-proposals")
    print(f"to probe scenes: hcl probe RUN --labels image --train {train} --val {val} ...")
    if "objects-train" in made.indexes:
        print("to detect objects: hcl detect CONFIG --train ANNOTATIONS IMAGES ... with")
        for split in ("train", "val"):
            index = made.indexes[f"objects-{split}"]
            print(f"  {index.meta['source']['path']} {index.images}")
    return 0


COMMANDS = {
    reader: Command(
        f"data prepare {reader}",
        f"Make an index of a data set: {what}. What lies below ROOT is used as it is; archives "
        "given or found there are unpacked first; with --download they are fetched before that. "
        "Repeating a call continues where it was interrupted.",
        functools.partial(_add_arguments, reader),
        functools.partial(_run, reader),
        renamed={"--index": "--output"},
    )
    for reader, (what, _) in READERS.items()
}
COMMANDS["miniplaces"] = Command(
    "data prepare miniplaces",
    "Check MiniPlaces (development kit and data.tar.gz, or a subset) and write its "
    "scenes and outlined objects as COCO-form files and indexes. Nothing is downloaded: the "
    "images are for research and teaching, see the development kit's terms.",
    _add_archives,
    _prepare_miniplaces,
)
