"""`hcl retrieve train` and `eval`: learning, processes, resuming, evaluation, faults."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from finetune_parts import ALONE, changed, command, settings_of, train
from torch import Tensor

import hcl
from downstream.results.result import read_result
from downstream.retrieval.datasets import LabeledImages, class_folders
from downstream.retrieval.finetune.finetuned_model import load_finetuned
from downstream.retrieval.finetune.initial_network import build_network
from downstream.retrieval.finetune.settings import load_settings
from downstream.retrieval.finetune.trainer import Trainer
from pretrain import checkpoint
from pretrain.core.config import dump_yaml
from pretrain.core.errors import InputError
from pretrain.core.locks import alone_in
from pretrain.metrics import read_metrics


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


def test_rate_rises_and_falls(values):
    made = changed(
        values,
        optim={"lr": 0.01, "schedule": "cosine", "warmup_steps": 2},
        train={"steps": 6, "checkpoint_every": 3},
    )
    rates = [settings_of(made).optim.rate(step, 6) for step in range(6)]
    cosine = [0.005 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates == pytest.approx([cosine[0] / 2, *cosine[1:]])
    assert settings_of(values).optim.rate(3, 4) == values["optim"]["lr"]
    trained = train(made)
    for line, rate in zip(
        read_metrics(Path(values["output"]) / "metrics.jsonl"), rates, strict=True
    ):
        assert line["lr"] == pytest.approx(rate)
    assert trained.stepper.optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1])


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
from pretrain.core.settings import parse
settings = parse(FinetuneSettings, json.loads(sys.argv[1]), source="test")
with distributed.process_group("cpu") as world:
    trainer = Trainer(settings, world, ["test"])
    trainer.stepper.normalize = lambda batch: batch.double() / 255
    trainer.fit()
"""


def in_this_process(values: dict) -> dict[str, Tensor]:
    torch.set_default_dtype(torch.float64)
    try:
        made = changed(values, output=f"{values['output']}-1")
        trainer = Trainer(settings_of(made), ALONE, ["test"])
        trainer.stepper.normalize = lambda batch: batch.double() / 255
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
    assert hcl.main([*other, "--delta", "1", "--histogram"]) == 2
    assert "holds another result (ks)" in capsys.readouterr().err
    assert hcl.main([*other, "--delta", "1", "--histogram", "--fresh"]) == 0
    second = read_result(again)
    # Pictures of one color with noise: nearly all neighbors are of the class.
    assert second.metrics["recall/colours/euclidean@1"] > 0.8
    assert second.protocol["ks"] == [1, 3]
    relative = second.metrics["delta/backbone"]
    assert 0 < relative < 1
    assert second.metrics["delta/backbone/curvature"] == pytest.approx((0.144 / relative) ** 2)
    assert hcl.main(["retrieve", "eval", values["output"], "optim.lr=1"]) == 2
    assert "only data.* and test.*" in capsys.readouterr().err
    assert hcl.main(["retrieve", "eval", str(tmp_path)]) == 2


def test_evaluation_keeps_to_its_run_and_replaces_no_other_result(
    values, tmp_path, class_folder, capsys
):
    few = {"steps": 4, "checkpoint_every": 2, "keep": 3}
    train(changed(values, train=few))
    run = Path(values["output"]).rename(tmp_path / "moved")
    assert hcl.main(["retrieve", "eval", str(run)]) == 0
    assert not Path(values["output"]).exists()
    first = read_result(run)
    capsys.readouterr()
    assert hcl.main(["retrieve", "eval", str(run)]) == 0
    assert "result.json: already there" in capsys.readouterr().out

    # A ranking by colors joins the result, and what joined it before stays.
    for more in (["--delta", "1"], ["--histogram"]):
        assert hcl.main(["retrieve", "eval", str(run), *more]) == 0
        assert "result.json: written" in capsys.readouterr().out
    joined = read_result(run).metrics
    assert {"delta/backbone", "recall/colours/euclidean@1", "map@r/colours/euclidean"} < set(joined)
    assert {name: joined[name] for name in first.metrics} == first.metrics
    assert hcl.main(["retrieve", "eval", str(run), "--histogram"]) == 0
    assert "already there" in capsys.readouterr().out

    older = next(p for p in sorted(run.glob("checkpoints/*.pt")) if load_finetuned(p).step == 2)
    other = tmp_path / "fewer"
    other.mkdir()
    for label in (0, 1, 2, 3):
        (other / f"class{label}").symlink_to(class_folder / f"class{label}")
    for words, differs in (
        ([str(older)], "weights_sha256"),
        ([str(run), f"data.root={other}"], "data_fingerprint"),
    ):
        assert hcl.main(["retrieve", "eval", *words]) == 2
        assert f"holds another result ({differs})" in capsys.readouterr().err
    assert read_result(run).metrics == joined
    assert hcl.main(["retrieve", "eval", str(older), "--fresh"]) == 0
    assert read_result(run).provenance["step"] == 2
    loose = older.rename(tmp_path / "loose.pt")
    assert hcl.main(["retrieve", "eval", str(loose)]) == 2
    assert "say with --output" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        hcl.main(["retrieve", "eval", str(run), "--delta", "-1"])


def test_a_run_can_be_compared(values, tmp_path, capsys):
    assert hcl.main([*command(values, tmp_path), "train.steps=1"]) == 0
    value = read_result(Path(values["output"])).metrics["recall/head/hyperbolic@1"]
    capsys.readouterr()
    report = tmp_path / "report"
    assert hcl.main(["compare", values["output"], "--output", str(report)]) == 0
    assert f"{100 * value:.1f}" in capsys.readouterr().out


def test_clipped_points_rank_as_the_cosine_and_unclipped_ones_do_not(values, tmp_path):
    """A transformer's projections are far longer than the clip radius."""
    results = []
    for radius in ("0.5", "null"):
        made = changed(values, output=values["output"] + radius)
        # A narrow embedding: before training the norms of a wide one hardly differ.
        more = [f"loss.clip_radius={radius}", "train.steps=0", "model.dim=2"]
        assert hcl.main([*command(made, tmp_path), *more]) == 0
        results.append(read_result(Path(made["output"])).metrics)
    clipped, free = results
    assert clipped["norm/std"] < 1e-9
    assert free["norm/std"] > 0.01
    for name in ("map@r", "r-precision"):
        assert clipped[f"{name}/head/hyperbolic"] == clipped[f"{name}/head/euclidean"]
    assert free["map@r/head/hyperbolic"] != free["map@r/head/euclidean"]


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
    assert (record["state"], record["error"].split(":")[0]) == ("failed", "NonFiniteLossError")


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
    assert isinstance(class_folders.read(tmp_path / "s"), LabeledImages)


def test_one_run_in_a_folder_and_starting_over(values, tmp_path, capsys):
    output = Path(values["output"])
    arguments = command(changed(values, train={"steps": 1}), tmp_path)
    with alone_in(output):
        assert hcl.main(arguments) == 2
    assert (
        f"{output}: another run is at work here (process {os.getpid()}" in capsys.readouterr().err
    )
    assert not output.exists() or not (output / "config.yaml").exists()
    assert hcl.main(arguments) == 0
    (output / "notes.txt").write_text("dear")
    before = (output / "config.yaml").read_text()
    other = [*arguments, "seed=5"]
    assert hcl.main(other) == 2
    assert "seed: " in capsys.readouterr().err
    assert hcl.main([*other, "--fresh", "data.root=nowhere"]) == 2
    assert (output / "config.yaml").read_text() == before
    assert (output / "result.json").is_file()
    assert hcl.main([*other, "--fresh"]) == 0
    assert (output / "config.yaml").read_text() != before
    assert (output / "notes.txt").read_text() == "dear"
    assert len(json.loads((output / "run.json").read_text())["starts"]) == 1
    (output / "config.yaml").write_text(before)  # as if two runs had been mixed
    assert hcl.main(arguments) == 2
    assert "step_00000001.pt: holds a run of other settings (seed: 5 -> " in capsys.readouterr().err
