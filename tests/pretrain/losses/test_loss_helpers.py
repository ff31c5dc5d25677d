"""In-batch losses, BYOL's regression, step statistics and the sentinel."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from pretrain.geometry import poincare
from pretrain.losses import (
    cosine_regression,
    hyperbolic_info_nce,
    hyperbolic_info_nce_in_batch,
    info_nce,
    info_nce_in_batch,
)
from pretrain.losses.sentinel import NonFiniteSentinel
from pretrain.losses.stats import ball_stats, logit_stats


def rows(count, size=6, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).double()


def test_in_batch_is_info_nce_against_the_other_keys():
    query, keys = F.normalize(rows(3), dim=1), F.normalize(rows(7, seed=1), dim=1)
    expected = [
        info_nce(
            query[i : i + 1],
            keys[2 + i : 3 + i],
            torch.cat([keys[: 2 + i], keys[3 + i :]]),
            temperature=0.3,
        )
        for i in range(3)
    ]
    loss = info_nce_in_batch(query, keys, temperature=0.3, offset=2)
    assert torch.allclose(loss, torch.stack(expected).mean(), rtol=1e-14)


def test_in_batch_hyperbolic():
    query, keys = poincare.to_ball(rows(3), 0.5), poincare.to_ball(rows(5, seed=1), 0.5)
    expected = [
        hyperbolic_info_nce(
            query[i : i + 1],
            keys[i : i + 1],
            torch.cat([keys[:i], keys[i + 1 :]]),
            c=0.5,
            temperature=0.3,
        )
        for i in range(3)
    ]
    loss = hyperbolic_info_nce_in_batch(query, keys, c=0.5, temperature=0.3)
    assert torch.allclose(loss, torch.stack(expected).mean(), rtol=1e-13)


def test_in_batch_gradients_reach_the_keys_and_one_key_costs_nothing():
    keys = rows(4).requires_grad_()
    (grad,) = torch.autograd.grad(info_nce_in_batch(rows(4, seed=1), keys, temperature=1.0), keys)
    assert grad.abs().sum() > 0
    alone = rows(1).requires_grad_()
    loss = info_nce_in_batch(alone, rows(1), temperature=1.0)
    assert loss == 0
    assert torch.autograd.grad(loss, alone)[0].abs().max() == 0


def test_in_batch_needs_a_key_for_every_query():
    with pytest.raises(ValueError, match="need more than"):
        info_nce_in_batch(rows(3), rows(4), temperature=1.0, offset=2)


def test_cosine_regression():
    p, t = rows(5).requires_grad_(), rows(5, seed=1).requires_grad_()
    loss = cosine_regression(p, t)
    assert torch.allclose(loss, (2 - 2 * F.cosine_similarity(p, t)).mean(), rtol=1e-13)
    loss.backward()
    assert t.grad is None
    assert cosine_regression(p, 3 * p.detach()) < 1e-30


def test_ball_stats():
    c = 0.25
    norms = torch.tensor([0.0, 0.2, 1.0, 1.998, 7.0])
    points = norms[:, None] * torch.tensor([[0.6, 0.8]])
    stats = ball_stats(poincare.project(points, c), c)
    quantiles = [stats[f"norm/q{q}"].item() for q in (0, 25, 50, 75, 100)]
    assert quantiles == pytest.approx([0, 0.1, 0.5, 0.999, 0.999], rel=1e-6)
    assert stats["projected"].item() == pytest.approx(2 / 5)
    assert stats["norm/histogram"].sum().item() == pytest.approx(1)
    assert stats["norm/histogram"][-1].item() == pytest.approx(2 / 5)
    assert stats["norm/histogram"][0].item() == pytest.approx(1 / 5)


@pytest.mark.parametrize("c", [None, 0.5])
def test_logit_stats(c):
    query, key, queue = rows(4) * 0.1, rows(4, seed=1) * 0.1, rows(40, seed=2) * 0.1
    stats = logit_stats(query, key, queue, temperature=0.5, c=c)
    if c is None:
        positive, negatives = (query * key).sum(1) / 0.5, query @ queue.T / 0.5
    else:
        positive = -poincare.distance(query, key, c) / 0.5
        negatives = -poincare.pairwise_distance(query, queue, c) / 0.5
    assert stats["logit/max"].item() == pytest.approx(max(positive.max(), negatives.max()).item())
    assert stats["logit/min"].item() == pytest.approx(min(positive.min(), negatives.min()).item())
    beats = (positive[:, None] > negatives).all(1).double().mean()
    assert stats["accuracy"].item() == beats.item()
    share = negatives.softmax(1)
    entropy = torch.distributions.Categorical(probs=share).entropy()
    assert stats["negatives/effective"].item() == pytest.approx(entropy.exp().mean().item())


def test_equal_negatives_are_all_effective_and_an_empty_queue_has_none():
    query = rows(3)
    equal = torch.ones(50, 6).double()
    stats = logit_stats(query, query, equal, temperature=1.0, sample=10)
    assert stats["negatives/effective"].item() == pytest.approx(50)
    empty = logit_stats(query, query, equal[:0], temperature=1.0)
    assert empty["negatives/effective"] == 0
    assert empty["accuracy"] == 1


def test_sentinel_names_the_first_bad_operation():
    x = torch.tensor([1.0, 0.0], requires_grad=True)
    with pytest.raises(FloatingPointError, match=r"aten\.log.* \[0, 1\]"), NonFiniteSentinel():
        (x + 0).log().exp().sum()
    with pytest.raises(FloatingPointError, match=r"aten\.div"), NonFiniteSentinel():
        x.sqrt().sum().backward()


def test_sentinel_is_silent_on_sound_losses():
    query = rows(4).requires_grad_()
    with NonFiniteSentinel():
        info_nce(query, query, rows(9, seed=3), temperature=0.1).backward()
        info_nce_in_batch(query, query, temperature=0.1).backward()  # masks with -inf
        ball = poincare.to_ball(query, 1.0)
        hyperbolic_info_nce(ball, ball, rows(0), c=1.0, temperature=0.1).backward()
    assert math.isfinite(query.grad.sum().item())


class Root(torch.nn.Module):
    def forward(self, x):
        return (x - x.detach()).sqrt() + x


def test_sentinel_names_the_module():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sequential(Root()))
    with torch.no_grad():
        network[0].weight[0, 0] = 1e30
    named = pytest.raises(FloatingPointError, match=r"aten\.\w+\.\w+ in 0 ")
    with named, NonFiniteSentinel(network):
        network(torch.full((1, 3), 1e30))
    assert all(not part._forward_hooks for part in network.modules())


def test_sentinel_names_the_backward_and_goes_on_where_it_must():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sequential(Root()))
    sentinel = NonFiniteSentinel(network, stop=False)
    with sentinel:
        network(torch.ones(1, 3)).sum().backward()
    assert "in SqrtBackward0 made a non-finite number" in sentinel.found
    assert not torch.isfinite(network[0].weight.grad).all()


def test_sentinel_names_the_module_of_a_backward():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Tanh())
    sentinel = NonFiniteSentinel(network, stop=False)
    x = torch.full((1, 2), 1e-30)
    with sentinel:
        (network(x) * 3e38).sum().mul(10).backward()
    assert "Backward0" in sentinel.found
