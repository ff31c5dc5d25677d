"""BYOL and ORL against their training steps written out in NumPy, float64.

The oracle knows nothing of torch: forward, losses, gradients derived by hand (through batch norm
as well), plain gradient descent, and the target's moving average. The method's own ``forward``
must agree over several steps, so that the momentum's schedule and the target's lag are seen too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretrain.methods.base import Context
from pretrain.methods.bootstrap import Bootstrap
from pretrain.methods.byol import Byol, ByolSettings
from pretrain.methods.orl import ORL, ORLSettings
from pretrain.models import EncoderSettings, build_head

Array = NDArray[np.float64]
State = dict[str, Array]

BATCH, STEPS, RATE, MOMENTUM = 8, 4, 0.3, 0.8
FEATURES, HIDDEN, DIM, PREDICTOR_HIDDEN = 7, 12, 6, 9

# ----------------------------------------------------------------------------- the oracle


def part(state: State, prefix: str) -> State:
    """What stands under ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def head(x: Array, p: State) -> tuple[Array, tuple[Array, ...]]:
    """Linear, batch norm in training, ReLU, Linear without bias; and what its backward needs."""
    a = x @ p["0.weight"].T + p["0.bias"]
    std = np.sqrt(((a - a.mean(0)) ** 2).mean(0) + 1e-5)
    n = (a - a.mean(0)) / std
    h = np.maximum(n * p["1.weight"] + p["1.bias"], 0)
    return h @ p["3.weight"].T, (x, n, std, h)


def head_backward(g: Array, p: State, saved: tuple[Array, ...]) -> tuple[Array, State]:
    """From the gradient of the output to those of the input and of every parameter."""
    x, n, std, h = saved
    grads = {"3.weight": g.T @ h}
    gb = (g @ p["3.weight"]) * (h > 0)
    grads["1.weight"], grads["1.bias"] = (gb * n).sum(0), gb.sum(0)
    gn = gb * p["1.weight"]
    # Mean and deviation are the batch's own: what moves one row moves both.
    ga = (gn - gn.mean(0) - n * (gn * n).mean(0)) / std
    grads["0.weight"], grads["0.bias"] = ga.T @ x, ga.sum(0)
    return ga @ p["0.weight"], grads


def encoder(images: Array, p: State) -> tuple[Array, tuple[Any, ...]]:
    """The mean over pixels, a linear backbone with tanh, the projector."""
    pooled = images.mean((2, 3))
    features = np.tanh(pooled @ p["backbone.weight"].T + p["backbone.bias"])
    z, saved = head(features, part(p, "head."))
    return z, (pooled, features, saved)


def encoder_backward(g: Array, p: State, saved: tuple[Any, ...]) -> State:
    pooled, features, of_head = saved
    g, grads = head_backward(g, part(p, "head."), of_head)
    g = g * (1 - features**2)
    named = {f"head.{name}": value for name, value in grads.items()}
    return {"backbone.weight": g.T @ pooled, "backbone.bias": g.sum(0), **named}


def regression(p: Array, t: Array) -> tuple[float, Array]:
    """Mean of |p̄ - t̄|², and its gradient for p."""
    length = np.linalg.norm(p, axis=1, keepdims=True)
    u, v = p / length, t / np.linalg.norm(t, axis=1, keepdims=True)
    along = (u * v).sum(1, keepdims=True)
    return float(((u - v) ** 2).sum(1).mean()), -2 / len(p) * (v - along * u) / length


def losses_and_gradients(
    online: State,
    target: State,
    views: State,
    pairs: dict[str, tuple[str, str, float]],
) -> tuple[dict[str, float], State]:
    """Of the parameters of encoder (``encoder.``) and predictors (``predictor.<term>.``)."""
    losses = dict.fromkeys(pairs, 0.0)
    grads = {name: np.zeros_like(value) for name, value in online.items()}
    encoding = part(online, "encoder.")
    for term, (first, second, weight) in pairs.items():
        predicting = part(online, f"predictor.{term}.")
        for one, other in ((first, second), (second, first)):
            z, of_encoder = encoder(views[one], encoding)
            prediction, of_predictor = head(z, predicting)
            goal, _ = encoder(views[other], target)
            loss, g = regression(prediction, goal)
            losses[term] += weight * loss
            g, found = head_backward(weight * g, predicting, of_predictor)
            for name, value in found.items():
                grads[f"predictor.{term}.{name}"] += value
            for name, value in encoder_backward(g, encoding, of_encoder).items():
                grads[f"encoder.{name}"] += value
    return losses, grads


def momentum_of(step: int) -> float:
    return 1 - (1 - MOMENTUM) * (np.cos(np.pi * step / STEPS) + 1) / 2


# ------------------------------------------------------------- the methods, on a tiny network


class Pooled(nn.Linear):
    """The mean over pixels, linear, tanh: takes views of any size."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mean((2, 3))).tanh()


def shrink(method: Bootstrap) -> None:
    """A tiny backbone and projector in both networks; the target's start differs."""
    for network in (method.encoder_q, method.encoder_k):
        network.backbone = Pooled(3, FEATURES)
        network.head = build_head("mlp_bn", FEATURES, HIDDEN, DIM)
    method.encoder_k.requires_grad_(False)
    with torch.no_grad():  # scales and shifts that are not 1 and 0
        for name, value in method.named_parameters():
            if name.endswith(("1.weight", "1.bias")):
                value.add_(0.3 * torch.randn_like(value))
    method.double().train()


def context() -> Context:
    encoder = EncoderSettings(backbone="resnet18", head="mlp_bn", hidden=HIDDEN, dim=DIM)
    return Context(encoder, 6, BATCH, BATCH, seed=3)


def byol() -> tuple[Bootstrap, dict[str, tuple[str, str, float]]]:
    settings = ByolSettings(name="byol", predictor_hidden=PREDICTOR_HIDDEN, momentum=MOMENTUM)
    return Byol(settings, context()), {"regression": ("view_1", "view_2", 1.0)}


def orl(**weights: float) -> tuple[Bootstrap, dict[str, tuple[str, str, float]]]:
    settings = ORLSettings(
        name="orl",
        predictor_hidden=PREDICTOR_HIDDEN,
        momentum=MOMENTUM,
        patch_size=4,
        **{f"{term}_weight": weight for term, weight in weights.items()},
    )
    pairs = {
        term: (f"{term}_1", f"{term}_2", weights.get(term, 1.0))
        for term in ("global", "intra", "inter")
    }
    return ORL(settings, context()), {k: pair for k, pair in pairs.items() if pair[2] > 0}


def oracle_name(name: str) -> str:
    return name.replace("encoder_q.", "encoder.").replace("predictors.", "predictor.")


def arrays(module: nn.Module) -> State:
    return {name: value.detach().numpy().copy() for name, value in module.named_parameters()}


def close(found: Array, expected: Array, name: str) -> None:
    """To 1e-10 of the largest element; a bias before batch norm has gradient 0 but for rounding."""
    atol = max(1e-10 * float(np.abs(expected).max()), 1e-12)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=name)


CASES = {
    "byol": byol,
    "orl": orl,
    "orl, other weights": lambda: orl(intra=0.25, inter=3.0),
    "orl without inter": lambda: orl(inter=0.0),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_the_oracle(case: str) -> None:
    torch.manual_seed(0)
    method, pairs = CASES[case]()
    shrink(method)
    trained = {k: p for k, p in method.named_parameters() if p.requires_grad}

    for step in range(STEPS):
        # Each step from the method's own state, or rounding grows from step to step.
        online = {oracle_name(k): p.detach().numpy().copy() for k, p in trained.items()}
        target = arrays(method.encoder_k)
        assert all((target[k] != online[f"encoder.{k}"]).any() for k in target)
        views = {
            crop.name: torch.randn(
                BATCH, 3, *[method.view_plan.side(crop)] * 2, dtype=torch.float64
            )
            for crop in method.view_plan.crops
        }
        expected, grads = losses_and_gradients(
            online, target, {k: view.numpy() for k, view in views.items()}, pairs
        )
        method.begin_step(step, STEPS)
        losses, _ = method(views)
        method.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        assert losses.keys() == expected.keys()
        for term, value in expected.items():
            np.testing.assert_allclose(losses[term].item(), value, rtol=1e-10, err_msg=term)
        assert {oracle_name(k) for k in trained} == grads.keys()
        for name, value in trained.items():
            assert value.grad is not None, name
            close(value.grad.numpy(), grads[oracle_name(name)], name)

        with torch.no_grad():
            for value in trained.values():
                value.sub_(value.grad, alpha=RATE)  # type: ignore[arg-type]
        method.end_step()
        online = {name: value - RATE * grads[name] for name, value in online.items()}
        m = momentum_of(step)
        target = {k: m * v + (1 - m) * online[f"encoder.{k}"] for k, v in target.items()}
        for name, value in arrays(method.encoder_k).items():
            close(value, target[name], name)


def test_the_oracle_s_gradients_are_its_losses_differences() -> None:
    """The hand-derived gradients, against central differences of the oracle's own losses."""
    torch.manual_seed(1)
    method, pairs = orl(intra=0.5)
    shrink(method)
    trained = {k: p for k, p in method.named_parameters() if p.requires_grad}
    online = {oracle_name(k): p.detach().numpy().copy() for k, p in trained.items()}
    target = arrays(method.encoder_k)
    rng = np.random.default_rng(0)
    views = {f"{t}_{i}": rng.normal(size=(BATCH, 3, 2, 2)) for t in pairs for i in (1, 2)}
    _, grads = losses_and_gradients(online, target, views, pairs)
    for name, value in online.items():
        direction = rng.normal(size=value.shape)
        ends = [
            sum(
                losses_and_gradients({**online, name: value + h * direction}, target, views, pairs)[
                    0
                ].values()
            )
            for h in (1e-6, -1e-6)
        ]
        slope = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose((grads[name] * direction).sum(), slope, rtol=1e-6, atol=1e-8)
