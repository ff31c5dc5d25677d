"""Recall@K against brute force, golden values and the cases where float32 cannot rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.retrieval import neighbors as search
from downstream.retrieval import recall_at_k, shortlists, spaces
from downstream.retrieval.neighbors import nearest
from downstream.retrieval.recall import chance_at_1, make_space
from pretrain.core.errors import InputError

GOLDEN = Path(__file__).parents[2] / "golden/recall.npz"
KS = (1, 2, 4, 8, 16, 32)
ENGINES = ("faiss", "torch")


def brute_force(points: np.ndarray, c: float | None, k: int) -> list[list[int]]:
    """Neighbor lists by the textbook formula, one pair at a time in Python."""
    if c is None:
        points = points / np.linalg.norm(points, axis=1)[:, None]
    ranking = []
    for i, x in enumerate(points):
        pairs = []
        for j, y in enumerate(points):
            if i == j:
                continue
            value = float(np.sum((x - y) ** 2))
            if c is not None:
                value /= (1 - c * float(np.sum(x * x))) * (1 - c * float(np.sum(y * y)))
            pairs.append((value, j))
        ranking.append([j for _, j in sorted(pairs)[:k]])
    return ranking


def points_on(rng: np.random.Generator, count: int, dim: int, norm: float) -> np.ndarray:
    directions = rng.standard_normal((count, dim))
    return norm * directions / np.linalg.norm(directions, axis=1)[:, None]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files if "sim" not in name}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("embeddings", "case", "geometry"),
    [
        ("emb_euclid", "euc", "euclidean"),
        ("emb_hyp_clip2p3", "hyp_clip", "hyperbolic"),
        ("emb_hyp_noclip", "hyp_noclip", "hyperbolic"),
        ("emb_euclid", "hypmix_unit_with_hypdist", "hyperbolic"),
    ],
)
def test_golden_recall_and_ranking(golden, engine, embeddings, case, geometry):
    c = float(golden["c"]) if geometry == "hyperbolic" else None
    points, labels = golden[embeddings], golden["labels"]
    found = recall_at_k(points, labels, KS, geometry=geometry, c=c, engine=engine)
    assert list(found.values()) == pytest.approx(golden[f"{case}_exact_recall"].tolist())
    ranking = nearest(make_space(points, geometry, c), 32, engine=engine)
    assert np.array_equal(ranking, golden[f"{case}_exact_topk"])


@pytest.mark.parametrize("engine", ENGINES)
def test_golden_duplicates_exclude_the_query_by_index(golden, engine):
    labels = golden["labels"]
    euclidean = recall_at_k(golden["dup_emb"], labels, KS, engine=engine)
    assert list(euclidean.values()) == pytest.approx(golden["dup_euc_selfexcluded_recall"])
    hyperbolic = recall_at_k(
        golden["dup_emb_hyp"], labels, KS, geometry="hyperbolic", c=0.1, engine=engine
    )
    assert list(hyperbolic.values()) == pytest.approx(golden["dup_hyp_selfexcluded_recall"])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 90),
    dim=st.integers(1, 9),
    copies=st.integers(0, 12),
    c=st.sampled_from([None, 0.05, 1.0]),
    engine=st.sampled_from(ENGINES),
)
def test_equals_brute_force(seed, count, dim, copies, c, engine):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((count, dim))
    if c is not None:
        lengths = np.linalg.norm(points, axis=1)[:, None]
        points *= rng.uniform(0.05, 0.999, (count, 1)) / lengths / c**0.5
    points[rng.integers(0, count, copies)] = points[rng.integers(0, count, copies)]
    labels = rng.integers(0, 4, count)
    k = min(10, count - 1)
    expected = brute_force(points, c, k)
    geometry = "euclidean" if c is None else "hyperbolic"
    assert nearest(make_space(points, geometry, c), k, engine=engine).tolist() == expected
    found = recall_at_k(points, labels, [1, k], geometry=geometry, c=c, engine=engine)
    for size, value in found.items():
        hit = [any(labels[j] == labels[i] for j in row[:size]) for i, row in enumerate(expected)]
        assert value == pytest.approx(np.mean(hit))


def rim_clusters(scatter: float) -> np.ndarray:
    """4 clusters of 70 at 1 - 1e-6 of the radius: more members than a shortlist holds."""
    rng = np.random.default_rng(0)
    points = np.repeat(points_on(rng, 4, 8, 1.0), 70, axis=0)
    points += scatter * rng.standard_normal(points.shape)
    points *= (1 - 1e-6) / np.linalg.norm(points, axis=1)[:, None]
    points[5] = points[3]
    return points


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("scatter", "by_differences"),
    [(1e-7, False), (1e-9, True)],
    ids=["float64 resolves", "no inner product resolves"],
)
def test_rim_clusters_equal_brute_force(engine, scatter, by_differences, monkeypatch):
    redone = []
    exact = search._by_differences
    monkeypatch.setattr(search, "_by_differences", lambda *a: redone.append(a[1]) or exact(*a))
    points = rim_clusters(scatter)
    found = nearest(make_space(points, "hyperbolic", 1.0), 5, engine=engine)
    assert found.tolist() == brute_force(points, 1.0, 5)
    assert bool(redone) == by_differences


def test_the_shortlist_alone_would_have_been_wrong():
    points = rim_clusters(1e-7)
    space = make_space(points, "hyperbolic", 1.0)
    rows = np.arange(280)
    candidates, _ = shortlists.stages(space, rows, "faiss")[0](rows, 51)
    ranked, _ = search._rerank(space, rows, candidates)
    assert ranked[:, :5].tolist() != brute_force(points, 1.0, 5)


@pytest.mark.parametrize("engine", ENGINES)
def test_ordinary_data_needs_no_second_stage(engine, monkeypatch):
    rng = np.random.default_rng(1)
    points = points_on(rng, 400, 32, 1.0) * rng.uniform(0.1, 0.9, (400, 1))

    def second(rows, length):
        pytest.fail(f"{len(rows)} queries went on to the second stage")

    monkeypatch.setattr(search, "stages", lambda *a: [shortlists.stages(*a)[0], second])
    found = nearest(make_space(points, "hyperbolic", 1.0), 10, engine=engine)
    assert found.tolist() == brute_force(points, 1.0, 10)
    assert nearest(make_space(points, "euclidean"), 10, engine=engine).shape == (400, 10)


def test_without_faiss_the_answer_is_the_same(monkeypatch):
    points = 0.2 * np.random.default_rng(6).standard_normal((200, 5))
    space = make_space(points, "hyperbolic", 1.0)
    with_faiss = nearest(space, 9, engine="faiss")
    monkeypatch.setattr(shortlists.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shortlists, "_faiss_search", lambda *_: pytest.fail("FAISS was used"))
    assert np.array_equal(nearest(space, 9), with_faiss)
    with pytest.raises(InputError, match="pip install faiss-cpu"):
        nearest(space, 9, engine="faiss")


def test_more_copies_than_the_shortlist_keep_the_tie_rule():
    points = np.ones((130, 4)) * 0.3
    for engine in ENGINES:
        for geometry, c in (("euclidean", None), ("hyperbolic", 1.0)):
            found = nearest(make_space(points, geometry, c), 3, engine=engine)
            assert found[0].tolist() == [1, 2, 3]
            assert found[2].tolist() == [0, 1, 3]
            assert found[129].tolist() == [0, 1, 2]


@pytest.mark.parametrize("geometry", ["euclidean", "hyperbolic"])
def test_order_of_the_points_does_not_matter(geometry):
    rng = np.random.default_rng(2)
    points, labels = 0.2 * rng.standard_normal((300, 6)), rng.integers(0, 9, 300)
    points *= np.minimum(1, 0.95 / np.linalg.norm(points, axis=1))[:, None]
    c = None if geometry == "euclidean" else 1.0
    order = rng.permutation(300)
    assert recall_at_k(points, labels, KS, geometry=geometry, c=c) == recall_at_k(
        points[order], labels[order], KS, geometry=geometry, c=c
    )


def test_points_of_equal_norm_rank_as_their_directions():
    points = points_on(np.random.default_rng(3), 300, 16, 3.0)
    in_ball = nearest(make_space(points, "hyperbolic", 0.05), 20)
    assert np.array_equal(in_ball, nearest(make_space(points, "euclidean"), 20))


def test_norms_matter_in_the_ball_alone():
    # Two directions; the odd points lie near the center and so near one another.
    points = np.array([[0.9, 0.0], [0.1, 0.0], [0.0, 0.9], [0.0, 0.1]])
    assert nearest(make_space(points, "hyperbolic", 1.0), 1)[:, 0].tolist() == [1, 3, 3, 1]
    assert nearest(make_space(points, "euclidean"), 1)[:, 0].tolist() == [1, 0, 3, 2]


def test_chunks_do_not_change_the_answer(monkeypatch):
    points = 0.1 * np.random.default_rng(4).standard_normal((200, 5))
    space = make_space(points, "hyperbolic", 1.0)
    whole = nearest(space, 7)
    monkeypatch.setattr(search, "_CHUNK", 70)
    monkeypatch.setattr(spaces, "_BUDGET", 1500)
    assert np.array_equal(nearest(space, 7), whole)


def test_tensors_strings_and_large_k():
    points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert recall_at_k(points, ["cat", "cat", "dog"], [1, 99]) == {1: 2 / 3, 99: 2 / 3}
    assert recall_at_k(points, torch.tensor([1, 2, 2]), [1, 2]) == {
        1: pytest.approx(1 / 3),
        2: pytest.approx(2 / 3),
    }


def test_chance_is_the_mean_over_random_rankings():
    codes = np.array([0, 0, 0, 1, 1, 2])
    rng = np.random.default_rng(5)
    draws = [
        np.mean([codes[rng.choice(np.delete(np.arange(6), i))] == codes[i] for i in range(6)])
        for _ in range(3000)
    ]
    assert chance_at_1(codes) == pytest.approx(8 / 30)
    assert np.mean(draws) == pytest.approx(chance_at_1(codes), abs=0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embeddings": np.ones((1, 2)), "labels": [0]}, "at least 2"),
        ({"embeddings": np.ones(4)}, r"\(N, D\)"),
        ({"labels": [0, 1]}, "3 labels"),
        ({"ks": []}, "whole numbers"),
        ({"ks": [0, 1]}, "whole numbers"),
        ({"embeddings": [[1.0, 0], [0, 1], [np.nan, 0]]}, "embedding 2 is not finite"),
        ({"embeddings": [[1.0, 0], [0, 0], [0, 1]]}, "embedding 1 is the zero vector"),
        ({"geometry": "spherical"}, "unknown geometry"),
        ({"geometry": "hyperbolic"}, "needs the curvature"),
        ({"geometry": "hyperbolic", "c": 0.0}, "positive"),
        ({"geometry": "hyperbolic", "c": 1.0}, "embedding 0 has norm 1: outside the ball"),
        ({"c": 1.0}, "leave it out"),
        ({"engine": "annoy"}, "unknown search engine"),
    ],
)
def test_bad_input_is_named(change, words):
    arguments = {
        "embeddings": np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.0]]),
        "labels": [0, 1, 0],
        "ks": [1],
    }
    with pytest.raises(InputError, match=words):
        recall_at_k(**{**arguments, **change})
