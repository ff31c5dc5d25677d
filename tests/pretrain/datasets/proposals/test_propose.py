from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hcl
from pretrain.core.errors import InputError
from pretrain.data.index import Index
from pretrain.datasets.index_writer import build_index
from pretrain.datasets.proposals.filters import FilterSettings
from pretrain.datasets.proposals.propose import propose, read_scores
from pretrain.datasets.proposals.proposer import Proposals
from pretrain.datasets.readers import coco

REPOSITORY = Path(__file__).resolve().parents[4]
ALL = FilterSettings(min_side=0, max_aspect=100, max_iou=1)

PROPOSER = '''
import os, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from pretrain.datasets.proposals.proposer import Proposals

@dataclass(frozen=True)
class Slow:
    """Waits, and writes down which rows it is asked for, and by whom."""
    log: str
    wait: float
    needs_image: bool = False

    def identity(self):
        return {"method": "slow"}

    def propose(self, row, size, image):
        time.sleep(self.wait)
        with open(self.log, "a") as file:
            file.write(f"{row} {os.getpid()}\\n")
        assert image is None or image.shape == (size[1], size[0], 3)
        box = [0, 0, 1 + row % (size[0] - 2), 1 + row % (size[1] - 2)]
        return Proposals(np.array([box, [1, 1, 3, 4]], np.float32))
'''

RUN = """
import sys
from pathlib import Path
from pretrain.data.index import Index
from pretrain.datasets.proposals.filters import FilterSettings
from pretrain.datasets.proposals.propose import propose
from slow_proposer import Slow

if __name__ == "__main__":
    index, out, log, wait, workers = sys.argv[1:]
    rule = FilterSettings(min_side=0, max_aspect=100, max_iou=1)
    proposer = Slow(log, float(wait))
    outcome = propose(
        Index.open(Path(index)), Path(out), proposer, rule, workers=int(workers), shard=3
    )
    print(outcome.resumed)
"""


@pytest.fixture
def index(make_coco: Callable, tmp_path: Path) -> Index:
    folder = make_coco(20)
    return build_index(coco.read(folder.annotations, folder.images), tmp_path / "index")


@pytest.fixture
def command(index: Index, tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of a slow proposal; its environment is this process'."""
    (tmp_path / "slow_proposer.py").write_text(PROPOSER)
    (tmp_path / "run.py").write_text(RUN)

    def make(out: str, log: Path, wait: float, workers: int) -> list[str]:
        script = [sys.executable, str(tmp_path / "run.py"), str(index.folder), str(tmp_path / out)]
        return [*script, str(log), str(wait), str(workers)]

    return make


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"}


def logged(log: Path) -> list[int]:
    return [int(line.split()[0]) for line in log.read_text().splitlines()]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_killed_command_goes_on_where_it_was(command, environment, index, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    partial = tmp_path / "out.partial"
    first = subprocess.Popen(
        command("out", log, 0.4, 2), env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        until(lambda: len(list(partial.glob("shard-*.npz"))) >= 2)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    assert not out.exists()
    workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
    assert first.pid not in workers
    # Nobody is left who writes behind our back.
    until(lambda: not any(alive(worker) for worker in workers))
    finished = sorted(partial.glob("shard-*.npz"))
    assert 2 <= len(finished) < 7
    written = {file: file.stat().st_mtime_ns for file in finished}
    done = {row for file in finished for row in range(*rows_of(file))}
    damaged = finished[0]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    done -= set(range(*rows_of(damaged)))

    log.unlink()
    second = subprocess.run(
        command("out", log, 0, 2), env=environment, capture_output=True, text=True, check=True
    )
    assert int(second.stdout) == len(done)
    assert sorted(logged(log)) == sorted(set(range(20)) - done)
    assert written  # the others' files were read as they were, and are gone with the folder
    assert not partial.exists()

    log.unlink()
    subprocess.run(command("once", log, 0, 1), env=environment, check=True, capture_output=True)
    assert logged(log) == list(range(20))
    assert Index.open(out).fingerprint == Index.open(tmp_path / "once").fingerprint


def rows_of(shard: Path) -> tuple[int, int]:
    number = int(shard.stem.split("-")[1])
    return 3 * number, min(3 * number + 3, 20)


def test_an_interrupt_ends_soon_and_keeps_what_is_done(command, environment, tmp_path):
    log = tmp_path / "log"
    process = subprocess.Popen(
        command("out", log, 0.4, 2), env=environment, stderr=subprocess.PIPE, text=True
    )
    until(lambda: bool(list((tmp_path / "out.partial").glob("shard-*.npz"))))
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in message
    assert len(logged(log)) < 20
    assert list((tmp_path / "out.partial").glob("shard-*.npz"))


@dataclass(frozen=True)
class Halves:
    """The left half of every image, with a score; notes which rows are asked for."""

    calls: list[int]
    tag: str = ""
    needs_image: bool = False

    def identity(self) -> dict[str, Any]:
        return {"method": "halves", "tag": self.tag}

    def propose(self, row: int, size: tuple[int, int], image: Any) -> Proposals:
        self.calls.append(row)
        boxes = np.array([[0, 0, size[0] / 2, size[1]], [0, 0, 1, 1]], np.float32)
        return Proposals(boxes, np.array([0.5 + row / 100, 0.25], np.float32))


def test_the_index_has_the_same_images_and_the_new_boxes(index, tmp_path):
    out = tmp_path / "deep" / "out"
    outcome = propose(index, out, Halves([]), FilterSettings(min_side=2))
    found = Index.open(out)
    found.verify()
    assert outcome.tally is not None
    assert outcome.tally.proposed == 40
    assert outcome.tally.left_out["too small"] == 20
    assert found.categories == ("proposal",)
    assert len(found) == 20
    for row in range(20):
        assert found.path(row) == index.path(row)
        assert found.size(row) == index.size(row)
        assert found.image_id(row) == index.image_id(row)
        width, height = index.size(row)
        assert found.boxes(row).tolist() == [[0, 0, width / 2, height]]
        assert found.labels(row).tolist() == [0]
    scores = read_scores(out)
    assert scores is not None
    np.testing.assert_allclose(scores, 0.5 + np.arange(20) / 100, rtol=1e-6)
    assert read_scores(index.folder) is None
    assert found.meta["options"]["filter"]["min_side"] == 2
    assert found.meta["options"]["source"] == index.fingerprint
    assert found.meta["dropped"]["too small"] == 20
    assert (out / "bad_images.jsonl").read_text() == ""


def test_what_is_there_is_not_made_again_nor_overwritten(index, tmp_path):
    out = tmp_path / "out"
    propose(index, out, Halves([]), ALL)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    calls: list[int] = []
    assert propose(index, out, Halves(calls), ALL).tally is None
    assert calls == []
    with pytest.raises(InputError, match=r"holds other options.*tag '' instead of 'b'"):
        propose(index, out, Halves([], "b"), ALL)
    with pytest.raises(InputError, match=r"top 100 instead of 7.*choose another folder"):
        propose(index, out, Halves([]), ALL.model_copy(update={"top": 7}))
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before

    strange = tmp_path / "photos"
    strange.mkdir()
    with pytest.raises(InputError, match="is there already and is no index"):
        propose(index, strange, Halves([]), ALL)


def test_unfinished_work_of_other_options_is_refused(index, tmp_path):
    @dataclass(frozen=True)
    class Fails(Halves):
        def propose(self, row: int, size: tuple[int, int], image: Any) -> Proposals:
            if row == 7:
                raise RuntimeError("no")
            return super().propose(row, size, image)

    out, calls = tmp_path / "out", []
    with pytest.raises(RuntimeError):
        propose(index, out, Fails([]), ALL, shard=4)
    partial = tmp_path / "out.partial"
    assert [path.name for path in partial.glob("shard-*")] == ["shard-000000.npz"]
    with pytest.raises(InputError, match=r"out\.partial: holds unfinished proposals of other"):
        propose(index, out, Halves(calls, "b"), ALL, shard=4)
    with pytest.raises(InputError, match="shard 4 instead of 5"):
        propose(index, out, Halves(calls), ALL, shard=5)
    assert calls == []
    outcome = propose(index, out, Halves(calls), ALL, shard=4)
    assert outcome.resumed == 4
    assert calls == list(range(4, 20))

    (tmp_path / "more.partial").mkdir()
    (tmp_path / "more.partial" / "letter.txt").write_text("precious")
    with pytest.raises(InputError, match="holds something other than unfinished proposals"):
        propose(index, tmp_path / "more", Halves([]), ALL)


def test_two_at_once_are_refused(index, tmp_path):
    @dataclass(frozen=True)
    class Twice(Halves):
        def propose(self, row: int, size: tuple[int, int], image: Any) -> Proposals:
            with pytest.raises(InputError, match="another process is at work here"):
                propose(index, tmp_path / "out", Halves([]), ALL)
            return super().propose(row, size, image)

    assert propose(index, tmp_path / "out", Twice([]), ALL).tally is not None


def run(*arguments: object) -> int:
    return hcl.main(["data", "propose", *map(str, arguments)])


def test_broken_images_are_named_and_the_others_done(make_coco, tmp_path, capsys, command):
    sys.path.insert(0, str(tmp_path))
    try:
        from slow_proposer import Slow
    finally:
        sys.path.remove(str(tmp_path))
    folder = make_coco(9, "broken")
    index = build_index(coco.read(folder.annotations, folder.images), tmp_path / "broken-index")
    (folder.images / "000004.jpg").write_bytes(b"")
    (folder.images / "000008.jpg").unlink()
    out = tmp_path / "out"
    outcome = propose(index, out, Slow(str(tmp_path / "log"), 0, True), ALL, shard=3)
    assert outcome.tally is not None
    assert [row for row, _ in outcome.tally.bad] == [4, 8]
    found = Index.open(out)
    assert [len(found.boxes(row)) for row in range(9)] == [2, 2, 2, 2, 0, 2, 2, 2, 0]
    lines = [json.loads(line) for line in (out / "bad_images.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [4, 8]
    assert lines[0]["path"] == str(folder.images / "000004.jpg")
    assert lines[0]["reason"] == "the file is empty"

    from pretrain.datasets.commands.propose import describe

    text = describe(outcome)
    assert "2 images could not be read" in text
    assert "000004.jpg: the file is empty" in text
    assert "proposals" in text

    for file in folder.images.iterdir():
        file.write_bytes(b"x")
    with pytest.raises(InputError, match="none of the other images could be read"):
        propose(index, tmp_path / "none", Slow(str(tmp_path / "log"), 0, True), ALL)


def test_the_command(index, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(index.folder, out, "--method", "grid", "--min-side", 12) == 0
    printed = capsys.readouterr().out
    assert f"{out}: 20 images, {Index.open(out).box_count} boxes" in printed
    assert "too small" in printed
    assert "per core and second" in printed
    assert run(index.folder, out, "--method", "grid", "--min-side", 12) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(index.folder, out, "--method", "grid") == 2
    assert "min_side 12.0 instead of 96.0" in capsys.readouterr().err


def test_progress_is_a_line_in_a_file_and_a_bar_on_a_terminal(index, tmp_path, capsys, monkeypatch):
    assert run(index.folder, "-o", tmp_path / "quiet", "--method", "grid") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("images: 20/20, ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run(index.folder, "-o", tmp_path / "out", "--method", "grid") == 0
    assert "| 0/20 [" in capsys.readouterr().err


def test_the_command_reads_a_detectors_results(index, tmp_path, capsys):
    file = tmp_path / "results.json"
    entries = [
        {"image_id": 10, "bbox": [0, 0, 20, 20], "score": 0.5},
        {"image_id": 10, "bbox": [30, 20, 20, 20], "score": 0.75},
        {"image_id": 10, "bbox": [31, 20, 20, 20], "score": 0.25},
        {"image_id": 7, "bbox": [31, 20, 20, 20], "score": 0.25},
    ]
    file.write_text(json.dumps(entries))
    out = tmp_path / "out"
    options = ["--method", "detector", "--json", file, "--min-side", 10]
    assert run(index.folder, out, *options) == 0
    assert "1 entries are of images that the index lacks" in capsys.readouterr().err
    assert Index.open(out).boxes(0).tolist() == [[30, 20, 50, 40], [0, 0, 20, 20]]
    scores = read_scores(out)
    assert scores is not None
    assert scores.tolist() == [0.75, 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "detector"], "needs --json FILE"),
        (["--method", "grid", "--json", "x.json"], "are for --method detector, not grid"),
        (["--method", "random", "--seed", "-1"], "--seed must be 0 or more"),
        (["--method", "grid", "--max-iou", "2"], "'max_iou': input should be less"),
        (["--method", "grid", "--max-aspect", "0.5"], "'max_aspect': input should be greater"),
    ],
)
def test_bad_options_are_named(index, tmp_path, capsys, options, message):
    assert run(index.folder, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_index_is_named(tmp_path, capsys):
    assert run(tmp_path / "nowhere", tmp_path / "out", "--method", "grid") == 2
    assert "no index here" in capsys.readouterr().err


@pytest.mark.coco
def test_selective_search_of_real_images(coco_tiny, tmp_path, capsys):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV with its contributed modules")
    if not hasattr(getattr(cv2, "ximgproc", None), "segmentation"):
        pytest.skip("this OpenCV has no contributed modules (opencv-contrib-python-headless)")
    document = json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())
    smallest = sorted(document["images"], key=lambda image: image["width"] * image["height"])[:2]
    file = tmp_path / "two.json"
    file.write_text(json.dumps({"images": smallest}))
    build_index(coco.read(file, coco_tiny / "val2017"), tmp_path / "index")
    out = tmp_path / "out"
    options = ["--method", "selective_search", "--workers", 1]
    assert run(tmp_path / "index", out, *options) == 0
    found = Index.open(out)
    for row in range(2):
        boxes = found.boxes(row)
        assert 5 <= len(boxes) <= 100
        assert (boxes[:, 2:] - boxes[:, :2] >= 96).all()
        assert (boxes[:, 2:] <= found.size(row)).all()
