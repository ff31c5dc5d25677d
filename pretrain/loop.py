"""The loop of every command that trains: resuming, logging, checkpoints, stopping on a signal."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.amp.grad_scaler import GradScaler

from pretrain import __version__, checkpoint, distributed
from pretrain.checkpoint import State
from pretrain.config import BaseRunSettings
from pretrain.core.exit_status import FAILED, FINISHED, STOPPED
from pretrain.distributed import World
from pretrain.metrics import Recorder, Value
from pretrain.processes import held, on_main
from pretrain.run import Folder
from pretrain.signals import StopFlag

log = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became NaN or infinite, on every process alike."""


class Stepper(Protocol):
    """What does the steps, as far as checkpoints hold its state."""

    optimizer: torch.optim.Optimizer
    scaler: GradScaler


class TrainingLoop(ABC):
    """One run, from settings to its last checkpoint.

    Whoever derives from it sets ``stepper`` and calls ``set_length`` when it is built.

    Args:
        settings: of the run.
        folder: of the run.
        world: the process group.
        command: what the user typed, for the record.
        fresh: replace an earlier run of the folder, once this one is built.

    Attributes:
        step: number of steps done.
        notes: what ``run.json`` says of the run besides where it stands.
    """

    stepper: Stepper

    def __init__(
        self,
        settings: BaseRunSettings,
        folder: Folder,
        world: World,
        command: list[str],
        *,
        fresh: bool,
    ) -> None:
        self.settings, self.folder, self.world, self.command = settings, folder, world, command
        self.folder.check(fresh=fresh)
        self._fresh = fresh
        torch.manual_seed(settings.seed)
        if settings.train.threads is not None:
            torch.set_num_threads(settings.train.threads)
        self.step = 0
        self.notes: dict[str, str] = {}
        self.recorder: Recorder | None = None
        self.clock = Clock()
        self._stop = StopFlag()

    def set_length(self, epoch_steps: int, batch_size: int) -> None:
        """Set how long the run is, by the whole steps of an epoch and the images of a step."""
        self.epoch_steps, self.batch_size = epoch_steps, batch_size
        self.total_steps = self.settings.train.total_steps(epoch_steps)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of the data, which must be the same when a run is resumed."""

    @abstractmethod
    def state(self) -> State:
        """What a checkpoint holds besides step, optimizer and scaler; the same on all processes."""

    @abstractmethod
    def load_state(self, state: State, path: Path) -> None:
        """Take over ``state`` from the checkpoint ``path``.

        Raises:
            InputError: it is of a run of other settings.
        """

    @abstractmethod
    def begin(self) -> Iterable[Any]:
        """Get ready for the first step, the run being resumed; gives the batches that are left."""

    @abstractmethod
    def do_step(self, batch: Any, *, logged: bool) -> tuple[Mapping[str, Value], bool]:
        """Do a step: its values where it is ``logged``, else none; whether a process shall stop."""

    def evaluate(self) -> dict[str, float]:
        """Values of the network between steps, and before a run of no steps ends."""
        return {}

    def fit(self) -> bool:
        """Train to the end, or until a signal asks to stop; resumes by itself.

        Returns:
            whether it came to the end.

        Raises:
            NonFiniteLossError: a loss or gradient is not finite.
            InputError: images cannot be read.
        """
        if self._fresh:
            on_main(self.world, self.folder.clear)
        self._resume()
        if self.world.is_main:
            self.folder.open(self.command, self.fingerprint, self.world.device, self.world.size)
            events = self.folder.path / "tensorboard" if self.settings.train.tensorboard else None
            self.recorder = Recorder(self.folder.metrics, events, self.step, self.total_steps)
        try:
            with self._stop:
                finished = self._train()
        except BaseException as error:
            self._heartbeat(state="failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            if self.recorder is not None:
                self.recorder.close()
        self._heartbeat(state="finished" if finished else "stopped")
        return finished

    def _train(self) -> bool:
        train = self.settings.train
        batches = self.begin()
        self._heartbeat()
        if self.total_steps == 0:
            self._log({}, self.evaluate())
            self._save()
        if self.step >= self.total_steps:
            return True
        left = iter(batches)
        self.clock = Clock()
        while self.step < self.total_steps:
            batch = self.clock.wait(left)
            last = self.step + 1 == self.total_steps
            logged = last or (self.step + 1) % train.log_every == 0
            values, stop = self.do_step(batch, logged=logged)
            self.step += 1
            # Before the checkpoint: a run continued from there does not come by here again.
            self._log(values, self.evaluate())
            if stop or last or self.step % train.checkpoint_every == 0:
                self._save()
            if stop and not last:
                return False
        return True

    def _log(self, values: Mapping[str, Value], evaluated: dict[str, float]) -> None:
        """Record the values of a logged step, and those of an evaluation."""
        record: dict[str, Value] = {**values}
        if values:
            seconds, waited, steps = self.clock.lap()
            rate = steps * self.batch_size / seconds
            record["lr"] = self.stepper.optimizer.param_groups[0]["lr"]
            record["epoch"] = self.step / self.epoch_steps
            record["images_per_s"] = rate
            record["data_wait"] = waited / seconds
            self._heartbeat(images_per_s=round(rate, 1))
        record |= evaluated
        if record and self.recorder is not None:
            self.recorder.log(self.step, record)

    def _heartbeat(self, **more: object) -> None:
        if self.world.is_main:
            self.folder.heartbeat(self.step, self.total_steps, **self.notes, **more)

    def _save(self) -> None:
        """Write a checkpoint; all processes hold the same state, so the main one writes."""
        if self.world.is_main:
            train = self.settings.train
            checkpoint.save(
                self.folder.checkpoints,
                {
                    "step": self.step,
                    **self.state(),
                    "optimizer": self.stepper.optimizer.state_dict(),
                    "scaler": self.stepper.scaler.state_dict(),
                    "versions": {"hcl": __version__, "torch": str(torch.__version__)},
                },
                self.step,
                keep=train.keep,
                keep_every=train.keep_every,
            )
        distributed.barrier()

    def _resume(self) -> None:
        found = checkpoint.load_latest(self.folder.checkpoints)
        distributed.barrier()
        if found is None:
            return
        path, state = found
        self.load_state(state, path)
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if self.world.is_main:
            log.info("resumed from %s", path)


class Clock:
    """How long steps take, and how much of it is waiting for data, in laps of steps."""

    def __init__(self) -> None:
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0

    def wait(self, batches: Iterator[Any]) -> Any:
        """The next batch."""
        before = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - before
        self._steps += 1
        return batch

    def leave_out(self, seconds: float) -> None:
        """Time of this lap that no step took."""
        self._start += seconds

    def lap(self) -> tuple[float, float, int]:
        """Seconds, seconds waited and steps since the last lap."""
        now = time.monotonic()
        lap = (max(now - self._start, 1e-9), self._waited, self._steps)
        self._start, self._waited, self._steps = now, 0.0, 0
        return lap


def train(
    trainer: Callable[..., TrainingLoop],
    settings: BaseRunSettings,
    arguments: argparse.Namespace,
    evaluate: Callable[[World], None] | None = None,
) -> int:
    """Train as a command; gives its exit status.

    Args:
        trainer: class of the run.
        settings: of the run.
        arguments: of the command.
        evaluate: done by the main process when training has finished and the others have ended.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with contextlib.ExitStack() as whole:
        with distributed.process_group(settings.train.device) as world:
            folder = Path(settings.output)
            whole.enter_context(held(folder, world, "another run is at work here"))
            try:
                command, fresh = arguments.command_line, arguments.fresh
                finished = trainer(settings, world, command, fresh=fresh).fit()
            except NonFiniteLossError as error:
                print(f"hcl {arguments.command_line[1]}: {error}", file=sys.stderr)
                return FAILED
        if not finished:
            print(f"stopped by a signal; continue with the same command ({settings.output})")
            return STOPPED
        if world.is_main:
            if evaluate is not None:
                evaluate(world)
            print(f"finished: {settings.output}")
    return FINISHED
