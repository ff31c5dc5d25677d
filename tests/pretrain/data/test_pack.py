from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import hcl
from pretrain.core.errors import InputError
from pretrain.core.locks import alone_in
from pretrain.data.decode import ImageError, read_image
from pretrain.data.index import Index
from pretrain.data.pack import Pack, shard_file
from pretrain.datasets import packing
from pretrain.datasets.packing import shrink, shrunk_size, write
from pretrain.datasets.source import DataSettings, open_index


@pytest.fixture
def index(make_coco, tmp_path) -> Index:
    folder = make_coco(11)
    return open_index(
        DataSettings(
            annotations=str(folder.annotations),
            images=str(folder.images),
            index=str(tmp_path / "index"),
        )
    )


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_comes_back(index, tmp_path, workers):
    seen = []
    pack = write(
        index, tmp_path / "pack", None, workers=workers, rows_per_shard=4, progress=seen.append
    )
    assert len(pack) == 11
    assert sorted(seen)[-1] == 11
    assert len(seen) == 3
    pack.verify()
    for row in range(11):
        image = read_image(index.path(row), index.size(row))
        assert pack.size(row) == index.size(row)
        assert torch.equal(pack.image(row), image)
    assert sorted(files(tmp_path / "pack")) == [
        "offsets.npy",
        "pack.json",
        "shard-00000.raw",
        "shard-00001.raw",
        "shard-00002.raw",
        "sizes.npy",
    ]


def test_the_same_bytes_for_any_number_of_workers(index, tmp_path):
    for workers in (1, 3):
        write(index, tmp_path / f"{workers}", 20, workers=workers, rows_per_shard=3)
    assert files(tmp_path / "1") == files(tmp_path / "3")


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((640, 480), 240, (320, 240)),
        ((480, 640), 240, (240, 320)),
        ((100, 80), 80, (100, 80)),
        ((100, 80), 200, (100, 80)),
        ((100, 80), None, (100, 80)),
        ((1000, 3), 2, (667, 2)),
        ((500, 333), 300, (450, 300)),
    ],
)
def test_shrunk_size(size, side, expected):
    assert shrunk_size(size, side) == expected
    image = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
    assert shrink(image, side).shape == (3, expected[1], expected[0])


def test_shrinking_is_that_of_pillow(index, tmp_path):
    pack = write(index, tmp_path / "pack", 30)
    for row in range(11):
        expected = Image.open(index.path(row)).resize(pack.size(row), Image.Resampling.BILINEAR)
        found = pack.image(row).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - np.asarray(expected)).max() <= 1


def test_images_that_cannot_be_read(index, tmp_path):
    index.path(2).write_bytes(b"no image")
    pack = write(index, tmp_path / "pack", None, rows_per_shard=4)
    with pytest.raises(ImageError, match="not an image of a known kind"):
        pack.image(2)
    assert pack.size(2) == (0, 0)
    for row in (1, 3, 4):
        assert torch.equal(pack.image(row), read_image(index.path(row), index.size(row)))


def test_a_finished_pack_is_not_made_again(index, tmp_path):
    write(index, tmp_path / "pack", 30)
    before = shard_file(tmp_path / "pack", 0).stat().st_mtime_ns
    write(index, tmp_path / "pack", 30)
    assert shard_file(tmp_path / "pack", 0).stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another side"):
        write(index, tmp_path / "pack", 31)


KILLED = """
import os, signal, sys
from pathlib import Path
from pretrain.data.index import Index
from pretrain.datasets import packing

def after(done):
    print(done, flush=True)
    if done >= 6:
        original = packing.read_image
        def read_image(*arguments):  # amid the next shard
            os.kill(os.getpid(), signal.SIGKILL)
        packing.read_image = read_image

packing.write(Index.open(Path(sys.argv[1])), Path(sys.argv[2]), 30, rows_per_shard=3,
              progress=after)
"""


def test_killed_and_resumed(index, tmp_path):
    """What was complete is not made again, and the outcome is that of an uninterrupted run."""
    folder = tmp_path / "pack"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(index.folder), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["3", "6"]
    with pytest.raises(InputError, match=r"no complete pack here .*goes on"):
        Pack.open(folder)
    before = {number: shard_file(folder, number).stat().st_ino for number in (0, 1)}
    seen: list[int] = []
    write(index, folder, 30, rows_per_shard=3, progress=seen.append)
    assert seen == [9, 11]
    assert {number: shard_file(folder, number).stat().st_ino for number in (0, 1)} == before
    write(index, tmp_path / "whole", 30, rows_per_shard=3)
    assert files(folder) == files(tmp_path / "whole")


def test_unfinished_pack_of_another_side(index, tmp_path, monkeypatch):
    folder = tmp_path / "pack"
    with monkeypatch.context() as broken:
        broken.setattr(packing, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(index, folder, 30)
    with pytest.raises(InputError, match="an unfinished pack of other images or of another side"):
        write(index, folder, 20)
    assert len(write(index, folder, 30)) == 11


def test_two_at_once(index, tmp_path):
    folder = tmp_path / "pack"
    with alone_in(folder), pytest.raises(InputError, match="another process is packing"):
        write(index, folder, 30)


def test_folder_with_something_else(index, tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/letters.txt").write_text("dear")
    with pytest.raises(InputError, match=r"holds letters\.txt, which is no pack"):
        write(index, tmp_path / "pack", 30)
    assert (tmp_path / "pack/letters.txt").read_text() == "dear"


def test_too_little_space(index, tmp_path, monkeypatch):
    usage = packing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"needs 0\.0 GB more, .*smaller --side"):
        write(index, tmp_path / "pack", 30)


@pytest.mark.parametrize("damage", ["shorter", "version", "meta", "sizes"])
def test_damaged_packs_are_refused(index, tmp_path, damage):
    folder = tmp_path / "pack"
    write(index, folder, 30)
    if damage == "shorter":
        os.truncate(shard_file(folder, 0), 100)
    elif damage == "version":
        meta = json.loads((folder / "pack.json").read_text())
        (folder / "pack.json").write_text(json.dumps(meta | {"version": 99}))
    elif damage == "meta":
        (folder / "pack.json").write_text("{")
    else:
        np.save(folder / "sizes.npy", np.zeros((3, 2), np.int32))
    message = {
        "shorter": r"shard-00000\.raw has 100 bytes",
        "version": "complete pack of version 99, this program needs 1",
        "meta": r"pack\.json: damaged",
        "sizes": "3 sizes",
    }[damage]
    with pytest.raises(InputError, match=message):
        Pack.open(folder)


def test_changed_content_is_found(index, tmp_path):
    pack = write(index, tmp_path / "pack", 30)
    file = shard_file(tmp_path / "pack", 0)
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00000\.raw: the content has changed"):
        pack.verify()


def test_a_worker_gets_the_name_of_the_pack(index, tmp_path):
    pack = write(index, tmp_path / "pack", 30)
    pack.image(0)
    content = pickle.dumps(pack)
    assert len(content) < 1000
    assert torch.equal(pickle.loads(content).image(3), pack.image(3))


def test_writing_to_an_image_does_not_reach_the_file(index, tmp_path):
    pack = write(index, tmp_path / "pack", None)
    before = shard_file(tmp_path / "pack", 0).read_bytes()
    pack.image(0).zero_()
    assert shard_file(tmp_path / "pack", 0).read_bytes() == before


def test_a_worker_ended_from_outside(index, tmp_path, monkeypatch):
    def end(*_):
        os._exit(9)

    monkeypatch.setattr(packing, "read_image", end)
    with pytest.raises(InputError, match=r"ended from outside.*run the command again"):
        write(index, tmp_path / "pack", 30, workers=2, rows_per_shard=4)
    for child in multiprocessing.active_children():
        child.join(5)
    monkeypatch.undo()
    time.sleep(0.1)
    assert len(write(index, tmp_path / "pack", 30, workers=2, rows_per_shard=4)) == 11


def test_command(index, tmp_path, capsys):
    index.path(1).write_bytes(b"")
    arguments = [str(index.folder), str(tmp_path / "pack"), "--side", "30", "--verify"]
    assert hcl.main(["data", "pack", *arguments]) == 0
    output = capsys.readouterr().out
    assert "11 images" in output
    assert f"not packed: {index.path(1)}: the file is empty" in output
    assert Pack.open(tmp_path / "pack").side == 30
    assert hcl.main(["data", "pack", *arguments[:2], "--side", "0"]) == 2
    assert "--side 0" in capsys.readouterr().err
