"""One transfer: from a config, weights and data to a result."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from downstream.detection.coco.sets import CocoSet, registered
from downstream.detection.coco.transfer_sets import read_labeled, read_set, resolve
from downstream.detection.model import compat, heads, timm_backbone
from downstream.detection.model.config import TRAIN, VAL, adapt, as_yaml, digest, load_config
from downstream.detection.model.protocol_check import check_form, claimed, warnings
from downstream.detection.options import Options
from downstream.detection.run.checkpoints import TrainedDetector, last_checkpoint, read_trained
from downstream.detection.run.inference import Say, evaluate_detector
from downstream.detection.run.launch import agreed
from downstream.detection.run.record import Job, Outcome, rounded, write_outcome, write_truth
from downstream.detection.run.result_folder import (
    CONFIG,
    LABELS,
    check_room,
    finished,
    make_room,
    trim_curve,
)
from downstream.detection.run.trainer import Trainer
from downstream.detection.weights.backbone import Backbone, read_backbone
from downstream.detection.weights.detector import check_config, check_forward, load_backbone
from downstream.results.result import FILE_NAME, Result, read_result
from pretrain.core.errors import InputError
from pretrain.core.files import remove_unfinished, write_text
from pretrain.distributed import World
from pretrain.processes import held

T = TypeVar("T")


def detect(options: Options, world: World) -> Result | None:
    """Fine-tune a detector, unless a trained one is given, and measure its average precision.

    All processes of the group call it.

    Returns:
        The result; None where this is not the main process.

    Raises:
        InputError: something given is wrong; file, entry and remedy are named.
    """
    with held(options.output, world, "another transfer is at work here"):
        return _detect(options, world)


def _detect(options: Options, world: World) -> Result | None:
    say: Say = functools.partial(print, flush=True) if world.is_main else lambda _: None
    job, notes, labels = _prepare(options, world)
    found = None if options.fresh else agreed(lambda: finished(options.output, job.fingerprint))
    if found is not None:
        say(f"{options.output}: already there for this config, weights and data; nothing to do")
        return found if world.is_main else None
    sources = [part.path for part in (job.weights, job.trained) if part]
    sources += [options.labels] if options.labels else []
    going_on = agreed(
        lambda: check_room(options.output, job.fingerprint, sources, fresh=options.fresh)
    )
    what = "evaluation only" if job.trained else f"{job.config.SOLVER.MAX_ITER} iterations"
    say(f"{job.name}: {options.config.stem}, {what}, detectron2 {job.version}")
    for note in notes:
        say(note)
    log = "log.txt" if world.is_main else f"log_rank{world.rank}.txt"
    sets = {VAL: job.val} | ({TRAIN: job.train} if job.train else {})
    with compat.logs_in(options.output / log), registered(**sets):
        run = _evaluation(job, job.trained, say) if job.trained else _training(job, going_on, say)
        # Only now: what was there before stays until the new transfer could be built.
        agreed(lambda: _open_folder(job, labels, going_on))
        outcome = run()
        if not world.is_main:
            return None
        return write_outcome(replace(job, val=write_truth(job.val, options.output)), outcome)


def _prepare(options: Options, world: World) -> tuple[Job, list[str], str | None]:
    """The job, remarks on it, and the annotations of a labeled part that are to be written."""
    heads.register()
    timm_backbone.register()
    config = load_config(options.config, options.overrides)
    trained = read_trained(options.eval_only) if options.eval_only else None
    weights = None if trained else _backbone(options, config)
    if weights is not None:
        check_config(weights, config)
    form = options.form or claimed(options.config.stem)
    check_form(config, form)
    timm_backbone.check_choice(config)
    tests = tuple(config.DATASETS.TEST)
    val = read_set(resolve(options.val, tests, "--val"), () if options.val else tests)
    train, labels, said = (None, None, []) if trained else _training_set(options, config)
    notes = [*(weights.notes if weights else ()), *warnings(config), *said]
    notes += adapt(config, train, val, options.output, world.size)
    name = options.name or _name(weights, trained)
    sources = [part.sha256 if part else "" for part in (weights, trained, train, val)]
    fingerprint = hashlib.sha256("\n".join([name, digest(config), form, *sources]).encode())
    job = Job(
        options=options,
        config=config,
        form=form,
        train=train,
        val=val,
        weights=weights,
        trained=trained,
        name=name,
        world=world.size,
        version=compat.require(),
        fingerprint=fingerprint.hexdigest(),
    )
    return job, notes, labels


def _backbone(options: Options, config: Any) -> Backbone | None:
    given = options.weights or config.MODEL.WEIGHTS
    if "://" in str(given):
        raise InputError(f"{given}: nothing is downloaded; give a file to --weights")
    # Loaded by name here, not by detectron2's heuristics.
    config.MODEL.WEIGHTS = ""
    return read_backbone(Path(given)) if given else None


def _training_set(options: Options, config: Any) -> tuple[CocoSet, str | None, list[str]]:
    names = tuple(config.DATASETS.TRAIN)
    paths = resolve(options.train, names, "--train")
    wanted = config.HCL.LABELS
    if options.labels is None and wanted.PERCENT == 100:
        return read_set(paths, () if options.train else names), None, []
    train, text = read_labeled(
        paths,
        percent=wanted.PERCENT,
        seed=wanted.SEED,
        chosen=options.labels,
        target=options.output / LABELS,
    )
    how = options.labels or f"{wanted.PERCENT:g} % by HCL.LABELS.SEED {wanted.SEED}"
    return train, text, [f"labels of {len(train.records)} images: {how}"]


def _open_folder(job: Job, labels: str | None, going_on: bool) -> None:
    folder = job.options.output
    remove_unfinished(folder)
    if not going_on:
        make_room(folder, job.fingerprint)
    write_text(folder / CONFIG, as_yaml(job.config))
    if labels is not None:
        write_text(folder / LABELS, labels)


def _training(job: Job, going_on: bool, say: Say) -> Callable[[], Outcome]:
    """Build the detector with its weights; the value trains and evaluates it."""
    config, weights, folder = job.config, job.weights, job.options.output
    seed_all_rng(config.SEED + comm.get_rank())
    trainer = _build(lambda: Trainer(config, job.val, say))
    if going_on and (checkpoint := last_checkpoint(folder)):
        trainer.resume(checkpoint)
        agreed(lambda: trim_curve(folder, trainer.start_iter))
        say(f"going on after iteration {trainer.start_iter}")
    elif weights is not None:
        count = load_backbone(weights, trainer.detector)
        say(f"backbone: {count}/{len(weights.tensors)} tensors of {weights.path.name} loaded")
        difference = check_forward(weights, trainer.detector, config)
        say(f"backbone: features of the detector and of the source differ by {difference:.1g}")
    else:
        say("backbone: RANDOM initialization (no --weights)")
    return lambda: _train(trainer)


def _train(trainer: Trainer) -> Outcome:
    start = time.perf_counter()
    try:
        trainer.train()
    except FloatingPointError as error:
        raise InputError(
            f"training diverged ({str(error).splitlines()[0]}); lower SOLVER.BASE_LR or "
            "lengthen SOLVER.WARMUP_ITERS"
        ) from None
    except InputError as error:
        # From a loader process it comes wrapped in that process's traceback.
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None
    seconds = {
        "train": rounded(time.perf_counter() - start - trainer.evaluation_seconds, 2),
        "evaluation": rounded(trainer.evaluation_seconds, 2),
        "iteration": rounded(trainer.training_seconds, 4),
    }
    return Outcome(trainer.found, seconds)


def _evaluation(job: Job, trained: TrainedDetector, say: Say) -> Callable[[], Outcome]:
    """Load a trained detector; the value evaluates it."""
    detector = _build(lambda: build_model(job.config))
    count = trained.load(detector)
    say(f"detector: {count} tensors of {trained.path.name} loaded, none left over")
    return lambda: _evaluate(job, detector, say)


def _evaluate(job: Job, detector: nn.Module, say: Say) -> Outcome:
    found = evaluate_detector(job.config, detector, job.val, say)
    return Outcome(found, {"evaluation": rounded(found.seconds, 2)})


def _build(make: Callable[[], T]) -> T:
    try:
        return make()
    except InputError:
        raise
    except (AssertionError, KeyError, ValueError) as error:
        # So detectron2 answers a config that no model can be built of.
        logging.getLogger("detectron2").exception("building the detector")
        reason = " ".join(str(error).split())
        raise InputError(f"detectron2 cannot build this config: {reason} (see log.txt)") from None


def _name(weights: Backbone | None, trained: TrainedDetector | None) -> str:
    if trained is None:
        return str(weights.name) if weights else "random"
    beside = trained.path.parent / FILE_NAME
    return read_result(beside).run if beside.is_file() else str(trained.path.parent.name)
