"""Feature maps: one forward gives the map and the backbone's own pooled output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.core.errors import InputError
from pretrain.methods.base import Context
from pretrain.methods.densecl import DenseCL, DenseCLSettings
from pretrain.models import DenseEncoder, EncoderSettings, build_backbone
from pretrain.models.feature_map import find_feature_map

pytest.importorskip("timm")

VIT = "timm/vit_tiny_patch16_224"
SWIN = "timm/swin_tiny_patch4_window7_224"
NARROW_VIT = {"depth": 2, "embed_dim": 48}
NARROW_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)}


def noise(count: int = 2, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "options", "channels", "side", "layout"),
    [
        ("resnet18", {}, 512, 3, "stages"),
        ("timm/resnet50d", {"layers": (1, 1, 1, 1)}, 2048, 3, "NCHW"),
        ("timm/resnet18", {"output_stride": 16}, 512, 6, "NCHW"),
        ("timm/convnext_atto", {}, 320, 3, "NCHW"),
        ("timm/mobilenetv3_small_050", {}, 288, 3, "NCHW"),  # pools, then widens to 1024
        (SWIN, NARROW_SWIN, 192, 3, "NHWC"),
        (VIT, NARROW_VIT, 48, 6, "tokens"),
        (VIT, {**NARROW_VIT, "class_token": False, "global_pool": "avg"}, 48, 6, "tokens"),
        ("timm/mixer_s32_224", {"img_size": 96}, 512, 3, "tokens"),
    ],
)
def test_map_and_pooled_output(
    name: str, options: dict[str, Any], channels: int, side: int, layout: str
) -> None:
    torch.manual_seed(0)
    network = build_backbone(name, options).eval()
    # Biases are zero at first, and a map without them is easily right by chance.
    for parameter in network.parameters():
        nn.init.normal_(parameter, parameter.mean().item(), 0.05)
    found = find_feature_map(name, network, 96)
    assert (found.channels, found.side, found.layout) == (channels, side, layout)
    images = noise(size=96)
    with torch.inference_mode():
        pooled, cells = found.read(network, images)
        torch.testing.assert_close(pooled, network(images))
    assert cells.shape == (2, channels, side, side)


def test_cells_stand_where_the_image_has_them() -> None:
    """What changes in a corner of the image changes the map most in that corner."""
    for name, options in ((VIT, NARROW_VIT), (SWIN, NARROW_SWIN), ("timm/convnext_atto", {})):
        torch.manual_seed(0)
        network = build_backbone(name, options).eval()
        found = find_feature_map(name, network, 128)
        images = noise(1, 128)
        changed = images.clone()
        changed[..., :32, 96:] = 3  # top right
        with torch.inference_mode():
            before, after = (found.read(network, x)[1] for x in (images, changed))
        change = F.adaptive_avg_pool2d((after - before).abs(), 2).sum(1)[0]
        assert change.argmax().item() == 1, name


def test_average_pooling_of_the_map_is_the_pooled_output() -> None:
    network = build_backbone("timm/resnet50d", {"layers": (1, 1, 1, 1)}).eval()
    with torch.inference_mode():
        pooled, cells = find_feature_map("timm/resnet50d", network, 64).read(network, noise())
    torch.testing.assert_close(cells.mean((2, 3)), pooled)


def test_looking_for_the_map_leaves_no_trace() -> None:
    network = build_backbone("timm/resnet18").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    find_feature_map("timm/resnet18", network, 64)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("name", "size"), [("crossvit_tiny_240", 240), ("hiera_tiny_224", 224)])
def test_backbone_without_a_map_is_refused(name: str, size: int) -> None:
    with pytest.raises(InputError, match=rf"timm/{name} gives no feature map.*timm/resnet50d"):
        DenseEncoder(EncoderSettings(backbone=f"timm/{name}"), size=size)


def test_map_that_does_not_go_with_the_pooled_output_is_refused() -> None:
    network: Any = build_backbone("timm/resnet18")
    network.forward = lambda images: network.forward_head(network.forward_features(images)) * 2
    with pytest.raises(InputError, match="pooling its map gives other features"):
        find_feature_map("timm/resnet18", network, 64)


@pytest.mark.parametrize(("name", "options"), [(VIT, NARROW_VIT), (SWIN, NARROW_SWIN)])
def test_dense_step(name: str, options: dict[str, Any]) -> None:
    context = Context(EncoderSettings(backbone=name, options=options, dim=8), 64, 8, 8, seed=0)
    method = DenseCL(DenseCLSettings(name="densecl", queue=16, batch_norm="plain"), context)
    method.begin_step(0, 1)
    losses, _ = method({"view_1": noise(8), "view_2": noise(8).flip(3)})
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is not None for p in method.encoder_q.parameters())
    assert losses["dense"].isfinite()


def test_grid_is_checked_against_the_backbone_s_own_cells() -> None:
    context = Context(EncoderSettings(backbone=VIT, options=NARROW_VIT), 64, 8, 8, seed=0)
    DenseCL(DenseCLSettings(name="densecl", queue=16, norm_group=4, grid=4), context)
    with pytest.raises(InputError, match=r"grid: 5 cells a side.* 4x4"):
        DenseCL(DenseCLSettings(name="densecl", queue=16, norm_group=4, grid=5), context)


@pytest.mark.parametrize(
    ("name", "options"), [(VIT, NARROW_VIT), (SWIN, NARROW_SWIN), ("resnet18", {})]
)
def test_dense_runs_the_network_once(name: str, options: dict[str, Any]) -> None:
    encoder = DenseEncoder(EncoderSettings(backbone=name, options=options), size=64)
    calls: list[nn.Module] = []
    first = next(m for m in encoder.backbone.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda module, *_: calls.append(module))
    encoder.dense(noise())
    assert len(calls) == 1


def test_dense_is_compiled_with_the_encoder() -> None:
    torch.manual_seed(0)
    encoder = DenseEncoder(EncoderSettings(backbone="timm/test_resnet", dim=4), size=64).eval()
    expected = encoder.dense(noise())
    used: list[int] = []

    def backend(graph: Any, _examples: Any) -> Any:
        used.append(1)
        return graph

    encoder.compile(backend=backend)
    for found, value in zip(encoder.dense(noise()), expected, strict=True):
        torch.testing.assert_close(found, value)
    assert used
    torch.testing.assert_close(encoder(noise()), expected.projection)
