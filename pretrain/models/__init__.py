"""Networks and their state: backbones, heads, queue, momentum encoder, batch norm in groups."""

from pretrain.models.batch_norm import group_batch_norm
from pretrain.models.dense import DenseEncoder, DenseOutput
from pretrain.models.encoder import Encoder, EncoderSettings, build_backbone
from pretrain.models.momentum import momentum_copy, update_momentum
from pretrain.models.queue import Queue

__all__ = [
    "DenseEncoder",
    "DenseOutput",
    "Encoder",
    "EncoderSettings",
    "Queue",
    "build_backbone",
    "group_batch_norm",
    "momentum_copy",
    "update_momentum",
]
