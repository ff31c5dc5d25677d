"""The k-NN probe: how well the backbone separates categories, while it trains."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import torch
from torch import Tensor

from pretrain import distributed
from pretrain.core.errors import InputError
from pretrain.data.decode import ImageError
from pretrain.data.loader import choose_workers
from pretrain.models import Encoder
from pretrain.probes.encode import Forward, cut_image, encode
from pretrain.probes.items import Items, choose_items
from pretrain.probes.knn import classify
from pretrain.probes.settings import ProbeSettings

log = logging.getLogger(__name__)


class KnnProbe:
    """Bank and queries chosen once, encoded anew by every call.

    Args:
        settings: of the probe.
        encoder: whose backbone is looked at.
        how: crops reach it; size, batch and threads are those of the settings, where given.
        local_size: processes on this machine.

    Raises:
        InputError: the data cannot be used.
    """

    def __init__(
        self, settings: ProbeSettings, encoder: Encoder, how: Forward, local_size: int
    ) -> None:
        self.settings = settings
        self._encoder = encoder
        self._how = replace(
            how,
            size=settings.size or how.size,
            batch=settings.batch_size,
            threads=choose_workers(settings.data.workers, local_size),
        )
        self.bank, self.queries = choose_items(
            settings.data, settings.test, settings.crops, settings.max_items
        )
        for where, items in (("probe.data", self.bank), ("probe.test", self.queries)):
            _try_first(where, items)

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether a probe belongs to this step."""
        return step == total_steps or step % self.settings.every == 0

    def __call__(self, step: int) -> dict[str, float]:
        """Encode, classify, count: values for the record; all processes take part.

        ``probe/knn``: share of queries that the vote puts right. ``probe/recall_1``: share whose
        nearest neighbor has their category. ``probe/chance``: what a random neighbor would
        reach, ``probe/majority``: what always the bank's most frequent category would.
        Empty where no image of a side can be read.
        """
        start = time.monotonic()
        rank, size = distributed.rank_and_size()
        bank, labels = self._gathered_bank(rank, size)
        share = self.queries.shares(size)[rank]
        queries, readable = encode(self._encoder.backbone, share, self._how)
        wanted = torch.from_numpy(share.labels)[readable.cpu()]
        sums = torch.zeros(5, dtype=torch.float64)
        if len(wanted) and len(labels):
            voted, nearest = classify(
                queries[readable],
                bank,
                labels,
                k=self.settings.k,
                temperature=self.settings.temperature,
            )
            frequency = torch.bincount(labels, minlength=len(self.bank.categories)).double()
            frequency /= frequency.sum()
            of_wanted = torch.where(wanted < 0, 0.0, frequency[wanted.clamp(min=0)])
            sums[0] = (voted == wanted).sum()
            sums[1] = (nearest == wanted).sum()
            sums[2] = of_wanted.sum()
            sums[3] = (wanted == frequency.argmax()).sum()
            sums[4] = len(wanted)
        # Ratios of means are ratios of sums.
        *right, count = distributed.mean_over_ranks(sums.to(self._how.device)).tolist()
        if count == 0:
            log.warning("step %d: none of the probe's images can be read", step)
            return {}
        knn, recall, chance, majority = (value / count for value in right)
        seconds = time.monotonic() - start
        if rank == 0:
            log.info(
                "step %d: k-NN %.1f %% (most frequent category %.1f %%), Recall@1 %.1f %% "
                "(chance %.1f %%), %.1f s",
                *(step, 100 * knn, 100 * majority, 100 * recall, 100 * chance, seconds),
            )
        return {
            "probe/knn": knn,
            "probe/recall_1": recall,
            "probe/chance": chance,
            "probe/majority": majority,
            "probe/seconds": seconds,
        }

    def _gathered_bank(self, rank: int, size: int) -> tuple[Tensor, Tensor]:
        """Features (N, F) of the whole bank on the device and labels (N,) on the CPU."""
        shares = self.bank.shares(size)
        features, readable = encode(self._encoder.backbone, shares[rank], self._how)
        counts = [len(share) for share in shares]
        # A collective wants equal shapes.
        missing = max(counts) - counts[rank]
        features = torch.nn.functional.pad(features, (0, 0, 0, missing))
        readable = torch.nn.functional.pad(readable.float(), (0, missing))
        features, readable = distributed.all_gather(features), distributed.all_gather(readable)
        kept = readable.bool()
        labels = torch.full((size, max(counts)), -1, dtype=torch.int64)
        for place, share in enumerate(shares):
            labels[place, : len(share)] = torch.from_numpy(share.labels)
        return features[kept], labels.flatten()[kept.cpu()]


def _try_first(where: str, items: Items) -> None:
    """A wrong folder is better found now than after a thousand steps."""
    places = (items.rows == items.rows[0]).nonzero()[0]
    try:
        cut_image(items, places, 1)
    except ImageError as error:
        path = items.index.path(int(items.rows[0]))
        raise InputError(f"{where}: {path}: {error}; check {where}.images") from None
