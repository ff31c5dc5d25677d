"""`hcl probe` on real files, from a run to its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import hcl
from pretrain import checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_object_set, make_run) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    make_object_set(folder / "train", images=20, seed=0)
    make_object_set(folder / "val", images=6, seed=1)
    make_run(folder / "run")
    return folder


def words(place: Path, output: str, *more: str) -> list[str]:
    sides = [
        [f"--{side}", str(place / side / "instances.json"), str(place / side / "images")]
        for side in ("train", "val")
    ]
    return ["probe", str(place / "run"), *sides[0], *sides[1], "--output", output, *more]


def test_objects_told_apart_by_color(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = tmp_path / "out"
    assert hcl.main(words(place, str(output))) == 0
    result = json.loads((output / "result.json").read_text())
    assert result["task"] == "probe"
    assert result["metrics"]["linear@1"] > 0.9  # colors are easy, even for random features
    assert result["metrics"]["knn@1"] > 0.6
    assert result["metrics"]["linear@5"] == 1.0
    assert result["provenance"]["gradient"] < 1e-5
    assert result["provenance"]["penalty"] in (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
    said = capsys.readouterr().out
    assert "60 to learn from, 18 to test" in said
    low, high = result["provenance"]["intervals"]["knn@1"]
    assert low <= result["metrics"]["knn@1"] <= high
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in said
    # Again: nothing is measured; other options: refused.
    assert hcl.main(words(place, str(output), "--against", str(output))) == 0
    said = capsys.readouterr().out
    assert "already there" in said
    assert "+0.0    [+0.0, +0.0]  p 1.000" in said
    assert hcl.main(words(place, str(output), "--k", "3")) == 2
    assert "holds another result (k)" in capsys.readouterr().err
    again = tmp_path / "again"
    assert hcl.main(words(place, str(again), "--kind", "linear")) == 0
    metrics = json.loads((again / "result.json").read_text())["metrics"]
    assert metrics["linear@1"] == result["metrics"]["linear@1"]
    assert not any(key.startswith("knn") for key in metrics)


def test_scenes_have_several_categories(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Every second scene without its first category, which makes it something to tell.
    for side in ("train", "val"):
        source = place / side / "instances.json"
        document = json.loads(source.read_text())
        document["annotations"] = [
            a for a in document["annotations"] if a["image_id"] % 2 or a["category_id"] != 1
        ]
        (tmp_path / f"{side}.json").write_text(json.dumps(document))
    arguments = ["probe", str(place / "run"), "--output", str(tmp_path / "out")]
    for side in ("train", "val"):
        arguments += [f"--{side}", str(tmp_path / f"{side}.json"), str(place / side / "images")]
    assert hcl.main([*arguments, "--labels", "scene"]) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["metrics"]["chance/map"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert result["metrics"]["chance/map"] <= result["metrics"]["linear/map"] <= 1
    assert hcl.main([*arguments, "--labels", "scene", "--kind", "knn"]) == 2


def test_class_folders(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for side, shift in (("train", 0), ("val", 1)):
        for label, color in (("leaf", (20, 150, 20)), ("sky", (60, 90, 200))):
            folder = tmp_path / side / label
            folder.mkdir(parents=True)
            for number in range(6):
                value = tuple(c + 3 * number + shift for c in color)
                Image.new("RGB", (40, 30), value).save(folder / f"{number}.png")
    sides = ["--train", str(tmp_path / "train"), "--val", str(tmp_path / "val")]
    arguments = ["probe", str(place / "run"), *sides, "--labels", "image"]
    assert hcl.main([*arguments, "--output", str(tmp_path / "out"), "--k", "3"]) == 0
    metrics = json.loads((tmp_path / "out/result.json").read_text())["metrics"]
    assert (metrics["linear@1"], metrics["knn@1"], metrics["majority"]) == (1.0, 1.0, 0.5)


def test_color_alone(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = words(place, str(tmp_path / "out"))
    arguments[1] = "color-histogram"
    assert hcl.main(arguments) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["run"] == "color-histogram"
    assert result["metrics"]["knn@1"] > 0.9  # the categories of this set differ in color
    assert result["provenance"]["features"] == "histogram of 4x4x4 colors"


def test_a_fine_tuned_network(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("red", "blue", "green", "grey"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for n in range(3):
            Image.new("RGB", (40, 40), name).save(tmp_path / "classes" / name / f"{n}.png")
    run = tmp_path / "tuned"
    settings = (
        "data.name=folder",
        f"data.root={tmp_path / 'classes'}",
        "data.workers=0",
        "model.backbone=resnet10t",
        "model.freeze=null",
        "model.batch_norm=trained",
        "model.weights=null",
        "model.dim=8",
        "model.size=32",
        "sampler.classes=2",
        "train.steps=0",
        "train.tensorboard=false",
        "train.precision=fp32",
    )
    preset = "grocery_sphere"
    assert hcl.main(["retrieve", "train", preset, f"output={run}", *settings]) == 0
    capsys.readouterr()
    arguments = words(place, str(tmp_path / "out"))
    arguments[1] = str(run)
    assert hcl.main(arguments) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["run"] == "tuned"
    assert result["protocol"]["size"] == 32
    assert 0.9 < result["metrics"]["linear@1"] <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--val", "missing"], "--val: missing: no such folder"),
        (["--val", "a", "b", "c"], "--val: give ANNOTATIONS IMAGES, or one folder"),
        (["--device", "cuda:99"], "--device cuda:99"),
    ],
)
def test_mistakes_are_named(place: Path, tmp_path: Path, capsys, change, said) -> None:
    assert hcl.main([*words(place, str(tmp_path / "out")), *change]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["nan", "-1", "0", "inf", "warm"])
def test_a_temperature_is_a_positive_number(place: Path, tmp_path: Path, capsys, value) -> None:
    with pytest.raises(SystemExit) as ended:
        hcl.main(words(place, str(tmp_path / "out"), f"--temperature={value}"))
    assert ended.value.code == 2
    assert f"must be a positive number, got '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_diverged_run_is_refused(
    place: Path, tmp_path: Path, make_run, monkeypatch, capsys, kind
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = make_run(tmp_path / "first")
    (saved,) = (run / "checkpoints").glob("*.pt")
    state = torch.load(saved, weights_only=True)
    state["model"]["encoder.backbone.conv1.weight"].fill_(float("nan"))
    run = tmp_path / "run"
    checkpoint.save(run / "checkpoints", state, 7, keep=1, keep_every=None)
    arguments = words(place, str(tmp_path / "out"), "--kind", kind)
    arguments[1] = str(run)
    assert hcl.main(arguments) == 2
    assert "its features are not finite: the run has diverged" in capsys.readouterr().err
    assert not (tmp_path / "out/result.json").exists()


def test_an_image_on_both_sides_is_refused(
    place: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = words(place, str(tmp_path / "out"))
    both = [str(place / "train/instances.json"), str(place / "train/images")]
    assert hcl.main([*arguments, "--val", *both]) == 2
    assert "--val" in (said := capsys.readouterr().err)
    assert "is also in --train" in said
