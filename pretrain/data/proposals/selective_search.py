"""Selective search (Uijlings et al. 2013) by OpenCV's contributed modules."""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretrain.data.proposals.base import Proposals
from pretrain.errors import InputError

Mode = Literal["fast", "quality"]


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective search on the image as it is, with OpenCV's own parameters, as ORL runs it.

    OpenCV multiplies the rank of every region with a number from the C library's ``rand``: the
    boxes of an image do not depend on it, their order does. It is therefore seeded per image.

    Attributes:
        seed: of that order.
        mode: OpenCV's "fast" (ORL's) or "quality".

    Raises:
        InputError: OpenCV is missing, or has been built without selective search.
    """

    seed: int = 0
    mode: Mode = "fast"
    needs_image = True

    def __post_init__(self) -> None:
        _opencv()

    def identity(self) -> dict[str, Any]:
        """See ``Proposer.identity``."""
        return {
            "method": "selective_search",
            "mode": self.mode,
            "seed": self.seed,
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
        search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
        if self.mode == "fast":
            search.switchToSelectiveSearchFast()
        else:
            search.switchToSelectiveSearchQuality()
        found = np.asarray(search.process(), np.float32).reshape(-1, 4)
        return Proposals(np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], 1))


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
