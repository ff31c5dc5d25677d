"""Published numbers of metric learning: what was measured, by whom, how sure it is."""

from __future__ import annotations

from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import field_validator, model_validator

from pretrain.errors import InputError
from pretrain.settings import Settings, parse

FILE = "published.yaml"


class Benchmark(Settings):
    """A way of measuring that several rows share.

    Attributes:
        title: heading of its table.
        note: what one must know about it.
        protocol: data set, dimension ranked in, K.
        source: of the protocol.
    """

    title: str
    note: str
    protocol: dict[str, Any]
    source: str


KINDS = {"sphere": "sph", "ball": "hyp", "mixed": "hypmix"}
BACKBONES = {
    "vit_small_patch16_224": "vits",
    "deit_small_distilled_patch16_224": "deits",
    "vit_small_patch16_224.dino": "dino",
}


class Row(Settings):
    """One line of a published table.

    Attributes:
        paper: whose table it is.
        benchmark: name of the ``Benchmark``.
        name: as the paper calls it.
        preset: the configuration that trains it here.
        data: what the backbone was pretrained on.
        metrics: in percent, ``recall@K``; empty where no source gives them.
        epochs: of fine-tuning; None is not known or has no meaning.
        runs: number of trainings of which the metric is the mean; None is not reported.
        source: where the numbers were read.
        confidence: the authors' own table, another's report of it, memory, or nothing.
        unknown: what no source says.
    """

    paper: Literal["hypvit", "hypmix"]
    benchmark: str
    name: str
    preset: str | None
    data: str
    metrics: dict[str, float]
    epochs: int | None
    runs: int | None = None
    source: str
    confidence: Literal["table", "second-hand", "recall", "unknown"]
    unknown: tuple[str, ...] = ()

    @field_validator("metrics")
    @classmethod
    def _in_percent(cls, metrics: dict[str, float]) -> dict[str, float]:
        if not all(1 < value <= 100 for value in metrics.values()):
            raise ValueError("must be in percent")
        return metrics

    @model_validator(mode="after")
    def _known_or_not(self) -> Row:
        if bool(self.metrics) == (self.confidence == "unknown"):
            raise ValueError("confidence is 'unknown' exactly where there are no metrics")
        return self


class Published(Settings):
    """The whole file."""

    benchmarks: dict[str, Benchmark]
    rows: tuple[Row, ...]


def load(text: str | None = None) -> Published:
    """The published numbers that come with the package, or those of ``text``.

    Raises:
        InputError: naming every fault of the file at once.
    """
    if text is None:
        text = resources.files("downstream.retrieval").joinpath(FILE).read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise InputError(f"{FILE}: needs 'benchmarks' and 'rows'")
    published = parse(Published, values, source=FILE)
    for place, row in enumerate(published.rows):
        if row.benchmark not in published.benchmarks:
            raise InputError(f"{FILE}: 'rows.{place}.benchmark': no benchmark '{row.benchmark}'")
    return published


def rows_beside(geometry: str, backbone: str, data: str) -> list[Row]:
    """The published rows that a run of these three can be laid beside, the surest first."""
    preset = f"{KINDS[geometry]}_{BACKBONES.get(backbone, '?')}_{data}"
    order = ("table", "second-hand", "recall")
    rows = [row for row in load().rows if row.preset == preset and row.metrics]
    return sorted(rows, key=lambda row: order.index(row.confidence))
