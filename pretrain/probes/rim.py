"""Whether the points of the HCL branch have gone to the rim of the ball, where they stay.

There the Riemannian factor (1 - c|x|²)²/4 takes the gradient away, all distances are large, and the
hyperbolic loss may stand far above that of chance while it no longer changes anything.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from pretrain import distributed

log = logging.getLogger(__name__)

MEDIAN = "hyperbolic/query/norm/q50"
FARTHEST = 0.99
"""Median of the queries' norms, as a share of the ball's radius."""

PATIENCE = 3
"""Logged steps in a row."""


class RimMonitor:
    """Looks at the statistics of logged steps and warns once.

    Attributes:
        warnings: ``rim``, once there is one.
    """

    def __init__(self) -> None:
        self.warnings: dict[str, str] = {}
        self._beyond = 0

    def judge(self, values: Mapping[str, Tensor]) -> None:
        """Look at one logged step; without statistics of a ball there is nothing to see."""
        if MEDIAN not in values or self.warnings:
            return
        median = float(values[MEDIAN])
        self._beyond = self._beyond + 1 if median > FARTHEST else 0
        if self._beyond < PATIENCE:
            return
        text = (
            f"hcl: half of the queries lie beyond {FARTHEST:g} of the ball's radius "
            f"({median:.4f}), where the branch has hardly any gradient; set hcl.clip_radius (2.3, "
            "as Hyp-ViT), or lower optim.lr or hcl.curvature"
        )
        self.warnings["rim"] = text
        if distributed.rank_and_size()[0] == 0:
            log.warning("warning: %s; the run goes on", text)
