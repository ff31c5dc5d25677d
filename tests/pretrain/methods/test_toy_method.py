"""A method of one's own takes one file: `hcl pretrain` trains it, with and without the branch."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from small_network import SMALL

import pretrain.methods
from pretrain.__main__ import COMMAND
from pretrain.core.errors import InputError
from pretrain.methods import base
from pretrain.metrics import read_metrics
from pretrain.pretrained import load_pretrained

# The whole method: SimCLR (arXiv 2002.05709) on two views, one direction.
SIMCLR = '''
"""SimCLR on two views."""

import torch
import torch.nn.functional as F

from pretrain import distributed
from pretrain.data.plan import Crop, ViewPlan
from pretrain.geometry.precision import as_float
from pretrain.losses import info_nce_in_batch
from pretrain.methods.base import KeyedMethod, MethodSettings, register
from pretrain.models import Encoder


class ToySettings(MethodSettings):
    temperature: float = 0.5


@register("toy_simclr")
class ToySimCLR(KeyedMethod):
    settings_class = ToySettings

    def __init__(self, settings, context):
        super().__init__()
        self.settings, self.context = settings, context
        self.network = Encoder(context.encoder)

    @property
    def view_plan(self):
        crops = (Crop("one", "object_context", True), Crop("other", "object_context", True))
        return ViewPlan(self.context.size, crops)

    @property
    def encoder(self):
        return self.network

    @property
    def encoder_prefix(self):
        return "network."

    def forward(self, views):
        one, other = (F.normalize(self.encode_query(views[n]), dim=1) for n in ("one", "other"))
        loss = info_nce_in_batch(one, other, temperature=self.settings.temperature)
        agreement = (one * other).sum(1).mean().detach()
        return {"simclr": loss}, {"agreement": agreement}

    def encode_query(self, images):
        return as_float(self.network(images))

    @torch.no_grad()
    def encode_key(self, images, view):
        return distributed.all_gather(self.encode_query(images))
'''

STEPS = 4


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in the package's folder, as far as imports can tell; gone after the test."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "toy_simclr.py").write_text(SIMCLR)
    path = [*pretrain.methods.__path__, str(folder)]
    monkeypatch.setattr(pretrain.methods, "__path__", path)
    monkeypatch.setattr(base, "_methods", dict(base._methods))
    monkeypatch.delitem(sys.modules, "pretrain.methods.toy_simclr", raising=False)


def arguments(scenes: Path, output: Path, method: dict[str, Any], hcl: Any) -> list[str]:
    values = {
        "output": output,
        "data.annotations": scenes / "annotations/instances_train.json",
        "data.images": scenes / "train",
        "data.index": output.parent / "index",
        "data.workers": 0,
        "views.size": 32,
        "model.backbone": SMALL["backbone"],
        "model.options": SMALL["options"],
        "model.dim": 16,
        "method": method,
        "hcl": hcl,
        "optim.batch_size": 8,
        "train.epochs": None,
        "train.steps": STEPS,
        "train.log_every": 1,
        "train.threads": 1,
        "train.tensorboard": False,
    }
    return [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]


@pytest.mark.parametrize("hcl", [None, {"queue": 20}], ids=("alone", "hcl"))
def test_one_file_is_enough(toy: None, scenes: Path, tmp_path: Path, hcl: Any) -> None:
    run = tmp_path / "run"
    method = {"name": "toy_simclr", "temperature": 0.3}
    assert COMMAND.main(["quickstart", *arguments(scenes, run, method, hcl)]) == 0
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    terms = {"loss/simclr", "loss/hyperbolic"} if hcl else {"loss/simclr"}
    for line in lines:
        assert {name for name in line if name.startswith("loss/")} == terms
        assert all(math.isfinite(line[name]) for name in ("loss", "agreement", "gradient_norm"))
    found = load_pretrained(run)
    assert found.description.method == ("toy_simclr+hcl" if hcl else "toy_simclr")
    assert found.description.prefix == ("base.network." if hcl else "network.")


def test_its_settings_are_checked_like_all_others(toy: None, scenes: Path, tmp_path: Path) -> None:
    method = {"name": "toy_simclr", "temprature": 0.3}
    with pytest.raises(InputError, match=r"method\.temprature.*did you mean 'temperature'"):
        COMMAND.main(["quickstart", *arguments(scenes, tmp_path / "run", method, None)])


def test_without_the_file_it_is_unknown(scenes: Path, tmp_path: Path) -> None:
    method = {"name": "toy_simclr"}
    with pytest.raises(InputError, match=r"method\.name: unknown method 'toy_simclr'"):
        COMMAND.main(["quickstart", *arguments(scenes, tmp_path / "run", method, None)])
