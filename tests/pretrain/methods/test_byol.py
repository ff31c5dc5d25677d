"""BYOL's own rules; its step is checked by test_oracle_bootstrap.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_network import small_encoder
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.methods.base import Context, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.byol import Byol, ByolSettings
from pretrain.methods.hcl.branch import HCLSettings


def context(batch: int = 8) -> Context:
    encoder = small_encoder(head="mlp_bn", hidden=24, dim=16)
    return Context(encoder, 32, batch, batch, seed=3)


def byol(**settings: Any) -> Byol:
    return Byol(ByolSettings(**{"name": "byol", "predictor_hidden": 20, **settings}), context())


def images(batch: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_momentum_grows_to_one() -> None:
    method = byol()
    seen = []
    for step in (0, 50, 100):
        method.begin_step(step, 100)
        seen.append(method._momentum)
    np.testing.assert_allclose(seen, [0.99, 0.995, 1.0])


def test_micro_batches__move_the_target_once() -> None:
    """A step may call ``forward`` several times; the target follows once, at its end."""
    method = byol(momentum=0.9)
    before = [p.clone() for p in method.encoder_k.parameters()]
    method.begin_step(0, 10)
    for seed in (1, 3):
        losses, _ = method({"view_1": images(seed=seed), "view_2": images(seed=seed + 1)})
        losses["regression"].backward()  # type: ignore[no-untyped-call]
    assert all(
        torch.equal(p, old) for p, old in zip(method.encoder_k.parameters(), before, strict=True)
    )
    with torch.no_grad():
        for p in method.encoder_q.parameters():
            p.add_(1.0)
    method.end_step()
    for p, old in zip(method.encoder_k.parameters(), before, strict=True):
        torch.testing.assert_close(p, old + 0.1)


def test_target_starts_as_a_copy_and_takes_no_gradient() -> None:
    method = byol()
    online, target = method.encoder_q.state_dict(), method.encoder_k.state_dict()
    assert all(torch.equal(online[name], target[name]) for name in online)
    assert not any(p.requires_grad for p in method.encoder_k.parameters())
    losses, _ = method({"view_1": images(seed=1), "view_2": images(seed=2)})
    losses["regression"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in method.encoder_q.parameters())
    assert all(p.grad is not None for p in method.predictors.parameters())


def test_projector_without_batch_norm_is_refused() -> None:
    plain = Context(small_encoder(), 32, 8, 8, seed=0)
    with pytest.raises(InputError, match=r"model\.head=mlp_bn"):
        Byol(ByolSettings(name="byol"), plain)


def test_carries_the_hcl_branch() -> None:
    settings = parse_method({"name": "byol", "predictor_hidden": 20}, source="test")
    method = build_method(settings, HCLSettings(queue=16), context())
    views = {crop.name: images(seed=n) for n, crop in enumerate(method.view_plan.crops)}
    method.begin_step(0, 1)
    losses, _ = method(views)
    assert set(losses) == {"regression", "hyperbolic"}
    sum(losses.values(), torch.zeros(())).backward()
    method.end_step()
    assert all(p.grad is not None for p in method.encoder.parameters())
