"""The whole command: killed and resumed, on two processes, against plain NumPy."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from correspondence_runs import command_line, pretrain_on
from PIL import Image
from torchvision.transforms import functional as tv

import hcl
from pretrain.core.errors import InputError
from pretrain.correspondence.regions import Regions
from pretrain.data.index import Index
from pretrain.data.pairs import PairTable, choose_pair, pair_stream
from pretrain.pretrained import load_pretrained

ROOT = Path(hcl.__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def arrays(folder: Path) -> dict[str, bytes]:
    """All results of a folder, by name."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted([*folder.rglob("*.npy"), *folder.rglob("pairs.json")])
    }


def cached_features(folder: Path) -> np.ndarray:
    shards = sorted((folder / "regions/features").glob("shard-*.npy"))
    return np.concatenate([np.load(shard) for shard in shards])


def test_pairs_are_those_of_plain_numpy(base: Path, done: Path) -> None:
    index, table = Index.open(base / "index"), PairTable.open(done / "pairs")
    regions = Regions.open(done / "regions")
    assert table.fingerprint == index.fingerprint
    features = cached_features(done).astype(np.float64)
    neighbours, similarity = np.load(done / "neighbours.npy"), np.load(done / "similarity.npy")
    assert features.shape == (index.box_count, 512)
    place = 0
    for row in range(len(index)):
        assert np.array_equal(regions.of(row), index.boxes(row))
        first, stop = table.neighbour_offsets[row : row + 2]
        assert table.neighbours[first:stop].tolist() == neighbours[row].tolist()
        mine = features[regions.offsets[row] : regions.offsets[row + 1]]
        for number, other in enumerate(neighbours[row]):
            theirs = features[regions.offsets[other] : regions.offsets[other + 1]]
            cosines = mine @ theirs.T
            count = max(1, int(0.5 * len(mine)))
            start, end = table.pair_offsets[first + number : first + number + 2]
            assert (start, end - start) == (place, count)
            place = end
            # Where each pair stands in the matrix, by its boxes.
            query = [box_number(regions.of(row), box) for box in table.query[start:end]]
            key = [box_number(regions.of(other), box) for box in table.key[start:end]]
            assert len(set(zip(query, key, strict=True))) == count
            best = np.sort(cosines.ravel())[::-1][:count]
            assert np.allclose(cosines[query, key], best, rtol=0, atol=1e-6)
            assert np.allclose(similarity[start:end], best, rtol=0, atol=1e-6)
    assert place == len(table.query) == len(similarity)


def box_number(boxes: np.ndarray, box: np.ndarray) -> int:
    (found,) = np.flatnonzero((boxes == box).all(1))
    return int(found)


def test_features_are_those_of_the_encoder(base: Path, done: Path) -> None:
    index, pretrained = Index.open(base / "index"), load_pretrained(base / "run")
    mean, std = pretrained.description.mean, pretrained.description.std
    images = np.load(done / "features.npy")
    regions, cached = Regions.open(done / "regions"), cached_features(done)
    assert images.dtype == np.float32
    assert cached.dtype == np.float16
    for row in (0, 13, 47):
        with Image.open(index.path(row)) as file:
            image = file.convert("RGB")
        # Views of 32 px: the shorter side to 32 * 256 / 224 = 37 px, as Pillow resizes.
        view = tv.center_crop(tv.resize(image, [37]), [32])
        expected = pretrained.encoder(tv.normalize(tv.to_tensor(view), mean, std)[None])
        assert cosine(images[row], expected) > 0.9995
        assert np.linalg.norm(images[row]) == pytest.approx(1, abs=1e-5)
        x1, y1, x2, y2 = regions.of(row)[0]
        window = (int(x1), int(y1), int(np.ceil(x2)), int(np.ceil(y2)))
        view = image.crop(window).resize((32, 32), Image.Resampling.BILINEAR)
        expected = pretrained.backbone(tv.normalize(tv.to_tensor(view), mean, std)[None])
        assert cosine(cached[regions.offsets[row]], expected) > 0.9995


def cosine(feature: np.ndarray, other: torch.Tensor) -> float:
    one, two = torch.from_numpy(feature.astype(np.float32)), other[0].detach()
    return float(torch.cosine_similarity(one, two, dim=0))


def test_killed_while_encoding_regions(base: Path, tmp_path: Path) -> None:
    # An image a shard: slow enough to be killed in the middle.
    slow = ["--shard", "1", "--batch-size", "2"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert hcl.main(["correspond", *command_line(base, once, slow)]) == 0
    command = [sys.executable, "-m", "hcl", "correspond", *command_line(base, twice, slow)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    shards = twice / "regions/features"
    end = time.monotonic() + 120
    while len(list(shards.glob("shard-*.npy"))) < 4:
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {file: file.stat() for file in shards.glob("shard-*.npy")}
    assert 4 <= len(finished) < 48
    assert not (twice / "pairs").exists()
    # One shard is cut short, as by a full disk, and a half-written one lies about.
    damaged = min(finished)
    damaged.write_bytes(damaged.read_bytes()[:-10])
    (shards / ".shard-000040.npy.1.tmp").write_bytes(b"half")

    assert hcl.main(["correspond", *command_line(base, twice, slow)]) == 0
    for file, before in finished.items():
        after = file.stat()
        same = (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert same == (file != damaged)
    assert arrays(twice) == arrays(once)
    assert not list(twice.rglob(".*.tmp"))


def test_two_processes_make_the_same_table(base: Path, done: Path, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "hcl"]
    arguments = command_line(base, tmp_path / "out", ["--share", "0.5"])
    process = subprocess.run(
        [sys.executable, *launch, "correspond", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("pairs: 48 images") == 1
    assert "2 processes" in process.stdout
    assert arrays(tmp_path / "out") == arrays(done)


def test_two_processes_stop_together(base: Path, done: Path, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "hcl"]
    process = subprocess.run(
        [sys.executable, *launch, "correspond", *command_line(base, done, ["--share", "0.25"])],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert process.returncode != 0
    assert "was begun with share 0.5 instead of 0.25" in process.stderr


def test_a_finished_folder_is_left_alone(
    done: Path, correspond: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in done.rglob("*.npy")}
    assert correspond(done, "--share", "0.5") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in done.rglob("*.npy")} == before


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["--share", "0.25"], "share 0.5 instead of 0.25"),
        (["--share", "0.5", "--precision", "bf16"], "precision 'fp32' instead of 'bf16'"),
        (["--share", "0.5", "--max-regions", "1"], "max_regions 100 instead of 1"),
    ],
)
def test_other_settings_are_refused(
    done: Path,
    correspond: Callable[..., int],
    arguments: list[str],
    difference: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert correspond(done, *arguments) == 2
    assert difference in capsys.readouterr().err


def test_another_run_is_refused(
    base: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(base / "run", tmp_path / "run")
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("*.pt")
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"step": 1}, checkpoint)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    checkpoint.with_suffix(".sha256").write_text(digest + "\n")
    assert hcl.main(["correspond", *command_line(tmp_path, done, ["--share", "0.5"])]) == 2
    assert "was begun with checkpoint" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, correspond: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").touch()
    assert correspond(tmp_path) == 2
    assert "holds something other than correspondences (thesis.tex)" in capsys.readouterr().err


@pytest.fixture
def odd_set(tmp_path: Path, scenes: Path) -> Path:
    """A run and an index of 12 scenes: 5 is a copy of 2, 7 is damaged, 9 has no boxes."""
    shutil.copytree(scenes, tmp_path / "set")
    file = tmp_path / "set/annotations/instances_train.json"
    document = json.loads(file.read_text())
    images = document["images"] = document["images"][:12]
    notes = document["annotations"]
    dropped = (images[5]["id"], images[7]["id"], images[9]["id"])
    notes = [note for note in notes if note["image_id"] not in dropped]
    for number in (5, 7):
        notes += [
            {**note, "image_id": images[number]["id"], "id": 10_000 * number + note["id"]}
            for note in notes
            if note["image_id"] == images[2]["id"]
        ]
    kept = {image["id"] for image in images}
    document["annotations"] = [note for note in notes if note["image_id"] in kept]
    file.write_text(json.dumps(document))
    train = tmp_path / "set/train"
    shutil.copy(train / images[2]["file_name"], train / images[5]["file_name"])
    damaged = train / images[7]["file_name"]
    run = pretrain_on(tmp_path, file, train)
    damaged.write_bytes(damaged.read_bytes()[:500])
    return run


def test_duplicates_damaged_images_and_images_without_boxes(
    odd_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = odd_set / "out"
    assert hcl.main(["correspond", *command_line(odd_set, out, [])]) == 0
    assert "1 images have no neighbors" in capsys.readouterr().out
    index, table = Index.open(odd_set / "index"), PairTable.open(out / "pairs")
    neighbours = np.load(out / "neighbours.npy")
    assert neighbours[2, 0] == 5
    assert neighbours[5, 0] == 2
    assert neighbours[7].tolist() == [-1] * 4
    assert not (neighbours == 7).any()
    assert not (neighbours == np.arange(12)[:, None]).any()
    # Duplicates match in the same region, with a cosine of 1.
    pair = table.pair_offsets[table.neighbour_offsets[2]]
    assert table.query[pair].tolist() == table.key[pair].tolist()
    assert np.load(out / "similarity.npy")[pair] == pytest.approx(1, abs=1e-3)
    # No boxes: the whole image stands for them.
    assert len(index.boxes(9)) == 0
    pair = table.pair_offsets[table.neighbour_offsets[9]]
    assert table.query[pair].tolist() == [0, 0, *index.size(9)]
    size_of = index.size
    assert choose_pair(table, 7, size_of, pair_stream(0, 0, 7)) is None
    assert choose_pair(table, 9, size_of, pair_stream(0, 0, 9)) is not None


def test_an_image_damaged_meanwhile(odd_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = odd_set / "out"
    assert hcl.main(["correspond", *command_line(odd_set, out, [])]) == 0
    index = Index.open(odd_set / "index")
    for name in ("pairs", "regions"):
        shutil.rmtree(out / name)
    broken = index.path(3)
    broken.write_bytes(b"")
    capsys.readouterr()
    assert hcl.main(["correspond", *command_line(odd_set, out, [])]) == 2
    assert f"{broken}: the file is empty, but it is a neighbor" in capsys.readouterr().err


def test_no_image_can_be_read(odd_set: Path, tmp_path: Path) -> None:
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    from pretrain.correspondence.cli import COMMAND

    arguments = ["--index", str(odd_set / "index"), "--images", str(empty)]
    with pytest.raises(InputError, match="no image can be read"):
        COMMAND.main(command_line(odd_set, tmp_path / "out", arguments))


def test_most_regions(base: Path, tmp_path: Path, correspond: Callable[..., int]) -> None:
    assert correspond(tmp_path / "out", "--max-regions", "2") == 0
    index, regions = Index.open(base / "index"), Regions.open(tmp_path / "out/regions")
    for row in range(len(index)):
        assert np.array_equal(regions.of(row), index.boxes(row)[:2])


def test_show(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    for file in (first, second):
        assert hcl.main(["correspond", "show", str(done), "-o", str(file), "--rows", "3"]) == 0
    assert "3 of" in capsys.readouterr().out
    assert first.read_bytes() == second.read_bytes()
    other = ["-o", str(second), "--rows", "3", "--seed", "1"]
    assert hcl.main(["correspond", "show", str(done), *other]) == 0
    assert first.read_bytes() != second.read_bytes()
    with Image.open(first) as picture:
        assert picture.height < picture.width
    assert hcl.main(["correspond", "show", str(tmp_path), "-o", str(first)]) == 2
    assert "no correspondences here" in capsys.readouterr().err


@pytest.mark.coco
def test_real_images(coco_tiny: Path, tmp_path: Path) -> None:
    val = coco_tiny / "annotations/instances_val2017.json", coco_tiny / "val2017"
    base = pretrain_on(tmp_path, *val, steps=5)
    out, file = tmp_path / "out", tmp_path / "official.json"
    more = ["--max-regions", "12", "--share", "0.1", "--to-official", str(file)]
    assert hcl.main(["correspond", *command_line(base, out, more)]) == 0
    index, table = Index.open(base / "index"), PairTable.open(out / "pairs")
    assert len(table) == len(index) == 80
    assert (np.diff(table.neighbour_offsets) == 4).all()
    again = tmp_path / "again"
    official = ["--official", str(file), "--index", str(base / "index"), "-o", str(again)]
    assert hcl.main(["correspond", *official]) == 0
    other = PairTable.open(again / "pairs")
    assert np.array_equal(other.neighbours, table.neighbours)
    assert np.allclose(other.query, table.query, atol=1e-3)
    assert hcl.main(["correspond", "show", str(out), "-o", str(tmp_path / "a.png")]) == 0
