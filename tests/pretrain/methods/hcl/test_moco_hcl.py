"""MoCo-v2 and the HCL branch, against the official codes' values and against their faults."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_network import small_encoder
from torch import Tensor, nn

from pretrain.methods.base import Context, KeyedMethod, Losses, Metrics, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.hcl.branch import HCL, HCLSettings
from pretrain.methods.moco import Moco, MocoSettings
from pretrain.models import Encoder


def context(batch: int = 8, dim: int = 16) -> Context:
    return Context(small_encoder(dim=dim), 32, batch, batch, seed=3)


def moco(batch: int = 8, **settings: Any) -> Moco:
    defaults = {"name": "moco", "queue": 24, "norm_group": 4}
    return Moco(MocoSettings(**{**defaults, **settings}), context(batch))


def images(batch: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class Half(nn.Module):
    """An encoder that passes on one half of its input: golden files hold queries and keys."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.half = half

    def forward(self, both: Tensor) -> Tensor:
        return both.chunk(2, dim=1)[self.half]


def test_forward__own_key_is_not_among_the_negatives() -> None:
    method = moco(queue_start="empty")
    views = {"view_1": images(seed=1), "view_2": images(seed=2)}
    method.begin_step(0, 2)
    losses, _ = method(views)
    assert losses["euclidean"].item() == 0  # no negatives yet, least of all its own key
    assert len(method.queue_2.keys()) == 0
    method.end_step()
    assert len(method.queue_2.keys()) == 8


def test_encode_key__unshuffle_inverts_shuffle() -> None:
    method = moco().eval()  # without batch statistics, groups do not matter
    keys = method.encode_key(images(), view=0)
    torch.testing.assert_close(keys, method.encoder_k(images()))


def test_encode_key__groups_are_shuffled_anew_for_each_step_and_view() -> None:
    method = moco().train()
    orders = set()
    for step in (0, 1):
        method.begin_step(step, 2)
        orders |= {tuple(method._permutation(view, 8).tolist()) for view in (0, 1, 15)}
    assert len(orders) == 6
    method.begin_step(0, 2)
    shuffled = method.encode_key(images(), view=0)
    assert not torch.allclose(shuffled, method.encoder_k(images()), atol=1e-4)


def test_hcl__gradient_flows_through_the_query_alone() -> None:
    method = HCL(moco(), HCLSettings(queue=24, weight=0.5), context())
    views = {
        n: images(seed=i).requires_grad_()
        for i, n in enumerate(("view_1", "view_2", "object", "scene"))
    }
    method.begin_step(0, 1)
    losses, _ = method(views)
    losses["hyperbolic"].backward()
    assert views["scene"].grad is not None
    assert views["scene"].grad.abs().sum() > 0
    assert views["object"].grad is None


def test_hcl__reversed_hierarchy() -> None:
    method = HCL(moco(), HCLSettings(queue=24, query="object"), context())
    views = {
        n: images(seed=i).requires_grad_()
        for i, n in enumerate(("view_1", "view_2", "object", "scene"))
    }
    method.begin_step(0, 1)
    losses, _ = method(views)
    losses["hyperbolic"].backward()
    assert views["scene"].grad is None
    assert views["object"].grad is not None


def test_hcl__queue_starts_inside_the_ball() -> None:
    for c in (0.05, 1.0, 20.0):
        method = HCL(moco(), HCLSettings(queue=24, curvature=c), context())
        norms = method.queue.keys().norm(dim=1)
        assert (norms * c**0.5 < 1).all()
        assert (norms > 0).all()


def test_build_method() -> None:
    settings = parse_method({"name": "moco", "queue": 24, "norm_group": 4}, source="t")
    assert isinstance(build_method(settings, None, context()), Moco)
    assert isinstance(build_method(settings, HCLSettings(weight=0.0), context()), Moco)
    joined = build_method(settings, HCLSettings(queue=24), context())
    assert isinstance(joined, HCL)
    assert [crop.name for crop in joined.view_plan.crops] == ["view_1", "view_2", "object", "scene"]
    prefix = joined.encoder_prefix
    state = joined.state_dict()
    stripped = {k.removeprefix(prefix) for k in state if k.startswith(prefix)}
    assert stripped == Encoder(context().encoder).state_dict().keys()


def test_interface_is_complete() -> None:
    """What HCL needs of a method is abstract there: a method without it cannot be made."""

    class Half(KeyedMethod):
        settings_class = MocoSettings

        def forward(self, views: Any) -> tuple[Losses, Metrics]:
            return {}, {}

    with pytest.raises(TypeError, match="encode_key"):
        Half()  # type: ignore[abstract]
