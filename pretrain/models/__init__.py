"""Networks and their state: backbones, heads, queue, momentum encoder, batch norm in groups."""

from pretrain.models.backbones import build_backbone
from pretrain.models.batch_norm import group_batch_norm
from pretrain.models.convolution import use_products
from pretrain.models.dense import DenseEncoder, DenseOutput
from pretrain.models.encoder import Encoder, EncoderSettings, build_head
from pretrain.models.momentum import momentum_copy, update_momentum
from pretrain.models.queue import Queue
from pretrain.models.sync_batch_norm import synchronize_batch_norm

__all__ = [
    "DenseEncoder",
    "DenseOutput",
    "Encoder",
    "EncoderSettings",
    "Queue",
    "build_backbone",
    "build_head",
    "group_batch_norm",
    "momentum_copy",
    "synchronize_batch_norm",
    "update_momentum",
    "use_products",
]
