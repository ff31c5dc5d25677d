"""Random streams of the data side: every choice is a pure function of where it is made."""

from __future__ import annotations

import numpy as np

REGIONS = 0
"""Stream of a row's regions; crop ``i`` of the plan has stream ``1 + i``."""

SHUFFLE = 2**32 - 1
"""Stream of an epoch's order; far from those of any plan."""

RESAMPLING = 2**32 - 2
"""Stream of the image that stands in for a row's own."""

PAIR = 2**32 - 3
"""Stream of a row's pair of regions in two images."""


def generator(seed: int, epoch: int, row: int, stream: int) -> np.random.Generator:
    """A generator that depends on these four numbers and on nothing else."""
    try:
        # The same stream as from a list of ints, whose conversion costs more than the stream.
        entropy = np.array([seed, epoch, row, stream], np.uint32)
    except OverflowError:
        return np.random.default_rng([seed, epoch, row, stream])
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
