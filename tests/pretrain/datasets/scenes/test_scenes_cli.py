from __future__ import annotations

import json
from pathlib import Path

import pytest

import hcl
from pretrain.datasets.scenes.coco_writer import annotation_file

SMALL = ["--images", "3", "--val", "1", "--size", "64", "--workers", "1"]


def run(*arguments: object) -> int:
    return hcl.main(["data", "scenes", *map(str, arguments)])


def test_makes_a_set_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "set"
    assert run(out, *SMALL) == 0
    assert "3 training and 1 validation scenes in" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run(out, *SMALL) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_another_set_is_named_and_replaced_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert run(out, *SMALL) == 0
    assert run(out, *SMALL, "--seed", 4) == 2
    message = capsys.readouterr().err
    assert f"{out}: holds other scenes (seed 0 instead of 4)" in message
    assert "--fresh" in message
    assert run(out, *SMALL, "--seed", 4, "--fresh") == 0
    assert json.loads(annotation_file(out, "train").read_text())["info"]["seed"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_damaged_set_is_noticed_and_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert run(out, *SMALL) == 0
    (out / "train/000000000002.jpg").unlink()
    assert run(out, *SMALL) == 2
    assert "1 images of 'train' are missing, the first 000000000002.jpg" in capsys.readouterr().err
    assert run(out, *SMALL, "--fresh") == 0
    assert (out / "train/000000000002.jpg").is_file()
    annotation_file(out, "val").unlink()
    assert run(out, *SMALL) == 2
    assert "instances_val.json is missing" in capsys.readouterr().err


def test_some_contexts_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    small = ["--images", "12", "--val", "0", "--size", "64", "--workers", "1"]
    assert run(out, *small, "--source", "procedural:sea,sky") == 0
    content = json.loads(annotation_file(out, "train").read_text())
    assert content["info"]["only_contexts"] == ["sea", "sky"]
    assert {image["context"] for image in content["images"]} == {"sea", "sky"}
    homes = {category["id"]: category["supercategory"] for category in content["categories"]}
    assert list(homes) == list(range(1, 12))
    assert set(homes.values()) == {"sea", "sky"}
    assert all(set(c["contexts"]) <= {"sea", "sky"} for c in content["categories"])
    assert {a["category_id"] for a in content["annotations"]} <= set(homes)

    assert run(out, *small, "--source", "procedural:sea,street") == 2
    assert "only_contexts ['sea', 'sky'] instead of ['sea', 'street']" in capsys.readouterr().err
    assert run(tmp_path / "all", *small) == 0
    info = json.loads(annotation_file(tmp_path / "all", "train").read_text())["info"]
    assert "only_contexts" not in info


@pytest.mark.parametrize("contexts", ["sea", "sea,sea", "sea,moon", "sea,"])
def test_contexts_that_cannot_be_drawn(
    contexts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *SMALL, "--source", f"procedural:{contexts}") == 2
    message = capsys.readouterr().err
    assert f"--source 'procedural:{contexts}': name two or more different contexts" in message
    assert "kitchen" in message


def test_strange_files_are_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "photos"
    strange.mkdir()
    (strange / "holiday.jpg").write_bytes(b"precious")
    assert run(strange, *SMALL, "--fresh") == 2
    assert f"{strange}: holds something other than generated scenes" in capsys.readouterr().err
    assert (strange / "holiday.jpg").read_bytes() == b"precious"

    out = tmp_path / "set"
    assert run(out, *SMALL) == 0
    (out / "notes.txt").write_text("precious")
    assert run(out, *SMALL, "--seed", 4, "--fresh") == 2
    assert "also holds 'notes.txt'" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "precious"

    file = tmp_path / "file"
    file.write_text("x")
    assert run(file, *SMALL) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
    assert run(file / "below", *SMALL) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert run(tmp_path, *SMALL) == 0
    assert annotation_file(tmp_path, "train").is_file()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--images", "-2"),
        ("--images", "0"),
        ("--val", "-1"),
        ("--seed", "-1"),
        ("--size", "20"),
        ("--size", "999999"),
        ("--out-of-context", "1.5"),
        ("--out-of-context", "-0.1"),
        ("--out-of-context", "nan"),
    ],
)
def test_bad_values_name_their_option(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *SMALL, option, value) == 2
    assert f"{option} must be" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_all_bad_values_are_reported_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", "--images", 0, "--size", 3) == 2
    message = capsys.readouterr().err
    assert "--images must be" in message
    assert "--size must be" in message


def test_words_that_are_no_numbers_end_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        hcl.main(["data", "scenes", str(tmp_path), "--images", "many"])
    assert stop.value.code == 2
    assert "--images" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        hcl.main(["data", "scenes", "--help"])
    assert stop.value.code == 0
    assert "--out-of-context" in capsys.readouterr().out
