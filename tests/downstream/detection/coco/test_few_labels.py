"""Which images keep their labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_detection import Toy, write_toy

import hcl
from downstream.detection.coco.sets import read_coco
from downstream.detection.coco.transfer_sets import choose, listed
from downstream.results.result import read_result
from pretrain.core.errors import InputError

IMAGES = [{"id": n, "file_name": f"train2017/{n:012d}.jpg"} for n in range(7, 4007)]


def test_the_choice_is_of_ids_and_seed_alone() -> None:
    one, ten = choose(IMAGES, 1, 0), choose(IMAGES, 10, 0)
    assert (len(one), len(ten)) == (40, 400)
    assert one < ten
    assert choose(IMAGES[::-1], 1, 0) == one
    assert len(choose(IMAGES, 10, 1) & ten) < 80  # about 40 by chance
    assert sorted(choose(IMAGES, 0.1, 0)) == [2115, 3089, 3222, 3473]  # for good
    assert len(choose(IMAGES, 100, 3)) == 4000
    assert len(choose(IMAGES, 1e-9, 0)) == 1
    for percent in (0, -1, 101, float("nan")):
        with pytest.raises(InputError, match="PERCENT"):
            choose(IMAGES, percent, 0)


def test_published_lists(tmp_path: Path) -> None:
    path = tmp_path / "list"
    for text in (
        "7\n9\n",
        "000000000007.jpg\n000000000009.jpg\n",
        "[7, 9]",
        '["000000000007.jpg", "9"]',
        json.dumps({"images": [{"id": 7}, {"id": 9}], "annotations": []}),
    ):
        path.write_text(text)
        assert listed(path, IMAGES) == {7, 9}
    path.write_text("7\n5\n")
    with pytest.raises(InputError, match="image '5' is not in the training set"):
        listed(path, IMAGES)
    path.write_text("")
    with pytest.raises(InputError, match="it is empty"):
        listed(path, IMAGES)


def test_the_set_is_written_and_seeds_share_it(
    small_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy: Toy = write_toy(tmp_path / "toy", images=12)
    data = ["detect", str(small_config), "--train", *toy.arguments, "--val", *toy.arguments]
    half = ["HCL.LABELS.PERCENT=50.0", "SOLVER.MAX_ITER=1"]
    for seed in ("0", "1"):
        output = ["--output", str(tmp_path / seed), f"SEED={seed}"]
        assert hcl.main([*data, *output, *half]) == 0
    assert "labels of 6 images: 50 % by HCL.LABELS.SEED 0" in capsys.readouterr().out
    results = [read_result(tmp_path / seed) for seed in ("0", "1")]
    assert results[0].protocol == results[1].protocol
    written = tmp_path / "0/labels.json"
    part = read_coco(written, toy.images)
    assert part.sha256 == results[0].protocol["train_annotations_sha256"]
    kept = {record["image_id"] for record in part.records}
    assert kept == choose(toy.content()["images"], 50, 0)
    ids = {a["image_id"] for a in json.loads(written.read_text())["annotations"]}
    assert ids <= kept
    assert results[0].provenance["train"] == {"annotations": str(written), "images": 6}
    # The same images as a list: the same set.
    (tmp_path / "list.txt").write_text("\n".join(map(str, kept)))
    more = ["--labels", str(tmp_path / "list.txt"), "--output", str(tmp_path / "l")]
    assert hcl.main([*data, *more, "SOLVER.MAX_ITER=1"]) == 0
    listed_result = read_result(tmp_path / "l")
    same = "train_annotations_sha256"
    assert listed_result.protocol[same] == results[0].protocol[same]
