from __future__ import annotations

import numpy as np
import pytest

from pretrain.data import random_streams


@pytest.mark.parametrize("numbers", [(0, 0, 0, 0), (7, 3, 99, 2), (2**32 - 1, 1, 2, 3)])
def test_the_stream_is_that_of_the_four_numbers(numbers):
    expected = np.random.default_rng(list(numbers))
    np.testing.assert_array_equal(random_streams.generator(*numbers).random(5), expected.random(5))


def test_seeds_of_more_than_32_bits():
    expected = np.random.default_rng([2**40, 1, 2, 3]).random(5)
    np.testing.assert_array_equal(random_streams.generator(2**40, 1, 2, 3).random(5), expected)


def test_every_number_counts():
    seen = {random_streams.generator(*place).random() for place in np.ndindex(2, 2, 2, 2)}
    assert len(seen) == 16
