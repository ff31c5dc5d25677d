"""`hcl retrieve train` and `eval`: the step against golden numbers, processes, resuming, faults."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import hcl
from downstream.results import read_result
from downstream.retrieval.datasets import LabelledImages, folder
from downstream.retrieval.finetune import network as networks
from downstream.retrieval.finetune.config import dump_yaml, load_settings
from downstream.retrieval.finetune.images import CentredImages, TrainImages, random_part
from downstream.retrieval.finetune.loss import ball_points, metric_loss
from downstream.retrieval.finetune.network import Architecture, Network, build_network
from downstream.retrieval.finetune.sampler import UniqueClassSampler
from downstream.retrieval.finetune.settings import (
    AugmentSettings,
    FinetuneSettings,
    LossSettings,
    ModelSettings,
)
from downstream.retrieval.finetune.step import DivergedError, Stepper
from downstream.retrieval.finetune.trainer import Trainer
from downstream.retrieval.finetune.tuned import load_tuned
from pretrain import checkpoint
from pretrain.distributed import World
from pretrain.errors import InputError
from pretrain.metrics import read_metrics
from pretrain.settings import parse

GOLDEN = Path(__file__).parents[2] / "golden"
ALONE = World(0, 1, 0, 1, torch.device("cpu"))
TINY = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
COLOURS = [
    (200, 40, 40),
    (40, 200, 40),
    (40, 40, 200),
    (200, 200, 40),
    (40, 200, 200),
    (90, 90, 90),
]


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory) -> Path:
    """Six classes of five noisy pictures; one is grey, one has a palette, one is RGBA, one CMYK."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for label, colour in enumerate(COLOURS):
        (root / f"class{label}").mkdir()
        for number in range(5):
            noise = rng.normal(0, 40, (40, 48, 3)) + colour
            picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
            mode = {0: "L", 1: "P", 2: "RGBA"}.get(number) if label == 5 else None
            if label == 0 and number == 0:
                picture.convert("CMYK").save(root / "class0/0.jpg")
            else:
                picture.convert(mode or "RGB").save(root / f"class{label}/{number}.png")
    return root


@pytest.fixture
def values(class_folder, tmp_path) -> dict:
    return {
        "output": str(tmp_path / "run"),
        "data": {"name": "folder", "root": str(class_folder), "workers": 0},
        "model": {
            "backbone": "vit_tiny_patch16_224",
            "options": TINY,
            "dim": 8,
            "size": 32,
            "freeze": 0,
        },
        "loss": {"geometry": "mixed", "temperature_spherical": 0.1, "weight": 0.5},
        "sampler": {"classes": 3, "samples": 2},
        "optim": {"lr": 1e-3},
        "train": {
            "steps": 4,
            "device": "cpu",
            "precision": "fp32",
            "log_every": 1,
            "tensorboard": False,
        },
    }


def settings_of(values: dict) -> FinetuneSettings:
    return parse(FinetuneSettings, values, source="test")


def changed(values: dict, **sections) -> dict:
    return {
        **values,
        **{
            name: {**values.get(name, {}), **more} if isinstance(more, dict) else more
            for name, more in sections.items()
        },
    }


class Given(nn.Module):
    """A backbone whose output is a parameter: what the step does to it is seen in its gradient."""

    num_features = 128

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = nn.Parameter(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.features[: len(images)]


def golden_step(raw: np.ndarray, loss: dict, values: dict) -> tuple[float, Tensor]:
    """Loss and gradient with respect to the head's output, through a whole step."""
    settings = settings_of(
        changed(
            values,
            loss={"clip_radius": 2.3, "curvature": 0.1, **loss},
            sampler={"classes": 10, "samples": 3},
            optim={"clip_norm": None},
        )
    )
    architecture = Architecture(
        library="timm",
        backbone="",
        options={},
        dim=128,
        tokens="mean",
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    given = Given(torch.from_numpy(raw).double().flatten(0, 1))
    network = Network(given, architecture).double()
    network.head = nn.Identity()
    stepper = Stepper(settings, ALONE, network)
    done = stepper.run(torch.zeros(30, 3, 2, 2, dtype=torch.uint8), 0, stop=False)
    assert given.features.grad is not None
    return float(done.values["loss"]), given.features.grad.reshape(10, 3, 128)


SPHERE = {"geometry": "sphere"}
BALL = {"geometry": "ball"}
MIXED = {"geometry": "mixed", "temperature_hyperbolic": 0.2}
README = {"temperature_spherical": 0.05, "weight": 3.0}
RELEASED = {**MIXED, "ball_input": "unit"}


@pytest.mark.parametrize("numerics", ["exact", "official"])
@pytest.mark.parametrize(
    ("file", "case", "loss"),
    [
        ("hypvit", "sph_tau0.1", {**SPHERE, "temperature_spherical": 0.1}),
        ("hypvit", "sph_tau0.2", {**SPHERE, "temperature_spherical": 0.2}),
        ("hypvit", "hyp_tau0.2", {**BALL, "temperature_hyperbolic": 0.2}),
        ("hypvit", "hyp_tau0.05", {**BALL, "temperature_hyperbolic": 0.05}),
        (
            "hypmix",
            "te0.05_th0.2_lam3.0",
            {**RELEASED, "temperature_spherical": 0.05, "weight": 3.0},
        ),
        ("hypmix", "te0.1_th0.2_lam0.5", {**RELEASED, "temperature_spherical": 0.1, "weight": 0.5}),
        (
            "hypmix",
            "unnorm_te0.05_th0.2_lam3.0",
            {**MIXED, "temperature_spherical": 0.05, "weight": 3.0},
        ),
    ],
)
def test_golden_losses_through_the_step(file, case, loss, numerics, values):
    with np.load(GOLDEN / f"{file}_loss.npz") as archive:
        prefix, bound = ("exact", 1e-12) if numerics == "exact" else ("ref64", 1e-9)
        expected = float(archive[f"{case}_{prefix}_full_loss"])
        gradient = torch.from_numpy(archive[f"{case}_{prefix}_full_grad_raw"])
        found, grad = golden_step(archive["raw"], {**loss, "numerics": numerics}, values)
    assert found == pytest.approx(expected, rel=bound)
    assert float((grad - gradient).abs().max() / gradient.abs().max()) < bound


def test_sum_of_losses_is_the_sum():
    raw = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 16)))
    both = LossSettings(geometry="mixed", combine="losses", weight=0.7)
    parts = [LossSettings(geometry="sphere"), LossSettings(geometry="ball")]
    sphere, ball = (metric_loss(raw, part) for part in parts)
    assert float(metric_loss(raw, both)) == pytest.approx(float(sphere + 0.7 * ball), rel=1e-12)
    joint = metric_loss(raw, both.model_copy(update={"combine": "logits"}))
    assert abs(float(joint - sphere - 0.7 * ball)) > 0.1


def test_released_ball_points_have_one_norm_and_raw_ones_do_not():
    raw = torch.from_numpy(np.random.default_rng(1).standard_normal((40, 16)))
    unit = ball_points(raw, LossSettings(geometry="mixed", ball_input="unit")).norm(dim=-1)
    assert unit.tolist() == pytest.approx([np.tanh(0.1**0.5) / 0.1**0.5] * 40)
    own = LossSettings(geometry="mixed", clip_radius=None)
    assert float(ball_points(raw, own).norm(dim=-1).std()) > 0.01


def test_sampler_visits_each_class_once_an_epoch():
    labels = np.repeat(np.arange(7), [4, 1, 9, 3, 5, 6, 2])
    rows = np.arange(100, 130)
    sampler = UniqueClassSampler(
        rows, labels, classes=3, samples=3, seed=5, start_step=0, total_steps=4
    )
    assert sampler.steps_per_epoch == 2
    steps = list(sampler)
    for epoch in (0, 1):
        drawn = [d for step in steps[2 * epoch : 2 * epoch + 2] for d in step]
        assert {d.epoch for d in drawn} == {epoch}
        of_class = [labels[d.row - 100] for d in drawn]
        assert all(of_class[i] == of_class[i + 1] == of_class[i + 2] for i in range(0, 18, 3))
        assert set(Counter(of_class).values()) == {3}, "no class twice"
        for start in range(0, 18, 3):
            group = drawn[start : start + 3]
            assert [d.slot for d in group] == [0, 1, 2]
            enough = (labels == of_class[start]).sum() >= 3
            assert not enough or len({d.row for d in group}) == 3
    assert steps[:2] != steps[2:], "an order of its own for each epoch"


def test_sampler_is_a_function_of_the_step_whatever_came_before():
    labels, rows = np.repeat(np.arange(6), 5), np.arange(30)
    sizes = {"classes": 2, "samples": 4, "seed": 3}
    whole = list(UniqueClassSampler(rows, labels, **sizes, total_steps=7))
    later = list(UniqueClassSampler(rows, labels, **sizes, start_step=4, total_steps=7))
    assert later == whole[4:]
    ranks = [
        list(UniqueClassSampler(rows, labels, **sizes, total_steps=7, rank=r, world=2))
        for r in (0, 1)
    ]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    with pytest.raises(InputError, match="7 a step, but there are 6 classes"):
        UniqueClassSampler(rows, labels, classes=7, samples=2, seed=0)
    with pytest.raises(InputError, match="do not divide over 3"):
        UniqueClassSampler(rows, labels, **sizes, world=3)


def test_random_parts_keep_to_their_bounds():
    rng = np.random.default_rng(0)
    for width, height in ((640, 480), (30, 300), (3, 1), (1, 1)):
        for _ in range(200):
            left, top, w, h = random_part(rng, width, height, 0.2)
            assert 0 <= left <= width - w
            assert 0 <= top <= height - h
            assert w >= 1 <= h
            if width == 640:
                assert 0.2 * 0.98 <= w * h / (640 * 480) <= 1.0
                assert 0.74 <= w / h <= 1.35


def test_crops_are_a_function_of_the_draw(class_folder):
    images = folder.read(class_folder)
    dataset = TrainImages(images, AugmentSettings(), size=32, seed=1)
    draw = UniqueClassSampler(
        images.rows("train"), images.labels[images.rows("train")], classes=3, samples=2, seed=0
    ).step(0)
    first, again, other = dataset[draw[0]], dataset[draw[0]], dataset[draw[0]._replace(slot=1)]
    assert isinstance(first, Tensor)
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_colour_mode_is_read(class_folder):
    images = folder.read(class_folder)
    dataset = CentredImages(images, size=32, resize=36)
    for row in range(len(images)):
        picture = dataset[row]
        assert isinstance(picture, Tensor)
        assert picture.shape == (3, 32, 32)
        colour = picture.float().mean((1, 2))
        assert (colour - torch.tensor(COLOURS[images.labels[row]]).float()).abs().max() < 25


def test_test_crop_is_that_of_torchvision(tmp_path):
    from torchvision.transforms import v2

    rng = np.random.default_rng(2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pixels = rng.integers(0, 255, (53, 81, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a/1.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "b/1.png")
    dataset = CentredImages(folder.read(tmp_path), size=32, resize=40)
    published = v2.Compose(
        [v2.Resize(40, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)]
    )
    for row, name in enumerate("ab"):
        with Image.open(tmp_path / name / "1.png") as image:
            expected = np.asarray(published(image)).astype(int)
        found = dataset[row].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected).max() <= 2


def train(values: dict, world: World = ALONE) -> Trainer:
    trainer = Trainer(settings_of(values), world, ["test"])
    trainer.fit()
    return trainer


@pytest.mark.parametrize("geometry", ["sphere", "ball", "mixed"])
def test_the_loss_falls(values, geometry):
    more = {"steps": 25, "log_every": 25}
    made = changed(values, loss={"geometry": geometry}, train=more)
    before = metric_of_first_step(changed(made, output=values["output"] + "0"))
    train(made)
    assert read_metrics(Path(values["output"]) / "metrics.jsonl")[-1]["loss"] < 0.7 * before


def metric_of_first_step(values: dict) -> float:
    train(changed(values, train={"steps": 1, "log_every": 1}))
    return read_metrics(Path(values["output"]) / "metrics.jsonl")[0]["loss"]


def test_resumed_is_bit_identical(values):
    whole = train(changed(values, output=values["output"] + "-whole"))
    half = changed(values, train={"steps": 4, "checkpoint_every": 2})
    trainer = Trainer(settings_of(half), ALONE, ["test"])
    run = trainer.stepper.run

    def interrupt(batch, step, *, stop):
        done = run(batch, step, stop=stop)
        trainer._stop.is_set = step == 0  # a signal during the first step
        return done

    trainer.stepper.run = interrupt
    assert trainer.fit() is False
    assert trainer.step == 2
    again = train(half)
    assert again.step == 4
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    lines = [read_metrics(Path(t.settings.output) / "metrics.jsonl") for t in (whole, again)]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


def test_continuing_with_other_settings_is_refused(values):
    train(values)
    with pytest.raises(InputError, match=r"optim.lr: 0.001 -> 0.01"):
        train(changed(values, optim={"lr": 0.01}))
    train(changed(values, data={"workers": 1}))


TWO = """
import json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
from downstream.retrieval.finetune.settings import FinetuneSettings
from downstream.retrieval.finetune.trainer import Trainer
from pretrain import distributed
from pretrain.settings import parse
settings = parse(FinetuneSettings, json.loads(sys.argv[1]), source="test")
with distributed.process_group("cpu") as world:
    trainer = Trainer(settings, world, ["test"])
    trainer.stepper.normalise = lambda batch: batch.double() / 255
    trainer.fit()
"""


def in_this_process(values: dict) -> dict[str, Tensor]:
    torch.set_default_dtype(torch.float64)
    try:
        made = changed(values, output=f"{values['output']}-1")
        trainer = Trainer(settings_of(made), ALONE, ["test"])
        trainer.stepper.normalise = lambda batch: batch.double() / 255
        trainer.fit()
    finally:
        torch.set_default_dtype(torch.float32)
    return trainer.network.state_dict()


def run_processes(values: dict, world: int, port: int) -> dict[str, Tensor]:
    output = f"{values['output']}-{world}"
    text = json.dumps(changed(values, output=output))
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, text],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    return checkpoint.load_latest(Path(output) / "checkpoints")[1]["network"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_compute_what_one_does(values):
    """Float64, with a gradient limit that acts: wrong sums or means would show."""
    made = changed(values, optim={"clip_norm": 0.5, "lr": 1e-3})
    one, two = in_this_process(made), run_processes(made, 2, free_port())
    moved = build_network(settings_of(values).model).state_dict()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-11, msg=name)
    assert any(not torch.allclose(one[name].float(), moved[name].float()) for name in one)
    lines = [read_metrics(Path(f"{values['output']}-{n}") / "metrics.jsonl") for n in (1, 2)]
    for first, second in zip(*lines, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-10)
        assert first["gradient_norm"] == pytest.approx(second["gradient_norm"], rel=1e-9)


def fp16_step(values: dict, *, scaled: bool) -> float:
    """Norm of the gradient that reaches the optimiser in an fp16 step."""
    optim = {"clip_norm": 3.0, "clip_scaled": scaled}
    settings = settings_of(changed(values, optim=optim, train={"precision": "fp16"}))
    torch.manual_seed(0)
    stepper = Stepper(settings, ALONE, build_network(settings.model).train())
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    batch = torch.randint(0, 255, (6, 3, 32, 32), dtype=torch.uint8)
    stepper.run(batch, 0, stop=False)
    return float(
        nn.utils.get_total_norm([p.grad for p in stepper.parameters if p.grad is not None])
    )


def test_clipping_before_unscaling_leaves_almost_nothing(values):
    right, released = fp16_step(values, scaled=False), fp16_step(values, scaled=True)
    assert 0.1 < right <= 3.001
    assert released <= 3.001 / 64


def test_frozen_parts_stay_as_they_were(values):
    network = build_network(settings_of(changed(values, model={"freeze": 1})).model)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    parts = ("backbone.patch_embed.", "backbone.blocks.0.")
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith(parts)}
    torch.manual_seed(0)
    before = build_network(settings_of(values).model).state_dict()
    after = train(values).network.state_dict()
    stayed = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert stayed == {name for name in after if name.startswith(parts[0])}
    with pytest.raises(InputError, match="has 2 blocks"):
        build_network(settings_of(changed(values, model={"freeze": 3})).model)


def test_head_is_orthogonal(values):
    weight = build_network(settings_of(values).model).head.weight
    assert torch.allclose(weight @ weight.T, torch.eye(8), atol=1e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_without_their_classifier(values, tmp_path, suffix):
    import timm
    from safetensors.torch import save_file

    source = timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY)
    file = tmp_path / f"weights{suffix}"
    state = source.state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save({"model": state}, file)
    network = build_network(settings_of(changed(values, model={"weights": str(file)})).model)
    assert torch.equal(network.backbone.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    other = {**TINY, "depth": 3}
    with pytest.raises(InputError, match=r"tensors are not this backbone's: Missing key"):
        build_network(
            settings_of(changed(values, model={"weights": str(file), "options": other})).model
        )
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        build_network(settings_of(changed(values, model={"weights": str(file)})).model)
    with pytest.raises(InputError, match="no such file"):
        build_network(settings_of(changed(values, model={"weights": "none.pth"})).model)


def test_published_backbones_have_the_published_constants(monkeypatch):
    half, imagenet = (0.5, 0.5, 0.5), networks.IMAGENET_MEAN
    small = {"depth": 1}
    for name, mean in (
        ("vit_small_patch16_224", half),
        ("deit_small_distilled_patch16_224", imagenet),
        ("vit_small_patch16_224.dino", imagenet),
    ):
        network = build_network(ModelSettings(backbone=name, options=small, freeze=0))
        assert network.architecture.mean == mean
        features, projections = network(torch.zeros(1, 3, 224, 224))
        assert (features.shape, projections.shape) == ((1, 384), (1, 128))


def test_tokens_of_a_distilled_deit():
    options = {**TINY}
    images = torch.rand(2, 3, 32, 32)
    found = {}
    for tokens in ("class", "mean", "released"):
        torch.manual_seed(0)
        settings = ModelSettings(
            backbone="deit_small_distilled_patch16_224", options=options, tokens=tokens, size=32
        )
        network = build_network(settings)
        found[tokens] = (network.train()(images)[0], network.eval()(images)[0])
    assert torch.equal(found["released"][0], found["class"][0])
    assert torch.equal(found["released"][1], found["mean"][1])
    assert not torch.allclose(found["class"][0], found["mean"][0])


def test_own_pretrained_backbone_trains_and_comes_back(values, random_run):
    model = {"run": str(random_run), "dim": 8, "size": 32}
    made = {**values, "model": model, "train": {**values["train"], "steps": 1}}
    trainer = train(made)
    assert trainer.network.architecture.library == "hcl"
    tuned = load_tuned(Path(made["output"]))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(tuned.network(images)[1], trainer.network.eval()(images)[1])


def command(values: dict, tmp_path: Path) -> list[str]:
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(settings_of(values)))
    return ["retrieve", "train", str(file)]


def test_command_trains_evaluates_and_evaluates_again(values, tmp_path, capsys):
    assert hcl.main([*command(values, tmp_path), "train.steps=2", "test.resize=36"]) == 0
    printed = capsys.readouterr().out
    assert "head/fused" in printed
    result = read_result(Path(values["output"]))
    names = {name.removeprefix("map@r/") for name in result.metrics if name.startswith("map@r")}
    assert names == {"backbone/euclidean", "head/euclidean", "head/hyperbolic", "head/fused"}
    assert result.provenance["queries"] == 15
    assert result.protocol["ks"] == [1, 2, 4, 8]
    again = tmp_path / "again"
    assert hcl.main(["retrieve", "eval", values["output"], "--output", str(again)]) == 0
    assert read_result(again).metrics == result.metrics
    other = ["retrieve", "eval", values["output"], "test.ks=[1,3]", "--output", str(again)]
    assert hcl.main([*other, "--delta", "1"]) == 0
    second = read_result(again)
    assert second.protocol["ks"] == [1, 3]
    relative = second.metrics["delta/backbone"]
    assert 0 < relative < 1
    assert second.metrics["delta/backbone/curvature"] == pytest.approx((0.144 / relative) ** 2)
    assert hcl.main(["retrieve", "eval", values["output"], "optim.lr=1"]) == 2
    assert "only data.* and test.*" in capsys.readouterr().err
    assert hcl.main(["retrieve", "eval", str(tmp_path)]) == 2


def test_released_fusion_shows_one_norm_and_the_ranking_of_the_cosine(values, tmp_path):
    loss = {"geometry": "mixed", "ball_input": "unit", "numerics": "official"}
    assert hcl.main(command(changed(values, loss=loss), tmp_path)) == 0
    metrics = read_result(Path(values["output"])).metrics
    assert metrics["norm/std"] < 1e-6
    assert metrics["norm/mean"] == pytest.approx(2.0, rel=1e-6), "twice the length of a unit vector"
    for k in (1, 2, 4, 8):
        cosine = metrics[f"recall/head/euclidean@{k}"]
        assert metrics[f"recall/head/hyperbolic@{k}"] == cosine
        assert metrics[f"recall/head/fused@{k}"] == cosine
    logged = read_metrics(Path(values["output"]) / "metrics.jsonl")[-1]
    assert logged["ball_norm/std"] < 1e-5


def test_gallery_sets_are_searched_from_queries(values, class_folder, tmp_path):
    root = tmp_path / "parts"
    for split, classes in (("train", (0, 1, 2)), ("query", (3, 4)), ("gallery", (3, 4, 5))):
        for label in classes:
            (root / split).mkdir(parents=True, exist_ok=True)
            (root / split / f"class{label}").symlink_to(class_folder / f"class{label}")
    made = changed(values, data={"root": str(root)}, train={"steps": 0})
    assert hcl.main(command(made, tmp_path)) == 0
    result = read_result(Path(values["output"]))
    assert (result.provenance["queries"], result.provenance["gallery"]) == (10, 15)
    # The same files are in both parts, so every query finds its copy first.
    assert result.metrics["recall/backbone/euclidean@1"] == 1


def test_faults_are_told_in_a_line(values, tmp_path, capsys):
    start = command(values, tmp_path)
    for override, words in (
        ("loss.geometri=ball", "did you mean 'geometry'"),
        ("loss.clip_radius=0", "loss.clip_radius"),
        ("sampler.classes=9", "there are 3 classes to train on"),
        ("model.backbone=vit_smal_patch16_224", "timm has no model"),
        ("model.run=somewhere", "exactly one of"),
        ("model.options.depht=3", "unexpected keyword"),
        ("optim.clip_scaled=true", "about fp16"),
        ("test.resize=16", "smaller than model.size"),
        ("data.root=/nowhere", "no such folder"),
        ("train.epochs=2", "exactly one of 'epochs' and 'steps'"),
        ("nonsense", "key=value"),
        ("seed.x=1", "is a value, not a section"),
    ):
        assert hcl.main([*start, override]) == 2, override
        assert words in capsys.readouterr().err, override


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(values, class_folder, tmp_path, workers, capsys):
    root = tmp_path / "set"
    for label in range(4):
        (root / f"c{label}").mkdir(parents=True)
        for number in range(2):
            (root / f"c{label}/{number}.jpg").write_bytes(b"no image")
    made = changed(
        values,
        data={"root": str(root), "workers": workers},
        sampler={"classes": 2, "samples": 2},
    )
    assert hcl.main(command(made, tmp_path)) == 2
    assert "not an image of a known kind; replace the file" in capsys.readouterr().err


def test_divergence_stops_the_run(values, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "downstream.retrieval.finetune.step.metric_loss", lambda z, s: z.sum() * float("nan")
    )
    assert hcl.main(command(values, tmp_path)) == 1
    assert "step 1: the loss or its gradient is not finite" in capsys.readouterr().err
    record = json.loads((Path(values["output"]) / "run.json").read_text())
    assert (record["state"], record["error"].split(":")[0]) == ("failed", DivergedError.__name__)


def test_base_and_numbers_in_overrides(values, tmp_path):
    (tmp_path / "below.yaml").write_text(dump_yaml(settings_of(values)))
    (tmp_path / "above.yaml").write_text("base: below\noptim: {weight_decay: 0.5}\n")
    found = load_settings(str(tmp_path / "above.yaml"), ["optim.lr=2e-5"])
    assert (found.optim.lr, found.optim.weight_decay, found.optim.clip_norm) == (2e-5, 0.5, 3.0)
    (tmp_path / "below.yaml").write_text("base: above\n")
    with pytest.raises(InputError, match="in a circle"):
        load_settings(str(tmp_path / "above.yaml"))


def test_set_without_training_images_is_refused(values, class_folder, tmp_path):
    (tmp_path / "s/test").mkdir(parents=True)
    (tmp_path / "s/test/a").symlink_to(class_folder / "class0")
    with pytest.raises(InputError, match="no images to train on"):
        train(changed(values, data={"root": str(tmp_path / "s")}))
    assert isinstance(folder.read(tmp_path / "s"), LabelledImages)
