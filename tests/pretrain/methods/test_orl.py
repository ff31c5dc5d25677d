"""ORL's own rules; its step is checked by test_oracle_bootstrap.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_network import small_encoder
from torch import Tensor

from pretrain.core.errors import InputError
from pretrain.methods.base import Context, KeyedMethod, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.hcl.branch import HCLSettings
from pretrain.methods.orl import ORL, ORLSettings

BATCH = 4
VIEWS = {"global_1", "global_2", "intra_1", "intra_2", "inter_1", "inter_2"}


def context(head: Any = "mlp_bn") -> Context:
    encoder = small_encoder(head=head, hidden=24, dim=16)
    return Context(encoder, 64, BATCH, BATCH, seed=3)


def orl(**settings: Any) -> ORL:
    defaults = {"name": "orl", "predictor_hidden": 20, "patch_size": 32}
    return ORL(ORLSettings(**{**defaults, **settings}), context())


def views_of(method: Any) -> dict[str, Tensor]:
    plan, generator = method.view_plan, torch.Generator().manual_seed(0)
    sides = {crop.name: plan.side(crop) for crop in plan.crops}
    return {
        name: torch.randn(BATCH, 3, side, side, generator=generator) for name, side in sides.items()
    }


def test_view_plan__is_the_official_one() -> None:
    plan = ORL(ORLSettings(name="orl"), context()).view_plan
    found = {c.name: (c.region, c.random_resized, plan.side(c)) for c in plan.crops}
    assert found == {
        "global_1": ("image", True, 64),
        "global_2": ("image", True, 64),
        "intra_1": ("object", False, 96),
        "intra_2": ("object_jittered", False, 96),
        "inter_1": ("pair_query", False, 96),
        "inter_2": ("pair_key", False, 96),
    }


def test_defaults_are_the_official_ones() -> None:
    settings = ORLSettings(name="orl")
    assert (settings.momentum, settings.predictor_hidden, settings.patch_size) == (0.99, 4096, 96)
    weights = (settings.global_weight, settings.intra_weight, settings.inter_weight)
    assert weights == (1.0, 1.0, 1.0)


def test_networks__one_encoder_three_predictors() -> None:
    method = orl()
    assert set(method.predictors) == {"global", "intra", "inter"}
    losses, metrics = method(views_of(method))
    assert set(losses) == {"global", "intra", "inter"}
    assert {"agreement", "agreement/global", "agreement/intra"} <= metrics.keys()
    losses["intra"].backward()  # type: ignore[no-untyped-call]
    reached = {n for n, p in method.predictors.items() if next(p.parameters()).grad is not None}
    assert reached == {"intra"}
    assert all(p.grad is not None for p in method.encoder_q.parameters())


def test_views_are_encoded_one_by_one() -> None:
    """Twelve forwards, each with batch statistics of its own: six online, six of the target."""
    method = orl()
    seen: list[tuple[str, tuple[int, ...]]] = []
    for name in ("encoder_q", "encoder_k"):
        getattr(method, name).register_forward_pre_hook(
            lambda _, images, name=name: seen.append((name, tuple(images[0].shape)))
        )
    method(views_of(method))
    expected = sorted((BATCH, 3, side, side) for side in (64, 64, 32, 32, 32, 32))
    for name in ("encoder_q", "encoder_k"):
        assert sorted(shape for encoder, shape in seen if encoder == name) == expected


@pytest.mark.parametrize("term", ["global", "intra", "inter"])
def test_weight_zero__leaves_out_term_views_and_predictor(term: str) -> None:
    method = orl(**{f"{term}_weight": 0.0})
    assert {c.name for c in method.view_plan.crops} == VIEWS - {f"{term}_1", f"{term}_2"}
    assert term not in method.predictors
    losses, _ = method(views_of(method))
    assert term not in losses


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": 0}, r"method\.patch_size"),
        ({"intra_weight": -1.0}, r"method\.intra_weight"),
        ({"global_weight": 0.0, "intra_weight": 0.0, "inter_weight": 0.0}, "at least one"),
        ({"intra_wieght": 1.0}, "did you mean 'intra_weight'"),
    ],
)
def test_settings__faults(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_method({"name": "orl", **values}, source="test")


def test_projector_without_batch_norm_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.head: ORL collapses .*model\.head=mlp_bn"):
        ORL(ORLSettings(name="orl"), context(head="mlp"))


def test_target_starts_as_a_copy_and_takes_no_gradient() -> None:
    method = orl()
    online, target = method.encoder_q.state_dict(), method.encoder_k.state_dict()
    assert online.keys() == target.keys()
    assert all(torch.equal(online[name], target[name]) for name in online)
    assert not any(p.requires_grad for p in method.encoder_k.parameters())


def test_encoder_is_found_in_the_state() -> None:
    method = orl()
    prefix = method.encoder_prefix
    found = {k.removeprefix(prefix) for k in method.state_dict() if k.startswith(prefix)}
    assert found == method.encoder.state_dict().keys()


def test_carries_the_hcl_branch() -> None:
    settings = parse_method(
        {"name": "orl", "predictor_hidden": 20, "patch_size": 32}, source="test"
    )
    method = build_method(settings, HCLSettings(queue=16), context())
    assert isinstance(orl(), KeyedMethod)
    assert {c.name for c in method.view_plan.crops} == VIEWS | {"object", "scene"}
    method.begin_step(0, 1)
    losses, _ = method(views_of(method))
    assert set(losses) == {"global", "intra", "inter", "hyperbolic"}
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    method.end_step()
