"""Have the embeddings collapsed? Numbers of logged steps, and a warning."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pretrain import distributed
from pretrain.models import Encoder

log = logging.getLogger(__name__)

MAX_ROWS = 4096
"""Rows of all processes together of which the numbers are made."""

LEAST_RANK = 2.0
LEAST_SPREAD = 0.01
"""As a share of 1/√dim, the spread of directions that are everywhere alike."""

PATIENCE = 5
"""Logged steps in a row that have to look collapsed."""

COLLAPSED = "embeddings have collapsed"


def rank_me(embeddings: Tensor) -> Tensor:
    """RankMe of (N, D) (Garrido et al. 2023, arXiv 2210.02885, equation 1): 1 to min(N, D).

    exp of the entropy of the singular values, divided by their sum; rows are not centered. From
    the eigenvalues of the smaller Gram matrix in float64, so that it costs little.
    """
    x = embeddings.double()
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=1e-300)  # all zero: entropy 0, rank 1
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()


def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation of the directions of (N, D), averaged over the coordinates.

    1/√D for directions spread evenly, 0 where all are the same.
    """
    return F.normalize(embeddings.double(), dim=1).std(0).mean()


def similarity_of_others(embeddings: Tensor) -> Tensor:
    """Mean cosine between different rows of (N, D)."""
    directions = F.normalize(embeddings.double(), dim=1)
    count = len(directions)
    own = directions.square().sum()
    return (directions.sum(0).square().sum() - own) / (count * (count - 1))


class CollapseMonitor:
    """Catches what the query encoder makes of the first view of a logged step.

    Args:
        method: whose forward is watched.
        encoder: its query encoder; the output of its head is what is caught.
        enabled: else nothing is ever caught.
    """

    def __init__(self, method: nn.Module, encoder: Encoder, *, enabled: bool) -> None:
        self._method, self._encoder, self._enabled = method, encoder, enabled
        self._hooks: list[RemovableHandle] = []
        self._rows: list[Tensor] = []
        self._wanted = 0
        self._suspicious = 0
        self.warnings: dict[str, str] = {}
        """``warning``, once there is one."""

    def arm(self) -> None:
        """Before a step whose numbers are wanted."""
        if self._enabled:
            self._rows.clear()
            self._hooks = [
                self._method.register_forward_pre_hook(self._begin),
                self._encoder.head.register_forward_hook(self._catch),
            ]

    def read(self) -> dict[str, Tensor]:
        """After that step, on all processes: spread, RankMe and similarity of the embeddings.

        They are of the global batch, of its first view: different rows are different images.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if not self._rows:
            return {}
        _, world = distributed.rank_and_size()
        embeddings = distributed.all_gather(torch.cat(self._rows)[: MAX_ROWS // world].float())
        self._rows.clear()
        if len(embeddings) < 2:
            return {}
        if not bool(embeddings.isfinite().all()):
            # fp16 may overflow, and the step is then skipped; eigenvalues would raise.
            nothing = embeddings.new_tensor(math.nan)
            return {"spread": nothing, "rank": nothing, "similarity/negative": nothing}
        values = {
            "spread": spread(embeddings),
            "rank": rank_me(embeddings),
            "similarity/negative": similarity_of_others(embeddings),
        }
        self._judge(values["spread"].item(), values["rank"].item(), embeddings.shape[1])
        return values

    def _begin(self, module: nn.Module, inputs: tuple[Mapping[str, Tensor]]) -> None:
        self._wanted = len(next(iter(inputs[0].values())))

    def _catch(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        if self._wanted:
            # A forward may be of several views; the first comes first.
            self._rows.append(output.detach()[: self._wanted])
            self._wanted = 0

    def _judge(self, spread: float, rank: float, dim: int) -> None:
        least = LEAST_SPREAD / math.sqrt(dim)
        self._suspicious = self._suspicious + 1 if rank < LEAST_RANK or spread < least else 0
        if self._suspicious >= PATIENCE and not self.warnings:
            text = (
                f"{COLLAPSED}: RankMe {rank:.2f}, spread {spread:.2g} (collapsed below {least:.2g})"
            )
            self.warnings["warning"] = text
            if distributed.rank_and_size()[0] == 0:
                log.warning("%s; the run goes on", text)
