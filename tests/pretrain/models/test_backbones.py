"""Backbones by name: built, refused, their batch norm, and back out of a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pretrain import checkpoint
from pretrain.core.errors import InputError
from pretrain.models import (
    Encoder,
    EncoderSettings,
    build_backbone,
    group_batch_norm,
    momentum_copy,
    synchronize_batch_norm,
)
from pretrain.pretrained import Description, load_pretrained

pytest.importorskip("timm")

VIT = "timm/vit_tiny_patch16_224"
SWIN = "timm/swin_tiny_patch4_window7_224"
NARROW_VIT = {"depth": 2, "embed_dim": 48}
NARROW_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}
FAMILIES: list[tuple[str, dict[str, Any], int]] = [
    ("resnet18", {}, 512),
    ("timm/resnet50d", {"layers": (1, 1, 1, 1)}, 2048),
    ("timm/convnext_atto", {}, 320),
    ("timm/mobilenetv3_small_050", {}, 1024),
    (VIT, NARROW_VIT, 48),
    (VIT, {**NARROW_VIT, "class_token": False, "global_pool": "avg"}, 48),
    (SWIN, NARROW_SWIN, 192),
]


def noise(count: int = 2, size: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "options", "width"), FAMILIES)
def test_embeds_images_of_two_sizes(name: str, options: dict[str, Any], width: int) -> None:
    encoder = Encoder(EncoderSettings(backbone=name, options=options, dim=8)).eval()
    assert encoder.backbone.num_features == width
    for size in (64, 96):
        assert encoder.backbone(noise(size=size)).shape == (2, width)
        assert encoder(noise(size=size)).shape == (2, 8)
    encoder(noise()).sum().backward()
    # Data-parallel training waits for the gradient of every parameter.
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_torchvision_s_initialization_is_untouched() -> None:
    torch.manual_seed(5)
    ours = build_backbone("resnet18").state_dict()
    torch.manual_seed(5)
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    assert list(ours) == [name for name in theirs if not name.startswith("fc.")]
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_timm_s_initialization_is_untouched() -> None:
    import timm

    torch.manual_seed(5)
    ours = build_backbone(VIT, NARROW_VIT).state_dict()
    torch.manual_seed(5)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **NARROW_VIT).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_vit_for_any_size_is_the_usual_one_at_its_own() -> None:
    import timm

    ours = build_backbone(VIT, {**NARROW_VIT, "img_size": 64}).eval()
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, **NARROW_VIT)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(noise()), theirs.eval()(noise()))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm/convnext_ato", {}, "did you mean 'timm/convnext_atto'"),
        ("timm/hf-hub:someone/model", {}, "timm has no model"),
        ("timm/resnet50.a1_in1k", {}, "did you mean 'timm/resnet50"),
        (VIT, {"drop_pth_rate": 0.1}, "no option 'drop_pth_rate'; did you mean 'drop_path_rate'"),
        ("timm/convnext_atto", {"quux": 1}, "no option 'quux'; leave it out"),
        (VIT, {"embed_dim": "wide"}, r"refused .*embed_dim"),
        (VIT, {"num_classes": 10}, "'num_classes' is not for a config to choose"),
        ("timm/resnet18", {"pretrained": True}, "'pretrained' is not for a config to choose"),
        ("timm/resnet18", {"global_pool": ""}, "global_pool '' is none of"),
        ("resnet18", {"drop_path_rate": 0.1}, "resnet18 takes none; use model.backbone=timm/"),
        ("resnet20", {}, "did you mean 'resnet"),
    ],
)
def test_mistakes_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_backbone(name, options)


def test_without_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install 'hcl\[timm\]'"):
        build_backbone("timm/resnet18")


def test_sizes_a_backbone_cannot_take_are_refused() -> None:
    fixed = build_backbone("timm/mixer_s32_224", {"img_size": 64})
    assert fixed(noise()).shape == (2, 512)
    with pytest.raises(InputError, match=r"64x64 px only, not 96x96; set model.options.img_size"):
        fixed(noise(size=96))
    with pytest.raises(InputError, match=r"patches of 16x16 px, which do not divide 72x72"):
        build_backbone(VIT, NARROW_VIT)(noise(size=72))
    padded = build_backbone(VIT, {**NARROW_VIT, "dynamic_img_pad": True})
    assert padded(noise(size=72)).shape == (2, 48)


def test_stochastic_depth_reaches_the_network() -> None:
    network = build_backbone(VIT, {**NARROW_VIT, "drop_path_rate": 0.5}).train()
    torch.manual_seed(0)
    assert not torch.equal(network(noise(16)), network(noise(16)))


# ------------------------------------------------------------------------------ batch norm


def separately(network: nn.Module, images: Tensor, group: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs of each group in a forward of its own, and the mean of the states they leave."""
    copies = [momentum_copy(network) for _ in range(len(images) // group)]
    outputs = [copy(part) for copy, part in zip(copies, images.split(group), strict=True)]
    states = [copy.state_dict() for copy in copies]
    running = {
        name: torch.stack([state[name] for state in states]).mean(0)
        for name in states[0]
        if "running" in name
    }
    return torch.cat(outputs), running


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm/resnet50d", {"layers": (1, 1, 1, 1)}),
        ("timm/mobilenetv3_small_050", {}),  # batch norm and activation in one layer
        ("timm/regnetx_002", {}),
    ],
)
def test_groups_equal_forwards_of_their_own(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build_backbone(name, options).double().train()
    images = noise(6).double()
    expected, running = separately(network, images, 2)
    assert (momentum_copy(network)(images) - expected).abs().max() > 1e-3
    names = list(network.state_dict())
    grouped = group_batch_norm(network, 2)
    assert list(grouped.state_dict()) == names
    torch.testing.assert_close(grouped(images), expected)
    found = grouped.state_dict()
    assert running
    for key, value in running.items():
        torch.testing.assert_close(found[key], value)


def test_head_is_grouped_too() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderSettings(backbone="resnet18", head="mlp_bn", hidden=8, dim=4))
    encoder.double().train()
    images = noise(8, size=32).double()
    expected, _ = separately(encoder, images, 4)
    assert (encoder(images) - expected).abs().max() > 1e-3
    torch.testing.assert_close(group_batch_norm(encoder, 4)(images), expected)


def test_synchronized_batch_norm_keeps_its_activation() -> None:
    network = build_backbone("timm/mobilenetv3_small_050").train()
    expected = network(noise())
    synchronize_batch_norm(network)
    torch.testing.assert_close(network(noise()), expected)
    assert not any(type(layer).__name__ == "BatchNormAct2d" for layer in network.modules())


def test_batch_norm_that_cannot_be_grouped_is_refused() -> None:
    levit = Encoder(EncoderSettings(backbone="timm/levit_128s", dim=8))
    with pytest.raises(InputError, match=r"batch norm of tokens at 'backbone\."):
        group_batch_norm(levit, 2)
    from timm.layers import EvoNorm2dB0

    for convert in (synchronize_batch_norm, lambda module: group_batch_norm(module, 2)):
        with pytest.raises(InputError, match="'0' is of kind EvoNorm2dB0"):
            convert(nn.Sequential(EvoNorm2dB0(8)))


def test_networks_without_batch_norm_are_left_alone() -> None:
    network = build_backbone(VIT, NARROW_VIT).eval()
    expected = network(noise())
    assert torch.equal(group_batch_norm(network, 2)(noise()), expected)


# ----------------------------------------------------------------------- out of a checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[EncoderSettings, Encoder], Path]:
    def save(settings: EncoderSettings, encoder: Encoder) -> Path:
        description = Description(
            encoder=settings,
            method="moco",
            prefix="encoder_q.",
            size=64,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            curvature=None,
            clip_radius=None,
            config={},
        )
        state = {
            "model": {f"encoder_q.{k}": v for k, v in encoder.state_dict().items()},
            "description": description.model_dump(mode="json"),
            "step": 3,
        }
        checkpoint.save(tmp_path / "run" / "checkpoints", state, 3, keep=1, keep_every=None)
        return tmp_path / "run"

    return save


@pytest.mark.parametrize(("name", "options", "width"), FAMILIES)
def test_load_pretrained_gives_the_same_features(
    saved: Callable[[EncoderSettings, Encoder], Path],
    name: str,
    options: dict[str, Any],
    width: int,
) -> None:
    settings = EncoderSettings(backbone=name, options=options, hidden=8, dim=4)
    encoder = Encoder(settings)
    group_batch_norm(encoder, 2)
    encoder.train()(noise(4))
    loaded = load_pretrained(saved(settings, encoder))
    assert loaded.description.encoder == settings
    encoder.eval()
    with torch.inference_mode():
        for size in (64, 96):
            assert torch.equal(loaded.encoder(noise(size=size)), encoder(noise(size=size)))


def test_tensors_of_another_network_are_refused(
    saved: Callable[[EncoderSettings, Encoder], Path],
) -> None:
    wide = EncoderSettings(backbone=VIT, options=NARROW_VIT, hidden=8, dim=4)
    deep = EncoderSettings(backbone=VIT, options={**NARROW_VIT, "depth": 3}, hidden=8, dim=4)
    with pytest.raises(InputError, match=r"not those of timm/vit_tiny.*Missing key"):
        load_pretrained(saved(deep, Encoder(wide)))


def test_encoder_compiles() -> None:
    # The second has batch norm and activation in one layer.
    for name, options in ((VIT, NARROW_VIT), ("timm/test_efficientnet", {})):
        encoder = group_batch_norm(
            Encoder(EncoderSettings(backbone=name, options=options, dim=4)).train(), 2
        )
        expected = encoder(noise(4))
        encoder.compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(encoder(noise(4)), expected)
