"""Defects known from other implementations of these methods: one test each.

Where a test elsewhere owns one, it is not repeated here:

- keys of one process only in the queue, or queues that differ between processes; gathered
  gradients that are not those of the whole batch: ``test_distributed.py`` compares the state after
  steps of 1, 2 and 4 processes, queues included, for every method;
- keys given back in shuffled order, dense ones too: ``test_golden_methods.py`` and
  ``test_dense_keys_are_unshuffled_too`` in ``test_densecl.py``;
- a queue of ball points that starts on the rim: ``test_moco_hcl.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_network import SMALL, small_encoder
from torch import Tensor, nn

from pretrain import checkpoint
from pretrain.methods.base import Context, Method, parse_method
from pretrain.methods.build import build_method
from pretrain.methods.densecl import DenseCL, DenseCLSettings
from pretrain.methods.hcl.branch import KEY_VIEW, HCLSettings
from pretrain.methods.moco import Moco, MocoSettings
from pretrain.models import DenseOutput, EncoderSettings, Queue

BATCH, QUEUE = 8, 20  # the ring wraps in the middle of a batch

METHODS: dict[str, dict[str, Any]] = {
    "moco": {"name": "moco", "queue": QUEUE, "norm_group": 4},
    "densecl": {"name": "densecl", "queue": QUEUE, "norm_group": 4},
    "byol": {"name": "byol", "predictor_hidden": 20},
    "orl": {"name": "orl", "predictor_hidden": 20, "patch_size": 16},
}
# How many queues each has, the branch's own included.
QUEUES = {"moco": 3, "densecl": 3, "byol": 1, "orl": 1}
QUEUED = ("euclidean", "dense", "hyperbolic")

every_method = pytest.mark.parametrize("name", METHODS)


VIT = {
    "backbone": "timm/vit_tiny_patch16_224",
    "options": {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2},
}
"""Without convolutions, which take seconds in bfloat16 on a CPU that has no instructions for it."""


def build(
    name: str, start: int = 0, network: dict[str, Any] | None = None, **settings: Any
) -> Method:
    """The method with the branch; ``start`` is the seed of its weights."""
    values = METHODS[name]
    head: Any = "mlp_bn" if values["name"] in ("byol", "orl") else "mlp"
    encoder = EncoderSettings(**(network or SMALL), head=head, hidden=24, dim=16)
    torch.manual_seed(start)
    queued = settings if "queue" in values else {}
    parsed = parse_method({**values, **queued}, source="test")
    context = Context(encoder, 32, BATCH, BATCH, seed=3)
    return build_method(parsed, HCLSettings(queue=QUEUE, **settings), context).train()


def views_of(method: Method, step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    plan = method.view_plan
    sides = {crop.name: plan.side(crop) for crop in plan.crops}
    return {n: torch.randn(BATCH, 3, s, s, generator=generator) for n, s in sides.items()}


def descend(method: Method, losses: dict[str, Tensor]) -> None:
    """Backward and a step of plain gradient descent."""
    method.zero_grad()
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for value in method.parameters():
            if value.grad is not None:
                value.sub_(value.grad, alpha=0.01)


def run_step(method: Method, step: int) -> None:
    method.begin_step(step, 10)
    losses, _ = method(views_of(method, step))
    descend(method, losses)
    method.end_step()


def queues_of(method: Method) -> list[Queue]:
    return [module for module in method.modules() if isinstance(module, Queue)]


@every_method
def test_own_key_is_never_among_the_negatives(name: str) -> None:
    """A queue filled before its loss is computed holds the positive of every query as negative.

    Followed until the ring has wrapped around.
    """
    method = build(name)
    queues = queues_of(method)
    assert len(queues) == QUEUES[name]
    for step in range(4):
        before = [queue.rows.clone() for queue in queues]
        places = [(int(queue.pointer) + torch.arange(BATCH)) % QUEUE for queue in queues]
        method.begin_step(step, 10)
        losses, _ = method(views_of(method, step))
        descend(method, losses)
        for queue, old, place in zip(queues, before, places, strict=True):
            assert torch.equal(queue.rows, old), "enqueued before the gradients were computed"
            assert int(queue.pointer) == int(place[0])
        method.end_step()
        for queue, old, place in zip(queues, before, places, strict=True):
            assert torch.cdist(queue.rows[place], old).min() > 1e-6
            kept = torch.ones(QUEUE, dtype=torch.bool).index_fill_(0, place, False)
            assert torch.equal(queue.rows[kept], old[kept]), "more than the oldest keys replaced"


@every_method
def test_without_negatives_there_is_nothing_to_lose(name: str) -> None:
    """Random rows in a new queue are fake negatives; one that starts empty has none at all."""
    method = build(name, queue_start="empty")
    method.begin_step(0, 10)
    losses, _ = method(views_of(method, 0))
    assert [losses[term].item() for term in QUEUED if term in losses] == [0.0] * len(
        losses.keys() & set(QUEUED)
    )
    method.end_step()
    assert {len(queue.keys()) for queue in queues_of(method)} == {BATCH}


@every_method
def test_key_encoder_starts_as_the_query_encoder_and_is_frozen(name: str) -> None:
    """A key head with a random start of its own, or one that takes gradients, is no average."""
    method: Any = build(name)
    base = method.base
    query, key = base.encoder_q.state_dict(), base.encoder_k.state_dict()
    assert query.keys() == key.keys()
    for part, value in query.items():
        assert torch.equal(value, key[part]), part
        assert value.data_ptr() != key[part].data_ptr(), f"{part} is shared, not copied"
    assert all(p.requires_grad for p in base.encoder_q.parameters())
    run_step(method, 0)
    assert not any(p.requires_grad or p.grad is not None for p in base.encoder_k.parameters())


@pytest.mark.parametrize("name", ["densecl", "orl"])
def test_queue_survives_a_checkpoint_in_mid_ring(name: str, tmp_path: Path) -> None:
    """A pointer that is not saved lets a resumed run overwrite the newest keys first.

    ``test_trainer.py`` kills and resumes MoCo with the branch, its ring wrapped as well.
    """
    method = build(name)
    for step in range(3):  # 24 keys in a ring of 20: wrapped, and in the middle
        run_step(method, step)
    assert {int(queue.pointer) for queue in queues_of(method)} == {3 * BATCH % QUEUE}
    path = checkpoint.save(tmp_path, {"model": method.state_dict()}, 3, keep=1, keep_every=None)
    resumed = build(name, start=1)
    resumed.load_state_dict(checkpoint.load(path)["model"])
    for step in range(3, 5):
        run_step(method, step)
        run_step(resumed, step)
    state = resumed.state_dict()
    for part, value in method.state_dict().items():
        assert torch.equal(value, state[part]), part


class Companions(nn.Module):
    """In place of a key encoder: for each row, which rows share its batch-norm group."""

    def __init__(self, group: int, batch: int) -> None:
        super().__init__()
        self.group, self.batch = group, batch

    def forward(self, images: Tensor) -> Tensor:
        own = torch.eye(self.batch)[images[:, 0, 0, 0].long()]
        together = own.unflatten(0, (-1, self.group)).sum(1)
        return together.repeat_interleave(self.group, 0)

    def dense(self, images: Tensor) -> DenseOutput:
        cells = self(images)[:, :, None, None].expand(-1, -1, 2, 2)
        return DenseOutput(self(images), cells, cells)


@pytest.mark.parametrize("kind", ["moco", "densecl"])
@pytest.mark.parametrize("view", [0, 1, KEY_VIEW])
def test_key_shares_no_statistics_with_its_query(kind: str, view: int) -> None:
    """Batch norm leaks: a key normalized with the companions of its query can be told by them."""
    batch, group = 16, 4
    context = Context(small_encoder(dim=batch), 64, batch, batch, seed=3)
    method: Moco = (
        Moco(MocoSettings(name="moco", queue=16, norm_group=group), context)
        if kind == "moco"
        else DenseCL(DenseCLSettings(name="densecl", queue=16, norm_group=group), context)
    )
    companions = Companions(group, batch)
    images = torch.arange(batch).float()[:, None, None, None].expand(-1, 3, 2, 2)
    of_queries = companions(images)
    method.begin_step(0, 10)
    method.encoder_k = companions  # type: ignore[assignment]
    of_keys = [method.encode_key(images, view=view)]
    if isinstance(method, DenseCL):
        dense = method.encode_keys(companions.dense, images, view=view)
        of_keys += [dense[0], dense[1][:, :, 0, 0]]
    for found in of_keys:
        assert found.diagonal().eq(1).all(), "not back in its place"
        assert found.sum(1).eq(group).all()
        assert not (found == of_queries).all(1).any()


@every_method
def test_losses_and_queues_stay_in_float32(name: str) -> None:
    """Half precision cannot hold 1 - c|x|² at the rim, nor 1 - 1e-5: losses must not inherit it."""
    method = build(name, network=VIT)
    method.begin_step(0, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, metrics = method(views_of(method, 0))
        assert method.encoder(torch.zeros(BATCH, 3, 32, 32)).dtype == torch.bfloat16
    for term, value in {**losses, **metrics}.items():
        assert value.dtype in (torch.float32, torch.float64), term
        assert value.isfinite(), term
    descend(method, losses)
    method.end_step()
    for queue in queues_of(method):
        fresh = queue.rows[:BATCH]
        assert fresh.dtype == torch.float32
        assert fresh.isfinite().all()
        # More digits than bfloat16 has: normalized or mapped to the ball after the network.
        assert not torch.equal(fresh, fresh.bfloat16().float())
