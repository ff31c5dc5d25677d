"""Training a detector: detectron2's loop, with accumulation and several processes."""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import build_detection_train_loader
from detectron2.engine import TrainerBase, hooks
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter, JSONWriter, get_event_storage
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from downstream.detection.coco.sets import CocoSet
from downstream.detection.model import compat
from downstream.detection.run.checkpoints import Checkpointer
from downstream.detection.run.inference import Evaluation, Mapper, Say, evaluate_detector
from downstream.weight_files import load_torch
from pretrain.core.errors import InputError
from pretrain.core.text import duration


class Trainer(TrainerBase):  # type: ignore[misc]
    """Train on ``DATASETS.TRAIN``, then average precision on ``val``; one process or several.

    A step takes IMS_PER_BATCH images over all processes, in HCL.ACCUMULATE parts. Its gradient is
    the mean over processes and parts of the gradients of their own mean losses.

    Attributes:
        model: in DistributedDataParallel where there are several processes.
        found: by the last evaluation.
        evaluation_seconds: of all evaluations together.
        training_seconds: per iteration without evaluation, mean over this process's iterations.
    """

    def __init__(self, config: Any, val: CocoSet, say: Say) -> None:
        super().__init__()
        self.cfg, self.val, self.say = config, val, say
        self.found = Evaluation([], {}, {}, 0.0)
        self.evaluation_seconds = 0.0
        self.training_seconds = float("nan")
        self.detector: nn.Module = build_model(config)
        self.optimizer = build_optimizer(config, self.detector)
        self.model = compat.distributed(self.detector)
        self.scheduler = build_lr_scheduler(config, self.optimizer)
        self.amp = bool(config.SOLVER.AMP.ENABLED)
        self.scaler = GradScaler("cuda", enabled=self.amp)
        self.parts = int(config.HCL.ACCUMULATE)
        self.max_iter = config.SOLVER.MAX_ITER
        self.checkpointer = Checkpointer(
            self.detector, config.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self._batches: Iterator[Any] | None = None
        self.register_hooks(self.build_hooks())

    def resume(self, checkpoint: Path) -> None:
        """Go on from the last checkpoint, with other images than those seen so far.

        Args:
            checkpoint: to go on from.

        Raises:
            InputError: it is not one of this trainer.
        """
        # Not detectron2's reader, which would unpickle anything.
        content = load_torch(checkpoint)
        try:
            self.detector.load_state_dict(content["model"])
            self.load_state_dict(content["trainer"])
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{checkpoint}: not a checkpoint of this transfer ({type(error).__name__}: "
                f"{reason}); start anew with --fresh"
            ) from None
        self.start_iter = self.iter + 1
        seed_all_rng(self.cfg.SEED + comm.get_rank() + 7919 * self.start_iter)

    def train(self) -> None:
        """Run from ``start_iter`` to ``max_iter``, with evaluation."""
        self.detector.train()
        super().train(self.start_iter, self.max_iter)

    def loader(self, workers: int | None = None) -> Any:
        """Endless batches of augmented images, of one part for this process each.

        Args:
            workers: processes that read images; None: as the config says.
        """
        config = self.cfg.clone()
        config.defrost()
        config.SOLVER.IMS_PER_BATCH //= self.parts
        if workers is not None:
            config.DATALOADER.NUM_WORKERS = workers
        return build_detection_train_loader(config, mapper=Mapper(config, is_train=True))

    def run_step(self) -> None:
        """One step of the optimizer."""
        assert self.detector.training
        if self._batches is None:
            self._batches = iter(self.loader())
        self.optimizer.zero_grad()
        waited, values = 0.0, []
        for part in range(self.parts):
            start = time.perf_counter()
            batch = next(self._batches)
            waited += time.perf_counter() - start
            with contextlib.ExitStack() as stack:
                if part < self.parts - 1 and isinstance(self.model, DistributedDataParallel):
                    stack.enter_context(self.model.no_sync())
                with torch.autocast("cuda", enabled=self.amp):
                    losses = self.model(batch)
                    total = sum(losses.values()) / self.parts
                self.scaler.scale(total).backward()
            values.append({name: float(value.detach()) for name, value in losses.items()})
        self._record(values, waited)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _record(self, parts: list[dict[str, float]], waited: float) -> None:
        """Log the losses; stop all processes where one of any is not finite."""
        every = [part for own in comm.all_gather(parts) for part in own]
        means = {name: float(np.mean([part[name] for part in every])) for name in parts[0]}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"loss not finite at iteration {self.iter}: {means}")
        self.storage.put_scalar("data_time", waited)
        self.storage.put_scalars(total_loss=total, **means)

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, optimizer and loss scale."""
        more = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.scaler.load_state_dict(state_dict["scaler"])

    def build_hooks(self) -> list[Any]:
        """detectron2's usual hooks; of the checkpoints the newest two stay."""
        config = self.cfg
        found: list[Any] = [hooks.IterationTimer()]
        found.append(hooks.LRScheduler(self.optimizer, self.scheduler))
        if config.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.detector):
            # As many images as without accumulation.
            count = config.TEST.PRECISE_BN.NUM_ITER * self.parts
            loader = _Late(functools.partial(self.loader, workers=0))
            found.append(hooks.PreciseBN(config.TEST.EVAL_PERIOD, self.model, loader, count))
        if comm.is_main_process():
            period = config.SOLVER.CHECKPOINT_PERIOD
            found.append(hooks.PeriodicCheckpointer(self.checkpointer, period, max_to_keep=2))
        found.append(hooks.EvalHook(config.TEST.EVAL_PERIOD, self.evaluate))
        if comm.is_main_process():
            writing = max(1, min(20, config.SOLVER.MAX_ITER // 10))
            found.append(hooks.PeriodicWriter(self.build_writers(), period=writing))
        return found

    def build_writers(self) -> list[Any]:
        """The loss curve, and the console."""
        curve = Path(self.cfg.OUTPUT_DIR) / "metrics.json"
        return [Progress(self.cfg.SOLVER.MAX_ITER, self.say), Curve(curve)]

    def evaluate(self) -> dict[str, float]:
        """Detect on the whole validation set and compute average precision."""
        # Timings are logged under this name by the iteration timer.
        if "time" in self.storage.histories():
            self.training_seconds = self.storage.history("time").global_avg()
        self.found = evaluate_detector(self.cfg, self.detector, self.val, self.say)
        self.evaluation_seconds += self.found.seconds
        return self.found.metrics


class _Late:
    """An iterable made when it is first asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self.make())


class Curve(EventWriter):  # type: ignore[misc]
    """detectron2's loss curve, whose file is opened when it is first written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Any = None

    def write(self) -> None:
        """Append the latest values."""
        if self._writer is None:
            self._writer = JSONWriter(str(self.path))
        self._writer.write()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class Progress(EventWriter):  # type: ignore[misc]
    """One line of progress each time it is asked to write."""

    def __init__(self, total: int, say: Say) -> None:
        self.total, self.say = total, say
        self.last = -1

    def write(self) -> None:
        """Say iteration, loss, learning rate, speed and time left."""
        storage = get_event_storage()
        iteration = storage.iter
        if iteration == self.last or iteration >= self.total:
            return
        self.last = iteration
        histories = storage.histories()
        if "total_loss" not in histories:
            return
        loss = storage.history("total_loss").median(20)
        parts = [f"iter {iteration + 1}/{self.total}", f"loss {loss:.3f}"]
        if "lr" in histories:
            parts.append(f"lr {storage.history('lr').latest():.2g}")
        if "time" in histories:
            seconds = storage.history("time").global_avg()
            left = duration(seconds * (self.total - iteration - 1))
            parts += [f"{seconds:.2f} s/iter", f"ETA {left}"]
        self.say("  ".join(parts))
