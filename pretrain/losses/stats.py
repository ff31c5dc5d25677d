"""Cheap statistics of one training step. Every value is a tensor on the device: no waiting."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.geometry import gram, poincare
from pretrain.geometry.precision import Curvature, as_float, exact_matmul, norm, root
from pretrain.losses.contrast import Temperature, check_rows, check_temperature, over

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
BINS = 20


@torch.no_grad()
def ball_stats(x: Tensor, c: Curvature) -> dict[str, Tensor]:
    """Where ball points x (N, D) lie.

    Returns:
        ``norm/q0`` ... ``norm/q100``: quantiles of the norm as a share of the radius 1/√c;
        ``norm/histogram``: (BINS,) shares of points over equal parts of [0, 1], whose last bin
        also holds points beyond the rim; ``projected``: share of points that lie on the sphere
        to which :func:`pretrain.geometry.poincare.project` moves them.
    """
    relative = norm(as_float(x)) * root(c)
    quantiles = torch.quantile(relative, torch.tensor(QUANTILES, device=x.device).to(relative))
    bins = (relative * BINS).long().clamp(0, BINS - 1)
    stats = {f"norm/q{share * 100:.0f}": quantiles[i] for i, share in enumerate(QUANTILES)}
    stats["norm/histogram"] = torch.bincount(bins, minlength=BINS) / len(x)
    # The projection itself rounds: allow a few units in the last place.
    touch = (1 - poincare.MARGIN) * (1 - 8 * torch.finfo(relative.dtype).eps)
    stats["projected"] = (relative >= touch).to(relative.dtype).mean()
    return stats


@torch.no_grad()
def logit_stats(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: Temperature,
    c: Curvature | None = None,
    euclidean: bool = False,
    own: int | None = None,
    sample: int = 1024,
) -> dict[str, Tensor]:
    """How hard the negatives of one InfoNCE term are.

    Args:
        query: (N, D).
        key: (N, D), the positives.
        queue: (K, D). Only the first ``sample`` rows are looked at, because the fast paths never
            hold the logits.
        temperature: T.
        c: logits are -d/T of ball points; None: dot products.
        euclidean: logits are -|x - y|/T.
        own: where the keys stand in ``queue``, if they do: all of it is looked at, but a query's
            own key is none of its negatives.
        sample: see ``queue``.

    Returns:
        ``logit/positive``: mean; ``logit/min`` and ``logit/max`` over positives and negatives;
        ``negatives/effective``: mean over queries of exp(entropy of the softmax over the
        negatives), scaled to the whole queue: K if all are equally hard, 1 if one outweighs all;
        ``accuracy``: share of queries whose positive beats every negative looked at.
    """
    query, key, queue = check_rows(query, key, queue)
    temperature = check_temperature(temperature, query)
    total, queue = len(queue), queue[: sample if own is None else None]
    if euclidean:
        positive, negatives = -norm(query - key), -gram.pairwise_chord(query, queue)
    elif c is None:
        positive, negatives = (query * key).sum(1), exact_matmul(query, queue)
    else:
        positive = -poincare.distance(query, key, c)
        negatives = -gram.pairwise_distance(query, queue, c)
    if own is not None:
        rows = torch.arange(len(query), device=query.device)[:, None]
        steps = torch.arange(1, total, device=query.device)
        negatives, total = negatives.gather(1, (own + rows + steps) % total), total - 1
    positive, negatives = over(positive, temperature), over(negatives, temperature)
    everything = torch.cat([positive[:, None], negatives], dim=1)
    stats = {
        "logit/positive": positive.mean(),
        "logit/min": everything.amin(),
        "logit/max": everything.amax(),
        "accuracy": (everything.argmax(1) == 0).to(positive.dtype).mean(),
    }
    if negatives.shape[1] > 0:
        logs = negatives.log_softmax(1)
        entropy = -(logs.exp() * logs).sum(1)
        stats["negatives/effective"] = entropy.exp().mean() * (total / negatives.shape[1])
    else:
        stats["negatives/effective"] = positive.new_zeros(())
    return stats
