"""Published numbers: what was measured, how, by whom, how sure it is, and what is not known."""

from __future__ import annotations

from importlib import resources
from typing import Literal

import yaml
from pydantic import field_validator

from downstream.compare.protocols import DetectionProtocol
from pretrain.errors import InputError
from pretrain.settings import Settings, parse

PAPERS = ("hcl", "densecl", "orl", "moco", "detectron2")
Paper = Literal["hcl", "densecl", "orl", "moco", "detectron2"]
FILE = "published.yaml"


class Benchmark(Settings):
    """A way of measuring that several rows share.

    Attributes:
        title: heading of its table.
        metric: COCO's AP of a detector, VOC07's, or something else.
        note: what one must know about it.
        protocol: as far as it is known.
        source: of the protocol.
    """

    title: str
    metric: Literal["coco", "voc07", "other"]
    note: str
    protocol: DetectionProtocol
    source: str


class Row(Settings):
    """One line of a published table.

    Attributes:
        paper: whose table it is.
        benchmark: name of the ``Benchmark``.
        name: method and pretraining data.
        data: pretraining data.
        metrics: in percent, named as in ``Result.metrics``.
        deviations: standard deviation of a metric, where it is reported.
        epochs: of pretraining; None is not known or has no meaning.
        runs: number of trainings of which the metric is the mean; None is not reported.
        source: where the numbers were read.
        confidence: the authors' own table, another's report of it, or memory.
        unknown: what no source says.
        remarks: what sets it apart from other rows of the benchmark.
    """

    paper: Paper
    benchmark: str
    name: str
    data: str
    metrics: dict[str, float]
    deviations: dict[str, float] = {}
    epochs: int | None
    runs: int | None = None
    source: str
    confidence: Literal["table", "second-hand", "recall"]
    unknown: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @field_validator("metrics")
    @classmethod
    def _in_percent(cls, metrics: dict[str, float]) -> dict[str, float]:
        if not metrics or not all(1 < value <= 100 for value in metrics.values()):
            raise ValueError("must hold numbers in percent")
        return metrics


class Published(Settings):
    """The whole file."""

    benchmarks: dict[str, Benchmark]
    rows: tuple[Row, ...]

    def of(self, paper: str) -> dict[str, list[Row]]:
        """The rows of one paper, or of ``all``, by benchmark in the order of the file."""
        rows = [row for row in self.rows if paper in (row.paper, "all")]
        found = {name: [r for r in rows if r.benchmark == name] for name in self.benchmarks}
        return {name: listed for name, listed in found.items() if listed}


def load(text: str | None = None) -> Published:
    """The published numbers that come with the package, or those of ``text``.

    Raises:
        InputError: naming every fault of the file at once.
    """
    if text is None:
        text = resources.files("downstream.compare").joinpath(FILE).read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{FILE}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{FILE}: needs 'benchmarks' and 'rows'")
    published = parse(Published, values, source=FILE)
    for place, row in enumerate(published.rows):
        if row.benchmark not in published.benchmarks:
            raise InputError(f"{FILE}: 'rows.{place}.benchmark': no benchmark '{row.benchmark}'")
    return published
