"""One transfer: from a config, weights and data to a result."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from downstream.detection import compat
from downstream.detection.coco import CocoSet, builtin_paths, read_coco, registered
from downstream.detection.config import TRAIN, VAL, adapt, digest, load_config
from downstream.detection.folder import finished, make_room
from downstream.results import Result, write_result
from pretrain.environment import machine, versions
from pretrain.errors import InputError
from pretrain.export.header import DetectionWeights, read_detectron2


@dataclass(frozen=True)
class Options:
    """What ``hcl detect`` was asked for.

    Attributes:
        config: detectron2's YAML file.
        output: the result's folder.
        weights: file written by ``hcl export --to detectron2``; None takes MODEL.WEIGHTS of the
            config, and random initialisation where that is empty.
        train: annotations and images; None takes the config's DATASETS.
        val: likewise.
        name: row of the table; None takes the pretraining run's name.
        overrides: KEY VALUE KEY VALUE ...
        overwrite: replace what the folder holds.
        resume: go on with the folder's unfinished transfer, which must be this very one.
        command: for the record.
    """

    config: Path
    output: Path
    weights: Path | None = None
    train: tuple[Path, Path] | None = None
    val: tuple[Path, Path] | None = None
    name: str | None = None
    overrides: Sequence[str] = ()
    overwrite: bool = False
    resume: bool = False
    command: Sequence[str] = ()


def say(line: str) -> None:
    """One line on the console, at once."""
    print(line, flush=True)


def detect(options: Options) -> Result:
    """Fine-tune a detector and measure its average precision.

    Raises:
        InputError: something given is wrong; file, entry and remedy are named.
    """
    version = compat.require()
    config = load_config(options.config, options.overrides)
    weights = _weights(options, config)
    train = read_coco(*(options.train or _from_config(config, "TRAIN")))
    val = read_coco(*(options.val or _from_config(config, "TEST")))
    notes = adapt(config, train, val, options.output)
    name = options.name or (weights.header.provenance.run if weights else "random")
    fingerprint = _fingerprint(
        name, digest(config), weights.sha256 if weights else "", train.sha256, val.sha256
    )
    found = None if options.overwrite else finished(options.output, fingerprint)
    if found is not None:
        say(f"{options.output}: already there for this config, weights and data; nothing to do")
        return found
    make_room(options.output, fingerprint, resume=options.resume, overwrite=options.overwrite)
    say(f"{name}: {options.config.stem}, {config.SOLVER.MAX_ITER} iterations, detectron2 {version}")
    for note in notes:
        say(note)
    (options.output / "config.yaml").write_text(config.dump(), encoding="utf-8")
    with compat.logs_in(options.output / "log.txt"), registered(**{TRAIN: train, VAL: val}):
        trainer, seconds = _train(config, val, weights, options.resume)
        # Written first: the detections outlive a fault in drawing.
        (options.output / "detections.json").write_text(json.dumps(trainer.detections) + "\n")
        from downstream.detection.draw import draw_detections

        pictures = draw_detections(val, trainer.detections, options.output / "detections")
    result = Result(
        task="detection",
        run=name,
        metrics=trainer.metrics,
        protocol={
            "config": options.config.stem,
            "config_sha256": digest(config, without=("SEED",)),
            "iterations": config.SOLVER.MAX_ITER,
            "images_per_batch": config.SOLVER.IMS_PER_BATCH,
            "base_lr": config.SOLVER.BASE_LR,
            "backbone_norm": config.MODEL.RESNETS.NORM,
            "freeze_at": config.MODEL.BACKBONE.FREEZE_AT,
            "train_annotations_sha256": train.sha256,
            "val_annotations_sha256": val.sha256,
        },
        provenance={
            "fingerprint": fingerprint,
            "command": list(options.command),
            "seed": config.SEED,
            "weights": _origin(weights),
            "train": {"annotations": str(train.annotations), "images": len(train.records)},
            "val": {"annotations": str(val.annotations), "images": len(val.records)},
            "versions": {**versions(), "detectron2": version},
            "machine": machine(torch.device(config.MODEL.DEVICE)),
            "seconds": {
                "train": round(seconds - trainer.evaluation_seconds, 2),
                "evaluation": round(trainer.evaluation_seconds, 2),
                "iteration": _rounded(trainer.training_seconds),
            },
        },
        artifacts={
            "detections": [str(path.relative_to(options.output)) for path in pictures],
            "results": "detections.json",
            "curve": "metrics.json",
            "by_category": trainer.by_category,
        },
    )
    write_result(result, options.output)
    return result


def _train(
    config: Any, val: CocoSet, weights: DetectionWeights | None, resume: bool
) -> tuple[Any, float]:
    """Train and evaluate; returns the trainer and the seconds it took."""
    from detectron2.utils.env import seed_all_rng

    from downstream.detection.strict import check_loaded
    from downstream.detection.trainer import Trainer

    seed_all_rng(config.SEED)
    try:
        trainer = Trainer(config, val, say)
    except InputError:
        raise
    except (AssertionError, KeyError, ValueError) as error:
        # So detectron2 answers a config that no model can be built of.
        logging.getLogger("detectron2").exception("building the detector")
        reason = " ".join(str(error).split())
        raise InputError(f"detectron2 cannot build this config: {reason} (see log.txt)") from None
    trainer.resume_or_load(resume=resume)
    if trainer.start_iter:
        say(f"going on after iteration {trainer.start_iter}")
    elif weights is not None:
        loaded = check_loaded(weights, trainer.model)
        say(f"backbone: {loaded}/{len(weights.tensors)} tensors of {weights.path.name} loaded")
    else:
        say("backbone: RANDOM initialisation (no --weights)")
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
    return trainer, time.perf_counter() - start


def _weights(options: Options, config: Any) -> DetectionWeights | None:
    from downstream.detection.strict import check_config, check_tensors

    path = options.weights or (Path(config.MODEL.WEIGHTS) if config.MODEL.WEIGHTS else None)
    if path is None:
        return None
    if "?" in str(path):
        raise InputError(f"{path}: detectron2 takes '?' for a query; rename the file")
    weights = read_detectron2(path)
    check_tensors(weights)
    check_config(weights, config)
    config.MODEL.WEIGHTS = str(path)
    return weights


def _from_config(config: Any, split: str) -> tuple[Path, Path]:
    names = config.DATASETS[split]
    option = "--train" if split == "TRAIN" else "--val"
    if len(names) != 1:
        raise InputError(
            f"give {option} ANNOTATIONS IMAGES, or one name in DATASETS.{split} "
            f"(it has {len(names)})"
        )
    return builtin_paths(names[0])


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _origin(weights: DetectionWeights | None) -> dict[str, Any]:
    if weights is None:
        return {"file": None, "initialisation": "random"}
    origin = weights.header.provenance.model_dump()
    return {"file": str(weights.path), "sha256": weights.sha256, **origin}


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
