"""``hcl detect`` from end to end, on a set made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_detection import Toy, command

import hcl
from downstream.detection.model.config import load_config
from downstream.results.result import Result, read_result
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.core.presets import find_config


def test_end_to_end(
    small_config: Path,
    toy: Toy,
    exported: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "result"
    weights = exported("resnet18")
    arguments = command(small_config, toy, output, "--weights", str(weights))
    assert hcl.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "120/120 tensors" in shown
    assert "features of the detector and of the source differ by" in shown
    assert "2 categories" in shown
    assert "iter 3/3" in shown
    assert "AP50" in shown

    result = read_result(output)
    assert result.task == "detection"
    assert result.run == "toy_resnet18"
    assert {"bbox/AP", "bbox/AP50", "segm/AP", "segm/AP75"} <= set(result.metrics)
    assert "bbox/APl" not in result.metrics  # no large object in the set
    assert all(0 <= value <= 100 for value in result.metrics.values())
    origin = result.provenance["weights"]
    assert origin["sha256"] == sha256(weights)
    assert (origin["method"], origin["step"]) == ("moco", 11)
    assert result.provenance["seconds"]["evaluation"] > 0
    assert result.provenance["seconds"]["iteration"] > 0
    for picture in result.artifacts["detections"]:
        assert (output / picture).is_file()
    assert len(result.artifacts["detections"]) == 4
    assert set(result.artifacts["by_category"]["bbox"]) == {"disc", "box"}

    detections = json.loads((output / "detections.json").read_text())
    assert {d["category_id"] for d in detections} <= {3, 7}
    assert {d["image_id"] for d in detections} <= {100 + n for n in range(8)}
    curve = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in curve if "total_loss" in line] == [0, 1, 2]
    resolved = load_config(output / "config.yaml", [])
    assert resolved.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert resolved.SOLVER.MAX_ITER == 3
    assert "Starting training" in (output / "log.txt").read_text()

    # The same again does nothing; another config is not mixed in; --fresh replaces.
    before = (output / "result.json").stat().st_mtime_ns
    assert hcl.main(arguments) == 0
    assert "already there" in capsys.readouterr().out
    assert (output / "result.json").stat().st_mtime_ns == before
    assert hcl.main([*arguments, "SOLVER.MAX_ITER=2"]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert hcl.main([*arguments, "--fresh", "SOLVER.MAX_ITER=2"]) == 0
    assert read_result(output).protocol["iterations"] == 2
    lines = (output / "metrics.json").read_text().splitlines()
    assert json.loads(lines[0])["iteration"] == 0


def run(config: Path, toy: Toy, output: Path, *more: str) -> Result:
    assert hcl.main(command(config, toy, output, *more)) == 0
    return read_result(output)


def test_same_seed_same_numbers_and_random_is_said(
    small_config: Path, toy_rle: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    polygon = ["INPUT.MASK_FORMAT=polygon"]
    first = run(small_config, toy_rle, tmp_path / "a", *polygon)
    shown = capsys.readouterr().out
    assert "RANDOM initialization" in shown
    assert "INPUT.MASK_FORMAT is bitmask" in shown
    assert first.run == "random"
    assert first.provenance["weights"]["initialisation"] == "random"
    second = run(small_config, toy_rle, tmp_path / "b", *polygon, "--name", "again")
    other = run(small_config, toy_rle, tmp_path / "c", *polygon, "SEED=5")
    assert second.run == "again"
    texts = [(tmp_path / name / "detections.json").read_text() for name in "abc"]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert first.metrics == second.metrics
    # Seeds are repetitions of one protocol.
    assert first.protocol == other.protocol


def test_resuming_goes_on(
    small_config: Path,
    toy: Toy,
    exported: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    more = ["--weights", str(exported("resnet18"))]
    more += ["SOLVER.MAX_ITER=4", "SOLVER.CHECKPOINT_PERIOD=2"]
    run(small_config, toy, output, *more)
    # As after an interruption in the third iteration.
    (output / "result.json").unlink()
    (output / "last_checkpoint").write_text("model_0000001.pth")
    assert hcl.main(command(small_config, toy, output, *more, "SEED=9")) == 2
    assert "unfinished transfer of another config" in capsys.readouterr().err
    kept = (output / "model_0000001.pth").rename(tmp_path / "kept.pth")
    assert hcl.main(command(small_config, toy, output, *more)) == 2
    assert "names no checkpoint" in capsys.readouterr().err
    kept.rename(output / "model_0000001.pth")
    run(small_config, toy, output, *more)
    assert "going on after iteration 2" in capsys.readouterr().out
    lines = (output / "metrics.json").read_text().splitlines()
    done = [json.loads(line) for line in lines]
    assert [line["iteration"] for line in done if "total_loss" in line] == [0, 1, 2, 3]


def test_files_of_others_stay(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "out/model_0000009.pth"
    kept.parent.mkdir()
    kept.write_text("precious")
    assert hcl.main(command(small_config, toy, tmp_path / "out", "--fresh")) == 2
    assert "model_0000009.pth: in the way" in capsys.readouterr().err
    assert kept.read_text() == "precious"


def test_boxes_only_and_precise_batch_norm(small_config: Path, toy: Toy, tmp_path: Path) -> None:
    content = toy.content()
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    toy.rewrite(content)
    more = ["MODEL.MASK_ON=False", "TEST.PRECISE_BN.ENABLED=True"]
    more += ["TEST.PRECISE_BN.NUM_ITER=2", "MODEL.RESNETS.NORM=SyncBN"]
    result = run(small_config, toy, tmp_path / "out", *more)
    assert "bbox/AP" in result.metrics
    assert not [name for name in result.metrics if name.startswith("segm")]


def test_no_detection_at_all_is_zero(small_config: Path, toy: Toy, tmp_path: Path) -> None:
    more = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST=2.0", "SOLVER.MAX_ITER=1"]
    result = run(small_config, toy, tmp_path / "out", *more, "TEST.EVAL_PERIOD=1")
    assert result.metrics["bbox/AP"] == result.metrics["segm/AP50"] == 0
    assert json.loads((tmp_path / "out/detections.json").read_text()) == []


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("damage", ["truncated", "other size"])
def test_a_bad_image_is_named(
    small_config: Path,
    toy: Toy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: str,
    workers: str,
) -> None:
    path = toy.images / "002.png"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    else:
        content = toy.content()
        content["images"][2]["width"] = 65
        toy.rewrite(content)
        for annotation in content["annotations"]:
            if isinstance(annotation["segmentation"], dict):
                assert annotation["image_id"] != 102
    more = [f"DATALOADER.NUM_WORKERS={workers}", "SOLVER.IMS_PER_BATCH=7"]
    assert hcl.main(command(small_config, toy, tmp_path / "out", *more)) == 2
    shown = capsys.readouterr().err
    assert str(path) in shown
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == 1
    assert not (tmp_path / "out/result.json").exists()


def test_divergence_is_explained(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["SOLVER.BASE_LR=1e20", "SOLVER.WARMUP_ITERS=0"]
    assert hcl.main(command(small_config, toy, tmp_path / "out", *more)) == 2
    assert "SOLVER.BASE_LR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["SOLVER.BASE_LRR=1"], "did you mean 'SOLVER.BASE_LR'"),
        (["SOLVER.BASE_LR=fast"], "Type mismatch"),
        (["SOLVER.BASE_LR"], "stands alone"),
        (["SOLVER.AMP.ENABLED=True"], "needs a CUDA device"),
        (["--weights", "nowhere.pth"], "no such weights file"),
        (["MODEL.WEIGHTS=nowhere.pth"], "no such weights file"),
    ],
)
def test_mistakes_end_in_a_line(
    small_config: Path,
    toy: Toy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert hcl.main(command(small_config, toy, tmp_path / "out", *more)) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_a_config_no_model_can_be_built_of(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["MODEL.RESNETS.RES2_OUT_CHANNELS=256"]
    assert hcl.main(command(small_config, toy, tmp_path / "out", *more)) == 2
    assert "RES2_OUT_CHANNELS = 64" in capsys.readouterr().err
    assert "Traceback" in (tmp_path / "out/log.txt").read_text()


def test_cuda_that_is_not_there(
    small_config: Path, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert hcl.main(command(small_config, toy, tmp_path / "out", "MODEL.DEVICE=cuda")) == 2
    assert "auto or cpu" in capsys.readouterr().err


def test_configs_that_are_none(
    tmp_path: Path, toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hcl.main(command(Path("quickstart_r18"), toy, tmp_path / "out")) == 2
    assert "quickstart_r18_fpn" in capsys.readouterr().err
    for number, text in enumerate(
        ["MODEL: [", "- 1\n", "MODEL: {FOO: 1}\n", "SEED: !!python/object/apply:os.getcwd []\n"]
    ):
        path = tmp_path / f"{number}.yaml"
        path.write_text("VERSION: 2\n" + text if text[0] != "-" else text)
        with pytest.raises(InputError, match=path.name):
            load_config(path, [])


@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn_1x_ssl", "quickstart_r18_fpn"])
def test_presets_load_and_agree_with_exports(name: str, exported: Callable[[str], Path]) -> None:
    from downstream.detection.weights.backbone import read_backbone
    from downstream.detection.weights.detector import check_config

    config = load_config(find_config(name, "detection"), [])
    depth = config.MODEL.RESNETS.DEPTH
    check_config(read_backbone(exported(f"resnet{depth}")), config)
    assert config.MODEL.BACKBONE.FREEZE_AT == 0
    assert config.MODEL.DEVICE == "auto"
    if depth == 50:
        norms = [config.MODEL.RESNETS, config.MODEL.FPN]
        norms += [config.MODEL.ROI_BOX_HEAD, config.MODEL.ROI_MASK_HEAD]
        assert {node.NORM for node in norms} == {"SyncBN"}
        assert (config.MODEL.ROI_BOX_HEAD.NUM_CONV, config.MODEL.ROI_BOX_HEAD.NUM_FC) == (4, 1)
        assert (config.SOLVER.MAX_ITER, config.SOLVER.STEPS) == (90000, (60000, 80000))
        assert (config.SOLVER.IMS_PER_BATCH, config.SOLVER.BASE_LR) == (16, 0.02)
        assert config.TEST.PRECISE_BN.ENABLED


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        hcl.main(["detect", "--help"])
    assert stop.value.code == 0
    assert "--weights" in capsys.readouterr().out


@pytest.mark.coco
def test_real_coco(coco_tiny: Path, exported: Callable[[str], Path], tmp_path: Path) -> None:
    """Polygons, crowds, gaps in category ids, images without objects: all real."""
    arguments = ["detect", "quickstart_r18_fpn", "--output", str(tmp_path / "out")]
    for split in ("train", "val"):
        annotations = coco_tiny / f"annotations/instances_{split}2017.json"
        arguments += [f"--{split}", str(annotations), str(coco_tiny / f"{split}2017")]
    arguments += ["--weights", str(exported("resnet18"))]
    small = ["SOLVER.MAX_ITER=30", "SOLVER.IMS_PER_BATCH=2"]
    small += ["INPUT.MIN_SIZE_TRAIN=(96,)", "INPUT.MIN_SIZE_TEST=96"]
    assert hcl.main([*arguments, *small]) == 0
    result = read_result(tmp_path / "out")
    assert {"bbox/APs", "bbox/APm", "bbox/APl", "segm/AP"} <= set(result.metrics)
