"""What the trainer asks of a method, and how methods are found by name."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import model_validator
from torch import Tensor, nn

import pretrain.methods
from pretrain.core.errors import InputError
from pretrain.core.settings import Settings, parse
from pretrain.core.text import suggest
from pretrain.data.plan import ViewPlan
from pretrain.geometry.precision import as_float
from pretrain.models import Encoder, EncoderSettings


@dataclass(frozen=True)
class Context:
    """What a method may know of the run it is built for.

    Attributes:
        encoder: the network to pretrain.
        size: side of a view, pixels.
        batch_size: rows of a forward, all processes together.
        local_batch: rows of a forward of one process.
        seed: of the run.
    """

    encoder: EncoderSettings
    size: int
    batch_size: int
    local_batch: int
    seed: int


class MethodSettings(Settings):
    """Base of a method's settings.

    Attributes:
        name: chooses the method.
    """

    name: str

    @model_validator(mode="before")
    @classmethod
    def _earlier_spelling(cls, values: Any) -> Any:
        """Files of earlier versions say ``synchronise`` and ``batch_norm: synchronised``."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "synchronise" in values:
            values.setdefault("synchronize", values.pop("synchronise"))
        if values.get("batch_norm") == "synchronised":
            values["batch_norm"] = "synchronized"
        return values


Losses = dict[str, Tensor]
"""Scalar terms by name, already weighted: their sum is minimized."""

Metrics = dict[str, Tensor]
"""Scalars to log, detached."""


class Method(nn.Module, ABC):
    """A pretraining method.

    One step is ``begin_step``, ``forward`` with backward, the optimizer's step, ``end_step``.
    Where gradients are accumulated there are several forwards, each of a part of the step's rows:
    what is kept for ``end_step`` is kept in their order, and what is random in ``forward`` depends
    on its number in the step too. Everything that must survive a kill is a parameter or a buffer.
    """

    settings_class: ClassVar[type[MethodSettings]]

    @property
    @abstractmethod
    def view_plan(self) -> ViewPlan:
        """The crops ``forward`` wants."""

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """The query encoder: what is exported."""

    @property
    @abstractmethod
    def encoder_prefix(self) -> str:
        """Where the query encoder stands in ``state_dict``, with the final dot."""

    @abstractmethod
    def forward(self, views: Mapping[str, Tensor]) -> tuple[Losses, Metrics]:
        """Loss terms of the normalized views, each (B, 3, S, S)."""

    def begin_step(self, step: int, total_steps: int) -> None:
        """Before the step's forwards: what depends on the step, and the momentum update."""

    def rewind(self) -> None:
        """Back to just after ``begin_step``: the step's forwards will be done again."""

    def statistics(self) -> Metrics:
        """Of the last ``forward``, before the optimizer's step; for logged steps, on all ranks.

        Scalars, or vectors such as histograms, detached.
        """
        return {}

    def undecayed(self) -> list[nn.Parameter]:
        """Parameters that weight decay leaves alone."""
        return []

    def end_step(self) -> None:
        """After the optimizer: what must not change while gradients are computed."""


class KeyedMethod(Method):
    """A method with a momentum encoder: what a branch such as HCL needs to join it.

    Attributes:
        encoder_q: what is trained and exported.
        encoder_k: its moving average.
        context: of the run.
    """

    encoder_q: Encoder
    encoder_k: Encoder
    context: Context

    @property
    def encoder(self) -> Encoder:
        """The query encoder."""
        return self.encoder_q

    @property
    def encoder_prefix(self) -> str:
        """Its place in the state."""
        return "encoder_q."

    def encode_query(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D) float32, raw, with gradient."""
        return as_float(self.encoder_q(images))

    @abstractmethod
    def encode_key(self, images: Tensor, view: int) -> Tensor:
        """(B, 3, S, S) -> (world * B, D) float32, raw: the keys of the global batch, in order.

        Args:
            images: this rank's views.
            view: which of the step's key views this is; each is shuffled by its own permutation.
        """


MethodClass = type[Method]
_methods: dict[str, MethodClass] = {}


def register(name: str) -> Callable[[MethodClass], MethodClass]:
    """Class decorator: make a method available as ``method.name``."""

    def add(kind: MethodClass) -> MethodClass:
        _methods[name] = kind
        return kind

    return add


def method_names() -> list[str]:
    """The names of all methods; every module of this package is looked at."""
    for module in pkgutil.iter_modules(pretrain.methods.__path__):
        importlib.import_module(f"pretrain.methods.{module.name}")
    return sorted(_methods)


def method_class(name: str) -> MethodClass:
    """The method registered as ``name``.

    Raises:
        InputError: no such method.
    """
    names = method_names()
    if name not in names:
        hint = suggest(name, names, f"one of {', '.join(names)}")
        raise InputError(f"method.name: unknown method '{name}'; {hint}")
    return _methods[name]


def parse_method(values: Mapping[str, Any], *, source: str) -> MethodSettings:
    """The settings of the method that ``values["name"]`` names.

    Raises:
        InputError: no name, an unknown one, or faults in the method's own settings.
    """
    if not isinstance(values.get("name"), str):
        raise InputError(f"{source}: missing key 'method.name'")
    kind = method_class(values["name"]).settings_class
    return parse(kind, values, source=source, at="method")


def local_rows(gathered: Tensor, local_batch: int, rank: int) -> Tensor:
    """This rank's rows of a gathered tensor."""
    return gathered[rank * local_batch : (rank + 1) * local_batch]
