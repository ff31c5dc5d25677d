"""The regression loss of BYOL (Grill et al. 2020, arXiv 2006.07733, equation 2)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry.precision import as_float


def cosine_regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of |p̄ - t̄|² = 2 - 2 cos(p, t) over rows (N, D); the target is constant."""
    p = F.normalize(as_float(prediction), dim=1)
    t = F.normalize(as_float(target.detach()), dim=1)
    return (p - t).square().sum(1).mean()
