"""MoCo-v2 and the HCL branch, against the official codes' values and against their faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretrain.methods.base import Context, KeyedMethod, Losses, Metrics, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.hcl import HCL, HCLSettings
from pretrain.methods.moco import Moco, MocoSettings
from pretrain.models import Encoder, EncoderSettings

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def context(batch: int = 8, dim: int = 16) -> Context:
    return Context(EncoderSettings(backbone="resnet18", dim=dim), 32, batch, batch, seed=3)


def moco(batch: int = 8, **settings: Any) -> Moco:
    defaults = {"name": "moco", "queue": 24, "norm_group": 4}
    return Moco(MocoSettings(**{**defaults, **settings}), context(batch))


def images(batch: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class Half(nn.Module):
    """An encoder that passes on one half of its input: golden files hold queries and keys."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.half = half

    def forward(self, both: Tensor) -> Tensor:
        return both.chunk(2, dim=1)[self.half]


@pytest.mark.parametrize("which", ["typ", "edge"])
def test_hcl__golden_official_step(which: str) -> None:
    golden = {
        name.removeprefix(f"{which}_"): torch.from_numpy(np.atleast_1d(value))
        for name, value in np.load(GOLDEN / "hcl_losses.npz").items()
        if name.startswith(which)
    }
    settings = MocoSettings(name="moco", queue=64, batch_norm="plain", crops="object_context")
    base = Moco(settings, context(8, dim=128))
    base.encoder_q, base.encoder_k = Half(0), Half(1)  # type: ignore[assignment]
    method = HCL(base, HCLSettings(queue=64), context(8, dim=128))
    assert base.queue_1 is not None
    queues = {"queue_c": base.queue_2, "queue_p": base.queue_1, "queue_hyp_p": method.queue}
    for name, queue in queues.items():
        queue.rows.copy_(golden[name].T)
    queries = {n: golden[n].clone().requires_grad_() for n in ("q_euc_p", "q_euc_c", "q_hyp_c")}
    views = {
        "view_1": torch.cat([queries["q_euc_p"], golden["k_euc_p"]], 1),
        "view_2": torch.cat([queries["q_euc_c"], golden["k_euc_c"]], 1),
        "scene": torch.cat([queries["q_hyp_c"], torch.zeros(8, 128)], 1),
        "object": torch.cat([torch.zeros(8, 128), golden["k_hyp_p"]], 1),
    }
    losses, _ = method(views)
    total = losses["euclidean"] + losses["hyperbolic"]
    total.backward()
    np.testing.assert_allclose(losses["euclidean"].item(), golden["exact_loss_e"].item(), rtol=1e-6)
    np.testing.assert_allclose(total.item(), golden["exact_loss_total"].item(), rtol=1e-5)
    for name, query in queries.items():
        assert query.grad is not None
        expected = golden[f"exact_grad_total_{name}"]
        error = (query.grad - expected).norm(dim=1) / expected.norm(dim=1)
        # Norms beyond 15 are at the rim, where float32 keeps fewer digits of 1 - c|x|².
        assert error.max() < (1e-5 if which == "typ" else 2e-2), name
    method.end_step()
    for name, queue in queues.items():
        after = golden[f"ref64_after_{name}"].T.to(torch.float32)
        torch.testing.assert_close(queue.rows, after, rtol=0, atol=2e-6)


def test_moco__golden_official_asymmetric_step() -> None:
    golden = {
        n: torch.from_numpy(np.asarray(v)) for n, v in np.load(GOLDEN / "moco_queue.npz").items()
    }
    method = moco(batch=4, queue=16, batch_norm="plain", symmetric=False)
    linear = nn.Linear(5, 8)
    linear.weight.data, linear.bias.data = golden["param_q_weight"][0], golden["param_q_bias"][0]
    key = nn.Linear(5, 8)
    key.weight.data, key.bias.data = golden["param_k0_weight"], golden["param_k0_bias"]
    method.encoder_q, method.encoder_k = linear, key  # type: ignore[assignment]
    method.queue_2.rows = golden["queue0"].T.clone()
    method.begin_step(0, 1)
    losses, _ = method({"view_1": golden["fwd_im_q"], "view_2": golden["fwd_im_k"]})
    np.testing.assert_allclose(
        losses["euclidean"].item(), golden["ref64_fwd_loss"].item(), rtol=1e-6
    )
    method.end_step()
    after = golden["ref64_fwd_queue_after"].T.float()
    torch.testing.assert_close(method.queue_2.rows, after, rtol=0, atol=1e-6)


def test_forward__own_key_is_not_among_the_negatives() -> None:
    method = moco(queue_start="empty")
    views = {"view_1": images(seed=1), "view_2": images(seed=2)}
    method.begin_step(0, 2)
    losses, _ = method(views)
    assert losses["euclidean"].item() == 0  # no negatives yet, least of all its own key
    assert len(method.queue_2.keys()) == 0
    method.end_step()
    assert len(method.queue_2.keys()) == 8


def test_encode_key__unshuffle_inverts_shuffle() -> None:
    method = moco().eval()  # without batch statistics, groups do not matter
    keys = method.encode_key(images(), view=0)
    torch.testing.assert_close(keys, method.encoder_k(images()))


def test_encode_key__groups_are_shuffled_anew_for_each_step_and_view() -> None:
    method = moco().train()
    orders = set()
    for step in (0, 1):
        method.begin_step(step, 2)
        orders |= {tuple(method._permutation(view, 8).tolist()) for view in (0, 1, 15)}
    assert len(orders) == 6
    method.begin_step(0, 2)
    shuffled = method.encode_key(images(), view=0)
    assert not torch.allclose(shuffled, method.encoder_k(images()), atol=1e-4)


def test_hcl__gradient_flows_through_the_query_alone() -> None:
    method = HCL(moco(), HCLSettings(queue=24, weight=0.5), context())
    views = {
        n: images(seed=i).requires_grad_()
        for i, n in enumerate(("view_1", "view_2", "object", "scene"))
    }
    method.begin_step(0, 1)
    losses, _ = method(views)
    losses["hyperbolic"].backward()
    assert views["scene"].grad is not None
    assert views["scene"].grad.abs().sum() > 0
    assert views["object"].grad is None


def test_hcl__reversed_hierarchy() -> None:
    method = HCL(moco(), HCLSettings(queue=24, query="object"), context())
    views = {
        n: images(seed=i).requires_grad_()
        for i, n in enumerate(("view_1", "view_2", "object", "scene"))
    }
    method.begin_step(0, 1)
    losses, metrics = method(views)
    losses["hyperbolic"].backward()
    assert views["scene"].grad is None
    assert views["object"].grad is not None
    assert {"norm/object", "norm/scene"} <= metrics.keys()


def test_hcl__queue_starts_inside_the_ball() -> None:
    for c in (0.05, 1.0, 20.0):
        method = HCL(moco(), HCLSettings(queue=24, curvature=c), context())
        norms = method.queue.keys().norm(dim=1)
        assert (norms * c**0.5 < 1).all()
        assert (norms > 0).all()


def test_build_method() -> None:
    settings = parse_method({"name": "moco", "queue": 24, "norm_group": 4}, source="t")
    assert isinstance(build_method(settings, None, context()), Moco)
    assert isinstance(build_method(settings, HCLSettings(weight=0.0), context()), Moco)
    joined = build_method(settings, HCLSettings(queue=24), context())
    assert isinstance(joined, HCL)
    assert [crop.name for crop in joined.view_plan.crops] == ["view_1", "view_2", "object", "scene"]
    prefix = joined.encoder_prefix
    state = joined.state_dict()
    stripped = {k.removeprefix(prefix) for k in state if k.startswith(prefix)}
    assert stripped == Encoder(context().encoder).state_dict().keys()


def test_interface_is_complete() -> None:
    """What HCL needs of a method is abstract there: a method without it cannot be made."""

    class Half(KeyedMethod):
        settings_class = MocoSettings

        def forward(self, views: Any) -> tuple[Losses, Metrics]:
            return {}, {}

    with pytest.raises(TypeError, match="encode_key"):
        Half()  # type: ignore[abstract]
