"""Encoder, momentum encoder and batch norm in groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.core.errors import InputError
from pretrain.models import (
    Encoder,
    EncoderSettings,
    build_backbone,
    group_batch_norm,
    momentum_copy,
    update_momentum,
)

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def test_build_backbone__unknown() -> None:
    with pytest.raises(InputError, match=r"unknown backbone 'resnet-18'; did you mean 'resnet18'"):
        build_backbone("resnet-18")


def test_encoder__is_the_paper_s() -> None:
    encoder = Encoder(EncoderSettings(backbone="resnet18", dim=32))
    assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, 32)
    shapes = [tuple(p.shape) for p in encoder.head.parameters()]
    assert shapes == [(512, 512), (512,), (32, 512), (32,)]


def test_momentum_copy__starts_equal_and_frozen() -> None:
    query = Encoder(EncoderSettings(backbone="resnet18"))
    key = momentum_copy(query)
    for a, b in zip(query.parameters(), key.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not b.requires_grad


@pytest.mark.parametrize("momentum", [0.999, 0.99])
def test_update_momentum__golden(momentum: float) -> None:
    golden = np.load(GOLDEN / "moco_queue.npz")
    query, key = nn.Linear(5, 8, bias=False), nn.Linear(5, 8, bias=False)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-15)):
        query, key = query.to(dtype), key.to(dtype)
        key.weight.data = torch.from_numpy(golden["param_k0_weight"]).to(dtype)
        for step, weight in enumerate(golden["param_q_weight"]):
            query.weight.data = torch.from_numpy(weight).to(dtype)
            update_momentum(key, query, momentum)
            expected = golden[f"exact_m{momentum}_param_k_weight"][step]
            np.testing.assert_allclose(
                key.weight.detach().numpy(), expected, rtol=0, atol=tolerance
            )


def test_update_momentum__does_not_drift_where_equal() -> None:
    query = nn.Linear(50, 50)
    key = momentum_copy(query)
    for _ in range(100):
        update_momentum(key, query, 0.999)
    assert torch.equal(key.weight, query.weight)


def test_group_batch_norm__equals_separate_batches() -> None:
    torch.manual_seed(0)
    whole = nn.BatchNorm2d(4).double()
    parts = [nn.BatchNorm2d(4).double() for _ in range(3)]
    grouped = group_batch_norm(nn.Sequential(whole), 2)
    images = torch.randn(6, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    output = grouped(images)
    expected = torch.cat([part(x) for part, x in zip(parts, images.split(2), strict=True)])
    torch.testing.assert_close(output, expected)
    cotangent = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, images, cotangent)
    (expected_gradient,) = torch.autograd.grad(expected, images, cotangent)
    torch.testing.assert_close(gradient, expected_gradient)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(part, name) for part in parts]).mean(0)
        torch.testing.assert_close(getattr(whole, name), mean)
    grouped.eval()
    torch.testing.assert_close(
        grouped(images),
        nn.functional.batch_norm(
            images, whole.running_mean, whole.running_var, whole.weight, whole.bias
        ),
    )


def test_group_batch_norm__keeps_state_names() -> None:
    plain = build_backbone("resnet18")
    assert (
        plain.state_dict().keys()
        == group_batch_norm(build_backbone("resnet18"), 2).state_dict().keys()
    )
