"""Losses: pure functions of embeddings, each with a plain form that reads like its equation."""

from pretrain.losses.byol import cosine_regression
from pretrain.losses.dense import dense_info_nce, match
from pretrain.losses.euclidean import euclidean_info_nce
from pretrain.losses.fusion import hypmix
from pretrain.losses.hyperbolic import hyperbolic_info_nce, lorentz_info_nce
from pretrain.losses.in_batch import (
    euclidean_info_nce_in_batch,
    hyperbolic_info_nce_in_batch,
    info_nce_in_batch,
)
from pretrain.losses.infonce import info_nce
from pretrain.losses.pairwise import (
    hyperbolic_scores,
    pairwise_cross_entropy,
    pairwise_losses,
    spherical_scores,
)

__all__ = [
    "cosine_regression",
    "dense_info_nce",
    "euclidean_info_nce",
    "euclidean_info_nce_in_batch",
    "hyperbolic_info_nce",
    "hyperbolic_info_nce_in_batch",
    "hyperbolic_scores",
    "hypmix",
    "info_nce",
    "info_nce_in_batch",
    "lorentz_info_nce",
    "match",
    "pairwise_cross_entropy",
    "pairwise_losses",
    "spherical_scores",
]
