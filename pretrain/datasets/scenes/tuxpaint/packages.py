"""Where the pictures come from: Debian packages, unpacked but not installed."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pretrain.core.errors import InputError
from pretrain.core.files import cache_folder, read_json, scratch_beside
from pretrain.datasets.scenes.tuxpaint.catalog import BACKGROUNDS

STAMPS = "tuxpaint-stamps-default"
DATA = "tuxpaint-data"
OPTIONAL = tuple(name for name in BACKGROUNDS if name != DATA)
PACKAGES = (STAMPS, DATA, *OPTIONAL)
VERSIONS = "versions.json"
TIMEOUT = 1800
"""Seconds for a package to arrive or to be unpacked."""


@dataclass(frozen=True)
class PackageFiles:
    """Packages on the disk.

    Attributes:
        share: the folder that holds ``tuxpaint``, and ``backgrounds`` where there are any.
        versions: by package; "unknown" where nothing tells.
    """

    share: Path
    versions: dict[str, str]


def locate(folder: Path | None) -> PackageFiles:
    """Find the packages, or fetch them with apt-get.

    Args:
        folder: where they have been unpacked (``dpkg-deb -x``); None: below the cache folder,
            else where they are installed, else they are fetched into the cache folder.

    Raises:
        InputError: there is nothing of the kind, or fetching failed.
    """
    if folder is not None:
        found = look(folder.expanduser().resolve())
        if found is None:
            raise InputError(
                f"{folder}: holds no tuxpaint/stamps and tuxpaint/templates; fetch them with "
                f"'apt-get download {STAMPS} {DATA}' and unpack each with 'dpkg-deb -x FILE "
                f"{folder}'"
            )
        return found
    cached = cache_folder() / "tuxpaint"
    found = look(cached) or look(Path("/usr"))
    if found is None:
        fetch(cached)
        found = look(cached)
    assert found is not None
    return found


def look(folder: Path) -> PackageFiles | None:
    """The packages in a folder, if it holds the two that must be there."""
    for share in (folder / "usr/share", folder / "share", folder):
        if (share / "tuxpaint/stamps").is_dir() and (share / "tuxpaint/templates").is_dir():
            names = [
                name
                for name in PACKAGES
                if name in (STAMPS, DATA) or (share / BACKGROUNDS[name][0]).is_dir()
            ]
            return PackageFiles(share, {name: _version(folder, share, name) for name in names})
    return None


def fetch(folder: Path) -> None:
    """Download the packages and unpack them into a folder that appears complete or not at all.

    Raises:
        InputError: there is no apt-get or dpkg-deb, or one of them failed.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise InputError(
                f"--source tuxpaint needs Debian's packages {', '.join(PACKAGES)}, and there is "
                f"no {tool} here to fetch them; unpack them elsewhere, copy usr/share here and "
                "give its folder: --source tuxpaint:DIR"
            )
    with scratch_beside(folder) as temporary:
        versions = {}
        for package in PACKAGES:
            archives = temporary / "archives" / package
            archives.mkdir(parents=True)
            _run(["apt-get", "download", package], archives)
            archive = str(next(archives.glob("*.deb")))
            _run(["dpkg-deb", "-x", archive, str(temporary)], temporary)
            versions[package] = _run(["dpkg-deb", "-f", archive, "Version"], temporary).strip()
        shutil.rmtree(temporary / "archives")
        (temporary / VERSIONS).write_text(json.dumps(versions, indent=1), encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            # Another process may have been faster.
            if look(folder) is None:
                raise InputError(
                    f"{folder}: holds something other than the packages; delete it"
                ) from None


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"'{' '.join(command)}' took more than {TIMEOUT} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        reason = (errors or done.stderr.splitlines() or ["no message"])[0]
        raise InputError(
            f"'{' '.join(command)}' failed: {reason}; run 'apt-get update' first, or give the "
            "folder of the unpacked packages: --source tuxpaint:DIR"
        )
    return done.stdout


def _version(folder: Path, share: Path, package: str) -> str:
    """As noted when the package was fetched, else by its changelog."""
    noted = read_json(folder / VERSIONS)
    if isinstance(noted, dict) and package in noted:
        return str(noted[package])
    try:
        with gzip.open(share / "doc" / package / "changelog.Debian.gz", "rt") as text:
            found = re.match(r"\S+ \((\S+)\)", text.readline())
    except (OSError, EOFError, ValueError):
        found = None
    return found.group(1) if found else "unknown"
