"""Networks of timm in a detector: what is loaded, computed, trained and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_detection import SMALL, Toy

import hcl
from downstream.detection.model.config import digest, load_config
from downstream.detection.model.heads import register as register_head
from downstream.detection.model.timm_backbone import (
    TimmBackbone,
    check_choice,
    find_stages,
    register,
)
from downstream.detection.weights.backbone import Backbone, read_backbone
from downstream.detection.weights.detector import (
    TOLERANCE,
    check_config,
    check_forward,
    detector_features,
    load_backbone,
)
from downstream.results.result import read_result
from pretrain.core.errors import InputError
from pretrain.export import export
from pretrain.export.verify import LAYERS, probe, timm_features
from pretrain.pretrained import load_pretrained

pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors.torch")

RESNET = ("resnet10t", {"channels": [16, 24, 32, 40], "stem_width": 8})
# It has a convolution between the last map and the pooling.
MOBILENET = ("mobilenetv3_small_050", {})
# It has no batch norm and no map of stride 2.
CONVNEXT = ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]})
# Its batch norms stand in front of the convolutions.
PREACTIVATED = ("resnetv2_50", {"layers": [1, 1, 1, 1], "channels": [16, 24, 32, 40]})
NETWORKS = (RESNET, MOBILENET, CONVNEXT, PREACTIVATED)


@pytest.fixture(autouse=True)
def registered() -> None:
    register_head()
    register()


@pytest.fixture(scope="module")
def run(runs: Callable[..., Path]) -> Path:
    return runs(f"timm/{RESNET[0]}", RESNET[1])


@pytest.fixture(scope="module")
def weights_file(run: Path) -> Path:
    return export(run, "timm", run / "weights.safetensors").path


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return write_config(tmp_path / "timm.yaml", *RESNET)


def write_config(path: Path, name: str, options: dict[str, Any]) -> Path:
    chosen = json.dumps({"TIMM": {"NAME": name, "OPTIONS": options}})
    text = SMALL.replace("build_resnet_fpn_backbone", "build_timm_fpn_backbone")
    path.write_text(f"{text}HCL: {chosen}\n")
    return path


def build(config: Any) -> Any:
    from detectron2.modeling import build_model

    return build_model(config)


def batch_norms(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            yield name, layer


@pytest.mark.parametrize("source", ["timm", "safetensors", "run"])
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_the_detector_computes_what_the_run_computes(
    name: str, options: dict[str, Any], source: str, runs: Callable[..., Path], tmp_path: Path
) -> None:
    run = runs(f"timm/{name}", options)
    path = run
    if source != "run":
        path = export(run, source, tmp_path / "w.safetensors").path
    weights = read_backbone(path)
    assert weights.origin["run"] == f"toy_{name}"
    assert not any("assumed" in note for note in weights.notes)
    config = load_config(write_config(tmp_path / "c.yaml", name, options), [])
    check_config(weights, config)
    model = build(config)
    network = load_pretrained(run).backbone
    assert len(network.state_dict()) == len(weights.tensors)
    # A batch norm behind the last map is never trained, and frozen it counts no batches.
    kept = {place.removeprefix("backbone.bottom_up.network.") for place in model.state_dict()}
    lacking = [name for name in weights.tensors if name not in kept]
    assert lacking in ([], ["norm.num_batches_tracked"])
    assert load_backbone(weights, model) == len(weights.tensors) - len(lacking)
    assert check_forward(weights, model, config) <= TOLERANCE
    images = probe()
    expected = timm_features(network, images, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = detector_features(model, images, "RGB")
    assert list(found) == list(LAYERS)
    for stage, stride, features in zip(
        find_stages(name, network).values(), (4, 8, 16, 32), found.values(), strict=True
    ):
        source_map = expected[stage.module]
        assert features.shape[2:] == (96 // stride, 160 // stride)
        assert (features - source_map).abs().max() <= TOLERANCE * source_map.abs().max()


def test_a_list_among_the_options_of_a_run(runs: Callable[..., Path], config_file: Path) -> None:
    """The settings of a run hold it as a tuple, a detector's config as a list."""
    options = {"channels": (16, 24, 32, 40), "stem_width": 8}
    weights = read_backbone(runs(f"timm/{RESNET[0]}", options))
    check_config(weights, load_config(config_file, []))


@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_stages_are_those_of_detectron2_s_resnets(freeze_at: int, run: Path) -> None:
    backbone = TimmBackbone(*RESNET, "BN", freeze_at)
    stages = [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]
    frozen = {name for stage in stages[:freeze_at] for name in stage}
    trained = {n.split(".")[0] for n, p in backbone.network.named_parameters() if p.requires_grad}
    assert trained == {name for stage in stages for name in stage} - frozen
    assert {name.split(".")[0] for name, _ in batch_norms(backbone.network)} == trained
    # In training too, a frozen stage computes by its running statistics and leaves them alone.
    backbone.network.load_state_dict(load_pretrained(run).backbone.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    before = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    maps = [backbone.eval()(images), backbone.train()(images)]
    for stage, (one, other) in enumerate(zip(*(m.values() for m in maps), strict=True), start=2):
        assert torch.equal(one, other) == (stage <= freeze_at)
    for name, value in backbone.network.state_dict().items():
        fixed = name.split(".")[0] in frozen or not name.endswith(("_var", "_mean", "_tracked"))
        assert torch.equal(value, before[name]) == fixed, name


def test_a_stem_of_its_own_is_frozen_alone() -> None:
    network = TimmBackbone(*CONVNEXT, "BN", 1).network
    frozen = {n.rpartition(".")[0] for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"stem.0", "stem.1", "head.norm"}


def test_what_no_map_needs_is_never_trained() -> None:
    network = TimmBackbone(*MOBILENET, "BN", 0).network
    frozen = {n.split(".")[0] for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"conv_head"}


@pytest.mark.parametrize(
    ("norm", "kinds"),
    [
        ("BN", {"BatchNorm2d", "BatchNormAct2d"}),
        ("SyncBN", {"SyncBatchNorm", "SyncBatchNormAct"}),
        ("FrozenBN", {"FrozenBatchNorm2d", "FrozenBatchNormAct2d"}),
    ],
)
@pytest.mark.parametrize("network", [RESNET, MOBILENET])
def test_norms(norm: str, kinds: set[str], network: tuple[str, dict[str, Any]]) -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone(*network, norm, 0)
    torch.manual_seed(0)
    plain = TimmBackbone(*network, "BN", 0)
    found = {type(layer).__name__ for layer in backbone.modules()}
    assert found & kinds
    assert not any("BatchNorm" in name for name in found - kinds)
    images = torch.rand(2, 3, 64, 64)
    for mode in (True, False):
        maps = [b.train(mode)(images)["res5"] for b in (backbone, plain)]
        # Frozen, it computes in training what it computes in evaluation.
        same = torch.allclose(*maps, rtol=1e-4, atol=1e-5)
        assert same == (norm != "FrozenBN" or not mode)
        if mode:  # the statistics have moved
            plain.network.load_state_dict(backbone.network.state_dict(), strict=False)


def changed(path: Path, target: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    state = safetensors.load_file(path)
    change(state)
    safetensors.save_file(state, target, metadata=header)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.0.conv1.weight"), "83/84 tensors of resnet10t; missing 'layer2"),
        (
            lambda s: s.update({"fc.weight": torch.zeros(2, 2)}),
            r"1 tensors are not part of resnet10t, such as 'fc.weight' .* --to timm",
        ),
        (lambda s: s.update({"bn1.weight": torch.ones(3)}), r"'bn1.weight' has shape \(3,\)"),
        (lambda s: s["bn1.running_var"].fill_(float("inf")), "holds infinite values or NaN"),
    ],
)
def test_files_that_are_not_the_whole_network(
    change: Callable[[dict[str, Tensor]], Any], message: str, weights_file: Path, tmp_path: Path
) -> None:
    path = changed(weights_file, tmp_path / "w.safetensors", change)
    with pytest.raises(InputError, match=message):
        read_backbone(path)


def test_a_damaged_header_is_refused(weights_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = {"architecture": "resnet10t", "model_args": "{"}
    safetensors.save_file(safetensors.load_file(weights_file), path, metadata=header)
    with pytest.raises(InputError, match="header does not say how to build the network"):
        read_backbone(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("HCL.TIMM.NAME resnet14t", "HCL.TIMM.NAME is resnet14t: set it to resnet10t"),
        ("HCL.TIMM.OPTIONS.stem_width 16", r'OPTIONS is .*16}: set it to {"chan.*"stem_width": 8}'),
        ("HCL.TIMM.NORM GN", "HCL.TIMM.NORM is 'GN', not a batch norm"),
        ("MODEL.BACKBONE.NAME build_resnet_fpn_backbone", "set it to build_timm_fpn_backbone"),
        ("MODEL.PIXEL_STD [1.0,1.0,1.0]", r"PIXEL_STD .* set it to \[58.395"),
        ("INPUT.FORMAT BGR", "INPUT.FORMAT is BGR: set it to RGB"),
    ],
)
def test_config_mismatches(
    overrides: str, message: str, weights_file: Path, config_file: Path
) -> None:
    weights = read_backbone(weights_file)
    check_config(weights, load_config(config_file, []))
    with pytest.raises(InputError, match=message):
        check_config(weights, load_config(config_file, overrides.split()))


def loaded(weights: Backbone, config: Any) -> Any:
    model = build(config)
    load_backbone(weights, model)
    return model


@pytest.mark.parametrize(
    ("overrides", "layer"),
    [
        ("INPUT.FORMAT BGR", "layer1"),
        ("MODEL.PIXEL_MEAN [103.53,116.28,123.675]", "layer1"),
        ("HCL.TIMM.OPTIONS.act_layer silu", "layer1"),
    ],
)
def test_features_alone_tell_a_wrong_config(
    overrides: str, layer: str, weights_file: Path, config_file: Path
) -> None:
    weights = read_backbone(weights_file)
    config = load_config(config_file, overrides.split())
    with pytest.raises(InputError, match=f"features of {layer} differ .* HCL.TIMM"):
        check_forward(weights, loaded(weights, config), config)


def test_a_changed_weight_is_told(weights_file: Path, config_file: Path) -> None:
    weights, config = read_backbone(weights_file), load_config(config_file, [])
    model = loaded(weights, config)
    with torch.no_grad():
        model.backbone.bottom_up.network.layer4[0].conv2.weight[:, :, 1, 1] += 0.1
    with pytest.raises(InputError, match="layer4 differ"):
        check_forward(weights, model, config)


def test_weights_and_detector_of_two_kinds(
    weights_file: Path, config_file: Path, small_config: Path, exported: Callable[[str], Path]
) -> None:
    resnet, of_timm = read_backbone(exported("resnet18")), read_backbone(weights_file)
    timm_config, resnet_config = load_config(config_file, []), load_config(small_config, [])
    with pytest.raises(InputError, match="plain resnet18: set it to build_resnet_fpn_backbone"):
        check_config(resnet, timm_config)
    with pytest.raises(InputError, match=r"set it to build_timm_fpn_backbone.* to resnet10t"):
        check_config(of_timm, resnet_config)
    with pytest.raises(InputError, match=r"nothing fits the detector's .*is MODEL.BACKBONE.NAME"):
        load_backbone(resnet, build(timm_config))
    with pytest.raises(InputError, match=r"was not loaded into the detector; .*HCL.TIMM"):
        load_backbone(of_timm, build(resnet_config))


def test_a_plain_resnet_of_timm_is_torchvision_s(
    runs: Callable[..., Path], small_config: Path, tmp_path: Path
) -> None:
    run = runs("timm/resnet18")
    config = load_config(small_config, [])
    for path in (run, export(run, "timm", tmp_path / "w.safetensors").path):
        weights = read_backbone(path)
        check_config(weights, config)
        assert check_forward(weights, loaded(weights, config), config) <= TOLERANCE


def test_export_to_detectron2_names_the_way(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use --to timm, which `hcl detect` reads"):
        export(run, "detectron2", tmp_path / "w.pth")


STRIDES = "does not give maps of stride 4, 8, 16 and 32"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("HCL.TIMM.NAME ", "HCL.TIMM.NAME is empty"),
        ("HCL.TIMM.NAME resnet10x", "HCL.TIMM.NAME: timm has no model 'resnet10x'; did you mean"),
        ("HCL.TIMM.NAME vit_tiny_patch16_224 HCL.TIMM.OPTIONS {}", STRIDES),
        ("HCL.TIMM.OPTIONS.output_stride 16", STRIDES),
        ("HCL.TIMM.OPTIONS.stem_wdth 8", "HCL.TIMM.OPTIONS: .* no option 'stem_wdth'"),
        ("HCL.TIMM.NORM GN", "HCL.TIMM.NORM is 'GN': set it to one of BN, SyncBN, FrozenBN"),
        ("MODEL.BACKBONE.NAME build_resnet_fpn_backbone", "resnet10t, which nothing reads"),
    ],
)
def test_choices_that_cannot_be_built(overrides: str, message: str, config_file: Path) -> None:
    check_choice(load_config(config_file, []))
    with pytest.raises(InputError, match=message):
        check_choice(load_config(config_file, overrides.split(" ")))


def test_the_digest_of_other_detectors_does_not_know_the_key(small_config: Path) -> None:
    one, other = (load_config(small_config, ["HCL.TIMM.NORM", norm]) for norm in ("BN", "SyncBN"))
    assert digest(one) == digest(other)


def test_command(
    toy: Toy,
    config_file: Path,
    weights_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ["--train", *toy.arguments, "--val", *toy.arguments]
    words = ["detect", str(config_file), *data, "--weights", str(weights_file)]
    assert hcl.main([*words, "--output", str(tmp_path / "out"), "HCL.TIMM.NORM=SyncBN"]) == 0
    assert "backbone: 84/84 tensors of weights.safetensors loaded" in capsys.readouterr().out
    result = read_result(tmp_path / "out")
    assert result.run == "toy_resnet10t"
    assert result.protocol["backbone_norm"] == "SyncBN"
    assert result.protocol["images_per_norm"] == 2
    assert result.provenance["weights"]["method"] == "moco"
    # Measured again from its own config, which names the network.
    written = str(tmp_path / "out/config.yaml")
    again = ["detect", written, "--val", *toy.arguments, "--eval-only", str(tmp_path / "out")]
    assert hcl.main([*again, "--output", str(tmp_path / "again")]) == 0
    assert read_result(tmp_path / "again").metrics == result.metrics
