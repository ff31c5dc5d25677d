"""InfoNCE with hyperbolic distances (HCL: Ge et al. 2023, arXiv 2212.00653, equation 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry import gram, lorentz, official, poincare
from pretrain.geometry.precision import Curvature
from pretrain.losses import negatives
from pretrain.losses.contrast import (
    Numerics,
    Temperature,
    check_rows,
    check_temperature,
    contrast,
    logsumexp,
    over,
    wants_gradient,
)
from pretrain.losses.paths import Path, choose


def hyperbolic_info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    c: Curvature,
    temperature: Temperature,
    path: Path = "auto",
    numerics: Numerics = "exact",
) -> Tensor:
    """InfoNCE with logits -d(x, y)/T of ball points, averaged over the queries.

    Args:
        query: (N, D) ball points, with gradient.
        key: (N, D) ball points, the positive of each query; constant.
        queue: (K, D) ball points, the negatives; constant. With K = 0 the loss is 0 with zero
            gradient.
        c: the curvature is -c; gradients reach a tensor, except on path "triton".
        temperature: T; gradients reach a tensor, except on path "triton".
        path: how the negatives are summed, see :mod:`pretrain.losses.paths`. Relative error of a
            float32 distance: 1e-6 for plain, 3e-5 for the others.
        numerics: "official" reproduces the reference code, with its plain cross-entropy; the
            path must then be "auto" or "plain".

    Raises:
        ValueError: shapes that do not fit, c or temperature not positive, a path that cannot run
            here or that the official numerics lack.
    """
    query, key, queue = check_rows(query, key, queue)
    temperature = check_temperature(temperature, query)
    if numerics == "official":
        if path not in ("auto", "plain"):
            raise ValueError(f"official numerics have no {path!r} path; use 'plain'")
        return _official(query, key, queue, c, temperature)
    learnable = wants_gradient(c, temperature)
    path = choose(path, "hyperbolic_info_nce", query, queue, learnable=learnable)
    positive = over(-poincare.distance(query, key, c), temperature)
    if path in ("plain", "matrix") or len(queue) == 0:
        pairwise = poincare.pairwise_distance if path == "plain" else gram.pairwise_distance
        return contrast(positive, logsumexp(over(-pairwise(query, queue, c), temperature)))
    total = negatives.ball(query, queue, c, temperature, fused=path == "triton")
    return contrast(positive, total)


def lorentz_info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    c: float,
    temperature: Temperature,
    path: Path = "auto",
) -> Tensor:
    """The same loss of hyperboloid points, (N, D + 1) and (K, D + 1), time first.

    Points lifted from tangents (:func:`pretrain.geometry.lorentz.expmap0`) may lie far beyond the
    radius at which ball points run out of digits. Only spatial coordinates are read. Arguments
    and errors as in :func:`hyperbolic_info_nce`, but c is a number.
    """
    query, key, queue = check_rows(query, key, queue)
    temperature = check_temperature(temperature, query)
    if isinstance(c, Tensor):
        raise ValueError("c must be a number here; hyperbolic_info_nce can learn it")
    learnable = wants_gradient(temperature)
    path = choose(path, "lorentz_info_nce", query, queue, learnable=learnable)
    positive = over(-lorentz.distance(query, key, c), temperature)
    if path == "plain" or len(queue) == 0:
        distances = lorentz.pairwise_distance(query, queue, c)
        return contrast(positive, logsumexp(over(-distances, temperature)))
    if path == "matrix":
        distances = gram.pairwise_lorentz_distance(query, queue, c)
        return contrast(positive, logsumexp(over(-distances, temperature)))
    spatial, fused = queue[:, 1:], path == "triton"
    total = negatives.hyperboloid(query[:, 1:], spatial, c, temperature, fused=fused)
    return contrast(positive, total)


def _official(
    query: Tensor, key: Tensor, queue: Tensor, c: Curvature, temperature: Temperature
) -> Tensor:
    positive = official.distance(query, key, c)[:, None]
    distances = torch.cat([positive, official.pairwise_distance(query, queue, c)], dim=1)
    labels = torch.zeros(len(query), dtype=torch.long, device=query.device)
    return F.cross_entropy(over(-distances, temperature), labels)
