"""The losses of HCL: exact numbers on every path, the reference's on its parity option."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretrain.geometry import official, poincare
from pretrain.losses import hyperbolic_info_nce, info_nce

GOLDEN = np.load(Path(__file__).parents[2] / "golden/hcl_losses.npz")
C, T, WEIGHT = (float(GOLDEN[name]) for name in ("c", "T", "theta_hyperbolic"))
PATHS = ("plain", "matrix", "streaming")
SETS = ("typ", "edge")


def given(name, dtype):
    return torch.from_numpy(GOLDEN[name]).to(dtype)


def error(got, name):
    exact = torch.from_numpy(np.asarray(GOLDEN[name]))
    return ((got.detach().double() - exact).abs().max() / exact.abs().max()).item()


def hyperbolic(which, dtype, *, riemannian, ball=poincare, **options):
    """Loss and gradient with respect to the raw query features."""
    raw = given(f"{which}_q_hyp_c", dtype).requires_grad_()
    query = ball.to_ball(raw, C, riemannian=riemannian)
    key = ball.to_ball(given(f"{which}_k_hyp_p", dtype), C)
    queue = given(f"{which}_queue_hyp_p", dtype).T
    loss = hyperbolic_info_nce(query, key, queue, c=C, temperature=T, **options)
    return loss, torch.autograd.grad(loss, raw)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("scaling", ["rsgd", "norsgd"])
def test_hyperbolic_loss_is_exact(which, path, dtype, scaling):
    loss, grad = hyperbolic(which, dtype, riemannian=scaling == "rsgd", path=path)
    assert error(loss, f"{which}_exact_loss_h") < {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    # The gradient in float32 passes through ball points whose own rounding weighs 1/gap.
    bound = {torch.float64: 1e-12, torch.float32: 2e-5}[dtype]
    assert error(grad, f"{which}_exact_grad_h_q_hyp_c_{scaling}") < bound


@pytest.mark.parametrize("which", SETS)
def test_gradient_at_the_ball_point(which):
    query = given(f"{which}_exact_ball_q", torch.float64).requires_grad_()
    key = given(f"{which}_exact_ball_k", torch.float64)
    queue = given(f"{which}_queue_hyp_p", torch.float64).T
    for path in PATHS:
        loss = hyperbolic_info_nce(query, key, queue, c=C, temperature=T, path=path)
        (grad,) = torch.autograd.grad(loss, query)
        assert error(grad, f"{which}_exact_grad_h_ball_q") < 1e-11


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("which", SETS)
def test_euclidean_and_total_loss(which, path, dtype):
    raw = [given(f"{which}_{name}", dtype).requires_grad_() for name in ("q_euc_p", "q_euc_c")]
    keys = [given(f"{which}_{name}", dtype) for name in ("k_euc_c", "k_euc_p")]
    queues = [given(f"{which}_{name}", dtype).T for name in ("queue_c", "queue_p")]
    halves = [
        info_nce(F.normalize(q, dim=1), F.normalize(k, dim=1), queue, temperature=T, path=path)
        for q, k, queue in zip(raw, keys, queues, strict=True)
    ]
    euclidean = sum(halves) / 2
    bound = {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]
    assert error(euclidean, f"{which}_exact_loss_e") < bound
    for grad, name in zip(torch.autograd.grad(euclidean, raw), ("q_euc_p", "q_euc_c"), strict=True):
        assert error(grad, f"{which}_exact_grad_e_{name}") < bound
    total = euclidean + WEIGHT * hyperbolic(which, dtype, riemannian=True, path=path)[0]
    assert error(total, f"{which}_exact_loss_total") < 10 * bound


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("scaling", ["rsgd", "norsgd"])
def test_official_numerics_reproduce_the_reference(which, scaling):
    loss, grad = hyperbolic(
        which,
        torch.float64,
        riemannian=scaling == "rsgd",
        ball=official,
        numerics="official",
    )
    assert error(loss, f"{which}_ref64_loss_h") < 1e-9
    assert error(grad, f"{which}_ref64_grad_h_q_hyp_c_{scaling}") < 1e-9


def test_official_numerics_refuse_fast_paths():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="official"):
        hyperbolic_info_nce(x, x, x, c=1.0, temperature=1.0, path="matrix", numerics="official")
