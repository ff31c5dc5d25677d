"""Top-k by group maxima, scores that are bounds, and queries that fall through the stages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.retrieval import measures, neighbors, shortlists
from downstream.retrieval.neighbors import nearest, portions, search
from downstream.retrieval.recall import recall_at_k
from downstream.retrieval.scores import FusedScores, InnerProducts
from downstream.retrieval.spaces import ball, fused, sphere

SHARES = {"temperature_spherical": 0.05, "temperature_hyperbolic": 0.2, "weight": 3.0}


@pytest.fixture
def medium() -> Iterator[None]:
    """What many training scripts set: bfloat16 products on CPUs that have them."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def test_lower_precision_of_products_is_not_taken_over(
    medium: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    largest = shortlists.largest

    def spy(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.get_float32_matmul_precision())
        return largest(values, count)

    monkeypatch.setattr(shortlists, "largest", spy)
    points = directions(np.random.default_rng(4), 300, 8) * 0.5
    nearest(ball(points, 1.0), 3)
    assert set(seen) == {"highest"}
    assert torch.get_float32_matmul_precision() == "medium"


def directions(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    points = rng.standard_normal((count, dim))
    return points / np.linalg.norm(points, axis=1)[:, None]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 900),
    count=st.integers(1, 30),
    kinds=st.sampled_from([3, 40, 10**9]),
)
def test_group_maxima_find_what_topk_finds(seed, width, count, kinds):
    """With few kinds of values nearly all of them tie."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, kinds, (4, width), generator=generator).double()
    count = min(count, width)
    top, columns = shortlists.largest(values, count)
    assert torch.equal(top, values.topk(count, dim=1).values)
    assert torch.equal(values.gather(1, columns), top)
    assert all(len(set(row)) == count for row in columns.tolist())


def test_groups_are_used_and_the_rest_is_not_forgotten():
    # 1,610 columns are 100 groups and ten more, where the largest are.
    values = torch.arange(1610.0).expand(2, -1)
    top, columns = shortlists.largest(values, 12)
    assert columns[1].tolist() == list(range(1609, 1597, -1))
    assert torch.equal(top[0], values[0, 1598:].flip(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reach", [0.5, 0.99, 1 - 1e-6])
def test_scores_are_never_to_a_keys_disadvantage(dtype, reach):
    """No key has a smaller value than the floor of its own score; and floors are no empty words."""
    rng = np.random.default_rng(0)
    points = directions(rng, 300, 24) * rng.uniform(0.1, reach, (300, 1))
    points[:60] = reach * directions(rng, 1, 24) + 1e-9 * rng.standard_normal((60, 24))
    points[:60] *= reach / np.linalg.norm(points[:60], axis=1)[:, None]
    rows = np.arange(64)
    everything = np.repeat(np.arange(300)[None], 64, axis=0)
    in_ball = ball(points, 1.0)
    for scores, ranking in (
        (InnerProducts(in_ball, np.arange(300), dtype), in_ball),
        (InnerProducts(sphere(points), np.arange(300), dtype), sphere(points)),
        (FusedScores(both := fused(points, points, 1.0, **SHARES), np.arange(300), dtype), both),
    ):
        assert scores.block >= 64
        floors = scores.floor(scores.of(rows).numpy().astype(np.float64))
        exact = ranking.ranking_distances(rows, everything)
        assert (floors <= exact).all()
        if dtype is torch.float64 and reach < 0.999:
            far = exact > 0.01 * exact.max()
            assert (floors[far] > 0.999 * exact[far]).all()


@pytest.fixture
def asked(monkeypatch) -> dict[object, int]:
    """Queries by stage, in the order of the stages."""
    counts: dict[object, int] = {}
    stages, exact = neighbors.stages, neighbors._by_differences

    def counted(ranking, keys, engine):
        def watched(stage):
            def shortlist(rows, length):
                counts[stage, length] = counts.get((stage, length), 0) + len(rows)
                return stage(rows, length)

            return shortlist

        return [watched(stage) for stage in stages(ranking, keys, engine)]

    def counted_exact(*arguments):
        counts["every difference"] = counts.get("every difference", 0) + 1
        return exact(*arguments)

    monkeypatch.setattr(neighbors, "stages", counted)
    monkeypatch.setattr(neighbors, "_by_differences", counted_exact)
    return counts


def every_gap(ranking, k: int) -> np.ndarray:
    count = len(ranking)
    gaps = ranking.ranking_distances(
        np.arange(count), np.repeat(np.arange(count)[None], count, axis=0)
    )
    np.fill_diagonal(gaps, np.inf)
    return np.argsort(gaps, axis=1, kind="stable")[:, :k]


# Clusters at 0.999 in between 200 others: their size, how far their members scatter, and how many
# queries each stage is asked: float32, float64, float64 with the long list, every difference.
FALLS = [
    (40, 1e-1, [300]),
    (40, 1e-3, [300, 100]),
    (40, 1e-8, [300, 100, 100]),
    (100, 1e-8, [300, 100, 100, 100]),
]


@pytest.mark.parametrize("of_both", [False, True])
@pytest.mark.parametrize(("size", "scatter", "expected"), FALLS)
def test_proofs_that_fail_fall_through(asked, size, scatter, expected, of_both):
    rng = np.random.default_rng(1)
    clustered = np.repeat(directions(rng, 100 // size + 1, 16), size, axis=0)[:100]
    clustered += scatter * directions(rng, 100, 16)
    clustered *= 0.999 / np.linalg.norm(clustered, axis=1)[:, None]
    points = np.concatenate([clustered, 0.9 * directions(rng, 200, 16)])
    ranking = fused(points, points, 1.0, **SHARES) if of_both else ball(points, 1.0)
    found = nearest(ranking, 5, engine="torch")
    assert list(asked.values()) == expected
    assert np.array_equal(found, every_gap(ranking, 5))


@pytest.mark.parametrize("engine", shortlists.ENGINES)
@pytest.mark.parametrize("count", [2, 9, 17, 18, 40, 700])
def test_few_keys(engine, count):
    rng = np.random.default_rng(2)
    ranking = ball(0.8 * directions(rng, count, 3) * rng.uniform(0, 1, (count, 1)), 1.0)
    assert nearest(ranking, 10, engine=engine).shape == (count, min(10, count - 1))
    assert np.array_equal(
        nearest(ranking, 10, engine=engine), every_gap(ranking, min(10, count - 1))
    )


@pytest.mark.parametrize("of_both", [False, True])
def test_portions_are_the_search_in_pieces(monkeypatch, of_both):
    rng = np.random.default_rng(3)
    points = directions(rng, 230, 6) * rng.uniform(0.1, 0.9, (230, 1))
    ranking = fused(points[:, ::-1], points, 1.0, **SHARES) if of_both else sphere(points)
    queries, keys = rng.permutation(60), np.arange(60, 230)
    whole = search(ranking, 7, queries=queries, keys=keys)
    monkeypatch.setattr(neighbors, "_PORTION", 25)
    parts = list(portions(ranking, 7, queries=queries, keys=keys))
    assert [part for part, _ in parts] == [slice(0, 25), slice(25, 50), slice(50, 60)]
    assert np.array_equal(np.concatenate([found.rows for _, found in parts]), whole.rows)
    assert np.array_equal(np.concatenate([found.gaps for _, found in parts]), whole.gaps)


def test_recall_and_measures_do_not_depend_on_portions(monkeypatch):
    rng = np.random.default_rng(4)
    points, labels = directions(rng, 150, 4), rng.integers(0, 12, 150)
    recall = recall_at_k(points, labels, [1, 5])
    measured = measures.measure(sphere(points), labels, [1, 5], ties="against")
    monkeypatch.setattr(neighbors, "_PORTION", 37)
    assert recall_at_k(points, labels, [1, 5]) == recall
    assert measures.measure(sphere(points), labels, [1, 5], ties="against") == measured
