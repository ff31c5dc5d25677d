"""The golden files through the methods' own ``forward``, with encoders that pass them through.

What enters as "images" are the numbers of the rows that the pass-through encoder gives out, so the
shuffle of keys is in the way as in a real run, and must be undone. ``tests/golden/README.md`` has
the meaning of the arrays. float64 is held to 1e-9 of the exact values; float32 to 1e-5, where no
comment at the place says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.methods.base import Context
from pretrain.methods.densecl import DenseCL, DenseCLSettings
from pretrain.methods.hcl.branch import HCL, HCLSettings
from pretrain.methods.moco import Moco, MocoSettings
from pretrain.models import DenseOutput, EncoderSettings

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=("float32", "float64"))


def load(file: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(GOLDEN / file).items()}


def context(batch: int, dim: int) -> Context:
    return Context(EncoderSettings(backbone="resnet18", dim=dim), 224, batch, batch, seed=3)


def rows(count: int) -> Tensor:
    """The "images" of a view: each is its row's number."""
    return torch.arange(count)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """To ``tolerance`` of the largest element."""
    assert found.shape == expected.shape
    error = (found.double() - expected.double()).abs().max() / expected.abs().max()
    assert error.item() < tolerance, f"off by {error.item():.1e}"


# ------------------------------------------------------------------ moco_queue.npz: Moco


def linear(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype)
    layer.weight.data, layer.bias.data = weight.to(dtype), bias.to(dtype)
    return layer


def moco(dtype: torch.dtype, **settings: Any) -> Moco:
    """Official form: one direction, queue of 16, batches of 4."""
    defaults = {"name": "moco", "queue": 16, "norm_group": 2, "symmetric": False}
    method = Moco(MocoSettings(**{**defaults, **settings}), context(4, dim=8))
    method.queue_2.rows = load("moco_queue.npz")["queue0"].T.to(dtype)
    return method


@DTYPES
def test_moco__loss_gradient_and_queue_of_one_step(dtype: torch.dtype) -> None:
    golden, tolerance = load("moco_queue.npz"), TOLERANCE[dtype]
    method = moco(dtype)
    query = linear(golden["param_q_weight"][0], golden["param_q_bias"][0], dtype)
    method.encoder_q = query  # type: ignore[assignment]
    method.encoder_k = linear(  # type: ignore[assignment]
        golden["param_k0_weight"], golden["param_k0_bias"], dtype
    ).requires_grad_(False)
    method.begin_step(0, 1)
    views = {"view_1": golden["fwd_im_q"].to(dtype), "view_2": golden["fwd_im_k"].to(dtype)}
    losses, _ = method(views)
    losses["euclidean"].backward()  # type: ignore[no-untyped-call]
    close(losses["euclidean"], golden["ref64_fwd_loss"], tolerance)
    # The file has logits, no gradients: from the logits by hand, in NumPy.
    x, w = golden["fwd_im_q"].double().numpy(), golden["param_q_weight"][0].double().numpy()
    raw = x @ w.T + golden["param_q_bias"][0].double().numpy()
    length = np.linalg.norm(raw, axis=1, keepdims=True)
    unit = raw / length
    method.end_step()
    after = golden["ref64_fwd_queue_after"].T
    keys = after[:4].numpy()  # the step's keys, which went to the front of the ring
    logits = golden["ref64_fwd_logits"].numpy()
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    g = ((share[:, :1] - 1) * keys + share[:, 1:] @ golden["queue0"].double().numpy().T) / 0.2 / 4
    g = (g - unit * (unit * g).sum(1, keepdims=True)) / length
    assert query.weight.grad is not None
    assert query.bias.grad is not None
    close(query.weight.grad, torch.from_numpy(g.T @ x), tolerance)
    close(query.bias.grad, torch.from_numpy(g.sum(0)), tolerance)
    close(method.queue_2.rows, after, tolerance)


@DTYPES
def test_moco__queue_of_six_steps_wraps_around(dtype: torch.dtype) -> None:
    golden = load("moco_queue.npz")
    method = moco(dtype)
    for step, keys in enumerate(golden["keys"]):
        for name in ("encoder_q", "encoder_k"):
            setattr(method, name, PassThrough(keys.to(dtype)))
        method.begin_step(step, 6)
        method({"view_1": rows(4), "view_2": rows(4)})
        method.end_step()
        # The file's keys have length 1 to float32's precision; the method's, to its own.
        expected = golden["ref64_queue"][step].T.clone()
        fresh = [(4 * n + i) % 16 for n in range(step + 1) for i in range(4)]
        expected[fresh] = F.normalize(expected[fresh], dim=1)
        close(method.queue_2.rows, expected, TOLERANCE[dtype])
        assert int(method.queue_2.pointer) == golden["queue_ptr"][step]


@DTYPES
@pytest.mark.parametrize("momentum", ["0.999", "0.99"])
def test_moco__momentum_of_six_steps(dtype: torch.dtype, momentum: str) -> None:
    golden = load("moco_queue.npz")
    method = moco(dtype, momentum=float(momentum))
    key = linear(golden["param_k0_weight"], golden["param_k0_bias"], dtype).requires_grad_(False)
    method.encoder_k = key  # type: ignore[assignment]
    for step in range(6):
        weight, bias = golden["param_q_weight"][step], golden["param_q_bias"][step]
        method.encoder_q = linear(weight, bias, dtype)  # type: ignore[assignment]
        method.begin_step(step, 6)
        close(key.weight, golden[f"exact_m{momentum}_param_k_weight"][step], TOLERANCE[dtype])
        close(key.bias, golden[f"ref64_m{momentum}_param_k_bias"][step], TOLERANCE[dtype])


class PassThrough(nn.Module):
    """Gives the rows of ``output`` that are asked for; a parameter, as momentum wants some."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output, requires_grad=False)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.output[numbers]


# ------------------------------------------------------------- densecl_loss.npz: DenseCL


class DensePassThrough(nn.Module):
    """Likewise, with a dense output."""

    def __init__(self, output: DenseOutput) -> None:
        super().__init__()
        self.output = output

    def dense(self, numbers: Tensor) -> DenseOutput:
        return DenseOutput(*(part[numbers] for part in self.output))


@DTYPES
def test_densecl__losses_gradients_and_queues_of_one_step(dtype: torch.dtype) -> None:
    golden, tolerance = load("densecl_loss.npz"), TOLERANCE[dtype]
    method = DenseCL(DenseCLSettings(name="densecl", queue=64, norm_group=2), context(4, dim=128))

    def given(name: str) -> Tensor:
        return golden[name].to(dtype)

    q, grid_q, feat_q = (given(n).requires_grad_() for n in ("q", "grid_q", "feat_q"))
    method.encoder_q = DensePassThrough(  # type: ignore[assignment]
        DenseOutput(q, grid_q.unflatten(2, (7, 7)), feat_q)
    )
    method.encoder_k = DensePassThrough(  # type: ignore[assignment]
        DenseOutput(given("k"), given("grid_k").unflatten(2, (7, 7)), given("feat_k"))
    )
    method.queue_2.rows = given("queue").T.clone()
    method.dense_queue_2.rows = given("queue2").T.clone()
    losses, _ = method({"view_1": rows(4), "view_2": rows(4)})
    close(losses["euclidean"], golden["exact_loss_single_weighted"], tolerance)
    close(losses["dense"], golden["exact_loss_dense_weighted"], tolerance)
    total = losses["euclidean"] + losses["dense"]
    close(total, golden["exact_loss_total"], tolerance)
    total.backward()
    assert q.grad is not None
    assert grid_q.grad is not None
    close(q.grad, golden["exact_grad_q"], tolerance)
    close(grid_q.grad, golden["exact_grad_grid_q"], tolerance)
    # Cells are matched by features, but no gradient goes that way.
    assert feat_q.grad is None or not feat_q.grad.any()
    method.end_step()
    close(method.queue_2.rows, golden["ref64_after_queue"].T, tolerance)
    # The file's pooled dense keys k2 are arrays of their own; ours are the means of its grid.
    after = golden["ref64_after_queue2"].T.clone()
    after[:4] = F.normalize(golden["grid_k"].double().mean(2), dim=1)
    close(method.dense_queue_2.rows, after, tolerance)
    assert int(method.dense_queue_2.pointer) == int(golden["ref64_after_queue_ptr"]) == 4


# ------------------------------------------------------------ hcl_losses.npz: HCL on Moco


class Half(nn.Module):
    """Passes on one half of its input: queries or keys."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.half = half

    def forward(self, both: Tensor) -> Tensor:
        return both.chunk(2, dim=1)[self.half]


QUERIES = ("q_euc_p", "q_euc_c", "q_hyp_c")


@DTYPES
@pytest.mark.parametrize("riemannian", [True, False], ids=("rsgd", "norsgd"))
@pytest.mark.parametrize("which", ["typ", "edge"])
def test_hcl__losses_gradients_and_queues_of_one_step(
    which: str, riemannian: bool, dtype: torch.dtype
) -> None:
    golden = {
        name.removeprefix(f"{which}_"): value
        for name, value in load("hcl_losses.npz").items()
        if name.startswith(which)
    }
    tolerance = TOLERANCE[dtype]
    base = Moco(MocoSettings(name="moco", queue=64, norm_group=4), context(8, dim=128))
    base.encoder_q, base.encoder_k = Half(0), Half(1)  # type: ignore[assignment]
    settings = HCLSettings(queue=64, riemannian_gradient=riemannian)
    method = HCL(base, settings, context(8, dim=128))
    assert base.queue_1 is not None
    queues = {"queue_c": base.queue_2, "queue_p": base.queue_1, "queue_hyp_p": method.queue}
    for name, queue in queues.items():
        queue.rows = golden[name].T.to(dtype)
    queries = {name: golden[name].to(dtype).requires_grad_() for name in QUERIES}
    none = torch.zeros(8, 128, dtype=dtype)
    views = {
        "view_1": torch.cat([queries["q_euc_p"], golden["k_euc_p"].to(dtype)], 1),
        "view_2": torch.cat([queries["q_euc_c"], golden["k_euc_c"].to(dtype)], 1),
        "scene": torch.cat([queries["q_hyp_c"], none], 1),
        "object": torch.cat([none, golden["k_hyp_p"].to(dtype)], 1),
    }
    losses, _ = method(views)
    total = losses["euclidean"] + losses["hyperbolic"]
    total.backward()
    close(losses["euclidean"], golden["exact_loss_e"], tolerance)
    close(losses["hyperbolic"] / settings.weight, golden["exact_loss_h"], tolerance)
    close(total, golden["exact_loss_total"], tolerance)
    for name, query in queries.items():
        assert query.grad is not None
        if riemannian:
            expected = golden[f"exact_grad_total_{name}"]
        elif name == "q_hyp_c":
            expected = settings.weight * golden["exact_grad_h_q_hyp_c_norsgd"]
        else:
            expected = golden[f"exact_grad_e_{name}"]
        error = (query.grad - expected).norm(dim=1) / expected.norm(dim=1)
        # Norms beyond 15 are at the rim, where float32 keeps fewer digits of 1 - c|x|².
        rim = which == "edge" and dtype == torch.float32
        assert error.max() < (2e-2 if rim else tolerance), name
    method.end_step()
    for name, queue in queues.items():
        close(queue.rows, golden[f"ref64_after_{name}"].T, tolerance)
