"""The table, the packages and the command; the pictures stand in for themselves."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hcl
from pretrain.core.errors import InputError
from pretrain.core.files import cache_folder
from pretrain.datasets.commands.scenes import open_source
from pretrain.datasets.scenes.coco_writer import annotation_file
from pretrain.datasets.scenes.cutouts import Picture
from pretrain.datasets.scenes.tuxpaint import packages
from pretrain.datasets.scenes.tuxpaint.bank import HELD_OUT, open_tuxpaint, part
from pretrain.datasets.scenes.tuxpaint.catalog import (
    BACKGROUNDS,
    CATEGORIES,
    DISTRACTOR,
    TOGETHER,
    WORLD,
    cutouts,
)


def test_the_table_is_sound() -> None:
    table = cutouts()
    assert list(table) == [category.name for category in CATEGORIES] + [DISTRACTOR]
    paths = [path for paths in table.values() for path in paths]
    assert len(paths) == len(set(paths)) == 332
    assert all(len(paths) >= 3 for paths in table.values())
    assert {path for group in TOGETHER for path in group} <= set(paths)
    for category in CATEGORIES:
        assert set(category.contexts) <= set(WORLD.names)
    for context in WORLD.names:
        assert len(WORLD.contexts[context]) >= 3
        assert len(WORLD.foreign[context]) >= 3


def test_the_split_parts_pictures_and_never_what_belongs_together() -> None:
    for paths in cutouts().values():
        pictures = [Picture(path, Path(path)) for path in paths]
        train, val = part(pictures, "train"), part(pictures, "val")
        assert sorted(p.name for p in train + val) == sorted(paths)
        assert len(train) >= 2
        assert len(val) >= 1
        assert len(val) <= max(1, len(paths) // HELD_OUT) + 1
        for group in TOGETHER:
            inside = [split for split in (train, val) if {p.name for p in split} & set(group)]
            assert len(inside) <= 1
        # Held out for ever: neither order nor anything random takes part.
        assert {p.name for p in part(pictures[::-1], "val")} == {p.name for p in val}


def changelog(share: Path, package: str, version: str) -> None:
    folder = share / "doc" / package
    folder.mkdir(parents=True)
    with gzip.open(folder / "changelog.Debian.gz", "wt") as text:
        text.write(f"source-name ({version}) unstable; urgency=medium\n\n  * Change.\n")


def unpack(root: Path, optional: bool = False) -> Path:
    """A tree as dpkg-deb leaves it, with small pictures of our own."""
    share = root / "usr/share"
    rng = np.random.default_rng(0)
    pixels = np.zeros((24, 24, 4), np.uint8)
    for paths in cutouts().values():
        pixels[3:-3, 3:-3] = (*rng.integers(0, 256, 3), 255)
        picture = Image.fromarray(pixels)
        for path in paths:
            file = share / "tuxpaint/stamps" / f"{path}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
    for package, (place, names) in BACKGROUNDS.items():
        if package != packages.DATA and not optional:
            continue
        (share / place).mkdir(parents=True, exist_ok=True)
        for name in names.split():
            noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((80, 60)).save(share / place / f"{name}.jpg")
    changelog(share, packages.STAMPS, "2022.06.04-1")
    changelog(share, packages.DATA, "1:0.9.28-sdl2-1")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("unpacked"))


def run(*arguments: object) -> int:
    return hcl.main(["data", "scenes", *map(str, arguments)])


SMALL = ["--images", "6", "--val", "3", "--size", "64", "--workers", "1"]


def test_the_command_makes_scenes_and_notes_their_origin(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert run(out, *SMALL, "--source", f"tuxpaint:{tree}") == 0
    assert "6 training and 3 validation scenes" in capsys.readouterr().out
    document = json.loads(annotation_file(out, "train").read_text())
    info = document["info"]
    assert info["source"] == "tuxpaint"
    assert info["packages"] == {
        "tuxpaint-stamps-default": "2022.06.04-1",
        "tuxpaint-data": "1:0.9.28-sdl2-1",
    }
    shown = info["pictures"]
    assert sum(shown[split]["cutouts"] + shown[split]["distractors"] for split in shown) == 332
    assert str(tree) not in json.dumps(document)
    held_out = {p.name for some in open_tuxpaint(tree).banks["val"].objects.values() for p in some}
    assert not held_out & {entry["cutout"] for entry in document["annotations"]}
    val = json.loads(annotation_file(out, "val").read_text())
    assert {entry["cutout"] for entry in val["annotations"]} <= held_out

    assert run(out, *SMALL) == 2
    assert "source 'tuxpaint' instead of 'procedural'" in capsys.readouterr().err


def test_wherever_the_tree_begins_it_is_found(tree: Path) -> None:
    found = [packages.look(folder) for folder in (tree, tree / "usr", tree / "usr/share")]
    assert all(one is not None for one in found)
    assert len({one.share for one in found if one}) == 1
    assert {tuple(one.versions.values()) for one in found if one} == {
        ("2022.06.04-1", "1:0.9.28-sdl2-1")
    }
    assert packages.look(tree / "usr/share/tuxpaint") is None


def test_further_backgrounds_are_used_where_they_are(tmp_path: Path) -> None:
    root = unpack(tmp_path / "all", optional=True)
    (root / packages.VERSIONS).write_text(json.dumps({"mate-backgrounds": "1.26.0-1"}))
    source = open_tuxpaint(root)
    assert source.versions["mate-backgrounds"] == "1.26.0-1"
    assert source.versions["lomiri-wallpapers-16.04"] == "unknown"
    names = [p.name for bank in source.banks.values() for p in bank.backgrounds]
    assert len(names) == len(set(names)) == sum(len(n.split()) for _, n in BACKGROUNDS.values())
    train, val = (source.banks[split].backgrounds for split in ("train", "val"))
    assert len(val) == len(names) // HELD_OUT
    assert not {p.name for p in train} & {p.name for p in val}


def test_what_is_missing_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no tuxpaint/stamps .*dpkg-deb -x"):
        open_source(f"tuxpaint:{tmp_path}")
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    (copy / "usr/share/tuxpaint/stamps/food/fruit/lemon.png").unlink()
    with pytest.raises(InputError, match=r"lemon\.png: missing, with 0 other pictures"):
        open_source(f"tuxpaint:{copy}")
    for text in ("photos", "tuxpaint:", ""):
        with pytest.raises(InputError, match="unknown; choose from procedural, procedural:"):
            open_source(text)


def archive(folder: Path, package: str, tree: Path) -> Path:
    """A Debian package of part of the tree."""
    work = folder / f"{package}-work"
    (work / "DEBIAN").mkdir(parents=True)
    (work / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: 7-{len(package)}\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: test\n"
    )
    places = {
        packages.STAMPS: ["tuxpaint/stamps"],
        **{name: [place] for name, (place, _) in BACKGROUNDS.items()},
    }[package]
    for place in places:
        shutil.copytree(tree / "usr/share" / place, work / "usr/share" / place)
    file = folder / f"{package}_7_all.deb"
    subprocess.run(
        ["dpkg-deb", "-Znone", "--build", str(work), str(file)], check=True, capture_output=True
    )
    return file


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_packages_are_fetched_once_and_appear_complete(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = unpack(tmp_path / "all", optional=True)
    store = tmp_path / "store"
    store.mkdir()
    for package in packages.PACKAGES:
        archive(store, package, whole)
    tools = tmp_path / "bin"
    tools.mkdir()
    apt = tools / "apt-get"
    apt.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = download ] && cp {store}/"$2"_7_all.deb . 2>/dev/null && exit 0\n'
        'echo "E: Unable to locate package $2" >&2; exit 100\n'
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    look = packages.look
    monkeypatch.setattr(packages, "look", lambda f: None if f == Path("/usr") else look(f))

    lost = store / f"{packages.DATA}_7_all.deb"
    lost.rename(tmp_path / "lost.deb")
    with pytest.raises(InputError, match=r"failed: E: Unable to locate package tuxpaint-data"):
        open_source("tuxpaint")
    assert list((tmp_path / "cache/hcl").iterdir()) == []

    (tmp_path / "lost.deb").rename(lost)
    source = open_source("tuxpaint")
    assert source.info()["packages"] == {name: f"7-{len(name)}" for name in packages.PACKAGES}
    assert [path.name for path in (tmp_path / "cache/hcl").iterdir()] == ["tuxpaint"]
    apt.unlink()
    assert open_source("tuxpaint").info() == source.info()


def test_without_apt_the_way_round_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"no apt-get here .* --source tuxpaint:DIR"):
        packages.fetch(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_real_packages(tmp_path: Path) -> None:
    """On what ``hcl data scenes --source tuxpaint`` has left in the cache or is installed."""
    where = os.environ.get("HCL_TUXPAINT")
    root = Path(where) if where else cache_folder() / "tuxpaint"
    found = packages.look(root) or packages.look(Path("/usr"))
    if found is None:
        pytest.skip(
            "needs the packages of Tux Paint: HCL_TUXPAINT=DIR, or run once "
            "'hcl data scenes OUT --images 1 --source tuxpaint'"
        )
    out = tmp_path / "set"
    options = ["--images", "6", "--val", "2", "--size", "128", "--workers", "1", "--seed", "1"]
    assert run(out, *options, "--source", f"tuxpaint:{found.share}") == 0
    document = json.loads(annotation_file(out, "train").read_text())
    assert len(document["images"]) == 6
    assert len(document["annotations"]) >= 12
    for image in document["images"]:
        pixels = np.asarray(Image.open(out / "train" / image["file_name"]))
        assert pixels.shape == (128, 128, 3)
        assert pixels.std() > 10
