"""A ResNet-50 in every layout reaches detectron2's FPN and C4 detectors as the same function."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from toy_detection import Toy

import hcl
from downstream.detection.model.config import load_config
from downstream.detection.model.heads import register
from downstream.detection.weights.backbone import Backbone, read_backbone
from downstream.detection.weights.detector import (
    TOLERANCE,
    check_config,
    check_forward,
    detector_features,
    load_backbone,
)
from pretrain.core.errors import InputError
from pretrain.core.presets import find_config
from pretrain.export.verify import LAYERS, probe, timm_features, torchvision_features

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """A random network whose batch norms are as if trained: no statistic is 0 or 1."""
    torch.manual_seed(3)
    network = torchvision.models.resnet50(weights=None)
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or ".bn" in name:
            value.uniform_(0.8, 1.2) if value.is_floating_point() else value.fill_(7)
    return network


@pytest.fixture(scope="module")
def detectors() -> dict[str, tuple[nn.Module, Any]]:
    from detectron2.modeling import build_model

    register()
    made = {}
    for kind in ("fpn", "c4"):
        path = find_config(f"mask_rcnn_r50_{kind}_1x_ssl", "detection")
        config = load_config(path, ["MODEL.DEVICE", "cpu"])
        made[kind] = (build_model(config), config)
    return made


def moco(state: State) -> Any:
    renamed = {f"module.encoder_q.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    for part in ("q", "k"):
        for name in ("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"):
            renamed[f"module.encoder_{part}.{name}"] = torch.zeros(3)
    renamed["module.encoder_k.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    # HCL's official code has three queues of such names.
    queues = ("module.queue", "module.queue_ptr", "module.queue_hyp_p", "module.queue_ptr_c")
    renamed |= {name: torch.zeros(1) for name in queues}
    return {"epoch": 199, "arch": "resnet50", "state_dict": renamed, "optimizer": {}}


def densecl_training(state: State) -> Any:
    plain = {k: v for k, v in state.items() if not k.startswith("fc.")}
    named = {f"backbone.{k}": v for k, v in plain.items()}
    named |= {f"encoder_q.0.{k}": v for k, v in plain.items()}
    named |= {"encoder_k.0.conv1.weight": torch.zeros(1), "queue2": torch.zeros(1)}
    return {"meta": {"epoch": 800}, "state_dict": named}


def extracted(state: State) -> Any:
    plain = {k: v for k, v in state.items() if not k.startswith("fc.")}
    return {"state_dict": plain, "author": "OpenSelfSup"}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "torchvision": lambda state: state,
    "MoCo": moco,
    "DenseCL or ORL, training": densecl_training,
    "DenseCL or ORL, extracted": extracted,
    "DataParallel": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "no counters": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(
    layout: str, source: nn.Module, detectors: dict[str, tuple[nn.Module, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth.tar"
    torch.save(LAYOUTS[layout](source.state_dict()), path)
    weights = read_backbone(path)
    assert weights.architecture == "resnet50"
    assert len(weights.tensors) == 318
    check(weights, source, detectors)


def check(
    weights: Backbone,
    source: nn.Module,
    detectors: dict[str, tuple[nn.Module, Any]],
    read: Callable[..., dict[str, Tensor]] = torchvision_features,
) -> None:
    """Load into both detectors; compare with ``source`` itself, not with what was read."""
    images = probe()
    expected = read(source, images, MEAN, STD)
    for kind, (model, config) in detectors.items():
        check_config(weights, config)
        for value in model.state_dict().values():
            value.zero_()
        assert load_backbone(weights, model) == 318
        found = detector_features(model, images, "RGB")
        assert set(found) == (set(LAYERS) if kind == "fpn" else {"layer3", "layer4"})
        for layer, features in found.items():
            scale = expected[layer].abs().max()
            assert (features - expected[layer]).abs().max() <= TOLERANCE * scale


def test_both_detectors_pass_the_commands_own_check(
    exported: Callable[[str], Path], detectors: dict[str, tuple[nn.Module, Any]]
) -> None:
    weights = read_backbone(exported("resnet50"))
    for model, config in detectors.values():
        model.train()
        load_backbone(weights, model)
        assert check_forward(weights, model, config) <= TOLERANCE
        assert model.training


def test_timm(source: nn.Module, detectors: dict[str, Any], tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    network = timm.create_model("resnet50", pretrained=False)
    network.load_state_dict(source.state_dict())
    path = tmp_path / "timm.safetensors"
    safetensors.save_file(network.state_dict(), path)
    check(read_backbone(path), network, detectors, timm_features)


@pytest.mark.parametrize("target", ["torchvision", "safetensors", "timm", "run"])
def test_exports_and_runs(
    target: str, exported: Callable[[str], Path], detectors: dict[str, Any], tmp_path: Path
) -> None:
    from pretrain.export import export
    from pretrain.pretrained import load_pretrained

    run = exported("resnet50").parent
    path = run
    if target != "run":
        path = tmp_path / f"w.{'pth' if target == 'torchvision' else 'safetensors'}"
        export(run, target, path)
    weights = read_backbone(path)
    assert weights.tensors.keys() == read_backbone(exported("resnet50")).tensors.keys()
    if target in ("safetensors", "timm"):
        assert not any("assumed" in note for note in weights.notes)
    check(weights, load_pretrained(run).backbone, detectors)


def half_with_overflow(state: State) -> Any:
    state = {name: value.half() for name, value in state.items()}
    state["layer3.2.bn2.running_var"] *= 1e6
    return state


def without(name: str) -> Callable[[State], Any]:
    return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (without("layer2.1.conv2.weight"), "317/318 tensors of resnet50; missing 'layer2.1.conv2"),
        (lambda s: {**s, "projector.0.weight": torch.zeros(2)}, "'projector.0.weight' .a projec"),
        (lambda s: {**s, "fc.2.weight": torch.zeros(2)}, "'fc.2.weight' .a projection head or"),
        (
            half_with_overflow,
            "layer3.2.bn2.running_var' holds infinite .* overflow of float16",
        ),
        (lambda s: {**s, "conv1.weight": torch.zeros(64, 1, 7, 7)}, r"has shape \(64, 1, 7, 7\)"),
        (lambda s: {"student.conv1.weight": s["conv1.weight"]}, "no ResNet in a known layout"),
        (lambda s: {"model": {"backbone.bottom_up.stem.x": s["fc.bias"]}}, "use --eval-only"),
        (lambda s: {"epoch": 3}, "no tensors"),
        (lambda s: [1], "no dictionary of tensors"),
        (lambda s: {"state_dict": s, "args": Path("x")}, "only unpickling could restore"),
    ],
)
def test_corrupt_files(
    corrupt: Callable[[State], Any], message: str, source: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(corrupt(dict(source.state_dict())), path)
    with pytest.raises(InputError, match=message):
        read_backbone(path)


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("trapped"),)


@pytest.mark.parametrize("name", ["w.pkl", "w.pth", "w.pth.tar"])
def test_a_pickle_is_not_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Path(name).open("wb") as file:
        if name == "w.pth":
            torch.save({"model": Trap()}, file)
        else:
            pickle.dump({"model": Trap()}, file)
    with pytest.raises(InputError, match=r"pickle|unpickling|not a readable torch file"):
        read_backbone(Path(name))
    assert not Path("trapped").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["INPUT.FORMAT", "BGR"], "layer1 differ"),
        (["MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]"], "layer1 differ"),
        (["MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"], "layer1 differ"),
        (["MODEL.RESNETS.STRIDE_IN_1X1", "True"], "layer2 differ"),
        (["MODEL.RESNETS.DEPTH", "101"], "nothing fits the detector's"),
    ],
)
def test_features_alone_tell_a_wrong_config(
    overrides: list[str], message: str, exported: Callable[[str], Path]
) -> None:
    """The comparison of keys is not asked: the function itself differs."""
    from detectron2.modeling import build_model

    register()
    path = find_config("mask_rcnn_r50_fpn_1x_ssl", "detection")
    config = load_config(path, ["MODEL.DEVICE", "cpu", *overrides])
    weights = read_backbone(exported("resnet50"))
    model = build_model(config)
    with pytest.raises(InputError, match=message):
        load_backbone(weights, model)
        check_forward(weights, model, config)


def test_a_changed_weight_is_told(exported: Callable[[str], Path]) -> None:
    from detectron2.modeling import build_model

    register()
    config = load_config(
        find_config("mask_rcnn_r50_c4_1x_ssl", "detection"), ["MODEL.DEVICE", "cpu"]
    )
    weights = read_backbone(exported("resnet50"))
    model = build_model(config)
    with pytest.raises(InputError, match="layer3 differ"):
        check_forward(weights, model, config)  # random: nothing was loaded
    load_backbone(weights, model)
    with torch.no_grad():
        model.state_dict()["roi_heads.res5.1.conv2.weight"][:, :, 1, 1] += 0.1
    with pytest.raises(InputError, match="layer4 differ"):
        check_forward(weights, model, config)


def test_half_precision_is_said_and_used(
    toy: Toy, small_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.pth")
    data = ["--train", *toy.arguments, "--val", *toy.arguments, "--output", str(tmp_path / "out")]
    more = ["--weights", str(tmp_path / "half.pth"), "SOLVER.MAX_ITER", "1"]
    assert hcl.main(["detect", str(small_config), *data, *more]) == 0
    shown = capsys.readouterr().out
    assert "stored as float16, trained on as float32" in shown
    assert "ImageNet's mean and deviation assumed" in shown
    assert "left out: 2 tensors, such as 'fc.weight'" in shown
