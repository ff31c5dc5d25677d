"""The Euclidean InfoNCE: against its definition, on every path, also where points meet."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry import gram
from pretrain.losses import (
    chunk_math,
    euclidean_info_nce,
    euclidean_info_nce_in_batch,
    hyperbolic_info_nce,
    streaming,
)
from pretrain.losses.paths import Path
from pretrain.losses.stats import logit_stats

T = 0.2
FAST: tuple[Path, ...] = ("matrix", "streaming")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span of two tiles, one of one and a ragged tail; never a compilation."""
    monkeypatch.setitem(streaming.TILE, "cpu", 2**10)
    monkeypatch.setattr(streaming, "SPAN", 2)
    monkeypatch.setenv("HCL_COMPILE", "never")


def vectors(count: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 16, generator=generator, dtype=torch.float64) * scale


def duplicates() -> Tensor:
    """Some negatives equal a query, or nearly."""
    found = vectors(840, scale=3.0)
    for i in range(6):
        found[300 + 60 * i] = found[i] * (1 + (0 if i == 0 else 10.0**-i))
    return found


SITUATIONS = {
    "usual": vectors(840),
    "small": vectors(840, scale=1e-4),
    "large": vectors(840, scale=30.0),
    "far from the origin": vectors(1, scale=20.0) + vectors(840, seed=1, scale=0.5),
    "collapsed": vectors(1) + vectors(840, seed=1, scale=1e-3),
    "all alike": vectors(1).repeat(840, 1),
    "near duplicates": duplicates(),
}


def parts(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    points = SITUATIONS[name].to(dtype)
    return points[:20], points[20:40], points[40:]


def definition(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """As one writes it down; N x K x D differences."""

    def length(difference: Tensor) -> Tensor:
        squared = difference.square().sum(-1)
        return torch.where(squared > 0, squared.where(squared > 0, 1.0).sqrt(), 0.0)

    positive = -length(query - key) / T
    negatives = -length(query[:, None] - queue) / T
    logits = torch.cat([positive[:, None], negatives], 1)
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))


def evaluate(loss: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    (grad,) = torch.autograd.grad(loss, query)
    return loss.detach(), grad


def assert_same(
    got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float
) -> None:
    assert abs(got[0] - expected[0]) <= tolerance * abs(expected[0])
    # Where all is alike the gradient is 0 but for rounding.
    scale = expected[1].norm(dim=1).clamp_min(1e-12)
    assert ((got[1] - expected[1]).norm(dim=1) <= tolerance * scale).all()


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("path", ["plain", *FAST])
def test_float64__is_the_definition(name: str, path: Path) -> None:
    query, key, queue = parts(name)
    query = query.clone().requires_grad_()
    expected = evaluate(definition(query, key, queue), query)
    got = evaluate(euclidean_info_nce(query, key, queue, temperature=T, path=path), query)
    assert_same(got, expected, 1e-10)


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("path", ["plain", *FAST])
def test_float32__against_float64(name: str, path: Path) -> None:
    query, key, queue = parts(name, torch.float32)
    query.requires_grad_()
    wide = query.detach().double().requires_grad_()
    expected = evaluate(definition(wide, key.double(), queue.double()), wide)
    loss, grad = evaluate(euclidean_info_nce(query, key, queue, temperature=T, path=path), query)
    assert loss.dtype == torch.float32
    assert_same((loss.double(), grad.double()), expected, 2e-4)


@pytest.mark.parametrize("path", ["plain", *FAST])
def test_gradient_of_the_temperature(path: Path) -> None:
    query, key, queue = parts("usual")
    found = []
    for value in (path, "plain"):
        temperature = torch.tensor(T, dtype=torch.float64, requires_grad=True)
        loss = euclidean_info_nce(query, key, queue, temperature=temperature, path=value)
        found.append(torch.autograd.grad(loss, temperature)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("path", FAST)
def test_it_is_the_flat_limit_of_the_hyperbolic_loss(path: Path) -> None:
    """As c → 0 distances in the ball become 2|x - y|."""
    query, key, queue = parts("usual")
    flat = euclidean_info_nce(query, key, queue, temperature=T, path=path)
    ball = hyperbolic_info_nce(query, key, queue, c=1e-9, temperature=2 * T, path="plain")
    torch.testing.assert_close(flat, ball, rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", ["plain", *FAST])
def test_an_empty_queue_costs_nothing(path: Path) -> None:
    query, key, queue = parts("usual")
    query = query.clone().requires_grad_()
    loss, grad = evaluate(
        euclidean_info_nce(query, key, queue[:0], temperature=T, path=path), query
    )
    assert loss == 0
    assert grad.abs().max() == 0


def test_streaming__holds_nothing_of_the_size_of_the_logits() -> None:
    query, key, queue = parts("usual", torch.float32)
    queue = queue.repeat(20, 1)
    query.requires_grad_()
    held: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        euclidean_info_nce(query, key, queue, temperature=T, path="streaming").backward()
    assert max(held) <= max(query.numel(), len(query))


def test_no_fused_kernel() -> None:
    with pytest.raises(ValueError, match="'triton' has no Euclidean distance"):
        euclidean_info_nce(*parts("usual"), temperature=T, path="triton")


def test_arithmetic_survives_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, queue = parts("near duplicates")
    expected = euclidean_info_nce(query, key, queue, temperature=T, path="plain")
    compiled = {
        eager: torch.compile(eager, backend="aot_eager", dynamic=False)
        for eager in (chunk_math.flat_sweep, chunk_math.flat_columns)
    }
    monkeypatch.setenv("HCL_COMPILE", "always")
    monkeypatch.setattr(streaming, "_compiled", compiled)
    got = euclidean_info_nce(query, key, queue, temperature=T, path="streaming")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    assert not streaming._broken


@pytest.mark.parametrize("offset", [0, 3])
def test_in_batch__is_the_loss_against_the_other_keys(offset: int) -> None:
    query, keys = vectors(5).requires_grad_(), vectors(9, seed=1)
    loss = euclidean_info_nce_in_batch(query, keys, temperature=T, offset=offset)
    expected = torch.stack(
        [
            definition(
                query[i : i + 1],
                keys[offset + i : offset + i + 1],
                torch.cat([keys[: offset + i], keys[offset + i + 1 :]]),
            )
            for i in range(5)
        ]
    ).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_pairwise_chord__of_near_points() -> None:
    x = vectors(4).float()
    y = torch.cat([x[:2] * (1 + 1e-6), vectors(3, seed=2).float()])
    expected = (x.double()[:, None] - y.double()).norm(dim=2)
    torch.testing.assert_close(gram.pairwise_chord(x, y).double(), expected, rtol=3e-5, atol=0)


def test_statistics__of_distances_and_of_keys_that_are_others_negatives() -> None:
    query, key, queue = (vectors(n, seed).float() for n, seed in ((3, 0), (3, 1), (7, 2)))
    stats = logit_stats(query, key, queue, temperature=T, euclidean=True)
    lengths = torch.cat([(query - key).norm(dim=1), (query[:, None] - queue).norm(dim=2).flatten()])
    assert stats["logit/min"].item() == pytest.approx(-lengths.max().item() / T, rel=1e-5)
    assert stats["logit/max"].item() == pytest.approx(-lengths.min().item() / T, rel=1e-5)
    keys = torch.cat([queue[:2], key, queue[2:4]])  # the queries' own from row 2 on
    found = logit_stats(query, key, keys, temperature=T, own=2)
    entropies = []
    for i in range(3):
        others = torch.cat([keys[: 2 + i], keys[3 + i :]])
        share = (others @ query[i] / T).softmax(0)
        entropies.append(-(share * share.log()).sum())
    effective = torch.stack(entropies).exp().mean().item()
    assert found["negatives/effective"].item() == pytest.approx(effective, rel=1e-5)
    alone = logit_stats(query[:1], key[:1], key[:1], temperature=T, own=0)
    assert alone["negatives/effective"] == 0
    assert math.isclose(alone["accuracy"].item(), 1)
