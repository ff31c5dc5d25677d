"""From archives or folders of a known data set to an index, by steps that can be repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.core.errors import InputError
from pretrain.core.settings import parse
from pretrain.data.index import Index
from pretrain.datasets.archives import DOWNLOADS, find_archives, unpack
from pretrain.datasets.download import download_all
from pretrain.datasets.releases import RELEASES, Release
from pretrain.datasets.source import DataSettings, open_index

Say = Callable[[str], None]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """What to prepare.

    Attributes:
        reader: of the data set.
        root: folder of the data, unpacked or to be unpacked.
        release: key in ``RELEASES[reader]``; "" for data of the user's own.
        archives: to unpack into the root, besides those of the release that lie below the root.
        download: fetch the release's files first.
        given: settings of the reader that replace the release's: annotations, images, ...
        index: folder of the index; None: ``index-RELEASE`` below the root, for a plain folder
            ``ROOT-index`` beside it.
    """

    reader: str
    root: Path
    release: str = ""
    archives: tuple[Path, ...] = ()
    download: bool = False
    given: dict[str, Any] = field(default_factory=dict)
    index: Path | None = None


def prepare(
    plan: Plan, say: Say, received: Progress | None = None, unpacked: Progress | None = None
) -> Index:
    """Download if asked, unpack what is not unpacked, read and index.

    Every step finds what an earlier call has done.

    Args:
        plan: what to do.
        say: is told of every step in a line.
        received: called with bytes downloaded since its last call, by any thread.
        unpacked: called with the number of members of an archive seen.

    Raises:
        InputError: naming what is missing or wrong, and what to do.
    """
    release = RELEASES.get(plan.reader, {}).get(plan.release)
    if plan.download:
        _download(plan, release, say, received)
    names = [file.name for file in release.files] if release else []
    for archive in find_archives(plan.root, plan.archives, names):
        target = plan.root / (release.unpack_to if release else "")
        for line in unpack(archive, target, unpacked).lines():
            say(line)
    settings = _settings(plan, release)
    _check_present(plan, release, settings)
    say(f"reading {settings.annotations or settings.images}")
    return open_index(settings)


def _download(plan: Plan, release: Release | None, say: Say, received: Progress | None) -> None:
    if release is None:
        raise InputError(f"--download: nothing is known to download for '{plan.reader}'")
    archives = [file for file in release.files if not file.folder]
    others = [file for file in release.files if file.folder]
    unchecked = [file.name for file in release.files if not file.md5]
    if unchecked:
        say(f"no published checksum, size alone is checked: {', '.join(unchecked)}")
    download_all(archives, plan.root / DOWNLOADS, received)
    for file in others:
        download_all([file], plan.root / file.folder, received)
    say(f"downloaded: {', '.join(file.name for file in release.files)}")


def _settings(plan: Plan, release: Release | None) -> DataSettings:
    values: dict[str, Any] = {"reader": plan.reader}
    if release is not None:
        values["annotations"] = str(plan.root / release.annotations)
        if plan.reader != "voc":
            values["images"] = str(plan.root / release.images)
        if release.classes:
            values["classes"] = str(plan.root / release.classes)
        if release.split:
            values["split"] = release.split
    if plan.reader == "folder":
        values["images"] = str(plan.root)
    values.update({name: value for name, value in plan.given.items() if value is not None})
    values["index"] = str(plan.index or _default_index(plan))
    return parse(DataSettings, values, source=f"hcl data prepare {plan.reader}")


def _default_index(plan: Plan) -> Path:
    if plan.reader == "folder":  # what lies in the folder is what is indexed
        root = plan.root.expanduser().resolve()
        return root.with_name(f"{root.name}-index")
    return plan.root / f"index-{plan.release or plan.reader}"


def _check_present(plan: Plan, release: Release | None, settings: DataSettings) -> None:
    """Say how to get what is missing, while it is known what that is."""
    wanted = [settings.annotations, settings.images, settings.classes]
    missing = [path for path in wanted if path is not None and not Path(path).exists()]
    if not missing:
        return
    remedy = "check the path"
    if release is not None:
        names = ", ".join(file.name for file in release.files[:4])
        more = ", ..." if len(release.files) > 4 else ""
        remedy = (
            f"put the archives ({names}{more}) into {plan.root / DOWNLOADS} or give them with "
            "--archive, or add --download"
        )
    raise InputError(f"{missing[0]}: not there; {remedy}")
