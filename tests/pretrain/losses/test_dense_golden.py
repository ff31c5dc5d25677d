"""DenseCL: matching, dense loss and the weighted total."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretrain.losses import dense_info_nce, info_nce, match

GOLDEN = np.load(Path(__file__).parents[2] / "golden/densecl_loss.npz")
T, SHARE = float(GOLDEN["T"]), float(GOLDEN["loss_lambda"])


def given(name, dtype=torch.float64):
    return torch.from_numpy(GOLDEN[name]).to(dtype)


def error(got, name):
    exact = torch.from_numpy(np.asarray(GOLDEN[name])).double()
    return ((got.detach().double() - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_match_finds_the_most_similar_cell(dtype):
    found = match(given("feat_q", dtype), given("feat_k", dtype))
    assert torch.equal(found, torch.from_numpy(GOLDEN["exact_argmax"]))


def test_first_of_equal_cells_is_taken():
    same = torch.ones(1, 3, 4)
    assert torch.equal(match(same, same), torch.zeros(1, 4, dtype=torch.long))


@pytest.mark.parametrize("path", ["plain", "matrix", "streaming"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_and_gradients(dtype, path):
    bound = {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]
    q, grid_q = given("q", dtype).requires_grad_(), given("grid_q", dtype).requires_grad_()
    single = info_nce(
        F.normalize(q, dim=1),
        F.normalize(given("k", dtype), dim=1),
        given("queue", dtype).T,
        temperature=T,
        path=path,
    )
    dense = dense_info_nce(
        grid_q,
        given("grid_k", dtype),
        match(given("feat_q", dtype), given("feat_k", dtype)),
        given("queue2", dtype).T,
        temperature=T,
        path=path,
    )
    total = (1 - SHARE) * single + SHARE * dense
    assert error((1 - SHARE) * single, "exact_loss_single_weighted") < bound
    assert error(SHARE * dense, "exact_loss_dense_weighted") < bound
    assert error(total, "exact_loss_total") < bound
    grad_q, grad_grid = torch.autograd.grad(total, (q, grid_q))
    assert error(grad_q, "exact_grad_q") < bound
    assert error(grad_grid, "exact_grad_grid_q") < bound


def test_maps_may_be_spatial():
    cells = given("grid_q").reshape(4, 128, 7, 7)
    keys, matches, queue = given("grid_k"), given("exact_argmax", torch.long), given("queue2").T
    flat = dense_info_nce(given("grid_q"), keys, matches, queue, temperature=T)
    assert torch.equal(dense_info_nce(cells, keys, matches, queue, temperature=T), flat)


def test_matches_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="matches must be"):
        dense_info_nce(
            torch.ones(2, 3, 4),
            torch.ones(2, 3, 4),
            torch.zeros(2, 5).long(),
            torch.ones(6, 3),
            temperature=T,
        )
