"""The interface of a method of proposing boxes, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Proposals:
    """The proposals of one image, best first.

    Attributes:
        boxes: float32 (n, 4), x1 y1 x2 y2 in px, inside the image and with an area.
        scores: float32 (n,), descending, where the method has any.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32] | None = None


class Proposer(Protocol):
    """A method of proposing. It is handed to worker processes, so it must pickle.

    Attributes:
        needs_image: whether ``propose`` looks at the pixels.
    """

    needs_image: bool

    def identity(self) -> dict[str, Any]:
        """All that determines the proposals, as plain values."""
        ...

    def propose(
        self, row: int, size: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> Proposals:
        """The proposals of one image: a pure function of the arguments and of ``identity``.

        Args:
            row: of the index.
            size: width and height, px.
            image: uint8 (H, W, 3), RGB, where ``needs_image``.
        """
        ...
