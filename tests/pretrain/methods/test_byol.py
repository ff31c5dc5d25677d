"""BYOL against a step written out in NumPy, float64, and against its own rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretrain.errors import InputError
from pretrain.methods.base import Context, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.byol import Byol, ByolSettings
from pretrain.methods.hcl import HCLSettings
from pretrain.models import EncoderSettings

Array = NDArray[np.float64]


def context(batch: int = 8) -> Context:
    encoder = EncoderSettings(backbone="resnet18", head="mlp_bn", hidden=24, dim=16)
    return Context(encoder, 32, batch, batch, seed=3)


def byol(**settings: Any) -> Byol:
    return Byol(ByolSettings(**{"name": "byol", "predictor_hidden": 20, **settings}), context())


def images(batch: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------- the oracle: one step, written out


def linear_bn_relu_linear(x: Array, p: dict[str, Array]) -> tuple[Array, tuple[Any, ...]]:
    """Forward of Linear, batch norm in training, ReLU, Linear without bias."""
    a = x @ p["0.weight"].T + p["0.bias"]
    mean, std = a.mean(0), np.sqrt(a.var(0) + 1e-5)
    n = (a - mean) / std
    h = np.maximum(n * p["1.weight"] + p["1.bias"], 0)
    return h @ p["3.weight"].T, (x, n, std, h)


def backward(
    g: Array, p: dict[str, Array], saved: tuple[Any, ...]
) -> tuple[Array, dict[str, Array]]:
    """Gradients for the input and for every parameter."""
    x, n, std, h = saved
    grads = {"3.weight": g.T @ h}
    gb = (g @ p["3.weight"]) * (h > 0)
    grads["1.weight"], grads["1.bias"] = (gb * n).sum(0), gb.sum(0)
    gn = gb * p["1.weight"]
    ga = (gn - gn.mean(0) - n * (gn * n).mean(0)) / std
    grads["0.weight"], grads["0.bias"] = ga.T @ x, ga.sum(0)
    return ga @ p["0.weight"], grads


def regression(p: Array, t: Array) -> tuple[float, Array]:
    """Mean of 2 - 2 cos, and its gradient for p."""
    length = np.linalg.norm(p, axis=1, keepdims=True)
    u, v = p / length, t / np.linalg.norm(t, axis=1, keepdims=True)
    cos = (u * v).sum(1, keepdims=True)
    return float((2 - 2 * cos).mean()), -2 / len(p) * (v - cos * u) / length


def parameters(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy().copy() for name, value in module.named_parameters()}


def test_step_equals_the_oracle() -> None:
    method = byol(momentum=0.9).double()
    # Encoders that are nothing but a projector; the target differs from the online network.
    generator = torch.Generator().manual_seed(1)
    online, target = method.encoder_q.head, method.encoder_k.head
    online[0] = nn.Linear(10, 24).double()
    target[0] = nn.Linear(10, 24).double().requires_grad_(False)
    method.encoder_q, method.encoder_k = online, target  # type: ignore[assignment]
    views = {
        name: torch.randn(8, 10, generator=generator, dtype=torch.float64)
        for name in ("view_1", "view_2")
    }
    x = {name: view.numpy() for name, view in views.items()}
    p_online, p_predictor, p_target = map(parameters, (online, method.predictor, target))

    total, expected = 0.0, {"online": {}, "predictor": {}}  # type: ignore[var-annotated]
    for asking, answering in (("view_1", "view_2"), ("view_2", "view_1")):
        z, saved_online = linear_bn_relu_linear(x[asking], p_online)
        prediction, saved_predictor = linear_bn_relu_linear(z, p_predictor)
        goal, _ = linear_bn_relu_linear(x[answering], p_target)
        loss, g = regression(prediction, goal)
        total += loss
        g, of_predictor = backward(g, p_predictor, saved_predictor)
        _, of_online = backward(g, p_online, saved_online)
        for part, grads in (("online", of_online), ("predictor", of_predictor)):
            for name, grad in grads.items():
                expected[part][name] = expected[part].get(name, 0) + grad

    method.begin_step(25, 100)
    losses, metrics = method(views)
    losses["regression"].backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(losses["regression"].item(), total, rtol=1e-12)
    assert 0 <= metrics["spread"].item() <= 1
    for part, module in (("online", online), ("predictor", method.predictor)):
        for name, value in module.named_parameters():
            assert value.grad is not None
            np.testing.assert_allclose(value.grad.numpy(), expected[part][name], atol=1e-12)
    with torch.no_grad():
        for value in online.parameters():
            value.sub_(value.grad, alpha=0.1)  # type: ignore[arg-type]
    method.end_step()
    m = 1 - 0.1 * (np.cos(np.pi / 4) + 1) / 2
    for name, value in target.named_parameters():
        moved = (
            m * p_target[name] + (1 - m) * dict(online.named_parameters())[name].detach().numpy()
        )
        np.testing.assert_allclose(value.numpy(), moved, rtol=1e-12)


# ------------------------------------------------------------------------------ its rules


def test_momentum_grows_to_one() -> None:
    method = byol()
    seen = []
    for step in (0, 50, 100):
        method.begin_step(step, 100)
        seen.append(method._momentum)
    np.testing.assert_allclose(seen, [0.99, 0.995, 1.0])


def test_target_starts_as_a_copy_and_takes_no_gradient() -> None:
    method = byol()
    online, target = method.encoder_q.state_dict(), method.encoder_k.state_dict()
    assert all(torch.equal(online[name], target[name]) for name in online)
    assert not any(p.requires_grad for p in method.encoder_k.parameters())
    losses, _ = method({"view_1": images(seed=1), "view_2": images(seed=2)})
    losses["regression"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in method.encoder_q.parameters())
    assert all(p.grad is not None for p in method.predictor.parameters())


def test_collapse_is_seen() -> None:
    method = byol()
    with torch.no_grad():
        for head in (method.encoder_q.head, method.encoder_k.head):
            head[1].weight.zero_()
            head[1].bias.fill_(1.0)
    _, metrics = method({"view_1": images(seed=1), "view_2": images(seed=2)})
    assert metrics["spread"].item() < 1e-6


def test_projector_without_batch_norm_is_refused() -> None:
    plain = Context(EncoderSettings(backbone="resnet18"), 32, 8, 8, seed=0)
    with pytest.raises(InputError, match=r"model\.head=mlp_bn"):
        Byol(ByolSettings(name="byol"), plain)


def test_carries_the_hcl_branch() -> None:
    settings = parse_method({"name": "byol", "predictor_hidden": 20}, source="test")
    method = build_method(settings, HCLSettings(queue=16), context())
    views = {crop.name: images(seed=n) for n, crop in enumerate(method.view_plan.crops)}
    method.begin_step(0, 1)
    losses, _ = method(views)
    assert set(losses) == {"regression", "hyperbolic"}
    sum(losses.values(), torch.zeros(())).backward()
    method.end_step()
    assert all(p.grad is not None for p in method.encoder.parameters())
