"""Where the HCL branch compares its crops: the ball, flat space, or the sphere.

A *raw* projection is what an encoder gives. A space makes a *point* of a query, with gradient,
and a *key* of a key crop: constant, and what a queue holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.geometry import poincare
from pretrain.geometry.precision import Curvature, norm
from pretrain.losses import (
    euclidean_info_nce,
    euclidean_info_nce_in_batch,
    hyperbolic_info_nce,
    hyperbolic_info_nce_in_batch,
    info_nce,
    info_nce_in_batch,
)
from pretrain.losses.stats import ball_stats
from pretrain.losses.tangent import hyperbolic_info_nce_of_tangents, moving_point
from pretrain.methods.hcl.settings import HCLSettings


class Space(ABC):
    """A distance, and what it takes for queries (N, D), keys (M, D) and negatives (K, D).

    Attributes:
        settings: of the branch.
        start: Euclidean norm of the random keys with which a queue starts.
        info_nce: InfoNCE of its distance against a queue.
        info_nce_in_batch: the same against the other keys of the batch.
    """

    start: float = 1.0
    info_nce: Callable[..., Tensor]
    info_nce_in_batch: Callable[..., Tensor]

    def __init__(self, settings: HCLSettings) -> None:
        self.settings = settings

    @abstractmethod
    def point(self, raw: Tensor) -> Tensor:
        """The point of a raw projection, with gradient, (N, D)."""

    def key(self, raw: Tensor) -> Tensor:
        """What a queue holds of a raw projection, (M, D)."""
        return self.point(raw)

    def to_points(self, keys: Tensor) -> Tensor:
        """The points of keys, (M, D)."""
        return keys

    def loss(self, query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        """InfoNCE of points against their keys (N, D) and negatives, which are keys too."""
        path = self.settings.loss_path
        return self.info_nce(query, key, negatives, path=path, **self._scale())

    def loss_in_batch(self, query: Tensor, keys: Tensor, offset: int) -> Tensor:
        """InfoNCE of points against all keys; that of query i is keys[offset + i]."""
        return self.info_nce_in_batch(query, keys, offset=offset, **self._scale())

    def _scale(self) -> dict[str, Any]:
        """The temperature, and c where there is a ball."""
        c = self.curvature()
        return {"temperature": self.settings.temperature} | ({} if c is None else {"c": c})

    def radii(self, raw: Tensor) -> Tensor:
        """How far out raw projections lie, (N,): their norm."""
        return norm(raw)

    def curvature(self) -> Curvature | None:
        """c; None where there is no ball."""
        return None

    def logits(self) -> dict[str, Any]:
        """What tells ``pretrain.losses.stats.logit_stats`` the distance."""
        return {}

    def position_stats(self, raw: Tensor) -> dict[str, Tensor]:
        """Statistics of where raw projections lie."""
        return {}


class Ball(Space):
    """The Poincaré ball of a fixed curvature, logits -d/T. A queue holds ball points."""

    info_nce = staticmethod(hyperbolic_info_nce)
    info_nce_in_batch = staticmethod(hyperbolic_info_nce_in_batch)

    def __init__(self, settings: HCLSettings) -> None:
        super().__init__(settings)
        c = torch.tensor(settings.curvature, dtype=torch.float64)
        # Unit tangent vectors land at tanh(√c)/√c: valid points, whatever the curvature.
        self.start = float(torch.tanh(c.sqrt()) / c.sqrt())

    def point(self, raw: Tensor) -> Tensor:
        """The exponential map at the origin."""
        settings = self.settings
        return poincare.to_ball(
            raw,
            self.curvature(),
            clip=settings.clip_radius,
            riemannian=settings.riemannian_gradient,
        )

    def curvature(self) -> Curvature:
        """c, a number."""
        return self.settings.curvature

    def radii(self, raw: Tensor) -> Tensor:
        """Distances to the origin."""
        return poincare.distance_to_origin(self.point(raw), self.curvature())

    def logits(self) -> dict[str, Any]:
        """Distances in the ball."""
        return {"c": self.curvature()}

    def position_stats(self, raw: Tensor) -> dict[str, Tensor]:
        """Norms as shares of the radius, and how many touch the rim."""
        return ball_stats(self.point(raw), self.curvature())


class LearnedBall(Ball):
    """The ball whose curvature is learned. A queue holds tangent vectors at the origin.

    They are the raw projections, and are mapped with the c of the step that uses them. So they
    are inside the ball whatever c has become (one that grows shrinks the ball, and stored points
    would be left outside), and each is the point that its features have today: its distance to
    the origin, 2|u|, is kept, and it was mapped by the same function as the query. Points stored
    as shares of the radius would stay inside too, but drift away from fresh keys of the same
    features.
    """

    def __init__(self, settings: HCLSettings, log_curvature: Tensor) -> None:
        super().__init__(settings)
        self.start, self.log_curvature = 1.0, log_curvature

    def point(self, raw: Tensor) -> Tensor:
        """The exponential map at the origin, with gradients to the vectors and to c."""
        settings = self.settings
        clip, riemannian = settings.clip_radius, settings.riemannian_gradient
        return moving_point(raw, self.curvature(), clip=clip, riemannian=riemannian)

    def key(self, raw: Tensor) -> Tensor:
        """The tangent vector itself."""
        return raw

    def to_points(self, keys: Tensor) -> Tensor:
        """The ball points of tangent vectors, with gradient to c."""
        return poincare.to_ball(keys, self.curvature(), clip=self.settings.clip_radius)

    def loss(self, query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        """Logits -d/T of points that all move with c."""
        settings = self.settings
        return hyperbolic_info_nce_of_tangents(
            query,
            key,
            negatives,
            c=self.curvature(),
            temperature=settings.temperature,
            clip=settings.clip_radius,
            path=settings.loss_path,
        )

    def loss_in_batch(self, query: Tensor, keys: Tensor, offset: int) -> Tensor:
        """Logits -d/T of points that all move with c."""
        return super().loss_in_batch(query, self.to_points(keys), offset)

    def curvature(self) -> Tensor:
        """c, with gradient to its logarithm."""
        return self.log_curvature.exp()


class FlatSpace(Space):
    """Raw projections, logits -|u - v|/T. A queue holds them as they are, or clipped."""

    info_nce = staticmethod(euclidean_info_nce)
    info_nce_in_batch = staticmethod(euclidean_info_nce_in_batch)

    def point(self, raw: Tensor) -> Tensor:
        """The raw projection, no longer than ``clip_radius``."""
        clip = self.settings.clip_radius
        return raw if clip is None else poincare.clip_norm(raw, clip)

    def radii(self, raw: Tensor) -> Tensor:
        """Norms of the points."""
        return norm(self.point(raw))

    def logits(self) -> dict[str, Any]:
        """Euclidean distances."""
        return {"euclidean": True}


class Sphere(Space):
    """Directions, logits cos/T. A queue holds unit vectors."""

    info_nce = staticmethod(info_nce)
    info_nce_in_batch = staticmethod(info_nce_in_batch)

    def point(self, raw: Tensor) -> Tensor:
        """The direction."""
        return F.normalize(raw, dim=1)


def build_space(settings: HCLSettings, log_curvature: Tensor | None) -> Space:
    """The space of ``settings.distance``; ``log_curvature`` where c is learned."""
    if settings.distance == "euclidean":
        return FlatSpace(settings)
    if settings.distance == "cosine":
        return Sphere(settings)
    return Ball(settings) if log_curvature is None else LearnedBall(settings, log_curvature)
