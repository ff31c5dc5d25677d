"""Whether the HCL branch learns what it is for: two faults that its loss does not tell.

``rim``: the points lie at the rim of the ball. There the Riemannian factor (1 - c|x|²)²/4 takes the
gradient away, all distances are large, and the loss may stand far above that of chance.

``key_age``: the loss is lowered by the age of keys. A positive comes from the present momentum
encoder, the queue's keys from earlier ones. The norm of a raw projection is free; if all of them
move along one direction from step to step, the newest keys are nearest to every query, whatever
they show. Then queries find their own key among the queue's, and not among keys of the same age.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from pretrain import distributed

log = logging.getLogger(__name__)

MEDIAN = "hyperbolic/query/norm/q50"
AMONG_QUEUE, AMONG_BATCH = "hyperbolic/accuracy", "hyperbolic/accuracy_in_batch"

FARTHEST = 0.99
"""Median of the queries' norms, as a share of the ball's radius."""

LARGEST_GAP = 0.5
"""Accuracy among the queue's keys less accuracy among keys of one age, which are usually fewer."""

PATIENCE = 3
"""Logged steps in a row."""


class BranchMonitor:
    """Looks at the statistics of logged steps, and warns once of each fault.

    Attributes:
        warnings: by name of the fault, as ``run.json`` has them.
    """

    def __init__(self) -> None:
        self.warnings: dict[str, str] = {}
        self._in_a_row: dict[str, int] = {}

    def judge(self, values: Mapping[str, Tensor]) -> None:
        """Look at one logged step; what has no statistics is not judged."""
        if MEDIAN in values:
            median = float(values[MEDIAN])
            self._count(
                "rim",
                median > FARTHEST,
                f"hcl: half of the queries lie beyond {FARTHEST:g} of the ball's radius "
                f"({median:.4f}), where the branch has hardly any gradient; set hcl.clip_radius "
                "(2.3, as Hyp-ViT), or lower optim.lr or hcl.curvature",
            )
        if AMONG_BATCH in values:
            queue, batch = float(values[AMONG_QUEUE]), float(values[AMONG_BATCH])
            self._count(
                "key_age",
                queue - batch > LARGEST_GAP,
                f"hcl: {queue:.0%} of the queries find their key among those of the queue, but "
                f"{batch:.0%} among keys of the same step: the branch tells keys by their age, not "
                "by what they show; set hcl.negatives=batch or hcl.clip_radius (2.3)",
            )

    def _count(self, fault: str, present: bool, text: str) -> None:
        if fault in self.warnings:
            return
        self._in_a_row[fault] = self._in_a_row.get(fault, 0) + 1 if present else 0
        if self._in_a_row[fault] >= PATIENCE:
            self.warnings[fault] = text
            if distributed.rank_and_size()[0] == 0:
                log.warning("warning: %s; the run goes on", text)
