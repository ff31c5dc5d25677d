"""The folder of a fine-tuning run: what it is, and which settings may change in mid-run."""

from __future__ import annotations

from pathlib import Path

from downstream.retrieval.finetune.config import from_values
from downstream.retrieval.finetune.settings import FinetuneSettings
from pretrain.core.config import dump_yaml
from pretrain.run import Folder

FREE = {
    *("output", "name", "data.root", "data.annotations", "data.workers", "model.weights"),
    *("model.run", "train.device", "train.threads", "train.log_every", "train.checkpoint_every"),
    *("train.keep", "train.tensorboard", "test.batch", "test.ks", "test.ties", "test.resize"),
}
"""Settings that do not change what training computes, or where things lie."""


class FinetuneFolder(Folder):
    """Files of one fine-tuning run."""

    def __init__(self, settings: FinetuneSettings) -> None:
        path = Path(settings.output)
        super().__init__(
            path,
            config=dump_yaml(settings),
            resolve=lambda values, source: dump_yaml(from_values(values, source=source)),
            free=FREE,
            facts={"name": settings.name or path.name, "task": "metric learning"},
            writes=("result.json",),
        )
