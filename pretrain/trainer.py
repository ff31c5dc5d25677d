"""Pretraining: data, views, method, probes and monitors of a run; the loop is `loop.py`."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain import distributed
from pretrain.advice import Facts, advise
from pretrain.checkpoint import State
from pretrain.config import RunSettings
from pretrain.core.errors import InputError
from pretrain.data.coverage import Fallbacks, lack_of_boxes
from pretrain.data.index import Index
from pretrain.data.loader import BadImages, Loader, build_loader, choose_workers
from pretrain.data.pack import open_pack
from pretrain.data.pairs import PairTable, check_pairs
from pretrain.data.plan import Batch
from pretrain.data.views import boxes_needed
from pretrain.datasets.source import open_index
from pretrain.distributed import World
from pretrain.loop import TrainingLoop
from pretrain.methods.hcl.branch import HCL
from pretrain.metrics import Value, split_values, view_grid
from pretrain.models import Encoder, use_products
from pretrain.pretrained import Description
from pretrain.probes.branch_monitor import BranchMonitor
from pretrain.probes.collapse import CollapseMonitor
from pretrain.probes.encode import Forward
from pretrain.probes.online import KnnProbe
from pretrain.run import RunFolder
from pretrain.step import TrainStep, method_of

log = logging.getLogger(__name__)


class Trainer(TrainingLoop):
    """One run of pretraining; arguments as of the base class, which makes the folder of them."""

    settings: RunSettings
    folder: RunFolder
    stepper: TrainStep

    def __init__(
        self, settings: RunSettings, world: World, command: list[str], *, fresh: bool = False
    ) -> None:
        super().__init__(settings, RunFolder(settings), world, command, fresh=fresh)
        self.device = world.device
        _seed_others(settings)
        self.index = self._open_index()
        pairs = settings.data.pairs
        self._pairs = PairTable.open(Path(pairs)) if pairs is not None else None
        batch = settings.optim.batch_size
        if batch > len(self.index):
            raise InputError(f"optim.batch_size: {batch} exceeds the {len(self.index)} images")
        self.set_length(len(self.index) // batch, batch)
        train = settings.train
        self.method = method_of(settings, world.size)
        check_pairs(self._pairs, self.method.view_plan, self.index)
        self._pack = open_pack(settings.data.pack, self.index)
        lack = lack_of_boxes(self.index, self.method.view_plan, settings.views)
        if lack is not None and self.total_steps > 0:  # a run of no steps cuts no views
            raise InputError(lack)
        self._advise()
        memory_format = torch.channels_last if train.channels_last else torch.contiguous_format
        self.method.to(device=self.device, memory_format=memory_format)  # type: ignore[call-overload]
        if self.device.type == "cpu" and not train.compile:
            use_products(self.method)
        self.stepper = TrainStep(
            settings, world, self.method, total_steps=self.total_steps, epoch_steps=self.epoch_steps
        )
        self._precision_here = self.stepper.precision
        # Hooks would break a compiled encoder's graph.
        watched = train.monitor and not train.compile
        self._monitor = CollapseMonitor(self.method, self.method.encoder, enabled=watched)
        how = Forward(
            *(settings.views.size, settings.augment.mean, settings.augment.std),
            *(self.device, memory_format, self.stepper.autocast),
        )
        self._probe = None
        if settings.probe is not None:
            encoder, local = self.method.encoder, world.local_size
            self._probe = KnnProbe(settings.probe, encoder, how, local)
        self._bad_images = BadImages(settings.data.max_bad_images, len(self.index))
        self._branch_monitor = BranchMonitor()
        self._fallbacks = Fallbacks()
        self._loader: Loader | None = None

    def _open_index(self) -> Index:
        # The main process builds; the others find what it built.
        if self.world.is_main:
            index = open_index(self.settings.data)
        distributed.barrier()
        return index if self.world.is_main else open_index(self.settings.data)

    def _advise(self) -> None:
        if self.world.is_main:
            facts = Facts(
                *(self.settings, self.method, len(self.index), self.total_steps),
                *(self.index, self._pairs, self._pack),
            )
            for warning in advise(facts):
                log.warning("warning: %s", warning)

    @property
    def fingerprint(self) -> str:
        """Of all that views are made of, but for the images' own content."""
        if self._pairs is None:
            return self.index.fingerprint
        return f"{self.index.fingerprint}, pairs {self._pairs.digest()}"

    def fit(self) -> bool:
        """Train as the base class says; then tell how the data loading kept up.

        Raises:
            NonFiniteLossError: a loss or gradient is not finite.
            InputError: too many images cannot be read.
        """
        finished = super().fit()
        if self.world.is_main and self._loader is not None:
            log.info("%s", self._loader.feed.summary())
            plan = self.method.view_plan
            if boxes_needed(plan, self.settings.views) or plan.pairs:
                log.info("%s", self._fallbacks.summary())
        return finished

    def begin(self) -> Iterable[Batch]:
        """Compile and distribute the method; gives the batches of the steps that are left."""
        self.notes["precision"] = self.stepper.precision
        if self.world.is_main:
            log.info("precision of the encoders: %s", self._precision_and_why())
        self._model = self._trained_model()
        self.method.train()
        settings = self.settings
        if self.step >= self.total_steps:
            return ()
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
        return self._loader

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

    def do_step(self, batch: Batch, *, logged: bool) -> tuple[Mapping[str, Value], bool]:
        """Do a step on the batch of this process."""
        self._note_bad(batch)
        self._fallbacks.add(batch)
        if logged:
            self._monitor.arm()
        done = self.stepper.run(
            self._model, batch, self.step, stop=self._stop.is_set, log_statistics=logged
        )
        if self.step == 0 and self.world.is_main:
            self._show_views(done.views)
        if not logged:
            return {}, done.stop
        self._branch_monitor.judge(done.values)
        values = {**done.values, **self._monitor.read()}
        self.notes |= {**self._monitor.warnings, **self._branch_monitor.warnings}
        flat = torch.cat([value.float().flatten() for value in values.values()])
        return split_values(distributed.mean_over_ranks(flat).tolist(), values), done.stop

    def evaluate(self) -> dict[str, float]:
        """Values of the k-NN probe, where it is due."""
        if self._probe is None or not self._probe.is_due(self.step, self.total_steps):
            return {}
        probed = self._probe(self.step)
        self.clock.leave_out(probed.get("probe/seconds", 0.0))
        return probed

    def _show_views(self, views: dict[str, Tensor]) -> None:
        settings = self.settings.augment
        grid = view_grid(views, settings.mean, settings.std)
        torchvision.io.write_png(grid, str(self.folder.path / "views.png"))
        if self.recorder is not None:
            self.recorder.image("views", grid)

    def _note_bad(self, batch: Batch) -> None:
        if batch.bad:
            with self.folder.bad_images.open("a", encoding="utf-8") as file:
                for row, path, reason in batch.bad:
                    file.write(json.dumps({"row": row, "path": path, "reason": reason}) + "\n")
        self._bad_images.add(batch)

    def state(self) -> State:
        """The method, and what describes its encoder."""
        description = self._description().model_dump(mode="json")
        return {"model": self.method.state_dict(), "description": description}

    def load_state(self, state: State, path: Path) -> None:
        """Take over the method, and the precision that the run began with."""
        self.folder.check_checkpoint(path, state.get("description", {}).get("config"))
        self.method.load_state_dict(state["model"])
        if self.settings.train.precision == "auto":
            self.stepper.precision = state["description"]["precision"]

    def _description(self) -> Description:
        settings = self.settings
        given = settings.hcl.curvature if settings.hcl else None
        return Description(
            encoder=settings.model,
            method=settings.method_name,
            prefix=self.method.encoder_prefix,
            size=settings.views.size,
            mean=settings.augment.mean,
            std=settings.augment.std,
            curvature=self.method.curvature if isinstance(self.method, HCL) else given,
            clip_radius=settings.hcl.clip_radius if settings.hcl else None,
            config=settings.model_dump(mode="json"),
            precision=self.stepper.precision,
        )


def _seed_others(settings: RunSettings) -> None:
    """Initialization only: data order and augmentation draw from streams of their own."""
    random.seed(settings.seed)
    np.random.seed(settings.seed % 2**32)
    if settings.train.deterministic:
        # Without it cuBLAS refuses to run deterministically.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    else:
        torch.backends.cudnn.benchmark = True
