"""`hcl retrieve` end to end, and every way of giving it something wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hcl
from downstream.results.result import read_result, write_result
from downstream.retrieval import recall_at_k
from downstream.retrieval.embed import embed, to_ball
from downstream.retrieval.objects import choose_objects, with_context
from pretrain import checkpoint
from pretrain.core.errors import InputError
from pretrain.datasets.readers.coco import read
from pretrain.geometry import poincare
from pretrain.pretrained import load_pretrained


def call(run: Path, annotations: Path, images: Path, output: Path, *more: str) -> int:
    where = ["--annotations", str(annotations), "--images", str(images), "--output", str(output)]
    return hcl.main(["retrieve", str(run), *where, "--device", "cpu", *more])


def edited(source: Path, folder: Path, change) -> Path:
    document = json.loads(source.read_text())
    change(document)
    path = folder / "edited.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def done(random_run, object_set, tmp_path_factory) -> Path:
    """The folder of a finished evaluation. Read only."""
    output = tmp_path_factory.mktemp("retrieval")
    assert call(random_run, *object_set, output) == 0
    return output


def test_result_holds_every_metric(done):
    result = read_result(done)
    assert (result.task, result.run) == ("retrieval", "run-a")
    for space in ("backbone/euclidean", "head/euclidean", "head/hyperbolic"):
        values = [result.metrics[f"recall/{space}@{k}"] for k in (1, 5, 10)]
        assert values == sorted(values)
        assert all(0 <= value <= 1 for value in values)
    assert result.metrics["recall/chance@1"] == pytest.approx(5 / 17)
    assert result.metrics["recall/backbone/euclidean@1"] > 0.6, "colors are easy to tell apart"
    low, middle, high = (result.metrics[f"norm/object/q{q}"] for q in (10, 50, 90))
    assert 0 < low <= middle <= high
    assert result.metrics["norm/scene"] > 0
    assert result.provenance["curvature"] == 0.1
    assert result.provenance["objects"] == 18
    assert result.provenance["scenes"] == 6
    assert result.protocol["size"] == 32


def test_metrics_are_those_of_the_embeddings(done, random_run, object_set):
    pretrained = load_pretrained(random_run)
    objects = choose_objects(read(*object_set), min_side=16, max_per_category=None)
    found = embed(pretrained, objects, size=32, context=0.1, batch=5, device=torch.device("cpu"))
    metrics = read_result(done).metrics
    points = to_ball(found.head, 0.1, None)
    for name, embeddings, options in (
        ("backbone/euclidean", found.backbone, {}),
        ("head/euclidean", found.head, {}),
        ("head/hyperbolic", points, {"geometry": "hyperbolic", "c": 0.1}),
    ):
        for k, value in recall_at_k(embeddings, objects.labels, [1, 5], **options).items():
            assert metrics[f"recall/{name}@{k}"] == value
    mean = float(poincare.distance_to_origin(points, 0.1).mean())
    assert metrics["norm/object"] == pytest.approx(mean, rel=1e-5)


def test_embeddings_are_those_of_single_crops(random_run, object_set):
    # An independent path: PIL, one crop at a time, no batching.
    pretrained = load_pretrained(random_run)
    objects = choose_objects(read(*object_set), min_side=16, max_per_category=None)
    found = embed(pretrained, objects, size=32, context=0.0, batch=128, device=torch.device("cpu"))
    assert found.backbone.shape == (18, 512)
    assert found.scenes.shape == (6, 16)
    for row in (0, 7, 17):
        record = objects.records[objects.image[row]]
        with Image.open(object_set[1] / record.file_name) as image:
            crop = image.convert("RGB").crop(objects.boxes[row].tolist()).resize((32, 32), 2)
        pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None] / 255
        mean, std = (
            torch.tensor(v).view(3, 1, 1)
            for v in (pretrained.description.mean, pretrained.description.std)
        )
        with torch.no_grad():
            expected = pretrained.encoder((pixels - mean) / std)[0]
        # Pillow rounds between its two passes: pixels differ by 1 of 255.
        assert torch.allclose(found.head[row], expected, atol=0.02 * float(expected.norm()))


def test_per_category_recall_averages_to_the_whole(done):
    result = read_result(done)
    rows = result.artifacts["per_category"].values()
    total = sum(row["objects"] * row["head/hyperbolic"] for row in rows)
    assert total / 18 == pytest.approx(result.metrics["recall/head/hyperbolic@1"])


def test_sheets_are_pictures(done):
    names = read_result(done).artifacts["neighbours"]
    assert names == ["neighbours_cosine.jpg", "neighbours_hyperbolic.jpg"]
    for name in names:
        with Image.open(done / name) as sheet:
            assert sheet.width > 800
            frames = np.asarray(sheet.convert("RGB")).astype(int)
        green = (np.abs(frames - (26, 152, 80)).max(-1) < 30).mean()
        red = (np.abs(frames - (215, 48, 39)).max(-1) < 30).mean()
        assert green > 0.005
        assert green + red > 0.03


def test_same_command_gives_the_same_file(done, random_run, object_set, tmp_path):
    assert call(random_run, *object_set, tmp_path) == 0
    again, first = read_result(tmp_path), read_result(done)
    assert again.metrics == first.metrics
    for name in first.artifacts["neighbours"]:
        assert (tmp_path / name).read_bytes() == (done / name).read_bytes()


def test_a_finished_result_is_reused_unless_asked(random_run, object_set, tmp_path, capsys):
    assert call(random_run, *object_set, tmp_path, "--ks", "1") == 0
    path = tmp_path / "result.json"
    before = path.stat().st_mtime_ns
    capsys.readouterr()
    assert call(random_run, *object_set, tmp_path, "--ks", "1") == 0
    assert "already there" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before
    assert call(random_run, *object_set, tmp_path, "--ks", "1", "--fresh") == 0
    assert path.stat().st_mtime_ns > before


def test_another_result_is_not_overwritten(
    random_run, make_run, object_set, tmp_path, done, capsys
):
    output = tmp_path / "out"
    assert call(random_run, *object_set, output, "--ks", "1") == 0
    assert call(random_run, *object_set, output, "--ks", "1", "2") == 2
    assert "holds another result (ks)" in capsys.readouterr().err
    other = make_run(tmp_path / "run-a", seed=1)
    assert call(other, *object_set, output, "--ks", "1") == 2
    assert "holds another result (weights_sha256)" in capsys.readouterr().err
    write_result(read_result(done).model_copy(update={"task": "detection"}), output)
    assert call(random_run, *object_set, output) == 2
    assert "holds another result (task)" in capsys.readouterr().err
    assert call(random_run, *object_set, output, "--fresh") == 0
    assert read_result(output).task == "retrieval"


def test_options_name_size_thinning(random_run, object_set, tmp_path, capsys):
    more = ["--name", "row", "--size", "24", "--max-per-category", "2", "--search", "torch"]
    assert call(random_run, *object_set, tmp_path, *more) == 0
    result = read_result(tmp_path)
    assert (result.run, result.protocol["size"], result.provenance["objects"]) == ("row", 24, 6)
    assert "12 beyond the limit per category" in capsys.readouterr().out


def test_a_checkpoint_file_will_do(random_run, object_set, tmp_path):
    (file,) = (random_run / "checkpoints").glob("*.pt")
    assert call(file, *object_set, tmp_path) == 0
    assert read_result(tmp_path).run == "run-a"


def test_singletons_are_counted_as_misses(random_run, object_set, tmp_path, capsys):
    def change(document):
        document["categories"].append({"id": 99, "name": "alone"})
        document["annotations"][0]["category_id"] = 99

    path = edited(object_set[0], tmp_path, change)
    assert call(random_run, path, object_set[1], tmp_path / "out") == 0
    assert "1 with a single object" in capsys.readouterr().out
    result = read_result(tmp_path / "out")
    assert result.provenance["singleton_categories"] == 1
    assert result.artifacts["per_category"]["alone"]["backbone/euclidean"] == 0


def test_one_object_an_image_has_no_scene_norm(random_run, object_set, tmp_path):
    def change(document):
        document["annotations"] = document["annotations"][::3]

    path = edited(object_set[0], tmp_path, change)
    assert call(random_run, path, object_set[1], tmp_path / "out") == 0
    assert "norm/scene" not in read_result(tmp_path / "out").metrics


def test_curvature_is_the_runs_own(random_run, object_set, tmp_path, capsys):
    assert call(random_run, *object_set, tmp_path, "--curvature", "1.0") == 2
    assert "trained with curvature 0.1" in capsys.readouterr().err


def test_a_run_without_a_ball_takes_the_default_curvature(make_run, object_set, tmp_path):
    run = make_run(tmp_path / "plain", curvature=None)
    assert call(run, *object_set, tmp_path / "out") == 0
    assert read_result(tmp_path / "out").provenance["curvature"] == 0.05


def test_context_grows_boxes_and_stays_inside():
    boxes = np.array([[10, 20, 30, 60], [0, 0, 96, 72]], np.float32)
    assert with_context(boxes, 0.1, (96, 72)).tolist() == [[8, 16, 32, 64], [0, 0, 96, 72]]


@pytest.mark.coco
def test_real_images(random_run, coco_tiny, tmp_path):
    annotations = coco_tiny / "annotations/instances_val2017.json"
    more = ["--max-per-category", "3"]
    assert call(random_run, annotations, coco_tiny / "val2017", tmp_path, *more) == 0
    metrics = read_result(tmp_path).metrics
    assert metrics["recall/backbone/euclidean@10"] > metrics["recall/chance@1"]


def test_not_json(random_run, object_set, tmp_path, capsys):
    path = tmp_path / "broken.json"
    path.write_text('{"images": [')
    assert call(random_run, path, object_set[1], tmp_path) == 2
    assert "broken.json: not valid JSON" in capsys.readouterr().err


def test_missing_folder_and_file(random_run, object_set, tmp_path, capsys):
    assert call(random_run, object_set[0], tmp_path / "nowhere", tmp_path) == 2
    assert "nowhere: no such image folder" in capsys.readouterr().err
    (tmp_path / "some").mkdir()
    assert call(random_run, object_set[0], tmp_path / "some", tmp_path) == 2
    assert "scene_0.png" in capsys.readouterr().err


def test_truncated_image_is_named(random_run, object_set, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for file in object_set[1].iterdir():
        content = file.read_bytes()
        cut = len(content) // 2 if file.name == "scene_3.png" else len(content)
        (folder / file.name).write_bytes(content[:cut])
    assert call(random_run, object_set[0], folder, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "scene_3.png" in message
    assert len(message.strip().splitlines()) == 1
    assert not (tmp_path / "out/result.json").exists()


@pytest.mark.parametrize(
    ("box", "words"),
    [([5, 5, 0, 9], "without area"), ([200, 5, 20, 9], "outside the image")],
)
def test_bad_boxes_are_named_or_dropped(random_run, object_set, tmp_path, capsys, box, words):
    def change(document):
        document["annotations"][4]["bbox"] = box

    path = edited(object_set[0], tmp_path, change)
    assert call(random_run, path, object_set[1], tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "annotation 5" in message
    assert words in message
    assert call(random_run, path, object_set[1], tmp_path / "out", "--on-bad-box", "drop") == 0
    assert read_result(tmp_path / "out").provenance["left_out"][words] == 1


def test_too_few_objects(random_run, object_set, tmp_path, capsys):
    assert call(random_run, *object_set, tmp_path, "--min-side", "500") == 2
    message = capsys.readouterr().err
    assert "at least 2 objects, found 0" in message
    assert "18 smaller than 500 px" in message


def test_no_run_there(object_set, tmp_path, capsys):
    assert call(tmp_path, *object_set, tmp_path) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_weights_that_are_not_finite(make_run, object_set, tmp_path, capsys):
    run = make_run(tmp_path / "diverged")
    (file,) = (run / "checkpoints").glob("*.pt")
    state = checkpoint.load(file)
    state["model"]["encoder.head.2.bias"].fill_(torch.nan)
    checkpoint.save(file.parent, state, 7, keep=1, keep_every=None)
    assert call(run, *object_set, tmp_path / "out") == 2
    assert "head/euclidean: embedding 0 is not finite" in capsys.readouterr().err


def test_unusable_device(random_run, object_set, tmp_path, capsys):
    assert call(random_run, *object_set, tmp_path, "--device", "cuda:99") == 2
    assert "--device cuda:99" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--ks", "0"], ["--context", "-1"], ["--batch-size", "x"]])
def test_bad_options_exit_2(random_run, object_set, tmp_path, option):
    with pytest.raises(SystemExit) as stop:
        call(random_run, *object_set, tmp_path, *option)
    assert stop.value.code == 2


def test_thinning_is_spread_over_the_file(object_set):
    objects = choose_objects(read(*object_set), min_side=0, max_per_category=3)
    assert len(objects) == 9
    assert sorted(set(objects.image.tolist())) == [0, 2, 4]
    with pytest.raises(InputError, match="at least 2"):
        choose_objects(read(*object_set), min_side=99, max_per_category=3)
