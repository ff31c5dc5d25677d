"""Figures of the weights of negatives and of the overlap of the hardest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from downstream.analysis import draw
from downstream.analysis.negative_stats import NegativeStats
from downstream.figures.style import color_of
from downstream.retrieval.spaces import Floats

LEAST_WEIGHT = 1e-9


def weight_figures(
    names: Sequence[str], weighed: Sequence[Sequence[NegativeStats]], own: Sequence[NegativeStats]
) -> list[draw.NamedFigure]:
    """p(x⁻) against rank: each run under all geometries, then two runs by their own losses.

    Args:
        names: of one or two runs.
        weighed: of each run, by several weightings.
        own: of each run, by that of its loss.
    """
    figures = []
    for number, (name, listed) in enumerate(zip(names, weighed, strict=True)):
        seen: dict[str, int] = {}
        lines = []
        for each in listed:
            place = seen[each.weighting.geometry] = seen.get(each.weighting.geometry, -1) + 1
            style = (draw.GEOMETRIES[each.weighting.geometry], draw.line(place))
            own_mark = " (its loss)" if each.weighting.own else ""
            lines.append((f"{each.weighting.label}{own_mark}", each, *style))
        caption = (
            f"{name}: weight p(x⁻) of a negative against its rank, and the share of all negatives' "
            "weight up to it, for the same embeddings under each geometry"
        )
        figures.append(_weights("weights" if number == 0 else "weights_other", caption, lines))
    if len(names) == 2:
        lines = [
            (f"{draw.brief(name)}: {each.weighting.label}", each, color_of(number), draw.line(0))
            for number, (name, each) in enumerate(zip(names, own, strict=True))
        ]
        caption = "Each model by its own loss: weight p(x⁻) against rank, and its share up to there"
        figures.append(_weights("weights_own", caption, lines))
    return figures


def _weights(
    name: str, caption: str, lines: Sequence[tuple[str, NegativeStats, str, str]]
) -> draw.NamedFigure:
    with draw.figure_style():
        figure, (left, right) = draw.panels(2)
        for label, each, color, style in lines:
            mean = each.weights.mean(0)
            low, high = np.percentile(each.weights, (10, 90), axis=0)
            left.plot(each.at, mean, style, color=color, lw=1.5, label=label)
            floor = LEAST_WEIGHT / 10
            left.fill_between(
                each.at,
                np.maximum(low, floor),
                np.maximum(high, floor),
                color=color,
                alpha=0.12,
                lw=0,
            )
            right.plot(each.at, 100 * each.shares.mean(0), style, color=color, lw=1.5)
        top = max(float(np.percentile(each.weights, 90, axis=0).max()) for _, each, *_ in lines)
        least = min(float(each.weights.mean(0).min()) for _, each, *_ in lines)
        left.set(xlabel="rank of the negative", ylabel="p(x⁻)")
        left.set_ylim(max(least / 2, LEAST_WEIGHT), min(max(top * 2, 10 * LEAST_WEIGHT), 1.5))
        right.set(xlabel="rank of the negative", ylabel="share of the weight, %")
        right.set_ylim(0, 103)
        for axis in (left.xaxis, left.yaxis, right.xaxis):
            draw.logarithmic(axis)
        figure.legend(loc="outside upper left", ncols=2 if len(lines) > 3 else len(lines))
    return draw.NamedFigure(
        name, f"{caption}. Mean over anchors; band: 10th to 90th percentile.", figure
    )


def overlap_figure(
    overlaps: Sequence[tuple[str, str, Floats]], chance: float, anchors: int
) -> draw.NamedFigure:
    """Shares of the hardest negatives in common, against how many are taken.

    Args:
        overlaps: names of two rankings and their overlap for k = 1..K.
        chance: overlap at k = 1 of rankings at random.
        anchors: how many the overlaps are means of.
    """
    with draw.figure_style():
        figure, axes = draw.canvas(7.2, 3.4)
        length = 1
        for number, (first, second, curve) in enumerate(overlaps):
            length = len(curve)
            ks = np.arange(1, length + 1)
            label = f"{draw.brief(first)}\n{draw.brief(second)}"
            style = (draw.line(number), color_of(number))
            axes.plot(ks, 100 * curve, style[0], color=style[1], lw=1.6, label=label)
        ks = np.arange(1, length + 1)
        axes.plot(ks, 100 * np.minimum(ks * chance, 1), color=draw.INK, lw=0.8, label="chance")
        axes.set(xlabel="k hardest negatives of an anchor", ylabel="in both lists, %")
        if length > 20:
            draw.logarithmic(axes.xaxis)
        axes.set_ylim(0, 103)
        figure.legend(loc="outside right upper", labelspacing=1)
    caption = f"Hardest negatives that two rankings have in common, mean over {anchors} anchors."
    return draw.NamedFigure("overlap", caption, figure)
