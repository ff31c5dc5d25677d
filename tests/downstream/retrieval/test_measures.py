"""Fused search, query and gallery, ties, R-precision and mAP@R, δ: definitions and golden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.retrieval import neighbors
from downstream.retrieval.hyperbolicity import delta_hyperbolicity, sampled_delta
from downstream.retrieval.measures import measure
from downstream.retrieval.neighbors import nearest, search
from downstream.retrieval.recall import make_space, recall_at_k
from downstream.retrieval.spaces import ball, fused, sphere
from pretrain.core.errors import InputError

GOLDEN = Path(__file__).parents[2] / "golden"
KS = (1, 10, 20, 30, 40, 50)
ENGINES = ("faiss", "torch")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "recall.npz") as file:
        return {name: file[name] for name in file.files if not name.endswith("_sim")}


def fused_costs(e: np.ndarray, h: np.ndarray, c: float, te: float, th: float, lam: float):
    """Every pair's (1 - cos)/te + lam d/th, d in the textbook form with arcosh, extended."""
    e = e.astype(np.longdouble)
    h = h.astype(np.longdouble)
    e = e / np.sqrt((e**2).sum(1))[:, None]
    half_chord = ((e[:, None] - e[None]) ** 2).sum(-1) / 2
    margin = 1 - c * (h**2).sum(1)
    gap = ((h[:, None] - h[None]) ** 2).sum(-1) / (margin[:, None] * margin[None])
    distance = 2 / np.sqrt(np.longdouble(c)) * np.arcsinh(np.sqrt(c * gap))
    return half_chord / te + lam * distance / th


def ranked(costs: np.ndarray, k: int) -> np.ndarray:
    """First k of every row without the diagonal, lower index first among equals."""
    costs = costs.copy()
    np.fill_diagonal(costs, np.inf)
    return np.argsort(costs, axis=1, kind="stable")[:, :k]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(3, 220),
    lam=st.sampled_from([0.5, 3.0, 100.0]),
    reach=st.sampled_from([0.5, 0.95, 0.999]),
    copies=st.integers(0, 6),
    engine=st.sampled_from(ENGINES),
)
def test_fused_equals_brute_force(seed, count, lam, reach, copies, engine):
    rng = np.random.default_rng(seed)
    e = rng.standard_normal((count, 5))
    h = rng.standard_normal((count, 4))
    h *= rng.uniform(0, reach, (count, 1)) / np.linalg.norm(h, axis=1)[:, None] / 0.1**0.5
    twins = rng.integers(0, count, (2, copies))
    e[twins[0]], h[twins[0]] = e[twins[1]], h[twins[1]]
    ranking = fused(e, h, 0.1, temperature_spherical=0.05, temperature_hyperbolic=0.2, weight=lam)
    k = min(8, count - 1)
    expected = ranked(fused_costs(e, h, 0.1, 0.05, 0.2, lam), k)
    assert np.array_equal(nearest(ranking, k, engine=engine), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_fused_of_contradicting_spaces(engine, monkeypatch):
    # Near on the sphere is far in the ball: neither list alone holds the best sums. FAISS, which
    # joins the two lists, has to know it; scores of both spaces together need no second stage.
    rng = np.random.default_rng(0)
    angle = np.linspace(0, np.pi, 900)
    e = np.column_stack([np.cos(angle), np.sin(angle)])
    order = rng.permutation(900)
    h = 0.9 * e[order]
    ranking = fused(e, h, 1.0, temperature_spherical=1.0, temperature_hyperbolic=1.0, weight=0.3)
    calls = []
    rerank = neighbors._rerank
    monkeypatch.setattr(neighbors, "_rerank", lambda *a: calls.append(len(a[1])) or rerank(*a))
    monkeypatch.setattr(neighbors, "_by_differences", lambda *_: pytest.fail("not resolved"))
    found = nearest(ranking, 10, engine=engine)
    assert (calls[0], sum(calls) > 900) == (900, engine == "faiss")
    assert np.array_equal(found, ranked(fused_costs(e, h, 1.0, 1.0, 1.0, 0.3), 10))


def test_fused_without_a_say_of_one_space_is_the_other():
    rng = np.random.default_rng(1)
    e, h = rng.standard_normal((200, 6)), 0.3 * rng.standard_normal((200, 6)) / 6**0.5
    shares = {"temperature_spherical": 1.0, "temperature_hyperbolic": 1.0}
    assert np.array_equal(
        nearest(fused(e, h, 1.0, **shares, weight=1e-9), 9), nearest(sphere(e), 9)
    )
    assert np.array_equal(
        nearest(fused(e, h, 1.0, **shares, weight=1e9), 9), nearest(ball(h, 1.0), 9)
    )


def test_released_fusion_ranks_as_the_cosine():
    """Ball points of unit vectors: the distance is a function of the cosine, and so the sum."""
    rng = np.random.default_rng(2)
    e = rng.standard_normal((300, 16))
    unit = e / np.linalg.norm(e, axis=1)[:, None]
    h = unit * np.tanh(0.1**0.5) / 0.1**0.5
    ranking = fused(e, h, 0.1, temperature_spherical=0.05, temperature_hyperbolic=0.2, weight=3.0)
    assert np.array_equal(nearest(ranking, 20), nearest(sphere(e), 20))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("geometry", ["euclidean", "hyperbolic"])
def test_queries_and_gallery_are_a_part_of_all_pairs(geometry, engine):
    rng = np.random.default_rng(3)
    points = 0.2 * rng.standard_normal((400, 5)) / 5**0.5
    space = make_space(points, geometry, 1.0 if geometry == "hyperbolic" else None)
    rows = rng.permutation(400)
    queries, gallery = rows[:70], np.sort(rows[70:])
    found = search(space, 6, queries=queries, keys=gallery, engine=engine)
    gaps = space.ranking_distances(queries, np.repeat(gallery[None], 70, axis=0))
    order = np.argsort(gaps, axis=1, kind="stable")[:, :6]
    assert np.array_equal(found.rows, gallery[order])
    assert np.array_equal(found.gaps, np.take_along_axis(gaps, order, 1))


@pytest.mark.parametrize("engine", ENGINES)
def test_inshop_rule_and_its_ties(golden, engine):
    points = np.concatenate([golden["inshop_query"], golden["inshop_gallery"]])
    labels = np.concatenate([golden["inshop_query_labels"], golden["inshop_gallery_labels"]])
    rows = {"queries": np.arange(60), "gallery": np.arange(60, 200)}
    assert tuple(golden["inshop_K_list"]) == KS
    found = {}
    for ties in ("query", "against", "index"):
        measured = measure(sphere(points), labels, KS, ties=ties, engine=engine, **rows)
        found[ties] = list(measured.recall.values())
    assert found["query"] == pytest.approx(golden["inshop_euc_ref64_recall"].tolist())
    pessimistic = golden["inshop_euc_ref64_recall_pessimistic_ties"].tolist()
    assert found["against"] == pytest.approx(pessimistic)
    assert all(
        a <= i <= q
        for a, i, q in zip(*(found[t] for t in ("against", "index", "query")), strict=True)
    )
    in_ball = np.concatenate([golden["inshop_query_hyp"], golden["inshop_gallery_hyp"]])
    measured = measure(ball(in_ball, 0.1), labels, KS, ties="query", engine=engine, **rows)
    assert list(measured.recall.values()) == pytest.approx(
        golden["inshop_hyp_ref64_recall"].tolist()
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    ties=st.sampled_from(["index", "query", "against"]),
    split=st.booleans(),
)
def test_ties_longer_than_the_list(seed, ties, split):
    """On a grid of few points nearly everything ties; each K stands for itself."""
    rng = np.random.default_rng(seed)
    points = np.eye(3)[rng.integers(0, 3, 24)]
    labels = rng.integers(0, 6, 24)
    queries = np.arange(10 if split else 24)
    keys = np.arange(10 if split else 0, 24)
    rows = {"queries": queries, "gallery": keys} if split else {}
    gaps = ((points[queries, None] - points[keys]) ** 2).sum(-1)
    own = labels[queries, None] == labels[keys]
    itself = queries[:, None] == keys
    expected = []
    for gap, right, same in zip(gaps, own & ~itself, itself, strict=True):
        if not right.any():
            expected.append(10**9)
            continue
        best = gap[right].min()
        first = np.flatnonzero(right & (gap == best))[0]
        earlier = {
            "query": gap < best,
            "against": (gap <= best) & ~right,
            "index": (gap < best) | ((gap == best) & (np.arange(len(keys)) < first)),
        }[ties]
        expected.append(int((earlier & ~same).sum()))
    for ks in ([1], [1, 3], [1, 3, 20]):
        found = measure(sphere(points), labels, ks, ties=ties, **rows).recall
        assert found == {k: pytest.approx(np.mean(np.array(expected) < k)) for k in ks}


def test_recall_by_index_is_recall_at_k(golden):
    points, labels = golden["dup_emb"], golden["labels"]
    assert measure(sphere(points), labels, KS).recall == recall_at_k(points, labels, KS)


def by_definition(order: list[int], label: int, labels, r: int) -> tuple[float, float]:
    right = [labels[j] == label for j in order[:r]]
    precisions = [np.mean(right[: i + 1]) for i in range(r) if right[i]]
    return sum(right) / r, sum(precisions) / r


def test_r_precision_and_map_at_r_follow_their_definition():
    rng = np.random.default_rng(4)
    points = rng.standard_normal((90, 3))
    labels = np.concatenate([np.repeat(np.arange(11), 8), [98, 99]])
    points[:88] += 1.5 * rng.standard_normal((11, 3))[labels[:88]]
    orders = nearest(sphere(points), 89)
    values = [
        by_definition(orders[i].tolist(), labels[i], labels, 7) if labels[i] < 90 else (0, 0)
        for i in range(90)
    ]
    found = measure(sphere(points), labels, [1])
    assert (found.queries, found.without_positive) == (90, 2)
    assert found.r_precision == pytest.approx(np.mean([v for v, _ in values]), abs=1e-12)
    assert found.map_at_r == pytest.approx(np.mean([v for _, v in values]), abs=1e-12)
    assert 0 < found.map_at_r < found.r_precision < 1


def test_perfect_and_hopeless_rankings():
    perfect = measure(sphere(np.eye(4)[[0, 0, 0, 1, 1, 1]]), [0, 0, 0, 1, 1, 1], [1])
    assert (perfect.recall[1], perfect.r_precision, perfect.map_at_r) == (1, 1, 1)
    alone = measure(sphere(np.eye(3)), [0, 1, 2], [1, 2])
    assert (alone.recall, alone.map_at_r, alone.without_positive) == ({1: 0, 2: 0}, 0, 3)


@pytest.mark.parametrize("name", ["gauss", "tree"])
def test_golden_delta(name):
    with np.load(GOLDEN / "delta_hyp.npz") as archive:
        distances = archive[f"{name}_dist"]
        found = delta_hyperbolicity(distances)
        assert found.delta == pytest.approx(float(archive[f"{name}_delta_base0_numpy"]), abs=1e-12)
        assert found.diameter == pytest.approx(float(archive[f"{name}_diam"]), rel=1e-14)
        relative = float(archive[f"{name}_rel_delta_2d_over_diam"])
        assert found.relative == pytest.approx(relative, abs=1e-12)
        per_base = [delta_hyperbolicity(distances, base).delta for base in range(len(distances))]
        assert per_base == pytest.approx(archive[f"{name}_delta_per_base"].tolist(), abs=1e-12)
        if name == "gauss":
            assert found.curvature == pytest.approx(float(archive["gauss_c_0p144"]), rel=1e-9)


def test_delta_in_tiles_and_of_samples(monkeypatch):
    points = torch.from_numpy(np.random.default_rng(5).standard_normal((60, 4)))
    whole = delta_hyperbolicity(torch.cdist(points, points))
    d = torch.cdist(points, points)
    a = (d[0][:, None] + d[0][None] - d) / 2
    square = torch.minimum(a[:, :, None], a[None]).amax(1)
    assert whole.delta == pytest.approx(float((square - a).max()), rel=1e-14)
    monkeypatch.setattr("downstream.retrieval.hyperbolicity._TILE", 7)
    assert delta_hyperbolicity(torch.cdist(points, points)) == whole
    one, again = (sampled_delta(points, samples=20, times=3, seed=1) for _ in range(2))
    assert one == again
    assert one.delta < whole.delta
    assert sampled_delta(points).relative > 0


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: fused(np.eye(3), np.zeros((2, 2)), 1.0, **SHARES), "3 embeddings but 2 points"),
        (
            lambda: fused(np.eye(3), np.zeros((3, 2)), 1.0, **{**SHARES, "weight": 0.0}),
            "positive temperatures and weight",
        ),
        (lambda: delta_hyperbolicity(np.zeros((3, 3))), "coincide"),
        (lambda: delta_hyperbolicity(np.zeros((3, 2))), r"\(N, N\)"),
        (lambda: nearest(sphere(np.eye(3)), 1, engine="annoy"), "unknown search engine"),
    ],
)
def test_bad_input(act, words):
    with pytest.raises(InputError, match=words):
        act()


SHARES = {"temperature_spherical": 1.0, "temperature_hyperbolic": 1.0, "weight": 1.0}
