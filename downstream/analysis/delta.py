"""``hcl analyze delta``: how tree-like embeddings are, and the curvature that would fit them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from downstream.analysis import draw
from downstream.analysis.embeddings import RunEmbeddings, load_all
from downstream.analysis.findings import Findings
from downstream.analysis.options import DeltaOptions
from downstream.figures.style import color_of
from downstream.retrieval.hyperbolicity import DISK, Delta, Distances, mean_delta, subset_deltas
from pretrain.geometry import poincare


def analyze(options: DeltaOptions) -> Findings:
    """δ of the features, of the head's outputs and directions, and of the points of the ball.

    Raises:
        InputError: embeddings that cannot be used.
    """
    (run,) = load_all(options)
    measured = {
        name: subset_deltas(
            points, distances, samples=options.samples, times=options.repeats, seed=options.seed
        )
        for name, (points, distances) in spaces(run).items()
    }
    taken = min(options.samples, len(run.projections))
    count = len(next(iter(measured.values())))
    few = (
        f"{run.source.name}: {taken} points are few: δ is a maximum over quadruples and grows with "
        "their number, so compare sets of equal size only"
    )
    values: dict[str, Any] = {
        "points": len(run.projections),
        "points of a subset": taken,
        "subsets": count,
        **{name: summary(listed) for name, listed in measured.items()},
    }
    return Findings(
        title=f"δ-hyperbolicity: {run.source.name}",
        sources=[run.source],
        values=values,
        drawn=[_figure(measured, taken)],
        notes=[
            "Two relative values are in circulation. 2δ/diameter is that of Khrulkov et al. (2020) "
            "and of Hyp-ViT's own measurement; c = (0.144/(2δ/diameter))² belongs to it. "
            "δ/diameter, half of it, is what the library beside Hyp-ViT returns; put into the same "
            "formula it would give 4c.",
            "δ is Gromov's at one base point, the first of each subset: at most twice smaller than "
            "over all base points. 0 is a tree.",
            "Hyp-ViT measures backbone features, not normalized, of the training split, on 100 "
            "subsets of 2,000; here that is --split train --samples 2000 --repeats 100.",
        ],
        warnings=[] if taken >= 1000 else [few],
    )


def spaces(run: RunEmbeddings) -> dict[str, tuple[Tensor, Distances]]:
    """Points and their metric, by name."""
    found: dict[str, tuple[Tensor, Distances]] = {}
    if run.features is not None:
        found["backbone, Euclidean"] = (run.features, _euclidean)
    found["head, Euclidean"] = (run.projections, _euclidean)
    found["head, directions"] = (F.normalize(run.projections, dim=-1), _euclidean)
    if run.points is not None and run.c is not None:
        c = run.c
        found[f"ball, c={c:g}"] = (
            run.points,
            lambda points: poincare.pairwise_distance(points, points, c),
        )
    return found


def summary(measured: list[Delta]) -> dict[str, float | None]:
    """Means over subsets; both definitions of the relative value; c of the mean 2δ/diameter."""
    relative = np.array([each.relative for each in measured])
    mean = mean_delta(measured)
    deviation = float(relative.std(ddof=1)) if len(relative) > 1 else None
    return {
        "δ": mean.delta,
        "diameter": mean.diameter,
        "2δ/diameter": mean.relative,
        "2δ/diameter, deviation over subsets": deviation,
        "δ/diameter": mean.relative / 2,
        "c": mean.curvature if mean.relative > 0 else None,
    }


def _euclidean(points: Tensor) -> Tensor:
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def _figure(measured: dict[str, list[Delta]], taken: int) -> draw.NamedFigure:
    with draw.figure_style():
        figure, axes = draw.canvas(6.4, 1.25 + 0.42 * len(measured))
        for place, listed in enumerate(measured.values()):
            relative = np.array([each.relative for each in listed])
            axes.plot(
                relative,
                np.full(len(relative), place),
                "o",
                ms=3,
                alpha=0.35,
                mew=0,
                color=color_of(place),
            )
            mean = float(relative.mean())
            axes.plot([mean], [place], "D", ms=6, color=color_of(place))
            told = f"{mean:.3f}, c = {(DISK / mean) ** 2:.3g}" if mean > 0 else "0, a tree"
            axes.annotate(
                told,
                (mean, place),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.axvline(DISK, color=draw.INK, ls="--", lw=0.8, label="Poincaré disk, c = 1")
        axes.set_yticks(range(len(measured)), list(measured))
        axes.set_ylim(len(measured) - 0.5, -0.7)
        axes.set_xlim(
            0, max(0.5, 1.15 * max(each.relative for v in measured.values() for each in v))
        )
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("relative hyperbolicity 2δ/diameter")
        figure.legend(loc="outside upper right")
    caption = (
        f"Relative hyperbolicity of subsets of {taken} points (dots) and its mean (diamond), with "
        "the c = (0.144/(2δ/diameter))² that would fit; the further left, the more like a tree."
    )
    return draw.NamedFigure("delta", caption, figure)
