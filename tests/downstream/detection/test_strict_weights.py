"""Each way in which weights and detector can disagree is refused with its own message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_detection import Toy

import hcl
from downstream.detection.config import load_config
from downstream.detection.strict import check_config, check_loaded, check_tensors
from pretrain.errors import InputError
from pretrain.export.header import read_detectron2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["INPUT.FORMAT", "BGR"], "INPUT.FORMAT is BGR: set it to RGB"),
        (["MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]"], r"PIXEL_MEAN .* \[123.675, 116.280"),
        (["MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"], r"PIXEL_STD .* set it to \[58.395"),
        (["MODEL.RESNETS.STRIDE_IN_1X1", "True"], "STRIDE_IN_1X1 is True: set it to False"),
        (["MODEL.RESNETS.DEPTH", "34"], "DEPTH is 34: set it to 18"),
        (["MODEL.RESNETS.RES2_OUT_CHANNELS", "256"], "RES2_OUT_CHANNELS is 256: set it to 64"),
        (["MODEL.RESNETS.NORM", "GN"], "NORM is 'GN', not a batch norm"),
    ],
)
def test_config_mismatches(
    small_config: Path, exported: Callable[[str], Path], overrides: list[str], message: str
) -> None:
    weights = read_detectron2(exported("resnet18"))
    with pytest.raises(InputError, match=message):
        check_config(weights, load_config(small_config, overrides))


def test_the_matching_config_passes(small_config: Path, exported: Callable[[str], Path]) -> None:
    weights = read_detectron2(exported("resnet18"))
    check_tensors(weights)
    for norm in ("BN", "SyncBN", "FrozenBN"):
        check_config(weights, load_config(small_config, ["MODEL.RESNETS.NORM", norm]))


def test_every_mismatch_is_named_at_once(
    small_config: Path, exported: Callable[[str], Path]
) -> None:
    weights = read_detectron2(exported("resnet18"))
    config = load_config(small_config, ["INPUT.FORMAT", "BGR", "MODEL.RESNETS.DEPTH", "50"])
    with pytest.raises(InputError, match=r"INPUT.FORMAT.*RESNETS.DEPTH"):
        check_config(weights, config)


def changed(path: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].pop("res3.0.conv1.weight"), "119/120 tensors of resnet18; missing"),
        (
            lambda c: c["model"].update({"head.0.weight": torch.zeros(2, 2)}),
            r"1 tensors are not part of resnet18, such as 'head.0.weight' \(a projection head",
        ),
        (
            lambda c: c["model"].update({"stem.fc.weight": torch.zeros(2, 2)}),
            "stem.fc.weight",
        ),
        (
            lambda c: c["model"].update({"stem.conv1.weight": torch.zeros(64, 3, 3, 3)}),
            r"'stem.conv1.weight' has shape \(64, 3, 3, 3\)",
        ),
        (lambda c: c["hcl"].update({"backbone": "resnet50"}), "not part of resnet50|of resnet50"),
        (lambda c: c["hcl"].update({"backbone": "vit"}), "unknown backbone 'vit'"),
        (lambda c: c.pop("hcl"), "no entry 'hcl'"),
        (lambda c: c["hcl"].pop("provenance"), "missing key 'hcl.provenance'"),
    ],
)
def test_files_that_are_not_a_whole_backbone(
    small_config: Path,
    toy: Toy,
    exported: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    path = changed(exported("resnet18"), tmp_path / "w.pth", change)
    with pytest.raises(InputError, match=message):
        check_tensors(read_detectron2(path))
    data = ["--train", *toy.arguments, "--val", *toy.arguments, "--output", str(tmp_path / "out")]
    assert hcl.main(["detect", str(small_config), *data, "--weights", str(path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) <= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backbone", ["build_resnet_fpn_backbone", "build_resnet_backbone"])
def test_what_was_loaded_is_proved(
    small_config: Path, exported: Callable[[str], Path], backbone: str
) -> None:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    weights = read_detectron2(exported("resnet18"))
    overrides = ["MODEL.BACKBONE.NAME", backbone]
    if backbone == "build_resnet_backbone":
        # The last stage stands in the head: detectron2's C4.
        overrides += ["MODEL.RPN.IN_FEATURES", "['res4']", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads"]
        overrides += ["MODEL.ROI_HEADS.IN_FEATURES", "['res4']", "MODEL.MASK_ON", "False"]
        overrides += ["MODEL.RESNETS.OUT_FEATURES", "['res4']"]
        overrides += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[16, 32, 64]]"]
        weights = read_detectron2(exported("resnet50"))
        overrides += ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"]
    model = build_model(load_config(small_config, [*overrides, "MODEL.DEVICE", "cpu"]))
    with pytest.raises(InputError, match="was not loaded"):
        check_loaded(weights, model)
    DetectionCheckpointer(model).load(str(weights.path))
    assert check_loaded(weights, model) == len(weights.tensors)
    name = next(key for key in model.state_dict() if key.endswith("res5.1.conv2.weight"))
    with torch.no_grad():
        model.state_dict()[name][0, 0, 0, 0] += 1
    with pytest.raises(InputError, match=r"res5\.1\.conv2\.weight"):
        check_loaded(weights, model)
