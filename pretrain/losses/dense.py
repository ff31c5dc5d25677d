"""The dense contrastive loss of DenseCL (Wang et al. 2021, arXiv 2011.09157, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.geometry.precision import as_float, ieee_matmul
from pretrain.losses.contrast import Temperature
from pretrain.losses.infonce import info_nce
from pretrain.losses.paths import Path


@torch.no_grad()
def match(features_q: Tensor, features_k: Tensor) -> Tensor:
    """For each query cell the key cell of largest cosine, (N, L); the first of equals.

    Args:
        features_q: backbone features (N, C, L) or (N, C, H, W) of the query view.
        features_k: likewise of the key view.
    """
    q = F.normalize(as_float(features_q).flatten(2), dim=1)
    k = F.normalize(as_float(features_k).flatten(2), dim=1)
    with ieee_matmul(q.device):
        return (q.mT @ k).argmax(dim=2)


def dense_info_nce(
    grid_q: Tensor,
    grid_k: Tensor,
    matches: Tensor,
    queue: Tensor,
    *,
    temperature: Temperature,
    path: Path = "auto",
) -> Tensor:
    """InfoNCE of every query cell against its matched key cell and the dense queue.

    Args:
        grid_q: projected cells (N, D, L) or (N, D, H, W), normalized here, with gradient.
        grid_k: likewise of the key view; constant.
        matches: (N, L) from :func:`match`.
        queue: (K, D) unit rows, one pooled dense key an image; constant.
        temperature: T.
        path: as in :func:`pretrain.losses.info_nce`; the streaming paths never hold the
            N·L x K logits.

    Returns:
        The mean over all N·L cells.
    """
    q = F.normalize(as_float(grid_q).flatten(2), dim=1).mT
    k = F.normalize(as_float(grid_k.detach()).flatten(2), dim=1).mT
    if matches.shape != q.shape[:2]:
        raise ValueError(f"matches must be {tuple(q.shape[:2])}, got {tuple(matches.shape)}")
    partner = k.take_along_dim(matches[..., None], dim=1)
    return info_nce(
        q.flatten(0, 1), partner.flatten(0, 1), queue, temperature=temperature, path=path
    )
