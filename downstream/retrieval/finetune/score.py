"""The evaluation of a fine-tuned network on its data set's protocol, to ``result.json``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from downstream.color_histogram import histograms
from downstream.results.published import rows_beside
from downstream.results.result import Result, write_result
from downstream.retrieval.datasets import LabeledImages, open_images
from downstream.retrieval.datasets.dataset_specs import KNOWN
from downstream.retrieval.datasets.labeled_images import coarse
from downstream.retrieval.finetune.finetuned_model import FinetunedModel
from downstream.retrieval.finetune.images import CenteredImages, sound, stack
from downstream.retrieval.finetune.loss import ball_points
from downstream.retrieval.finetune.network import Network
from downstream.retrieval.finetune.settings import FinetuneSettings, LossSettings
from downstream.retrieval.hyperbolicity import sampled_delta
from downstream.retrieval.measures import Measures, Ties, measure
from downstream.retrieval.neighbors import Engine
from downstream.retrieval.spaces import Ranking, ball, fused, sphere
from pretrain.core.errors import InputError
from pretrain.core.files import sha256
from pretrain.environment import machine, versions
from pretrain.geometry import poincare

KS = (1, 2, 4, 8)
COARSE = "coarse-"
"""Before the names of metrics by coarse classes, which some sets have besides their own."""


class TestEmbeddings(NamedTuple):
    """float32 features (N, F) and projections (N, D), on the CPU."""

    features: Tensor
    projections: Tensor


def test_images(
    images: LabeledImages, rows: Iterable[int], settings: FinetuneSettings
) -> Iterator[Tensor]:
    """Batches of images as testing sees them: resized, the center cut out; uint8 (n, 3, S, S).

    Raises:
        InputError: an image cannot be read.
    """
    size = settings.model.size
    loader: DataLoader[Tensor | InputError] = DataLoader(
        CenteredImages(images, size=size, resize=settings.test.resize or size),
        sampler=list(rows),
        batch_size=settings.test.batch,
        num_workers=settings.data.workers,
        collate_fn=stack,
    )
    return map(sound, loader)


@torch.inference_mode()
def embed(
    network: Network, images: LabeledImages, rows: Iterable[int], settings: FinetuneSettings
) -> TestEmbeddings:
    """Embed images as testing does, without augmentation, in float32.

    Raises:
        InputError: an image cannot be read.
    """
    device = next(network.parameters()).device
    architecture = network.architecture
    mean = torch.tensor(architecture.mean, device=device).view(3, 1, 1)
    std = torch.tensor(architecture.std, device=device).view(3, 1, 1)
    network.eval()
    features, projections = [], []
    # Full precision and fixed algorithms: the same numbers every time on the same machine.
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        for batch in test_images(images, rows, settings):
            pixels = (batch.to(device).float() / 255 - mean) / std
            feature, projection = network(pixels)
            features.append(feature.float().cpu())
            projections.append(projection.float().cpu())
    return TestEmbeddings(torch.cat(features), torch.cat(projections))


def rankings(embedded: TestEmbeddings, settings: LossSettings) -> dict[str, Ranking]:
    """The ways in which the images can be ranked, by name; those of a ball where there is one."""
    found: dict[str, Ranking] = {
        "backbone/euclidean": sphere(embedded.features),
        "head/euclidean": sphere(embedded.projections),
    }
    if settings.geometry == "sphere":
        return found
    # In float64 and without the released epsilons, whatever the training had.
    exact = settings.model_copy(update={"numerics": "exact"})
    points = ball_points(embedded.projections.double(), exact)
    found["head/hyperbolic"] = ball(points, settings.curvature)
    if settings.geometry == "mixed":
        found["head/fused"] = fused(
            embedded.projections,
            points,
            settings.curvature,
            temperature_spherical=settings.temperature_spherical,
            temperature_hyperbolic=settings.temperature_hyperbolic,
            weight=settings.weight,
        )
    return found


def score(
    tuned: FinetunedModel,
    output: Path,
    command: list[str],
    *,
    engine: Engine = "auto",
    delta_subsets: int = 0,
    histogram: bool = False,
    known: Mapping[str, float] | None = None,
) -> Result:
    """Embed the test images, rank them in every way, and write ``result.json``.

    Args:
        tuned: the network, on the device it shall run on, and the settings to go by.
        output: folder of the result.
        command: what the user typed, for the record.
        engine: first stage of the search, which does not change the answer.
        delta_subsets: measure the δ-hyperbolicity of the features on that many random subsets.
        histogram: rank by colors as well, for comparison.
        known: metrics of the same network and protocol to keep beside what is measured now.

    Raises:
        InputError: data or embeddings that cannot be used.
    """
    settings = tuned.settings
    start = time.monotonic()
    images = open_images(settings.data)
    rows, queries, gallery = images.tested()
    if len(rows) < 2:
        raise InputError(f"{images.root}: no images to test")
    embedded = embed(tuned.network, images, rows.tolist(), settings)
    embedding = time.monotonic()
    ks, ties = ks_of(settings), ties_of(settings)
    metrics = dict(known or {})
    found: Measures | None = None
    ways = rankings(embedded, settings.loss)
    if histogram:
        ways["colours/euclidean"] = sphere(histograms(test_images(images, rows.tolist(), settings)))
    labels = {COARSE: coarse(images).labels[rows]} if images.groups is not None else {}
    for kind, classes in {**labels, "": images.labels[rows]}.items():
        for name, ranking in ways.items():
            found = measure(
                ranking,
                classes,
                ks,
                queries=queries,
                gallery=gallery,
                ties=ties,
                engine=engine,
            )
            metrics |= {f"{kind}recall/{name}@{k}": value for k, value in found.recall.items()}
            metrics[f"{kind}r-precision/{name}"] = found.r_precision
            metrics[f"{kind}map@r/{name}"] = found.map_at_r
    assert found is not None, "there are always two rankings"
    if settings.loss.geometry != "sphere":
        points = ball_points(embedded.projections.double(), settings.loss)
        distances = poincare.distance_to_origin(points, settings.loss.curvature)
        metrics["norm/mean"], metrics["norm/std"] = float(distances.mean()), float(distances.std())
    if delta_subsets:
        delta = sampled_delta(embedded.features, times=delta_subsets, seed=settings.seed)
        metrics["delta/backbone"] = delta.relative
        metrics["delta/backbone/curvature"] = delta.curvature
    result = Result(
        task="retrieval",
        run=row_name(settings),
        metrics=metrics,
        protocol=protocol_of(settings, images),
        provenance={
            "command": shlex.join(command),
            "checkpoint": str(tuned.checkpoint),
            "weights_sha256": sha256(tuned.checkpoint),
            "step": tuned.step,
            "loss": settings.loss.model_dump(mode="json"),
            "backbone": tuned.network.architecture.backbone,
            "features": embedded.features.shape[1],
            "queries": found.queries,
            "gallery": int((images.splits == "gallery").sum()) or found.queries,
            "without_positive": found.without_positive,
            "versions": versions(),
            "machine": machine(next(tuned.network.parameters()).device),
            "seconds": {
                "embedding": round(embedding - start, 2),
                "search": round(time.monotonic() - embedding, 2),
            },
        },
    )
    write_result(result, output)
    return result


def row_name(settings: FinetuneSettings) -> str:
    """What tables call the run."""
    return settings.name or Path(settings.output).name


def protocol_of(settings: FinetuneSettings, images: LabeledImages) -> dict[str, Any]:
    """Everything that must agree for two results to be comparable."""
    return {
        "data": settings.data.name,
        "data_fingerprint": images.fingerprint,
        "size": settings.model.size,
        "resize": settings.test.resize or settings.model.size,
        "dim": settings.model.dim,
        "ks": list(ks_of(settings)),
        "ties": ties_of(settings),
    }


def ks_of(settings: FinetuneSettings) -> tuple[int, ...]:
    """The K to report."""
    if settings.test.ks is not None:
        return tuple(sorted(set(settings.test.ks)))
    known = KNOWN.get(settings.data.name)
    return known.ks if known is not None else KS


def ties_of(settings: FinetuneSettings) -> Ties:
    """The rule for ties: In-Shop's protocol has its own."""
    if settings.test.ties is not None:
        return settings.test.ties
    return "query" if settings.data.name == "inshop" else "index"


def _rows(result: Result, kind: str) -> list[str]:
    """A head and a line for each ranking; ``kind``: what the metrics' names begin with."""
    ks = result.protocol["ks"]
    start = f"{kind}map@r/"
    names = [key.removeprefix(start) for key in result.metrics if key.startswith(start)]
    lines = [f"{'':<22}" + "".join(f"{f'R@{k}':>8}" for k in ks) + f"{'mAP@R':>8}{'R-prec':>8}"]
    for name in names:
        values = [result.metrics[f"{kind}recall/{name}@{k}"] for k in ks]
        values += [result.metrics[f"{kind}{at_r}/{name}"] for at_r in ("map@r", "r-precision")]
        lines.append(f"{name:<22}" + "".join(f"{100 * value:8.1f}" for value in values))
    return lines


def summary(result: Result) -> str:
    """What the user sees."""
    facts = result.provenance
    lines = [
        f"{result.run}: {facts['queries']} queries, {facts['gallery']} images to search"
        + (f", {facts['without_positive']} without any to find" * bool(facts["without_positive"])),
        *_rows(result, ""),
    ]
    if any(key.startswith(COARSE) for key in result.metrics):
        lines += ["by coarse classes", *_rows(result, COARSE)]
    if "norm/mean" in result.metrics:
        mean, std = result.metrics["norm/mean"], result.metrics["norm/std"]
        lines.append(f"distance from the center of the ball: {mean:.4f}, deviation {std:.2g}")
    if "delta/backbone" in result.metrics:
        relative, c = result.metrics["delta/backbone"], result.metrics["delta/backbone/curvature"]
        lines.append(f"relative delta of the features: {relative:.3f}, which gives c = {c:.3f}")
    facts_of_rows = (facts["loss"]["geometry"], facts["backbone"], result.protocol["data"])
    for row in rows_beside(*facts_of_rows):
        numbers = ", ".join(f"{key.replace('recall', 'R')} {v}" for key, v in row.metrics.items())
        dim = row.benchmark.rpartition("_")[2]
        lines.append(f"published, {dim} dimensions ({row.confidence}): {numbers}")
    return "\n".join(lines)
