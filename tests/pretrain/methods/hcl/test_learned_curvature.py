"""The HCL branch with a learned curvature, and its statistics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_network import small_encoder
from torch import Tensor, nn

from pretrain.config import from_values
from pretrain.core.errors import InputError
from pretrain.geometry import poincare
from pretrain.losses import hyperbolic_info_nce
from pretrain.losses.stats import BINS
from pretrain.losses.tangent import hyperbolic_info_nce_of_tangents, moving_point
from pretrain.methods.base import Context
from pretrain.methods.hcl.branch import HCL, HCLSettings
from pretrain.methods.moco import Moco, MocoSettings

BATCH, DIM = 6, 8


class Half(nn.Module):
    """An encoder that passes on one half of its input: tests choose queries and keys."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.half = half

    def forward(self, both: Tensor) -> Tensor:
        return both.chunk(2, dim=1)[self.half]


def branch(**settings: Any) -> HCL:
    context = Context(small_encoder(dim=DIM), 32, BATCH, BATCH, seed=3)
    base = Moco(MocoSettings(name="moco", queue=20, batch_norm="plain"), context)
    base.encoder_q, base.encoder_k = Half(0), Half(1)  # type: ignore[assignment]
    return HCL(base, HCLSettings(queue=20, **{"learn_curvature": True, **settings}), context)


def raw(scale: float, seed: int = 0, rows: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, 2 * DIM, generator=generator, dtype=torch.float64)


def views(scale: float) -> dict[str, Tensor]:
    return {n: raw(scale, i) for i, n in enumerate(("view_1", "view_2", "object", "scene"))}


def loss_at(method: HCL, log_c: float, given: dict[str, Tensor]) -> Tensor:
    assert method.log_curvature is not None
    with torch.no_grad():
        method.log_curvature.fill_(log_c)
    return method(given)[0]["hyperbolic"]


@pytest.mark.parametrize("query", ["scene", "object"])
@pytest.mark.parametrize("path", ["plain", "auto"])
@pytest.mark.parametrize(
    ("c", "scale", "clip"),
    # In the middle of the ball; at the rim, where the projection works; clipped.
    [(0.05, 1.0, None), (1.0, 3.0, None), (5.0, 2.0, None), (0.5, 3.0, 2.0)],
)
def test_gradient_of_c__is_that_of_the_whole_branch(
    c: float, scale: float, clip: float | None, path: str, query: str
) -> None:
    """Finite differences of the loss in float64: through query, key, queue and distance."""
    method = branch(curvature=c, clip_radius=clip, loss_path=path, query=query, weight=1.0).double()
    given = views(scale)
    method.queue.rows.copy_(raw(scale, 9, 20)[:, :DIM])
    (gradient,) = torch.autograd.grad(loss_at(method, math.log(c), given), method.log_curvature)
    h = 1e-5
    above, below = (loss_at(method, math.log(c) + sign * h, given).item() for sign in (1, -1))
    assert gradient.dtype == torch.float64
    assert abs(gradient.item()) > 1e-4
    assert gradient.item() == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-8)


def test_query_gradient_and_loss__are_those_of_the_fixed_ball() -> None:
    fixed, learned = branch(learn_curvature=False), branch()
    start = raw(2.0, 9, 20)[:, :DIM].float()
    fixed.queue.rows.copy_(fixed.space.key(start))
    learned.queue.rows.copy_(start)
    found = []
    for method in (fixed, learned):
        given = {name: view.float().requires_grad_() for name, view in views(2.0).items()}
        loss = method(given)[0]["hyperbolic"]
        scene = given["scene"]
        found.append((loss, torch.autograd.grad(loss, scene)[0]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-7)


def test_tiles__change_nothing() -> None:
    query, key, queue = (raw(1.0, seed, rows)[:, :DIM] for seed, rows in ((0, 6), (1, 6), (2, 50)))
    found = []
    for tile in (10**6, 100):
        c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        leaf = query.clone().requires_grad_()
        x = moving_point(leaf, c, riemannian=True)
        loss = hyperbolic_info_nce_of_tangents(x, key, queue, c=c, temperature=0.2, tile=tile)
        found.append((loss, *torch.autograd.grad(loss, (leaf, c))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    y, negatives = poincare.to_ball(key, 0.7), poincare.to_ball(queue, 0.7)
    expected = hyperbolic_info_nce(
        poincare.to_ball(query, 0.7), y, negatives, c=0.7, temperature=0.2, path="plain"
    )
    torch.testing.assert_close(found[0][0], expected, rtol=1e-12, atol=0)


def test_empty_queue__is_a_loss_of_zero_that_still_gives_c_a_gradient() -> None:
    method = branch(queue_start="empty")
    loss = method(views(1.0))[0]["hyperbolic"]
    loss.backward()
    assert loss == 0
    assert method.log_curvature is not None
    assert method.log_curvature.grad == 0


@pytest.mark.parametrize("push", [1e30, -1e30])
def test_c__stays_within_its_bounds(push: float) -> None:
    method = branch(curvature_bounds=(0.01, 2.0), curvature_step=0.5)
    assert method.log_curvature is not None
    optimizer = torch.optim.SGD([method.log_curvature], lr=1.0)
    for _ in range(9):
        before = method.curvature
        method(views(1.0))
        method.log_curvature.grad = torch.tensor(push, dtype=torch.float64)
        optimizer.step()
        method.end_step()
        assert abs(math.log(method.curvature / before)) <= 0.5 * (1 + 1e-12)
    assert method.curvature == pytest.approx(0.01 if push > 0 else 2.0, rel=1e-12)
    _, metrics = method(views(1.0))
    assert metrics["curvature"].item() == pytest.approx(method.curvature)


def test_queue__is_valid_after_c_has_grown() -> None:
    method = branch(curvature=0.001).float()
    assert method.log_curvature is not None
    given = {name: view.float() for name, view in views(10.0).items()}
    for _ in range(3):
        method(given)
        method.end_step()
    norms = method.space.to_points(method.queue.keys()).norm(dim=1)
    with torch.no_grad():
        method.log_curvature.fill_(math.log(10.0))
    assert norms.max() > 10 * 10**-0.5  # as ball points they would be far outside by now
    points = method.space.to_points(method.queue.keys())
    assert (points.double().norm(dim=1) * 10**0.5 < 1).all()
    loss = method(given)[0]["hyperbolic"]
    loss.backward()
    assert math.isfinite(loss.item())
    assert math.isfinite(method.log_curvature.grad)  # type: ignore[arg-type]
    # A key of today's features is where the queue puts the same features of long ago.
    fresh = method.space.to_points(method.base.encode_key(given["object"], view=15))
    torch.testing.assert_close(method.space.to_points(method.queue.keys()[:BATCH]), fresh)


def test_state__holds_c_exactly_and_the_encoder_stands_apart() -> None:
    method, other = branch(), branch()
    assert method.log_curvature is not None
    with torch.no_grad():
        method.log_curvature.add_(math.pi / 3)
    other.load_state_dict(method.state_dict())
    assert other.curvature == method.curvature
    assert "log_curvature" in dict(method.named_parameters())
    assert not any(
        "curvature" in name
        for name in method.state_dict()
        if name.startswith(method.encoder_prefix)
    )
    assert [p is method.log_curvature for p in method.undecayed()] == [True]
    assert branch(learn_curvature=False).undecayed() == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"curvature": 0.0}, "'hcl.curvature': input should be greater than 0, got 0.0"),
        (
            {"curvature_step": -0.1},
            "'hcl.curvature_step': input should be greater than 0, got -0.1",
        ),
        ({"curvature": math.inf}, "'hcl.curvature': input should be a finite number"),
        (
            {"learn_curvature": True, "curvature": 20.0},
            r"'hcl.curvature_bounds': must hold the start, hcl.curvature = 20.0, got",
        ),
        (
            {"curvature_bounds": [1.0, 0.1]},
            "'hcl.curvature_bounds': must be two finite numbers, 0 < lowest < highest",
        ),
        (
            {"learn_curvature": True, "loss_path": "triton"},
            "'hcl.loss_path': gives no gradient to hcl.curvature, which is learned; use auto",
        ),
        ({"learn_curvature": "yes"}, "'hcl.learn_curvature': input should be a valid boolean"),
    ],
)
def test_settings__nonsense(given: dict[str, Any], message: str) -> None:
    values = {
        "output": "run",
        "data": {"annotations": "a.json", "images": "a"},
        "method": {"name": "moco"},
        "train": {"steps": 1},
        "hcl": given,
    }
    with pytest.raises(InputError) as error:
        from_values(values, source="test")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("learn", [False, True])
def test_statistics(learn: bool) -> None:
    method = branch(learn_curvature=learn, curvature=0.5)
    assert method.statistics() == {}
    given = views(1.0)
    given["object"] = raw(20.0)  # at the rim
    method({name: view.float() for name, view in given.items()})
    stats = {name: value.tolist() for name, value in method.statistics().items()}
    assert stats["ball/object/projected"] == 1
    assert stats["ball/scene/projected"] == 0
    assert len(stats["ball/scene/norm/histogram"]) == BINS
    assert sum(stats["ball/object/norm/histogram"]) == pytest.approx(1)
    norms = poincare.to_ball(given["scene"][:, :DIM], 0.5).norm(dim=1) * 0.5**0.5
    assert stats["ball/scene/norm/q50"] == pytest.approx(norms.quantile(0.5).item(), rel=1e-5)
    assert 1 <= stats["hyperbolic/negatives/effective"] <= 20
    assert stats["hyperbolic/logit/min"] <= stats["hyperbolic/logit/max"] <= 0
    quiet = branch(statistics=False)
    quiet({name: view.float() for name, view in given.items()})
    assert quiet.statistics() == {}


def test_statistics__look_at_a_part_of_the_queue_and_speak_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pretrain.methods.hcl.branch.SAMPLE", 5)
    for learn in (False, True):
        method = branch(learn_curvature=learn)
        method.queue.rows[:5] = 0  # all as hard as each other
        method({name: view.float() for name, view in views(1.0).items()})
        effective = method.statistics()["hyperbolic/negatives/effective"].item()
        assert effective == pytest.approx(20, rel=1e-5)
