"""Selective search (Uijlings et al. 2013) by OpenCV's contributed modules."""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.core.errors import InputError
from pretrain.datasets.proposals.proposer import Proposals

Mode = Literal["fast", "quality"]

MIN_MAX_SIDE = 64
"""Smallest images that are searched, px; below there is nothing to find."""


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective search on the image as it is, with OpenCV's own parameters, as ORL runs it.

    OpenCV multiplies the rank of every region with a number from the C library's ``rand``: the
    boxes of an image do not depend on it, their order does. It is therefore seeded per image.

    Attributes:
        seed: of that order.
        mode: OpenCV's "fast" (ORL's) or "quality".
        max_side: larger images are shrunk to this for the search, px; None: none is, as in ORL.

    Raises:
        InputError: OpenCV is missing, or has been built without selective search.
    """

    seed: int = 0
    mode: Mode = "fast"
    max_side: int | None = None
    needs_image = True

    def __post_init__(self) -> None:
        _opencv()
        if self.max_side is not None and self.max_side < MIN_MAX_SIDE:
            raise InputError(f"--max-side must be at least {MIN_MAX_SIDE} px, got {self.max_side}")

    def identity(self) -> dict[str, Any]:
        """See ``Proposer.identity``."""
        return {
            "method": "selective_search",
            "mode": self.mode,
            "seed": self.seed,
            "max_side": self.max_side,
            "opencv": _opencv().__version__,
        }

    def propose(
        self, row: int, size: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> Proposals:
        """See ``Proposer.propose``."""
        assert image is not None
        cv2 = _opencv()
        cv2.setNumThreads(1)  # a worker a core; threads on top of that only wait
        ctypes.CDLL(None).srand(zlib.crc32(f"{self.seed} {row}".encode()))
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        base = np.ascontiguousarray(image[:, :, ::-1])
        if self.max_side is not None and max(size) > self.max_side:
            factor = self.max_side / max(size)
            smaller = [max(1, round(side * factor)) for side in size]
            base = cv2.resize(base, smaller, interpolation=cv2.INTER_AREA)
        search.setBaseImage(base)
        if self.mode == "fast":
            search.switchToSelectiveSearchFast()
        else:
            search.switchToSelectiveSearchQuality()
        found = np.asarray(search.process(), np.float32).reshape(-1, 4)
        corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], 1)
        back = np.array(size, np.float32) / np.array(base.shape[1::-1], np.float32)
        return Proposals(
            np.minimum(corners * np.tile(back, 2), np.array([*size, *size], np.float32))
        )


def _opencv() -> Any:
    """OpenCV with selective search."""
    install = "pip install opencv-contrib-python-headless"
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"--method selective_search needs OpenCV with its contributed modules ({error}): "
            f"{install}, or choose --method multiscale"
        ) from None
    if not hasattr(getattr(cv2, "ximgproc", None), "segmentation"):
        raise InputError(
            f"the OpenCV installed here ({cv2.__version__}) lacks the contributed modules that "
            "--method selective_search needs: pip uninstall opencv-python opencv-python-headless, "
            f"then {install}; or choose --method multiscale"
        )
    return cv2
