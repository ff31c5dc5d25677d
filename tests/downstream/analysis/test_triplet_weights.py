"""Weights of negatives: the losses' own gradients, loops in float64, and the exact search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from downstream.analysis.embeddings import load
from downstream.analysis.gallery import only_in
from downstream.analysis.negative_stats import (
    choose_anchors,
    cosines,
    distances,
    negatives_of,
    overlap,
    own_weighting,
    triplet_weights,
    weigh,
    weightings,
)
from downstream.retrieval.finetune.loss import ball_points
from downstream.retrieval.finetune.settings import LossSettings
from downstream.retrieval.neighbors import search
from downstream.retrieval.spaces import ball, fused, sphere
from pretrain.losses import hyperbolic_scores, spherical_scores
from pretrain.losses.pairwise import pairwise_losses

CLASSES, DIM = 6, 5


def batch(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(CLASSES, 2, DIM, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("geometry", ["sphere", "ball", "mixed"])
def test_weights_are_the_gradient_of_the_loss(geometry):
    loss = LossSettings(geometry=geometry, clip_radius=None, weight=0.7, curvature=0.3)
    z = batch()
    points = ball_points(z, loss)
    unit = z / z.norm(dim=-1, keepdim=True)
    scores = torch.zeros(CLASSES, 2, CLASSES, 2, dtype=torch.float64)
    if geometry != "ball":
        scores += spherical_scores(unit, temperature=loss.temperature_spherical)
    if geometry != "sphere":
        weight = loss.weight if geometry == "mixed" else 1.0
        scores += weight * hyperbolic_scores(
            points, c=loss.curvature, temperature=loss.temperature_hyperbolic
        )
    scores.requires_grad_()
    pairwise_losses(scores)[0, 1].backward()
    gradient = scores.grad.flatten(0, 1).flatten(1, 2).numpy() * CLASSES  # a mean over anchors
    way = own_weighting(loss)
    directions = sphere(z.flatten(0, 1))
    in_ball = ball(points.flatten(0, 1), loss.curvature)
    for anchor in range(0, 2 * CLASSES, 2):
        others = np.array([n for n in range(2 * CLASSES) if n // 2 != anchor // 2])
        keys = np.append(others, anchor + 1)
        logits = way.logits(
            cosines(directions, anchor, keys), distances(in_ball, anchor, keys, loss.curvature)
        )
        weights = triplet_weights(logits[:-1], float(logits[-1]))
        assert gradient[anchor, others] == pytest.approx(weights, rel=1e-11, abs=1e-15)
        assert gradient[anchor, anchor + 1] == pytest.approx(-weights.sum(), rel=1e-11)


def test_weights_are_those_of_a_loop():
    loss = LossSettings(geometry="mixed", clip_radius=None, curvature=0.2)
    z = batch(3).flatten(0, 1)
    points = ball_points(z, loss)
    keys = np.array([4, 7, 9, 2])
    expected = {}
    for way in weightings(loss, [0.05, 0.5], [0.3]):
        terms = []
        for key in keys:
            cos = float(z[1] @ z[key] / (z[1].norm() * z[key].norm()))
            x, y = points[1], points[key]
            gaps = (1 - 0.2 * float(x @ x)) * (1 - 0.2 * float(y @ y))
            far = math.acosh(1 + 2 * 0.2 * float((x - y) @ (x - y)) / gaps) / math.sqrt(0.2)
            terms.append(math.exp(way.spherical * cos - way.hyperbolic * far))
        expected[way.label] = [term / sum(terms) for term in terms]
    assert [way.geometry for way in weightings(loss, [0.05, 0.5], [0.3])] == [
        *("sphere", "sphere", "ball", "mixed")
    ]
    cos = cosines(sphere(z), 1, keys)
    far = distances(ball(points, 0.2), 1, keys, 0.2)
    for way in weightings(loss, [0.05, 0.5], [0.3]):
        logits = way.logits(cos, far)
        found = triplet_weights(logits[:-1], float(logits[-1]))
        assert found == pytest.approx(expected[way.label][:-1], rel=1e-10)


def test_huge_logits_do_not_overflow():
    found = triplet_weights(np.array([5000.0, 4000.0]), 5000.0)
    assert found.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("geometry", ["sphere", "ball", "mixed"])
def test_hardest_negatives_are_those_of_the_exact_search(geometry, request):
    run = load(request.getfixturevalue(f"{geometry}_run"), device="cpu")
    tested = run.tested
    anchors = list(choose_anchors(run.labels, tested.queries, tested.keys, 12, seed=4))
    loss = tested.settings.loss
    found = weigh(run, anchors, [own_weighting(loss)], 15)[0]
    ranking = {
        "sphere": lambda: sphere(run.projections),
        "ball": lambda: ball(run.points, loss.curvature),
        "mixed": lambda: fused(
            run.projections,
            run.points,
            loss.curvature,
            temperature_spherical=loss.temperature_spherical,
            temperature_hyperbolic=loss.temperature_hyperbolic,
            weight=loss.weight,
        ),
    }[geometry]()
    queries = np.array([anchor.row for anchor in anchors])
    everything = search(ranking, len(run.labels) - 1, queries=queries).rows
    for anchor, hardest, rows in zip(anchors, found.hardest, everything, strict=True):
        others = rows[run.labels[rows] != run.labels[anchor.row]]
        assert hardest.tolist() == others[:15].tolist()


def test_what_is_kept_of_the_weights(mixed_run):
    run = load(mixed_run, device="cpu")
    tested = run.tested
    loss = tested.settings.loss
    anchors = list(choose_anchors(run.labels, tested.queries, tested.keys, 5, seed=0))
    way = own_weighting(loss)
    found = weigh(run, anchors, [way], 3)[0]
    for number, anchor in enumerate(anchors):
        others = negatives_of(anchor.row, run.labels, tested.keys)
        keys = np.append(others, anchor.positive)
        logits = way.logits(
            cosines(sphere(run.projections), anchor.row, keys),
            distances(ball(run.points, loss.curvature), anchor.row, keys, loss.curvature),
        )
        weights = np.exp(logits) / np.exp(logits).sum()
        ordered = np.sort(weights[:-1])[::-1]
        shares = ordered / ordered.sum()
        assert found.weights[number] == pytest.approx(ordered[found.at - 1], rel=1e-9)
        assert found.shares[number] == pytest.approx(np.cumsum(shares)[found.at - 1], rel=1e-9)
        assert found.on_positive[number] == pytest.approx(weights[-1], rel=1e-8)
        entropy = -(shares * np.log(shares)).sum()
        assert found.effective[number] == pytest.approx(np.exp(entropy), rel=1e-9)


def test_anchors_are_drawn_by_seed_among_queries_with_a_positive():
    labels = np.array([0, 0, 1, 1, 2, 0, 1, 3])
    queries, keys = np.array([0, 2, 4, 7]), np.array([1, 3, 5, 6])
    drawn = list(choose_anchors(labels, queries, keys, 10, seed=0))
    assert {anchor.row for anchor in drawn} == {0, 2}  # of classes 2 and 3 there is no key
    for anchor in drawn:
        assert labels[anchor.positive] == labels[anchor.row]
        assert anchor.positive in keys
        others = negatives_of(anchor.row, labels, keys)
        assert others.tolist() == [k for k in keys if labels[k] != labels[anchor.row]]
    everything = np.arange(8)
    first = [a.row for a in choose_anchors(labels, everything, everything, 3, seed=1)]
    assert first == [a.row for a in choose_anchors(labels, everything, everything, 3, seed=1)]
    assert len(first) == 3
    assert all(a.positive != a.row for a in choose_anchors(labels, everything, everything, 9, 2))


def test_overlap_is_that_of_sets():
    rng = np.random.default_rng(0)
    first, second = (np.array([rng.permutation(12)[:7] for _ in range(9)]) for _ in range(2))
    found = overlap(first, second)
    for k in range(1, 8):
        shared = [len(set(a[:k]) & set(b[:k])) / k for a, b in zip(first, second, strict=True)]
        assert found[k - 1] == pytest.approx(np.mean(shared))
    assert overlap(first, first).tolist() == [1.0] * 7


def test_frames_stand_where_the_lists_differ():
    first, second = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 9, 1], [6, 5, 4]])
    assert only_in(first, second).tolist() == [[False, True, False], [False] * 3]
    assert only_in(second, first).tolist() == [[False, True, False], [False] * 3]
