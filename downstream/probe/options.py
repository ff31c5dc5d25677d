"""What ``hcl probe`` is asked for; its arguments are made from this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pretrain.core.arguments import Option
from pretrain.core.errors import InputError
from pretrain.core.settings import Settings

Kind = Literal["linear", "knn"]
Labels = Literal["object", "image", "scene"]


class Options(Settings):
    """Of one probe.

    Attributes:
        run: run folder or checkpoint of `hcl pretrain` or `hcl retrieve train`; or
            `color-histogram`, what can be told without a network.
        train: learned from: ANNOTATIONS IMAGES in COCO's format, or one folder: a prepared index,
            or class folders.
        val: tested on, likewise.
        output: where result.json goes.
        labels: a sample is a labeled box, an image of one category, or a whole image with all
            its categories (scene: mean average precision).
        kind: of classifier; default: both, and linear for scenes.
        name: row in tables; default: name of the run folder.
        size: side of an image; default: of training.
        k: neighbors that vote.
        temperature: of the votes exp(cos/T).
        limit: take N samples of either side, spread evenly; default: all.
        on_bad_box: boxes without area or outside their image: refuse the set, or leave them out.
        batch_size: images in one forward.
        device: auto, cpu, cuda or one such as cuda:1.
        against: the --output of another probe with the same --val: print the difference and its
            paired bootstrap interval.
        fresh: measure again even if the result is there.
    """

    run: Annotated[Path, Option("RUN", positional=True)]
    train: Annotated[tuple[Path, ...], Option("PATH")]
    val: Annotated[tuple[Path, ...], Option("PATH")]
    output: Annotated[Path, Option("DIR", short="-o")]
    labels: Labels = "object"
    kind: tuple[Kind, ...] = ()
    name: Annotated[str | None, Option("ROW")] = None
    size: Annotated[int | None, Field(ge=1), Option("PX")] = None
    k: Annotated[int, Field(ge=1), Option("K")] = 20
    temperature: Annotated[float, Field(gt=0), Option("T")] = 0.07
    limit: Annotated[int | None, Field(ge=1), Option("N")] = None
    on_bad_box: Literal["error", "drop"] = "error"
    batch_size: Annotated[int, Field(ge=1), Option("N")] = 256
    device: str = "auto"
    against: Annotated[Path | None, Option("DIR")] = None
    fresh: bool = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The classifiers to fit.

        Raises:
            InputError: k-NN is asked for where samples have several labels.
        """
        if self.labels == "scene":
            if "knn" in self.kind:
                raise InputError("--kind knn: votes for one label; with --labels scene take linear")
            return ("linear",)
        return tuple(dict.fromkeys(self.kind or ("linear", "knn")))
