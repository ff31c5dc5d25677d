"""RankMe, spread and similarity of known embeddings, and the warning."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.methods.base import Context
from pretrain.methods.byol import Byol, ByolSettings
from pretrain.models import EncoderSettings
from pretrain.probes.collapse import (
    PATIENCE,
    CollapseMonitor,
    rank_me,
    similarity_of_others,
    spread,
)


def orthogonal(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator).double())[0]


@pytest.mark.parametrize("rows", [40, 12])  # more rows than columns, and fewer
@pytest.mark.parametrize("values", [[1.0] * 8, [5.0], [4.0, 2.0, 1.0, 1.0], [1.0, 1e-9]])
def test_rank_me__of_known_singular_values(rows: int, values: list[float]) -> None:
    s = torch.tensor(values, dtype=torch.float64)
    matrix = orthogonal(rows, len(s), 1) * s @ orthogonal(20, len(s), 2).T
    p = s / s.sum()
    expected = math.exp(-(p * p.log()).sum())
    assert rank_me(matrix).item() == pytest.approx(expected, rel=1e-4)
    assert rank_me(7 * matrix.float()).item() == pytest.approx(expected, rel=1e-4)


def test_rank_me__of_nothing_but_zeros() -> None:
    assert rank_me(torch.zeros(6, 4)).item() == 1


def test_spread__from_even_to_none() -> None:
    generator = torch.Generator().manual_seed(0)
    even = torch.randn(4000, 64, generator=generator)
    assert spread(even).item() == pytest.approx(1 / 8, rel=0.02)
    assert spread(torch.ones(5, 64) * torch.arange(1, 6)[:, None]).item() < 1e-12


def test_similarity__is_the_mean_over_pairs() -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(3)) + 0.5
    pairs = [
        torch.cosine_similarity(x[i], x[j], dim=0).item()
        for i in range(9)
        for j in range(9)
        if i != j
    ]
    assert similarity_of_others(x).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


# ------------------------------------------------------------------------------ the monitor


def byol() -> Byol:
    encoder = EncoderSettings(backbone="resnet18", head="mlp_bn", hidden=24, dim=16)
    settings: dict[str, Any] = {"name": "byol", "predictor_hidden": 20}
    torch.manual_seed(0)
    return Byol(ByolSettings(**settings), Context(encoder, 32, 8, 8, seed=3))


def views(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(8, 3, 32, 32, generator=generator) for name in ("view_1", "view_2")}


def collapse(method: Byol) -> None:
    """Whatever goes in, the projector says the same."""
    with torch.no_grad():
        head: Any = method.encoder_q.head
        head[1].weight.zero_()
        head[1].bias.fill_(1.0)


def test_monitor__sees_the_first_view_of_each_forward() -> None:
    method = byol()
    seen: list[Tensor] = []
    method.encoder_q.register_forward_hook(lambda module, inputs, output: seen.append(output))
    monitor = CollapseMonitor(method, method.encoder, enabled=True)
    monitor.arm()
    method(views(1))
    method(views(2))  # as where gradients are accumulated
    values = monitor.read()
    expected = torch.cat([seen[0], seen[2]]).detach()  # each forward encodes both views
    assert values["rank"].item() == pytest.approx(rank_me(expected).item())
    assert values["spread"].item() == pytest.approx(spread(expected).item())
    assert values["similarity/negative"].item() == pytest.approx(
        similarity_of_others(expected).item()
    )
    assert 2 < values["rank"] <= 16
    assert not monitor.warnings


def test_monitor__leaves_nothing_behind() -> None:
    method = byol()
    monitor = CollapseMonitor(method, method.encoder, enabled=True)
    monitor.arm()
    method(views())
    monitor.read()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in method.modules())
    method(views())
    assert monitor.read() == {}  # that step was not asked for


def test_monitor__disabled_sees_nothing() -> None:
    method = byol()
    monitor = CollapseMonitor(method, method.encoder, enabled=False)
    monitor.arm()
    method(views())
    assert monitor.read() == {}


def test_collapsed_byol__warns_once_after_several_steps(caplog: pytest.LogCaptureFixture) -> None:
    method = byol()
    collapse(method)
    monitor = CollapseMonitor(method, method.encoder, enabled=True)
    for step in range(PATIENCE + 2):
        assert bool(monitor.warnings) == (step >= PATIENCE)
        monitor.arm()
        method(views(step))
        values = monitor.read()
        assert values["rank"] == pytest.approx(1, abs=1e-3)
        assert values["similarity/negative"] == pytest.approx(1)
    assert monitor.warnings["warning"].startswith("embeddings have collapsed: RankMe 1.00")
    (record,) = caplog.records
    assert record.message.endswith("the run goes on")


def test_passing_weakness__does_not_warn() -> None:
    method = byol()
    monitor = CollapseMonitor(method, method.encoder, enabled=True)
    healthy = {name: value.clone() for name, value in method.state_dict().items()}
    for step in range(2 * PATIENCE):
        method.load_state_dict(healthy)
        if step % PATIENCE:  # every few steps are well
            collapse(method)
        monitor.arm()
        method(views(step))
        monitor.read()
    assert not monitor.warnings


def test_overflow__is_not_a_number_and_no_error() -> None:
    method = byol()
    monitor = CollapseMonitor(method, method.encoder, enabled=True)
    with torch.no_grad():
        method.encoder_q.head[3].weight.fill_(float("inf"))  # type: ignore[index]
    monitor.arm()
    method(views())
    assert all(math.isnan(value) for value in monitor.read().values())
