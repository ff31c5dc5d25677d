"""The branch's ablations: what each setting changes, and what cannot go together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_network import small_encoder
from torch import Tensor, nn

from pretrain import distributed
from pretrain.config import from_values
from pretrain.core.errors import InputError
from pretrain.geometry import poincare
from pretrain.losses import (
    euclidean_info_nce,
    euclidean_info_nce_in_batch,
    hyperbolic_info_nce,
    hyperbolic_info_nce_in_batch,
    info_nce,
    info_nce_in_batch,
)
from pretrain.methods.base import Context, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.hcl.branch import HCL, KEY_VIEW, SCENE_KEY_VIEW, HCLSettings, decoupled
from pretrain.methods.moco import Moco, MocoSettings

BATCH, DIM, QUEUE, T, C = 6, 8, 20, 0.2, 0.05


class Half(nn.Module):
    """An encoder that passes on one half of its input: tests choose queries and keys."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.half = half

    def forward(self, both: Tensor) -> Tensor:
        return both.chunk(2, dim=1)[self.half]


def branch(**settings: Any) -> HCL:
    context = Context(small_encoder(dim=DIM), 32, BATCH, BATCH, seed=3)
    base = Moco(MocoSettings(name="moco", queue=QUEUE, batch_norm="plain"), context)
    base.encoder_q, base.encoder_k = Half(0), Half(1)  # type: ignore[assignment]
    return HCL(base, HCLSettings(queue=QUEUE, **{"weight": 1.0, **settings}), context).double()


def raw(seed: int, rows: int = BATCH, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, 2 * DIM, generator=generator, dtype=torch.float64)


def views(seed: int = 0) -> dict[str, Tensor]:
    names = ("view_1", "view_2", "object", "scene")
    return {name: raw(10 * seed + n) for n, name in enumerate(names)}


def halves(view: Tensor) -> tuple[Tensor, Tensor]:
    """What the query and the key encoder make of a view."""
    return view[:, :DIM], view[:, DIM:]


def filled(method: HCL) -> Tensor:
    """The queue after it has been filled with projections of some length; the raw rows."""
    rows = raw(9, QUEUE)[:, :DIM]
    assert method.queue is not None
    with torch.no_grad():
        method.queue.rows.copy_(method.space.key(rows))
    return rows


def reference(distance: str, query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    """The branch's loss from raw projections, written out."""
    if distance == "euclidean":
        return euclidean_info_nce(query, key, negatives, temperature=T, path="plain")
    if distance == "cosine":
        unit = (F.normalize(part, dim=1) for part in (query, key, negatives))
        return info_nce(*unit, temperature=T, path="plain")
    points = (poincare.to_ball(part, C) for part in (query, key, negatives))
    return hyperbolic_info_nce(*points, c=C, temperature=T, path="plain")


@pytest.mark.parametrize("query", ["scene", "object"])
@pytest.mark.parametrize("distance", ["hyperbolic", "euclidean", "cosine"])
def test_distance(distance: str, query: str) -> None:
    method = branch(distance=distance, query=query)
    negatives, given = filled(method), views()
    key_crop = "object" if query == "scene" else "scene"
    losses, metrics = method(given)
    anchor, key = halves(given[query])[0], halves(given[key_crop])[1]
    torch.testing.assert_close(losses["hyperbolic"], reference(distance, anchor, key, negatives))
    assert ("curvature" in metrics) == (distance == "hyperbolic")
    assert (method.curvature is None) == (distance != "hyperbolic")
    if distance != "hyperbolic":
        logged = method.statistics()
        for name in ("scene", "object"):
            expected_norm = halves(given[name])[0].norm(dim=1).mean()
            torch.testing.assert_close(logged[f"norm/{name}"], expected_norm)
        torch.testing.assert_close(logged["hyperbolic/query/distance"], anchor.norm(dim=1).mean())
        torch.testing.assert_close(logged["hyperbolic/key/distance"], key.norm(dim=1).mean())
    method.end_step()
    assert method.queue is not None
    expected = {"euclidean": key, "cosine": F.normalize(key, dim=1)}
    if distance in expected:
        torch.testing.assert_close(method.queue.rows[:BATCH], expected[distance])


@pytest.mark.parametrize("distance", ["hyperbolic", "euclidean"])
def test_clip_radius(distance: str) -> None:
    method = branch(distance=distance, clip_radius=1.5)
    negatives, given = filled(method), views()
    clipped = (
        poincare.clip_norm(part, 1.5)
        for part in (halves(given["scene"])[0], halves(given["object"])[1], negatives)
    )
    torch.testing.assert_close(method(given)[0]["hyperbolic"], reference(distance, *clipped))


@pytest.mark.parametrize("distance", ["hyperbolic", "euclidean", "cosine"])
def test_random_queue__starts_with_valid_keys_of_one_length(distance: str) -> None:
    queue = branch(distance=distance).queue
    assert queue is not None
    lengths = queue.rows.norm(dim=1)
    torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths))
    assert 0 < lengths[0] < C**-0.5


def test_scenes_as_negatives() -> None:
    method = branch(scenes_as_negatives=True, queue_start="empty")
    encoded_views = []
    encode = method.base.encode_key

    def spy(images: Tensor, view: int) -> Tensor:
        encoded_views.append(view)
        return encode(images, view)

    method.base.encode_key = spy  # type: ignore[method-assign]
    first, second = views(1), views(2)
    losses, _ = method(first)
    assert losses["hyperbolic"] == 0  # nothing queued: no row's own query crop is a negative
    assert {KEY_VIEW, SCENE_KEY_VIEW} <= set(encoded_views)
    method.end_step()
    losses, _ = method(second)
    negatives = torch.cat([halves(first["object"])[1], halves(first["scene"])[1]])
    query, key = halves(second["scene"])[0], halves(second["object"])[1]
    torch.testing.assert_close(losses["hyperbolic"], reference("hyperbolic", query, key, negatives))
    assert method.statistics()["hyperbolic/negatives/effective"] <= 2 * BATCH
    method.end_step()
    assert method.scene_queue is not None
    expected = poincare.to_ball(halves(first["scene"])[1], C)
    torch.testing.assert_close(method.scene_queue.rows[:BATCH], expected)
    state = method.state_dict()
    assert {"queue.rows", "scene_queue.rows"} <= state.keys()
    # As checkpoints had it before the queue's present name.
    old = {name.replace("scene_queue.", "asking_queue."): value for name, value in state.items()}
    other = branch(scenes_as_negatives=True, queue_start="empty")
    other.load_state_dict(old)
    assert other.scene_queue is not None
    torch.testing.assert_close(other.scene_queue.rows, method.scene_queue.rows)


@pytest.mark.parametrize("distance", ["hyperbolic", "euclidean"])
@pytest.mark.parametrize("through", ["norm", "direction"])
def test_decouple__leaves_the_loss_and_cuts_the_gradient(distance: str, through: str) -> None:
    found = {}
    for kind in ("none", through):
        method = branch(distance=distance, decouple=kind)
        filled(method)
        given = views()
        scene = given["scene"].requires_grad_()
        loss = method(given)[0]["hyperbolic"]
        found[kind] = loss, torch.autograd.grad(loss, scene)[0][:, :DIM]
    torch.testing.assert_close(found[through][0], found["none"][0])
    outward = F.normalize(halves(views()["scene"])[0], dim=1)
    whole = found["none"][1]
    radial = (whole * outward).sum(1, keepdim=True) * outward
    expected = radial if through == "norm" else whole - radial
    torch.testing.assert_close(found[through][1], expected)


def test_decoupled__is_finite_at_zero() -> None:
    for through in ("norm", "direction"):
        zero = torch.zeros(2, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(decoupled(zero, through).sum(), zero)
        assert torch.isfinite(grad).all()


def test_scene__may_be_the_whole_image() -> None:
    regions = {
        kind: {crop.name: crop.region for crop in branch(scene=kind).view_plan.crops}["scene"]
        for kind in ("boxes", "image")
    }
    assert regions == {"boxes": "scene", "image": "image"}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("distance", ["hyperbolic", "learned", "euclidean", "cosine"])
def test_negatives_in_the_batch(distance: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = distance == "learned"
    named = "hyperbolic" if learn else distance
    method = branch(distance=named, learn_curvature=learn, negatives="batch")
    assert not any("queue" in key for key in method.state_dict() if not key.startswith("base."))
    given, others = views(), halves(raw(77))[1]
    query, key = halves(given["scene"])[0], halves(given["object"])[1]
    order = (key, others) if rank == 0 else (others, key)  # as rank 0 or 1 of two
    monkeypatch.setattr(distributed, "rank_and_size", lambda: (rank, 2))
    monkeypatch.setattr(
        distributed,
        "all_gather",
        lambda own: torch.cat([own, others] if rank == 0 else [others, own]),
    )
    loss = method(given)[0]["hyperbolic"]
    keys, offset = torch.cat(order), rank * BATCH
    if distance == "euclidean":
        expected = euclidean_info_nce_in_batch(query, keys, temperature=T, offset=offset)
    elif distance == "cosine":
        query, keys = F.normalize(query, dim=1), F.normalize(keys, dim=1)
        expected = info_nce_in_batch(query, keys, temperature=T, offset=offset)
    else:
        query, keys = poincare.to_ball(query, C), poincare.to_ball(keys, C)
        expected = hyperbolic_info_nce_in_batch(query, keys, c=C, temperature=T, offset=offset)
    torch.testing.assert_close(loss, expected)
    stats = method.statistics()
    assert 1 <= stats["hyperbolic/negatives/effective"] <= 2 * BATCH - 1
    if learn:
        (gradient,) = torch.autograd.grad(loss, method.log_curvature)  # type: ignore[arg-type]
        assert gradient != 0


def test_statistics__speak_of_a_ball_only_where_there_is_one() -> None:
    for distance in ("hyperbolic", "euclidean", "cosine"):
        method = branch(distance=distance)
        method(views())
        stats = method.statistics()
        assert any(name.startswith("ball/") for name in stats) == (distance == "hyperbolic")
        assert 1 <= stats["hyperbolic/negatives/effective"] <= QUEUE


def test_statistics__tell_keys_found_by_their_age() -> None:
    """The keys of this step, and their queries, lie far along one direction."""
    method = branch(distance="euclidean")
    filled(method)
    given = views()
    drift = torch.zeros(2 * DIM, dtype=torch.float64)
    drift[[0, DIM]] = 100.0
    method({**given, "scene": given["scene"] + drift, "object": given["object"] + drift})
    stats = method.statistics()
    assert stats["hyperbolic/accuracy"] == 1
    query = halves(given["scene"])[0]
    key = halves(given["object"])[1]
    nearest = torch.cdist(query, key).argmin(1)
    share = (nearest == torch.arange(BATCH)).double().mean()
    assert stats["hyperbolic/accuracy_in_batch"] == share < 1
    assert "hyperbolic/accuracy_in_batch" not in branch(negatives="batch").statistics()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"distance": "euclidean", "learn_curvature": True},
            "'hcl.learn_curvature': needs a ball, but hcl.distance is euclidean",
        ),
        (
            {"distance": "cosine", "learn_curvature": True},
            "'hcl.learn_curvature': needs a ball, but hcl.distance is cosine",
        ),
        ({"distance": "cosine", "clip_radius": 2.0}, "'hcl.clip_radius': has no effect"),
        ({"distance": "cosine", "decouple": "norm"}, "'hcl.decouple': has no effect"),
        (
            {"distance": "euclidean", "loss_path": "triton"},
            "'hcl.loss_path': has no Euclidean distance; use auto",
        ),
        (
            {"negatives": "batch", "scenes_as_negatives": True},
            "'hcl.scenes_as_negatives': needs queues, but hcl.negatives is batch",
        ),
        ({"distance": "manhattan"}, "'hcl.distance': input should be 'hyperbolic', 'euclidean'"),
    ],
)
def test_what_cannot_go_together(given: dict[str, Any], message: str) -> None:
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


@pytest.mark.parametrize("name", ["byol", "densecl"])
@pytest.mark.parametrize(
    "settings",
    [{"negatives": "batch"}, {"distance": "euclidean"}, {"scenes_as_negatives": True}],
)
def test_steps_on_other_methods(name: str, settings: dict[str, Any]) -> None:
    """Two steps with a real encoder: every parameter gets a gradient, and keys are queued."""
    head: Any = "mlp_bn" if name == "byol" else "mlp"
    encoder = small_encoder(head=head, hidden=16, dim=DIM)
    context = Context(encoder, 32, 8, 8, seed=3)
    own = {"predictor_hidden": 8} if name == "byol" else {"queue": 16, "norm_group": 4}
    base = parse_method({"name": name, **own}, source="test")
    method = build_method(base, HCLSettings(queue=16, **settings), context)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01)
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        given = {
            crop.name: torch.randn(8, 3, 32, 32, generator=generator)
            for crop in method.view_plan.crops
        }
        method.begin_step(step, 2)
        losses, _ = method(given)
        sum(losses.values(), torch.zeros(())).backward()
        assert all(p.grad is not None for p in method.encoder.parameters())
        assert losses["hyperbolic"] > 0
        optimizer.step()
        method.end_step()
