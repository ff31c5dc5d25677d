"""Draw docs/methods/*.png: the views each method gets of one scene, and what it does with them.

    PYTHONPATH=. python tools/draw_methods.py

Views are cut and colored by the code that cuts and colors them in training.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from pretrain.config import load_settings
from pretrain.data.contact_sheet import COLORS, Sample, sample
from pretrain.data.index import Index
from pretrain.data.pairs import Neighbor, PairTable
from pretrain.datasets.source import open_index
from pretrain.methods.base import Context
from pretrain.methods.build import build_method

mpl.use("Agg")

OUTPUT = Path(__file__).parent.parent / "docs" / "methods"
SCENES, SIZE, PATCH = 40, 112, 64
FIRST, SECOND = {"blur_p": 1.0}, {"blur_p": 0.1, "solarize_p": 0.2}
TILE, GAP, MIDDLE = 1.0, 0.16, 2.5
"""Inches: side of a view, space between rows, width of what stands between two views."""


@dataclass(frozen=True)
class Pairing:
    """Two views and the loss between them."""

    query: str
    key: str
    left: str
    right: str
    loss: str
    below: str = ""


@dataclass(frozen=True)
class Drawing:
    """One picture."""

    method: dict[str, Any]
    pairings: tuple[Pairing, ...]
    hcl: bool = False
    views: tuple[str, ...] = ()


KEY = "f\N{PRIME}"

MOCO = {"name": "moco", "crops": "object_context", "norm_group": 2, "queue": 16}
BYOL_COLORS = {"view_1": FIRST, "view_2": SECOND}
DRAWINGS = {
    "moco": Drawing(
        MOCO, (Pairing("view_1", "view_2", "f", KEY, "InfoNCE, cosine", "queue of past keys"),)
    ),
    "densecl": Drawing(
        {**MOCO, "name": "densecl", "crops": "image", "grid": 4},
        (
            Pairing("view_1", "view_2", "f", KEY, "InfoNCE, cosine", "queue of past keys"),
            Pairing("view_1", "view_2", "cells", "cells", "best cell, InfoNCE", "queue of cells"),
        ),
    ),
    "byol": Drawing(
        {"name": "byol"},
        (Pairing("view_1", "view_2", "h∘f", KEY, "2 - 2 cos", "and the reverse"),),
    ),
    "orl": Drawing(
        {"name": "orl", "patch_size": PATCH},
        tuple(
            Pairing(f"{name}_1", f"{name}_2", f"h{sign}∘f", KEY, "2 - 2 cos", f"{name}, and back")
            for name, sign in (("global", "₁"), ("intra", "₂"), ("inter", "₃"))
        ),
    ),
    "hcl": Drawing(
        MOCO,
        (
            Pairing(
                "scene", "object", "exp₀∘f", f"exp₀∘{KEY}", "InfoNCE, -distance", "past objects"
            ),
        ),
        hcl=True,
        views=("scene", "object"),
    ),
}


def main() -> int:
    """Draw all."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        from pretrain.datasets.commands.scenes import COMMAND

        COMMAND.main(["-o", str(scenes), "--images", str(SCENES), "--val", "1", "--seed", "3"])
        for name, drawing in DRAWINGS.items():
            figure = draw(drawing, scenes)
            figure.savefig(OUTPUT / f"{name}.png", dpi=110)
            plt.close(figure)
    return 0


def draw(drawing: Drawing, scenes: Path) -> plt.Figure:
    """One picture: the scene with its windows, and every pair of views with its loss."""
    seen = look(drawing, scenes)
    names = drawing.views or tuple(seen.windows)
    colors = {name: np.array(COLORS[n]) / 255 for n, name in enumerate(names)}
    pictures = [seen.image] if seen.partner is None else [seen.image, seen.partner]
    rows = len(drawing.pairings)
    height = max(rows * (TILE + 0.2) + (rows - 1) * GAP + 0.2, 2.2)
    left = height if len(pictures) == 1 else height / 2 + 0.1
    width = left + 2 * TILE + MIDDLE + 0.6
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    side = (height - 0.2 * len(pictures)) / len(pictures)
    for place, picture in enumerate(pictures):
        top = height - 0.1 - place * (side + 0.2)
        of_partner = place == 1
        own = [n for n in names if (n == "inter_2") == of_partner]
        scene(
            axes, picture, (0.1, top - side, side), {n: (seen.windows[n], colors[n]) for n in own}
        )
    start = left + 0.2
    for row, pairing in enumerate(drawing.pairings):
        total = rows * (TILE + 0.2) + (rows - 1) * GAP
        bottom = (height + total) / 2 - row * (TILE + 0.2 + GAP) - TILE - 0.2
        pair(axes, pairing, seen, colors, (start, bottom))
    return figure


def look(drawing: Drawing, scenes: Path) -> Sample:
    """What training gets of the scene."""
    byol_like = drawing.method["name"] in ("byol", "orl")
    names = ("view",) if drawing.method["name"] == "byol" else ("global", "intra", "inter")
    recipes = {f"{name}_{n}": c for name in names for n, c in ((1, FIRST), (2, SECOND))}
    values: dict[str, Any] = {
        "data.annotations": str(scenes / "annotations/instances_train.json"),
        "data.images": str(scenes / "train"),
        "views.size": SIZE,
        "views.context": 96,
        "views.min_box_area": 1200,
        "model.head": "mlp_bn" if byol_like else "mlp",
        "method": drawing.method,
        "augment.views": recipes if byol_like else {},
    }
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    settings = load_settings("quickstart", words)
    index = open_index(settings.data)
    method = build_method(
        settings.method,
        settings.hcl if drawing.hcl else None,
        Context(settings.model, SIZE, 4, 4, 0),
    )
    plan = method.view_plan
    row = next(r for r in range(len(index)) if 4 <= len(large(index, r)) <= 6)
    pairs = pair_up(index) if plan.pairs else None
    return sample(
        index, plan, settings.views, settings.augment, seed=1, epoch=0, row=row, pairs=pairs
    )


def large(index: Index, row: int) -> np.ndarray:
    """The row's boxes of some size."""
    boxes = index.boxes(row)
    return np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).prod(1) > 1200)


def pair_up(index: Index) -> PairTable:
    """Objects of one category in different images, in place of what stage 2 would find."""
    rows: list[list[Neighbor]] = []
    for row in range(len(index)):
        found = []
        for other in (o for o in range(len(index)) if o != row):
            for mine in large(index, row):
                for its in large(index, other):
                    if index.labels(row)[mine] == index.labels(other)[its]:
                        boxes = index.boxes(row)[mine][None], index.boxes(other)[its][None]
                        found.append(Neighbor(other, *boxes))
        rows.append(found)
    return PairTable.build(index.fingerprint, rows)


def scene(
    axes: Axes,
    picture: Any,
    place: tuple[float, float, float],
    windows: dict[str, tuple[Any, Any]],
) -> None:
    """An image with its windows framed."""
    x, y, side = place
    height, width = picture.shape[1:]
    axes.imshow(picture.permute(1, 2, 0), extent=(x, x + side, y, y + side), aspect="auto")
    for (x1, y1, x2, y2), color in windows.values():
        corner = (x + x1 / width * side, y + side - y2 / height * side)
        size = ((x2 - x1) / width * side, (y2 - y1) / height * side)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=3.2))
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=1.8))


def pair(
    axes: Axes, pairing: Pairing, seen: Sample, colors: dict[str, Any], corner: tuple[float, float]
) -> None:
    """Two views, their encoders, and the loss between them."""
    x, y = corner
    right = x + TILE + MIDDLE
    for name, at in ((pairing.query, x), (pairing.key, right)):
        view = seen.after[name]
        side = TILE * (view.shape[-1] / SIZE if name.endswith(("_1", "_2")) else 1)
        offset = (TILE - side) / 2
        extent = (at + offset, at + offset + side, y + offset, y + offset + side)
        axes.imshow(view.permute(1, 2, 0), extent=extent, aspect="auto")
        axes.add_patch(
            Rectangle(
                (extent[0], extent[2]), side, side, fill=False, edgecolor=colors[name], lw=2.5
            )
        )
        axes.text(at + TILE / 2, y + TILE + 0.05, name, ha="center", va="bottom", fontsize=9)
    center, middle = x + TILE + MIDDLE / 2, y + TILE / 2
    box = FancyBboxPatch(
        (center - 0.62, middle - 0.17),
        1.24,
        0.34,
        boxstyle="round,pad=0.04",
        fc="#eef3f8",
        ec="#88a",
    )
    axes.add_patch(box)
    axes.text(center, middle, pairing.loss, ha="center", va="center", fontsize=8.5)
    for tail, head, label in (
        (x + TILE + 0.05, center - 0.7, pairing.left),
        (right - 0.05, center + 0.7, pairing.right),
    ):
        arrow = {"arrowstyle": "-|>", "color": "#444", "linewidth": 1.2}
        axes.annotate("", (head, middle), (tail, middle), arrowprops=arrow)
        axes.text((tail + head) / 2, middle + 0.08, label, ha="center", va="bottom", fontsize=9)
    if pairing.below:
        axes.text(
            center, middle - 0.28, pairing.below, ha="center", va="top", fontsize=8, color="#666"
        )


if __name__ == "__main__":
    sys.exit(main())
