"""The loop, and nothing else."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain import __version__, checkpoint, distributed
from pretrain.advice import Facts, advise
from pretrain.clock import Clock
from pretrain.config import RunSettings
from pretrain.core.errors import InputError
from pretrain.data.coverage import Fallbacks, lack_of_boxes
from pretrain.data.index import Index
from pretrain.data.loader import BadImages, Loader, build_loader, choose_workers
from pretrain.data.pack import Pack
from pretrain.data.pairs import PairTable, check_pairs
from pretrain.data.plan import Batch
from pretrain.data.views import boxes_needed
from pretrain.datasets.source import open_index
from pretrain.distributed import World
from pretrain.methods.base import Context
from pretrain.methods.build import build_method
from pretrain.methods.hcl.branch import HCL
from pretrain.metrics import Recorder, split_values, view_grid
from pretrain.models import Encoder, use_products
from pretrain.pretrained import Description
from pretrain.probes.branch_monitor import BranchMonitor
from pretrain.probes.collapse import CollapseMonitor
from pretrain.probes.encode import Forward
from pretrain.probes.online import build_probe
from pretrain.processes import on_main
from pretrain.run import RunFolder
from pretrain.signals import StopFlag
from pretrain.step import TrainStep, rows_a_forward

log = logging.getLogger(__name__)


class Outcome(Enum):
    """How a run ended."""

    FINISHED = "finished"
    STOPPED = "stopped"


class Trainer:
    """One run, from settings to its last checkpoint.

    Args:
        settings: of the run.
        world: the process group.
        command: what the user typed, for the record.
        fresh: replace an earlier run of the folder, once this one is built.
    """

    def __init__(
        self, settings: RunSettings, world: World, command: list[str], *, fresh: bool = False
    ) -> None:
        self.settings, self.world, self.command = settings, world, command
        self.device = world.device
        self.folder = RunFolder(settings)
        self.folder.check(fresh=fresh)
        self._fresh = fresh
        _seed_everything(settings)
        self.index = self._open_index()
        pairs = settings.data.pairs
        self._pairs = PairTable.open(Path(pairs)) if pairs is not None else None
        batch, rows = settings.optim.batch_size, rows_a_forward(settings, world.size)
        if batch > len(self.index):
            raise InputError(f"optim.batch_size: {batch} exceeds the {len(self.index)} images")
        self.epoch_steps = len(self.index) // batch
        train = settings.train
        self.total_steps = (
            train.steps if train.steps is not None else (train.epochs or 0) * self.epoch_steps
        )
        context = Context(
            settings.model, settings.views.size, rows * world.size, rows, settings.seed
        )
        self.method = build_method(settings.method, settings.hcl, context)
        check_pairs(self._pairs, self.method.view_plan, self.index)
        self._pack = self._open_pack()
        self._check_boxes()
        self._advise()
        memory_format = torch.channels_last if train.channels_last else torch.contiguous_format
        self.method.to(device=self.device, memory_format=memory_format)  # type: ignore[call-overload]
        if self.device.type == "cpu" and not train.compile:
            use_products(self.method)
        self.stepper = TrainStep(
            settings,
            world,
            self.method,
            total_steps=self.total_steps,
            epoch_steps=self.epoch_steps,
        )
        self._precision_here = self.stepper.precision
        # Hooks would break a compiled encoder's graph.
        watched = train.monitor and not train.compile
        self._monitor = CollapseMonitor(self.method, self.method.encoder, enabled=watched)
        how = Forward(
            *(settings.views.size, settings.augment.mean, settings.augment.std),
            *(self.device, memory_format, self.stepper.autocast),
        )
        self._probe = build_probe(settings.probe, self.method.encoder, how, world.local_size)
        self.step = 0
        self._bad_images = BadImages(settings.data.max_bad_images, len(self.index))
        self._branch_monitor = BranchMonitor()
        self._fallbacks = Fallbacks()
        self._stop = StopFlag()
        self._recorder: Recorder | None = None
        self._loader: Loader | None = None

    def _open_index(self) -> Index:
        # The main process builds; the others find what it built.
        if self.world.is_main:
            index = open_index(self.settings.data)
        distributed.barrier()
        return index if self.world.is_main else open_index(self.settings.data)

    def _open_pack(self) -> Pack | None:
        if self.settings.data.pack is None:
            return None
        pack = Pack.open(Path(self.settings.data.pack))
        pack.check(self.index)
        return pack

    def _check_boxes(self) -> None:
        lack = lack_of_boxes(self.index, self.method.view_plan, self.settings.views)
        # A run of no steps cuts no views.
        if lack is not None and self.total_steps > 0:
            raise InputError(lack)

    def _advise(self) -> None:
        """Say what may make this run fail silently."""
        if self.world.is_main:
            facts = Facts(
                *(self.settings, self.method, len(self.index), self.total_steps),
                *(self.index, self._pairs, self._pack),
            )
            for warning in advise(facts):
                log.warning("warning: %s", warning)

    def _data_fingerprint(self) -> str:
        """Of all that views are made of, but for the images' own content."""
        if self._pairs is None:
            return self.index.fingerprint
        return f"{self.index.fingerprint}, pairs {self._pairs.digest()}"

    def fit(self) -> Outcome:
        """Train to the end, or until a signal asks to stop; resumes by itself.

        Raises:
            replay.NonFiniteLossError: a loss or gradient is not finite.
            InputError: too many images cannot be read.
        """
        if self._fresh:
            on_main(self.world, self.folder.clear)
        self._resume()
        if self.world.is_main:
            self.folder.open(self.command, self._data_fingerprint(), self.device, self.world.size)
            self.folder.heartbeat(self.step, self.total_steps, precision=self.stepper.precision)
            log.info("precision of the encoders: %s", self._precision_and_why())
        model = self._trained_model()
        if self.world.is_main:
            tensorboard = self.settings.train.tensorboard
            events = self.folder.path / "tensorboard" if tensorboard else None
            self._recorder = Recorder(self.folder.metrics, events, self.step, self.total_steps)
        try:
            with self._stop:
                outcome = self._loop(model)
        except BaseException as error:
            self._record_failure(error)
            raise
        finally:
            if self._recorder is not None:
                self._recorder.close()
        if self.world.is_main:
            self.folder.heartbeat(self.step, self.total_steps, state=outcome.value)
            self._summarize()
        return outcome

    def _trained_model(self) -> nn.Module:
        """The method, compiled if asked, and data-parallel where there are several processes."""
        if self.settings.train.compile:
            for module in self.method.modules():
                if isinstance(module, Encoder):
                    module.compile()
        if self.world.size == 1:
            return self.method
        device_ids = [self.device] if self.device.type == "cuda" else None
        # Buffers are kept equal by average_batch_norm; queues are filled alike on all ranks.
        return DistributedDataParallel(self.method, device_ids=device_ids, broadcast_buffers=False)

    def _summarize(self) -> None:
        """Say at the end how data loading kept up, and how many rows lacked boxes."""
        if self._loader is None:
            return
        log.info("%s", self._loader.feed.summary())
        plan = self.method.view_plan
        if boxes_needed(plan, self.settings.views) or plan.pairs:
            log.info("%s", self._fallbacks.summary())

    def _precision_and_why(self) -> str:
        precision, here = self.stepper.precision, self._precision_here
        if self.settings.train.precision != "auto":
            return f"{precision}, as train.precision says"
        if precision != here:
            slow = " and is slow in bf16" if precision == "bf16" else ""
            return (
                f"{precision}, as this run began; this machine would choose {here}{slow} "
                "(train.precision=auto; --fresh starts over)"
            )
        return f"{precision}, chosen for this machine (train.precision=auto)"

    def _record_failure(self, error: BaseException) -> None:
        if self.world.is_main:
            reason = f"{type(error).__name__}: {error}"
            self.folder.heartbeat(self.step, self.total_steps, state="failed", error=reason)

    def _loop(self, model: nn.Module) -> Outcome:
        train = self.settings.train
        self.method.train()
        batches = self._batches()
        clock = Clock()
        while self.step < self.total_steps:
            batch = clock.wait(batches)
            self._note_bad(batch)
            self._fallbacks.add(batch)
            logged = self._is_logged(self.step + 1)
            if logged:
                self._monitor.arm()
            done = self.stepper.run(
                model, batch, self.step, stop=self._stop.is_set, log_statistics=logged
            )
            if self.step == 0 and self.world.is_main:
                self._show_views(done.views)
            self.step += 1
            # Before the checkpoint: a run continued from there does not come by here again.
            probed = self._run_probe(clock)
            if logged:
                self._branch_monitor.judge(done.values)
                self._log({**done.values, **self._monitor.read()}, clock, probed)
            last = self.step == self.total_steps
            if done.stop or last or self.step % train.checkpoint_every == 0:
                self._save()
            if done.stop and not last:
                return Outcome.STOPPED
        if self.total_steps == 0:
            self._run_probe(clock)
            self._save()
        return Outcome.FINISHED

    def _batches(self) -> Iterator[Batch]:
        settings = self.settings
        if self.step >= self.total_steps:
            return iter(())
        data = settings.data
        self._loader = build_loader(
            self.index,
            self.method.view_plan,
            settings.views,
            settings.augment,
            batch_size=settings.optim.batch_size,
            seed=settings.seed,
            start_step=self.step,
            total_steps=self.total_steps,
            rank=self.world.rank,
            world=self.world.size,
            workers=choose_workers(data.workers, self.world.local_size),
            prefetch=data.prefetch,
            pin_memory=self.device.type == "cuda",
            device_crops=data.crop_on == "device",
            pack=self._pack,
            pairs=self._pairs,
        )
        return iter(self._loader)

    def _is_logged(self, step: int) -> bool:
        return step % self.settings.train.log_every == 0 or step == self.total_steps

    def _run_probe(self, clock: Clock) -> dict[str, float]:
        """Values for the line of this step; where the step has none they get their own here."""
        if self._probe is None or not self._probe.is_due(self.step, self.total_steps):
            return {}
        probed = self._probe(self.step)
        clock.leave_out(probed.get("probe/seconds", 0.0))
        if self.step > 0 and self._is_logged(self.step):
            return probed
        if probed and self._recorder is not None:
            self._recorder.log(self.step, probed)
        return {}

    def _log(self, values: dict[str, Tensor], clock: Clock, probed: dict[str, float]) -> None:
        flat = torch.cat([value.float().flatten() for value in values.values()])
        means = distributed.mean_over_ranks(flat)
        seconds, waited, steps = clock.lap()
        if self._recorder is None:
            return
        record = split_values(means.tolist(), values)
        record["lr"] = self.stepper.optimizer.param_groups[0]["lr"]
        record["epoch"] = self.step / self.epoch_steps
        record["images_per_s"] = steps * self.settings.optim.batch_size / seconds
        record["data_wait"] = waited / seconds
        record.update(probed)
        self._recorder.log(self.step, record)
        rate = round(steps * self.settings.optim.batch_size / seconds, 1)
        said = {**self._monitor.warnings, **self._branch_monitor.warnings}
        self.folder.heartbeat(self.step, self.total_steps, images_per_s=rate, **said)

    def _show_views(self, views: dict[str, Tensor]) -> None:
        settings = self.settings.augment
        grid = view_grid(views, settings.mean, settings.std)
        torchvision.io.write_png(grid, str(self.folder.path / "views.png"))
        if self._recorder is not None:
            self._recorder.image("views", grid)

    def _note_bad(self, batch: Batch) -> None:
        if batch.bad:
            with self.folder.bad_images.open("a", encoding="utf-8") as file:
                for row, path, reason in batch.bad:
                    file.write(json.dumps({"row": row, "path": path, "reason": reason}) + "\n")
        self._bad_images.add(batch)

    def _save(self) -> None:
        """Write a checkpoint; all ranks hold the same state, so the main one writes."""
        if self.world.is_main:
            train = self.settings.train
            checkpoint.save(
                self.folder.checkpoints,
                {
                    "step": self.step,
                    "model": self.method.state_dict(),
                    "optimizer": self.stepper.optimizer.state_dict(),
                    "scaler": self.stepper.scaler.state_dict(),
                    "description": self._description().model_dump(mode="json"),
                    "versions": {"hcl": __version__, "torch": str(torch.__version__)},
                },
                self.step,
                keep=train.keep,
                keep_every=train.keep_every,
            )
        distributed.barrier()

    def _description(self) -> Description:
        settings = self.settings
        return Description(
            encoder=settings.model,
            method=settings.method_name,
            prefix=self.method.encoder_prefix,
            size=settings.views.size,
            mean=settings.augment.mean,
            std=settings.augment.std,
            curvature=self._curvature(),
            clip_radius=settings.hcl.clip_radius if settings.hcl else None,
            config=settings.model_dump(mode="json"),
            precision=self.stepper.precision,
        )

    def _curvature(self) -> float | None:
        if isinstance(self.method, HCL):
            return self.method.curvature
        return self.settings.hcl.curvature if self.settings.hcl else None

    def _resume(self) -> None:
        found = checkpoint.load_latest(self.folder.checkpoints)
        distributed.barrier()
        if found is None:
            return
        path, state = found
        self.folder.check_checkpoint(path, state.get("description", {}).get("config"))
        self.method.load_state_dict(state["model"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if self.settings.train.precision == "auto":
            self.stepper.precision = state["description"]["precision"]
        if self.world.is_main:
            log.info("resumed from %s", path)


def _seed_everything(settings: RunSettings) -> None:
    """Initialization only: data order and augmentation draw from streams of their own."""
    random.seed(settings.seed)
    np.random.seed(settings.seed % 2**32)
    torch.manual_seed(settings.seed)
    if settings.train.threads is not None:
        torch.set_num_threads(settings.train.threads)
    if settings.train.deterministic:
        # Without it cuBLAS refuses to run deterministically.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    else:
        torch.backends.cudnn.benchmark = True
