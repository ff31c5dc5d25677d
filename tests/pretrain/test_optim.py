"""Optimizers, their groups and the rate of every step."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import nn

from pretrain.config import OptimSettings
from pretrain.core.errors import InputError
from pretrain.core.settings import parse
from pretrain.optim import build_optimizer, parameter_groups, rate_warning
from pretrain.schedule import learning_rate


class Net(nn.Module):
    """Two layers with batch norm, one frozen part, one parameter that never decays."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))

    def undecayed(self) -> list[nn.Parameter]:
        return [self.scale]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * self.scale


def optim(**values: Any) -> OptimSettings:
    return parse(OptimSettings, values, source="test")


def rates(settings: OptimSettings, total: int = 40, epoch: int = 10) -> list[float]:
    return [learning_rate(settings, step, total, epoch) for step in range(total)]


def test_cosine_changes_once_an_epoch_like_the_official_codes() -> None:
    found = rates(optim(lr=0.3))
    assert found[:10] == [0.3] * 10
    assert found[10] == pytest.approx(0.3 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert len(set(found)) == 4
    assert found[-1] > 0


def test_cosine_of_every_step_ends_near_its_floor() -> None:
    found = rates(optim(lr=1.0, schedule_per="step", final_lr=0.1))
    assert found == sorted(found, reverse=True)
    assert 0.1 < found[-1] < 0.102


def test_steps() -> None:
    found = rates(optim(lr=1.0, schedule="step", milestones=[2, 3]))
    assert found[19] == 1.0
    assert found[20] == pytest.approx(0.1)
    assert found[39] == pytest.approx(0.01)


def test_warm_up() -> None:
    found = rates(optim(lr=1.0, schedule="constant", warmup_steps=4))
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # ORL: from 1e-4 of the rate, four epochs, a step at a time.
    found = rates(optim(lr=0.4, schedule="constant", warmup_epochs=2, warmup_from=1e-4))
    assert found[0] == pytest.approx(0.4 * 1e-4)
    assert found[10] == pytest.approx(0.4 * (1e-4 + (1 - 1e-4) / 2))
    assert found[20] == 0.4


def test_rate_follows_the_batch_where_asked() -> None:
    scaled = optim(lr=0.3, base_batch=256, batch_size=64, scale_lr="linear")
    assert learning_rate(scaled, 0, 1, 1) == pytest.approx(0.075)
    warning = rate_warning(optim(lr=0.3, base_batch=256, batch_size=64))
    assert warning is not None
    assert "chosen for a batch of 256, but batch_size is 64" in warning
    assert "0.075" in warning
    assert rate_warning(scaled) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup_steps": 1, "warmup_epochs": 1}, "at most one"),
        ({"scale_lr": "linear"}, "needs 'base_batch'"),
        ({"schedule": "step"}, "need each other"),
        ({"milestones": [3]}, "need each other"),
        ({"schedule": "step", "milestones": [3, 2]}, "must grow"),
        ({"lr": 0}, "greater than 0"),
        ({"warmup_from": 2}, "less than or equal to 1"),
    ],
)
def test_faults(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        optim(**values)


def test_groups() -> None:
    net: Any = Net()
    everything, spared = parameter_groups(optim(), net)
    assert len(everything["params"]) == 6
    assert spared["params"] == [net.scale]
    weights, rest = parameter_groups(optim(decay="weights"), net)
    assert {p.ndim for p in weights["params"]} == {2}
    assert len(weights["params"]) == 2
    assert len(rest["params"]) == 5
    assert rest["weight_decay"] == 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_step_lowers_the_loss(name: str) -> None:
    net = Net()
    optimizer = build_optimizer(optim(optimizer=name, lr=0.05), net)  # type: ignore[arg-type]
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    before = net(x).square().mean()
    before.backward()
    optimizer.step()
    assert net(x).square().mean() < before


def test_lars_scales_decayed_layers_alone() -> None:
    pytest.importorskip("timm")
    net = Net()
    settings = optim(optimizer="lars", lr=1.0, momentum=0.0, weight_decay=0.01, decay="weights")
    optimizer = build_optimizer(settings, net)  # type: ignore[arg-type]
    old = {name: value.detach().clone() for name, value in net.named_parameters()}
    net(torch.randn(8, 4, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    optimizer.step()
    new = dict(net.named_parameters())
    weight = new["layers.0.weight"]
    assert weight.grad is not None
    norm, grad = old["layers.0.weight"].norm(), weight.grad.norm()
    trust = 0.001 * norm / (grad + 0.01 * norm)
    expected = old["layers.0.weight"] - trust * (weight.grad + 0.01 * old["layers.0.weight"])
    torch.testing.assert_close(weight, expected)
    bias = new["layers.2.bias"]
    assert bias.grad is not None
    torch.testing.assert_close(bias, old["layers.2.bias"] - bias.grad)


def test_lars_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim.lars", None)
    with pytest.raises(InputError, match="needs timm"):
        build_optimizer(optim(optimizer="lars"), Net())  # type: ignore[arg-type]
