"""Rank correlations against scipy, against constructed confounds, and their intervals."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from downstream.analysis.correlation import (
    correlate,
    partial_rank_correlation,
    rank_correlation,
    ranks,
)
from downstream.retrieval.embed import contrast_and_sharpness


def test_rank_correlation():
    assert rank_correlation(np.array([1, 2, 2, 5]), np.array([0.1, 3.0, 3.0, 4.0])) == 1
    assert rank_correlation(np.array([1, 2, 3]), np.array([3.0, 2.0, 1.0])) == -1
    assert rank_correlation(np.array([2, 2]), np.array([3.0, 2.0])) is None


def test_it_is_that_of_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, 200), rng.normal(size=200)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)


def test_partial_correlation_is_that_of_the_textbook_formula():
    rng = np.random.default_rng(1)
    z = rng.normal(size=300)
    x, y = z + rng.normal(size=300), z + rng.normal(size=300)
    xy, xz, yz = (spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_rank_correlation(x, y, z[:, None]) == pytest.approx(expected)


def test_a_common_cause_explains_the_correlation():
    rng = np.random.default_rng(2)
    sharpness = rng.normal(size=2000)
    count = sharpness + 0.3 * rng.normal(size=2000)
    norm = sharpness + 0.3 * rng.normal(size=2000)
    found = correlate(count, norm, {"sharpness": sharpness})
    assert found is not None
    assert found.raw > 0.8
    assert found.raw_interval[0] > 0.8
    assert found.partial_interval[0] < 0 < found.partial_interval[1]


def test_constant_confounds_change_nothing_and_constant_values_have_no_correlation():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 50))
    same = np.full((50, 1), 128.0)
    assert partial_rank_correlation(x, y, same) == pytest.approx(rank_correlation(x, y))
    assert partial_rank_correlation(np.ones(50), y, same) is None
    assert partial_rank_correlation(y, x, y[:, None]) is None
    assert correlate(np.ones(50), y, {"size": same[:, 0]}) is None


def test_crops_of_one_image_are_drawn_together():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 30))
    rows = np.repeat(np.arange(30), 20)
    alone = correlate(x, y, {"size": rng.normal(size=30)})
    copies = correlate(x[rows], y[rows], {"size": rng.normal(size=600)}, groups=rows)
    as_if_many = correlate(x[rows], y[rows], {"size": rng.normal(size=600)})
    assert alone is not None
    assert copies is not None
    assert as_if_many is not None
    width = [np.ptp(found.raw_interval) for found in (alone, copies, as_if_many)]
    assert copies.images == 30
    assert width[1] == pytest.approx(width[0], rel=0.15)
    assert width[2] < width[0] / 3


def test_ranks_share_ties():
    assert ranks(np.array([3, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]


def test_blur_lowers_sharpness_and_gray_has_no_contrast():
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=rng)
    blurred = torch.nn.functional.avg_pool2d(noise.float(), 3, 1, 1).to(torch.uint8)
    gray = torch.full((1, 3, 16, 16), 90, dtype=torch.uint8)
    sharp, soft, none = contrast_and_sharpness(torch.cat([noise, blurred, gray])).tolist()
    assert sharp[1] > 2 * soft[1]
    assert none == [0, 0]
