"""Published numbers: what was measured, how, by whom, how sure it is, and what is not known."""

from __future__ import annotations

from importlib import resources
from typing import Literal

import yaml
from pydantic import field_validator, model_validator

from downstream.results.protocols import TransferProtocol
from pretrain.core.errors import InputError
from pretrain.core.settings import Settings, parse

Paper = Literal["hcl", "densecl", "orl", "moco", "detectron2", "hypvit", "hypmix"]
FILES = ("published.yaml", "published_retrieval.yaml")


class Benchmark(Settings):
    """A way of measuring that several rows share.

    Attributes:
        title: heading of its table.
        metric: COCO's AP of a detector, VOC07's, Recall@K, or something that is not measured here.
        note: what one must know about it.
        protocol: as far as it is known.
        spaces: of ``recall``: the embeddings and distances that its rankings may be by, as in the
            names of ``Result.metrics``.
        source: of the protocol.
    """

    title: str
    metric: Literal["coco", "voc07", "recall", "other"]
    note: str
    protocol: TransferProtocol
    spaces: tuple[str, ...] = ()
    source: str

    @model_validator(mode="after")
    def _ranked_by_something(self) -> Benchmark:
        if bool(self.spaces) != (self.metric == "recall"):
            raise ValueError("'spaces' are those of metric 'recall', and of it alone")
        return self


class Row(Settings):
    """One line of a published table.

    Attributes:
        paper: whose table it is.
        benchmark: name of the ``Benchmark``.
        name: method and pretraining data.
        preset: of fine-tuning for retrieval: the configuration that trains it here.
        model: the backbone, where it is not the benchmark's.
        data: pretraining data.
        metrics: in percent, named as in ``Result.metrics``, ``recall@K`` without the space; empty
            where no source gives them.
        deviations: standard deviation of a metric, where it is reported.
        epochs: of training; None is not known or has no meaning.
        runs: number of trainings of which the metric is the mean; None is not reported.
        source: where the numbers were read.
        confidence: the authors' own table, another's report of it, memory, or nothing.
        unknown: what no source says.
        remarks: what sets it apart from other rows of the benchmark.
    """

    paper: Paper
    benchmark: str
    name: str
    preset: str | None = None
    model: str | None = None
    data: str
    metrics: dict[str, float]
    deviations: dict[str, float] = {}
    epochs: int | None
    runs: int | None = None
    source: str
    confidence: Literal["table", "second-hand", "recall", "unknown"]
    unknown: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @field_validator("metrics")
    @classmethod
    def _in_percent(cls, metrics: dict[str, float]) -> dict[str, float]:
        if not all(1 < value <= 100 for value in metrics.values()):
            raise ValueError("must hold numbers in percent")
        return metrics

    @model_validator(mode="after")
    def _known_or_not(self) -> Row:
        if bool(self.metrics) == (self.confidence == "unknown"):
            raise ValueError("confidence is 'unknown' exactly where there are no metrics")
        return self


class PublishedNumbers(Settings):
    """What one file holds, or several together."""

    benchmarks: dict[str, Benchmark]
    rows: tuple[Row, ...]

    def of(self, paper: str) -> dict[str, list[Row]]:
        """The rows of one paper, or of ``all``, by benchmark in the order of the file."""
        rows = [row for row in self.rows if paper in (row.paper, "all")]
        found = {name: [r for r in rows if r.benchmark == name] for name in self.benchmarks}
        return {name: listed for name, listed in found.items() if listed}

    def protocol(self, row: Row) -> TransferProtocol:
        """How one row was measured."""
        shared = self.benchmarks[row.benchmark].protocol
        return shared if row.model is None else shared.model_copy(update={"model": row.model})


def load(text: str | None = None) -> PublishedNumbers:
    """The published numbers that come with the package, or those of ``text``.

    Raises:
        InputError: naming every fault of a file at once.
    """
    if text is not None:
        return _parse(text, FILES[0])
    package = resources.files("downstream.results")
    parts = [_parse(package.joinpath(name).read_text(encoding="utf-8"), name) for name in FILES]
    return PublishedNumbers(
        benchmarks={name: one for part in parts for name, one in part.benchmarks.items()},
        rows=tuple(row for part in parts for row in part.rows),
    )


def _parse(text: str, file: str) -> PublishedNumbers:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{file}: needs 'benchmarks' and 'rows'")
    published = parse(PublishedNumbers, values, source=file)
    for place, row in enumerate(published.rows):
        if row.benchmark not in published.benchmarks:
            raise InputError(f"{file}: 'rows.{place}.benchmark': no benchmark '{row.benchmark}'")
    return published


# A retrieval preset's first word, by the geometry that its loss has.
_KINDS = {"sphere": "sph", "ball": "hyp", "mixed": "hypmix"}


def rows_beside(geometry: str, backbone: str, data: str) -> list[Row]:
    """The published rows that a fine-tuning of these three can be laid beside, the surest first.

    Args:
        geometry: of the loss: ``sphere``, ``ball`` or ``mixed``.
        backbone: timm's name.
        data: name of the data set.
    """
    published = load()
    order = ("table", "second-hand", "recall")
    rows = [
        row
        for row in published.rows
        if row.preset is not None
        and row.preset.partition("_")[0] == _KINDS[geometry]
        and row.metrics
        and (row.model, published.protocol(row).data) == (backbone, data)
    ]
    return sorted(rows, key=lambda row: order.index(row.confidence))
