"""Each way in which weights and detector can disagree is refused with its own message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_detection import Toy

import hcl
from downstream.detection.model.config import load_config
from downstream.detection.weights.backbone import read_backbone
from downstream.detection.weights.detector import check_config
from pretrain.core.errors import InputError


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
    weights = read_backbone(exported("resnet18"))
    with pytest.raises(InputError, match=message):
        check_config(weights, load_config(small_config, overrides))


def test_the_matching_config_passes(small_config: Path, exported: Callable[[str], Path]) -> None:
    weights = read_backbone(exported("resnet18"))
    for norm in ("BN", "SyncBN", "FrozenBN"):
        check_config(weights, load_config(small_config, ["MODEL.RESNETS.NORM", norm]))


def test_every_mismatch_is_named_at_once(
    small_config: Path, exported: Callable[[str], Path]
) -> None:
    weights = read_backbone(exported("resnet18"))
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
        (lambda c: c.pop("hcl"), "without saying how the weights are to be used"),
        (
            lambda c: c["model"]["res2.0.conv1.norm.running_var"].fill_(float("inf")),
            "'res2.0.conv1.norm.running_var' holds infinite values or NaN, as an overflow",
        ),
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
        read_backbone(path)
    data = ["--train", *toy.arguments, "--val", *toy.arguments, "--output", str(tmp_path / "out")]
    assert hcl.main(["detect", str(small_config), *data, "--weights", str(path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) <= 2
    assert not (tmp_path / "out").exists()
