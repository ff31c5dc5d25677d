"""Exports: written, loaded by the other library, and refused where anything differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import hcl
from pretrain import checkpoint
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.export import detectron2_format, export, formats
from pretrain.export.detectron2_format import detectron2_name
from pretrain.export.verify import compare_features, probe, torchvision_features
from pretrain.models import Encoder, EncoderSettings
from pretrain.pretrained import Description, load_pretrained

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TENSORS = {"resnet18": 120, "resnet50": 318}


def make_run(folder: Path, backbone: str) -> Path:
    """A run folder whose batch norms are far from their initial values."""
    torch.manual_seed(3)
    settings = EncoderSettings(backbone=backbone, hidden=16, dim=8)
    encoder = Encoder(settings)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
            layer.num_batches_tracked.fill_(7)
    description = Description(
        encoder=settings,
        method="moco+hcl",
        prefix="query.",
        size=96,
        mean=MEAN,
        std=STD,
        curvature=0.05,
        clip_radius=None,
        config={},
    )
    state = {
        "model": {f"query.{name}": value for name, value in encoder.state_dict().items()},
        "description": description.model_dump(),
        "step": 7,
    }
    checkpoint.save(folder / "checkpoints", state, 7, keep=1, keep_every=None)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(backbone: str) -> Path:
        if backbone not in made:
            made[backbone] = make_run(tmp_path_factory.mktemp("runs") / backbone, backbone)
        return made[backbone]

    return get


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("target", ["torchvision", "detectron2", "safetensors", "timm"])
def test_round_trip(
    runs: Callable[[str], Path], backbone: str, target: str, tmp_path: Path
) -> None:
    if target == "detectron2":
        pytest.importorskip("detectron2")
    output = tmp_path / "new" / ("w.safetensors" if target in ("safetensors", "timm") else "w.pth")
    report = export(runs(backbone), target, output)
    assert report.matched == report.expected == TENSORS[backbone]
    assert report.difference <= 1e-5
    assert report.sha256 == sha256(output)
    assert [file.name for file in output.parent.iterdir()] == [output.name]


def test_torchvision_loads_the_file(runs: Callable[[str], Path], tmp_path: Path) -> None:
    report = export(runs("resnet18"), "torchvision", tmp_path / "w.pth")
    network = torchvision.models.resnet18()
    keys = network.load_state_dict(torch.load(report.path, weights_only=True), strict=False)
    assert tuple(keys.missing_keys) == report.absent == ("fc.weight", "fc.bias")
    assert keys.unexpected_keys == []
    original = load_pretrained(runs("resnet18")).backbone
    images = torch.rand(1, 3, 64, 64)
    network.fc = nn.Identity()
    assert torch.equal(network.eval()(images), original(images))


def test_safetensors_header(runs: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors import safe_open

    run = runs("resnet18")
    report = export(run, "safetensors", tmp_path / "w.safetensors")
    with safe_open(report.path, framework="pt") as file:
        metadata = file.metadata()
        assert len(file.keys()) == 120
    assert metadata["backbone"] == "resnet18"
    assert metadata["input_format"].startswith("RGB")
    assert json.loads(metadata["mean"]) == list(MEAN)
    assert json.loads(metadata["std"]) == list(STD)
    assert metadata["checkpoint_sha256"] == sha256(next(run.rglob("step_*.pt")))


def test_detectron2_header(runs: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    run = runs("resnet18")
    report = export(run, "detectron2", tmp_path / "w.pth")
    loaded = torch.load(report.path, weights_only=True)
    assert loaded["matching_heuristics"] is True
    assert loaded["__author__"] == "hcl"
    weights = detectron2_format.read_detectron2(report.path)
    config = weights.header.config
    assert config["INPUT.FORMAT"] == "RGB"
    assert config["MODEL.PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])
    assert config["MODEL.PIXEL_STD"] == pytest.approx([58.395, 57.12, 57.375])
    assert config["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert config["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 64
    origin = weights.header.provenance
    assert (origin.run, origin.method, origin.step) == ("resnet18", "moco+hcl", 7)


def test_equal_content_equal_digest(runs: Callable[[str], Path], tmp_path: Path) -> None:
    first = export(runs("resnet18"), "torchvision", tmp_path / "a.pth")
    second = export(runs("resnet18"), "torchvision", tmp_path / "b.pth")
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_names_are_detectron2s(backbone: str) -> None:
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    config = get_cfg()
    required = detectron2_format.detectron2_config(backbone, MEAN, STD)
    config.merge_from_list([part for pair in required.items() for part in pair])
    config.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    config.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.device("meta"):
        theirs = build_resnet_backbone(config, ShapeSpec(channels=3)).state_dict()
        ours = getattr(torchvision.models, backbone)().state_dict()
    renamed = {
        detectron2_name(name): value.shape for name, value in ours.items() if "fc" not in name
    }
    assert renamed == {name: value.shape for name, value in theirs.items()}


@pytest.mark.parametrize(
    "name",
    ["fc.weight", "head.0.weight", "layer5.0.conv1.weight", "layer1.0.conv4.weight", "conv1.bias"],
)
def test_foreign_tensors_have_no_name(name: str) -> None:
    with pytest.raises(InputError, match="not part of a ResNet backbone"):
        detectron2_name(name)


def swap_two_convolutions(name: str) -> str:
    """A wrong map that is nevertheless total, one to one and of the right shapes."""
    swapped = {"layer1.0.conv1.weight": "layer1.1.conv1.weight"}
    swapped |= {new: old for old, new in swapped.items()}
    return detectron2_name(swapped.get(name, name))


def test_swapped_tensors_are_refused(
    runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2")
    monkeypatch.setattr(formats, "detectron2_name", swap_two_convolutions)
    with pytest.raises(InputError, match="computes another function: features of layer1"):
        export(runs("resnet18"), "detectron2", tmp_path / "w.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backbone", "change"),
    [
        ("resnet50", {"MODEL.RESNETS.STRIDE_IN_1X1": True}),
        ("resnet18", {"MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]}),
    ],
)
def test_a_wrong_header_is_refused(
    runs: Callable[[str], Path],
    backbone: str,
    change: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("detectron2")

    def wrong(*arguments: object) -> dict[str, object]:
        return {**detectron2_format.detectron2_config(*arguments), **change}  # type: ignore[arg-type]

    monkeypatch.setattr(formats, "detectron2_config", wrong)
    with pytest.raises(InputError, match="computes another function"):
        export(runs(backbone), "detectron2", tmp_path / "w.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["torchvision", "detectron2", "safetensors", "timm"])
@pytest.mark.parametrize("fault", ["missing", "left over", "bit"])
def test_damaged_while_written_is_refused(
    runs: Callable[[str], Path],
    target: str,
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if target == "detectron2":
        pytest.importorskip("detectron2")
    written = formats.contiguous

    def damaged(backbone: nn.Module) -> dict[str, torch.Tensor]:
        state = written(backbone)
        if fault == "missing":
            del state["layer3.0.bn1.bias"]
        elif fault == "left over":
            state["layer4.9.conv1.weight"] = torch.zeros(1)
        else:
            state["layer3.0.bn1.bias"] = state["layer3.0.bn1.bias"] + 0.01
        return state

    monkeypatch.setattr(formats, "contiguous", damaged)
    output = tmp_path / ("w.safetensors" if target in ("safetensors", "timm") else "w.pth")
    output.write_bytes(b"the export before")
    with pytest.raises(InputError, match=r"features of layer3|missing '|not part of"):
        export(runs("resnet18"), target, output)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"the export before"]


def test_features_that_are_not_finite_never_pass() -> None:
    good = {"layer1": torch.ones(1, 2, 2, 2)}
    with pytest.raises(InputError, match="another function"):
        compare_features(good, {"layer1": torch.full((1, 2, 2, 2), float("nan"))})
    with pytest.raises(InputError, match="not finite"):
        compare_features({"layer1": torch.full((1, 2, 2, 2), float("inf"))}, good)


def test_features_see_the_order_of_channels() -> None:
    network = torchvision.models.resnet18()
    right = torchvision_features(network, probe(), MEAN, STD)
    swapped = torchvision_features(network, probe().flip(1), MEAN, STD)
    with pytest.raises(InputError, match="another function"):
        compare_features(right, swapped)


def test_reading_runs_no_code(tmp_path: Path) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return Path.touch, (tmp_path / "executed",)  # type: ignore[return-value]

    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"model": Payload(), "__author__": "x"}, protocol=2))
    with pytest.raises(InputError, match="not a readable torch file"):
        detectron2_format.read_detectron2(path)
    torch.save({"model": Payload(), "hcl": {}}, path)
    with pytest.raises(InputError, match="not a readable torch file"):
        detectron2_format.read_detectron2(path)
    assert not (tmp_path / "executed").exists()


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with pytest.raises(InputError, match="no entry 'hcl'"):
        detectron2_format.read_detectron2(path)
    with pytest.raises(InputError, match="no such weights file"):
        detectron2_format.read_detectron2(tmp_path / "nothing.pth")


def test_command_line(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs("resnet18")
    output = tmp_path / "w.pth"
    assert hcl.main(["export", str(run), "--to", "torchvision", "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "120/120" in shown
    assert sha256(output) in shown
    assert "fc.weight, fc.bias" in shown
    checkpoint_file = str(next(run.rglob("step_*.pt")))
    assert hcl.main(["export", checkpoint_file, "--to", "torchvision", "-o", str(output)]) == 0


@pytest.mark.parametrize(
    ("source", "target", "name", "message"),
    [
        ("nowhere", "torchvision", "w.pth", "nowhere"),
        ("run", "torchvision", "w.bin", "must end in .pth"),
        ("run", "detectron2", "w.pkl", "must end in .pth"),
        ("run", "safetensors", "w.pth", "must end in .safetensors"),
    ],
)
def test_mistakes_end_in_a_line(
    runs: Callable[[str], Path],
    source: str,
    target: str,
    name: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = runs("resnet18") if source == "run" else tmp_path / source
    status = hcl.main(["export", str(path), "--to", target, "-o", str(tmp_path / name)])
    shown = capsys.readouterr().err
    assert status == 2
    assert message in shown
    assert shown.count("\n") <= 2
    assert list(tmp_path.iterdir()) == []


def test_without_detectron2_says_how_to_install_it(
    runs: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "detectron2"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.setitem(sys.modules, "detectron2.checkpoint", None)
    output = tmp_path / "w.pth"
    assert hcl.main(["export", str(runs("resnet18")), "--to", "detectron2", "-o", str(output)]) == 2
    assert "tools/install_detectron2.py" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
