"""Settings that may change from start to start are settings that there are."""

from __future__ import annotations

import pytest

from downstream.analysis import finished_run
from downstream.retrieval.finetune import trainer
from pretrain import run
from slurm.explain import settings_of


@pytest.mark.parametrize(
    ("free", "kind"),
    [(run.FREE, "pretrain"), (trainer.FREE, "retrieval")],
    ids=["run", "finetune"],
)
def test_of_runs(free: set[str], kind: str) -> None:
    assert free <= settings_of(kind).keys()


def test_of_comparisons() -> None:
    own = finished_run.FREE - trainer.FREE
    assert own <= settings_of("retrieval").keys() | settings_of("pretrain").keys()
