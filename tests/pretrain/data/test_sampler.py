from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.core.errors import InputError
from pretrain.data.sampler import BatchSampler, permutation


def steps(count=23, batch=4, seed=0, start=0, total=20, **layout):
    return list(BatchSampler(count, batch, seed, start_step=start, total_steps=total, **layout))


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_permutation(seed, epoch, count):
    order = permutation(seed, epoch, count)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, permutation(seed, epoch, count))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(permutation(seed, epoch, 50)) for seed in range(5) for epoch in range(20)}
    assert len(orders) == 100


def test_every_row_is_as_likely_in_every_place():
    # 2000 permutations of 5: each of 25 cells expects 400; chi-square with 16 degrees of
    # freedom exceeds 39.3 once in a thousand.
    table = np.zeros((5, 5))
    for epoch in range(2000):
        table[np.arange(5), permutation(1, epoch, 5)] += 1
    assert ((table - 400) ** 2 / 400).sum() < 39.3


def test_an_epoch_visits_no_row_twice():
    batches = steps(total=10)  # 5 steps an epoch, 3 rows left over
    for epoch in range(2):
        rows = [row for batch in batches[5 * epoch : 5 * epoch + 5] for _, row in batch]
        assert len(set(rows)) == 20
        assert {number for batch in batches[5 * epoch : 5 * epoch + 5] for number, _ in batch} == {
            epoch
        }
        np.testing.assert_array_equal(rows, permutation(0, epoch, 23)[:20])


@given(st.integers(0, 20), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_resumed_equals_uninterrupted(start, batch):
    assert steps(batch=batch, start=start) == steps(batch=batch)[start:]


@pytest.mark.parametrize("world", [2, 3, 4, 6, 12])
def test_a_step_does_not_depend_on_the_number_of_processes(world):
    whole = steps(batch=12, total=7)
    parts = [steps(batch=12, total=7, rank=rank, world=world) for rank in range(world)]
    for step, expected in enumerate(whole):
        assert all(len(part[step]) == 12 // world for part in parts)
        assert [key for part in parts for key in part[step]] == expected


def test_length():
    sampler = BatchSampler(23, 4, 0, start_step=3, total_steps=20)
    assert len(sampler) == 17
    assert sampler.steps_per_epoch == 5
    assert len(BatchSampler(23, 4, 0, start_step=20, total_steps=20)) == 0
    assert list(sampler) == list(sampler)


def test_keys_are_plain_integers():
    assert all(type(number) is int for batch in steps() for key in batch for number in key)


def test_batch_larger_than_the_data():
    with pytest.raises(InputError, match="batch size 24 exceeds the 23 images"):
        steps(batch=24)
    assert len(steps(batch=23)[0]) == 23


def test_batch_that_cannot_be_shared():
    with pytest.raises(InputError, match=r"batch size 4 .* shared evenly by 3 processes"):
        steps(world=3)


def test_batch_of_nothing():
    with pytest.raises(InputError, match="at least 1"):
        steps(batch=0)
