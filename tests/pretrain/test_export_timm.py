"""Exports to timm, and of timm's backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import hcl
from pretrain import checkpoint
from pretrain.core.errors import InputError
from pretrain.export import export, formats
from pretrain.models import Encoder, EncoderSettings
from pretrain.pretrained import Description, load_pretrained

timm = pytest.importorskip("timm")

MEAN, STD = (0.47, 0.45, 0.41), (0.28, 0.27, 0.29)
VIT = ("timm/vit_tiny_patch16_224", {"depth": 2, "embed_dim": 48})
SWIN = (
    "timm/swin_tiny_patch4_window7_224",
    {"depths": [1, 1, 1, 1], "embed_dim": 24, "num_heads": [1, 2, 4, 8]},
)
CONVNEXT = ("timm/convnext_atto", {"drop_path_rate": 0.1})
RESNET_D = ("timm/resnet50d", {"layers": [1, 1, 1, 1]})
MIXER = ("timm/mixer_s32_224", {"img_size": 64})


def make_run(folder: Path, backbone: str, options: dict[str, Any] | None = None) -> Path:
    """A run folder whose parameters and statistics are far from their initial values."""
    torch.manual_seed(3)
    settings = EncoderSettings(backbone=backbone, options=options or {}, hidden=16, dim=8)
    encoder = Encoder(settings)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
    description = Description(
        encoder=settings,
        method="moco",
        prefix="query.",
        size=64,
        mean=MEAN,
        std=STD,
        curvature=None,
        clip_radius=None,
        config={},
    )
    state = {
        "model": {f"query.{name}": value for name, value in encoder.state_dict().items()},
        "description": description.model_dump(mode="json"),
        "step": 7,
    }
    checkpoint.save(folder / "checkpoints", state, 7, keep=1, keep_every=None)
    return folder


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] = file.metadata()
    return found


@pytest.mark.parametrize(("backbone", "tensors"), [("resnet18", 120), ("resnet50", 318)])
def test_torchvision_s_resnet_becomes_timm_s(backbone: str, tensors: int, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", backbone)
    report = export(run, "timm", tmp_path / "w.safetensors")
    assert (report.matched, report.expected, report.absent) == (tensors, tensors, ())
    # As a user loads it: by timm alone.
    network = timm.create_model(
        backbone, num_classes=0, checkpoint_path=str(tmp_path / "w.safetensors")
    )
    images = torch.randn(2, 3, 64, 64)
    original = load_pretrained(run).backbone
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(images), original(images))


@pytest.mark.parametrize(("backbone", "options"), [VIT, SWIN, CONVNEXT, RESNET_D, MIXER])
@pytest.mark.parametrize("target", ["timm", "safetensors"])
def test_timm_s_backbones(
    target: str, backbone: str, options: dict[str, Any], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", backbone, options)
    path = tmp_path / "w.safetensors"
    report = export(run, target, path)
    pretrained = load_pretrained(run)
    assert report.matched == report.expected == len(pretrained.backbone.state_dict())
    assert report.difference < 1e-6
    assert report.absent == ()
    if target == "safetensors":
        assert header(path)["backbone"] == backbone
        assert json.loads(header(path)["options"]) == options
        return
    found = header(path)
    data = json.loads(found["pretrained_cfg"])
    assert data == {"input_size": [3, 64, 64], "mean": [*MEAN], "std": [*STD], "num_classes": 0}
    assert (found["run"], found["method"], found["step"]) == ("run", "moco", "7")
    network = timm.create_model(
        found["architecture"],
        pretrained_cfg=data,
        checkpoint_path=str(path),
        **json.loads(found["model_args"]),
    )
    config = timm.data.resolve_data_config({}, model=network)
    assert [*config["input_size"]] == [3, 64, 64]
    assert ([*config["mean"]], [*config["std"]]) == ([*MEAN], [*STD])
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.eval()(images), pretrained.backbone(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "tensors of timm's .*; missing"),
        ({"depth": 1}, "12 tensors are not part of timm's"),
        ({"act_layer": "relu"}, "computes another function"),
    ],
)
def test_wrong_arguments_in_the_header_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read back by what its own header says."""
    run = make_run(tmp_path / "run", *VIT)
    right = formats.timm_arguments
    monkeypatch.setattr(
        formats, "timm_arguments", lambda name, options: {**right(name, options), **change}
    )
    with pytest.raises(InputError, match=message):
        export(run, "timm", tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("target", ["torchvision", "detectron2"])
def test_other_libraries_refuse_timm_s_backbones(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", *VIT)
    output = tmp_path / "w.pth"
    assert hcl.main(["export", str(run), "--to", target, "-o", str(output)]) == 2
    shown = capsys.readouterr().err
    assert f"--to {target}: the run's backbone is {VIT[0]}" in shown
    assert "use --to timm" in shown
    assert not output.exists()
