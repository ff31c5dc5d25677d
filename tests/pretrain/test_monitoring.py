"""What a run records of itself, and what it says when a number is not finite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_network import SMALL
from torch import Tensor, nn

from pretrain import checkpoint, distributed
from pretrain.config import load_settings
from pretrain.loop import NonFiniteLossError
from pretrain.metrics import Recorder, read_metrics, split_values
from pretrain.trainer import Trainer


@pytest.fixture(scope="module")
def world() -> Iterator[distributed.World]:
    with distributed.process_group("cpu") as alone:
        yield alone


def trainer(scenes: Path, output: Path, world: distributed.World, **more: Any) -> Trainer:
    values = {
        "output": output,
        "data.annotations": scenes / "annotations/instances_train.json",
        "data.images": scenes / "train",
        "data.index": scenes.parent / "monitoring_index",
        "data.workers": 0,
        "views.size": 32,
        "model.backbone": SMALL["backbone"],
        "model.options": SMALL["options"],
        "model.dim": 16,
        "method.queue": 20,
        "method.norm_group": 4,
        "hcl.queue": 20,
        "optim.batch_size": 8,
        "optim.lr": 0.01,
        "train.epochs": None,
        "train.steps": 4,
        "train.log_every": 1,
        "train.checkpoint_every": 2,
        "train.threads": 1,
        "train.tensorboard": False,
    }
    values.update({key.replace("__", "."): value for key, value in more.items()})
    arguments = [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]
    return Trainer(load_settings("quickstart", arguments), world, ["test"])


def test_statistics__stand_in_the_metrics(
    scenes: Path, tmp_path: Path, world: distributed.World
) -> None:
    trainer(scenes, tmp_path / "run", world, train__steps=2, train__tensorboard=True).fit()
    for line in read_metrics(tmp_path / "run/metrics.jsonl"):
        assert line["curvature"] == pytest.approx(0.05)
        assert line["gradient_norm"] > 0
        for crop in ("scene", "object"):
            shares: Any = line[f"ball/{crop}/norm/histogram"]
            assert len(shares) == 20
            assert sum(shares) == pytest.approx(1)
            assert 0 < line[f"ball/{crop}/norm/q50"] < 1
            assert line[f"ball/{crop}/projected"] == 0
        assert line["hyperbolic/logit/min"] < line["hyperbolic/logit/max"] < 0
        assert 1 <= line["hyperbolic/negatives/effective"] <= 20
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_statistics__off(scenes: Path, tmp_path: Path, world: distributed.World) -> None:
    trainer(scenes, tmp_path / "run", world, train__steps=1, hcl__statistics=False).fit()
    (line,) = read_metrics(tmp_path / "run/metrics.jsonl")
    assert not [name for name in line if name.startswith(("ball/", "hyperbolic/"))]


def test_learned_curvature__takes_no_weight_decay(
    scenes: Path, tmp_path: Path, world: distributed.World
) -> None:
    learned = trainer(scenes, tmp_path / "run", world, hcl__learn_curvature=True)
    decayed, undecayed = learned.stepper.optimizer.param_groups
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (1e-4, 0)
    assert [p is learned.method.log_curvature for p in undecayed["params"]] == [True]
    every = [p for p in learned.method.parameters() if p.requires_grad]
    assert len(decayed["params"]) + 1 == len(every)


class Breaks:
    """A forward hook that spoils the output of one training step, by real operations."""

    def __init__(self, trained: Trainer, step: int, backward: bool) -> None:
        self.trained, self.step, self.backward = trained, step, backward

    def __call__(self, part: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if self.trained.step != self.step:
            return output
        zero = output - output.detach()
        return output + zero.square().sqrt() if self.backward else output / zero


@pytest.mark.parametrize("backward", [False, True])
def test_nan__stops_the_run_and_names_its_origin(
    scenes: Path, tmp_path: Path, world: distributed.World, backward: bool
) -> None:
    run = tmp_path / "run"
    broken = trainer(scenes, run, world)
    network: Any = broken.method.encoder.backbone
    network.layer2.register_forward_hook(Breaks(broken, 3, backward))
    with pytest.raises(NonFiniteLossError) as error:
        broken.fit()
    message = str(error.value)
    if backward:
        assert message.startswith(
            "step 3: a gradient (or a loss on another rank) not finite (euclidean"
        )
        assert "SqrtBackward0 made a non-finite number" in message
    else:
        assert message.startswith(
            "step 3: loss euclidean, loss hyperbolic not finite (euclidean nan, "
        )
        assert "First: aten.div.Tensor in base.encoder_q.backbone.layer2 made" in message
    assert json.loads((run / "run.json").read_text())["error"].startswith("NonFiniteLossError")
    found = checkpoint.load_latest(run / "checkpoints")
    assert found is not None
    assert found[1]["step"] == 2
    # Nothing of the broken step has reached the weights.
    assert all(bool(torch.isfinite(p).all()) for p in broken.method.parameters())
    (saved,) = (run / "nonfinite").glob("*.pt")
    state = torch.load(saved, weights_only=True)
    assert state["culprit"] in message
    assert len(state["rows"]) == 8


def test_weights_that_were_not_finite__are_named(
    scenes: Path, tmp_path: Path, world: distributed.World
) -> None:
    broken = trainer(scenes, tmp_path / "run", world)
    network: Any = broken.method.encoder.backbone
    with torch.no_grad():
        network.layer3[0].conv1.weight[0, 0] = float("nan")
    expected = "parameter 'base.encoder_q.backbone.layer3.0.conv1.weight' was not finite before"
    with pytest.raises(NonFiniteLossError, match=expected):
        broken.fit()


def test_histograms__are_lists_in_the_file_and_histograms_in_tensorboard(tmp_path: Path) -> None:
    tensors = {"loss": torch.tensor(1.0), "shares": torch.tensor([0.25, 0.75])}
    values = split_values([1.0, 0.25, 0.75], tensors)
    assert values == {"loss": 1.0, "shares": [0.25, 0.75]}
    recorder = Recorder(tmp_path / "metrics.jsonl", tmp_path / "events", 0, 1)
    recorder.log(1, {**values, "lr": 0.1, "images_per_s": 1.0, "data_wait": 0.0})
    recorder.close()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["shares"] == [0.25, 0.75]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    (histogram,) = events.Histograms("shares")
    assert histogram.histogram_value.bucket == [0.25, 0.75]
    assert histogram.histogram_value.bucket_limit == [0.5, 1.0]
