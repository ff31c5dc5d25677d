"""What ``hcl retrieve`` is asked for; its arguments are made from this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pretrain.core.arguments import Option
from pretrain.core.settings import Settings


class Options(Settings):
    """Of one evaluation.

    Attributes:
        run: run folder of `hcl pretrain`, or a checkpoint.
        annotations: COCO-format instances.
        images: folder of their images.
        output: where result.json goes.
        name: row in tables; default: name of the run folder.
        ks: of Recall@K.
        context: share of its extent by which a box grows on every side.
        size: side of a crop; default: that of training.
        min_side: leave out boxes whose shorter side is less.
        max_per_category: take N objects of a larger category, spread evenly over the file.
        on_bad_box: boxes without area or outside their image: refuse the set, or leave them out.
        curvature: c of the ball for runs trained without one; default: 0.05.
        batch_size: crops per forward.
        device: auto, cpu, cuda or one such as cuda:1.
        search: first stage of the exact search; the result is the same.
        fresh: measure again even if the result is there.
    """

    run: Annotated[Path, Option("RUN", positional=True)]
    annotations: Annotated[Path, Option("JSON")]
    images: Annotated[Path, Option("DIR")]
    output: Annotated[Path, Option("DIR", short="-o")]
    name: Annotated[str | None, Option("ROW")] = None
    ks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Option("K")] = (1, 5, 10)
    context: Annotated[float, Field(ge=0), Option("SHARE")] = 0.1
    size: Annotated[int | None, Field(ge=1), Option("PX")] = None
    min_side: Annotated[float, Field(ge=0), Option("PX")] = 16.0
    max_per_category: Annotated[int | None, Field(ge=1), Option("N")] = None
    on_bad_box: Literal["error", "drop"] = "error"
    curvature: Annotated[float | None, Option("C")] = None
    batch_size: Annotated[int, Field(ge=1), Option("N")] = 128
    device: str = "auto"
    search: Literal["auto", "faiss", "torch"] = "auto"
    fresh: bool = False
