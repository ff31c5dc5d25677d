"""detectron2's default trainer with this project's data, evaluation and one line of progress."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine import DefaultTrainer, hooks
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils.events import EventWriter, JSONWriter, get_event_storage
from fvcore.nn.precise_bn import get_bn_modules

from downstream.detection.coco import CocoSet
from downstream.detection.config import VAL
from downstream.detection.evaluate import average_precision, collect
from downstream.detection.saved import Detection
from pretrain.errors import InputError

Say = Callable[[str], None]


class Mapper(DatasetMapper):  # type: ignore[misc]
    """detectron2's mapper; an image that cannot be read is the user's error and is named."""

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """Read, augment and annotate one image."""
        name = dataset_dict["file_name"]
        try:
            return super().__call__(dataset_dict)
        except SizeMismatchError:
            wanted = f"{dataset_dict['width']} x {dataset_dict['height']}"
            raise InputError(
                f"{name}: the image is not {wanted} as its annotation file says; fix that entry"
            ) from None
        except (OSError, SyntaxError, EOFError) as error:
            # Pillow reports damaged files by all of these.
            raise InputError(f"{name}: not a readable image ({error}); replace it") from None


class Trainer(DefaultTrainer):  # type: ignore[misc]
    """Train on ``DATASETS.TRAIN``, then average precision on ``val``.

    Attributes:
        detections: of the last evaluation, in COCO's result format.
        metrics: of the last evaluation: ``bbox/AP`` and so on, in percent.
        by_category: of the last evaluation: AP by category name, by ``bbox`` and ``segm``.
        evaluation_seconds: of all evaluations together.
        training_seconds: per iteration without evaluation, mean over this process's iterations.
    """

    def __init__(self, config: Any, val: CocoSet, say: Say) -> None:
        # The parent's constructor asks for hooks and writers, which need these.
        self.val, self.say = val, say
        self.detections: list[Detection] = []
        self.metrics: dict[str, float] = {}
        self.by_category: dict[str, dict[str, float]] = {}
        self.evaluation_seconds = 0.0
        self.training_seconds = float("nan")
        super().__init__(config)

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        """Batches of augmented images."""
        return build_detection_train_loader(cfg, mapper=Mapper(cfg, is_train=True))

    def build_hooks(self) -> list[Any]:
        """detectron2's usual hooks; of the checkpoints the newest two stay."""
        config = self.cfg
        found: list[Any] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if config.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            loader_config = config.clone()
            loader_config.defrost()
            loader_config.DATALOADER.NUM_WORKERS = 0
            loader = self.build_train_loader(loader_config)
            iterations = config.TEST.PRECISE_BN.NUM_ITER
            found.append(hooks.PreciseBN(config.TEST.EVAL_PERIOD, self.model, loader, iterations))
        found.append(
            hooks.PeriodicCheckpointer(
                self.checkpointer, config.SOLVER.CHECKPOINT_PERIOD, max_to_keep=2
            )
        )
        found.append(hooks.EvalHook(config.TEST.EVAL_PERIOD, self.evaluate))
        period = max(1, min(20, config.SOLVER.MAX_ITER // 10))
        found.append(hooks.PeriodicWriter(self.build_writers(), period=period))
        return found

    def build_writers(self) -> list[Any]:
        """The loss curve, and the console."""
        curve = Path(self.cfg.OUTPUT_DIR) / "metrics.json"
        return [Progress(self.cfg.SOLVER.MAX_ITER, self.say), JSONWriter(str(curve))]

    def evaluate(self) -> dict[str, float]:
        """Detect on the whole validation set and compute average precision."""
        start = time.perf_counter()
        # Timings are logged under this name by the iteration timer.
        if "time" in self.storage.histories():
            self.training_seconds = self.storage.history("time").global_avg()
        self.say(f"evaluating on {len(self.val.records)} images")
        mapper = Mapper(self.cfg, is_train=False)
        loader = build_detection_test_loader(self.cfg, VAL, mapper=mapper)
        detections: list[Detection] = []
        with inference_context(self.model), torch.no_grad():
            for inputs in loader:
                detections += collect(self.model(inputs), inputs, self.val.category_ids)
        truth = self.val.ground_truth()
        self.metrics, self.by_category = {}, {}
        for kind in ("bbox", "segm") if self.cfg.MODEL.MASK_ON else ("bbox",):
            metrics, by_category = average_precision(truth, detections, kind)
            self.metrics |= {f"{kind}/{name}": value for name, value in metrics.items()}
            self.by_category[kind] = by_category
        self.detections = detections
        self.evaluation_seconds += time.perf_counter() - start
        return self.metrics


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
            left = datetime.timedelta(seconds=round(seconds * (self.total - iteration - 1)))
            parts += [f"{seconds:.2f} s/iter", f"ETA {left}"]
        self.say("  ".join(parts))
