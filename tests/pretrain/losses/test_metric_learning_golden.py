"""Pairwise cross-entropy of Hyp-ViT and the fusion of HypMix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretrain.geometry import official, poincare
from pretrain.losses import (
    hyperbolic_scores,
    hypmix,
    pairwise_cross_entropy,
    pairwise_losses,
    spherical_scores,
)

FOLDER = Path(__file__).parents[2] / "golden"
HYPVIT, HYPMIX = np.load(FOLDER / "hypvit_loss.npz"), np.load(FOLDER / "hypmix_loss.npz")
C, CLIP = 0.1, 2.3
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}
ORDER = ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
numerics_and_dtype = pytest.mark.parametrize(
    ("numerics", "prefix", "dtype", "bound"),
    [
        ("exact", "exact", torch.float64, 1e-12),
        ("exact", "exact", torch.float32, 1e-5),
        ("official", "ref64", torch.float64, 1e-9),
    ],
)


def error(got, archive, name):
    exact = torch.from_numpy(np.asarray(archive[name])).double()
    return ((got.detach().double() - exact).abs().max() / exact.abs().max()).item()


@numerics_and_dtype
@pytest.mark.parametrize("name", ["sph_tau0.1", "sph_tau0.2", "hyp_tau0.2", "hyp_tau0.05"])
def test_hypvit(name, numerics, prefix, dtype, bound):
    raw = torch.from_numpy(HYPVIT["raw"]).to(dtype).requires_grad_()
    temperature = float(name.split("tau")[1])
    if name.startswith("sph"):
        scores = spherical_scores(F.normalize(raw, dim=-1), temperature=temperature)
    else:
        ball = official if numerics == "official" else poincare
        points = ball.to_ball(raw, C, clip=CLIP)
        scores = hyperbolic_scores(points, c=C, temperature=temperature, numerics=numerics)
    losses, loss = pairwise_losses(scores), pairwise_cross_entropy(scores)
    (grad,) = torch.autograd.grad(loss, raw, retain_graph=True)
    (grad01,) = torch.autograd.grad(losses[0, 1], raw)
    parts = torch.stack([losses[pair] for pair in ORDER])
    assert error(loss, HYPVIT, f"{name}_{prefix}_full_loss") < bound
    assert error(parts, HYPVIT, f"{name}_{prefix}_full_parts") < bound
    assert error(grad, HYPVIT, f"{name}_{prefix}_full_grad_raw") < bound
    assert error(grad01, HYPVIT, f"{name}_{prefix}_pair01_grad_raw") < bound


@numerics_and_dtype
@pytest.mark.parametrize(
    ("name", "temperatures", "weight", "ball_input"),
    [
        ("te0.05_th0.2_lam3.0", (0.05, 0.2), 3.0, "unit"),
        ("te0.1_th0.2_lam0.5", (0.1, 0.2), 0.5, "unit"),
        ("unnorm_te0.05_th0.2_lam3.0", (0.05, 0.2), 3.0, "raw"),
    ],
)
def test_hypmix(name, temperatures, weight, ball_input, numerics, prefix, dtype, bound):
    raw = torch.from_numpy(HYPMIX["raw"]).to(dtype).requires_grad_()
    loss = hypmix(
        raw,
        c=C,
        weight=weight,
        temperature_spherical=temperatures[0],
        temperature_hyperbolic=temperatures[1],
        clip=CLIP,
        ball_input=ball_input,
        numerics=numerics,
    )
    (grad,) = torch.autograd.grad(loss, raw)
    assert error(loss, HYPMIX, f"{name}_{prefix}_full_loss") < bound
    assert error(grad, HYPMIX, f"{name}_{prefix}_full_grad_raw") < bound


def test_pairwise_matrices():
    raw = torch.from_numpy(HYPMIX["raw"]).double()
    cosine = spherical_scores(F.normalize(raw, dim=-1), temperature=1.0)
    # The archive's order is class by class, as flattened (B, S).
    assert error(cosine.reshape(30, 30), HYPMIX, "pairwise_cos") < 1e-14
    points = poincare.to_ball(F.normalize(raw, dim=-1), C, clip=CLIP)
    distances = -hyperbolic_scores(points, c=C, temperature=1.0).reshape(30, 30)
    assert error(distances, HYPMIX, "pairwise_hyp_dist_exact") < 1e-12


def test_sum_of_two_losses_is_the_other_reading():
    raw = torch.from_numpy(HYPMIX["raw"]).double()
    settings = {"c": C, "temperature_spherical": 0.1, "temperature_hyperbolic": 0.2, "clip": CLIP}
    both = hypmix(raw, weight=0.5, combine="losses", **settings)
    spherical = pairwise_cross_entropy(spherical_scores(F.normalize(raw, dim=-1), temperature=0.1))
    points = poincare.to_ball(F.normalize(raw, dim=-1), C)
    hyperbolic = pairwise_cross_entropy(hyperbolic_scores(points, c=C, temperature=0.2))
    assert torch.allclose(both, spherical + 0.5 * hyperbolic, rtol=1e-14)
    assert (hypmix(raw, weight=0.5, **settings) - both).abs() > 0.1


def test_loss_reads_like_its_definition():
    """Against loops over anchors and their 2(B - 1) negatives."""
    classes, slots = 4, 3
    scores = torch.randn(
        classes, slots, classes, slots, generator=torch.Generator().manual_seed(0)
    ).double()
    losses = pairwise_losses(scores)
    for i in range(slots):
        for j in range(slots):
            if i == j:
                assert losses[i, j] == 0
                continue
            total = 0.0
            for b in range(classes):
                others = [o for o in range(classes) if o != b]
                negatives = [scores[b, i, o, slot] for o in others for slot in (i, j)]
                logits = torch.stack([scores[b, i, b, j], *negatives])
                total += F.cross_entropy(logits, torch.tensor(0)).item() / classes
            assert abs(losses[i, j].item() - total) < 1e-12


@pytest.mark.parametrize("shape", [(1, 3, 1, 3), (4, 1, 4, 1), (4, 2, 3, 2), (4, 4)])
def test_too_few_classes_or_samples_are_refused(shape):
    with pytest.raises(ValueError, match="scores must be"):
        pairwise_losses(torch.zeros(shape))


def test_identical_embeddings_have_finite_gradients():
    raw = torch.ones(5, 2, 8, requires_grad=True)
    for ball_input in ("unit", "raw"):
        loss = hypmix(
            raw,
            c=C,
            weight=1.0,
            temperature_spherical=0.1,
            temperature_hyperbolic=0.2,
            ball_input=ball_input,
        )
        (grad,) = torch.autograd.grad(loss, raw)
        assert loss.isfinite()
        assert grad.isfinite().all()
