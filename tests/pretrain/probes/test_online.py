"""The probe in real runs: it sees, it disturbs nothing, it is the same after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_network import SMALL, small_encoder

import pretrain
from pretrain import checkpoint, distributed
from pretrain.config import load_settings
from pretrain.core.config import dump_yaml
from pretrain.core.errors import InputError
from pretrain.data.decode import read_image
from pretrain.data.views import resize, whole_pixels
from pretrain.datasets.source import DataSettings, open_index
from pretrain.metrics import read_metrics
from pretrain.models import Encoder
from pretrain.probes.encode import Forward, encode
from pretrain.probes.items import choose_items
from pretrain.probes.online import KnnProbe
from pretrain.probes.settings import ProbeSettings
from pretrain.run import RunFolder
from pretrain.trainer import Trainer

ROOT = Path(pretrain.__file__).parent.parent
SCRIPT = Path(__file__).parent / "probe_step.py"
STEPS = 5
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def world() -> Iterator[distributed.World]:
    with distributed.process_group("cpu") as alone:
        yield alone


def data(scenes: Path, **more: Any) -> dict[str, Any]:
    return {
        "annotations": str(scenes / "annotations/instances_train.json"),
        "images": str(scenes / "train"),
        "index": str(scenes.parent / "probe_index"),
        "workers": 0,
        **more,
    }


def settings(scenes: Path, output: Path, **more: Any) -> Any:
    values = {
        "output": str(output),
        "data": data(scenes),
        "views.size": 32,
        "model.backbone": SMALL["backbone"],
        "model.options": SMALL["options"],
        "model.dim": 16,
        "method.queue": 20,
        "method.norm_group": 4,
        "hcl.queue": 20,
        "optim.batch_size": 8,
        "optim.lr": 0.01,
        "train.epochs": None,
        "train.steps": STEPS,
        "train.log_every": 2,
        "train.checkpoint_every": 2,
        "train.keep": 3,
        "train.threads": 1,
        "train.tensorboard": False,
    }
    values.update({key.replace("__", "."): value for key, value in more.items()})
    return load_settings("quickstart", [f"{key}={json.dumps(v)}" for key, v in values.items()])


def probe(scenes: Path, **more: Any) -> dict[str, Any]:
    return {"every": 3, "data": data(scenes), "max_items": 20, "batch_size": 16, **more}


def state(run: Path) -> dict[str, Any]:
    found = checkpoint.load_latest(run / "checkpoints")
    assert found is not None
    return found[1]


def assert_same_model(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name


def lines(run: Path) -> list[dict[str, float]]:
    """Without what a clock says."""
    clocks = ("images_per_s", "data_wait", "probe/seconds")
    return [
        {name: value for name, value in line.items() if name not in clocks}
        for line in read_metrics(run / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def probed(
    scenes: Path, tmp_path_factory: pytest.TempPathFactory, world: distributed.World
) -> Path:
    run = tmp_path_factory.mktemp("probed") / "run"
    trained = Trainer(settings(scenes, run, probe=probe(scenes)), world, ["test"])
    trained.fit()
    online = trained.method.encoder.backbone
    assert all(layer.training for layer in online.modules())  # as the probe found it
    return run


def test_probe__stands_in_the_metrics(probed: Path) -> None:
    found = read_metrics(probed / "metrics.jsonl")
    assert [line["step"] for line in found] == [2, 3, 4, 5]
    # Step 3 is not logged: a line of its own. The end is both, on one line.
    assert [("loss" in line, "probe/knn" in line) for line in found] == [
        (True, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    for line in (found[1], found[3]):
        for name in ("knn", "recall_1", "chance", "majority"):
            assert 0 <= line[f"probe/{name}"] <= 1
        assert line["probe/chance"] > 0
        assert line["probe/seconds"] > 0
    for line in (found[0], found[2], found[3]):
        assert 1 <= line["rank"] <= 16
        assert 0 < line["spread"] < 1
        assert -1 < line["similarity/negative"] < 1
        assert "agreement" in line


def test_run__is_bit_identical_without_probe_and_monitor(
    scenes: Path, tmp_path: Path, probed: Path, world: distributed.World
) -> None:
    run = tmp_path / "run"
    Trainer(settings(scenes, run, train__monitor=False), world, ["test"]).fit()
    with_probe, without = state(probed), state(run)
    assert_same_model(with_probe, without)
    for key, slot in without["optimizer"]["state"].items():
        other = with_probe["optimizer"]["state"][key]
        assert torch.equal(slot["momentum_buffer"], other["momentum_buffer"])
    plain = lines(run)
    assert [line["step"] for line in plain] == [2, 4, 5]
    assert not [name for line in plain for name in line if name.startswith(("probe/", "rank"))]
    logged = [line for line in lines(probed) if "loss" in line]
    assert [line["loss"] for line in plain] == [line["loss"] for line in logged]


def test_killed_run__has_the_same_probes(
    scenes: Path, tmp_path: Path, probed: Path, world: distributed.World
) -> None:
    run = tmp_path / "run"
    shutil.copytree(probed, run)
    for step in (4, 5):  # as if killed after the probe of step 3, before the checkpoint of step 4
        for file in (run / "checkpoints").glob(f"step_0000000{step}.*"):
            file.unlink()
    resumed = Trainer(settings(scenes, run, probe=probe(scenes)), world, ["test"])
    resumed.fit()
    assert resumed.step == STEPS
    starts = json.loads((run / "run.json").read_text())["starts"]
    assert len(starts) == 2
    assert lines(run) == lines(probed)
    assert_same_model(state(run), state(probed))


def test_probe_and_monitor__may_be_changed_in_mid_run(scenes: Path, tmp_path: Path) -> None:
    first = settings(scenes, tmp_path)
    (tmp_path / "config.yaml").write_text(dump_yaml(first))
    for more in ({"probe": probe(scenes)}, {"probe": probe(scenes, k=3)}, {"train.monitor": False}):
        changed = settings(scenes, tmp_path, **more)
        RunFolder(changed).check()
        (tmp_path / "config.yaml").write_text(dump_yaml(changed))
    RunFolder(first).check()


def test_baseline_of_no_steps__is_probed(
    scenes: Path, tmp_path: Path, world: distributed.World
) -> None:
    run = tmp_path / "run"
    Trainer(settings(scenes, run, probe=probe(scenes), train__steps=0), world, ["test"]).fit()
    (line,) = lines(run)
    assert line["step"] == 0
    assert 0 <= line["probe/knn"] <= 1
    assert line["probe/chance"] > 0


def test_collapse__is_in_the_run_record(
    scenes: Path, tmp_path: Path, world: distributed.World
) -> None:
    run = tmp_path / "run"
    trained = Trainer(settings(scenes, run, train__steps=6, train__log_every=1), world, ["test"])
    head: Any = trained.method.encoder.head
    # A constant embedding that no gradient moves.
    head[2].weight.requires_grad_(False).zero_()
    head[2].bias.requires_grad_(False).fill_(1.0)
    trained.fit()
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["warning"].startswith("embeddings have collapsed")


def test_two_ranks__find_what_one_process_finds(scenes: Path, tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        launch = [sys.executable]
        if count > 1:
            launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        output = tmp_path / f"{count}.json"
        done = subprocess.run(
            [*launch, str(SCRIPT), str(scenes), str(output)],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        values = json.loads(output.read_text())
        assert values.pop("probe/seconds") > 0
        found.append(values)
    assert found[1] == pytest.approx(found[0], rel=1e-5)


# ----------------------------------------------------------------------------- the encoding


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(small_encoder(dim=8))


def how(**more: Any) -> Forward:
    values: dict[str, Any] = {
        "size": 24,
        "mean": HALF,
        "std": HALF,
        "device": torch.device("cpu"),
        "memory_format": torch.contiguous_format,
        "autocast": contextlib.nullcontext,
        **more,
    }
    return Forward(**values)


@pytest.mark.parametrize("threads", [0, 3])
def test_features__are_those_of_exact_crops(scenes: Path, threads: int) -> None:
    network = encoder()
    items, _ = choose_items(DataSettings(**data(scenes)), None, "object", 20)
    random, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    features, readable = encode(network.backbone, items, how(batch=6, threads=threads))
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numbers).all()
    assert readable.all()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.eval()
    for place in (0, 7, 19):
        row = int(items.rows[place])
        image = read_image(items.index.path(row), items.index.size(row))
        (window,) = whole_pixels(items.boxes[place][None], items.index.size(row)).tolist()
        crop = resize(image, tuple(window), 24)
        expected = network.backbone(((crop.float() / 255 - 0.5) / 0.5)[None])
        expected = F.normalize(expected, dim=1)[0]
        torch.testing.assert_close(features[place], expected, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_layers__get_their_own_mode_back(scenes: Path) -> None:
    network = encoder().train()
    frozen: Any = network.backbone.bn1
    frozen.eval()
    items, _ = choose_items(DataSettings(**data(scenes)), None, "object", 3)
    encode(network.backbone, items, how())
    modes = {name: module.training for name, module in network.named_modules()}
    assert [name for name, training in modes.items() if not training] == ["backbone.bn1"]


def test_broken_image__is_left_out(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(scenes, tmp_path / "set")
    chosen = DataSettings(**data(tmp_path / "set"))
    looking = KnnProbe(ProbeSettings(data=chosen, k=5), encoder(), how(), 1)
    whole = looking(1)
    row = int(looking.bank.rows[-1])
    path = looking.bank.index.path(row)
    path.write_bytes(path.read_bytes()[:200])
    kept = looking(2)
    assert kept.keys() == whole.keys()
    assert f"the probe leaves {path} out" in caplog.text
    for image in {str(looking.queries.index.path(int(row))) for row in looking.queries.rows}:
        Path(image).write_bytes(b"")
    assert looking(3) == {}
    assert "none of the probe's images can be read" in caplog.text


def test_missing_images__are_found_at_the_start(scenes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "set"
    shutil.copytree(scenes, copy)
    chosen = DataSettings(**data(copy))
    open_index(chosen)
    shutil.rmtree(copy / "train")  # the index stays
    with pytest.raises(InputError, match=r"probe\.data: .*000\d+\.jpg: cannot be read: No such"):
        KnnProbe(ProbeSettings(data=chosen), encoder(), how(), 1)


def test_pack__gives_the_images(scenes: Path, tmp_path: Path) -> None:
    import hcl

    chosen = data(scenes)
    choose_items(DataSettings(**chosen), None, "object", 5)  # builds the index
    packed = str(tmp_path / "pack")
    assert hcl.main(["data", "pack", chosen["index"], packed, "--workers", "1"]) == 0
    items, _ = choose_items(DataSettings(**chosen), None, "object", 10)
    from_pack, _ = choose_items(DataSettings(**chosen, pack=packed), None, "object", 10)
    assert from_pack.pack is not None
    expected, _ = encode(encoder().backbone, items, how())
    found, _ = encode(encoder().backbone, from_pack, how())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_faults_of_the_settings__are_named(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing key 'probe\.data\.images'"):
        settings(scenes, tmp_path, probe={"data": {"annotations": "x.json"}})
    with pytest.raises(InputError, match=r"'probe\.temperature'"):
        settings(scenes, tmp_path, probe=probe(scenes, temperature=0))
