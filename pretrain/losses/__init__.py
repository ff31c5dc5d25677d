"""Losses: pure functions of embeddings, each with a plain form that reads like its equation."""

from pretrain.losses.hyperbolic import hyperbolic_info_nce
from pretrain.losses.infonce import info_nce

__all__ = ["hyperbolic_info_nce", "info_nce"]
