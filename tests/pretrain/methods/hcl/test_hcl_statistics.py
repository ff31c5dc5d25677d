"""What is logged of scenes and objects: one network for both, and training goes on unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_network import small_encoder
from torch import Tensor

from pretrain.geometry import poincare
from pretrain.methods.base import Context, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.hcl.branch import HCL, HCLSettings

ROWS, SIZE, DIM = 8, 32, 8
MOCO = {"name": "moco", "queue": 16, "norm_group": 4}
METHODS: list[dict[str, Any]] = [
    MOCO,
    {"name": "densecl", "queue": 16, "norm_group": 4},
    {"name": "byol", "predictor_hidden": 8},
    {"name": "orl", "predictor_hidden": 8, "patch_size": 16},
]
every_method = pytest.mark.parametrize("base", METHODS, ids=lambda base: base["name"])


def branch(base: dict[str, Any], **settings: Any) -> HCL:
    torch.manual_seed(0)
    head: Any = "mlp_bn" if base["name"] in ("byol", "orl") else "mlp"
    encoder = small_encoder(head=head, hidden=16, dim=DIM)
    context = Context(encoder, SIZE, ROWS, ROWS, seed=3)
    built = build_method(
        parse_method(base, source="test"), HCLSettings(queue=16, **settings), context
    )
    assert isinstance(built, HCL)
    return built.train()


def views(method: HCL, *, same: bool) -> dict[str, Tensor]:
    """Random views; ``same``: the scene shows what the object shows."""
    generator = torch.Generator().manual_seed(1)
    plan = method.view_plan
    given = {
        crop.name: torch.randn(ROWS, 3, plan.side(crop), plan.side(crop), generator=generator)
        for crop in plan.crops
    }
    return {**given, "scene": given["object"]} if same else given


def add_lag(method: HCL) -> None:
    """Let the query encoder have run away from the key encoder, as after steps of growing norms."""
    last: Any = method.encoder.head[-1]
    with torch.no_grad():
        last.weight.mul_(3)


def logged(method: HCL, given: dict[str, Tensor]) -> dict[str, Tensor]:
    method.begin_step(0, 10)
    method(given)
    return method.statistics()


@every_method
@pytest.mark.parametrize("query", ["scene", "object"])
@pytest.mark.parametrize("lag", [False, True])
def test_equal_crops__no_gap_with_and_without_lag(
    base: dict[str, Any], query: str, lag: bool
) -> None:
    """Scenes and objects that are the same pixels lie equally far out, whatever the lag."""
    method = branch({**base, "momentum": 0.9}, query=query)
    if lag:
        add_lag(method)
    stats = logged(method, views(method, same=True))
    assert stats["norm/object"] == stats["norm/scene"]
    for name in ("norm/q50", "norm/histogram", "projected"):
        assert torch.equal(stats[f"ball/object/{name}"], stats[f"ball/scene/{name}"])
    # The lag itself stands under a name of its own.
    query, key = stats["hyperbolic/query/distance"], stats["hyperbolic/key/distance"]
    assert (query > 1.5 * key) == lag


@every_method
def test_different_crops__are_those_of_the_query_encoder_in_evaluation(
    base: dict[str, Any],
) -> None:
    method = branch(base)
    add_lag(method)
    given = views(method, same=False)
    stats = logged(method, given)
    method.eval()
    for name in ("object", "scene"):
        with torch.no_grad():
            points = poincare.to_ball(method.encoder(given[name]), 0.05)
        distance = poincare.distance_to_origin(points, 0.05)
        torch.testing.assert_close(stats[f"norm/{name}"], distance.mean())
        median = points.norm(dim=1).quantile(0.5) * 0.05**0.5
        torch.testing.assert_close(stats[f"ball/{name}/norm/q50"], median)
    assert stats["norm/object"] != stats["norm/scene"]


def test_points_of_the_loss_have_names_of_their_own() -> None:
    method = branch({**MOCO, "batch_norm": "plain"})
    given = views(method, same=False)
    method.begin_step(0, 10)
    method(given)
    with torch.no_grad():
        query, key = method.base.encode_query(given["scene"]), method.encoder(given["object"])
    add_lag(method)  # after the forward: what the loss saw does not change any more
    stats = method.statistics()
    for name, raw in (("query", query), ("key", key)):
        lengths = poincare.distance_to_origin(poincare.to_ball(raw, 0.05), 0.05)
        torch.testing.assert_close(stats[f"hyperbolic/{name}/distance"], lengths.mean())
        assert stats[f"hyperbolic/{name}/projected"] == 0


@every_method
def test_statistics__change_nothing_of_the_run(base: dict[str, Any]) -> None:
    method = branch(base)
    method.begin_step(0, 10)
    losses, metrics = method(views(method, same=False))
    assert not any(value.requires_grad for value in metrics.values())
    sum(losses.values(), torch.zeros(())).backward()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    gradients = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    modes = [layer.training for layer in method.modules()]
    random = torch.get_rng_state()
    assert method.statistics()
    assert torch.equal(torch.get_rng_state(), random)
    assert [layer.training for layer in method.modules()] == modes
    for name, value in method.state_dict().items():
        assert torch.equal(value, state[name]), name
    after = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(torch.equal(*pair) for pair in zip(after, gradients, strict=True))
