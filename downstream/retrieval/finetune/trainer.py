"""The loop of fine-tuning: data, resuming, logging, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from downstream.retrieval.datasets import LabeledImages, open_images
from downstream.retrieval.finetune.images import TrainImages, sound, stack
from downstream.retrieval.finetune.initial_network import build_network
from downstream.retrieval.finetune.run_folder import FinetuneFolder
from downstream.retrieval.finetune.sampler import UniqueClassSampler
from downstream.retrieval.finetune.settings import FinetuneSettings
from downstream.retrieval.finetune.step import TrainStep
from pretrain import __version__, checkpoint, distributed
from pretrain.clock import Clock
from pretrain.core.errors import InputError
from pretrain.distributed import World
from pretrain.metrics import Recorder, Value
from pretrain.processes import on_main
from pretrain.signals import StopFlag

log = logging.getLogger(__name__)


class Trainer:
    """One run, from settings to its last checkpoint.

    Args:
        settings: of the run.
        world: the process group.
        command: what the user typed, for the record.
        fresh: replace an earlier run of the folder, once this one is built.
    """

    def __init__(
        self, settings: FinetuneSettings, world: World, command: list[str], *, fresh: bool = False
    ) -> None:
        self.settings, self.world, self.command = settings, world, command
        self.folder = FinetuneFolder(settings)
        self.folder.check(fresh=fresh)
        self._fresh = fresh
        torch.manual_seed(settings.seed)
        if settings.train.threads is not None:
            torch.set_num_threads(settings.train.threads)
        self.images: LabeledImages = open_images(settings.data)
        rows = self.images.rows("train")
        if not len(rows):
            raise InputError(f"{self.images.root}: no images to train on")
        self._rows, self._labels = rows, self.images.labels[rows]
        self.epoch_steps = self._sampler(0, 0).steps_per_epoch
        train = settings.train
        self.total_steps = (
            train.steps if train.steps is not None else (train.epochs or 0) * self.epoch_steps
        )
        self.network = build_network(settings.model).to(world.device)
        self.stepper = TrainStep(settings, world, self.network)
        self.step = 0
        self._recorder: Recorder | None = None
        self._stop = StopFlag()

    def fit(self) -> bool:
        """Train to the end or until a signal asks to stop; resumes by itself.

        Returns:
            whether it came to the end.

        Raises:
            DivergedError: the loss is not finite.
            InputError: an image cannot be read.
        """
        if self._fresh:
            on_main(self.world, self.folder.clear)
        self._resume()
        if self.world.is_main:
            self.folder.open(
                self.command, self.images.fingerprint, self.world.device, self.world.size
            )
            events = self.folder.path / "tensorboard" if self.settings.train.tensorboard else None
            self._recorder = Recorder(self.folder.metrics, events, self.step, self.total_steps)
        try:
            with self._stop:
                finished = self._loop()
        except BaseException as error:
            self._beat(state="failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            if self._recorder is not None:
                self._recorder.close()
        self._beat(state="finished" if finished else "stopped")
        return finished

    def _loop(self) -> bool:
        self.network.train()
        train = self.settings.train
        if self.total_steps == 0:
            self._save()
            return True
        batches = self._batches()
        clock = Clock()
        while self.step < self.total_steps:
            batch: Any = clock.wait(batches)
            rate = self.settings.optim.rate(self.step, self.total_steps)
            self.stepper.set_rate(rate)
            done = self.stepper.run(sound(batch), self.step, stop=self._stop.is_set)
            self.step += 1
            last = self.step == self.total_steps
            if last or self.step % train.log_every == 0:
                self._log({**done.values, "lr": rate}, clock)
            if last or done.stop or self.step % train.checkpoint_every == 0:
                self._save()
            if done.stop and not last:
                return False
        return True

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

    def _batches(self) -> Iterator[Any]:
        settings = self.settings
        images = TrainImages(
            self.images, settings.augment, size=settings.model.size, seed=settings.seed
        )
        loader: DataLoader[Tensor | InputError] = DataLoader(
            images,
            batch_sampler=self._sampler(self.step, self.total_steps),
            num_workers=settings.data.workers,
            collate_fn=stack,
            pin_memory=self.world.device.type == "cuda",
        )
        return iter(loader)

    def _log(self, values: Mapping[str, Tensor | float], clock: Clock) -> None:
        # The loss is that of the whole step, so every process has the same values.
        seconds, waited, steps = clock.lap()
        if self._recorder is None:
            return
        sampler = self.settings.sampler
        record: dict[str, Value] = {name: float(value) for name, value in values.items()}
        rate = steps * sampler.classes * sampler.samples / seconds
        record |= {
            "epoch": self.step / self.epoch_steps,
            "images_per_s": rate,
            "data_wait": waited / seconds,
        }
        self._recorder.log(self.step, record)
        self._beat(images_per_s=round(rate, 1))

    def _beat(self, **more: object) -> None:
        if self.world.is_main:
            self.folder.heartbeat(self.step, self.total_steps, **more)

    def _save(self) -> None:
        """Write a checkpoint; all processes hold the same state, so the main one writes."""
        if self.world.is_main:
            checkpoint.save(
                self.folder.checkpoints,
                {
                    "step": self.step,
                    "network": self.network.state_dict(),
                    "optimizer": self.stepper.optimizer.state_dict(),
                    "scaler": self.stepper.scaler.state_dict(),
                    "architecture": self.network.architecture.model_dump(mode="json"),
                    "settings": self.settings.model_dump(mode="json"),
                    "versions": {"hcl": __version__, "torch": str(torch.__version__)},
                },
                self.step,
                keep=self.settings.train.keep,
                keep_every=None,
            )
        distributed.barrier()

    def _resume(self) -> None:
        found = checkpoint.load_latest(self.folder.checkpoints)
        distributed.barrier()
        if found is None:
            return
        path, state = found
        self.folder.check_checkpoint(path, state.get("settings"))
        self.network.load_state_dict(state["network"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if self.world.is_main:
            log.info("resumed from %s", path)
