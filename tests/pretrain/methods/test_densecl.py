"""DenseCL through the method's own forward, against the official code's values and faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from small_network import small_encoder
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.methods.base import Context, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.densecl import DenseCL, DenseCLSettings
from pretrain.methods.hcl.branch import HCLSettings
from pretrain.models import DenseEncoder, DenseOutput

GOLDEN = np.load(Path(__file__).resolve().parents[2] / "golden/densecl_loss.npz")


def context(batch: int = 8, dim: int = 16, size: int = 64) -> Context:
    return Context(small_encoder(dim=dim), size, batch, batch, seed=3)


def densecl(batch: int = 8, dim: int = 16, **settings: Any) -> DenseCL:
    defaults = {"name": "densecl", "queue": 24, "norm_group": 4}
    return DenseCL(DenseCLSettings(**{**defaults, **settings}), context(batch, dim))


def images(batch: int = 8, seed: int = 0, size: int = 64) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_dense_keys_are_unshuffled_too() -> None:
    method = densecl().eval()  # without batch statistics, groups do not matter
    found = DenseOutput(*method.encode_keys(method.encoder_k.dense, images(), view=0))
    for part, expected in zip(found, method.encoder_k.dense(images()), strict=True):
        torch.testing.assert_close(part, expected)


def test_key_encoder_starts_as_a_copy_and_takes_no_gradient() -> None:
    method = densecl()
    for key, query in zip(
        method.encoder_k.parameters(), method.encoder_q.parameters(), strict=True
    ):
        assert torch.equal(key, query)
        assert query.requires_grad
        assert not key.requires_grad


@pytest.mark.parametrize("head", ["mlp", "mlp_bn"])
def test_global_projection_is_that_of_forward(head: Literal["mlp", "mlp_bn"]) -> None:
    encoder = DenseEncoder(small_encoder(head=head, dim=16)).eval()
    torch.testing.assert_close(encoder.dense(images()).projection, encoder(images()))


@pytest.mark.parametrize("grid", [None, 1, 2])
@pytest.mark.parametrize("symmetric", [False, True])
def test_step_of_any_grid(grid: int | None, symmetric: bool) -> None:
    method = densecl(grid=grid, symmetric=symmetric)
    method.begin_step(0, 1)
    losses, _ = method({"view_1": images(seed=1), "view_2": images(seed=2)})
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is not None for p in method.encoder_q.parameters())
    method.end_step()
    assert method.dense_queue_2._pointer == 8


def test_own_keys_are_not_among_the_negatives() -> None:
    method = densecl(queue_start="empty")
    method.begin_step(0, 2)
    losses, _ = method({"view_1": images(seed=1), "view_2": images(seed=2)})
    assert losses["euclidean"].item() == losses["dense"].item() == 0
    method.end_step()
    assert len(method.dense_queue_2.keys()) == len(method.queue_2.keys()) == 8


def test_dense_warm_up() -> None:
    method = densecl(dense_from=2)
    views = {"view_1": images(seed=1), "view_2": images(seed=2)}
    for step in range(3):
        method.begin_step(step, 3)
        losses, _ = method(views)
        assert (losses["dense"].item() == 0) == (step < 2)


def test_grid_finer_than_the_feature_map_is_refused() -> None:
    with pytest.raises(InputError, match=r"method.grid: 3 cells a side.* 2x2"):
        densecl(grid=3)


def test_carries_the_hcl_branch() -> None:
    settings = parse_method({"name": "densecl", "queue": 16, "norm_group": 4}, source="test")
    method = build_method(settings, HCLSettings(queue=16), context())
    views = {crop.name: images(seed=n) for n, crop in enumerate(method.view_plan.crops)}
    method.begin_step(0, 1)
    losses, _ = method(views)
    assert set(losses) == {"euclidean", "dense", "hyperbolic"}
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is not None for p in method.encoder.parameters())
