"""The parity option reproduces the reference codes' float64 results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.geometry import official

GOLDEN = np.load(Path(__file__).parents[2] / "golden/poincare_ops.npz")
every_c = pytest.mark.parametrize("c", (0.05, 0.1, 1.0))


def given(c, name):
    return torch.from_numpy(GOLDEN[f"c{c}_{name}"]).double()


def error(got, c, name):
    reference = torch.from_numpy(GOLDEN[f"c{c}_ref64_{name}"])
    return ((got.detach() - reference).abs().max() / reference.abs().max()).item()


@every_c
def test_values(c):
    x, y = given(c, "pair_x"), given(c, "pair_y")
    assert error(official.distance(x, y, c), c, "dist") < 1e-9
    assert error(official.distance_to_origin(x, c), c, "dist0") < 1e-9
    assert error(official.mobius_add(x, y, c), c, "mobius_add") < 1e-9
    assert error(official.mobius_add(-x, y, c), c, "mobius_add_negx") < 1e-9
    matrix = official.pairwise_distance(given(c, "mat_x"), given(c, "mat_y"), c)
    assert error(matrix, c, "dist_matrix") < 1e-9


@every_c
def test_distance_gradients(c):
    """1e-9, except where the reference's own cancellation is larger: about 1e-15/angle² there."""
    x, y = given(c, "pair_x").requires_grad_(), given(c, "pair_y").requires_grad_()
    grad_x, grad_y = torch.autograd.grad(official.distance(x, y, c).sum(), (x, y))
    for got, name in ((grad_x, "dist_grad_x"), (grad_y, "dist_grad_y")):
        reference = given(c, f"ref64_{name}")
        relative = (got - reference).norm(dim=1) / reference.norm(dim=1)
        for tag, value in zip(GOLDEN[f"c{c}_pair_tag"], relative.tolist(), strict=True):
            if tag.startswith("identical"):
                continue  # rounding of the reference decides between 0 and a random direction
            angle = float(tag.split("angle_")[1]) if "angle_" in tag else 1.0
            assert value < max(1e-9, 3e-12 / angle), tag


@every_c
@pytest.mark.parametrize(
    ("name", "function", "argument", "cotangent"),
    [
        ("expmap0", official.expmap0, "u", "cot_u"),
        ("project", official.project, "p", "cot_p"),
        *(
            (
                f"topoincare_{clip_name}{'_rsgd' if riemannian else ''}",
                lambda u, c, clip=clip, riemannian=riemannian: official.to_ball(
                    u, c, clip=clip, riemannian=riemannian
                ),
                "u",
                "cot_u",
            )
            for clip_name, clip in (("clip2.3", 2.3), ("noclip", None))
            for riemannian in (False, True)
        ),
    ],
)
def test_maps_and_their_vjp(c, name, function, argument, cotangent):
    x = given(c, argument).requires_grad_()
    result = function(x, c)
    (vjp,) = torch.autograd.grad(result, x, given(c, cotangent))
    assert error(result, c, name) < 1e-9
    assert error(vjp, c, f"{name}_vjp") < 1e-9
