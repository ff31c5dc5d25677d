"""How sure a probe's numbers are: a bootstrap over the test images, alone and between two probes.

The images are drawn again with replacement (``downstream.results.resampling``), all samples of an
image together, and the same draws for every result on the same test set, so that two results are
compared pair by pair. The interval speaks of other test images, not of other seeds of training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from downstream.probe.scores import sampled_map
from downstream.results.resampling import Array, Difference, difference, interval, weights_of
from downstream.results.result import Result, read_result
from pretrain.core.errors import InputError
from pretrain.core.files import replacing

FILE_NAME = "samples.npz"
DRAWS = 1000


@dataclass(frozen=True)
class SampleResults:
    """What the classifiers made of every test sample.

    Attributes:
        images: int64 (N,), rows of the test set's index.
        right: by metric, bool (N,): the sample's label was named.
        scores: float32 (N, C), of samples with several categories; None of others.
        targets: bool (N, C), beside ``scores``.
    """

    images: npt.NDArray[np.int64]
    right: dict[str, npt.NDArray[np.bool_]]
    scores: npt.NDArray[np.float32] | None = None
    targets: npt.NDArray[np.bool_] | None = None

    def write(self, folder: Path) -> str:
        """Write ``samples.npz``; returns its name.

        Raises:
            InputError: the folder cannot be written to.
        """
        arrays: dict[str, npt.NDArray[np.generic]] = {"images": self.images}
        arrays |= {f"right/{name}": values for name, values in self.right.items()}
        if self.scores is not None and self.targets is not None:
            arrays |= {"scores": self.scores, "targets": self.targets}
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        return FILE_NAME

    @classmethod
    def read(cls, path: Path) -> SampleResults:
        """Read what ``write`` wrote.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(
                arrays["images"],
                {k.removeprefix("right/"): v for k, v in arrays.items() if k[:6] == "right/"},
                arrays.get("scores"),
                arrays.get("targets"),
            )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}); run that probe again with --fresh"
            ) from None

    def sampled(self, draws: int = DRAWS) -> dict[str, Array]:
        """By metric (1 + draws,): with every image once, and under each draw."""
        numbers, place = np.unique(self.images, return_inverse=True)
        weights = weights_of(len(numbers), draws, seed=0)
        found = {}
        for name, right in self.right.items():
            hits = np.bincount(place, right, len(numbers))
            samples = np.bincount(place, minlength=len(numbers))
            found[name] = (weights @ hits) / (weights @ samples)
        if self.scores is not None and self.targets is not None:
            found["linear/map"] = sampled_map(self.scores, self.targets, weights[:, place])
        return found


def intervals(judged: SampleResults) -> dict[str, tuple[float, float]]:
    """95 % percentile interval by metric."""
    return {name: interval(values) for name, values in judged.sampled().items()}


def compare(first: Path, second: Path) -> dict[str, Difference]:
    """The first result less the second by metric, in percent, over the same draws.

    Args:
        first: folder of a probe's result.
        second: of another, on the same test samples.

    Raises:
        InputError: one is no probe, its samples are missing, or the test samples differ.
    """
    sides = []
    for folder in (first, second):
        result = read_result(folder)
        sides.append((result, SampleResults.read(_samples_of(result, folder))))
    (result, one), (other, two) = sides
    keys = ("labels", "val_fingerprint")
    if any(result.protocol.get(k) != other.protocol.get(k) for k in keys) or not np.array_equal(
        one.images, two.images
    ):
        raise InputError(
            f"{second}: has other test samples than {first}; probe both on the same --val"
        )
    left, right = one.sampled(), two.sampled()
    return {name: difference(100 * left[name], 100 * right[name]) for name in left if name in right}


def _samples_of(result: Result, folder: Path) -> Path:
    name = result.artifacts.get("samples")
    if result.task != "probe" or not isinstance(name, str):
        raise InputError(
            f"{folder}: has no results by sample; give the --output of a probe, measured again "
            "with --fresh if an earlier version wrote it"
        )
    # The name stands in a file that may come from anywhere: never a path out of its folder.
    return folder / Path(name).name
