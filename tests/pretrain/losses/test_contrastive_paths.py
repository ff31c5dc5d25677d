"""Every path gives the plain path's loss and gradient, also where dot products are too coarse."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn import functional as F

from pretrain.geometry import lorentz, poincare
from pretrain.losses import (
    chunk_math,
    hyperbolic_info_nce,
    info_nce,
    lorentz_info_nce,
    paths,
    streaming,
)

T = 0.2
FAST = ("matrix", "streaming")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """A span of two tiles, one of one and a ragged tail; never a compilation."""
    monkeypatch.setitem(streaming.TILE, "cpu", 2**10)
    monkeypatch.setattr(streaming, "SPAN", 2)
    monkeypatch.setenv("HCL_COMPILE", "never")


def tangents(count, size=16, seed=0, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) * scale


def duplicates(u):
    """Some negatives equal a query, or nearly."""
    u = u.clone()
    for i in range(6):
        u[300 + 60 * i] = u[i] * (1 + (0 if i == 0 else 10.0**-i))
    return u


SITUATIONS = {
    "interior": (tangents(840), 1.0),
    "near the origin": (tangents(840, scale=1e-6), 0.05),
    "small features": (tangents(840, scale=0.02), 0.05),
    "at the rim": (tangents(840, scale=5.0), 0.05),
    "collapsed": (tangents(1) + tangents(840, seed=1, scale=1e-3), 1.0),
    "all alike": (tangents(1).repeat(840, 1), 1.0),
    "near duplicates": (duplicates(tangents(840)), 1.0),
    "near duplicates at the rim": (duplicates(tangents(840, scale=5.0)), 0.05),
}


def split(points, queries, dtype=torch.float64):
    points = points.to(dtype)
    return points[:queries], points[queries : 2 * queries], points[2 * queries :]


def evaluate(loss, query, *rest, **options):
    query = query.clone().requires_grad_()
    value = loss(query, *rest, **options)
    (grad,) = torch.autograd.grad(value, query)
    return value.detach(), grad


def assert_same(got, expected, tolerance):
    """Loss relative; gradient by row, relative to the row's norm."""
    assert abs(got[0] - expected[0]) <= tolerance * abs(expected[0])
    assert ((got[1] - expected[1]).norm(dim=1) <= tolerance * expected[1].norm(dim=1)).all()


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("name", SITUATIONS)
def test_hyperbolic_float64(name, path):
    u, c = SITUATIONS[name]
    parts = split(poincare.to_ball(u, c), 20)
    expected = evaluate(hyperbolic_info_nce, *parts, c=c, temperature=T, path="plain")
    got = evaluate(hyperbolic_info_nce, *parts, c=c, temperature=T, path=path)
    assert_same(got, expected, 1e-10)


@pytest.mark.parametrize("path", ["plain", *FAST])
@pytest.mark.parametrize("name", SITUATIONS)
def test_hyperbolic_float32_against_float64(name, path):
    """1e-5 on the loss, 1e-4 on the gradient.

    At the rim positive and negatives push a query outward with forces p/gap = 1e4 that cancel
    to less than 1: what float32 leaves of the sum is 1e-2.
    """
    u, c = SITUATIONS[name]
    points = poincare.to_ball(u, c).float()
    expected = evaluate(hyperbolic_info_nce, *split(points, 20), c=c, temperature=T, path="plain")
    parts = split(points, 20, torch.float32)
    got = evaluate(hyperbolic_info_nce, *parts, c=c, temperature=T, path=path)
    assert got[0].dtype == torch.float32
    assert abs(got[0] - expected[0]) <= 1e-5 * abs(expected[0])
    assert_same(got, expected, 2e-2 if "rim" in name else 1e-4)


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("name", ["interior", "small features", "at the rim", "near duplicates"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lorentz(name, path, dtype):
    u, c = SITUATIONS[name]
    points = lorentz.expmap0(poincare.clip_norm(u, 60.0), c).to(dtype)
    expected = evaluate(lorentz_info_nce, *split(points, 20), c=c, temperature=T, path="plain")
    got = evaluate(lorentz_info_nce, *split(points, 20, dtype), c=c, temperature=T, path=path)
    assert abs(got[0] - expected[0]) <= 1e-5 * abs(expected[0])
    assert_same(got, expected, {torch.float64: 1e-8, torch.float32: 2e-4}[dtype])


def test_lorentz_equals_the_ball_inside_it():
    u, c = SITUATIONS["interior"]
    ball, lifted = poincare.to_ball(u, c), lorentz.expmap0(u, c)
    for path in ("plain", *FAST):
        a = hyperbolic_info_nce(*split(ball, 20), c=c, temperature=T, path=path)
        b = lorentz_info_nce(*split(lifted, 20), c=c, temperature=T, path=path)
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("path", FAST)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [0.07, torch.rand(20) + 0.05])
def test_euclidean(path, dtype, temperature):
    points = F.normalize(tangents(840), dim=1)
    expected = evaluate(info_nce, *split(points, 20), temperature=temperature, path="plain")
    got = evaluate(info_nce, *split(points, 20, dtype), temperature=temperature, path=path)
    assert_same(got, expected, {torch.float64: 1e-12, torch.float32: 1e-5}[dtype])


@pytest.mark.parametrize("path", ["plain", *FAST])
def test_gradients_of_curvature_and_temperature(path):
    u, c = SITUATIONS["near duplicates"]
    query, key, queue = split(poincare.to_ball(u, c), 5)
    c = torch.tensor(c, dtype=torch.float64, requires_grad=True)
    temperature = (torch.rand(5, dtype=torch.float64) * 0.2 + 0.1).requires_grad_()
    query.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, c, t: hyperbolic_info_nce(q, key, queue, c=c, temperature=t, path=path),
        (query, c, temperature),
        eps=1e-8,
        atol=1e-5,
    )
    assert torch.autograd.gradcheck(
        lambda q, t: info_nce(q, key, queue, temperature=t, path=path), (query, temperature)
    )


@pytest.mark.parametrize("path", ["plain", *FAST])
def test_tiny_losses_keep_their_digits(path):
    """A cross-entropy of float32 logits would return 0 or noise."""
    query = torch.tensor([[0.02, 0.0], [0.0, 0.02]])
    queue = torch.tensor([[-0.95, 0.0], [0.0, -0.97], [0.6, -0.75]])
    parts = (query, query * 0.999, queue)
    wide = tuple(part.double() for part in parts)
    expected = evaluate(hyperbolic_info_nce, *wide, c=1.0, temperature=0.15, path="plain")
    assert 0 < expected[0] < 1e-6
    got = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=0.15, path=path)
    assert_same(got, expected, 1e-4)


@pytest.mark.parametrize("path", ["auto", "plain", *FAST])
def test_empty_queue_costs_nothing(path):
    query = tangents(4).requires_grad_()
    for loss in (
        info_nce(query, query, tangents(0), temperature=T, path=path),
        hyperbolic_info_nce(query, query + 0.1, tangents(0), c=0.01, temperature=T, path=path),
        lorentz_info_nce(query, query + 0.1, tangents(0), c=0.01, temperature=T, path=path),
    ):
        assert loss == 0
        assert torch.autograd.grad(loss, query)[0].abs().max() == 0


def test_logits_may_rise_far_above_the_first_tile():
    """The reference of the first tile is too low by hundreds for a later one."""
    queue = poincare.to_ball(tangents(600, scale=0.5), 1.0)
    queue[:256] = poincare.project(queue[:256] * 50, 1.0, margin=1e-9)
    query = queue[400:404] * 0.98
    parts = (query, query * 0.5, queue)
    expected = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=0.01, path="plain")
    got = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=0.01, path="streaming")
    assert_same(got, expected, 1e-10)
    unit = F.normalize(queue, dim=1)
    unit[:256] = -unit[400]
    parts = (unit[400:401], unit[10:11], unit)
    expected = evaluate(info_nce, *parts, temperature=0.002, path="plain")
    got = evaluate(info_nce, *parts, temperature=0.002, path="streaming")
    assert_same(got, expected, 1e-10)


def test_many_queries_go_in_blocks():
    parts = split(poincare.to_ball(tangents(1500 * 2 + 300, size=4), 1.0), 1500)
    expected = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path="matrix")
    got = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path="streaming")
    assert_same(got, expected, 1e-11)


@pytest.mark.parametrize("path", ["plain", *FAST])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_and_half_inputs_compute_in_float32(path, half):
    parts = split(poincare.to_ball(tangents(240), 1.0), 20, torch.float32)
    outside = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path=path)
    with torch.autocast("cpu", dtype=half):
        inside = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path=path)
        euclid = evaluate(info_nce, *parts, temperature=T, path=path)
    assert torch.equal(inside[0], outside[0])
    assert torch.allclose(inside[1], outside[1], rtol=1e-5)
    assert euclid[0].dtype == torch.float32
    rounded = [part.to(half) for part in parts]
    low = evaluate(hyperbolic_info_nce, *rounded, c=1.0, temperature=T, path=path)
    assert low[0].dtype == torch.float32
    assert low[1].dtype == half
    assert low[1].isfinite().all()


@pytest.mark.parametrize("path", ["plain", *FAST])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_nan_from_adversarial_points(path, dtype):
    """10⁵ pairs of zeros, subnormals, duplicates, antipodes, points at and beyond the rim."""
    generator = torch.Generator().manual_seed(4)
    direction = F.normalize(torch.randn(40, 3, generator=generator, dtype=torch.float64), dim=1)
    shares = torch.tensor(
        [0, 1e-300, 1e-40, 1e-20, 1e-7, 0.3, 0.999, 1 - 1e-7, 1, 1.5], dtype=torch.float64
    )
    points = (shares[:, None, None] * direction).reshape(-1, 3)
    points = torch.cat([points, -points])[torch.randperm(800, generator=generator)].to(dtype)
    query = points[:128].clone().requires_grad_()
    for temperature in (0.01, 0.2, 5.0):
        for c in (1.0, 1e-3):
            loss = hyperbolic_info_nce(
                query, points[128:256], points, c=c, temperature=temperature, path=path
            )
            (grad,) = torch.autograd.grad(loss, query)
            assert loss.isfinite()
            assert grad.isfinite().all()


def test_memory_does_not_grow_with_the_queue():
    """Nothing with N·K elements is ever allocated."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes.extend(
                leaf.untyped_storage().nbytes() // leaf.itemsize
                for leaf in tree_leaves(result)
                if isinstance(leaf, torch.Tensor)
            )
            return result

    query, key, queue = split(poincare.to_ball(tangents(8064, size=4), 1.0), 32)
    query, key, queue = query.clone().requires_grad_(), key.clone(), queue.clone()
    with Sizes():
        hyperbolic_info_nce(query, key, queue, c=1.0, temperature=T, path="streaming").backward()
    # The largest storage seen is that of the queue itself, through views of it.
    assert max(sizes) == queue.numel()
    assert sorted(set(sizes))[-2] < len(query) * len(queue) / 20


def through(monkeypatch, backend):
    """Send the tiles' arithmetic through torch.compile with this backend."""
    monkeypatch.setenv("HCL_COMPILE", "always")
    monkeypatch.setattr(streaming, "_broken", set())
    functions = (chunk_math.ball_sweep, chunk_math.ball_columns, chunk_math.cosine_sweep)
    compiled = {
        function: torch.compile(function, backend=backend, dynamic=False) for function in functions
    }
    monkeypatch.setattr(streaming, "_compiled", compiled)


def test_arithmetic_survives_compilation(monkeypatch):
    parts = split(poincare.to_ball(tangents(552), 1.0), 20)
    plain = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path="plain")
    cosine = evaluate(info_nce, *parts, temperature=T, path="plain")
    through(monkeypatch, "aot_eager")
    got = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path="streaming")
    assert_same(got, plain, 1e-12)
    assert_same(evaluate(info_nce, *parts, temperature=T, path="streaming"), cosine, 1e-12)
    assert not streaming._broken


def test_compiled_code_is_exact_enough(monkeypatch):
    """The real compiler, in float32, where it also sums squares in its own way."""
    parts = split(poincare.to_ball(duplicates(tangents(840)), 1.0), 20, torch.float32)
    exact = (part.double() for part in parts)
    expected = evaluate(hyperbolic_info_nce, *exact, c=1.0, temperature=T, path="plain")
    through(monkeypatch, "inductor")
    got = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path="streaming")
    assert_same(got, expected, 1e-4)
    assert not streaming._broken


def test_a_broken_compiler_is_said_once_and_survived(monkeypatch, caplog):
    def broken(graph, inputs):
        raise OSError("no compiler")

    parts = split(poincare.to_ball(tangents(552), 1.0), 20)
    expected = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path="plain")
    through(monkeypatch, broken)
    for _ in range(2):
        got = evaluate(hyperbolic_info_nce, *parts, c=1.0, temperature=T, path="streaming")
        assert_same(got, expected, 1e-12)
    messages = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == 2  # one for each of the two functions of the ball
    assert all("torch.compile does not work here" in message for message in messages)


def test_auto_chooses_by_size_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(paths, "SMALL", 1000)
    monkeypatch.setattr(paths, "_said", set())
    query, queue = tangents(4), tangents(300)
    with caplog.at_level(logging.INFO, logger="pretrain.losses.paths"):
        for _ in range(2):
            info_nce(query, query, queue[:200], temperature=T)
            info_nce(query, query, queue, temperature=T)
    assert [record.message for record in caplog.records] == [
        "info_nce: matrix path on cpu",
        "info_nce: streaming path on cpu",
    ]


def test_wrong_calls_are_refused():
    x = tangents(4)
    with pytest.raises(ValueError, match="query and key must be"):
        info_nce(x, x[:3], x, temperature=T)
    with pytest.raises(ValueError, match="queue has 3 columns"):
        info_nce(x, x, x[:, :3], temperature=T)
    with pytest.raises(ValueError, match="temperature must be positive"):
        info_nce(x, x, x, temperature=0.0)
    with pytest.raises(ValueError, match="temperature must have"):
        info_nce(x, x, x, temperature=torch.ones(3))
    with pytest.raises(ValueError, match="path must be"):
        info_nce(x, x, x, temperature=T, path="fast")
    with pytest.raises(ValueError, match="'triton' needs a CUDA device"):
        info_nce(x.float(), x, x, temperature=T, path="triton")
    with pytest.raises(ValueError, match="'triton' computes in float32"):
        info_nce(x, x, x, temperature=T, path="triton")
    learnable = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="'triton' gives no gradient"):
        hyperbolic_info_nce(x.float(), x, x, c=learnable, temperature=T, path="triton")
    with pytest.raises(ValueError, match="c must be a number"):
        lorentz_info_nce(x, x, x, c=torch.ones(()), temperature=T)


def test_key_and_queue_get_no_gradient():
    key, queue = tangents(4).requires_grad_(), tangents(9).requires_grad_()
    loss = info_nce(tangents(4).requires_grad_(), key, queue, temperature=T)
    loss.backward()
    assert key.grad is None
    assert queue.grad is None
