"""The classifier and its scores against plain forms."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.probe import linear, logistic, scores


def problem(several: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 3 + torch.randn(200, 6, generator=generator) * torch.tensor([1, 10, 0.1, 1, 1, 0.0])
    signal = features[:, :3] / torch.tensor([1, 10, 0.1])
    noisy = signal + torch.randn(200, 3, generator=generator)
    noisy -= noisy.mean(0)
    return features, (noisy > 0) if several else noisy.argmax(1)


@pytest.mark.parametrize("several", [False, True])
def test_the_gradient_of_the_written_objective_is_zero(several: bool) -> None:
    features, targets = problem(several)
    found = linear.fit(features, targets, 0.01, classes=3)
    x = features.double().numpy()
    spread = x.std(0)
    x = np.where(spread > 1e-12, (x - x.mean(0)) / np.where(spread > 1e-12, spread, 1), 0)
    w, b = found.weights[:-1].numpy(), found.weights[-1].numpy()
    logits = x @ w + b
    if several:
        p, y = 1 / (1 + np.exp(-logits)), targets.numpy().astype(float)
    else:
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        y = np.eye(3)[targets.numpy()]
    assert np.abs(x.T @ (p - y) / len(x) + 0.01 * w).max() < 1e-6
    assert np.abs((p - y).mean(0)).max() < 1e-6
    assert np.allclose(found.logits(features).numpy(), logits, atol=1e-9)


def test_many_correlated_features_under_a_weak_penalty_converge(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(100, 100, generator=generator) * torch.logspace(0, -2, 100)[:, None]
    features = torch.randn(400, 100, generator=generator) @ mixing
    noise = torch.randn(400, 5, generator=generator)
    targets = (features[:, :5] / features[:, :5].std(0) + noise).argmax(1)
    with caplog.at_level(logging.WARNING):
        found = linear.fit(features, targets, 1e-5, classes=5)
    assert found.gradient < 1e-6
    assert not caplog.records
    # The gradient it tells is that of the written objective.
    x = (features.double() - features.double().mean(0)) / features.double().std(0, correction=0)
    errors = torch.softmax(found.logits(features), 1) - torch.eye(5)[targets]
    slopes = torch.cat([x.T @ errors / len(x) + 1e-5 * found.weights[:-1], errors.mean(0)[None]])
    assert float(slopes.abs().max()) == pytest.approx(found.gradient, rel=1e-3)
    # Stopped early it is far from that, and says so.
    with caplog.at_level(logging.WARNING):
        early = linear.fit(features, targets, 1e-5, classes=5, iterations=2)
    assert early.gradient > linear.CONVERGED
    assert "penalty 1e-05 has not converged: gradient" in caplog.text


def test_every_fit_begins_from_the_solution_before(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = problem()
    fits: list[tuple[int, float, float | None]] = []
    plain = linear._solve

    def watched(problem, penalty, start=None, *rest, **named):
        fits.append((problem.samples, penalty, start and start.penalty))
        return plain(problem, penalty, start, *rest, **named)

    monkeypatch.setattr(linear, "_solve", watched)
    held_out = torch.arange(200) % 5 == 4
    found, tried = linear.choose(
        features, targets, held_out, lambda a, b: scores.top(a, b, 1), classes=3
    )
    penalties = list(tried)
    before = [None, *penalties[:-1]]
    assert fits[:-1] == [(160, p, b) for p, b in zip(penalties, before, strict=True)]
    assert fits[-1] == (200, found.penalty, found.penalty)


def test_weak_penalties_are_not_tried_after_two_that_judge_worse() -> None:
    features, targets = problem()
    held_out = torch.arange(200) % 5 == 4
    given = iter([0.1, 0.5, 0.4, 0.5, 0.4, 0.3])
    found, tried = linear.choose(features, targets, held_out, lambda a, b: next(given), classes=3)
    assert (found.penalty, len(tried)) == (0.1, 6)  # of equals the first; they are no step back
    given = iter([0.1, 0.5, 0.4, 0.3])
    found, tried = linear.choose(features, targets, held_out, lambda a, b: next(given), classes=3)
    assert (found.penalty, len(tried)) == (0.1, 4)


@pytest.mark.parametrize("several", [False, True])
def test_blocks_and_probabilities_computed_again_change_nothing(
    monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    features, targets = problem(several)
    whole = linear.fit(features, targets, 0.1, classes=3)
    monkeypatch.setitem(logistic.ROWS, "cpu", 64)
    monkeypatch.setattr(logistic, "KEPT", 0)
    parts = linear.fit(features, targets, 0.1, classes=3, device=torch.device("cpu"))
    assert torch.allclose(whole.weights, parts.weights, atol=1e-6)


@pytest.mark.parametrize("several", [False, True])
def test_more_features_than_samples(several: bool) -> None:
    features, targets = problem(several)
    noise = torch.randn(200, 300, generator=torch.Generator().manual_seed(1))
    features = torch.cat([features, noise], 1)[:60]
    targets = targets[:60]
    found = linear.fit(features, targets, 0.01, classes=3)
    assert logistic.Problem(features, targets, 3).basis.shape[1] == 59
    x = (features.double() - found.mean) * found.scale
    if several:
        errors = torch.sigmoid(found.logits(features)) - targets.double()
    else:
        errors = torch.softmax(found.logits(features), 1) - torch.eye(3)[targets]
    slopes = x.T @ errors / 60 + 0.01 * found.weights[:-1]
    assert float(slopes.abs().max()) < 1e-6


def test_the_hessian_product_is_the_gradients_derivative() -> None:
    for several in (False, True):
        features, targets = problem(several)
        at = logistic.Problem(features, targets, 3)
        generator = torch.Generator().manual_seed(2)
        weights, direction = torch.randn(
            2, at.coordinates, 3, generator=generator, dtype=torch.float64
        )
        _, after, _ = at.evaluate(weights + 1e-5 * direction, 0.1)
        _, before, _ = at.evaluate(weights - 1e-5 * direction, 0.1)
        at.evaluate(weights, 0.1)
        bent = at.product(direction, 0.1)
        assert torch.allclose(bent, (after - before) / 2e-5, atol=1e-4)
        metric = at.preconditioner(0.1)
        centered = direction if several else logistic.centered(direction)
        assert torch.allclose(metric.solve(metric.times(centered)), centered, atol=1e-6)


def test_the_same_fit_twice_is_the_same_to_the_bit() -> None:
    features, targets = problem()
    first, second = (linear.fit(features, targets, 1e-3, classes=3) for _ in range(2))
    assert torch.equal(first.weights, second.weights)


def test_the_penalty_is_the_one_that_judges_best_and_all_samples_are_fitted() -> None:
    features, targets = problem()
    noise = torch.randn(200, 150, generator=torch.Generator().manual_seed(0))
    features = torch.cat([features, noise], 1)  # wants a strong penalty
    held_out = torch.arange(200) % 5 == 4
    found, tried = linear.choose(
        features, targets, held_out, lambda a, b: scores.top(a, b, 1), classes=3
    )
    assert found.penalty == max(tried, key=lambda p: tried[p]) >= 1e-2
    again = linear.fit(features, targets, found.penalty, classes=3)
    assert torch.allclose(found.weights, again.weights, atol=1e-5)
    assert list(tried) == list(linear.PENALTIES)[: len(tried)]


def test_top_counts_ties_and_unknown_labels_against_the_sample() -> None:
    logits = torch.tensor([[2.0, 1, 0], [1, 1, 0], [0, 0, 5]])
    assert scores.top(logits, torch.tensor([0, 0, -1]), 1) == pytest.approx(1 / 3)
    assert scores.top(logits, torch.tensor([1, 0, -1]), 2) == pytest.approx(2 / 3)


def test_top_of_logits_that_are_no_numbers_is_zero() -> None:
    logits = torch.full((2, 3), float("nan"))
    assert scores.top(logits, torch.tensor([0, 2]), 1) == 0.0
    logits = torch.tensor([[1.0, float("nan"), 0], [1, 0, float("nan")]])
    assert scores.top(logits, torch.tensor([0, 2]), 1) == 0.0


def test_per_class_weighs_classes_equally() -> None:
    labels = torch.tensor([0, 0, 0, 1, -1])
    assert scores.per_class(torch.tensor([0, 0, 0, 0, 0]), labels) == 0.5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20).filter(
        lambda items: any(right for _, right in items)
    )
)
def test_average_precision_is_the_sum_over_thresholds(items: list[tuple[int, bool]]) -> None:
    values = torch.tensor([float(v) for v, _ in items])
    right = torch.tensor([r for _, r in items])
    expected, before = 0.0, 0.0
    for threshold in sorted({float(v) for v, _ in items}, reverse=True):
        chosen = values >= threshold
        recall = int(right[chosen].sum()) / int(right.sum())
        expected += (recall - before) * float(right[chosen].double().mean())
        before = recall
    found = scores.mean_average_precision(values[:, None], right[:, None])
    assert found == pytest.approx(expected, abs=1e-12)


def test_categories_that_never_occur_are_left_out_of_the_mean() -> None:
    targets = torch.tensor([[True, False], [False, False]])
    assert scores.mean_average_precision(torch.tensor([[1.0, 0], [0, 1]]), targets) == 1.0
