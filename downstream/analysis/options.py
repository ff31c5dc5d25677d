"""What each analysis is asked for; its arguments are made from this. Nothing heavy is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pretrain.core.arguments import Option
from pretrain.core.errors import InputError
from pretrain.core.settings import Settings

# Where a path is meant to stand: a setting.
_OVERRIDE = re.compile(r"[a-z_]+(\.\w+)+=")

Count = Annotated[int, Field(ge=1)]
Temperatures = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Option("T")]
Seed = Annotated[int, Field(ge=0), Option("N")]
Items = Annotated[tuple[str, ...], Option("RUN", positional=True)]


class Options(Settings):
    """Of every analysis.

    Attributes:
        output: where figures, report.html and analysis.json go.
        fresh: replace another analysis in that folder.
    """

    output: Annotated[Path, Option("DIR", short="-o")]
    fresh: bool = False

    def chosen(self) -> dict[str, Any]:
        """What is asked for, without where and how; plain values."""
        return self.model_dump(mode="json", exclude={"output", "fresh", "device", "items"})


class OfRuns(Options):
    """Of an analysis of networks.

    Attributes:
        items: run folder or checkpoint of `hcl retrieve train`; of `hcl pretrain`, with
            --annotations and --images; or an .npz with embeddings (N, D), labels (N,) and, where
            there is a ball, ball (N, D) and c. key=value tests fine-tuned runs on other data, as
            in data.root=DIR.
        device: auto, cpu, cuda or one such as cuda:1.
    """

    MOST: ClassVar[int | None] = None
    """Runs of one analysis."""

    items: Items
    device: str = "auto"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings among the items."""
        return tuple(w for w in self.items if _OVERRIDE.match(w) and not Path(w).exists())

    @property
    def runs(self) -> tuple[Path, ...]:
        """The others.

        Raises:
            InputError: none or too many.
        """
        found = tuple(Path(word) for word in self.items if word not in self.overrides)
        if not found or (self.MOST is not None and len(found) > self.MOST):
            wanted = {1: "one RUN", 2: "one or two RUNs"}.get(self.MOST or 0, "at least one RUN")
            raise InputError(f"needs {wanted}, got {len(found)}; see --help")
        return found

    def chosen(self) -> dict[str, Any]:
        """Also the runs and the settings, told apart."""
        runs = [str(run) for run in self.runs]
        return super().chosen() | {"overrides": list(self.overrides), "runs": runs}


class OfObjects(OfRuns):
    """Of an analysis that also takes pretraining runs.

    Attributes:
        annotations: COCO-format objects, for pretraining.
        images: folder of their images.
    """

    annotations: Annotated[Path | None, Option("JSON")] = None
    images: Annotated[Path | None, Option("DIR")] = None


class HardNegativesOptions(OfRuns):
    """Weights of the negatives against their rank for sphere, ball and mixture.

    Also overlap and gallery of the hardest negatives of two models, or of one in both geometries.

    Attributes:
        items: run folder or checkpoint of `hcl retrieve train`; a second one to compare it with;
            and key=value to test both on other data, such as data.root=DIR.
        anchors: drawn.
        ranks: hardest negatives whose overlap is taken.
        gallery: anchors in the gallery.
        temperature_spherical: show the sphere at these temperatures; default: the run's own.
        temperature_hyperbolic: show the ball at these temperatures; default: the run's own.
        seed: of what is drawn.
    """

    MOST = 2

    anchors: Annotated[Count, Option("N")] = 200
    ranks: Annotated[Count, Option("N")] = 100
    gallery: Annotated[Count, Option("N")] = 4
    temperature_spherical: Temperatures = ()
    temperature_hyperbolic: Temperatures = ()
    seed: Seed = 0


class DeltaOptions(OfObjects):
    """Delta-hyperbolicity of features and embeddings, and the curvature that would fit.

    By both of the definitions in use.

    Attributes:
        samples: points of a subset.
        repeats: random subsets.
        split: which images of a fine-tuned run's set.
        seed: of what is drawn.
    """

    MOST = 1

    samples: Annotated[int, Field(ge=4), Option("N")] = 2000
    repeats: Annotated[Count, Option("N")] = 10
    split: Literal["test", "train"] = "test"
    seed: Seed = 0


class NormsOptions(OfObjects):
    """Norms of embeddings and distances from the center of the ball, by run and by class.

    Of pretraining runs also against the number of objects.
    """


class SweepOptions(Options):
    """A metric of finished runs over one of their settings, mean and deviation over seeds.

    The setting may be a temperature or the curvature, for example.

    Attributes:
        runs: folder of a finished run of `hcl retrieve train`, or of a result of `hcl retrieve`.
        over: the setting, as in loss.curvature; loss.temperature: that of the run's own geometry.
        metric: of result.json; 'own' stands for the ranking of the run's own geometry.
        by: a line for each value of it, as in loss.geometry.
        allow: other settings in which the runs may differ.
    """

    runs: Annotated[tuple[Path, ...], Option("RUN", positional=True)]
    over: Annotated[str, Option("KEY")]
    metric: Annotated[tuple[str, ...], Option("NAME")] = ("recall/head/own@1",)
    by: Annotated[str | None, Option("KEY")] = None
    allow: Annotated[tuple[str, ...], Option("KEY")] = ()


KINDS: dict[str, type[Options]] = {
    "hard-negatives": HardNegativesOptions,
    "delta": DeltaOptions,
    "norms": NormsOptions,
    "sweep": SweepOptions,
}
