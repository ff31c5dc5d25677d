"""One probe of one backbone: from a run to ``result.json``."""

from __future__ import annotations

import logging
import shlex
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from downstream.probe import linear, scores
from downstream.probe.intervals import SampleResults, intervals
from downstream.probe.network import open_network
from downstream.probe.options import Options
from downstream.probe.samples import Samples, choose_samples, features, source
from downstream.results.result import Result, finished, write_result
from downstream.retrieval.run_evaluation import device_of
from pretrain.core.errors import InputError
from pretrain.data.loader import choose_workers
from pretrain.environment import machine, versions
from pretrain.probes.encode import Forward
from pretrain.probes.knn import classify

log = logging.getLogger(__name__)

MOST = 2**31
"""Samples of either side."""
HELD_OUT = 5
"""One training image in so many judges the penalties."""


def probe(options: Options, command: list[str]) -> tuple[Result, bool]:
    """Do what is asked for; returns the result, and whether it was there before.

    Raises:
        InputError: weights, data or options that cannot be used.
    """
    start = time.monotonic()
    device = device_of(options.device)
    network = open_network(options.run)
    size = options.size or network.size
    train, val = choose_samples(
        source(options.train, options.on_bad_box, "--train"),
        source(options.val, options.on_bad_box, "--val"),
        options.labels,
        options.limit or MOST,
    )
    name = options.name or network.name
    protocol: dict[str, Any] = {
        "labels": options.labels,
        "size": size,
        "train_fingerprint": train.items.index.fingerprint,
        "val_fingerprint": val.items.index.fingerprint,
        "train_samples": len(train.items),
        "val_samples": len(val.items),
        "classifiers": list(options.kinds),
        "k": options.k,
        "temperature": options.temperature,
    }
    if not options.fresh:
        known = finished(options.output, "probe", name, protocol, network.identity)
        if known is not None:
            return known, True

    how = Forward(
        size=size,
        mean=network.mean,
        std=network.std,
        device=device,
        memory_format=torch.contiguous_format,
        autocast=nullcontext,
        batch=options.batch_size,
        threads=choose_workers(None),
    )
    backbone = network.backbone.to(device).eval()
    log.info("features of %d + %d samples at %d px", len(train.items), len(val.items), size)
    known_features, train = features(backbone, train, how)
    asked_features, val = features(backbone, val, how)
    for option, part in (("--train", train), ("--val", val)):
        if not len(part.items):
            raise InputError(f"{option}: none of its images can be read")
    for matrix in (known_features, asked_features):
        if not matrix.isfinite().all():
            raise InputError(
                f"{network.source}: its features are not finite: the run has diverged; "
                "take an earlier checkpoint"
            )
    encoded = time.monotonic()
    log.info("features in %.1f s", encoded - start)
    metrics = _reference(train, val)
    facts: dict[str, Any] = {}
    judged = SampleResults(val.items.rows, {})
    if "linear" in options.kinds:
        logits, facts = _linear(known_features, train, asked_features, device)
        if val.targets.ndim == 2:
            metrics["linear/map"] = scores.mean_average_precision(logits, val.targets)
            scored = logits.float().numpy(), val.targets.numpy()
            judged = SampleResults(val.items.rows, {}, *scored)
        else:
            metrics |= {
                "linear@1": scores.top(logits, val.targets, 1),
                "linear@5": scores.top(logits, val.targets, 5),
                "linear/per-class": scores.per_class(logits.argmax(dim=1), val.targets),
            }
            judged.right["linear@1"] = scores.named(logits, val.targets, 1).numpy()
    if "knn" in options.kinds:
        voted, _ = classify(
            normalize(asked_features.to(device), dim=1),
            normalize(known_features.to(device), dim=1),
            train.targets,
            k=options.k,
            temperature=options.temperature,
        )
        right = voted == val.targets
        metrics |= {
            "knn@1": float(right.double().mean()),
            "knn/per-class": scores.per_class(voted, val.targets),
        }
        judged.right["knn@1"] = right.numpy()
    result = Result(
        task="probe",
        run=name,
        metrics=metrics,
        protocol=protocol,
        provenance={
            "command": shlex.join(command),
            **network.identity,
            **network.facts,
            "categories": len(train.items.categories),
            "readable": {"train": len(train.items), "val": len(val.items)},
            **facts,
            "intervals": intervals(judged),
            "versions": versions(),
            "machine": machine(device),
            "seconds": {
                "features": round(encoded - start, 2),
                "classifiers": round(time.monotonic() - encoded, 2),
            },
        },
        artifacts={"samples": judged.write(options.output)},
    )
    write_result(result, options.output)
    return result, False


def _reference(train: Samples, val: Samples) -> dict[str, float]:
    """What can be reached without looking at the images."""
    if val.targets.ndim == 2:
        # Equal scores for all: the share of images that have the category.
        return {"chance/map": scores.mean_average_precision(val.targets * 0.0, val.targets)}
    frequency = torch.bincount(train.targets, minlength=len(train.items.categories))
    return {"majority": float((val.targets == frequency.argmax()).double().mean())}


def _linear(
    known: Tensor, train: Samples, asked: Tensor, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    """Logits of what is asked for, float64 (Q, C), and how they came about."""
    rows = torch.from_numpy(train.items.rows)
    place = torch.unique(rows, return_inverse=True)[1]
    held_out = place % HELD_OUT == HELD_OUT - 1
    if not held_out.any():
        raise InputError(f"--train: fewer than {HELD_OUT} images; the penalty cannot be chosen")
    several = train.targets.ndim == 2
    score = scores.mean_average_precision if several else partial(scores.top, k=1)
    classifier, tried = linear.choose(
        known,
        train.targets,
        held_out,
        score,
        classes=len(train.items.categories),
        device=device,
    )
    return classifier.logits(asked), {
        "penalty": classifier.penalty,
        "penalties": {f"{p:g}": s for p, s in tried.items()},
        "gradient": classifier.gradient,
    }
