"""Fine-tuning: data and network of a run; the loop is that of pretraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from downstream.retrieval.datasets import LabeledImages, open_images
from downstream.retrieval.finetune.images import TrainImages, sound, stack
from downstream.retrieval.finetune.initial_network import build_network
from downstream.retrieval.finetune.sampler import UniqueClassSampler
from downstream.retrieval.finetune.settings import CONFIGS, FinetuneSettings
from downstream.retrieval.finetune.step import TrainStep
from pretrain.checkpoint import State
from pretrain.core.errors import InputError
from pretrain.distributed import World
from pretrain.loop import TrainingLoop
from pretrain.metrics import Value
from pretrain.run import Folder

FREE = {
    *("output", "name", "data.root", "data.annotations", "data.workers", "model.weights"),
    *("model.run", "train.device", "train.threads", "train.log_every", "train.checkpoint_every"),
    *("train.keep", "train.keep_every", "train.tensorboard"),
    *("test.batch", "test.ks", "test.ties", "test.resize"),
}
"""Settings that do not change what training computes, or where things lie."""


class Trainer(TrainingLoop):
    """One run of fine-tuning; arguments as of the base class, which makes the folder of them."""

    settings: FinetuneSettings
    stepper: TrainStep

    def __init__(
        self, settings: FinetuneSettings, world: World, command: list[str], *, fresh: bool = False
    ) -> None:
        facts, writes = {"task": "metric learning"}, ("result.json",)
        folder = Folder(settings, CONFIGS, free=FREE, facts=facts, writes=writes)
        super().__init__(settings, folder, world, command, fresh=fresh)
        self.images: LabeledImages = open_images(settings.data)
        rows = self.images.rows("train")
        if not len(rows):
            raise InputError(f"{self.images.root}: no images to train on")
        self._rows, self._labels = rows, self.images.labels[rows]
        sampler = settings.sampler
        self.set_length(self._sampler(0, 0).steps_per_epoch, sampler.classes * sampler.samples)
        self.network = build_network(settings.model).to(world.device)
        self.stepper = TrainStep(settings, world, self.network)

    @property
    def fingerprint(self) -> str:
        """Of the images and their classes."""
        return self.images.fingerprint

    def begin(self) -> Iterable[Tensor | InputError]:
        """The batches that are left."""
        self.network.train()
        settings = self.settings
        images = TrainImages(
            self.images, settings.augment, size=settings.model.size, seed=settings.seed
        )
        return DataLoader(
            images,
            batch_sampler=self._sampler(self.step, self.total_steps),
            num_workers=settings.data.workers,
            collate_fn=stack,
            pin_memory=self.world.device.type == "cuda",
        )

    def do_step(self, batch: Any, *, logged: bool) -> tuple[Mapping[str, Value], bool]:
        """Do a step on this process' images.

        Raises:
            InputError: one of them cannot be read.
        """
        self.stepper.set_rate(self.settings.optim.rate(self.step, self.total_steps))
        done = self.stepper.run(sound(batch), self.step, stop=self._stop.is_set)
        # The loss is that of the whole step, so every process has the same values.
        return {name: float(value) for name, value in done.values.items() if logged}, done.stop

    def _sampler(self, start_step: int, total_steps: int) -> UniqueClassSampler:
        settings = self.settings
        return UniqueClassSampler(
            self._rows,
            self._labels,
            classes=settings.sampler.classes,
            samples=settings.sampler.samples,
            seed=settings.seed,
            start_step=start_step,
            total_steps=total_steps,
            rank=self.world.rank,
            world=self.world.size,
        )

    def state(self) -> State:
        """The network, what builds it again, and the settings of the run."""
        return {
            "network": self.network.state_dict(),
            "architecture": self.network.architecture.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
        }

    def load_state(self, state: State, path: Path) -> None:
        """Take over the network."""
        self.folder.check_checkpoint(path, state.get("settings"))
        self.network.load_state_dict(state["network"])
