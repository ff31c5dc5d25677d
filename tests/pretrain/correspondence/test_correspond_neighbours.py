from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.correspondence import neighbors
from pretrain.correspondence.neighbors import Search

CPU = torch.device("cpu")
ENGINES = ("faiss", "torch")


def features(count: int, seed: int = 0, width: int = 24) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def search(points: np.ndarray, engine: str, k: int, block: int = 13) -> np.ndarray:
    if engine == "faiss":
        pytest.importorskip("faiss")
    found = Search(points, CPU, engine)
    starts = range(0, len(points), block)
    return np.concatenate(
        [found.nearest(range(at, min(at + block, len(points))), k) for at in starts]
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_the_nearest_of_all(engine, monkeypatch):
    monkeypatch.setattr(neighbors, "BLOCK", 40)
    points = features(100)
    similarity = points.astype(np.float64) @ points.T.astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :7]
    assert np.array_equal(search(points, engine, 7), expected)
    assert np.array_equal(search(points, engine, 7, block=100), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_duplicates_find_each_other_and_not_themselves(engine):
    points = features(40)
    points[[11, 23, 30]] = points[4]
    found = search(points, engine, 3)
    assert found[4].tolist() == [11, 23, 30]
    assert found[11].tolist() == [4, 23, 30]
    assert found[30].tolist() == [4, 11, 23]
    assert not (found == np.arange(40)[:, None]).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_unreadable_images_and_more_neighbors_than_images(engine):
    points = features(6)
    points[2] = 0
    found = search(points, engine, 8, block=4)
    assert (found[2] == -1).all()
    for row in (0, 1, 3, 4, 5):
        others = sorted({0, 1, 3, 4, 5} - {row})
        assert sorted(found[row, :4].tolist()) == others
        assert (found[row, 4:] == -1).all()
    alone = features(1)
    assert search(alone, engine, 2).tolist() == [[-1, -1]]
