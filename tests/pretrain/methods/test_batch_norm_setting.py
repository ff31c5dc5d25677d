"""``method.batch_norm``: what travels, whose statistics are shared; several forwards a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_network import small_encoder
from torch import Tensor, nn

from pretrain import distributed
from pretrain.core.errors import InputError
from pretrain.methods.base import Context, KeyedMethod, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.densecl import DenseCL
from pretrain.methods.hcl.branch import HCL, HCLSettings
from pretrain.methods.moco import Moco
from pretrain.models import Encoder

BATCH, SIZE, DIM = 8, 64, 16


def context(batch: int = BATCH, local: int | None = None) -> Context:
    encoder = small_encoder(hidden=16, dim=DIM)
    return Context(encoder, SIZE, batch, local or batch, seed=3)


def build(name: str = "moco", given: Context | None = None, **settings: Any) -> Moco:
    values = {"name": name, "queue": 24, "norm_group": 4, **settings}
    torch.manual_seed(0)
    method = build_method(parse_method(values, source="test"), None, given or context())
    assert isinstance(method, Moco)
    return method.train()


def images(seed: int = 0, batch: int = BATCH) -> Tensor:
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def views(method: KeyedMethod | HCL, seed: int = 0) -> dict[str, Tensor]:
    return {crop.name: images(10 * seed + n) for n, crop in enumerate(method.view_plan.crops)}


@pytest.fixture
def traveled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what goes through ``all_gather``, which with one process is an identity."""
    sizes: list[int] = []

    def spy(values: Tensor) -> Tensor:
        sizes.append(values.numel())
        return values

    monkeypatch.setattr(distributed, "all_gather", spy)
    return sizes


@pytest.mark.parametrize("kind", ["shuffled", "local", "synchronized", "plain"])
@pytest.mark.parametrize("name", ["moco", "densecl"])
def test_images_travel_only_where_keys_are_permuted_over_processes(
    name: str, kind: str, traveled: list[int]
) -> None:
    method = build(name, batch_norm=kind, symmetric=False)
    method.begin_step(0, 1)
    method(views(method))
    keys = BATCH * DIM * (2 if name == "densecl" else 1)  # global, and one pooled dense key
    if kind == "shuffled":
        assert BATCH * 3 * SIZE * SIZE in traveled
        assert sum(traveled) > keys
    else:
        assert sum(traveled) == keys


@pytest.mark.parametrize("kind", ["shuffled", "local"])
def test_keys_are_those_of_permuted_groups_in_their_own_order(kind: str) -> None:
    method = build(batch_norm=kind)
    method.begin_step(5, 9)
    order = method._permutation(1, BATCH)
    expected = torch.empty(BATCH, DIM)
    with torch.no_grad():
        expected[order] = torch.cat([method.encoder_k(p) for p in images()[order].split(4)])
    torch.testing.assert_close(method.encode_key(images(), view=1), expected)


def test_local__permutes_the_rows_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(given=context(batch=16, local=8), batch_norm="local")
    monkeypatch.setattr(distributed, "rank_and_size", lambda: (1, 2))
    monkeypatch.setattr(distributed, "all_gather", lambda values: values)
    method.eval()  # without batch statistics, groups do not matter
    (own,) = method.encode_keys(lambda some: (method.encoder_k(some),), images(), 0)
    torch.testing.assert_close(own, method.encoder_k(images()))


@pytest.mark.parametrize("kind", ["synchronized", "plain"])
def test_without_permutation__statistics_are_those_of_the_whole_batch(kind: str) -> None:
    method = build(batch_norm=kind)
    reference = Encoder(context().encoder).train()
    reference.load_state_dict(method.encoder_k.state_dict())
    torch.testing.assert_close(method.encode_key(images(), view=0), reference(images()))


def test_groups_share_statistics_in_queries() -> None:
    grouped, plain = build(), build(batch_norm="plain")
    expected = torch.cat([plain.encode_query(part) for part in images().split(4)])
    torch.testing.assert_close(grouped.encode_query(images()), expected)


def test_queries_of_both_views_in_one_forward_are_those_of_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Losses, gradients and running statistics, in float64."""
    one, other = build().double(), build().double()
    monkeypatch.setattr(
        other,
        "_queries",
        lambda views: {
            name: nn.functional.normalize(other.encode_query(view), dim=1)
            for name, view in views.items()
        },
    )
    given = {name: view.double() for name, view in views(one).items()}
    losses = []
    for method in (one, other):
        method.begin_step(0, 1)
        terms, _ = method(given)
        terms["euclidean"].backward()
        losses.append(terms["euclidean"])
    torch.testing.assert_close(losses[0], losses[1])
    for first, second in zip(one.encoder_q.parameters(), other.encoder_q.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad)
    for name, buffer in one.named_buffers():
        torch.testing.assert_close(buffer, other.get_buffer(name))


class Flat(Moco):
    """MoCo of a network without batch norm."""

    def build_encoder(self) -> Encoder:
        encoder = super().build_encoder()
        width = next(layer.in_features for layer in encoder.head if isinstance(layer, nn.Linear))
        encoder.backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, width))
        return encoder


@pytest.mark.parametrize("kind", ["shuffled", "local", "synchronized"])
def test_a_network_without_batch_norm_needs_nothing(kind: str, traveled: list[int]) -> None:
    settings = parse_method({"name": "moco", "queue": 24, "batch_norm": kind}, source="test")
    method: Any = Flat(settings, context())  # type: ignore[arg-type]
    method.begin_step(0, 1)
    method(views(method))
    assert traveled == [BATCH * DIM] * 2


@pytest.mark.parametrize(
    ("kind", "batch", "local", "group", "message"),
    [
        ("shuffled", 8, 8, 8, "holds the whole batch"),
        ("shuffled", 8, 8, 3, "divide the batch of one process, 8"),
        ("shuffled", 8, 8, 1, "at least 2"),
        ("local", 8, 8, 8, "holds the whole batch"),
        ("local", 16, 8, 8, "permutes nothing; use 4 or less, or batch_norm=shuffled"),
    ],
)
def test_faults(kind: str, batch: int, local: int, group: int, message: str) -> None:
    with pytest.raises(InputError, match=f"method.norm_group.*{message}"):
        build(given=context(batch, local), batch_norm=kind, norm_group=group)


def test_group_of_a_whole_process_is_right_where_images_travel() -> None:
    build(given=context(16, 8), norm_group=8)


def test_forwards_of_a_step__are_shuffled_by_permutations_of_their_own() -> None:
    method = build(norm_group=4)
    method.begin_step(0, 1)
    orders = []
    for number in range(3):
        method(views(method, number))
        orders.append(method._permutation(0, BATCH).tolist())
    assert orders[0] != orders[1] != orders[2] != orders[0]
    generator = torch.Generator().manual_seed(3 * 1_000_003 * 16)
    assert orders[0] == torch.randperm(BATCH, generator=generator).tolist()
    method.rewind()
    method(views(method, 0))
    assert method._permutation(0, BATCH).tolist() == orders[0]


@pytest.mark.parametrize("name", ["moco", "densecl"])
def test_forwards_of_a_step__are_all_enqueued_in_order(name: str) -> None:
    base = build(name, batch_norm="plain", symmetric=False)
    method = HCL(base, HCLSettings(queue=24), context()).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.begin_step(0, 1)
    for number in range(2):
        method(views(method, number))
    during = method.state_dict()
    assert all(torch.equal(during[key], before[key]) for key in before)
    method.end_step()
    with torch.no_grad():
        answers = torch.cat([views(method, number)["view_2"] for number in range(2)])
        expected = nn.functional.normalize(base.encoder_k(answers), dim=1)
    torch.testing.assert_close(base.queue_2.rows[: 2 * BATCH], expected)
    queues = [base.queue_2, method.queue]
    if isinstance(base, DenseCL):
        queues.append(base.dense_queue_2)
    assert all(queue is not None and queue._pointer == 2 * BATCH for queue in queues)


def test_earlier_spelling_is_read() -> None:
    moco: Any = parse_method({"name": "moco", "batch_norm": "synchronised"}, source="test")
    assert moco.batch_norm == "synchronized"
    byol: Any = parse_method({"name": "byol", "synchronise": False}, source="test")
    assert byol.synchronize is False
    assert "synchronise" not in byol.model_dump()
